"""Heat maps against boxes: by hand, by simulation, and the methods against pytorch-grad-cam."""

import warnings

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from fxcli.evaluation import words
from fxcli.explain import faithfulness, gradcam
from fxcli.model import classifier as models
from fxcli.recipe.schema import Model
from fxcli.zoo.plugins import load_zoo

BOX = np.array([[10.0, 20, 30, 40]])


def network(name="resnet18"):
    spec = load_zoo().backbone(name)
    return models.build(spec, Model(backbone=name, init="random"), 64, 5, seed=3).eval(), spec


def heat(x, y, shape=(60, 80)):
    found = np.zeros(shape)
    found[y, x] = 1
    return found


def test_by_hand():
    hit = faithfulness.scored(heat(15, 25), BOX)
    assert (hit["pointing"], hit["energy"], hit["blank"]) == (1, 1, 0)
    assert hit["area"] == pytest.approx(400 / 4800)
    miss = faithfulness.scored(heat(50, 25), BOX)
    assert (miss["pointing"], miss["energy"]) == (0, 0)
    half = heat(15, 25) + heat(50, 25)
    assert faithfulness.scored(half, BOX)["pointing"] == 0.5
    assert faithfulness.scored(half, BOX)["energy"] == 0.5


def test_two_boxes_are_one_place():
    both = np.array([[10.0, 20, 30, 40], [20, 20, 40, 40]])
    assert faithfulness.scored(heat(35, 25), both)["area"] == pytest.approx(600 / 4800)


def test_a_map_without_evidence_counts_as_a_random_one():
    found = faithfulness.scored(np.zeros((60, 80)), BOX)
    assert found["blank"] == 1
    assert found["pointing"] == found["energy"] == found["area"]


def test_the_centre_prior():
    middle = faithfulness.scored(heat(0, 0), np.array([[30.0, 20, 50, 40]]))
    corner = faithfulness.scored(heat(0, 0), np.array([[0.0, 0, 20, 20]]))
    assert (middle["centre_pointing"], corner["centre_pointing"]) == (1, 0)
    assert middle["centre_energy"] > 2 * middle["area"]
    assert corner["centre_energy"] < corner["area"]


@pytest.mark.parametrize(
    ("box", "held"),
    [
        ([0.0, 0, 0.2, 0.2], (slice(1), slice(1))),
        ([79.9, 59.9, 80, 60], (slice(59, 60), slice(79, 80))),
        ([-3.0, -3, 4, 5], (slice(5), slice(4))),
        ([76.0, 50, 90, 90], (slice(50, 60), slice(76, 80))),
        ([-9.0, -9, -3, -3], (slice(1), slice(1))),
    ],
)
def test_a_box_holds_at_least_a_pixel_within_the_picture(box, held):
    expected = np.zeros((60, 80), dtype=bool)
    expected[held] = True
    assert (faithfulness.inside(np.array([box]), (60, 80)) == expected).all()


def test_random_maps_have_no_lift():
    rng = np.random.default_rng(0)
    scores = [faithfulness.scored(rng.random((60, 80)), BOX) for _ in range(600)]
    told = faithfulness.summary(scores, resamples=300)
    for name in ("pointing_lift", "energy_lift"):
        assert told[name]["low"] < 1 < told[name]["high"], name
    assert told["n"] == 600
    assert told["blank"] == 0


@pytest.mark.parametrize(("central", "is_endless"), [(1, True), (8, False)])
def test_a_quotient_may_have_no_end(central, is_endless):
    """With one picture of 40 whose box lies in the middle, a third of all resamples have none."""
    corner = heat(1, 1, (20, 20))
    places = [(8, 8, 12, 12)] * central + [(0, 0, 3, 3)] * (40 - central)
    told = faithfulness.summary([faithfulness.scored(corner, np.array([place])) for place in places])
    lift = told["pointing_centre_lift"]
    assert (lift["high"] is None) == is_endless
    assert lift["low"] <= lift["value"]
    assert words.told({"value": 2.0, "low": 1.0, "high": None}) == "2.000 [1.000, ∞]"


def test_the_centre_prior_has_no_lift_over_itself():
    rng = np.random.default_rng(1)
    bump = np.outer(faithfulness._bump(60), faithfulness._bump(80))
    boxes = [np.array([[x, y, x + 20, y + 20]]) for x, y in rng.uniform(0, 40, (50, 2))]
    told = faithfulness.summary([faithfulness.scored(bump, box) for box in boxes], resamples=200)
    assert told["energy_centre_lift"]["value"] == pytest.approx(1)
    assert told["energy_lift"]["value"] > 1


def test_groups_widen_the_interval():
    rng = np.random.default_rng(2)
    scores = [faithfulness.scored(heat(*rng.integers(0, 60, 2)), BOX) for _ in range(10) for _ in range(1)] * 8
    alone = faithfulness.summary(scores, resamples=400)["energy"]
    grouped = faithfulness.summary(scores, [i % 10 for i in range(80)], resamples=400)["energy"]
    assert grouped["high"] - grouped["low"] > alone["high"] - alone["low"]


def test_rank_correlation_is_that_of_scipy():
    rng = np.random.default_rng(3)
    one, other = rng.random((7, 7)).round(1), rng.random((7, 7))
    expected = spearmanr(one.ravel(), other.ravel()).statistic
    assert faithfulness.rank_correlation(one, other) == pytest.approx(expected)
    assert np.isnan(faithfulness.rank_correlation(one, np.zeros((7, 7))))


# --- the methods ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "theirs"), [("gradcam", "GradCAM"), ("gradcam++", "GradCAMPlusPlus"), ("layercam", "LayerCAM")]
)
@pytest.mark.parametrize("stage", ["layer4", "layer3", "layer2"])
def test_methods_are_those_of_pytorch_grad_cam(method, theirs, stage):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    classifier, _ = network()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    layer = classifier.backbone.get_submodule(stage)
    ((activation, gradient),) = gradcam.taken(classifier, images, torch.tensor([1, 3]), [layer])
    # The logits of an untrained network hardly depend on anything: at their scale pytorch-grad-cam's ε would decide.
    with getattr(pytorch_grad_cam, theirs)(model=classifier, target_layers=[layer]) as oracle:
        with torch.no_grad():
            classifier.head.weight.mul_(1000)
        ((activation, gradient),) = gradcam.taken(classifier, images, torch.tensor([1, 3]), [layer])
        found = gradcam.METHODS[method](activation, gradient).relu()
        expected = oracle(images, [ClassifierOutputTarget(1), ClassifierOutputTarget(3)])
    assert found.max() > 0, "blank maps alone would show nothing"
    for mine, their in zip(found, expected, strict=True):
        if mine.max() == 0:
            assert their.max() == 0
            continue
        up = torch.nn.functional.interpolate(mine[None, None], size=(64, 64), mode="bilinear")[0, 0]
        assert np.corrcoef(up.ravel(), their.ravel())[0, 1] > 0.97
    assert found.min() >= 0


def test_several_layers_at_once_are_each_alone():
    classifier, spec = network()
    images, targets = torch.rand(2, 3, 64, 64), torch.tensor([0, 4])
    layers = [classifier.backbone.get_submodule(stage.modules[-1]) for stage in spec.stages]
    together = gradcam.taken(classifier, images, targets, layers)
    for layer, (activation, gradient) in zip(layers, together, strict=True):
        ((alone, its),) = gradcam.taken(classifier, images, targets, [layer])
        assert torch.allclose(activation, alone, atol=1e-6)
        assert torch.allclose(gradient, its, atol=1e-7)
    assert not any(layer._forward_hooks for layer in layers)
