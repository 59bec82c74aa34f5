from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss

from fxcli.evaluation.bootstrap import mean
from fxcli.evaluation.comparison import compare_models
from fxcli.evaluation.figures import measured
from fxcli.evaluation.metrics import softmax
from fxcli.evaluation.predictions import Labelled
from fxcli.evaluation.study import Answers, compare, figures

CLASSES = ("a", "b", "c")


def answers(seeds=2, n=40, seed=0, leaked=True, gain=1.0):
    rng = np.random.default_rng(seed)
    targets = rng.integers(3, size=n)
    logits = rng.normal(size=(seeds, n, 3)) + gain * np.eye(3)[targets]
    groups = tuple(f"g{index // 2}" for index in range(n))
    said = Labelled(tuple(f"{i}.png" for i in range(n)), groups, targets, logits.astype(np.float32))
    values = np.where(np.arange(n) % 4 == 0, "yes", "no") if leaked else np.full(n, "")
    return Answers(said, values, CLASSES)


def test_by_hand():
    """Four pictures, two seeds: right are (1, 1, 0, 0) and (1, 0, 0, 0); the first and the third leaked."""
    right = np.array([[1, 1, 0, 0], [1, 0, 0, 0]])
    targets = np.array([0, 1, 0, 1])
    logits = np.zeros((2, 4, 2))
    for seed, picture in np.ndindex(2, 4):
        logits[seed, picture, targets[picture] if right[seed, picture] else 1 - targets[picture]] = np.log(3)
    said = Labelled(tuple("wxyz"), tuple("1234"), targets, logits)
    found = figures(Answers(said, np.array(["yes", "no", "yes", "no"]), ("a", "b")))
    assert (found["n"], found["n_groups"], found["seeds"]) == (4, 4, 2)
    assert found["accuracy_seeds"] == [0.5, 0.25]
    assert found["accuracy"]["value"] == 0.375
    assert (found["leaked"]["n"], found["leaked"]["accuracy"]["value"]) == (2, 0.5)
    assert (found["not_leaked"]["n"], found["not_leaked"]["accuracy"]["value"]) == (2, 0.25)
    # Right answers have a probability of 3/4, wrong ones leave 1/4 to the truth.
    assert found["nll"]["value"] == pytest.approx(-(3 * np.log(3 / 4) + 5 * np.log(1 / 4)) / 8)
    # Seed 0 says a b b a: both classes have F1 1/2. Seed 1 says a a b a: a has 2·1/(2+3), b has 0.
    assert found["macro_f1"]["value"] == pytest.approx((0.5 + (0.4 + 0) / 2) / 2)
    # Of a, w is right in both and y in none; of b, x is right once.
    assert {name: recall["value"] for name, recall in found["recall"].items()} == {"a": 0.5, "b": 0.25}


def test_a_class_without_pictures_has_no_recall():
    said = Labelled(("x",), ("1",), np.array([0]), np.zeros((1, 1, 2)))
    recall = figures(Answers(said, np.array([""]), ("a", "b")))["recall"]
    assert (recall["a"]["value"], recall["b"]) == (1.0, None)


def test_figures_are_those_of_scikit_learn_averaged_over_seeds():
    given = answers(seeds=3)
    said, found = given.said, figures(given)
    predicted = said.logits.argmax(axis=2)
    assert found["accuracy_seeds"] == pytest.approx([(each == said.targets).mean() for each in predicted])
    f1 = [f1_score(said.targets, each, average="macro") for each in predicted]
    assert found["macro_f1"]["value"] == pytest.approx(np.mean(f1))
    losses = [log_loss(said.targets, softmax(logits)) for logits in said.logits]
    assert found["nll"]["value"] == pytest.approx(np.mean(losses))


def test_every_interval_of_one_training_is_that_of_an_evaluation():
    given = answers(seeds=1, n=200)
    expected = measured(given.said.logits[0], given.said.targets, given.said.groups, CLASSES)
    found = figures(given)
    for name in ("accuracy", "macro_f1", "nll"):
        assert found[name] == pytest.approx(expected[name]), name
    for name in CLASSES:
        recall = found["recall"][name]
        # There it is Wilson's at the effective number of pictures.
        assert list(recall.values()) == pytest.approx(list(expected["per_class"][name]["recall"].values()), abs=0.03)


def test_every_interval_narrows_with_more_pictures():
    few, many = figures(answers(n=60)), figures(answers(n=960))
    for before, after in [(few[name], many[name]) for name in ("macro_f1", "nll")] + [
        (few["recall"][name], many["recall"][name]) for name in CLASSES
    ]:
        assert before["low"] < before["value"] < before["high"]
        assert after["high"] - after["low"] < (before["high"] - before["low"]) / 2


def test_seeds_are_averaged_before_the_bootstrap():
    given = answers()
    twice = Answers(
        Labelled(*[*vars(given.said).values()][:3], np.repeat(given.said.logits, 2, axis=0)), given.leaked, CLASSES
    )
    assert figures(twice)["accuracy"] == figures(given)["accuracy"]
    right = (given.said.logits.argmax(axis=2) == given.said.targets).mean(axis=0)
    assert figures(given)["accuracy"] == mean(right, given.said.groups, is_share=True).to_mapping()
    one = Answers(Labelled(*[*vars(given.said).values()][:3], given.said.logits[:1]), given.leaked, CLASSES)
    widths = [figures(each)["accuracy"]["high"] - figures(each)["accuracy"]["low"] for each in (given, one)]
    assert widths[0] < widths[1]


def test_all_right_is_not_certain():
    found = figures(answers(gain=1000.0))
    assert found["accuracy"]["value"] == 1.0
    assert 0.7 < found["accuracy"]["low"] < 1.0
    assert found["leaked"]["accuracy"]["low"] < found["accuracy"]["low"]


def test_pictures_that_do_not_say_whether_they_leaked_are_in_neither_part():
    found = figures(answers(leaked=False))
    assert found["leaked"] is found["not_leaked"] is None
    assert found["accuracy"]["value"] > 0


def test_a_comparison_is_that_of_the_trainings():
    a, b = answers(seeds=2), answers(seeds=3, gain=2.0)
    assert a.said.paths == b.said.paths
    b = Answers(Labelled(b.said.paths, b.said.groups, a.said.targets, b.said.logits), b.leaked, CLASSES)
    found = compare(a, b, ["x", "y"], "nll", primary=True)
    expected = compare_models(
        list(a.said.logits),
        list(b.said.logits),
        a.said.targets,
        a.said.groups,
        metric="nll",
        names=("x", "y"),
        primary=True,
    )
    assert found == expected
    assert (len(found.a_seeds), len(found.b_seeds)) == (2, 3)
    with pytest.raises(ValueError, match="x and y did not answer to the same pictures"):
        compare(a, answers(n=20), ["x", "y"], "nll", primary=True)


@pytest.mark.parametrize(("metric", "on"), [("nll", "leaked"), ("recall:b", None), ("recall:b", "not_leaked")])
def test_a_comparison_on_some_pictures_is_that_of_them_alone(metric, on):
    a, b = answers(seeds=2), answers(seeds=2, gain=2.0)
    inside = np.full(40, True) if on is None else a.leaked == {"leaked": "yes", "not_leaked": "no"}[on]
    inside &= True if metric == "nll" else a.said.targets == 1
    found = compare(a, b, ["x", "y"], metric, on=on, primary=False)
    expected = compare_models(
        list(a.said.logits[:, inside]),
        list(b.said.logits[:, inside]),
        a.said.targets[inside],
        np.array(a.said.groups)[inside],
        metric="nll" if metric == "nll" else "accuracy",
    )
    assert (found.metric, found.n) == (metric, inside.sum())
    assert (found.difference, found.p_value) == (expected.difference, expected.p_value)


def test_a_difference_in_recall_is_that_of_the_recalls():
    a, b = answers(seeds=2), answers(seeds=2, gain=2.0)
    recalls = [figures(each)["recall"]["b"]["value"] for each in (a, b)]
    found = compare(a, b, ["x", "y"], "recall:b", primary=False)
    assert found.difference.value == pytest.approx(recalls[1] - recalls[0])
    assert found.verdict.startswith("y is better in recall of b by ")


def test_pictures_that_differ_in_what_is_known_of_them_are_not_compared():
    a = answers()
    others = [
        replace(a, leaked=a.leaked[::-1]),
        replace(a, classes=("a", "b", "d")),
        replace(a, said=replace(a.said, groups=a.said.groups[::-1])),
        replace(a, said=replace(a.said, targets=a.said.targets[::-1])),
    ]
    for other in others:
        with pytest.raises(ValueError, match="did not answer to the same pictures"):
            compare(a, other, ["x", "y"], "accuracy", primary=False)
    unknown = answers(leaked=False)
    with pytest.raises(ValueError, match="no picture to compare x and y on: accuracy, leaked"):
        compare(unknown, unknown, ["x", "y"], "accuracy", on="leaked", primary=False)
    with pytest.raises(ValueError, match="no picture to compare x and y on: recall:d"):
        compare(a, a, ["x", "y"], "recall:d", primary=False)
