"""What is aimed at, judged on medians: met, or missed by how much. Start at `judge`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from workloads import WORKLOADS

MARGINAL_RATIO = 5.0
LARGE_IMAGES_RATIO = 1.5
MEMORY_RATIO = 0.5
Medians = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Verdict:
    """A target and what was found."""

    target: str
    """What is aimed at, in words."""
    found: float
    """The figure."""
    aim: float
    """What it should be at least; at most where `is_most`."""
    is_most: bool = False
    """Whether less is better."""

    @property
    def is_met(self) -> bool:
        """Whether it is reached."""
        return self.found <= self.aim if self.is_most else self.found >= self.aim

    def __str__(self) -> str:
        """Say it in a line."""
        sign = "<=" if self.is_most else ">="
        off = "met" if self.is_met else f"MISSED by {abs(self.found - self.aim) / self.aim:.0%}"
        return f"{self.target}: {self.found:.2f} ({sign} {self.aim:g}) {off}"


def marginal_rates(medians: Medians, kind: str, contestant: str) -> float | None:
    """Return rows added per second added in total time, from the small to the large workload of a kind."""
    small, large = medians.get(kind), medians.get(f"{kind} 10M")
    if small is None or large is None:
        return None
    seconds = large[contestant]["total_seconds"] - small[contestant]["total_seconds"]
    return (large["rows"] - small["rows"]) / seconds if seconds > 0 else float("inf")


def judge(medians: Medians) -> Iterator[Verdict]:
    """Judge the medians of each workload, as `efficiency.summarise` makes them."""
    for name, found in medians.items():
        yield Verdict(f"{name}: efficiency", found["efficiency"], WORKLOADS[name].target)
        ratio = found["icefloe"]["total_seconds"] / found["ray_data"]["total_seconds"]
        yield Verdict(f"{name}: total seconds against ray_data", ratio, 1.0, is_most=True)
    for kind in ("tabular", "wide"):
        ours, theirs = (marginal_rates(medians, kind, who) for who in ("icefloe", "ray_data"))
        if ours and theirs:
            yield Verdict(f"{kind}: marginal rate against ray_data", ours / theirs, MARGINAL_RATIO)
    if found := medians.get("large images"):
        ratio = found["icefloe"]["rows_per_second"] / found["ray_data"]["rows_per_second"]
        yield Verdict("large images: rows/s against ray_data", ratio, LARGE_IMAGES_RATIO)
        ratio = found["icefloe"]["peak_bytes"] / found["ray_data"]["peak_bytes"]
        yield Verdict("large images: peak memory against ray_data", ratio, MEMORY_RATIO, is_most=True)
