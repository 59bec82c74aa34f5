"""The family timm:<name> against timm: the same features, the same weights, and stages that are true."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import timm
import torch
from timm.layers.drop import DropPath
from torch import nn

from fx_timm import family
from fx_timm.anatomy import Record, Seen, _in_order, _seen
from fx_timm.feature_map import FeatureMap, Form
from fxcli import BackboneArgs
from fxcli.errors import PluginError, UnknownName
from fxcli.explain.gradcam import at_layer
from fxcli.model.classifier import Classifier
from fxcli.zoo.plugins import load_zoo

ARGS = BackboneArgs(image_size_px=64)


def test_registering_imports_neither_torch_nor_timm():
    code = "import sys, fx_timm as p; p.fx_register_backbones(print); print({'torch', 'timm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet18", "test_convnext", "test_vit", "mobilenetv3_small_050", "regnetx_002", "test_mambaout"]
)
def test_family_loads_the_state_of_timm(name):
    spec = load_zoo().backbone(f"timm:{name}")
    whole = timm.create_model(name).eval()
    size_px = spec.input.size_px
    backbone = spec.build(BackboneArgs(image_size_px=size_px)).eval()
    state = whole.state_dict()
    if spec.weights:
        (source,) = spec.weights.values()
        backbone.load_state_dict(source.convert(state, backbone))
    else:
        backbone.net.load_state_dict({key: state[key] for key in backbone.net.state_dict()})
    images = torch.rand(1, 3, size_px, size_px)
    with torch.no_grad():
        features, expected = backbone(images), whole.forward_features(images)
    if name == "test_mambaout":
        assert torch.equal(features, expected.permute(0, 3, 1, 2))
    elif expected.ndim == 3:
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
    FeatureMap(net, Form("NLC", prefix=1), {})(images)[0, :, 0, 3].square().sum().backward()
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


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["hf_hub", "hf-hub"])
def test_a_repository_of_timm_is_the_net_with_the_weights_there(prefix):
    spec, same = load_zoo().backbone(f"{prefix}:timm/resnet18.tv_in1k"), load_zoo().backbone("timm:resnet18.tv_in1k")
    assert spec.name == f"{prefix}:timm/resnet18.tv_in1k"
    assert (spec.stages, spec.input) == (same.stages, same.input)
    source = spec.weights["imagenet"]
    assert source.url == "https://huggingface.co/timm/resnet18.tv_in1k/resolve/main/model.safetensors"
    assert source.sha256 is None
    whole = timm.create_model("resnet18").state_dict()
    backbone = spec.build(ARGS)
    backbone.load_state_dict(source.convert(whole, backbone))


@pytest.mark.parametrize(
    ("repository", "likely"),
    [
        ("timm/resnet18", "timm/resnet18.a1_in1k"),
        ("resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
        ("someone/resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
        ("timm/resnet18.nonsense", "timm/resnet18.a1_in1k"),
        ("timm/resnet19.a1_in1k", "timm/resnet18.a1_in1k"),
        ("microsoft/resnet-50", "timm/resnet50.a1_in1k"),
    ],
)
def test_no_repository_of_timm(repository, likely):
    with pytest.raises(UnknownName, match=f"unknown backbone 'hf_hub:{repository}' — did you mean hf_hub:{likely}"):
        load_zoo().backbone(f"hf_hub:{repository}")


def test_a_repository_like_nothing_of_timm():
    with pytest.raises(UnknownName, match="unknown backbone 'hf_hub:someone/0815'\\n"):
        load_zoo().backbone("hf_hub:someone/0815")


@pytest.mark.slow
def test_weights_that_are_not_of_imagenet_are_not_called_so():
    assert set(load_zoo().backbone("timm:vit_small_patch14_dinov2").weights) == {"pretrained"}


@pytest.mark.slow
def test_net_without_weights():
    assert load_zoo().backbone("timm:mixer_s32_224").weights == {}


def test_names_that_timm_does_not_know():
    with pytest.raises(UnknownName, match="unknown backbone 'timm:resnet19' — did you mean timm:resnet18"):
        load_zoo().backbone("timm:resnet19")
    with pytest.raises(UnknownName, match=r"did you mean timm:resnet18\."):
        load_zoo().backbone("timm:resnet18.nonsense")


@pytest.mark.slow
def test_net_that_gives_no_map():
    with pytest.raises(PluginError, match="gives no square feature map but list"):
        load_zoo().backbone("timm:crossvit_tiny_240")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("inception_v3", "6 x 6 cells for 256 px and 14 x 14"),
        ("mobilenetv5_300m", "16 x 16 cells for 256 px and 16 x 16"),
    ],
)
def test_net_whose_map_grows_otherwise_than_the_picture(name, cells):
    with pytest.raises(PluginError, match=f"{name} of timm gives {cells} for 512: no stride is true of it"):
        load_zoo().backbone(f"timm:{name}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["convmixer_768_32", "vgg11", "ghostnet_050", "repvgg_a0", "test_maxvit", "mobilevit_xxs"]
)
def test_strides_are_those_of_the_maps(name):
    """Without weights and without computing; at a size that the spec was not made with."""
    spec = load_zoo().backbone(f"timm:{name}")
    size_px = spec.input.size_px if name == "test_maxvit" else 224
    with torch.device("meta"):
        backbone = spec.build(BackboneArgs(image_size_px=size_px)).eval()
        maps = outputs_of(backbone, spec.stages, torch.zeros(1, 3, size_px, size_px))
    assert [each.shape[1] for each in maps] == [stage.channels for stage in spec.stages]
    assert [each.shape[2] for each in maps] == [size_px // stage.stride for stage in spec.stages]


def test_what_a_net_does_not_take():
    with pytest.raises(ValueError, match="vgg11 of timm does not take drop_path_rate"):
        load_zoo().backbone("timm:vgg11").build(BackboneArgs(image_size_px=64, drop_path=0.1))
    deep = load_zoo().backbone("timm:test_convnext").build(BackboneArgs(image_size_px=64, drop_path=0.1))
    assert any(type(part).__name__ == "DropPath" for part in deep.modules())


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0.0, 0.3])
def test_stochastic_depth_is_what_is_asked_for_also_where_a_net_has_a_rate_of_its_own(asked):
    own = [part.drop_prob for part in timm.create_model("fasternet_t1").modules() if isinstance(part, DropPath)]
    assert max(own) == pytest.approx(0.02)
    net = load_zoo().backbone("timm:fasternet_t1").build(BackboneArgs(image_size_px=64, drop_path=asked))
    rates = [part.drop_prob for part in net.modules() if isinstance(part, DropPath)]
    assert max(rates) == pytest.approx(asked)


@pytest.mark.slow
def test_a_net_of_one_size_says_so():
    spec = load_zoo().backbone("timm:efficientformer_l1")
    with pytest.raises(ValueError, match="efficientformer_l1 of timm sees pictures of 224 px alone, not of 64"):
        spec.build(ARGS)
    assert spec.build(BackboneArgs(image_size_px=224)).training


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


def test_stages_of_transformers_are_their_blocks():
    first, *middle, last = load_zoo().backbone("timm:test_vit").stages
    assert [stage.name for stage in middle] == [f"blocks.{number}" for number in range(1, 6)]
    assert first.parameters == ("net.cls_token", "net.pos_embed")
    assert first.modules == ("net.patch_embed", "net.blocks.0", "maps.blocks_0")
    assert (last.name, last.modules, last.parameters) == ("norm", ("net.norm", "out"), ())
    swin = load_zoo().backbone("timm:swin_tiny_patch4_window7_224").stages
    assert [(stage.name, stage.stride, stage.channels) for stage in swin] == [
        ("layers.0", 4, 96),
        ("layers.1", 8, 192),
        ("layers.2", 16, 384),
        ("layers.3", 32, 768),
        ("norm", 32, 768),
    ]


def outputs_of(backbone: nn.Module, stages, images: torch.Tensor) -> list[torch.Tensor]:
    """What the last module of each stage returns."""
    found: list[torch.Tensor] = []
    handles = [
        backbone.get_submodule(stage.modules[-1]).register_forward_hook(lambda *given: found.append(given[2]))
        for stage in stages
    ]
    with torch.no_grad():
        backbone(images)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["test_vit", "deit_tiny_distilled_patch16_224", "swin_tiny_patch4_window7_224", "test_mambaout"]
)
def test_stages_see_what_timm_extracts(name):
    spec = load_zoo().backbone(f"timm:{name}")
    backbone = spec.build(ARGS).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = backbone.net.forward_intermediates(images, output_fmt="NCHW", intermediates_only=True)
    found = outputs_of(backbone, spec.stages, images)
    assert len(expected) in (len(found), len(found) - 1)
    for each, theirs in zip(found, expected, strict=False):
        torch.testing.assert_close(each, theirs)


def test_a_map_at_a_block_is_on_the_way_to_the_answer():
    """Grad-CAM at the end of a block, against the net's own parts run by hand."""
    spec = load_zoo().backbone("timm:test_vit")
    classifier = Classifier(spec.build(ARGS), spec.num_features, 3).eval()
    images, net = torch.rand(2, 3, 64, 64), classifier.backbone.net
    found = at_layer([classifier], images, torch.tensor([0, 2]), spec.stages[3].modules[-1])
    tokens = net._pos_embed(net.patch_embed(images))
    blocks = list(classifier.backbone.net.blocks)
    for block in blocks[:4]:
        block._forward_hooks.clear()
        tokens = block(tokens)
    tokens = tokens.detach().requires_grad_()
    after = tokens
    for block in blocks[4:]:
        block._forward_hooks.clear()
        after = block(after)
    logits = classifier.head(net.norm(after)[:, 1:].mean(dim=1))
    (gradient,) = torch.autograd.grad(logits[0, 0] + logits[1, 2], tokens)
    weights = gradient[:, 1:].mean(dim=1, keepdim=True)
    expected = (weights * tokens[:, 1:]).sum(dim=2).relu().reshape(2, 4, 4)
    torch.testing.assert_close(found, expected.detach())


def test_a_copy_is_seen_apart_from_its_original():
    spec = load_zoo().backbone("timm:test_vit")
    backbone = spec.build(ARGS).eval()
    twin, images = copy.deepcopy(backbone), torch.rand(1, 3, 64, 64)
    seen = []
    backbone.maps["blocks_0"].register_forward_hook(lambda *_: seen.append("original"))
    twin.maps["blocks_0"].register_forward_hook(lambda *_: seen.append("copy"))
    with torch.no_grad():
        features = twin(images)
        assert seen == ["copy"]
        assert torch.equal(features, backbone(images))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hiera_tiny_224", "levit_128s"])
def test_finer_tokens_than_those_of_the_end_are_taken_for_no_map(name):
    """Hiera keeps them in another order."""
    (stage,) = load_zoo().backbone(f"timm:{name}").stages
    assert (stage.name, stage.modules) == ("all", ("",))


@pytest.mark.slow
def test_a_map_of_one_token_is_none():
    with pytest.raises(PluginError, match=r"pit_ti_224 of timm gives no square feature map but \(1, 1, 256\)"):
        load_zoo().backbone("timm:pit_ti_224")


def test_forms_that_look_alike():
    last = Seen(Form("NHWC"), 64, 8)
    assert _seen((1, 8, 8, 64), 0) == last
    assert _seen((1, 32, 32, 32), 0, last) == Seen(Form("NHWC"), 32, 32)
    assert _seen((1, 32, 32, 32), 0, Seen(Form("NCHW"), 64, 8)) == Seen(Form("NCHW"), 32, 32)
    assert _seen((9, 7, 7, 64), 0, last) is None, "windows of one picture"
    assert _seen((1, 17, 8), 1) == Seen(Form("NLC", 1), 8, 4)
    assert _seen((1, 16, 8), 1) == Seen(Form("NLC"), 8, 4)
    assert _seen((1, 18, 8), 1) is None
    assert _seen((), 0) is None


def test_layers_that_are_called_in_another_order_than_they_stand_in_are_not_cut_apart():
    pieces = [["stem", "first"], ["second"]]
    record = Record(begun={"stem": 0, "first": 2, "second": 4}, ended={"stem": 1, "first": 3, "second": 5})
    assert _in_order(pieces, record)
    assert not _in_order([["second"], ["first"]], record)
    assert not _in_order([["first", "second"], ["stem"]], record)


def test_resolving_draws_no_random_number():
    before = torch.get_rng_state()
    family.resolve.__wrapped__("test_efficientnet")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.slow
def test_a_net_of_tokens_is_exported_for_any_batch():
    spec = load_zoo().backbone("timm:test_vit")
    backbone = spec.build(ARGS).eval()
    batch = {0: torch.export.Dim("batch")}
    with torch.no_grad():
        program = torch.export.export(backbone, (torch.rand(2, 3, 64, 64),), dynamic_shapes=(batch,))
        images = torch.rand(5, 3, 64, 64)
        torch.testing.assert_close(program.module()(images), backbone(images))
