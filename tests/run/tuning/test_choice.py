import dataclasses
import json
import math

import pytest
from measured import DRIFT, ONE, TWO, measured, tuning

from engine.run.tuning.settings import Setting


def test_the_best_computes_the_graph_as_it_is() -> None:
    found = tuning()
    assert (found.best.setting, found.best.batch_rows) == (Setting(TWO), 512)
    assert found.by_default is found.measurements[1]


def test_the_default_stays_where_others_are_faster_by_noise_alone() -> None:
    assert tuning(auto_rate=960_000.0).best.batch_rows == 256
    assert tuning(auto_rate=940_000.0).best.batch_rows == 512


def test_what_computes_otherwise_is_told_where_it_is_faster_for_sure() -> None:
    found = tuning()
    assert [each.setting.numbers for each in found.faster] == ["bfloat16"]
    assert found.gain(found.faster[0]) == pytest.approx(0.5)
    assert tuning(bfloat16_rate=1_000_000.0).faster == ()


def test_only_the_best_batch_of_a_way_to_compute_is_told() -> None:
    found = tuning()
    more = measured(Setting(TWO, "bfloat16"), 256, 1_600_000.0, DRIFT)
    found = dataclasses.replace(found, measurements=(*found.measurements, more))
    assert [each.batch_rows for each in found.faster] == [256]


def test_efficiency_is_a_share_of_the_same_work_without_waiting() -> None:
    found = tuning()
    assert found.efficiency(found.best) == pytest.approx(1_000_000 * (2e-7 + 3e-7 + 1e-6) / 2)
    assert found.efficiency(found.measurements[3]) == pytest.approx(1_500_000 * (2e-7 + 3e-7 + 5e-7) / 2)
    assert dataclasses.replace(found, costs=None).efficiency(found.best) is None


def test_the_limit_is_that_of_one_thread_where_one_was_measured() -> None:
    found = tuning()
    quick = measured(Setting(ONE), 512, 1.0, session_seconds=1e-9)  # two threads: no measure of one thread's work
    with_quick = dataclasses.replace(found, measurements=(*found.measurements, quick))
    assert with_quick.limit(found.best) == found.limit(found.best)


def test_the_document_is_json() -> None:
    found = tuning()
    odd = measured(Setting(TWO, "float16"), 512, 1.0, dataclasses.replace(DRIFT, max_absolute=math.inf))
    document = dataclasses.replace(found, measurements=(*found.measurements, odd)).to_json()
    read = json.loads(json.dumps(document, allow_nan=False))
    assert read["best"]["batch_rows"] == 512
    assert read["default_behind"] == pytest.approx(0.1)
    assert [each["is_auto"] for each in read["measurements"]] == [True, True, False, False, False, False]
    assert read["measurements"][3]["drift"]["prediction"]["argmax_changed"] == 0.00025
    assert read["measurements"][5]["drift"]["prediction"]["max_absolute"] is None
    assert read["faster"][0]["setting"]["precision"] == "bfloat16"
