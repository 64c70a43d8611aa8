import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trained
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.meta_graph_pb2 import AssetFileDef

from engine.errors import GraphError
from engine.model.filetype import locate_model
from engine.model.freezing.freeze import FrozenModel, freeze_model
from engine.model.freezing.plan import FreezeOptions, plan_freeze
from engine.model.graphdef import VARIABLES
from engine.model.metagraph import read_meta_graph
from engine.model.protos import saved_model_class

pytestmark = pytest.mark.tf

ROWS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
WORDS = np.array([b"a", b"c", b"zz", b"b"], object)
IDS = np.array([[0, 1], [5, 2]], np.int32)
Saved = tuple[Path, dict[str, tuple[dict[str, Any], dict[str, Any]]]]


def vocabulary(tf: Any, folder: Path) -> Any:
    path = folder / "words.txt"
    path.write_text("a\nb\nc\n")
    index = tf.lookup.TextFileIndex
    return tf.lookup.TextFileInitializer(str(path), tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A SavedModel as TensorFlow 1 wrote them; and rows and answers by signature."""
    folder = tmp_path_factory.mktemp("first")
    with trained.session() as (tf, v1, session):
        x = v1.placeholder(tf.float32, [None, 3], name="x")
        w = v1.get_variable("w", [3, 2], use_resource=False)
        b = v1.get_variable("b", [2], use_resource=True)
        y = tf.add(tf.matmul(x, w), b, name="sum")
        words = v1.placeholder(tf.string, [None], name="words")
        ids = tf.lookup.StaticVocabularyTable(vocabulary(tf, folder), 2).lookup(words)
        prices = tf.lookup.KeyValueTensorInitializer(["a", "b"], [10.0, 20.0])
        price = tf.lookup.StaticHashTable(prices, -1.0).lookup(words)
        found = tf.nn.embedding_lookup(v1.get_variable("embedding", [5, 2], use_resource=True), ids)
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        signature = v1.saved_model.predict_signature_def
        signatures = {
            "serving_default": signature({"x": x}, {"y": y}),
            "look_up": signature({"words": words}, {"ids": ids, "price": price, "found": found}),
        }
        assets = v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS)
        for name, main in (("with_main_op", v1.tables_initializer()), ("without", None)):
            builder = v1.saved_model.Builder(str(folder / name))
            builder.add_meta_graph_and_variables(session, ["serve"], signatures, assets_collection=assets, main_op=main)
            builder.save()
        answers = {
            "serving_default": ({"inputs": ROWS}, {"prediction": session.run(y, {x: ROWS})}),
            "look_up": (
                {"inputs": WORDS},
                session.run({"ids": ids, "price": price, "found": found}, {words: WORDS}),
            ),
        }
    (folder / "words.txt").unlink()  # the SavedModel has a copy
    return folder, answers


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A SavedModel of a tf.Module, with a bit of everything; and rows and answers by signature."""
    tf = trained.tensorflow()
    folder = tmp_path_factory.mktemp("second")
    generator = np.random.default_rng(1)

    class Model(tf.Module):
        def __init__(self) -> None:
            self.w = tf.Variable(generator.normal(size=(3, 3)).astype(np.float32), name="w")
            self.table = tf.Variable(generator.normal(size=(6, 2)).astype(np.float32), name="table")
            self.half = tf.Variable(tf.cast([1.0, 2.0], tf.float16))
            self.brain = tf.Variable(tf.cast([1.0, 2.0], tf.bfloat16))
            self.whole, self.flag = tf.Variable([3, 4]), tf.Variable([True, False])
            self.text = tf.Variable([b"x", b"\xff"])
            self.file = tf.lookup.StaticHashTable(vocabulary(tf, folder), -1)
            prices = tf.lookup.KeyValueTensorInitializer(["a", "b"], [10.0, 20.0])
            self.prices = tf.lookup.StaticHashTable(prices, -1.0)
            self.counts = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
            self.counts.insert(["c", "a"], [8, 7])
            self.dense = tf.lookup.experimental.DenseHashTable(
                tf.string, tf.float32, -1.0, empty_key="", deleted_key="?"
            )
            self.dense.insert(["zz", "b"], [5.0, 6.0])

        @tf.function(autograph=False)
        def inner(self, x: Any) -> Any:
            return tf.matmul(x, self.w)

        @tf.function(input_signature=[tf.TensorSpec([None, 3], name="x")], autograph=False)
        def nested(self, x: Any) -> Any:
            y = tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, tf.tanh(self.inner(y))), (0, x))[1]
            return {"y": tf.cond(tf.reduce_sum(x) > 0, lambda: y + self.w[0], lambda: self.inner(y))}

        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.int32, name="ids")], autograph=False)
        def embed(self, ids: Any) -> Any:
            return {
                "lookup": tf.nn.embedding_lookup(self.table, ids),
                "gather": tf.gather(self.table, ids, axis=0),
                "gather_nd": self.table.gather_nd(ids[:, :1]),
                "rows": self.table.sparse_read(ids),
                "shape": tf.raw_ops.VariableShape(input=self.table.handle),
            }

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")], autograph=False)
        def look_up(self, words: Any) -> Any:
            return {name: getattr(self, name).lookup(words) for name in ("file", "prices", "counts", "dense")}

        @tf.function(
            input_signature=[tf.TensorSpec([None, 3], name="x"), tf.TensorSpec([], name="scale")], autograph=False
        )
        def many(self, x: Any, scale: Any) -> Any:
            values = {name: getattr(self, name) + 0 for name in ("half", "brain", "whole")}
            return {"x": x * scale, "flag": tf.identity(self.flag), "text": tf.identity(self.text), **values}

        @tf.function(input_signature=[tf.TensorSpec([None, 3], name="x")], autograph=False)
        def counting(self, x: Any) -> Any:
            self.w.assign_add(self.w)
            return {"y": tf.identity(x)}

        @tf.function(input_signature=[tf.TensorSpec([None, 3], name="x")], autograph=False)
        def reading(self, x: Any) -> Any:
            return {"y": x + tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32)}

    model = Model()
    rows: dict[str, list[Any]] = {
        "nested": [ROWS], "embed": [IDS], "look_up": [WORDS], "many": [ROWS, np.float32(2.0)]
    }  # fmt: skip
    names = {"many": ["x", "scale"]}
    answers = {}
    for name, given in rows.items():
        values = {key: value.numpy() for key, value in getattr(model, name)(*map(tf.constant, given)).items()}
        inputs = dict(zip(names.get(name, ["inputs"]), given, strict=True))
        if name == "many":  # x is an input, too
            values["x_output"] = values.pop("x")
        answers[name] = (inputs, {"prediction": values["y"]} if name == "nested" else values)
    others = {name: getattr(model, name) for name in ("embed", "look_up", "many", "counting", "reading")}
    tf.saved_model.save(
        model, str(folder / "model"), {"serving_default": model.nested, "nested": model.nested, **others}
    )
    (folder / "words.txt").unlink()
    return folder, answers


def check(frozen: FrozenModel, rows: dict[str, Any], expected: dict[str, Any]) -> None:
    assert sorted(spec.name for spec in frozen.outputs) == sorted(f"{name}:0" for name in expected)
    assert sorted(spec.name for spec in frozen.inputs) == sorted(f"{name}:0" for name in rows)
    graph = GraphDef.FromString(frozen.data)
    nodes = [*graph.node, *(node for each in graph.library.function for node in each.node_def)]
    assert not {node.op for node in nodes} & {*VARIABLES, "ReadVariableOp", "ResourceGather", "SaveV2", "RestoreV2"}
    for spec, found in zip(frozen.outputs, trained.score(frozen, rows), strict=True):
        wanted = expected[spec.name.removesuffix(":0")]
        assert found.dtype == wanted.dtype
        if wanted.dtype.kind == "f":
            np.testing.assert_allclose(found, wanted, 1e-5, 1e-6)
        else:
            np.testing.assert_array_equal(found, wanted)


def sample(rows: dict[str, Any]) -> dict[str, Any]:
    return {f"{name}:0": value for name, value in rows.items()}


@pytest.mark.parametrize("name", ["with_main_op", "without"])
@pytest.mark.parametrize("signature", [None, "serving_default", "look_up"])
def test_a_saved_model_of_tensorflow_1(first: Saved, name: str, signature: str | None) -> None:
    rows, expected = first[1][signature or "serving_default"]
    frozen = freeze_model(str(first[0] / name), FreezeOptions(signature=signature), sample(rows))
    check(frozen, rows, expected)
    assert frozen.comparison.startswith("compared on")
    assert frozen.init_ops == (
        () if signature != "look_up" else ("key_value_init/LookupTableImportV2", "hash_table/fill")
    )


@pytest.mark.parametrize("signature", [None, "nested", "embed", "look_up", "many"])
def test_a_saved_model_of_tensorflow_2(second: Saved, signature: str | None) -> None:
    rows, expected = second[1][signature or "nested"]
    options = FreezeOptions(signature=signature)
    frozen = freeze_model(str(second[0] / "model"), options, sample(rows))
    check(frozen, rows, expected)
    assert frozen.comparison.startswith("compared on")
    assert freeze_model(str(second[0] / "model" / "saved_model.pb"), options).data == frozen.data


def test_a_part_of_a_signature_under_other_names(second: Saved) -> None:
    rows, expected = second[1]["look_up"]
    options = FreezeOptions(("price=prices", "ids=file"), ("word=words",), "look_up")
    frozen = freeze_model(str(second[0] / "model"), options)
    check(frozen, {"word": rows["inputs"]}, {"price": expected["prices"], "ids": expected["file"]})
    assert frozen.comparison == "not compared: word:0 (string [?]) takes strings; give rows with --sample FILE"


def test_a_constant_for_an_input_of_the_signature(second: Saved) -> None:
    rows, expected = second[1]["many"]
    options = FreezeOptions(("y=x",), signature="many", constants={"scale": 2.0})
    frozen = freeze_model(str(second[0] / "model"), options)
    check(frozen, {"x": rows["x"]}, {"y": expected["x_output"]})


def test_the_plan_knows_the_ports_without_tensorflow(second: Saved) -> None:
    plan = plan_freeze(read_meta_graph(locate_model(str(second[0] / "model"))), FreezeOptions(signature="many"))
    assert [str(spec) for spec in plan.input_specs()] == ["scale:0 (float32 [])", "x:0 (float32 [?, 3])"]
    assert [port.name for port in plan.outputs] == ["brain", "flag", "half", "text", "whole", "x_output"]


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        (
            "nosuch",
            "no signature nosuch; its signatures are counting, embed, look_up, many, nested, read",
        ),
        ("counting", r"AssignAddVariableOp \(AssignAddVariableOp\) changes the variable w whenever the graph runs"),
        ("reading", r"ReadFile \(ReadFile\) reads files, in function __inference_.*reading.*--allow-op ReadFile"),
    ],
)
def test_signatures_that_are_refused(second: Saved, signature: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        freeze_model(str(second[0] / "model"), FreezeOptions(signature=signature))


def test_what_reads_files_can_be_let_through(second: Saved) -> None:
    frozen = freeze_model(str(second[0] / "model"), FreezeOptions(signature="reading", allow_ops=("ReadFile",)))
    assert frozen.comparison.startswith("compared on 4 random rows")


BREAKS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no variables": (
        lambda path: shutil.rmtree(path / "variables"),
        "without values.*its folder variables/ is missing",
    ),
    "no data": (
        lambda path: (path / "variables/variables.data-00000-of-00001").unlink(),
        "data-00000-of-.* is missing",
    ),
    "data cut": (
        lambda path: (path / "variables/variables.data-00000-of-00001").write_bytes(b"\0" * 9),
        "one of its files .variables.index, variables.data-00000-of-00001. is damaged or was cut short",
    ),
    "no assets": (
        lambda path: shutil.rmtree(path / "assets"),
        "assets/words.txt, which fills one of its tables, is miss",
    ),
    "cut": (
        lambda path: (path / "saved_model.pb").write_bytes((path / "saved_model.pb").read_bytes()[:-3]),
        "cut short .its last field wants 3 bytes more",
    ),
    "empty": (lambda path: (path / "saved_model.pb").write_bytes(b"\x08\x01"), "found|without any graph"),
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_part_that_is_missing_or_damaged(first: Saved, how: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    shutil.copytree(first[0] / "with_main_op", path)
    BREAKS[how][0](path)
    with pytest.raises(GraphError, match=f"^{path}.*{BREAKS[how][1]}"):
        freeze_model(str(path), FreezeOptions(signature="look_up"))


def edited(saved: Path, folder: Path, edit: Callable[[Any], None]) -> str:
    """A copy of a SavedModel whose graph was changed."""
    shutil.copytree(saved, folder / "model")
    path = folder / "model" / "saved_model.pb"
    message = saved_model_class().FromString(path.read_bytes())
    edit(message.meta_graphs[0])
    path.write_bytes(message.SerializeToString())
    return str(folder / "model")


def find(meta: Any, operation: str) -> Any:
    bodies = [meta.graph_def.node, *(each.node_def for each in meta.graph_def.library.function)]
    return next(node for body in bodies for node in body if node.op == operation)


def hostile_path(meta: Any) -> str:
    """Add a constant that names a file of this machine."""
    node = meta.graph_def.node.add(name="evil", op="Const")
    node.attr["dtype"].type = node.attr["value"].tensor.dtype = 7
    node.attr["value"].tensor.tensor_shape.SetInParent()
    node.attr["value"].tensor.string_val.append(b"/etc/passwd")
    return "evil"


def test_a_table_of_another_file_than_the_model_s_own_is_refused(first: Saved, second: Saved, tmp_path: Path) -> None:
    def in_graph(meta: Any) -> None:
        find(meta, "InitializeTableFromTextFileV2").input[1] = hostile_path(meta)

    def by_call(meta: Any) -> None:
        call = next(node for node in meta.graph_def.node if "ReadVariableOp" in node.input)
        call.input[list(call.input).index("ReadVariableOp")] = hostile_path(meta)

    def by_variable(meta: Any) -> None:
        find(meta, "AssignVariableOp").input[1] = hostile_path(meta)

    def by_second_assignment(meta: Any) -> None:
        node = find(meta, "AssignVariableOp")
        meta.graph_def.node.add(name="again", op="AssignVariableOp", input=[f"{node.input[0]}:0", hostile_path(meta)])

    places = [(first[0] / "with_main_op", in_graph)]
    places += [(second[0] / "model", edit) for edit in (by_call, by_variable, by_second_assignment)]
    for number, (saved, edit) in enumerate(places):
        path = edited(saved, tmp_path / str(number), edit)
        with pytest.raises(GraphError, match=r"InitializeTableFromTextFileV2\) reads files"):
            freeze_model(path, FreezeOptions(signature="look_up"))


def test_an_asset_outside_of_the_folder_is_looked_for_inside(first: Saved, tmp_path: Path) -> None:
    def edit(meta: Any) -> None:
        kept = meta.collection_def["saved_model_assets"].any_list.value[0]
        asset = AssetFileDef.FromString(kept.value)
        asset.filename = "../../../../../../etc/passwd"
        kept.value = asset.SerializeToString()

    path = edited(first[0] / "with_main_op", tmp_path, edit)
    with pytest.raises(GraphError, match=f"{path}/assets/passwd, which fills one of its tables, is missing"):
        freeze_model(path, FreezeOptions(signature="look_up"))


@pytest.mark.parametrize("place", ["restore", "init", "function"])
def test_files_written_on_the_way_are_refused(second: Saved, place: str, tmp_path: Path) -> None:
    target = tmp_path / "evil.txt"

    def add(body: Any, reader: str, edge: str) -> None:
        string = body.add(name="evil", op="Const")
        string.attr["dtype"].type = string.attr["value"].tensor.dtype = 7
        string.attr["value"].tensor.tensor_shape.SetInParent()
        string.attr["value"].tensor.string_val.append(str(target).encode())
        body.add(name="write", op="WriteFile", input=[edge, edge])
        next(node for node in body if node.name == reader).input.append("^write")

    def edit(meta: Any) -> None:
        if place == "function":
            for function in meta.graph_def.library.function:
                if "inner" in function.signature.name:
                    add(function.node_def, function.node_def[0].name, "evil:output:0")
        else:
            add(meta.graph_def.node, meta.saver_def.restore_op_name if place == "restore" else "NoOp", "evil")

    path = edited(second[0] / "model", tmp_path, edit)
    with pytest.raises(GraphError, match=r"write \(WriteFile\) writes files"):
        freeze_model(path, FreezeOptions(signature="look_up" if place == "init" else "nested"))
    assert not target.exists()


def test_graphs_for_other_devices_are_left_alone(first: Saved, tmp_path: Path) -> None:
    shutil.copytree(first[0] / "with_main_op", tmp_path / "model")
    path = tmp_path / "model" / "saved_model.pb"
    message = saved_model_class().FromString(path.read_bytes())
    message.meta_graphs.insert(0, type(message.meta_graphs[0])())
    message.meta_graphs[0].meta_info_def.tags.extend(["serve", "tpu"])
    path.write_bytes(message.SerializeToString())
    rows, expected = first[1]["serving_default"]
    check(freeze_model(str(tmp_path / "model"), FreezeOptions()), rows, expected)
    for each in message.meta_graphs:
        each.meta_info_def.tags[:] = ["train"]
    path.write_bytes(message.SerializeToString())
    with pytest.raises(GraphError, match="none of its graphs has the tag 'serve'; their tags are train; train"):
        freeze_model(str(tmp_path / "model"), FreezeOptions())


def test_a_saved_model_as_text(first: Saved, tmp_path: Path) -> None:
    from google.protobuf import text_format

    shutil.copytree(first[0] / "with_main_op", tmp_path / "model")
    path = tmp_path / "model" / "saved_model.pb"
    message = saved_model_class().FromString(path.read_bytes())
    path.unlink()
    path.with_suffix(".pbtxt").write_text(text_format.MessageToString(message))
    rows, expected = first[1]["serving_default"]
    check(freeze_model(str(tmp_path / "model"), FreezeOptions()), rows, expected)


def test_a_table_without_a_name_is_refused(tmp_path: Path) -> None:
    tf = trained.tensorflow()

    class Model(tf.Module):
        def __init__(self) -> None:
            prices = tf.lookup.KeyValueTensorInitializer(["a", "b"], [10.0, 20.0])
            self.prices = tf.lookup.StaticHashTable(prices, -1.0, experimental_is_anonymous=True)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
        def look_up(self, words: Any) -> Any:
            return {"price": self.prices.lookup(words)}

    model = Model()
    tf.saved_model.save(model, str(tmp_path), {"serving_default": model.look_up})
    with pytest.raises(GraphError, match=r"\(AnonymousHashTable\) has no name, .*experimental_is_anonymous=False"):
        freeze_model(str(tmp_path), FreezeOptions())
