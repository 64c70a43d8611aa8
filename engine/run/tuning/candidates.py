"""What is worth a try: ways to share a machine out, batch sizes, ways to compute. Pure.

Start at `list_layouts`, `next_batch` and `list_variants`.
"""

from collections.abc import Iterable, Mapping, Sequence

from engine.run.tuning.settings import FLOAT32, Layout, Machine

# Of the rate of the best: what lies below is no matter of noise, what lies within is.
CLEARLY_WORSE, WITHIN_NOISE = 0.85, 0.95
# Larger batches than these were never faster on MLP, CNN and ResNet50 graphs, and latency and memory grow with them.
MAX_BATCH_ROWS = 16_384
SWEEP = 16  # times the rows of `auto`, up and down
GPU_PARTS = (1, 2, 4)


def list_layouts(machine: Machine, gpu_share: float | None, cpus: float | None) -> list[Layout]:
    """Return the ways to share a machine out, those first that say most.

    On CPUs: one actor with all threads, for that one tells how much memory an actor takes; one thread each, the
    default of a job; then, by halves, what lies between. On GPUs: one actor a GPU, two, four.

    Args:
        machine: what there is.
        gpu_share: GPUs of an actor, where that is fixed.
        cpus: CPUs of an actor, where that is fixed.
    """
    if machine.gpus:
        shares = [1 / parts for parts in GPU_PARTS] if gpu_share is None else [gpu_share]
        counts = [max(1, int(machine.gpus / share + 1e-9)) for share in shares]
        return [
            Layout(actors, _threads(machine.cores / actors if cpus is None else cpus), share)
            for actors, share in zip(counts, shares, strict=True)
        ]
    if cpus is not None:
        return [Layout(max(1, int(machine.cores / cpus + 1e-9)), _threads(cpus))]
    counts, between = [1, machine.cores], machine.cores
    while between > 1:
        between = (between + 1) // 2
        counts.append(between)
    layouts = [Layout(actors, machine.cores // actors) for actors in dict.fromkeys(counts)]
    # A job fills a machine with actors of so many threads; with another number of them, cores would lie idle.
    return [each for each in layouts if machine.cores // each.threads == each.actors]


def _threads(cpus: float) -> int:
    return max(1, int(cpus))


def default_layout(layouts: Sequence[Layout]) -> Layout:
    """Return the layout that a job takes by itself: a GPU each, else a thread each."""
    if layouts[0].gpu_share:
        return layouts[0]
    return max(layouts, key=lambda each: each.actors)


def next_batch(rates: Mapping[int, float | None], auto_rows: int, max_rows: int) -> int | None:
    """Return the batch size to measure next; None where the sweep is done.

    Begins with `auto_rows`, goes down from there by powers of two, then up: peak memory never shrinks. A direction ends
    at a size that could not be measured, at one that is clearly worse than the best, and where two in a row gained
    nothing. Where `auto_rows` could not be, smaller ones are tried until one can.

    Args:
        rates: rows per second by batch size, in the order of measurement; None where it failed.
        auto_rows: the job's own choice.
        max_rows: the largest to try; `auto_rows` is tried in any case.
    """
    if auto_rows not in rates:
        return auto_rows
    best = max((rate for rate in rates.values() if rate is not None), default=0.0)
    upward = _upward(auto_rows, max_rows) if rates[auto_rows] is not None else []
    for path in (_downward(auto_rows), upward):
        seen = [rates[auto_rows]]
        for batch_rows in path:
            if batch_rows not in rates:
                if any(seen) and _is_done(seen, best):
                    break
                return batch_rows
            seen = [*seen, rates[batch_rows]] if any(seen) else [rates[batch_rows]]
    return None


def _upward(auto_rows: int, max_rows: int) -> list[int]:
    powers = (1 << n for n in range(32))
    return [each for each in powers if auto_rows < each <= min(auto_rows * SWEEP, MAX_BATCH_ROWS, max_rows)]


def _downward(auto_rows: int) -> list[int]:
    powers = (1 << n for n in reversed(range(32)))
    return [each for each in powers if auto_rows / SWEEP <= each < auto_rows]


def _is_done(rates: Sequence[float | None], best: float) -> bool:
    """Whether a direction is not worth going on: `rates` are those on the way, from the first size on."""
    last = rates[-1]
    if last is None or last < CLEARLY_WORSE * best:
        return True
    two = [rate or 0.0 for rate in rates[-2:]]
    before = max((rate or 0.0 for rate in rates[:-2]), default=0.0)
    return len(rates) > len(two) and max(two) * WITHIN_NOISE <= before


def list_variants(precisions: Iterable[str], xla: Iterable[bool]) -> list[tuple[str, bool]]:
    """Return the ways to compute that are not float32 without XLA: what changes one thing first."""
    both = [(precision, compiled) for compiled in dict.fromkeys(xla) for precision in dict.fromkeys(precisions)]
    return sorted((each for each in both if each != (FLOAT32, False)), key=lambda each: (each[0] != FLOAT32) + each[1])
