import pytest
from descriptions import training, variable
from graphs import node

from engine.model.describing.training import Leftover, find_leftovers, training_kind


@pytest.mark.parametrize(
    ("name", "op", "expected"),
    [
        ("a", "ApplyAdam", "optimizer"),
        ("a", "ResourceSparseApplyAdagrad", "optimizer"),
        ("gradients/a", "ApplyAdam", "optimizer"),
        ("a", "ApproximateEqual", ""),
        ("a", "SaveV2", "saving and restoring"),
        ("a", "RestoreSlice", "saving and restoring"),
        ("save/filename", "PlaceholderWithDefault", "saving and restoring"),
        ("save_1/Const", "Const", "saving and restoring"),
        ("saver_filename", "Placeholder", "saving and restoring"),
        ("saved/dense", "MatMul", ""),
        ("my_save/x", "MatMul", ""),
        ("a", "ScalarSummary", "summaries"),
        ("a", "WriteHistogramSummary", "summaries"),
        ("gradients/dense/MatMul_grad/MatMul", "MatMul", "gradients"),
        ("tower_0/gradients_1/a", "Mul", "gradients"),
        ("gradients_of_things", "Mul", ""),
        ("a", "BiasAddGrad", "gradients"),
        ("a", "Conv2DBackpropFilter", "gradients"),
        ("a", "Conv2DBackpropInput", ""),
        ("a", "FIFOQueueV2", "queues and readers"),
        ("a", "IteratorGetNext", "queues and readers"),
        ("a", "RandomShuffleQueueV2", "queues and readers"),
        ("a", "TFRecordReaderV2", "queues and readers"),
        ("a", "ReadVariableOp", ""),
        ("a", "InitializeTableFromDataset", ""),
        ("a", "AssignSub", "assignments"),
        ("a", "AssignVariableOp", "assignments"),
        ("a", "ScatterUpdate", "assignments"),
        ("a", "ScatterNd", ""),
        ("a", "SparseSoftmaxCrossEntropyWithLogits", "losses"),
        ("a", "Softmax", ""),
        ("layer/dropout/u", "RandomUniform", "dropout"),
        ("noise", "RandomUniform", ""),
        ("a", "FusedBatchNormV3", "batch norm in training form"),
        ("a", "NoSuchOperation", ""),
    ],
)
def test_what_a_node_is_there_for(name: str, op: str, expected: str) -> None:
    assert training_kind(node(name, op)) == expected


def test_a_batch_norm_is_in_training_form_unless_it_says_no() -> None:
    made = node("norm", "FusedBatchNorm")
    made.attr["is_training"].b = True
    assert training_kind(made) == "batch norm in training form"
    made.attr["is_training"].b = False
    assert training_kind(made) == ""


def test_looking_changes_nothing() -> None:
    made = node("norm", "FusedBatchNormV3")
    training_kind(made)
    assert not made.attr


def test_leftovers_are_counted_by_kind_what_matters_first() -> None:
    inside = [node("dropout/u", "RandomUniform"), node("y", "Relu"), variable("w", 3)]
    outside = [node("s1", "SaveV2"), node("s2", "RestoreV2"), node("dropout_1/u", "RandomUniform"), variable("v", 3)]
    assert find_leftovers(inside, outside) == (
        Leftover("dropout", 1, 1, "dropout/u (RandomUniform)"),
        Leftover("saving and restoring", 0, 2, "s1 (SaveV2)"),
        Leftover("variables", 0, 1, "v (VariableV2)"),
    )
    assert find_leftovers([node("y", "Relu")], []) == ()


def test_leftovers_of_a_graph_saved_from_training() -> None:
    kinds = {each.kind for each in find_leftovers([], training().node)}
    assert kinds == {
        *(
            "optimizer",
            "gradients",
            "saving and restoring",
            "summaries",
            "assignments",
            "losses",
            "dropout",
            "variables",
        ),
    }
