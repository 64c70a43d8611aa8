"""Fewer bits: that values really are rounded, and what is said where they would not be."""

import numpy as np
import pytest
from graphs import constant, graph, identity, linear, node, placeholder

from engine.errors import ConfigError
from engine.model.precision import MISSING, REFUSALS, REWRITERS, TELLING, device_kind, lower_precision
from engine.model.session import ModelSession, SessionOptions, import_tensorflow, load_session
from engine.options import PRECISIONS

pytestmark = pytest.mark.tf

ROWS = np.random.default_rng(1).normal(size=(64, 4)).astype(np.float32)


def load(precision: str, data: bytes) -> ModelSession:
    options = SessionOptions(precision=precision)
    return load_session(data, ["inputs:0"], ["prediction:0"], {}, options=options)


def has_bfloat16() -> bool:
    tensorflow = import_tensorflow(0)
    try:
        lower_precision(tensorflow, tensorflow.compat.v1.ConfigProto(), "bfloat16", "CPU")
    except ConfigError:
        return False
    return True


def test_every_precision_is_computed_or_refused_on_every_device() -> None:
    pairs = {(precision, kind) for precision in PRECISIONS[1:] for kind in ("CPU", "GPU")}
    assert REWRITERS.keys() | REFUSALS.keys() == pairs
    assert not REWRITERS.keys() & REFUSALS.keys()
    assert MISSING.keys() == TELLING.keys() == set(PRECISIONS[1:])


def test_bfloat16_rounds_also_in_the_smallest_graph_and_keeps_the_dtype() -> None:
    if not has_bfloat16():
        pytest.skip("this CPU does not compute in bfloat16")
    data = linear(4, 3).SerializeToString()
    plain, lowered = load("float32", data).run({"inputs:0": ROWS})[0], load("bfloat16", data).run({"inputs:0": ROWS})[0]
    assert lowered.dtype == np.float32
    assert 1e-5 < np.abs(plain - lowered).max() < 3e-2


def test_a_graph_without_anything_to_round_is_as_it_was() -> None:
    if not has_bfloat16():
        pytest.skip("this CPU does not compute in bfloat16")
    data = identity("float32", [None, 4]).SerializeToString()
    np.testing.assert_array_equal(load("bfloat16", data).run({"inputs:0": ROWS})[0], ROWS)


def test_float16_on_a_cpu_is_refused_before_the_graph_is_looked_at() -> None:
    with pytest.raises(ConfigError) as caught:
        load("float16", b"\xff no graph")
    version = import_tensorflow(0).__version__
    assert str(caught.value) == (
        f"--precision float16: TensorFlow {version} computes float16 on CPUs only by rounding to it, which is slower "
        "than float32; type --precision bfloat16, or leave --precision out"
    )


def test_bfloat16_on_a_gpu_is_refused() -> None:
    tensorflow = import_tensorflow(0)
    with pytest.raises(ConfigError, match="to float16 alone on GPUs; type --precision float16, or leave"):
        lower_precision(tensorflow, tensorflow.compat.v1.ConfigProto(), "bfloat16", "GPU")


def test_a_rewriter_that_does_nothing_is_found_out() -> None:
    """A GPU too old for float16 is passed over by TensorFlow in silence, as is the CPU here."""
    tensorflow = import_tensorflow(0)
    if device_kind(tensorflow, 1) == "GPU":
        pytest.skip("there is a GPU")
    config = tensorflow.compat.v1.ConfigProto(device_count={"GPU": 0})
    with pytest.raises(ConfigError, match=r"does not compute in float16 on this GPU: it takes .* 7\.0 or newer; leave"):
        lower_precision(tensorflow, config, "float16", "GPU")


def test_a_layer_of_tables_and_sums_is_lowered_with_the_rest() -> None:
    if not has_bfloat16():
        pytest.skip("this CPU does not compute in bfloat16")
    made = graph(
        placeholder("inputs", "float32", [None, 4]),
        constant("w", np.full((4, 4), 1 / 3, np.float32)),
        constant("b", np.full(4, 1 / 7, np.float32)),
        node("m", "MatMul", "inputs", "w", T="float32"),
        node("a", "BiasAdd", "m", "b", T="float32"),
        node("r", "Relu", "a", T="float32"),
        node("n", "MatMul", "r", "w", T="float32"),
        node("prediction", "AddV2", "n", "a", T="float32"),
    ).SerializeToString()
    plain, lowered = load("float32", made).run({"inputs:0": ROWS})[0], load("bfloat16", made).run({"inputs:0": ROWS})[0]
    assert 0 < np.abs(plain - lowered).max() < 5e-2
