import re
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import wait_for
from descriptions import calling
from google.protobuf import text_format
from graphs import constant, graph, linear, node, placeholder
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.graph_pb2 import GraphDef

from engine.errors import ConfigError
from engine.model.describing.slim import without_weights
from engine.model.describing.tensorboard_log import write_graph_log
from engine.model.graphdef import graph_of


def heavy() -> GraphDef:
    """A megabyte of weights, at the top and in a function."""
    made = graph(
        *linear().node,
        constant("big", np.random.default_rng(0).normal(size=(512, 512)).astype(np.float32)),
        node("z", "Mul", "prediction", "big", T="float32"),
        *calling().node,
    )
    made.library.CopyFrom(calling().library)
    made.library.function[0].node_def.append(constant("inner", np.ones((300, 300), np.float32)))
    made.library.gradient.add(function_name="body", gradient_func="spare")
    return made


def test_large_constants_lose_their_values_and_nothing_else() -> None:
    made = heavy()
    before = made.SerializeToString(deterministic=True)
    slim = without_weights(made)
    assert made.SerializeToString(deterministic=True) == before
    assert slim.ByteSize() < 5000
    assert [each.name for each in slim.node] == [each.name for each in made.node]
    for each, own in zip(slim.node, made.node, strict=True):
        if each.name == "big":
            assert (each.op, each.attr["dtype"].type) == ("Const", 1)
            assert each.attr["value"].tensor.tensor_shape == own.attr["value"].tensor.tensor_shape
            assert not each.attr["value"].tensor.tensor_content
        else:
            assert each == own
    body, own_body = slim.library.function[0], made.library.function[0]
    assert (body.signature, dict(body.ret)) == (own_body.signature, dict(own_body.ret))
    assert [each.name for each in body.node_def] == [each.name for each in own_body.node_def]
    assert slim.library.gradient == made.library.gradient
    assert slim.versions == made.versions


def test_long_texts_are_weights_as_well() -> None:
    texts = node("words", "Const", dtype="string")
    texts.attr["value"].tensor.string_val.extend([b"word"] * 2000)
    assert without_weights(graph(texts)).ByteSize() < 200


def test_for_an_import_placeholders_stand_for_large_constants() -> None:
    slim = without_weights(heavy(), ["big", "weights"], is_for_import=True)
    assert [(each.name, each.op) for each in slim.node] == [("weights", "Const"), ("big", "Placeholder")]
    assert [dim.size for dim in slim.node[1].attr["shape"].shape.dim] == [512, 512]


@pytest.mark.parametrize("op", ["Const", "Placeholder"])
def test_nodes_without_their_attributes_are_copied_as_they_are(op: str) -> None:
    wrong = node("wrong", op, dtype="float32")
    wrong.attr["value"].i = 7
    made = graph(node("bare", op), wrong)
    assert list(without_weights(made).node) == list(made.node)


def test_the_log_holds_the_graph(tmp_path: Path) -> None:
    path = write_graph_log(graph_of("m.pb", heavy()), str(tmp_path / "new" / "logs"))
    assert Path(path).stat().st_size < 6000
    first, second = records(Path(path).read_bytes())
    assert Event.FromString(first).file_version == "brain.Event:2"
    assert GraphDef.FromString(Event.FromString(second).graph_def) == without_weights(heavy())


def records(data: bytes) -> Iterator[bytes]:
    """Take the records of an event file apart: length, its checksum, the record, its checksum."""
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        yield data[12 : 12 + size]
        data = data[16 + size :]


def test_writing_it_imports_no_tensorflow(tmp_path: Path) -> None:
    code = (
        "import sys; from engine.model.describing.tensorboard_log import write_graph_log; "
        "from engine.model.graphdef import graph_of; from engine.model.protos import GraphDef; "
        f"write_graph_log(graph_of('m', GraphDef()), {str(tmp_path)!r}); print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--tensorboard .*/file/logs: cannot be written"):
        write_graph_log(graph_of("m.pb", linear()), str(tmp_path / "file" / "logs"))
    with pytest.raises(ConfigError, match="a Keras file holds no graph"):
        write_graph_log(None, str(tmp_path))


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A TensorBoard on loopback that shows `tmp_path / "logs"`."""
    log = tmp_path / "tensorboard.log"
    words = ["--logdir", str(tmp_path / "logs"), "--host", "127.0.0.1", "--port", "0", "--load_fast", "false"]
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "tensorboard.main", *words], stdout=file, stderr=file)
    pattern = re.compile(r"at (http://127\.0\.0\.1:\d+)/")
    try:
        wait_for(lambda: process.poll() is not None or pattern.search(log.read_text()) is not None)
        found = pattern.search(log.read_text())
        assert found, log.read_text()
        yield found[1]
    finally:
        process.terminate()
        process.wait(timeout=30)


def get(url: str, seconds: float = 60) -> bytes:
    """Ask until TensorBoard has read the log."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


@pytest.mark.tf
def test_tensorboard_opens_it(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    made = graph(placeholder("x", "float32", [None, 4]), *heavy().node[1:])
    write_graph_log(graph_of("m.pb", made), str(tmp_path / "logs"))
    address = request.getfixturevalue("address")
    shown = GraphDef()
    text = get(f"{address}/data/plugin/graphs/graph?run=.&conceptual=false&limit_attr_size=1024&large_attrs_key=_large")
    text_format.Parse(text.decode(), shown)
    assert [each.name for each in shown.node] == [each.name for each in made.node]
    assert b'"run_graph": true' in get(f"{address}/data/plugin/graphs/info")
