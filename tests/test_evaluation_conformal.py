import numpy as np
import pytest
from crepes import ConformalClassifier

from fxcli.evaluation import conformal
from fxcli.evaluation.conformal import Steps, fit
from fxcli.evaluation.metrics import softmax


def pictures(rng, n, classes=4, signal=1.5):
    targets = rng.integers(classes, size=n)
    return rng.normal(size=(n, classes)) + signal * np.eye(classes)[targets], targets


def with_top(sets, logits):
    sets = sets.copy()
    sets[np.arange(len(sets)), softmax(logits).argmax(1)] = True
    return sets


def by_definition(scores, groups, folds, new, alpha):
    """Members [N, M, K] of new scores → sets, in loops, from the definition."""
    count = len(set(groups))
    sizes = {g: list(groups).count(g) for g in groups}
    sets = np.zeros((len(new), new.shape[2]), dtype=bool)
    for row, picture in enumerate(new):
        for label in range(new.shape[2]):
            share = sum(
                1 / ((count + 1) * sizes[g])
                for score, g, fold in zip(scores, groups, folds, strict=True)
                if score < picture[fold, label]
            )
            sets[row, label] = share < 1 - alpha - 1e-9
    return sets


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.23])
def test_split_sets_are_those_of_crepes(alpha):
    rng = np.random.default_rng(0)
    (logits, targets), (new, _) = pictures(rng, 150), pictures(rng, 80)
    oracle = ConformalClassifier()
    oracle.fit(1 - softmax(logits)[np.arange(150), targets])
    expected = oracle.predict_p(1 - softmax(new), smoothing=False) > alpha
    found = fit(logits, targets, None, alpha=alpha)
    assert found.method == "split"
    assert (found.sets(new) == with_top(expected, new)).all()
    assert expected.sum() > 80


def test_class_conditional_sets_are_those_of_crepes():
    rng = np.random.default_rng(1)
    (logits, targets), (new, _) = pictures(rng, 400), pictures(rng, 80)
    oracle = ConformalClassifier()
    oracle.fit(1 - softmax(logits)[np.arange(400), targets], bins=targets)
    of_class = [oracle.predict_p((1 - softmax(new))[:, k], bins=np.full(80, k), smoothing=False) for k in range(4)]
    expected = np.column_stack(of_class) > 0.1
    found = fit(logits, targets, np.arange(400), alpha=0.1, per_class=True)
    assert [index for index, _ in found.own] == [0, 1, 2, 3]
    assert (found.sets(new) == with_top(expected, new)).all()
    assert (found.sets(new) != fit(logits, targets, None, alpha=0.1).sets(new)).any()


@pytest.mark.parametrize("alpha", [0.1, 0.2])
@pytest.mark.parametrize("grouped", [False, True])
def test_cross_sets_are_the_definition(alpha, grouped):
    rng = np.random.default_rng(2)
    logits, targets = pictures(rng, 120)
    # 99 or 39 groups + 1: the border is hit exactly
    logits, targets = (logits[:99], targets[:99])
    groups = np.concatenate([np.arange(39), rng.integers(39, size=60)]) if grouped else np.arange(99)
    folds = groups % 3
    new = np.stack([pictures(rng, 40)[0] for _ in range(3)], axis=1)
    scores = np.ceil((1 - softmax(logits)[np.arange(99), targets]) * 1e6) / 1e6
    expected = by_definition(scores, groups, folds, 1 - softmax(new), alpha)
    top = np.zeros(40, dtype=int)
    expected[:, 0] = True
    found = fit(logits, targets, groups, alpha=alpha, folds=folds)
    assert found.method == "cv+"
    assert (found.sets(new, top) == expected).all()
    assert 0 < expected[:, 1:].mean() < 1


def test_weighted_split_sets_are_the_definition():
    rng = np.random.default_rng(3)
    (logits, targets), (new, _) = pictures(rng, 90), pictures(rng, 50)
    groups = np.concatenate([np.zeros(40), np.arange(1, 51)])
    logits[:40] *= -1  # one large and hard group
    scores = np.ceil((1 - softmax(logits)[np.arange(90), targets]) * 1e6) / 1e6
    expected = by_definition(scores, groups, np.zeros(90, dtype=int), 1 - softmax(new)[:, None], 0.15)
    assert (fit(logits, targets, groups, alpha=0.15).sets(new) == with_top(expected, new)).all()
    assert (fit(logits, targets, None, alpha=0.15).sets(new) != with_top(expected, new)).any()


def test_too_few_groups_exclude_nothing():
    logits, targets = pictures(np.random.default_rng(4), 60)
    found = fit(logits, targets, np.arange(60) % 8, alpha=0.1)
    assert found.marginal.folds == (Steps((), ()),)
    assert found.sets(logits).all()
    assert not fit(logits, targets, np.arange(60) % 9, alpha=0.1).sets(logits).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_a_score_equal_to_the_threshold_is_in(classes):
    """Nine alike pictures: their score, 1/2 or 2/3 with its digits beyond the sixth, is the threshold."""
    alike = np.zeros((9, classes))
    assert fit(alike, np.zeros(9, dtype=int), None, alpha=0.1).sets(alike).all()


def test_the_predicted_class_is_always_in():
    rng = np.random.default_rng(5)
    logits, targets = pictures(rng, 300, signal=9)
    vague = 0.01 * rng.normal(size=(20, 4))
    sets = fit(logits, targets, None, alpha=0.1).sets(vague)
    assert (sets.sum(axis=1) == 1).all()
    assert (sets.argmax(axis=1) == vague.argmax(axis=1)).all()


def test_rare_classes_share_the_threshold_of_all():
    rng = np.random.default_rng(6)
    logits, targets = pictures(rng, 400)
    targets[targets == 3] = 0
    targets[:49] = 3
    found = fit(logits, targets, None, per_class=True)
    assert [index for index, _ in found.own] == [0, 1, 2]
    (notice,) = found.notices("abcd")
    assert notice == "d: 49 groups are fewer than 50, so its sets use the threshold of all classes"
    assert fit(logits, targets, None).notices("abcd") == []
    targets[49] = 3
    assert fit(logits, targets, None, per_class=True).own[-1][0] == 3
    new = pictures(rng, 50)[0]
    top = np.zeros(50, dtype=int)
    assert (found.sets(new, top)[:, 3] == fit(logits, targets, None).sets(new, top)[:, 3]).all()


def test_all_classes_rare_tells_so():
    logits, targets = pictures(np.random.default_rng(6), 60)
    assert len(fit(logits, targets, None, per_class=True).notices("abcd")) == 4


def test_thinning_only_enlarges_sets(monkeypatch):
    rng = np.random.default_rng(7)
    (logits, targets), folds = pictures(rng, 600), np.arange(600) % 3
    new = np.stack([pictures(rng, 300)[0] for _ in range(3)], axis=1)
    whole = fit(logits, targets, None, folds=folds).sets(new)
    monkeypatch.setattr(conformal, "STORED_SCORES", 300)
    thin = fit(logits, targets, None, folds=folds)
    assert [len(steps.scores) for steps in thin.marginal.folds] == [100, 100, 100]
    assert [steps.counts[-1] for steps in thin.marginal.folds] == [200, 200, 200]
    assert (thin.sets(new) >= whole).all()
    assert (thin.sets(new) > whole).mean() < 0.02


@pytest.mark.parametrize("pictures_each", [1, 4])
def test_split_sets_hold_the_truth_as_promised(pictures_each):
    """Groups share how hard they are; a picture of a new group is tested. The promise: 1 − α to 1 − α + 1/(G + 1)."""
    rng = np.random.default_rng(8)
    held = []
    for _ in range(400):
        sizes = rng.integers(1, pictures_each + 1, size=50)
        groups = np.repeat(np.arange(50), sizes)
        hard = rng.exponential(1.5, size=50)
        targets = rng.integers(4, size=len(groups))
        logits = rng.normal(size=(len(groups), 4)) + hard[groups, None] * np.eye(4)[targets]
        new_targets = rng.integers(4, size=50)
        new = rng.normal(size=(50, 4)) + rng.exponential(1.5, size=(50, 1)) * np.eye(4)[new_targets]
        found = fit(logits, targets, groups, alpha=0.2)
        without_top = found.marginal.includes(1 - softmax(new)[:, None], 0.2)
        held.append(without_top[np.arange(50), new_targets])
    assert 0.79 < np.mean(held) < 0.83


def test_cross_sets_hold_the_truth_about_as_promised():
    """A nearest-centroid model trained anew in each fold: above 1 − 2α for certain, about 1 − α in practice."""
    rng = np.random.default_rng(9)
    held = []
    for _ in range(120):
        centres = rng.normal(size=(3, 5))
        targets, new_targets = rng.integers(3, size=60), rng.integers(3, size=100)
        features = centres[targets] + rng.normal(size=(60, 5))
        new = centres[new_targets] + rng.normal(size=(100, 5))
        folds, logits, members = rng.permutation(60) % 5, np.empty((60, 3)), []
        for fold in range(5):
            fitted = folds != fold
            means = np.stack([features[fitted & (targets == k)].mean(axis=0) for k in range(3)])
            answer = lambda x, m=means: -0.5 * ((x[:, None] - m) ** 2).sum(axis=2)  # noqa: E731
            logits[~fitted] = answer(features[~fitted])
            members.append(answer(new))
        sets = fit(logits, targets, None, alpha=0.2, folds=folds).sets(np.stack(members, axis=1))
        held.append(sets[np.arange(100), new_targets].mean())
    assert 0.79 < np.mean(held) < 0.87


@pytest.mark.parametrize(("groups", "folds", "proven"), [(900, 5, 0.791), (60, 5, 0.677), (60, 1, 0.9)])
def test_what_is_proven_counts_what_few_groups_cost(groups, folds, proven):
    """As the README has it: 0.01 at 900 groups in five folds, 0.12 at 60."""
    logits, targets = pictures(np.random.default_rng(0), groups)
    found = fit(logits, targets, None, folds=np.arange(groups) % folds)
    assert found.proven == pytest.approx(proven, abs=0.0005)


def test_what_cannot_be_fitted_is_refused():
    logits, targets = pictures(np.random.default_rng(10), 20)
    for alpha in (0.0, 1.0, -1):
        with pytest.raises(ValueError, match="0 < alpha < 1"):
            fit(logits, targets, None, alpha=alpha)
    with pytest.raises(ValueError, match="at least one picture"):
        fit(logits[:0], targets[:0], None)
    with pytest.raises(ValueError, match=r"numbered 0…1, not \[1, 2\]"):
        fit(logits, targets, None, folds=1 + np.arange(20) % 2)
    with pytest.raises(ValueError, match="several folds"):
        fit(logits, targets, np.arange(20) // 2, folds=np.arange(20) % 2)
    with pytest.raises(ValueError, match=r"1 members and 4 classes are needed, not \(2, 4\)"):
        fit(logits, targets, None).sets(np.zeros((3, 2, 4)))
