"""The report in a real browser: it opens without a network, reads well in both schemes and widths, and runs nothing."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from browser import Browser, open_browser
from selenium.webdriver.common.keys import Keys
from told_jobs import Timeline, big_spans, scored_table, write_job

from engine.view.report import write_report

pytestmark = pytest.mark.browser

NASTY = ("<script>window.ran = 1</script>", '"><img src=x onerror="window.ran = 1">', "a $b$ & <i onclick='ran = 1'>")
SECONDS = 2.0
VISIBLE = """
const found = [];
for (const each of document.querySelectorAll('.chart')) {
  const box = each.getBoundingClientRect();
  found.push([box.width, box.height, each.querySelectorAll('path').length]);
}
return found;
"""
# Texts of a chart that lie on another one or leave it; ticks of one axis are those that come too near.
OVERLAPS = """
const found = [];
for (const chart of document.querySelectorAll('.chart')) {
  const whole = chart.getBoundingClientRect();
  const texts = [...chart.querySelectorAll('text')].map(each => [each.textContent, each.getBoundingClientRect()]);
  texts.forEach(([text, box], i) => {
    if (box.left < whole.left - 2 || box.right > whole.right + 2) found.push(['outside', text]);
    for (const [other, theirs] of texts.slice(i + 1)) {
      const width = Math.min(box.right, theirs.right) - Math.max(box.left, theirs.left);
      const height = Math.min(box.bottom, theirs.bottom) - Math.max(box.top, theirs.top);
      if (width > 1 && height > 3) found.push([text, other]);
    }
  });
}
return found;
"""
# Contrast of every text that is shown with what lies behind it.
CONTRAST = """
const parse = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 || n[3] > 0 ? n : null; };
const light = ([r, g, b]) => [r, g, b].map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const found = [];
for (const each of document.querySelectorAll('body *')) {
  const own = [...each.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
  if (!own || !each.checkVisibility()) continue;
  const inChart = each.closest('svg') !== null;
  const ink = parse(getComputedStyle(each)[inChart ? 'fill' : 'color']);
  let paper = null;
  for (let up = each; up && !paper; up = up.parentElement) paper = parse(getComputedStyle(up).backgroundColor);
  const [a, b] = [light(ink), light(paper || [255, 255, 255])];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) found.push([each.textContent.slice(0, 40), ratio]);
}
return found;
"""
COLOURS = """
const style = each => getComputedStyle(each);
return [style(document.body).backgroundColor, style(document.body).color,
        style(document.querySelector('.chart text')).fill,
        ...[...document.querySelectorAll('.legend i')].slice(0, 3).map(each => style(each).backgroundColor)];
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four actors, one of them lost, with bad rows, three kinds of columns, and names that try to break out."""
    table = scored_table(2000).append_column(NASTY[1], pa.array(list(NASTY[:2]) * 1000))
    bad = {"Null": [{"id": 1, NASTY[0]: NASTY[1]}] * 5, NASTY[0]: [{"id": 2, NASTY[0]: NASTY[1]}] * 12}
    spans = Timeline(4, 60, lost=(2,), seconds=5.0, node=NASTY[1] + "{}", message=NASTY[0]).make()
    ledger = write_job(tmp_path_factory.mktemp("small") / "out", table, spans, bad=bad, config={"where": list(NASTY)},
                       fetch=("prediction", "score", "label", NASTY[1]))  # fmt: skip
    return Path(write_report(ledger.folder))


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 actors, 10,000 shards, two runs, a dozen columns."""
    table = scored_table(20_000)
    chance = np.random.default_rng(0)
    for number in range(10):
        table = table.append_column(
            f"more_{number}", pa.array(chance.normal(size=len(table)) * 10.0 ** (number * 3 - 9))
        )
    names = ("prediction", "score", "label", *(f"more_{number}" for number in range(10)))
    ledger = write_job(tmp_path_factory.mktemp("big") / "out", table, big_spans(), num_parts=100, fetch=names)
    return Path(write_report(ledger.folder))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["small", "big"])
def test_it_is_drawn_and_fits(
    browser: Browser, request: pytest.FixtureRequest, name: str, width: int, scheme: str
) -> None:
    path: Path = request.getfixturevalue(name)
    browser.open(path, width=width, scheme=scheme)
    assert browser.console() == []
    assert browser.requests() == [path.as_uri()]
    charts = browser.run(VISIBLE)
    assert len(charts) >= 10
    for chart_width, height, num_paths in charts:
        assert 300 < chart_width <= min(width, 580)
        assert height > 60
        assert num_paths > 4
    assert browser.run("return document.documentElement.scrollWidth") == width
    assert browser.run(OVERLAPS) == []
    assert browser.run("document.querySelectorAll('details').forEach(each => each.open = true)") is None
    assert browser.run("return document.documentElement.scrollWidth") == width
    assert browser.run(CONTRAST) == []


def test_nothing_of_the_data_runs(browser: Browser, small: Path) -> None:
    browser.open(small)
    browser.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    time.sleep(0.2)
    assert browser.run("return window.ran") is None
    assert browser.run("return document.querySelectorAll('script, img, main i:not([class]), [onclick]').length") == 0
    for name in NASTY:
        assert browser.run("return document.body.innerText.includes(arguments[0])".replace("arguments[0]", repr(name)))


def test_a_big_job_opens_in_no_time(browser: Browser, big: Path) -> None:
    browser.open(big)
    timing = "const [it] = performance.getEntriesByType('navigation'); return it.loadEventEnd - it.startTime"
    assert 0 < browser.run(timing) < SECONDS * 1000


def test_links_lead_to_their_sections(browser: Browser, small: Path) -> None:
    browser.open(small, width=390)
    browser.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    links = browser.run("return [...document.querySelectorAll('nav a')].map(each => each.getAttribute('href'))")
    assert len(links) == 9
    for link in links:
        top, is_at_end = browser.run(f"""
            document.querySelector('nav a[href="{link}"]').click();
            return [document.querySelector('{link}').getBoundingClientRect().top,
                    innerHeight + scrollY >= document.documentElement.scrollHeight - 2];
        """)
        assert abs(top) < 40 or (is_at_end and 0 < top < 900), link


def test_everything_is_reached_by_keyboard(browser: Browser, small: Path) -> None:
    browser.open(small)
    wanted = browser.run("""
        const all = [...document.querySelectorAll('a, summary, input:checked, pre, .scroll')];
        all.forEach((each, index) => each.dataset.number = index);
        return all.filter(each => each.checkVisibility()).map(each => each.dataset.number);
    """)
    reached = []
    for _ in range(len(wanted) + 3):
        browser.press(Keys.TAB)
        reached.append(browser.run("return document.activeElement.dataset.number"))
    assert [each for each in reached if each is not None][: len(wanted)] == wanted


def test_a_table_opens_by_keyboard(browser: Browser, small: Path) -> None:
    browser.open(small)
    browser.run("document.querySelector('#actors summary').focus()")
    assert not browser.run("return document.querySelector('#actors details').open")
    browser.press(Keys.ENTER)
    assert browser.run("return document.querySelector('#actors details').open")
    shown = "return document.querySelector('#actors details table').getBoundingClientRect().height"
    assert browser.run(shown) > 50


def test_the_scheme_follows_the_reader_and_can_be_chosen(browser: Browser, small: Path) -> None:
    found = {}
    for scheme in ("light", "dark"):
        browser.open(small, scheme=scheme)
        found[scheme] = browser.run(COLOURS)
    assert all(a != b for a, b in zip(found["light"], found["dark"], strict=True))
    browser.run("document.querySelector('#scheme-auto').focus()")
    browser.press(Keys.ARROW_RIGHT)
    assert browser.run(COLOURS) == found["light"]
    browser.press(Keys.ARROW_RIGHT)
    assert browser.run(COLOURS) == found["dark"]


def test_paper_is_white(browser: Browser, small: Path) -> None:
    browser.open(small, scheme="dark")
    browser.command("Emulation.setEmulatedMedia", media="print",
                    features=[{"name": "prefers-color-scheme", "value": "dark"}])  # fmt: skip
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    browser.command("Emulation.setEmulatedMedia", media="")
