"""Draws docs/architecture.svg from what the code imports: rooms as boxes, each above all that it rests on.

A room is a package or a module right below `engine`, or `jobs`. An arrow is an import; one that other arrows imply is
left out. What is drawn is kept in the picture as JSON, which a test compares. Run it with `make docs`; start at
`read_house`.
"""

import ast
import itertools
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "architecture.svg"
House = dict[str, dict[str, list[str]]]

LETTER, LINE, PADDING, GAP, BETWEEN_ROWS = 6.3, 15, 10, 22, 46
WRAP_LETTERS = 27
PASSING_WIDTH = 14.0
SWEEPS, TRIES = 40, 200
COLOURS = {"jobs": "#fde9c9", "engine.run": "#dbe9fb", "engine.model": "#dff3e1", "engine.data": "#f6e0f0"}


def room_of(module: str) -> str:
    """Return the room of a module, or "" for what is not ours or no room."""
    parts = module.split(".")
    return {"engine": ".".join(parts[:2]) if parts[1:] else "", "jobs": "jobs"}.get(parts[0], "")


def imported(path: Path) -> Iterator[str]:
    """Yield what a module imports when it runs: not for types alone."""
    todo: list[ast.AST] = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        todo.extend(ast.iter_child_nodes(node))


def read_house() -> House:
    """Return each room with its idea, the folders in it, and the rooms that it imports."""
    found: House = {}
    rests: dict[str, set[str]] = {}
    for path in sorted([*(ROOT / "engine").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = room_of(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
        if not name:
            continue
        entry = found.setdefault(name, {"idea": [], "folders": [], "imports": []})
        if ".".join(parts) in (name, f"{name}.__init__"):
            idea = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].replace("\n", " ")
            entry["idea"] = [re.split(r"[.;](?: |$)| \(", idea)[0]]
        if parts[-1] == "__init__" and len(parts) > len(name.split(".")) + 1:
            entry["folders"].append(parts[-2])
        rests.setdefault(name, set()).update(map(room_of, imported(path)))
    for name, below in rests.items():
        found[name]["imports"] = sorted((below & found.keys()) - {name})
    return found


def reach(house: House, name: str) -> set[str]:
    """Return all rooms below a room."""
    below = set(house[name]["imports"])
    return below.union(*(reach(house, each) for each in below)) if below else below


def direct(house: House, name: str) -> list[str]:
    """Return the rooms right below a room: those that none of the others reaches."""
    below = house[name]["imports"]
    return [each for each in below if not any(each in reach(house, other) for other in below)]


def heights(house: House) -> dict[str, int]:
    """Return how many floors lie below each room."""
    found: dict[str, int] = {}

    def height(name: str) -> int:
        if name not in found:
            found[name] = 1 + max((height(each) for each in house[name]["imports"]), default=-1)
        return found[name]

    return {name: height(name) for name in house}


def box_lines(name: str, room: dict[str, list[str]]) -> list[str]:
    """Return a box's lines: name, idea, folders."""
    folders = textwrap.wrap(" ".join(f"{each}/" for each in room["folders"]), WRAP_LETTERS)
    return [
        name.removeprefix("engine."),
        *textwrap.wrap(room["idea"][0], WRAP_LETTERS, break_long_words=False),
        *folders,
    ]


def lay_out(house: House) -> tuple[list[list[str]], list[list[str]]]:
    """Return the rows from the top, and each arrow as its stops, some of them between rooms."""
    floor = heights(house)
    rows: list[list[str]] = [[] for _ in range(max(floor.values()) + 1)]
    for name in house:
        rows[floor[name]].append(name)
    arrows = []
    for name in house:
        for below in direct(house, name):
            stops = [f"{name}>{below}>{at}" for at in range(floor[name] - 1, floor[below], -1)]
            for at, stop in zip(range(floor[name] - 1, floor[below], -1), stops, strict=True):
                rows[at].append(stop)
            arrows.append([name, *stops, below])
    ties = [tie for stops in arrows for tie in itertools.pairwise(stops)]
    return min((_untangled(rows, ties, seed) for seed in range(TRIES)), key=lambda tried: _tangle(tried, ties))[
        ::-1
    ], arrows


def _untangled(rows: list[list[str]], ties: list[tuple[str, str]], seed: int) -> list[list[str]]:
    """Return the rows, each room moved to the middle of those that it is tied to, from below and from above in turn."""
    near: dict[str, set[str]] = {}
    for upper, lower in ties:
        near.setdefault(upper, set()).add(lower)
        near.setdefault(lower, set()).add(upper)
    random = Random(seed)
    rows = [random.sample(row, len(row)) for row in rows]
    for sweep in range(SWEEPS):
        place = _places(rows)
        for row in rows if sweep % 2 else rows[::-1]:
            tied = {name: near.get(name, {name}) for name in row}
            middle = {name: sum(place[each] for each in tied[name]) / len(tied[name]) for name in row}
            row.sort(key=lambda name: (middle[name], name))
            place.update(_places([row]))
    return rows


def _places(rows: list[list[str]]) -> dict[str, float]:
    return {name: (at + 0.5) / len(row) for row in rows for at, name in enumerate(row)}


def _tangle(rows: list[list[str]], ties: list[tuple[str, str]]) -> tuple[int, float]:
    """Return how many arrows cross, and how far they go sideways."""
    place, floor = _places(rows), {name: at for at, row in enumerate(rows) for name in row}
    crossings = sum(
        floor[one[0]] == floor[two[0]] and (place[one[0]] - place[two[0]]) * (place[one[1]] - place[two[1]]) < 0
        for one, two in itertools.combinations(ties, 2)
    )
    return crossings, sum(abs(place[upper] - place[lower]) for upper, lower in ties)


def draw(house: House) -> str:
    """Return the picture."""
    rows, arrows = lay_out(house)
    lines = {name: box_lines(name, room) for name, room in house.items()}
    wide = {name: max(map(len, texts)) * LETTER + 2 * PADDING for name, texts in lines.items()}
    row_widths = [sum(wide.get(name, PASSING_WIDTH) + GAP for name in row) - GAP for row in rows]
    width = max(row_widths) + 2 * GAP
    y, boxes = float(GAP), {}
    for row, row_width in zip(rows, row_widths, strict=True):
        tall = max(len(lines[name]) for name in row if name in lines) * LINE + 2 * PADDING
        spare = (width - 2 * GAP - row_width) / (len(row) + 1)
        x = GAP + spare
        for name in row:
            own = len(lines[name]) * LINE + 2 * PADDING if name in lines else tall
            boxes[name] = (x, y + (tall - own) / 2, wide.get(name, PASSING_WIDTH), own)
            x += boxes[name][2] + GAP + spare
        y += tall + BETWEEN_ROWS
    shapes = [_arrow([boxes[stop] for stop in stops]) for stops in arrows]
    shapes += [_box(name, *boxes[name], lines[name]) for name in house]
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {y - BETWEEN_ROWS + GAP:.0f}" \
font-family="Helvetica, Arial, sans-serif" font-size="12">
<desc>{json.dumps(house)}</desc>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">\
<path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>
<rect width="100%" height="100%" fill="#fff"/>
{chr(10).join(shapes)}
</svg>
"""


def _arrow(boxes: list[tuple[float, float, float, float]]) -> str:
    (x, y, wide, tall), *others = boxes
    path = f"M{x + wide / 2:.0f} {y + tall:.0f}"
    x, y = x + wide / 2, y + tall
    for at, (left, top, wide, tall) in enumerate(others):
        middle, bend = left + wide / 2, (top - y) / 2
        path += f"C{x:.0f} {y + bend:.0f} {middle:.0f} {top - bend:.0f} {middle:.0f} {top:.0f}"
        if at < len(others) - 1:
            path += f"V{top + tall:.0f}"
        x, y = middle, top + tall
    return f'<path d="{path}" fill="none" stroke="#777" stroke-width="1.3" marker-end="url(#tip)"/>'


def _box(name: str, x: float, y: float, wide: float, tall: float, lines: list[str]) -> str:
    colour = COLOURS.get(name, "#f3f3f0")
    shape = (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{wide:.0f}" height="{tall:.0f}" rx="5" fill="{colour}" stroke="#555"/>'
    )
    texts = []
    for at, line in enumerate(lines):
        style = ' font-weight="bold"' if at == 0 else ' font-style="italic"' if line.endswith("/") else ""
        place = f'x="{x + wide / 2:.0f}" y="{y + PADDING + (at + 0.75) * LINE:.0f}"'
        texts.append(f'<text {place} text-anchor="middle"{style}>{line.replace("&", "&amp;")}</text>')
    return shape + "".join(texts)


def drawn_house() -> House:
    """Return what the picture that is there was drawn from."""
    found = re.search(r"<desc>(.*?)</desc>", PICTURE.read_text(), re.DOTALL)
    return dict(json.loads(found[1])) if found else {}


if __name__ == "__main__":
    PICTURE.write_text(draw(read_house()))
