import copy
import json

import numpy as np
import pytest

from fxcli.evaluation.conformal import STORED_SCORES, fit
from fxcli.evaluation.conformal_header import from_mapping, to_mapping


def fitted(folds, per_class):
    rng = np.random.default_rng(1)
    targets = rng.integers(3, size=240)
    logits = rng.normal(size=(240, 3)) + np.eye(3)[targets]
    groups = np.concatenate([np.arange(180), rng.integers(180, size=60)])
    return fit(logits, targets, groups, folds=groups % folds, per_class=per_class)


CROSS = to_mapping(fitted(4, per_class=True))


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("folds", [1, 4])
def test_it_is_read_back_the_same(per_class, folds):
    written = fitted(folds, per_class)
    text = json.dumps(to_mapping(written), allow_nan=False)
    read = from_mapping(json.loads(text), 3)
    assert read == written
    new = np.random.default_rng(2).normal(size=(60, folds, 3))
    assert (read.sets(new) == written.sets(new)).all()
    # One number for split conformal, at most two for each picture and table otherwise
    assert len(text) < (600 if folds == 1 else 30 * 240 * (1 + per_class))


def test_a_set_that_excludes_nothing_is_read_back():
    written = fit(np.eye(3), np.arange(3), None)
    read = from_mapping(json.loads(json.dumps(to_mapping(written))), 3)
    assert read == written
    assert read.sets(np.eye(3)).all()


def changed(path, value):
    values = copy.deepcopy(CROSS)
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return values


FOLD = ("marginal", "folds", 0)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("alpha",), 0, "alpha is 0.0"),
        (("alpha",), "0.1", "alpha holds"),
        (("alpha",), float("nan"), "alpha holds"),
        (("alpha",), True, "alpha holds"),
        (("method",), "split", "method is not 'cv\\+'"),
        (("method",), None, "method is not"),
        (("more",), 1, "conformal is not a mapping of alpha, groups"),
        (("groups_per_class",), [1, 2], "not a list of 3"),
        (("groups_per_class",), {"0": 1}, "not a list of 3"),
        (("groups_per_class",), [1, 2, 3.0], "whole number"),
        (("groups_per_class",), [1, 2, -3], "whole number"),
        (("groups_per_class",), [1, 2, True], "whole number"),
        (("per_class",), 1, "per_class is not true or false"),
        (("per_class",), False, "denies what own holds"),
        (("own",), [], "own is not a mapping"),
        (("own",), {str(i): {} for i in range(9)}, "own is not a mapping"),
        (("own",), {"3": CROSS["own"]["0"]}, "the class '3', and there are 3"),
        (("own",), {"00": CROSS["own"]["0"]}, "the class '00'"),
        (("own", "0", "folds"), CROSS["own"]["0"]["folds"][:2], "own 0 has 2 folds"),
        (("own", "0", "n_groups"), 49, "own 0 counts|49 groups"),
        (("marginal",), None, "marginal is not a mapping"),
        (("marginal", "n_groups"), 0, "marginal has no groups"),
        (("marginal", "n_groups"), 10**400, "marginal n_groups holds"),
        (("marginal", "n_groups"), 100, "counts more than its 100 groups"),
        (("marginal", "folds"), [], "1…1000 folds"),
        (("marginal", "folds"), [{}] * 1001, "1…1000 folds"),
        (FOLD, [], "fold 0 is not a mapping"),
        ((*FOLD, "scores"), "0.1", "is not a list"),
        ((*FOLD, "scores"), [0.5] * (STORED_SCORES + 1), "at most 4000"),
        ((*FOLD, "scores"), [0.5], "1 scores and"),
        ((*FOLD, "scores"), [10**400], "numbers of 0"),
        ((*FOLD, "scores"), [float("inf")], "numbers of 0"),
        ((*FOLD, "scores"), [-0.1], "numbers of 0"),
        ((*FOLD, "scores"), [[0.1]], "numbers of 0"),
        (FOLD, {"scores": [0.2, 0.2], "counts": [1, 2]}, "scores do not ascend"),
        (FOLD, {"scores": [0.2, 1.2], "counts": [1, 2]}, "scores do not ascend"),
        (FOLD, {"scores": [0.2, 0.4], "counts": [2, 1]}, "counts do not ascend"),
        (FOLD, {"scores": [0.2, 0.4], "counts": [0, 1]}, "counts do not ascend"),
    ],
)
def test_a_hostile_header_is_refused(path, value, message):
    with pytest.raises(ValueError, match=message):
        from_mapping(changed(path, value), 3)


@pytest.mark.parametrize("values", [None, [], "text", 3, {}])
def test_something_else_is_refused(values):
    with pytest.raises(ValueError, match="conformal is not a mapping"):
        from_mapping(values, 3)


def test_the_unchanged_header_is_accepted():
    assert to_mapping(from_mapping(CROSS, 3)) == CROSS
    with pytest.raises(ValueError, match="not a list of 4"):
        from_mapping(CROSS, 4)
