"""The built-in ResNets against torchvision."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
import torch
import torchvision

from fxcli import BackboneArgs
from fxcli.errors import PluginError
from fxcli.model import init
from fxcli.zoo.plugins import load_zoo

NAMES = ["resnet18", "resnet50"]
ARGS = BackboneArgs(image_size_px=64)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_feature_map_is_torchvisions(name):
    spec = load_zoo().backbone(name)
    whole = torchvision.models.get_model(name, weights=None).eval()
    backbone = spec.build(ARGS).eval()
    backbone.load_state_dict(spec.weights["imagenet"].convert(whole.state_dict(), backbone))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = backbone(images)
        torch.testing.assert_close(whole.fc(features.mean((2, 3))), whole(images))
    assert features.shape == (2, spec.num_features, 2, 2)
    assert features.min() >= 0


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_those_that_torchvision_publishes(name):
    spec = load_zoo().backbone(name)
    published = torchvision.models.get_model_weights(name)
    for weights in published:
        source = spec.weights[weights.name.lower()]
        assert source.url == weights.url
        assert f"-{source.sha256}.pth" in weights.url
        preset = weights.transforms()
        assert spec.input.mean == tuple(preset.mean)
        assert spec.input.std == tuple(preset.std)
        assert spec.input.interpolation == preset.interpolation.value
        assert [spec.input.size_px] == preset.crop_size
    assert len(spec.weights) == len(published) + 1
    assert spec.weights["imagenet"] == spec.weights["imagenet1k_v1"]


def test_no_stochastic_depth():
    with pytest.raises(ValueError, match="resnet18 has no stochastic depth"):
        load_zoo().backbone("resnet18").build(BackboneArgs(image_size_px=64, drop_path=0.1))


def test_weights_load_through_the_cache(tmp_path, monkeypatch):
    """A file as torchvision's first ones are: with a classifier, without num_batches_tracked."""
    monkeypatch.setenv("FX_CACHE_DIR", str(tmp_path))
    spec = load_zoo().backbone("resnet18")
    whole = torchvision.models.resnet18(weights=None).state_dict()
    state = {key: value for key, value in whole.items() if not key.endswith("num_batches_tracked")}
    parts = urlsplit(spec.weights["imagenet"].url)
    file = tmp_path / "weights" / "download.pytorch.org_models_resnet18-f37072fd.pth"
    assert file.name == (parts.netloc + parts.path).replace("/", "_")
    file.parent.mkdir()
    torch.save(state, file)
    monkeypatch.setattr(init, "_check", lambda *_: None)
    backbone = spec.build(ARGS)
    assert init.initialise(spec, backbone, "imagenet") == spec.input
    torch.testing.assert_close(backbone.get_submodule("layer4.1.conv2").weight, state["layer4.1.conv2.weight"])
    del state["layer1.0.conv1.weight"]
    torch.save(state, file)
    with pytest.raises(PluginError, match=r"missing layer1\.0\.conv1\.weight"):
        init.initialise(spec, backbone, "imagenet")
