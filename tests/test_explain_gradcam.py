import warnings

import numpy as np
import pytest
import torch

from fxcli.explain.gradcam import at_layer, at_output
from fxcli.inference.engines import joined
from fxcli.model import classifier as models
from fxcli.recipe.schema import Model
from fxcli.zoo.plugins import load_zoo


def network(name, size_px=64, seed=3):
    spec = load_zoo().backbone(name)
    return models.build(spec, Model(backbone=name, init="random"), size_px, 5, seed=seed).eval(), spec


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "demo_tiny"])
def test_output_and_layer_agree(name, demo_zoo):
    classifier, spec = network(name)
    images, targets = torch.rand(3, 3, 64, 64), torch.tensor([0, 4, 2])
    with torch.no_grad():
        maps = classifier.class_maps(classifier.backbone(images)).numpy()
    fast = torch.from_numpy(np.stack([at_output(one, target) for one, target in zip(maps, targets, strict=True)]))
    slow = at_layer([classifier], images, targets, spec.stages[-1].modules[-1])
    assert torch.allclose(fast, slow, atol=1e-6)
    assert fast.min() >= 0


def test_output_and_layer_agree_for_networks_that_answer_together(demo_zoo):
    """What speaks against a class in one of them counts against what speaks for it in the other."""
    members = [network("demo_tiny")[0], network("demo_tiny", seed=4)[0]]
    images, targets = torch.rand(3, 3, 64, 64), torch.tensor([0, 4, 2])
    with torch.no_grad():
        maps = joined([member.outputs(member.backbone(images)) for member in members]).maps.numpy()
    fast = np.stack([at_output(one, target) for one, target in zip(maps, targets, strict=True)])
    assert at_layer(members, images, targets, "body").numpy() == pytest.approx(fast, abs=1e-6)
    alone = [at_layer([member], images, targets, "body") for member in members]
    assert not np.allclose(torch.stack(alone).mean(dim=0), fast, atol=1e-6)


def test_a_layer_that_the_next_one_works_upon_in_place():
    class Backbone(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.after = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(inplace=True)

        def forward(self, images):
            return self.after(self.body(images))

    classifier = models.Classifier(Backbone(), 4, 3).eval()
    assert at_layer([classifier], torch.rand(2, 3, 9, 9), torch.tensor([0, 2]), "body").shape == (2, 7, 7)


@pytest.mark.parametrize("stage", ["layer4", "layer2"])
def test_against_pytorch_grad_cam(stage):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    classifier, _ = network("resnet18")
    images = torch.rand(2, 3, 64, 64)
    layer = classifier.backbone.get_submodule(stage)
    found = at_layer([classifier], images, torch.tensor([1, 3]), stage)
    with GradCAM(model=classifier, target_layers=[layer]) as oracle:
        expected = oracle(images, [ClassifierOutputTarget(1), ClassifierOutputTarget(3)])
    assert found.amax(dim=(1, 2)).max() > 0
    for mine, theirs in zip(found, expected, strict=True):
        if mine.max() == 0:
            assert theirs.max() == 0
            continue
        scaled = (mine - mine.min()) / (mine.max() - mine.min())
        up = torch.nn.functional.interpolate(scaled[None, None], size=(64, 64), mode="bilinear")[0, 0]
        assert np.corrcoef(up.ravel(), theirs.ravel())[0, 1] > 0.97


def test_the_map_adds_up_to_the_logit_before_the_relu(demo_zoo):
    classifier, _ = network("demo_tiny")
    # With weights and features ≥ 0 the relu cuts nothing: the sum is the logit without its bias.
    with torch.no_grad():
        classifier.head.weight.abs_()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        maps = classifier.class_maps(classifier.backbone(images)).numpy()
        logits = (classifier(images) - classifier.head.bias).numpy()
    for index, target in ((0, 1), (1, 2)):
        assert at_output(maps[index], target).sum() == pytest.approx(logits[index, target], abs=1e-4)


def test_nothing_is_left_behind(demo_zoo):
    classifier, _ = network("demo_tiny")
    layer = classifier.backbone.body
    at_layer([classifier], torch.rand(1, 3, 64, 64), torch.tensor([0]), "body")
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert not layer._forward_hooks
    with pytest.raises(RuntimeError):
        at_layer([classifier], torch.rand(1, 3, 64, 64), torch.tensor([9]), "body")
    assert not layer._forward_hooks


def test_an_all_zero_map_is_defined(demo_zoo):
    classifier, _ = network("demo_tiny")
    with torch.no_grad():
        classifier.head.weight.fill_(-1)
        maps = classifier.class_maps(torch.rand(1, 32, 4, 4)).numpy()[0]
    assert np.array_equal(at_output(maps, 0), np.zeros((4, 4), dtype=np.float32))
