import json
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from engine.model import operations
from engine.model.operations import PURE, UNKNOWN, effect_of, hint_for, is_known, tensorflow_version

DATA = tomllib.loads(Path(operations.__file__).with_name("operations.toml").read_text(encoding="utf-8"))
EFFECTS = {effect: names.split() for effect, names in DATA["effects"].items()}
# In a process of its own, where no test has loaded a library of operations.
REGISTERED = """
import json
import tensorflow as tf
from tensorflow.core.framework import op_def_pb2
from tensorflow.python.client import pywrap_tf_session
found = op_def_pb2.OpList.FromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
print(json.dumps([tf.__version__, sorted(op.name for op in found.op)]))
"""


@pytest.mark.tf
def test_every_operation_of_the_installed_tensorflow_is_listed_and_no_other() -> None:
    done = subprocess.run([sys.executable, "-c", REGISTERED], capture_output=True, text=True, check=True)
    version, registered = json.loads(done.stdout.splitlines()[-1])
    assert version.split(".")[:2] == tensorflow_version().split(".")[:2]
    listed = {name for names in EFFECTS.values() for name in names}
    assert (sorted(set(registered) - listed), sorted(listed - set(registered))) == ([], [])


def test_every_operation_is_listed_once_and_in_order() -> None:
    counts = Counter(name for names in EFFECTS.values() for name in names)
    assert [name for name, count in counts.items() if count > 1] == []
    assert all(names == sorted(names) for names in EFFECTS.values())
    assert list(EFFECTS) == [
        "reads files",
        "writes files",
        "Python",
        "network",
        "ends or blocks the process",
        UNKNOWN,
        PURE,
    ]


@pytest.mark.parametrize(
    ("effect", "names"),
    [
        (
            "reads files",
            "ReadFile MatchingFiles WholeFileReader WholeFileReaderV2 TextLineReader TextLineReaderV2 "
            "FixedLengthRecordReader FixedLengthRecordReaderV2 TFRecordReader TFRecordReaderV2 LMDBReader Restore "
            "RestoreV2 RestoreSlice LoadAndRemapMatrix ImmutableConst InitializeTableFromTextFile "
            "InitializeTableFromTextFileV2 DecodeProtoV2 EncodeProto TextLineDataset TFRecordDataset "
            "TFRecordDatasetV2 FixedLengthRecordDataset FixedLengthRecordDatasetV2 CSVDataset CSVDatasetV2 "
            "LMDBDataset SqlDataset MatchingFilesDataset LoadDataset SnapshotDatasetReader "
            "SnapshotNestedDatasetReader SnapshotChunkDataset ListSnapshotChunksDataset ExperimentalCSVDataset "
            "ExperimentalLMDBDataset ExperimentalSqlDataset ExperimentalMatchingFilesDataset GenerateVocabRemapping "
            "RecordInput FixedUnigramCandidateSampler Skipgram DTensorRestoreV2 ReaderReadV2",
        ),
        (
            "writes files",
            "WriteFile Save SaveV2 SaveSlices MergeV2Checkpoints SaveDataset SaveDatasetV2 SnapshotDataset "
            "SnapshotDatasetV2 CacheDataset CacheDatasetV2 DatasetToTFRecord ExperimentalDatasetToTFRecord "
            "DistributedSave CreateSummaryFileWriter CreateSummaryDbWriter WriteSummary WriteScalarSummary "
            "WriteImageSummary WriteAudioSummary WriteHistogramSummary WriteGraphSummary WriteRawProtoSummary "
            "ImportEvent PrintV2 DebugIdentity DebugIdentityV2 DebugIdentityV3 DebugNanCount DebugNumericSummary "
            "DumpTensor CalibrationStatisticsSaver",
        ),
        ("Python", "PyFunc PyFuncStateless EagerPyFunc"),
        (
            "network",
            "Send Recv _Send _Recv _HostSend _HostRecv CollectiveReduce CollectiveGatherV2 NcclAllReduce RemoteCall "
            "DataServiceDataset DataServiceDatasetV4 RegisterDataset RegisterDatasetV2 ConfigureDistributedTPU "
            "FileSystemSetConfiguration RpcCall RpcServerStart XlaHostCompute XlaSendToHost",
        ),
        ("ends or blocks the process", "Abort SleepOp SleepIdentityOp SleepDataset WorkerHeartbeat"),
        (UNKNOWN, "XlaCustomCall XlaCustomCallV2 MlirPassthroughOp NoSuchOperation Addons>GatherTree"),
        (
            PURE,
            "MatMul Const Placeholder Assert Print VarHandleOp VariableV2 HashTableV2 InitializeTableV2 "
            "LookupTableImportV2 RandomUniform TensorArrayV3 FIFOQueueV2 QueueDequeueV2 Stage Barrier IteratorGetNext "
            "TensorSliceDataset MapDataset DatasetFromGraph DatasetToGraphV2 GeneratorDataset OneShotIterator "
            "PartitionedCall StatefulPartitionedCall If While Case XlaCallModule DecodeJpeg ParseTensor MergeSummary "
            "DebugGradientIdentity DebugNumericSummaryV2 ShardedFilename CheckNumerics Timestamp IdentityReaderV2",
        ),
    ],
)
def test_effects(effect: str, names: str) -> None:
    assert {name: effect_of(name) for name in names.split()} == dict.fromkeys(names.split(), effect)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("MatMul", True), ("ReadFile", True), ("XlaCustomCall", True), ("matmul", False), ("Addons>GatherTree", False)],
)
def test_which_operations_are_known(name: str, expected: bool) -> None:
    assert is_known(name) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Addons>GatherTree", "tensorflow-addons"),
        ("GatherTree", "tf.contrib.seq2seq"),
        ("ImageProjectiveTransform", "ImageProjectiveTransformV3"),
        ("ResamplerGrad", "tf.contrib.resampler"),
        ("CompareAndBitpack", "left TensorFlow"),
        ("TFLite_Detection_PostProcess", "TensorFlow Lite"),
        ("TRTEngineOp", "TensorRT left TensorFlow with 2.18"),
        ("CreateTRTResourceHandle", "TensorRT left TensorFlow with 2.18"),
        ("SentencepieceTokenizeOp", "tensorflow-text"),
        ("SimpleMLInferenceOpWithHandle", "tensorflow_decision_forests"),
        ("_MklInputConversion", "use the graph as it was exported"),
        ("__inference_call_42", "a function that the file lacks"),
    ],
)
def test_hints(name: str, expected: str) -> None:
    assert expected in hint_for(name)


@pytest.mark.parametrize("name", ["", "NoSuchOperation", "MatMul", "_FusedMatMul", "__MklDummyConv2DWithBias"])
def test_no_hint(name: str) -> None:
    assert hint_for(name) == ""


def test_hints_are_for_operations_that_tensorflow_lacks() -> None:
    assert [name for name in DATA["hints"] if is_known(name)] == []
    assert all(hint and not hint.endswith(".") for hint in DATA["hints"].values())
