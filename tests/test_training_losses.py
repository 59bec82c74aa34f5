import pytest
import torch
from torch.nn import functional

from fxcli.recipe.schema import Train
from fxcli.training.losses import class_weights, loss


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(16, 5, generator=generator), torch.randint(5, (16,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_torchs(batch, smoothing, weighted):
    logits, labels = batch
    weights = torch.tensor([0.5, 1.0, 2.0, 3.0, 0.1]) if weighted else torch.ones(5)
    found = loss(logits, functional.one_hot(labels, 5).float(), weights, Train(label_smoothing=smoothing))
    expected = functional.cross_entropy(logits, labels, weight=weights, label_smoothing=smoothing)
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)


def test_soft_targets_are_a_mixture_of_hard_ones(batch):
    logits, labels = batch
    one, other = functional.one_hot(labels, 5).float(), functional.one_hot(labels.roll(1), 5).float()
    settings, weights = Train(), torch.ones(5)
    mixed = loss(logits, 0.3 * one + 0.7 * other, weights, settings)
    expected = 0.3 * loss(logits, one, weights, settings) + 0.7 * loss(logits, other, weights, settings)
    assert mixed.item() == pytest.approx(expected.item(), abs=1e-6)


def test_focal_is_the_formula_and_cross_entropy_at_gamma_zero(batch):
    logits, labels = batch
    targets, weights = functional.one_hot(labels, 5).float(), torch.ones(5)
    p = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    expected = (-((1 - p) ** 2) * p.log()).mean()
    assert loss(logits, targets, weights, Train(loss="focal")).item() == pytest.approx(expected.item(), abs=1e-6)
    plain = loss(logits, targets, weights, Train(loss="focal", focal_gamma=0.0))
    assert plain.item() == pytest.approx(loss(logits, targets, weights, Train()).item(), abs=1e-6)


def test_focal_has_a_finite_gradient_where_the_answer_is_certain():
    logits = torch.tensor([[60.0, 0.0]], requires_grad=True)
    loss(logits, torch.tensor([[1.0, 0.0]]), torch.ones(2), Train(loss="focal")).backward()
    assert torch.isfinite(logits.grad).all()


def test_balanced_weights_average_to_one_over_pictures():
    targets = [0, 0, 0, 1, 2, 2]
    weights = class_weights(Train(class_weights="balanced"), targets, 3)
    assert weights.tolist() == pytest.approx([6 / 9, 2.0, 1.0])
    assert weights[torch.tensor(targets)].mean().item() == pytest.approx(1.0)


def test_weights_are_ones_by_default():
    assert class_weights(Train(), [0, 0, 1], 2).tolist() == [1.0, 1.0]
