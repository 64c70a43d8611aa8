import dataclasses
import io
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from measured import tuning

from engine.run.tuning.choice import Tuning
from engine.view.tuning import print_tuning, rate_text
from engine.view.tuning_picture import draw_tuning, rate_label


def printed(found: Tuning) -> list[str]:
    stream = io.StringIO()
    print_tuning(found, [Path("tune/job.toml")], stream)
    return stream.getvalue().splitlines()


def test_the_table_has_a_row_for_each_setting() -> None:
    lines = printed(tuning())
    assert lines[0] == "float32, as the graph is"
    assert lines[1].split() == [
        *("actors", "x", "threads", "batch", "rows/s", "of", "the", "limit"),
        *("peak", "memory", "load", "first", "call"),
    ]
    assert lines[2].split()[:6] == ["2", "x", "1", "256", "900,000", "68%"]
    assert lines[2].endswith("auto")
    assert lines[3].endswith("<- best")
    assert lines[4].startswith("1 x 2")
    assert lines[4].endswith("auto")


def test_the_drift_is_beside_the_rate() -> None:
    lines = printed(tuning())
    row = next(line for line in lines if line.startswith("bfloat16"))
    assert row.split()[:5] == ["bfloat16", "off", "512", "1,500,000", "75%"]
    assert row.split()[-5:] == ["0.0031", "0.0012", "0.08", "0.02", "0.025%"]


def test_the_verdict_says_how_far_a_job_without_options_is_behind() -> None:
    text = "\n".join(printed(tuning()))
    assert "default   2 actors x 1 thread, batches of 256 (auto): 10% behind the best" in text
    assert "faster    bfloat16, batches of 512: +50%, with the drift above" in text
    assert "failed    2 actors x 1 thread, float32, batches of 1,024: a process was killed" in text
    assert "left out  float16: no float16 on CPUs" in text
    assert "left out  bfloat16 with XLA, batches of 512: no time was left" in text
    assert "written   tune/job.toml" in text
    assert "(auto): the best" in "\n".join(printed(tuning(auto_rate=1_000_000.0)))


def test_what_was_not_measured_is_said() -> None:
    found = tuning()
    rows = tuple(each for each in found.measurements if each.batch_rows != 256)
    text = "\n".join(printed(dataclasses.replace(found, measurements=rows, costs=None)))
    assert "batches of 256 (auto): not measured" in text


@pytest.mark.parametrize(("rate", "text", "label"), [(1234567.8, "1,234,568", "1.23M"), (12.34, "12.3", "12.3")])
def test_rates(rate: float, text: str, label: str) -> None:
    assert (rate_text(rate), rate_label(rate)) == (text, label)


def test_the_picture_holds_its_labels_as_text() -> None:
    drawn = draw_tuning(tuning())
    texts = "\n".join(ET.fromstring(drawn).itertext())
    for label in ("2 actors x 1 thread", "1 actor x 2 threads", "rows per graph call", "auto: 256", "512", "best",
                  "bfloat16", "float32 with XLA", "max. difference 3.1e-03, argmax 0.03%", "net.pb"):  # fmt: skip
        assert label in texts
    assert drawn == draw_tuning(tuning())


def test_one_figure_makes_a_picture_too() -> None:
    found = tuning()
    alone = dataclasses.replace(found, measurements=found.measurements[1:2], costs=None)
    assert "rows per second" in draw_tuning(alone)
