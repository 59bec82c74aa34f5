"""The EfficientNet plugin against timm, and its Lite weights against a mapping of their names by hand."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import fx_efficientnet
import fxcli
from fx_efficientnet import build, family
from fxcli import BackboneArgs, BackboneSpec
from fxcli.errors import PluginError, UnknownName
from fxcli.model.init import initialise
from fxcli.zoo.plugins import load_zoo

ARGS = BackboneArgs(image_size_px=64)
NAMES = [name for name in load_zoo().backbones() if load_zoo().provider("backbone", name).name == "efficientnet"]
LITE = ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]


def timm_name(spec: BackboneSpec) -> str:
    return spec.build.args[0]


def drop_paths(module: nn.Module) -> list[float]:
    found = [part for part in module.modules() if type(part).__name__ == "DropPath"]
    return [part.drop_prob for part in found]


def test_what_is_registered():
    assert set(NAMES) == {f"efficientnet_b{i}" for i in range(5)} | {"efficientnetv2_s", *LITE}
    assert load_zoo().families()["timm"].prefix == "timm"
    assert load_zoo().backbone("efficientnetv2_s").summary == "EfficientNetV2-S of timm"


def test_registering_imports_neither_torch_nor_timm():
    code = "import sys, fx_efficientnet as p; p.fx_register_backbones(print); print('torch' in sys.modules)"
    code += "; print('timm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["False", "False"]


def test_only_public_names_are_imported():
    for file in Path(fx_efficientnet.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fxcli"):
                assert node.module == "fxcli"
                assert {alias.name for alias in node.names} <= set(fxcli.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_data_is_that_of_timm(name):
    spec = load_zoo().backbone(name)
    config = timm.get_pretrained_cfg(timm_name(spec))
    seen = spec.input
    assert (3, seen.size_px, seen.size_px) == config.input_size
    assert (seen.mean, seen.std, seen.interpolation) == (config.mean, config.std, config.interpolation)
    source = spec.weights["imagenet"]
    assert source.licence.lower() == config.license
    if name in LITE:
        return
    if config.url:
        assert source.url.rpartition("/releases/")[2] == config.url.rpartition("/releases/")[2]
        assert config.url.endswith(f"-{source.sha256}.pth")
    else:
        assert source.url == f"https://huggingface.co/{config.hf_hub_id}/resolve/main/model.safetensors"
        assert source.sha256 is None


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnetv2_s"])
def test_features_and_weights_are_those_of_timm(name):
    spec = load_zoo().backbone(name)
    whole = timm.create_model(timm_name(spec)).eval()
    backbone = spec.build(ARGS).eval()
    backbone.load_state_dict(spec.weights["imagenet"].convert(whole.state_dict(), backbone))
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), whole.forward_features(images))


def test_drop_path_is_passed_on():
    spec = load_zoo().backbone("efficientnet_b0")
    assert drop_paths(spec.build(ARGS)) == []
    rates = drop_paths(spec.build(BackboneArgs(image_size_px=64, drop_path=0.2)))
    assert 0 < rates[0] < rates[-1] <= 0.2


# --- Lite


def by_hand(state: dict[str, torch.Tensor], net: nn.Module) -> dict[str, torch.Tensor]:
    """Their names → timm's, block by block, without looking at the order of the tensors."""
    parts = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    blocks = [(f"blocks.{i}.{j}", block) for i, group in enumerate(net.blocks) for j, block in enumerate(group)]
    for number, (path, block) in enumerate(blocks):
        if hasattr(block, "conv_pwl"):
            inner = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
            inner |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
        else:
            inner = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
        parts |= {f"_blocks.{number}.{old}": f"{path}.{new}" for old, new in inner.items()}
    return {parts[key.rpartition(".")[0]] + "." + key.rpartition(".")[2]: value for key, value in state.items()}


@pytest.mark.parametrize("name", LITE)
def test_lite_weights(name):
    spec = load_zoo().backbone(name)
    source = spec.weights["imagenet"]
    if importlib.util.find_spec(source.package) is None:
        pytest.skip(f"{source.package} is not installed")
    backbone = spec.build(ARGS)
    # Checks the sha256, and that no tensor is missing, left over, or of another shape.
    assert initialise(spec, backbone.eval(), "imagenet") == spec.input
    file = importlib.resources.files(source.package) / source.resource
    whole = timm.create_model(f"tf_{name}").eval()
    state = torch.load(str(file), weights_only=True)
    whole.load_state_dict(by_hand(state, whole))
    images = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        features = backbone(images)
        assert torch.equal(features, whole.forward_features(images))
        torch.testing.assert_close(whole.classifier(features.mean((2, 3))), whole(images))
    assert features.max() <= 6, "the last activation is ReLU6"


def test_lite_weights_that_are_not_lite():
    module = build.build("tf_efficientnet_lite0", ARGS)
    state = module.state_dict()
    head = {"_fc.weight": torch.zeros(1), "_fc.bias": torch.zeros(1)}
    assert build.convert_lite({**state, **head}, module).keys() == state.keys()
    with pytest.raises(ValueError, match="expected 294 tensors and a classifier, found 294"):
        build.convert_lite(state, module)
    with pytest.raises(ValueError, match=r"conv_stem\.weight does not stand where"):
        build.convert_lite({**state, "conv_stem.weight": torch.zeros(1), **head}, module)


# --- the family


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
    rates = drop_paths(load_zoo().backbone("timm:test_convnext").build(BackboneArgs(image_size_px=64, drop_path=0.1)))
    assert rates


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
