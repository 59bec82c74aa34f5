from dataclasses import replace

import pytest
import torch

from fxcli.model import classifier as models
from fxcli.model import freeze
from fxcli.recipe.schema import Model, Optim, PhaseModel


@pytest.fixture
def network(demo_zoo):
    spec = demo_zoo.backbone("demo_tiny")
    return models.build(spec, Model(backbone="demo_tiny", init="random"), 64, 3, seed=0), spec


def learning(network):
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def test_none_lets_everything_learn(network):
    classifier, spec = network
    freeze.apply(classifier, classifier.backbone, spec, PhaseModel(freeze="none"))
    assert learning(classifier) == {name for name, _ in classifier.named_parameters()}
    assert all(module.training for module in classifier.modules())


def test_all_leaves_the_head(network):
    classifier, spec = network
    freeze.apply(classifier, classifier.backbone, spec, PhaseModel(freeze="all"))
    assert learning(classifier) == {"head.weight", "head.bias"}
    assert not any(module.training for module in classifier.backbone.modules())
    assert classifier.dropout.training


def test_until_is_inclusive(network):
    classifier, spec = network
    freeze.apply(classifier, classifier.backbone, spec, PhaseModel(freeze="until:stem"))
    assert not any(name.startswith("backbone.stem") for name in learning(classifier))
    assert any(name.startswith("backbone.body") for name in learning(classifier))
    assert not classifier.backbone.stem[1].training
    assert classifier.backbone.body[1].training


def test_a_later_phase_thaws(network):
    classifier, spec = network
    freeze.apply(classifier, classifier.backbone, spec, PhaseModel(freeze="all"))
    freeze.apply(classifier, classifier.backbone, spec, PhaseModel(freeze="none"))
    assert learning(classifier) == {name for name, _ in classifier.named_parameters()}


def test_frozen_batchnorm_does_not_drift(network):
    classifier, spec = network
    freeze.apply(classifier, classifier.backbone, spec, PhaseModel(freeze="all"))
    before = {name: value.clone() for name, value in classifier.backbone.state_dict().items()}
    classifier(torch.rand(4, 3, 64, 64)).sum().backward()
    assert all(torch.equal(before[name], value) for name, value in classifier.backbone.state_dict().items())


def test_bn_eval_keeps_running_statistics_while_weights_learn(network):
    classifier, spec = network
    freeze.apply(classifier, classifier.backbone, spec, PhaseModel(bn="eval"))
    before = classifier.backbone.stem[1].running_mean.clone()
    classifier(torch.rand(4, 3, 64, 64)).sum().backward()
    assert torch.equal(before, classifier.backbone.stem[1].running_mean)
    assert classifier.backbone.stem[0].weight.grad is not None


def test_groups_hold_each_learning_parameter_once_and_never_decay_norms(network):
    classifier, spec = network
    freeze.apply(classifier, classifier.backbone, spec, PhaseModel(freeze="until:stem"))
    groups = freeze.parameter_groups(classifier, classifier.backbone, spec, Optim(weight_decay=0.1))
    found = [parameter for group in groups for parameter in group["params"]]
    assert {id(p) for p in found} == {id(p) for p in classifier.parameters() if p.requires_grad}
    assert len(found) == len({id(p) for p in found})
    for group in groups:
        assert group["weight_decay"] == (0.1 if group["params"][0].ndim > 1 else 0.0)
    # LARS adapts a group of matrices, whether it decays or not.
    for decay in (0.1, 0.0):
        groups = freeze.parameter_groups(classifier, classifier.backbone, spec, Optim(weight_decay=decay))
        assert all(len({p.ndim > 1 for p in group["params"]}) == 1 for group in groups)


def test_layer_decay_and_head_multiplier(network):
    classifier, spec = network
    groups = freeze.parameter_groups(
        classifier, classifier.backbone, spec, Optim(lr=1.0, layer_decay=0.5, head_lr_mult=3.0)
    )
    rate_of = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rate_of[id(classifier.head.weight)] == 3.0
    assert rate_of[id(classifier.backbone.body[0].weight)] == 0.5
    assert rate_of[id(classifier.backbone.stem[0].weight)] == 0.25


def test_parameters_that_no_module_of_a_stage_holds_belong_to_it_all_the_same(network):
    classifier, spec = network
    classifier.backbone.token = torch.nn.Parameter(torch.zeros(1, 16))
    stem, body = spec.stages
    spec = replace(spec, stages=(replace(stem, parameters=("token",)), body))
    freeze.apply(classifier, classifier.backbone, spec, PhaseModel(freeze="until:stem"))
    assert not classifier.backbone.token.requires_grad
    freeze.apply(classifier, classifier.backbone, spec, PhaseModel(freeze="none"))
    assert classifier.backbone.token.requires_grad
    groups = freeze.parameter_groups(classifier, classifier.backbone, spec, Optim(lr=1.0, layer_decay=0.5))
    assert next(g["lr"] for g in groups if any(p is classifier.backbone.token for p in g["params"])) == 0.25
