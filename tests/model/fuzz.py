"""Feeds `describe` and the audit broken models, in a process of its own whose memory is bounded.

Every mutant has to end in a description or in one of our errors. Run as `python fuzz.py SECONDS SEED`: prints how many
were tried and parsed, and exits with 0; anything else (a traceback, a hang, too much memory) ends it otherwise.
"""

import faulthandler
import io
import json
import random
import resource
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import graphs
import h5py
import numpy as np
from graphs import constant, graph, node, placeholder

from engine.errors import EngineError
from engine.model.audit import audit_everything, audit_graph
from engine.model.describing.describe import describe_model, open_model
from engine.model.known import Request, bind_model, read_model
from engine.model.operations import effect_of
from engine.model.protos import GraphDef, MetaGraphDef, saved_model_class
from engine.view.commands import command_to_paste
from engine.view.description import print_description

GIB = 2**30
MUTANT_SECONDS = 30
HDF5_SHARE = 0.02  # each is read in a process of its own
MAX_MESSAGE = 10_000
NAMES = (
    *("inputs", "inputs:0", "inputs:99", "^inputs", "", ":", "^", "f", "weights:-1", "prediction:0", "x" * 300),
    "a/b/c:0:0",
)
OPERATIONS = (
    *("Placeholder", "Const", "MatMul", "Conv2D", "VarHandleOp", "ReadFile", "PartitionedCall", "While", "f", "Bogus"),
    *("DatasetFromGraph", "HashTableV2", "LookupTableImportV2", "FusedBatchNormV3", "Identity", "Switch", "ApplyAdam"),
    *("RandomUniform", "SaveV2", "IteratorGetNext", "Softmax", "GatherV2", "BiasAdd", "XlaCallModule", ""),
)


def seeds() -> list[bytes]:
    """Return models of many kinds, serialised."""
    library = graph(placeholder("inputs", "float32", [None, 4]), node("call", "PartitionedCall", "inputs"))
    library.node[1].attr["f"].func.name = "f"
    function = library.library.function.add()
    function.signature.name = "f"
    function.signature.input_arg.add(name="x", type=1)
    function.node_def.add(name="inner", op="Softmax", input=["x"])
    function.node_def.add(name="again", op="PartitionedCall", input=["inner:softmax:0"]).attr["f"].func.name = "f"
    nested = graph(node("data", "Const", dtype="string"), node("prediction", "DatasetFromGraph", "data"))
    nested.node[0].attr["value"].tensor.string_val.append(graphs.linear().SerializeToString())
    loop = graph(
        placeholder("inputs", "float32", [None]),
        node("enter", "Enter", "inputs", T="float32"),
        node("merge", "Merge", "enter", "next", T="float32"),
        node("next", "NextIteration", "merge", T="float32"),
        node("prediction", "Exit", "merge", T="float32"),
    )
    training = graph(
        *graphs.linear().node,
        node("w", "VariableV2", dtype="float32"),
        node("noise", "RandomUniform", "weights", dtype="float32"),
        node("train", "ApplyGradientDescent", "w", "noise", T="float32"),
        node("save", "SaveV2", "w"),
        constant("big", np.zeros((40, 40), np.float32)),
    )
    meta = MetaGraphDef(graph_def=training)
    meta.meta_info_def.tags.append("serve")
    meta.signature_def["serving_default"].inputs["a"].name = "inputs:0"
    meta.signature_def["serving_default"].outputs["b"].name = "prediction:0"
    saved = saved_model_class()(saved_model_schema_version=1)
    saved.meta_graphs.append(meta)
    messages = [graphs.linear(), library, nested, loop, training, meta, saved]
    texts = [str(each).encode() for each in (library, saved)]
    return [*(each.SerializeToString() for each in messages), *texts, *keras_seeds()]


def keras_seeds() -> list[bytes]:
    """Return a Keras model's config in a zip and in HDF5, without weights."""
    layers = [{"class_name": "InputLayer", "config": {"batch_shape": [None, 4]}}, {"class_name": "Dense", "config": {}}]
    config = json.dumps({"class_name": "Sequential", "config": {"layers": layers}})
    zipped, hierarchical = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("config.json", config)
        archive.writestr("metadata.json", '{"keras_version": "3.15.1"}')
    with h5py.File(hierarchical, "w") as file:
        file.attrs["model_config"] = config
    return [zipped.getvalue(), hierarchical.getvalue()]


def mutate_bytes(data: bytes, chance: random.Random) -> bytes:
    """Flip, cut, double or move some bytes."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        at, size = chance.randrange(len(changed) + 1), chance.choice([1, 2, 8, 64])
        match chance.randrange(5):
            case 0:
                changed[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del changed[at : at + size]
            case 2:
                changed[at:at] = changed[at : at + size]
            case 3:
                changed[at:at] = bytes(chance.choices([0, 1, 0x0A, 0x12, 0x7F, 0x80, 0xFF], k=size))
            case _:
                del changed[chance.randrange(len(changed) + 1) :]
    return bytes(changed)


def mutate_graph(data: bytes, chance: random.Random) -> bytes:
    """Change a GraphDef as nobody would write one: edges, operations, shapes, dtypes, attributes of the wrong kind."""
    made = GraphDef()
    made.ParseFromString(data)
    for _ in range(chance.choice([1, 2, 4, 8])):
        bodies: list[Any] = [made.node, *(function.node_def for function in made.library.function)]
        body = chance.choice(bodies)
        change_node(made, chance.choice(body) if body else made.node.add(name="new", op="NoOp"), chance)
    return bytes(made.SerializeToString())


def change_node(made: Any, target: Any, chance: random.Random) -> None:  # noqa: PLR0912
    """Do one thing to a node, or to the graph around it."""
    match chance.randrange(14):
        case 0:
            target.input.append(chance.choice(NAMES))
        case 1:
            target.input.append(chance.choice(made.node).name if made.node else "x")
        case 2 if target.input:
            target.input.pop()
        case 3:
            target.op = chance.choice(OPERATIONS)
        case 4:
            target.name = chance.choice(NAMES)
        case 5:
            target.attr[chance.choice(["T", "dtype", "DstT"])].type = chance.choice([0, 1, 7, 99, 2**31 - 1])
        case 6:
            target.attr["shape"].shape.dim.add(size=chance.choice([-1, -(2**63), 2**63 - 1, 0]))
        case 7:
            target.attr["value"].tensor.tensor_shape.dim.add(size=chance.choice([-5, 2**62, 10**6]))
        case 8:
            target.attr[chance.choice(["value", "shape", "dtype", "is_training"])].i = chance.choice([-1, 7])
        case 9:
            target.attr[chance.choice(["f", "body", "T"])].func.name = chance.choice(["f", "g", ""])
        case 10:
            target.attr.clear()
        case 11:
            made.node.add().CopyFrom(target)
        case 12 if made.library.function:
            made.library.function.add().CopyFrom(made.library.function[0])
        case _:
            made.versions.producer = chance.choice([-1, 0, 23, 2**31 - 1])
            target.attr["_output_shapes"].list.shape.add().dim.add(size=chance.choice([-1, 2**63 - 1]))


def try_model(path: str) -> bool:
    """Describe, bind and audit the model at `path`; return whether it could be described."""
    try:
        opened = open_model(path)
        description = describe_model(opened)
        command_to_paste(description)
        with open("/dev/null", "w") as nowhere:
            print_description(description, nowhere)
    except EngineError as error:
        is_described = False
        if len(str(error)) > MAX_MESSAGE:
            raise ValueError(f"an error that nobody could read: {str(error)[:200]}") from error
    else:
        is_described = True
    try:
        known = read_model(path)
        bind_model(known, Request(None, None, {}))
    except EngineError:
        pass
    try:
        made = GraphDef.FromString(Path(path).read_bytes())
    except Exception:  # what protobuf refuses is not ours to audit
        return is_described
    for findings in (audit_everything(made), audit_graph(made, ["inputs:0"], ["prediction:0", "call:0"])):
        assert all(effect_of(each.operation) != "" and str(each) for each in findings)
    return is_described


def main() -> int:
    seconds, chance = float(sys.argv[1]), random.Random(int(sys.argv[2]))
    resource.setrlimit(resource.RLIMIT_DATA, (GIB, GIB))
    known, tried, described = seeds(), 0, 0
    stop = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < stop:
            data = known[-1] if chance.random() < HDF5_SHARE else chance.choice(known[:-1])
            mutant = mutate_bytes(data, chance)
            if chance.random() < 0.5 and data[:1] == b"\x0a" and data in known[:5]:
                mutant = mutate_graph(data, chance)
                if chance.random() < 0.2:
                    mutant = mutate_bytes(mutant, chance)
            path = Path(folder) / chance.choice(["m.pb", "m.pbtxt", "m.meta", "saved_model.pb", "m.h5", "m"])
            path.write_bytes(mutant)
            faulthandler.dump_traceback_later(MUTANT_SECONDS, exit=True)  # a hang
            try:
                described += try_model(str(path))
            except BaseException:
                sys.stderr.write(f"mutant {tried} of seed {sys.argv[2]} as {path.name}: {mutant.hex()}\n")
                raise
            faulthandler.cancel_dump_traceback_later()
            path.unlink()
            tried += 1
    # The system counts what this process forked from into ru_maxrss, but not into this.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(status["VmHWM"].split()[0]) * 1024
    sys.stdout.write(f"{tried} tried, {described} described, peak {peak // 2**20} MiB\n")
    return 0 if peak < GIB else 1


if __name__ == "__main__":
    sys.exit(main())
