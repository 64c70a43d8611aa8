import shlex
from dataclasses import replace

import pytest
from descriptions import described, described_meta, training, variable
from graphs import graph, linear, node, placeholder
from tensorboard.compat.proto.meta_graph_pb2 import MetaGraphDef

from engine.model.describing.description import Description, Kind
from engine.model.filetype import ModelKind
from engine.model.keras_file import KerasFile
from engine.model.sidecar import Ports
from engine.model.tensor import TensorSpec
from engine.view.commands import command_to_paste


def values(command: str, flag: str) -> list[str]:
    words = shlex.split(command)
    return [words[i + 1] for i, word in enumerate(words) if word == flag]


def meta(graph_def: object, *signatures: str) -> MetaGraphDef:
    made = MetaGraphDef(graph_def=graph_def)
    for name in signatures:
        made.signature_def[name].inputs["x"].name = "inputs:0"
        made.signature_def[name].outputs["y"].name = "prediction:0"
    return made


def test_a_frozen_graph_is_scored_with_its_own_names() -> None:
    found = described(linear(name="net/x", output="net/probabilities"))
    assert command_to_paste(found) == (
        "icefloe score --model m.pb --input INPUT --output OUTPUT "
        "--feed net/x:0=x --fetch net/probabilities:0=probabilities"
    )


@pytest.mark.parametrize("model", ["/my models/m.pb", "it's.pb", "$HOME/m.pb", "a;b.pb", "m*.pb"])
def test_it_is_quoted_for_a_shell(model: str) -> None:
    command = command_to_paste(described(linear(), model))
    assert values(command, "--model") == [model]
    assert shlex.join(shlex.split(command)) == command


def test_every_output_gets_a_column_of_its_own() -> None:
    both = graph(
        placeholder("x", "float32", [None]),
        node("left/out", "Identity", "x", T="float32"),
        node("right/out", "Identity", "x", T="float32"),
    )
    fetched = [entry.partition("=")[2] for entry in values(command_to_paste(described(both)), "--fetch")]
    assert len(fetched) == len(set(fetched)) == 2


def test_outputs_that_follow_the_rows_are_fetched_alone() -> None:
    made = graph(*linear().node, placeholder("t", "float32", [3]), node("fixed", "Relu", "t", T="float32"))
    assert values(command_to_paste(described(made)), "--fetch") == ["prediction:0=prediction"]


@pytest.mark.parametrize(
    ("name", "dtype", "value"),
    [
        ("keep_prob", "float32", "1.0"),
        ("dropout/keep_prob", "float32", "1.0"),
        ("is_training", "bool", "false"),
        ("phase_train", "bool", "false"),
        ("keras_learning_phase", "bool", "false"),
        ("dropout_rate", "float32", "0.0"),
        ("temperature", "float32", "VALUE"),
    ],
)
def test_scalars_are_set_to_what_predicts(name: str, dtype: str, value: str) -> None:
    made = graph(placeholder("x", "float32", [None]), placeholder(name, dtype, []), node("y", "Mul", "x", name))
    command = command_to_paste(described(made))
    assert values(command, "--set") == [f"{name}:0={value}"]
    assert values(command, "--feed") == ["x:0=x"]


def test_a_switch_of_an_old_graph_whose_shape_is_not_told() -> None:
    made = graph(
        placeholder("x", "float32", [None]),
        placeholder("keep_prob", "float32", []),
        node("y", "Mul", "x", "keep_prob"),
        producer=0,
    )
    assert values(command_to_paste(described(made)), "--set") == ["keep_prob:0=1.0"]


def test_a_graph_that_takes_one_row_a_call_is_fed() -> None:
    made = graph(placeholder("image", "string", []), node("y", "DecodeJpeg", "image"))
    command = command_to_paste(described(made))
    assert (values(command, "--feed"), values(command, "--set")) == (["image:0=image"], [])
    assert command.endswith(" --unbatched")
    assert "--unbatched" not in command_to_paste(described(linear()))


def test_an_input_with_a_default_is_left_alone() -> None:
    default = node("k", "PlaceholderWithDefault", "one", dtype="float32")
    made = graph(placeholder("x", "float32", [None]), node("one", "Const"), default, node("y", "Mul", "x", "k"))
    assert values(command_to_paste(described(made)), "--feed") == ["x:0=x"]


def test_an_input_with_a_default_is_fed_where_rows_have_no_other_way_in() -> None:
    default = node("image", "PlaceholderWithDefault", "queue", dtype="float32")
    phase = node("phase_train", "PlaceholderWithDefault", "off", dtype="bool")
    default.attr["shape"].shape.dim.add(size=-1)
    phase.attr["shape"].shape.SetInParent()
    made = graph(
        node("queue", "QueueDequeueV2"), node("off", "Const"), default, phase, node("y", "Mul", "image", "phase_train")
    )
    command = command_to_paste(described(made))
    assert (values(command, "--feed"), values(command, "--set")) == (["image:0=image"], [])


def test_ports_beside_a_graph_need_no_flags_but_for_scalars() -> None:
    specs = (TensorSpec("inputs:0", "float32", (None, 4)), TensorSpec("scale:0", "float32", ()))
    ports = Ports(specs, (TensorSpec("prediction:0", "float32", (None, 3)),), ("init",))
    command = command_to_paste(described(graph(*linear().node, node("init", "NoOp")), ports=ports))
    assert command == "icefloe score --model m.pb --input INPUT --output OUTPUT --set scale:0=VALUE"


def test_tables_operations_let_through_and_libraries() -> None:
    made = graph(
        placeholder("x", "string", [None]),
        node("table", "HashTableV2"),
        node("fill", "LookupTableImportV2", "table"),
        node("found", "LookupTableFindV2", "table", "x"),
        node("read", "ReadFile", "found"),
        node("again", "ReadFile", "read"),
        node("y", "OwnOperation", "again"),
    )
    command = command_to_paste(described(made))
    assert values(command, "--init-op") == ["fill"]
    assert values(command, "--allow-op") == ["ReadFile"]
    assert values(command, "--op-library") == ["PATH"]


def test_a_checkpoint_is_frozen_to_its_likeliest_output() -> None:
    found = described_meta(meta(training()), ModelKind.CHECKPOINT, prefix="m")
    assert command_to_paste(found) == "icefloe freeze m DEST.pb --outputs prediction --set keep_prob:0=1.0"


def test_what_a_pipeline_hands_over_is_named() -> None:
    made = graph(node("IteratorGetNext", "IteratorGetNext"), variable("w", 3), node("y", "Mul", "IteratorGetNext", "w"))
    found = described_meta(meta(made), ModelKind.CHECKPOINT, prefix="m")
    assert command_to_paste(found) == "icefloe freeze m DEST.pb --outputs y --inputs inputs=IteratorGetNext:0"


def test_a_graph_without_values_is_frozen_from_its_checkpoint() -> None:
    for found in (described(training()), described_meta(meta(training()), ModelKind.META_GRAPH)):
        assert command_to_paste(found).startswith("icefloe freeze CHECKPOINT DEST.pb --outputs prediction")
    whole = described_meta(meta(linear()), ModelKind.META_GRAPH)
    assert command_to_paste(whole) == "icefloe freeze m DEST.pb --outputs prediction"


@pytest.mark.parametrize(
    ("signatures", "expected"),
    [
        (["serving_default"], "icefloe freeze m DEST.pb"),
        (["serving_default", "a"], "icefloe freeze m DEST.pb"),
        (["only"], "icefloe freeze m DEST.pb"),
        (["b", "a"], "icefloe freeze m DEST.pb --signature a"),
        ([], "icefloe freeze m DEST.pb --outputs prediction"),
    ],
)
def test_a_saved_model_knows_its_outputs(signatures: list[str], expected: str) -> None:
    assert command_to_paste(described_meta(meta(linear(), *signatures), ModelKind.SAVED_MODEL)) == expected


def test_what_a_signature_does_not_name_is_set() -> None:
    made = graph(placeholder("inputs", "float32", []), placeholder("keep_prob", "float32", []))
    made.node.append(node("prediction", "Mul", "inputs", "keep_prob"))
    found = described_meta(meta(made, "serving_default"), ModelKind.SAVED_MODEL)
    assert command_to_paste(found) == "icefloe freeze m DEST.pb --set keep_prob:0=1.0"


def test_a_keras_file() -> None:
    keras = KerasFile("zip", "Sequential", "3", (), (), (), (), ())
    assert command_to_paste(Description(Kind.KERAS, "m.keras", 1, keras=keras)) == "icefloe freeze m.keras DEST.pb"


def test_a_model_without_outputs_leaves_the_name_open() -> None:
    found = replace(described_meta(meta(training()), ModelKind.CHECKPOINT, prefix="m"), outputs=())
    assert values(command_to_paste(found), "--outputs") == ["NAME"]
