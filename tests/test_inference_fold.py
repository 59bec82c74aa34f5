import copy

import pytest
import torch
from torch import nn

from fxcli.inference.fold import fold_batchnorm
from fxcli.model import classifier as models
from fxcli.recipe.schema import Model
from fxcli.zoo.plugins import load_zoo


def network(name):
    """A classifier whose norms are no identities, as after training."""
    classifier = models.build(load_zoo().backbone(name), Model(backbone=name, init="random"), 64, 5, seed=3).eval()
    generator = torch.Generator().manual_seed(1)
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
    return classifier


def norms(net):
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo_tiny", "resnet18", "resnet50", "efficientnet_lite0", "timm:regnetx_002"])
def test_every_norm_is_folded_and_no_answer_changes(name, demo_zoo):
    net = network(name)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before = net(images)
    folded = fold_batchnorm(net, torch.randn(1, 3, 64, 64))
    assert folded
    assert norms(net) == []
    with torch.no_grad():
        assert (net(images) - before).abs().max() < 1e-4


class Twice(nn.Module):
    """One convolution that serves two norms."""

    def __init__(self):
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.a.running_mean.fill_(1)

    def forward(self, images):
        return (self.a(self.conv(images)) + self.b(self.conv(images))).mean((2, 3))


class Beside(Twice):
    """The convolution's output is also used as it is, which no hook sees."""

    def forward(self, images):
        made = self.conv(images)
        return (self.a(made) + made).mean((2, 3))


class Shared(Twice):
    """Both norms read one output of it."""

    def forward(self, images):
        made = self.conv(images)
        return (self.a(made) + self.b(made).relu()).mean((2, 3))


class Asking(Twice):
    """A net that reads a number of its norm."""

    def forward(self, images):
        return (self.a(self.conv(images)) * self.a.weight[0]).mean((2, 3)) + self.b.weight.sum()


class Named(Twice):
    """Its norms are called by keyword."""

    def forward(self, images):
        return self.a(input=self.conv(images)).mean((2, 3))


class Heard(Twice):
    """Someone listens to its norm."""

    def __init__(self):
        super().__init__()
        self.a.register_forward_hook(lambda module, inputs, output: output * 2)

    def forward(self, images):
        return self.a(self.conv(images)).mean((2, 3))


@pytest.mark.parametrize("kind", [Twice, Beside, Shared, Asking, Named, Heard])
def test_what_cannot_be_folded_is_left_as_it_was(kind):
    net = kind().eval()
    before = copy.deepcopy(net.state_dict())
    assert fold_batchnorm(net, torch.rand(1, 3, 8, 8)) == set()
    after = net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert len(norms(net)) == 2


def test_norms_elsewhere_stay():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    assert fold_batchnorm(net, torch.rand(1, 3, 8, 8)) == set()
    assert len(norms(net)) == 2
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
