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
from fx_efficientnet import build
from fxcli import BackboneArgs, BackboneSpec
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


@pytest.mark.slow
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


@pytest.mark.slow
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
