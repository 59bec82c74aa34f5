import json

import numpy as np
import pytest

from fxcli.evaluation import binary, calibration, conformal, novelty, selective, uncertainty
from fxcli.evaluation.metrics import softmax
from fxcli.evaluation.predictions import Labelled
from fxcli.evaluation.uncertainty import Uncertainty
from fxcli.recipe.schema import Evaluate

CLASSES = ("none", "a", "b")


@pytest.fixture
def said():
    """200 pictures in pairs, half of them called right; overconfident by a factor of 3."""
    rng = np.random.default_rng(0)
    targets = rng.integers(3, size=200)
    logits = 3 * (rng.normal(size=(200, 3)) + 1.5 * np.eye(3)[targets])
    groups = tuple(f"g{number // 2}" for number in range(200))
    distances = rng.gamma(4, size=200)
    return Labelled(tuple(map(str, range(200))), groups, targets, logits[None].astype(np.float32), distances)


@pytest.fixture
def folds():
    return np.arange(200) // 2 % 2


def fitted(said, folds=None, **settings):
    return uncertainty.fit(said, Evaluate(**settings), CLASSES, source="oof", folds=folds)


def test_it_is_fitted_by_the_modules_that_have_the_statistics(said, folds):
    found = fitted(said, folds, coverage=0.8, negative_class="none")
    temperature = calibration.fit_temperature(said.mean_logits, said.targets)
    logits = said.mean_logits / temperature
    assert (found.temperature, found.n, found.n_groups, found.source) == (temperature, 200, 100, "oof")
    assert temperature > 1.5
    assert found.sets == conformal.fit(logits, said.targets, said.groups, alpha=1 - 0.8, folds=folds)
    for target, threshold in found.abstentions:
        assert threshold == selective.abstention(logits, said.targets, said.groups, target=target).threshold
    assert found.unlike == novelty.threshold(said.distances, said.groups)
    finding = 1 - softmax(logits)[:, 0]
    assert found.threshold == binary.at_sensitivity(finding, said.targets != 0, 0.95)
    assert (finding[said.targets != 0] >= found.threshold).mean() >= 0.95


def test_it_is_said_of_a_picture(said, folds):
    found = fitted(said, folds)
    members = said.mean_logits[:4]
    told = found.say(members, found.unlike + 0.1, folds=[[0, 2], [1, 3]])
    mean = members.mean(axis=0) / found.temperature
    assert told.probabilities == pytest.approx(softmax(mean))
    by_fold = np.stack([members[[0, 2]].mean(axis=0), members[[1, 3]].mean(axis=0)])[None] / found.temperature
    assert told.classes.tolist() == found.sets.sets(by_fold, np.array([mean.argmax()]))[0].tolist()
    assert told.unlike is True
    assert found.say(members, found.unlike - 0.1).unlike is False
    assert found.say(members, None) == (pytest.approx(told.probabilities), None, None)


def test_without_any_nothing_changes(said):
    told = Uncertainty().say(said.mean_logits[:1], 3.0, folds=[[0]])
    assert told.probabilities == pytest.approx(softmax(said.mean_logits[0]))
    assert (told.classes, told.unlike) == (None, None)
    assert uncertainty.from_mapping(None, 3, 1) == Uncertainty()


def test_an_error_between_two_that_were_fitted_takes_the_stricter(said):
    found = Uncertainty(abstentions=((0.2, 0.9), (0.3, 0.6)))
    assert [found.abstains_below(error) for error in (0.1, 0.2, 0.25, 0.3, 1.0)] == [None, 0.9, 0.9, 0.6, 0.6]


@pytest.mark.parametrize("negative", [None, "none"])
def test_it_survives_a_header(said, folds, negative):
    found = fitted(said, folds, negative_class=negative, per_class_sets=True)
    again = uncertainty.from_mapping(json.loads(json.dumps(found.to_mapping())), 3, 2)
    assert again == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0}, "temperature is 0"),
        ({"temperature": 10**400}, "temperature is 1000"),
        ({"temperature": 1e-300}, "temperature is 1e-300"),
        ({"temperature": None}, "temperature is None"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"unlike": "far"}, "unlike is far"),
        ({"threshold": -1}, "threshold is -1"),
        ({"n": "many"}, "no counts"),
        ({"abstentions": [[0.1]]}, "rows of 2"),
        ({"abstentions": 3}, "rows of 2"),
        ({"abstentions": [[0.1, "x"]]}, "abstentions is x"),
        ({"curve": [[0.1, 0.2]]}, "rows of 3"),
        ({"sets": {"method": "cv+"}}, "conformal"),
        ({"more": 1}, "not a mapping"),
    ],
)
def test_a_header_that_says_something_else_is_refused(said, folds, change, message):
    values = fitted(said, folds).to_mapping() | change
    with pytest.raises(ValueError, match=message):
        uncertainty.from_mapping(values, 3, 2)
    with pytest.raises(ValueError, match="not a mapping"):
        uncertainty.from_mapping([], 3, 2)


def test_sets_of_other_folds_than_the_members_are_refused(said, folds):
    with pytest.raises(ValueError, match="sets are of 2 folds, the model of 1"):
        uncertainty.from_mapping(fitted(said, folds).to_mapping(), 3, 1)
