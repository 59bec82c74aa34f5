import numpy as np
import pytest

from fxcli.evaluation.disagreements import disagreements
from fxcli.evaluation.metrics import softmax


def logits_of(*probabilities):
    return np.log(np.array(probabilities))


def test_the_surest_contradictions_come_first_one_a_group():
    logits = logits_of([0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6], [0.6, 0.4], [0.95, 0.05])
    targets = np.array([1, 1, 1, 0, 0, 1])
    found = disagreements(logits, targets, ["p", "q", "p", "r", "s", "p"])
    assert [each.index for each in found] == [5, 1, 3, 0, 2]  # 4 agrees; 0 and 2 share the group of 5
    assert [(each.label, each.predicted) for each in found] == [(1, 0), (1, 0), (0, 1), (1, 0), (1, 0)]
    assert [each.p_predicted - each.p_label for each in found] == pytest.approx([0.9, 0.6, 0.2, 0.8, 0.4])
    assert (found[0].p_label, found[0].p_predicted) == (pytest.approx(0.05), pytest.approx(0.95))
    assert [each.index for each in disagreements(logits, targets)] == [5, 0, 1, 2, 3]
    assert disagreements(logits, targets, most=2) == disagreements(logits, targets)[:2]


def test_it_is_the_definition():
    rng = np.random.default_rng(0)
    logits, targets, groups = rng.normal(size=(200, 4)), rng.integers(4, size=200), rng.integers(60, size=200)
    p = softmax(logits)
    margins = {i: p[i].max() - p[i, targets[i]] for i in range(200) if p[i].argmax() != targets[i]}
    ranked, seen, first, rest = sorted(margins, key=lambda i: (-margins[i], i)), set(), [], []
    for i in ranked:
        (rest if groups[i] in seen else first).append(i)
        seen.add(groups[i])
    found = disagreements(logits, targets, groups)
    assert [each.index for each in found] == first + rest
    assert len(rest) > 20
    assert [each.p_predicted - each.p_label for each in found] == pytest.approx([margins[i] for i in first + rest])


def test_a_model_that_agrees_contradicts_nothing():
    assert disagreements(np.eye(3), np.arange(3)) == []
    assert disagreements(np.zeros((0, 3)), np.zeros(0, dtype=int)) == []
