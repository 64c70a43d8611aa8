import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jobs.freeze
from engine.errors import GraphError
from engine.freezing import write_frozen
from engine.model.checkpoint import save_checkpoint
from engine.model.freezing.freeze import freeze_session
from engine.model.session import import_tensorflow, load_session
from engine.model.sidecar import read_sidecar
from jobs.command_line import run

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint: word -> row of a variable, through a lookup table; and rows to sample."""
    folder = tmp_path_factory.mktemp("words")
    tf = import_tensorflow(gpu_share=0)
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        word = v1.placeholder(tf.string, [None], name="word")
        keys, values = tf.constant(["a", "b"]), tf.constant([0, 1], tf.int64)
        table = tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64, name="table")
        fill = tf.raw_ops.LookupTableImportV2(table_handle=table, keys=keys, values=values, name="fill")
        index = tf.raw_ops.LookupTableFindV2(table_handle=table, keys=word, default_value=tf.constant(2, tf.int64))
        rows = v1.get_variable("rows", initializer=np.arange(6, dtype=np.float32).reshape(3, 2), use_resource=True)
        tf.gather(rows, index, name="prediction")
        session.run([v1.global_variables_initializer(), fill])
        save_checkpoint(session, str(folder / "model"))
        write_frozen(str(folder / "live.pb"), freeze_session(session, ["prediction"]))
    pq.write_table(pa.table({"word": ["a", "z", "b"], "other": [1, 2, 3]}), folder / "rows.parquet")
    return folder


def frozen(capsys: pytest.CaptureFixture[str], *given: object) -> tuple[int, str, str]:
    code = run(jobs.freeze.app, [str(each) for each in given])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def predict(path: Path, inits: tuple[str, ...]) -> list[list[float]]:
    model = load_session(path.read_bytes(), ["word:0"], ["prediction:0"], {}, inits)
    found: list[list[float]] = model.run({"word:0": np.array([b"b", b"?"], object)})[0].tolist()
    return found


def test_a_checkpoint_is_frozen_compared_and_written(
    words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "new" / "m.pb"
    code, out, err = frozen(
        capsys, words / "model.index", model, "--outputs", "prediction", "--sample", words / "rows.parquet"
    )
    assert (code, err) == (0, "")
    assert "compared on 3 rows of the sample: largest difference 0" in out
    assert "--init-op" in out
    assert f"icefloe score --model {model} --input INPUT --output OUTPUT" in out
    ports, _ = read_sidecar(str(model), model.read_bytes())
    assert ports is not None
    assert [str(spec) for spec in (*ports.inputs, *ports.outputs)] == [
        "word:0 (string [?])",
        "prediction:0 (float32 [...])",
    ]
    assert predict(model, ports.init_ops) == [[2.0, 3.0], [4.0, 5.0]]
    assert {path.name for path in model.parent.iterdir()} == {"m.pb", "m.json"}


def test_json_says_what_was_made(words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = frozen(capsys, words, tmp_path / "m.pb", "--outputs", "score=prediction", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["outputs"] == [{"name": "score:0", "dtype": "float32", "shape": None}]
    assert document["comparison"] == "not compared: word:0 (string [?]) takes strings; give rows with --sample FILE"
    kept = json.loads((tmp_path / "m.json").read_text())
    assert kept["sha256"] == document["sha256"]
    assert kept["comparison"] == document["comparison"]


def test_a_live_session_gives_the_same_graph(words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frozen(capsys, words / "model", tmp_path / "m.pb", "--outputs", "prediction")
    ports, _ = read_sidecar(str(words / "live.pb"), (words / "live.pb").read_bytes())
    assert ports is not None
    assert predict(words / "live.pb", ports.init_ops) == [[2.0, 3.0], [4.0, 5.0]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("model", "m.pb"), "--outputs is missing: which tensors to freeze to?"),
        (("model", "m.pb", "--outputs", "predicton"), "has no tensor predicton to freeze to"),
        (("nowhere", "m.pb", "--outputs", "y"), "nowhere: no such file"),
        (("model", ".", "--outputs", "prediction"), "is a folder; name the file to write"),
        (("model", "m.json", "--outputs", "prediction"), "need two names"),
        (("model", "m.pb", "--outputs", "prediction", "--signature", "s"), "no signature s"),
        (("model", "m.pb", "--outputs", "prediction", "--sample", "none.parquet"), "none.parquet"),
        (("model", "m.pb", "--outputs", "prediction", "--sample", "model.index"), "--sample model.index"),
        (
            ("model", "m.pb", "--outputs", "prediction", "--sample", "rows.parquet", "--feed", "w=x"),
            "--feed w:0: no input",
        ),
        (
            ("model", "m.pb", "--outputs", "prediction", "--sample", "rows.parquet", "--feed", "word=x"),
            "lacks the column",
        ),
        (
            ("model", "m.pb", "--outputs", "prediction", "--sample", "rows.parquet", "--feed", "word=other"),
            "cannot fill",
        ),
        (("model", "m.pb", "--output", "prediction"), "--output"),
        (("model",), "DEST"),
    ],
)
def test_a_mistake_is_one_message_and_nothing_is_written(
    given: tuple[str, ...],
    expected: str,
    words: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in words.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = {path.name for path in tmp_path.iterdir()}
    monkeypatch.chdir(tmp_path)
    code, out, err = frozen(capsys, *given)
    assert (code, out) == (2, "")
    assert err.startswith("icefloe: error: ")
    assert expected in err
    assert "Traceback" not in err
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_file_of_others_is_not_overwritten(words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.json").write_text("{}")
    code, _, err = frozen(capsys, words / "model", tmp_path / "m.pb", "--outputs", "prediction")
    assert code == 2
    assert "m.json is there and is no file of ours" in err
    assert not (tmp_path / "m.pb").exists()
    with pytest.raises(GraphError, match="no file of ours"):
        write_frozen(str(tmp_path / "m.pb"), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("dest", ["model.meta", "model.index", "model.data-00000-of-00001"])
def test_a_source_is_never_overwritten(
    dest: str, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in words.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = (tmp_path / dest).read_bytes()
    code, _, err = frozen(capsys, tmp_path / "model", tmp_path / dest, "--outputs", "prediction")
    assert code == 2
    assert f"{dest} is a part of {tmp_path}/model itself; name another file" in err
    assert (tmp_path / dest).read_bytes() == before
