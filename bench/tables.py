"""The medians as Markdown, as docs/performance.md shows them.

`python bench/tables.py RESULTS.json`; start at `render`.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from targets import judge, marginal_rates

MIB = 2**20
COUNTS = (("M", 1_000_000), ("k", 1_000), ("", 1))
WHO = {"loop": "loop", "ray_data": "Ray Data", "icefloe": "icefloe"}


def short(rate: float) -> str:
    """Return a rate in three digits."""
    suffix, unit = next(((suffix, unit) for suffix, unit in COUNTS if rate >= unit), COUNTS[-1])
    return f"{rate / unit:.3g}{suffix}"


def main_table(medians: Mapping[str, Any]) -> Iterator[str]:
    """Lines of rates: the limit, each contestant, and ratios."""
    yield "| workload | rows | limit | loop | Ray Data | icefloe | efficiency | against Ray Data | against the loop |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, found in medians.items():
        limit = found["rows"] / found["limit_seconds"]
        loop, ray_data, ours = (found[who]["rows_per_second"] for who in WHO)
        rates = " | ".join(map(short, (limit, loop, ray_data, ours)))
        ratios = f"{found['efficiency']:.0%} | x {ours / ray_data:.2f} | x {ours / loop:.2f}"
        yield f"| {name} | {found['rows']:,} | {rates} | {ratios} |"


def cost_table(medians: Mapping[str, Any]) -> Iterator[str]:
    """Lines of seconds and memory, each of the loop, Ray Data and icefloe, and ours against theirs."""
    yield (
        "| workload | total s: loop, Ray Data, icefloe | against the loop, Ray Data | first part s "
        "| Ray's start s: Ray Data, icefloe | peak MiB | against the loop, Ray Data |"
    )
    yield "|---|---|---|---|---|---|---|"
    for name, found in medians.items():
        seconds, firsts, peaks = (
            [found[who][figure] for who in WHO] for figure in ("total_seconds", "first_part_seconds", "peak_bytes")
        )
        cells = [
            ", ".join(f"{each:.1f}" for each in seconds),
            ", ".join(f"x {seconds[-1] / each:.2f}" for each in seconds[:-1]),
            ", ".join(f"{each:.1f}" for each in firsts),
            ", ".join(f"{found[who]['ray_seconds']:.1f}" for who in ("ray_data", "icefloe")),
            ", ".join(f"{each / MIB:,.0f}" for each in peaks),
            ", ".join(f"x {peaks[-1] / each:.2f}" for each in peaks[:-1]),
        ]
        yield f"| {name} | {' | '.join(cells)} |"


def marginal_table(medians: Mapping[str, Any]) -> Iterator[str]:
    """Lines of rows added per second added."""
    rates = {
        kind: [marginal_rates(medians, kind, who) for who in WHO]
        for kind in ("tabular", "wide")
        if f"{kind} 10M" in medians and kind in medians
    }
    if rates:
        yield "| rows added per second added, 2M to 10M | loop | Ray Data | icefloe | against Ray Data |"
        yield "|---|---|---|---|---|"
    for kind, (loop, ray_data, ours) in rates.items():
        yield f"| {kind} | {short(loop)} | {short(ray_data)} | {short(ours)} | x {ours / ray_data:.1f} |"


def render(results: Mapping[str, Any]) -> str:
    """Return everything as text."""
    medians, machine = results["medians"], results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    memory = f"{machine['memory_bytes'] / 2**30:.0f} GiB"
    lines = [f"{results['date']}: {machine['cpu']}, {machine['cores']} cores, {memory}; {versions}."]
    lines[0] += f" Medians of {results['rounds']}; rows per second in the scoring phase."
    for table in (main_table, cost_table, marginal_table):
        rows = list(table(medians))
        lines += ["", *rows] if rows else []
    return "\n".join([*lines, "", *(f"- {verdict}" for verdict in judge(medians)), ""])


if __name__ == "__main__":
    sys.stdout.write(render(json.loads(Path(sys.argv[1]).read_text())))
