"""What is built empty and then filled from a file is the network that was saved."""

import pytest
import torch
from torch import nn

from fxcli.model import classifier as models
from fxcli.model.empty import EmptyParameters
from fxcli.recipe.schema import Model
from fxcli.zoo.plugins import load_zoo

INITS = {
    "constant_": (0.5,),
    "kaiming_normal_": (),
    "kaiming_uniform_": (),
    "normal_": (),
    "ones_": (),
    "orthogonal_": (),
    "trunc_normal_": (),
    "uniform_": (),
    "xavier_normal_": (),
    "xavier_uniform_": (),
}


@pytest.mark.parametrize("name", INITS)
def test_initialisations_hand_the_parameter_back(name):
    fill = getattr(nn.init, name)
    parameter = nn.Parameter(torch.empty(4, 4).fill_(torch.nan))
    with EmptyParameters():
        assert fill(parameter, *INITS[name]) is parameter
    assert parameter.isfinite().all()
    assert parameter.requires_grad


@pytest.mark.parametrize("name", [name for name in INITS if name.endswith(("normal_", "uniform_"))])
def test_no_parameter_is_drawn(name):
    parameter = nn.Parameter(torch.ones(4, 4))
    state = torch.get_rng_state()
    with EmptyParameters():
        getattr(nn.init, name)(tensor=parameter)
        assert not parameter.any()
    assert torch.equal(torch.get_rng_state(), state)


def test_everything_else_is_computed():
    with EmptyParameters():
        buffer = nn.init.constant_(torch.empty(3), 2.0)
        drawn = torch.empty(100).normal_()
        norm = nn.BatchNorm2d(3)
    assert torch.equal(buffer, torch.full((3,), 2.0))
    assert drawn.std() > 0.5
    assert torch.equal(norm.running_var, torch.ones(3))


def test_a_parameter_without_memory_is_left_to_torch():
    with EmptyParameters():
        layer = nn.LazyLinear(2)
        assert layer(torch.ones(1, 3)).shape == (1, 2)


def test_a_network_is_not_empty_outside():
    with EmptyParameters():
        assert not nn.Linear(3, 3).weight.any()
    assert nn.Linear(3, 3).weight.any()


# Rotary positions, and where attention looks up its biases: buffers that no file holds.
BUFFERS = ("timm:eva02_tiny_patch14_224", "timm:swin_tiny_patch4_window7_224")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "timm:vit_tiny_patch16_224", *BUFFERS])
def test_a_model_file_gives_every_number_back(name, tmp_path):
    from fxcli.data.preprocess import Clean, Preprocessing

    zoo = load_zoo()
    spec, settings = zoo.backbone(name), Model(backbone=name, init="random")
    size = spec.input.size_px
    made = models.build(spec, settings, size, 3, seed=1).eval()
    info = {"task": "classify", "backbone": name, "model": settings.model_dump(mode="json")}
    preprocessing = Preprocessing(Clean(size), size, "letterbox", spec.input.mean, spec.input.std)
    file = tmp_path / "model.safetensors"
    models.TrainedModel((made,), spec, ("a", "b", "c"), preprocessing, info).save(file)
    loaded = models.load(file, zoo).network

    kept = dict(made.named_buffers())
    assert bool(kept.keys() - made.state_dict().keys()) == (name in BUFFERS)
    assert kept.keys() == dict(loaded.named_buffers()).keys()
    assert all(torch.equal(buffer, kept[key]) for key, buffer in loaded.named_buffers())
    assert all(torch.equal(tensor, made.state_dict()[key]) for key, tensor in loaded.state_dict().items())
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    images = torch.rand(1, 3, size, size)
    with torch.inference_mode():
        assert torch.equal(loaded(images), made(images))
