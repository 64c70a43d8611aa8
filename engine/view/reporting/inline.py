"""Turns a drawing of matplotlib into SVG that stands in a page: colours that follow its scheme, ids of its own, small.

Pure, on the tags alone: texts stay as they are. Start at `to_inline`.
"""

import re
from html import escape

# What a drawing is coloured with, and what the page's style calls that; each stands for one use.
COLOURS = {
    "score": "#0072b2",
    "convert": "#009e73",
    "write": "#e69f00",
    "read": "#56b4e9",
    "lost": "#d55e00",
    "load": "#cc79a7",
    "hand": "#8d99a6",
    "idle": "#e4e7eb",
    "ink": "#1b1f24",
    "soft": "#5b6570",
    "grid": "#dddddd",
}
_NAMES = {colour: name for name, colour in COLOURS.items()}
_USES = re.compile("|".join(COLOURS.values()), re.I)
_HEAD = re.compile(r"^.*?<svg [^>]*?viewBox=\"([^\"]*)\"[^>]*>", re.S)
# A style for all of the page, and who made it.
_EXTRAS = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>|<metadata>.*?</metadata>|<!--.*?-->", re.S)
_TAG = re.compile(r"<[^>]*>")
_ID = re.compile(r' id="([^"]*)"')
_REFERENCE = re.compile(r'(href="#|url\(#)([^")]+)')
# The page has a font of its own, and texts that are turned by nothing need not say so.
_TOO_MUCH = re.compile(r' transform="rotate\(-0 [^"]*"|font-family: [^;"]*;? ?|(?<=style=")font: (?=\d)|xlink:(?=href)')
_FONT = re.compile(r"(?<=style=\")([\d.]+px) [^;\"]*;?")
_DECIMALS = re.compile(r"\d+\.\d{2,}")
_GAPS = re.compile(r"\s*\n\s*")


def to_inline(svg: str, key: str, label: str) -> str:
    """Return the drawing `svg` as an element of a page.

    Args:
        svg: what matplotlib wrote, coloured with `COLOURS` alone, its texts escaped.
        key: begins its ids, so that those of several drawings differ.
        label: what it shows, for those who cannot see it.
    """
    head = _HEAD.match(svg)
    if head is None:
        raise ValueError("no drawing")
    body = _EXTRAS.sub("", svg[head.end() :])
    wanted = {found[1] for tag in _TAG.findall(body) for found in _REFERENCE.findall(tag)}
    body = _TAG.sub(lambda found: _tidy(found[0], key, wanted), _GAPS.sub("\n", body))
    body = body.replace(">\n<", "><").strip()
    return f'<svg class="chart" viewBox="{head[1]}" role="img" aria-label="{escape(label)}">{body}'


def _tidy(tag: str, key: str, wanted: set[str]) -> str:
    """Return a tag with the page's colours and font, the ids that something refers to, and short numbers."""
    tag = _USES.sub(lambda found: f"var(--{_NAMES[found[0].lower()]})", tag)
    tag = _FONT.sub(r"font-size: \1;", _TOO_MUCH.sub("", tag))
    tag = _ID.sub(lambda found: f' id="{key}-{found[1]}"' if found[1] in wanted else "", tag)
    tag = _REFERENCE.sub(rf"\g<1>{key}-\g<2>", tag)
    return _DECIMALS.sub(lambda found: f"{float(found[0]):.1f}", tag).replace("\n", "")
