from dataclasses import replace

import numpy as np
import pytest

from fxcli.evaluation.agreement import BF16, EXPORTED, INT8, Agreement, compare, pooled
from fxcli.evaluation.metrics import softmax


def logits_of(*probabilities):
    return np.log(np.array(probabilities))


EXACT = logits_of([0.8, 0.1, 0.1], [0.46, 0.44, 0.10], [0.2, 0.7, 0.1], [0.1, 0.3, 0.6])


def test_equal_answers_agree():
    found = compare(EXACT, EXACT, np.array([0, 1, 1, 2]))
    assert found == Agreement(n=4, agree=1.0, n_clear=3, agree_clear=1.0, mean_abs_dp=0.0, accuracy_drop=0.0)
    assert all(found.within(allowed) for allowed in (EXPORTED, BF16, INT8))


def test_a_close_call_may_flip_and_a_clear_one_may_not():
    close, clear = EXACT.copy(), EXACT.copy()
    close[1] = logits_of([0.445, 0.455, 0.10])[0]
    clear[0] = logits_of([0.1, 0.8, 0.1])[0]
    found = compare(EXACT, close)
    assert (found.agree, found.agree_clear) == (0.75, 1.0)
    assert found.within(BF16)
    assert not found.within(EXPORTED)  # every probability counts there
    found = compare(EXACT, clear)
    assert found.agree_clear == pytest.approx(2 / 3)
    assert not found.within(INT8)


def test_figures_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    exact, other = rng.normal(size=(50, 7)), rng.normal(size=(50, 7))
    targets = rng.integers(7, size=50)
    found = compare(exact, other, targets)
    assert found.mean_abs_dp == pytest.approx(
        np.mean([abs(a - b) for a, b in zip(softmax(exact).ravel(), softmax(other).ravel(), strict=True)])
    )
    leads = [sorted(row)[-1] - sorted(row)[-2] for row in softmax(exact)]
    assert found.n_clear == sum(lead > 0.1 for lead in leads)
    right = [(row.argmax() == target) for row, target in zip(exact, targets, strict=True)]
    wrong = [(row.argmax() == target) for row, target in zip(other, targets, strict=True)]
    assert found.accuracy_drop == pytest.approx(np.mean(right) - np.mean(wrong))


def test_accuracy_counts_where_it_is_limited():
    fine = Agreement(n=100, agree=0.99, n_clear=80, agree_clear=1.0, mean_abs_dp=0.001, accuracy_drop=0.03)
    assert fine.within(BF16)
    assert not fine.within(INT8)
    assert fine.to_mapping(INT8)["passes"] is False
    assert "accuracy -3.0 points" in fine.told()
    for none in (0.0, 0.0004, -0.0004):
        assert "accuracy +0.0 points" in replace(fine, accuracy_drop=none).told()


def test_without_a_clear_answer_all_count():
    close = logits_of([0.4, 0.35, 0.25], [0.36, 0.34, 0.3])
    found = compare(close, close[:, ::-1])
    assert (found.n_clear, found.agree_clear) == (0, 0.0)
    assert "of 2 pictures, none of which has a clear answer, mean" in found.told()


def test_a_header_is_read_back_or_not_at_all():
    found = compare(EXACT, EXACT)
    assert Agreement.from_mapping(found.to_mapping(BF16) | {"later": 1}) == found
    odd = [found.to_mapping(BF16) | {name: value} for name in ("n", "agree", "accuracy_drop") for value in ("3", True)]
    for other in ([], None, {}, {"n": 3}, *odd):
        assert Agreement.from_mapping(other) is None


def test_nothing_compared_is_no_agreement():
    assert not Agreement(n=0, agree=1.0, n_clear=0, agree_clear=1.0, mean_abs_dp=0.0).within(BF16)


def test_comparisons_of_parts_add_up_to_that_of_all():
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(90, 4))
    other = exact + 0.3 * rng.normal(size=(90, 4))
    whole = compare(exact, other)
    parts = pooled([compare(exact[a:b], other[a:b]) for a, b in ((0, 20), (20, 50), (50, 90))])
    assert whole.agree_clear < 1
    for name in ("n", "agree", "n_clear", "agree_clear", "mean_abs_dp"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name))
    unclear = compare(np.zeros((3, 2)), np.zeros((3, 2)))
    assert pooled([unclear, unclear]).agree_clear == 1
