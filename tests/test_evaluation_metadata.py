import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fxcli.evaluation.metadata import metadata_alone


def drawn(n, seed):
    """Hardware on a third of the pictures, always with a finding; elsewhere hands have one less often than legs."""
    rng = np.random.default_rng(seed)
    hardware, hand = rng.random(n) < 0.3, rng.random(n) < 0.5
    positive = hardware | (rng.random(n) < np.where(hand, 0.1, 0.4))
    return {"hardware": hardware.astype(int).astype(str), "hand": hand.astype(int).astype(str)}, positive


def test_finds_the_order_that_the_columns_imply():
    learnt, positive = drawn(4000, 0)
    asked, truth = drawn(1000, 1)
    found = metadata_alone(learnt, positive, asked)
    assert (found.columns, found.n_learnt) == (("hardware", "hand"), 4000)
    # The best that can be known of them: the true chance of each combination.
    best = np.where(asked["hardware"] == "1", 1.0, np.where(asked["hand"] == "1", 0.1, 0.4))
    told = found.to_mapping(truth)
    assert told["auroc"]["value"] == pytest.approx(roc_auc_score(truth, best), abs=1e-9)
    assert told["auroc"]["low"] < told["auroc"]["value"] < told["auroc"]["high"]
    without = asked["hardware"] == "0"
    assert found.auroc(truth[without], inside=without)["value"] == pytest.approx(
        roc_auc_score(truth[without], best[without])
    )


def test_values_that_it_never_saw_tell_nothing():
    learnt, positive = drawn(400, 0)
    found = metadata_alone(learnt, positive, {"hardware": ["?", "?"], "hand": ["?", "?"]})
    assert found.scores[0] == found.scores[1]
    assert found.auroc(np.array([True, False]))["value"] == 0.5


def test_columns_that_say_nothing_are_chance():
    rng = np.random.default_rng(0)
    found = metadata_alone(
        {"site": rng.choice(["a", "b"], 500)}, rng.random(500) < 0.5, {"site": rng.choice(["a", "b"], 500)}
    )
    told = found.auroc(rng.random(500) < 0.5)
    assert told["low"] < 0.5 < told["high"]


@pytest.mark.parametrize(("columns", "positive"), [({}, []), ({"site": ["a", "b"]}, [True, True]), ({"site": []}, [])])
def test_without_anything_to_learn_from_there_is_none(columns, positive):
    assert metadata_alone(columns, positive, columns) is None
