import numpy as np
import pytest

from fxcli.evaluation import words
from fxcli.evaluation.binary import areas, rates
from fxcli.evaluation.figures import measured
from fxcli.evaluation.intervals import proportion
from fxcli.evaluation.metadata import Metadata
from fxcli.evaluation.metrics import softmax
from fxcli.evaluation.subgroups import by_value, studies

CLASSES = ("no", "yes")


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    targets = rng.integers(2, size=200)
    logits = rng.normal(size=(200, 2)) + np.eye(2)[targets]
    values = np.array(["north"] * 120 + ["south"] * 71 + ["west"] * 9)
    return values, logits, targets, np.concatenate([np.arange(191) // 2, np.arange(191, 200)])


def test_each_value_is_measured_by_itself(sample):
    values, logits, targets, groups = sample
    found = by_value(*sample, CLASSES, negative=0, threshold=0.4, resamples=200, seed=3)
    assert list(found) == ["north", "south", "west"]
    south, inside = found["south"], values == "south"
    part = logits[inside], targets[inside], groups[inside]
    right = part[0].argmax(1) == part[1]
    assert (south["n"], south["n_groups"], south["n_classes"], south["few"]) == (71, 36, 2, False)
    assert south["accuracy"] == proportion(right, part[2]).to_mapping()
    whole = measured(*part, CLASSES, resamples=200, seed=3)
    assert south["balanced_accuracy"] == whole["balanced_accuracy"]
    assert south["macro_f1"] == whole["macro_f1"]
    binary = softmax(part[0])[:, 1], part[1] == 1, part[2]
    for name in ("sensitivity", "specificity"):
        assert south[name] == rates(*binary, threshold=0.4)[name].to_mapping()
    assert south["auroc"] == areas(*binary, resamples=200, seed=3)["auroc"].to_mapping()


def test_what_columns_alone_tell_stands_beside_each_value(sample):
    values, _, targets, groups = sample
    metadata = Metadata(("site",), 10, targets + 0.1 * np.arange(200))
    found = by_value(*sample, CLASSES, negative=0, metadata=metadata, resamples=200, seed=3)
    inside = values == "south"
    alone = areas(metadata.scores[inside], targets[inside] == 1, groups[inside], resamples=200, seed=3)
    assert found["south"]["metadata_auroc"] == alone["auroc"].to_mapping()
    assert found["west"]["metadata_auroc"] is None
    assert "metadata_auroc" not in by_value(*sample, CLASSES, metadata=metadata, resamples=50)["north"]


def test_few_groups_are_flagged_and_only_counted(sample):
    west = by_value(*sample, CLASSES, negative=0, resamples=50)["west"]
    assert (west["n_groups"], west["few"]) == (9, True)
    assert west["balanced_accuracy"] is west["macro_f1"] is west["auroc"] is None
    assert west["accuracy"]["high"] - west["accuracy"]["low"] > 0.4
    assert west["sensitivity"] is not None


def test_without_a_finding_there_is_no_sensitivity(sample):
    found = by_value(*sample, CLASSES, resamples=50)["north"]
    assert set(found) == {"n", "n_groups", "n_classes", "few", "accuracy", "balanced_accuracy", "macro_f1"}


def test_values_of_one_class_have_no_specificity(sample):
    _, logits, targets, groups = sample
    found = by_value(np.where(targets == 1, "yes", ""), logits, targets, groups, CLASSES, negative=0, resamples=50)
    assert list(found) == ["", "yes"]
    assert found["yes"]["specificity"] is found["yes"]["auroc"] is found[""]["sensitivity"] is None
    assert found["yes"]["n_classes"] == 1
    assert found["yes"]["balanced_accuracy"]["value"] == found["yes"]["accuracy"]["value"]


def test_a_study_is_the_mean_of_its_pictures():
    logits = np.array([[1.0, 0.0], [3.0, 2.0], [0.0, 5.0], [2.0, 1.0]], dtype=np.float32)
    found = studies(["s2", "s1", "s1", "s2"], logits, np.array([0, 1, 1, 0]))
    assert found.names == ["s1", "s2"]
    assert found.logits.tolist() == [[1.5, 3.5], [1.5, 0.5]]
    assert found.targets.tolist() == [1, 0]
    assert len(set(found.groups)) == 2


def test_studies_that_share_a_group_share_one():
    # a and b share the patient p; b and c the set of duplicates q; d stands alone
    column, groups = ["a", "a", "b", "b", "c", "d"], ["p", "x", "p", "q", "q", "z"]
    found = studies(column, np.zeros((6, 2)), np.zeros(6, dtype=int), groups)
    a, b, c, d = found.groups
    assert a == b == c != d


def test_studies_are_those_of_a_loop():
    rng = np.random.default_rng(1)
    study_of = rng.integers(40, size=150)
    logits, targets = rng.normal(size=(150, 3)), (study_of * 7) % 3
    found = studies(study_of, logits, targets, study_of // 2)
    for row, name in enumerate(found.names):
        inside = study_of == int(name)
        assert found.logits[row] == pytest.approx(logits[inside].mean(axis=0))
        assert found.targets[row] == targets[inside][0]
    pairs = {int(name) // 2: group for name, group in zip(found.names, found.groups, strict=True)}
    assert [pairs[int(name) // 2] for name in found.names] == found.groups.tolist()
    assert len(set(pairs.values())) == len(pairs)


def test_a_study_with_two_labels_is_named():
    with pytest.raises(ValueError, match="pictures of the study 's1' have different labels"):
        studies(["s1", "s2", "s1"], np.zeros((3, 2)), np.array([0, 1, 1]))
    with pytest.raises(ValueError, match="'s1' and 1 more have"):
        studies(["s1", "s2", "s1", "s2"], np.zeros((4, 2)), np.array([0, 1, 1, 0]))


@pytest.mark.parametrize("names", [("ankle", "wrist"), ("wrist", "zygoma")])
def test_a_small_value_hides_no_figure_of_others(sample, names):
    _, logits, targets, groups = sample
    small = np.arange(200) < 4
    values = np.where(small == (names[0] == "ankle"), *names)
    columns, rows = words.by_value("part", by_value(values, logits, targets, groups, CLASSES, negative=0, resamples=50))
    assert {"balanced_accuracy", "macro_f1", "auroc"} <= set(columns)
    few = rows[names[0] != "ankle"]
    assert few[columns.index("auroc")] == "–"
    assert words.by_value("part", {}) == (["part", "n", "groups"], [])
