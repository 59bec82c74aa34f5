import numpy as np
import pytest

from fxcli.evaluation.bootstrap import draws, tail_of
from fxcli.evaluation.intervals import proportion, tally, wilson
from fxcli.evaluation.metrics import softmax
from fxcli.evaluation.selective import MOST_TRIED, abstention, aurc, prefix_tallies, risk_coverage


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    targets = rng.integers(3, size=150)
    logits = (rng.normal(size=(150, 3)) + 2 * np.eye(3)[targets]).round(1)  # round: ties
    return logits, targets, rng.integers(80, size=150)


def test_the_curve_is_the_definition(sample):
    logits, targets, _ = sample
    found = risk_coverage(logits, targets)
    top, wrong = softmax(logits).max(1), softmax(logits).argmax(1) != targets
    falling = sorted(top, reverse=True)
    risks = [np.mean(wrong[top >= threshold]) for threshold in falling]
    assert found.risk == pytest.approx(risks)
    assert found.coverage.tolist() == [np.mean(top >= threshold) for threshold in falling]
    assert found.threshold.tolist() == falling
    assert aurc(logits, targets).value == pytest.approx(np.mean(risks))
    assert found.risk[-1] == wrong.mean()


def test_the_order_of_equal_answers_is_nothing():
    """A network that says the same of every picture knows nothing of its errors, whichever class comes first."""
    targets, logits = np.repeat([0, 1], [30, 70]), np.tile([1.0, 0.5], (100, 1))
    first, last = aurc(logits, targets, resamples=50), aurc(logits, targets[::-1], np.arange(100)[::-1], resamples=50)
    assert list(vars(first).values()) == pytest.approx(list(vars(last).values()))
    assert first.value == pytest.approx(0.7)
    assert risk_coverage(logits, targets).points() == ((1.0, 0.7, pytest.approx(0.622459)),)


def test_sure_errors_cost_more(sample):
    logits, targets, _ = sample
    assert aurc(-logits, targets).low > 2 * aurc(logits, targets).high
    right = aurc(np.eye(3) * 5, np.arange(3))
    assert (right.value, right.low) == (0.0, 0.0)
    assert right.high > 0.3
    wrong = aurc(np.eye(3) * 5, np.array([1, 2, 0]))
    assert (wrong.value, wrong.high) == (1.0, 1.0)
    assert wrong.low < 0.7


def test_the_interval_of_the_area_is_of_other_groups(sample):
    """The area of each resample by the definition, on the pictures themselves, copies next to each other."""
    logits, targets, groups = sample
    found = aurc(logits, targets, groups, resamples=200, seed=3)
    names, codes = np.unique(groups, return_inverse=True)
    areas = []
    for weights in np.concatenate(list(draws(len(names), 200, 3)), axis=1).T.astype(int):
        again = np.repeat(np.arange(150), weights[codes])
        areas.append(risk_coverage(logits[again], targets[again]).risk.mean())
    low, high = np.quantile(areas, [tail_of(len(names)), 1 - tail_of(len(names))])
    assert [found.low, found.high] == pytest.approx([low, high])
    assert high - low > 0.03
    alone = aurc(logits, targets, np.zeros(150))
    assert alone.high - alone.low > 0.7  # one group tells next to nothing of others


def test_errors_of_one_group_are_few_however_many_pictures_it_holds():
    """Of 100 groups of five with an error rate of 5 %, resamples alone held the truth in 85 of 100 cases."""
    groups, top = np.repeat(np.arange(40), 10), np.random.default_rng(0).uniform(0.5, 1, 400)
    found = aurc(np.log(np.stack([top, 1 - top], axis=1)), (groups == 0).astype(int), groups)
    assert found.high >= wilson(found.value, 40)[1]


def test_tallies_of_prefixes_are_those_of_each(sample):
    _, targets, groups = sample
    hits = targets == 0
    found = prefix_tallies(hits, groups)
    for count in (1, 2, 7, 60, 150):
        expected = tally(hits[:count], groups[:count])
        for name, values in vars(found).items():
            assert values[count - 1] == getattr(expected, name), (name, count)


@pytest.mark.parametrize("target", [0.05, 0.1, 0.15, 0.2, 0.3])
@pytest.mark.parametrize("grouped", [False, True])
def test_thresholds_are_tried_one_after_the_other(sample, target, grouped):
    logits, targets, groups = sample
    groups = groups if grouped else np.arange(150)
    top, wrong = softmax(logits).max(1), softmax(logits).argmax(1) != targets
    enough = next(n for n in range(1, 151) if proportion(np.zeros(n, bool), np.arange(n), 0.9).high <= target)
    expected = None
    for count in np.linspace(max(30, 2 * enough), 150, MOST_TRIED).round().astype(int):
        threshold = sorted(top, reverse=True)[count - 1]
        bound = proportion(wrong[top >= threshold], groups[top >= threshold], 0.9)
        if bound.high > target:
            break
        expected = threshold, (top >= threshold).mean(), bound
    found = abstention(logits, targets, groups if grouped else None, target=target)
    if expected is None:
        assert found is None
        assert target <= 0.1
    else:
        assert (found.threshold, found.coverage) == expected[:2]
        assert found.n == (top >= found.threshold).sum()
        assert found.error.value == expected[2].value
        assert [found.error.low, found.error.high] == pytest.approx([expected[2].low, expected[2].high])
        assert found.error.high <= target


@pytest.mark.parametrize(("target", "right"), [(0.3, 0.69), (0.1, 0.89)])
def test_the_promise_is_kept_where_confidence_says_nothing(target, right):
    """Of 400 draws in which every threshold is wrong, 5 % may find one; that the best of all is taken found 28 %."""
    rng, found = np.random.default_rng(0), 0
    for _ in range(400):
        top, targets = rng.uniform(0.34, 0.99, 900), (rng.random(900) > right).astype(int)
        logits = np.log(np.stack([top, (1 - top) / 2, (1 - top) / 2], axis=1))
        found += abstention(logits, targets, target=target) is not None
    assert found / 400 < 0.05 + 2 * (0.05 * 0.95 / 400) ** 0.5


def test_groups_of_alike_pictures_allow_less(sample):
    logits, targets, _ = sample
    copies = [np.repeat(values, 4, axis=0) for values in (logits, targets)]
    grouped = abstention(*copies, np.repeat(np.arange(150), 4), target=0.2)
    assert abstention(*copies, target=0.2).coverage > grouped.coverage


def test_pictures_of_equal_probability_are_answered_together():
    logits, targets = np.tile([1.0, 0.0], (130, 1)), np.repeat([0, 1], [100, 30])
    assert abstention(logits, targets, target=0.1) is None  # although none of the first hundred is wrong
    assert abstention(logits[:100], targets[:100], target=0.1).coverage == 1.0


def test_all_answers_are_given_where_few_are_wrong():
    logits = np.array([[3.0, 0.0]] * 200 + [[1.0, 0.0]] * 50)
    found = abstention(logits, np.zeros(250, dtype=int), target=0.05)
    assert found.coverage == 1.0
    assert found.threshold == pytest.approx(softmax(np.array([1.0, 0.0]))[0])
    assert abstention(logits, np.ones(250, dtype=int), target=0.05) is None
    assert abstention(logits[:9], np.zeros(9, dtype=int), target=0.05) is None
