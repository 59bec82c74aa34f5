import csv
import io

import numpy as np
import pytest

from fxcli.console import ASSUMES_FRACTURE, INTENDED_USE
from fxcli.errors import DataError
from fxcli.evaluation.metrics import softmax
from fxcli.evaluation.predictions import (
    Labelled,
    LabelledRow,
    PredictionTable,
    labelled_csv,
    notice,
    of_studies,
    read_labelled,
)

LOGITS = np.array([0.1, 2.3, -1.7], dtype=np.float32)
CLASSES = ("a", "b", "c")


@pytest.fixture
def said():
    rng = np.random.default_rng(0)
    return Labelled(
        paths=tuple(f"{number}.png" for number in range(6)),
        groups=("g0", "g0", "g1", "g1", "g2", "g3"),
        targets=np.array([0, 0, 1, 1, 2, 2]),
        logits=rng.normal(size=(2, 6, 3)).astype(np.float32),
        distances=np.arange(6, dtype=float),
        by_fold=rng.normal(size=(6, 2, 3)),
    )


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("status", ["ok", "error", "abstained"])
def test_cells_fit_the_columns(labelled, status):
    table = PredictionTable(CLASSES, {}, labelled=labelled, extra=("set", "unlike_training"))
    probabilities = None if status == "error" else softmax(LOGITS)
    extra = {} if status == "error" else {"set": ["a", "b"], "unlike_training": False}
    record = table.record("x.png", probabilities=probabilities, status=status, reason="no", label="c", **extra)
    row = dict(zip(table.columns, table.cells(record), strict=True))
    assert (row["path"], row["status"], row["reason"]) == ("x.png", status, "no")
    assert row["notice"] == f"{INTENDED_USE} {ASSUMES_FRACTURE}"
    assert row["assumes_fracture"] == "true"
    assert row["class"] == ("b" if status == "ok" else "")
    if status == "error":
        assert (row["p_a"], row["set"], row["unlike_training"]) == ("", "", "")
    else:
        assert sum(float(row[f"p_{name}"]) for name in "abc") == pytest.approx(1, abs=2e-6)
        assert (row["set"], row["unlike_training"]) == ("a|b", "false")
    if labelled:
        assert row["label"] == "c"


def test_what_a_model_assumes_follows_from_its_header():
    assert notice({"demo": True}).startswith("DEMO")
    assert notice({"negative_class": "none"}) == INTENDED_USE
    assert notice({"task": "pretrain"}) == INTENDED_USE
    assert notice({"task": "classify"}) == f"{INTENDED_USE} {ASSUMES_FRACTURE}"


def test_without_classes_rows_name_none():
    table = PredictionTable((), {"task": "pretrain"})
    assert table.columns == ["path", "status", "reason", "assumes_fracture", "notice"]
    assert table.cells(table.record("x.png")) == ["x.png", "ok", "", "false", INTENDED_USE]
    table = PredictionTable(CLASSES, {"negative_class": "a"})
    assert table.record("x")["assumes_fracture"] is False


def test_records():
    table = PredictionTable(CLASSES, {"demo": True})
    record = table.record("x.png", probabilities=softmax(LOGITS))
    assert record["class"] == "b"
    assert record["probabilities"]["b"] == pytest.approx(0.886, abs=1e-3)
    assert table.record("y", status="error", reason="gone") == {
        "path": "y",
        "status": "error",
        "reason": "gone",
        "assumes_fracture": True,
        "notice": notice({"demo": True}),
    }


def test_labelled_predictions_read_back_as_the_same_bits(said):
    again, classes = read_labelled(labelled_csv(said.rows(CLASSES), CLASSES, {}))
    assert classes == CLASSES
    assert (again.paths, again.groups) == (said.paths, said.groups)
    assert np.array_equal(again.logits[0], said.mean_logits)
    assert np.array_equal(again.targets, said.targets)
    assert np.array_equal(again.distances, said.distances)


def test_a_picture_that_could_not_be_used_keeps_its_place_and_is_not_measured(said):
    rows = list(said.rows(CLASSES))
    rows.insert(2, LabelledRow("gone.png", "a", "g9", reason="cut short"))
    text = labelled_csv(rows, CLASSES, {}, temperature=2.0)
    table = list(csv.DictReader(io.StringIO(text)))
    assert (table[2]["status"], table[2]["reason"], table[2]["label"]) == ("error", "cut short", "a")
    assert float(table[0]["p_a"]) == pytest.approx(softmax(said.mean_logits[0] / 2)[0], abs=1e-6)
    assert read_labelled(text)[0].paths == said.paths


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no predictions"),
        ("path,status,logit_a\nx,error,\n", "no predictions"),
        ("path,status,group,logit_a\nx,ok,,1\n", "lack 'distance'"),
        ("path,status,group,distance,label,logit_a\nx,ok,,1,b,1\n", "lack 'b'"),
        ("path,status,group,distance,label,logit_a\nx,ok,,1,a,one\n", "one"),
    ],
)
def test_other_texts_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        read_labelled(text)


def test_pictures_are_chosen_joined_and_seeds_stacked(said):
    part = said.chosen([4, 1])
    assert (part.paths, part.groups) == (("4.png", "1.png"), ("g2", "g0"))
    assert np.array_equal(part.logits, said.logits[:, [4, 1]])
    assert np.array_equal(part.by_fold, said.by_fold[[4, 1]])
    joined = Labelled.joined([said.chosen([0, 1]), said.chosen([2])])
    assert joined.paths == said.paths[:3]
    assert np.array_equal(joined.distances, [0, 1, 2])
    assert Labelled.of_seeds([said, said]).logits.shape == (4, 6, 3)
    with pytest.raises(ValueError, match="same pictures"):
        Labelled.of_seeds([said, part])


def test_studies_answer_by_the_mean_of_their_pictures(said):
    found = of_studies(said, ["s1", "s1", "s0", "s0", "s2", "s2"])
    assert found.paths == ("s0", "s1", "s2")
    assert found.targets.tolist() == [1, 0, 2]
    assert found.logits[1, 1] == pytest.approx(said.logits[1, :2].mean(axis=0))
    with pytest.raises(DataError, match="'s' have different labels"):
        of_studies(said, ["s"] * 6)
