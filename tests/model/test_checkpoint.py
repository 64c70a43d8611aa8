import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trained
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.meta_graph_pb2 import MetaGraphDef

from engine.errors import DataError, GraphError
from engine.model.checkpoint import RestoredModel, restore_checkpoint, save_checkpoint
from engine.model.freezing.freeze import freeze_model
from engine.model.freezing.plan import FreezeOptions
from engine.model.graphdef import VARIABLES

pytestmark = pytest.mark.tf

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT.parent / "shared" / "cases"
PREDICTION = FreezeOptions(outputs=("prediction",))
FORMS = {
    "V2": {},
    "V2 in two files": {"sharded": True},
    "V1": {"write_version": 1},
    "V1 in two files": {"sharded": True, "write_version": 1},
}


class Saved:
    """Checkpoints of one trained regression in every form, and what it predicts."""

    def __init__(self, folder: Path) -> None:
        tf = trained.tensorflow()
        config = tf.compat.v1.ConfigProto(device_count={"CPU": 2})
        graph = tf.Graph()
        with graph.as_default(), tf.compat.v1.Session(graph=graph, config=config) as session:
            with graph.device(lambda node: f"/cpu:{int(node.name.startswith('w'))}"):
                trained.regression(use_resource=False)
            session.run(tf.compat.v1.global_variables_initializer())
            self.loss = trained.train(session, 20)
            self.prediction = session.run("prediction:0", {"inputs:0": trained.ROWS})
            for name, options in FORMS.items():
                (folder / name).mkdir()
                trained.save(session, folder / name / "model", **options)
        self.folder = folder

    def copy(self, form: str, folder: Path) -> Path:
        shutil.copytree(self.folder / form, folder, dirs_exist_ok=True)
        return folder / "model"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(tmp_path_factory.mktemp("saved"))


def load(path: Path | str) -> np.ndarray:
    with restore_checkpoint(str(path)) as model:
        return model.run("prediction", {"inputs": trained.ROWS})


def freeze(path: Path | str) -> np.ndarray:
    frozen = freeze_model(str(path), PREDICTION)
    assert not {node.op for node in GraphDef.FromString(frozen.data).node} & set(VARIABLES)
    assert frozen.comparison == "compared on 4 random rows: largest difference 0"
    return trained.score(frozen, {"inputs": trained.ROWS})[0]


READERS = pytest.mark.parametrize("read", [load, freeze])


@READERS
@pytest.mark.parametrize("form", FORMS)
def test_any_form_by_its_prefix_or_any_of_its_files(saved: Saved, form: str, read: Callable[..., np.ndarray]) -> None:
    paths = [path for path in (saved.folder / form).iterdir() if path.name != "checkpoint"]
    assert len(paths) == {"V2": 3, "V2 in two files": 4, "V1": 2, "V1 in two files": 3}[form]
    for path in {*paths, saved.folder / form / "model"}:
        np.testing.assert_array_equal(read(path), saved.prediction)


@READERS
@pytest.mark.parametrize("form", ["V2", "V2 in two files", "V1"])
def test_the_folder_or_its_checkpoint_file(saved: Saved, form: str, read: Callable[..., np.ndarray]) -> None:
    for path in (saved.folder / form, saved.folder / form / "checkpoint"):
        np.testing.assert_array_equal(read(path), saved.prediction)


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_freeze_to_the_same_bytes(saved: Saved, form: str) -> None:
    first, other = (freeze_model(str(saved.folder / each / "model"), PREDICTION) for each in ("V2", form))
    assert first.data == other.data


def test_saving_is_files_and_a_signature(tmp_path: Path) -> None:
    with trained.session() as (_, v1, session):
        prediction = trained.regression()
        session.run(v1.global_variables_initializer())
        prefix = save_checkpoint(session, str(tmp_path / "new" / "model"), {"rows": "inputs"}, [prediction])
    assert prefix == str(tmp_path / "new" / "model")
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {"checkpoint", "model.meta", "model.index", "model.data-00000-of-00001"}
    with restore_checkpoint(prefix) as model:
        assert model.inputs == {"rows": "inputs:0"}
        assert model.outputs == {"prediction": "prediction:0"}
        by_name = model.run("prediction", {"rows": trained.ROWS})
        np.testing.assert_array_equal(model.run(["prediction:0"], {"inputs:0": trained.ROWS})[0], by_name)
    frozen = freeze_model(prefix, FreezeOptions())
    assert [spec.name for spec in (*frozen.inputs, *frozen.outputs)] == ["inputs:0", "prediction:0"]


def test_names_that_are_not_there(tmp_path: Path, saved: Saved) -> None:
    with trained.session() as (_, v1, session):
        trained.regression()
        session.run(v1.global_variables_initializer())
        for ports in ((["input"], []), ([], {"y": "predicton:0"}), ([], ["train"])):
            with pytest.raises(GraphError, match="^the session's graph has no tensor (input|predicton:0|train)$"):
                save_checkpoint(session, str(tmp_path / "model"), *ports)
    with restore_checkpoint(str(saved.folder / "V2")) as model:
        with pytest.raises(GraphError, match="has no tensor predicton"):
            model.run("predicton", {"inputs": trained.ROWS})
        with pytest.raises(GraphError, match="has no tensor input"):
            model.run("prediction", {"input": trained.ROWS})
        with pytest.raises((GraphError, DataError)):
            model.run("prediction", {"inputs": trained.ROWS[:, :1]})


def test_a_session_that_cannot_be_saved(tmp_path: Path) -> None:
    with trained.session() as (tf, v1, session):
        tf.constant(1.0)
        with pytest.raises(GraphError, match="cannot save this session: No variables to save"):
            save_checkpoint(session, str(tmp_path / "none"))
    with trained.session() as (_, _, session):
        trained.regression()
        with pytest.raises(GraphError, match="cannot save this session: .*uninitialized"):
            save_checkpoint(session, str(tmp_path / "early"))
    assert not list(tmp_path.glob("*.meta"))


@pytest.mark.parametrize(("form", "times"), [("V2", 2), ("V1 in two files", 1)])
def test_training_goes_on_where_it_was_in_a_new_process(saved: Saved, form: str, times: int, tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
import trained
from engine.model.checkpoint import restore_checkpoint
with restore_checkpoint(sys.argv[1]) as model:
    print(trained.train(model.session, 1), trained.train(model.session, 10))
    model.save(sys.argv[2])
"""
    before = str(saved.folder / form / "model")
    losses = [saved.loss]
    for number in range(times):
        after = str(tmp_path / f"step{number}")
        done = subprocess.run(
            [sys.executable, "-c", code, before, after], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        losses += map(float, done.stdout.split())
        before = after
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[1] > losses[0] / 2  # the first step went on from the last loss, momentum and all
    assert losses[-1] < losses[0] / 10
    np.testing.assert_allclose(load(before), trained.LABELS, atol=0.1)


def test_saving_again_and_again_deletes_nothing(saved: Saved, tmp_path: Path) -> None:
    with restore_checkpoint(str(saved.folder / "V2")) as model:
        prefixes = [model.save(str(tmp_path / f"model-{number}")) for number in range(7)]
    assert all(Path(f"{prefix}.index").exists() and Path(f"{prefix}.meta").exists() for prefix in prefixes)
    np.testing.assert_array_equal(load(tmp_path), saved.prediction)  # its checkpoint file names the last


def test_two_checkpoints_live_side_by_side(saved: Saved) -> None:
    with restore_checkpoint(str(saved.folder / "V2")) as first, restore_checkpoint(str(saved.folder / "V1")) as second:
        assert first.graph is not second.graph
        trained.train(first.session, 30)
        np.testing.assert_array_equal(second.run("prediction", {"inputs": trained.ROWS}), saved.prediction)


# How a part of a checkpoint gets lost, and what is said of it.
MISSING = {
    ("V2", "model.meta"): "holds values but no graph: .*model.meta is missing",
    ("V2", "model.data-00000-of-00001"): "model.data-00000-of-.* is missing; copy all of its files",
    ("V2 in two files", "model.data-00001-of-00002"): "model.data-00001-of-00002 is missing, one of 2 files; copy all",
    ("V1 in two files", "model-00000-of-00002"): "model-00000-of-00002 is missing, one of 2 files; copy all of them",
}
DAMAGED = {
    ("V2", "model.meta"): "model.meta: .*(cut short|damaged)",
    ("V2", "model.index"): r"model.index, model.data-00000-of-00001\) is damaged or was cut short; copy them again",
    ("V2", "model.data-00000-of-00001"): r"model.data-00000-of-00001\) is damaged or was cut short; copy them again",
    ("V2 in two files", "model.data-00001-of-00002"): "model.data-00001-of-00002.* is damaged or was cut short",
    ("V1 in two files", "model-00000-of-00002"): "model-00000-of-00002, .* is damaged or was cut short",
}
BREAKS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut by 3 bytes": lambda data: data[:-3],
    "halved": lambda data: data[: len(data) // 2],
    "one byte changed": lambda data: (
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 255]) + data[len(data) // 2 + 1 :]
    ),
}


@READERS
@pytest.mark.parametrize(("form", "part"), MISSING)
def test_a_part_that_is_missing(
    saved: Saved, form: str, part: str, read: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    prefix = saved.copy(form, tmp_path)
    (tmp_path / part).unlink()
    with pytest.raises(GraphError, match=f"^{prefix}.*{MISSING[form, part]}"):
        read(prefix)


@READERS
@pytest.mark.parametrize("how", BREAKS)
@pytest.mark.parametrize(("form", "part"), DAMAGED)
def test_a_part_that_is_damaged(
    saved: Saved, form: str, part: str, how: str, read: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    prefix = saved.copy(form, tmp_path)
    path = tmp_path / part
    path.write_bytes(BREAKS[how](path.read_bytes()))
    with pytest.raises(GraphError, match=f"^{tmp_path}.*{DAMAGED[form, part]}"):
        read(prefix)


def test_a_meta_graph_cut_anywhere_is_refused_in_our_words(saved: Saved, tmp_path: Path) -> None:
    prefix = saved.copy("V2", tmp_path)
    whole = (saved.folder / "V2" / "model.meta").read_bytes()
    for stop in range(1, len(whole), len(whole) // 40):
        (tmp_path / "model.meta").write_bytes(whole[:stop])
        with pytest.raises(GraphError, match=f"^{tmp_path}"):
            load(prefix)


def test_damaged_meta_graphs_never_end_in_anything_but_a_mistake(saved: Saved, tmp_path: Path) -> None:
    prefix = saved.copy("V2", tmp_path)
    whole = (saved.folder / "V2" / "model.meta").read_bytes()
    generator = np.random.default_rng(3)
    for place in generator.integers(0, len(whole), 60):
        changed = bytearray(whole)
        changed[place] = generator.integers(0, 256)
        (tmp_path / "model.meta").write_bytes(changed)
        try:
            load(prefix)
            freeze_model(str(prefix), PREDICTION)
        except (GraphError, DataError):
            pass


def test_a_meta_graph_whose_collections_are_damaged(saved: Saved, tmp_path: Path) -> None:
    def edit(meta: MetaGraphDef) -> None:
        meta.collection_def["variables"].bytes_list.value[0] = b"\xff\xff"

    prefix = edited(saved, tmp_path, edit)
    with pytest.raises(GraphError, match=f"^{prefix}: {prefix}.meta is damaged .*; copy it again$"):
        load(prefix)
    np.testing.assert_array_equal(freeze(prefix), saved.prediction)  # which needs none of them


OTHERS = {
    "fewer": ({"w": [2, 1], "b": [1]}, "its values lack b/Momentum, they have b, w: graph and values do not belong"),
    "shape": ({"w": [3, 1]}, r"value w \(float32 \[3, 1\]\) is not for the graph's variable w \(float32 \[2, 1\]\)"),
    "dtype": ({"w": [2, 1, "double"]}, r"value w \(float64 \[2, 1\]\) is not for the graph's variable w \(float32"),
}


@READERS
@pytest.mark.parametrize("kind", OTHERS)
def test_values_of_another_model(saved: Saved, kind: str, read: Callable[..., np.ndarray], tmp_path: Path) -> None:
    wanted, message = OTHERS[kind]
    usual = {"w": [2, 1], "b": [1], "w/Momentum": [2, 1], "b/Momentum": [1]}
    with trained.session() as (tf, v1, session):
        for name, shape in (wanted if kind == "fewer" else usual | wanted).items():
            v1.get_variable(name, shape[:2], dtype=tf.float64 if "double" in shape else tf.float32)
        session.run(v1.global_variables_initializer())
        prefix = trained.save(session, tmp_path / "model")
    shutil.copy(saved.folder / "V2" / "model.meta", f"{prefix}.meta")
    with pytest.raises(GraphError, match=f"^{prefix}: .*{message}.*copy all files of one save"):
        read(prefix)


@pytest.mark.parametrize("read", [load, freeze])
def test_what_is_no_checkpoint(read: Callable[..., np.ndarray], saved: Saved, tmp_path: Path) -> None:
    shutil.copy(saved.folder / "V2" / "model.meta", tmp_path / "alone.meta")
    with pytest.raises(GraphError, match=r"alone.meta.* without values.*copy the checkpoint's other files"):
        read(tmp_path / "alone.meta")
    with pytest.raises(GraphError, match="nowhere: no such file"):
        read(tmp_path / "nowhere")
    (tmp_path / "page.meta").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(GraphError, match=r"page\.meta: expected a model, found an HTML"):
        read(tmp_path / "page.meta")


def test_a_graph_is_no_checkpoint(saved: Saved, tmp_path: Path) -> None:
    frozen = freeze_model(str(saved.folder / "V2"), PREDICTION)
    (tmp_path / "model.pb").write_bytes(frozen.data)
    with pytest.raises(GraphError, match=r"model.pb: expected a checkpoint, found a graph"):
        restore_checkpoint(str(tmp_path / "model.pb"))


def edited(saved: Saved, folder: Path, edit: Callable[[Any], None]) -> str:
    return trained.edit_meta(str(saved.copy("V2", folder)), edit)


def test_a_meta_graph_without_a_saver_restores_by_names(saved: Saved, tmp_path: Path) -> None:
    prefix = edited(saved, tmp_path, lambda meta: meta.ClearField("saver_def"))
    np.testing.assert_array_equal(freeze(prefix), saved.prediction)
    np.testing.assert_array_equal(load(prefix), saved.prediction)


def add_node(meta: MetaGraphDef, name: str, op: str, *inputs: str, **strings: str) -> Any:
    node = meta.graph_def.node.add(name=name, op=op, input=inputs)
    for key, value in strings.items():
        node.attr[key].s = value.encode()
    return node


def write_file_beside(meta: MetaGraphDef, target: Path, reader: str) -> None:
    """Let `reader` wait for a node that writes a file."""
    for name, text in (("evil/name", str(target)), ("evil/data", "gotcha")):
        node = add_node(meta, name, "Const")
        node.attr["dtype"].type = node.attr["value"].tensor.dtype = 7
        node.attr["value"].tensor.tensor_shape.SetInParent()
        node.attr["value"].tensor.string_val.append(text.encode())
    add_node(meta, "evil/write", "WriteFile", "evil/name", "evil/data")
    next(node for node in meta.graph_def.node if node.name == reader).input.append("^evil/write")


@READERS
@pytest.mark.parametrize("reader", ["prediction", "save/restore_all", "save/Assign", "w/Assign"])
def test_a_graph_that_writes_files_is_refused_before_it_is_touched(
    saved: Saved, reader: str, read: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    prefix = edited(saved, tmp_path, lambda meta: write_file_beside(meta, tmp_path / "evil", reader))
    if read is freeze and reader == "w/Assign":  # neither between inputs and outputs nor in restoring
        np.testing.assert_array_equal(read(prefix), saved.prediction)
    else:
        with pytest.raises(GraphError, match=r"evil/write \(WriteFile\) writes files"):
            read(prefix)
    assert not (tmp_path / "evil").exists()


def test_operations_can_be_let_through(saved: Saved, tmp_path: Path) -> None:
    prefix = edited(saved, tmp_path, lambda meta: write_file_beside(meta, tmp_path / "evil", "w/Assign"))
    with restore_checkpoint(prefix, allow_ops=["WriteFile"]) as model:
        np.testing.assert_array_equal(model.run("prediction", {"inputs": trained.ROWS}), saved.prediction)


@READERS
def test_a_prediction_that_saves_is_refused(saved: Saved, read: Callable[..., np.ndarray], tmp_path: Path) -> None:
    def edit(meta: MetaGraphDef) -> None:
        next(node for node in meta.graph_def.node if node.name == "prediction").input.append("^save/SaveV2")

    with pytest.raises(GraphError, match=r"save/SaveV2 \(SaveV2\) writes files"):
        read(edited(saved, tmp_path, edit))


def test_restoring_must_not_save(saved: Saved, tmp_path: Path) -> None:
    def edit(meta: MetaGraphDef) -> None:
        next(node for node in meta.graph_def.node if node.name == "save/restore_all").input.append("^save/SaveV2")

    with pytest.raises(GraphError, match=r"save/SaveV2 \(SaveV2\) writes files"):
        freeze(edited(saved, tmp_path, edit))


def test_an_operation_that_nobody_knows_is_named(saved: Saved, tmp_path: Path) -> None:
    def edit(meta: MetaGraphDef) -> None:
        add_node(meta, "odd", "NobodyKnows")
        next(node for node in meta.graph_def.node if node.name == "prediction").input.append("^odd")

    for read in (load, freeze):
        with pytest.raises(GraphError, match=r"odd \(NobodyKnows\) is unknown to TensorFlow"):
            read(edited(saved, tmp_path, edit))


def test_a_restored_model_closes_its_session(saved: Saved) -> None:
    with restore_checkpoint(str(saved.folder / "V2")) as model:
        assert isinstance(model, RestoredModel)
    with pytest.raises(RuntimeError, match="closed"):
        model.session.run("prediction:0", {"inputs:0": trained.ROWS})


@pytest.mark.skipif(not CASES.exists(), reason="the cases are not beside this checkout")
@pytest.mark.parametrize(
    ("path", "output", "feed", "weights"),
    [
        ("serving_ckpt_v1_sharded/export", "y", "x", None),
        ("serving_ckpt_v1_sharded/export-00000-of-00001", "y", "x", None),
        ("serving_ckpt_v1_single_file/export", "Add", "Placeholder", None),
        ("serving_ckpt_v1_single_file/export.meta", "Add", "Placeholder", None),
        ("tf2onnx_ckpt_v2_regression", "pred", "X", ["W:0", "b:0"]),
    ],
)
def test_checkpoints_of_others(path: str, output: str, feed: str, weights: list[str] | None) -> None:
    rows = np.array([[1.0], [4.0]], np.float32) if weights is None else np.float32(3.0)
    with restore_checkpoint(str(CASES / path)) as model:
        factor, offset = (0.5, 2.0) if weights is None else model.run(weights, {})
        np.testing.assert_allclose(model.run(output, {feed: rows}), rows * factor + offset, 1e-6)
    frozen = freeze_model(str(CASES / path), FreezeOptions(outputs=(output,), inputs=(f"inputs={feed}",)))
    assert [spec.name for spec in (*frozen.inputs, *frozen.outputs)] == ["inputs:0", f"{output}:0"]
    np.testing.assert_allclose(trained.score(frozen, {"inputs": rows})[0], rows * factor + offset, 1e-6)
    assert frozen.comparison.startswith("compared on")
