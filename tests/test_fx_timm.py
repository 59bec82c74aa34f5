"""The family timm:<name> against timm: the same features, the same weights, and stages that are true."""

from __future__ import annotations

import subprocess
import sys

import pytest
import timm
import torch
from torch import nn

from fx_timm import family
from fxcli import BackboneArgs
from fxcli.errors import PluginError, UnknownName
from fxcli.zoo.plugins import load_zoo

ARGS = BackboneArgs(image_size_px=64)


def test_registering_imports_neither_torch_nor_timm():
    code = "import sys, fx_timm as p; p.fx_register_backbones(print); print({'torch', 'timm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("name", ["resnet18", "test_convnext", "test_vit", "mobilenetv3_small_050", "regnetx_002"])
def test_family_loads_the_state_of_timm(name):
    spec = load_zoo().backbone(f"timm:{name}")
    whole = timm.create_model(name).eval()
    size_px = spec.input.size_px
    backbone = spec.build(BackboneArgs(image_size_px=size_px)).eval()
    (source,) = spec.weights.values()
    backbone.load_state_dict(source.convert(whole.state_dict(), backbone))
    images = torch.rand(1, 3, size_px, size_px)
    with torch.no_grad():
        features, expected = backbone(images), whole.forward_features(images)
    if expected.ndim == 3:
        tokens = features.flatten(2).transpose(1, 2)
        assert torch.equal(tokens, expected[:, whole.num_prefix_tokens :])
    else:
        assert torch.equal(features, expected)


def test_position_embeddings_are_fitted_to_the_image_size():
    spec = load_zoo().backbone("timm:test_vit")
    whole = timm.create_model("test_vit").state_dict()
    small = spec.build(ARGS)
    state = spec.weights["imagenet"].convert(whole, small)
    assert state["net.pos_embed"].shape != whole["pos_embed"].shape
    small.load_state_dict(state)
    assert small(torch.rand(1, 3, 64, 64)).shape == (1, 64, 4, 4)


def test_tokens_become_the_cells_that_they_see():
    """The gradient of the top left cell's patch embedding comes from the top left patch only."""
    net = timm.create_model("test_vit", img_size=64)
    net.blocks, net.pos_embed = nn.Sequential(), nn.Parameter(torch.zeros_like(net.pos_embed))
    images = torch.rand(1, 3, 64, 64, requires_grad=True)
    family.FeatureMap(net, "NLC")(images)[0, :, 0, 3].square().sum().backward()
    seen = images.grad[0].abs().sum(0).nonzero()
    assert seen.min(0).values.tolist() == [0, 48]
    assert seen.max(0).values.tolist() == [15, 63]


def test_tag_picks_the_weights():
    spec = load_zoo().backbone("timm:resnet18.tv_in1k")
    assert spec.name == "timm:resnet18.tv_in1k"
    assert spec.weights["imagenet"].url == "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    assert spec.weights["imagenet"].sha256 == "f37072fd"
    assert spec.weights["imagenet"].licence == "bsd-3-clause"
    assert spec.input.interpolation == "bilinear"


def test_weights_without_a_published_hash_come_from_the_hub():
    source = load_zoo().backbone("timm:test_vit").weights["imagenet"]
    assert source.url == "https://huggingface.co/timm/test_vit.r160_in1k/resolve/main/model.safetensors"
    assert source.sha256 is None


def test_weights_that_are_not_of_imagenet_are_not_called_so():
    assert set(load_zoo().backbone("timm:vit_small_patch14_dinov2").weights) == {"pretrained"}


def test_net_without_weights():
    assert load_zoo().backbone("timm:mixer_s32_224").weights == {}


def test_names_that_timm_does_not_know():
    with pytest.raises(UnknownName, match="unknown backbone 'timm:resnet19' — did you mean timm:resnet18"):
        load_zoo().backbone("timm:resnet19")
    with pytest.raises(UnknownName, match=r"did you mean timm:resnet18\."):
        load_zoo().backbone("timm:resnet18.nonsense")


def test_net_that_gives_no_map():
    with pytest.raises(PluginError, match="gives no square feature map but list"):
        load_zoo().backbone("timm:crossvit_tiny_240")


def test_what_a_net_does_not_take():
    with pytest.raises(ValueError, match="vgg11 of timm does not take drop_path_rate"):
        load_zoo().backbone("timm:vgg11").build(BackboneArgs(image_size_px=64, drop_path=0.1))
    deep = load_zoo().backbone("timm:test_convnext").build(BackboneArgs(image_size_px=64, drop_path=0.1))
    assert any(type(part).__name__ == "DropPath" for part in deep.modules())


def test_idle_modules_are_taken_out():
    spec = load_zoo().backbone("timm:test_convnext")
    assert isinstance(spec.build(ARGS).get_submodule("net.head"), nn.Identity)


def test_stages_follow_the_taps_of_timm():
    spec = load_zoo().backbone("timm:resnet18")
    assert [(stage.name, stage.stride, stage.channels) for stage in spec.stages] == [
        ("act1", 2, 64),
        ("layer1", 4, 64),
        ("layer2", 8, 128),
        ("layer3", 16, 256),
        ("layer4", 32, 512),
    ]
    assert spec.stages[0].modules == ("net.conv1", "net.bn1", "net.act1")
    (stage,) = load_zoo().backbone("timm:test_vit").stages
    assert (stage.name, stage.modules, stage.stride) == ("all", ("",), 16)


def test_resolving_draws_no_random_number():
    before = torch.get_rng_state()
    family.resolve.__wrapped__("test_efficientnet")
    assert torch.equal(before, torch.get_rng_state())
