"""The contract of a backbone: kept by every one that is registered, and each breach of it is found."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fxcli import BackboneSpec, Stage
from fxcli.errors import PluginError
from fxcli.testing import check_backbone, tiny_dataset
from fxcli.zoo.plugins import load_zoo

CONV_NETS = ["resnet18", "densenet121", "mobilenetv3_small_050", "test_convnext"]
TOKEN_NETS = ["test_vit", "deit_tiny_distilled_patch16_224", "swin_tiny_patch4_window7_224", "test_mambaout"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*load_zoo().backbones(), *(f"timm:{net}" for net in CONV_NETS + TOKEN_NETS)])
def test_every_backbone_keeps_the_contract(name):
    check_backbone(name)


def parts(**changed: nn.Module) -> nn.Module:
    made = {
        "stem": nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.BatchNorm2d(4)),
        "body": nn.Sequential(nn.Conv2d(4, 8, 2, stride=2), nn.ReLU()),
    }
    return nn.Sequential(OrderedDict({**made, **changed}))


STEM = Stage(name="stem", modules=("stem",), stride=4, channels=4)
BODY = Stage(name="body", modules=("body",), stride=8, channels=8)


def built(args):
    if args.drop_path:
        raise ValueError("no stochastic depth")
    return parts()


GOOD = BackboneSpec(name="good", build=built, num_features=8, stages=(STEM, BODY))


class Body(nn.Module):
    """A body whose forward pass the test gives."""

    def __init__(self, forward) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 2, stride=2)
        self.change = forward

    def forward(self, images):
        return self.change(self.conv(images))


def bodied(forward, **values):
    return {"build": lambda args: parts(body=Body(forward)), **values}


def test_a_spec_that_is_not_registered():
    check_backbone(GOOD)
    check_backbone(replace(GOOD, name="many:good"), image_size_px=32)
    check_backbone(replace(GOOD, stages=(Stage(name="all", modules=("",), stride=8, channels=8),)))


def counted(features, state=[0]):  # noqa: B006
    state[0] += 1
    return features + state[0]


class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Conv2d(4, 8, 2, stride=2), nn.Linear(1, 1)

    def forward(self, images):
        return self.used(images)


class FailingDepth(Body):
    def forward(self, images):
        if self.training:
            raise ValueError("no such rate")
        return super().forward(images)


def drop_path_fails_in_training(args):
    return parts(body=FailingDepth(lambda x: x)) if args.drop_path else parts()


def drop_path_type_error(args):
    if args.drop_path:
        raise TypeError("no drop path here")
    return parts()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"build": lambda args: 1 / 0}, "build raised ZeroDivisionError"),
        ({"build": lambda args: "net"}, "build returned str"),
        ({"stages": (STEM, replace(BODY, modules=("bdy",)))}, "names the module 'bdy', which does not exist"),
        (
            {"stages": (BODY,)},
            r"4 parameters are in no stage: stem\.0\.weight, stem\.0\.bias, stem\.1\.weight",
        ),
        ({"stages": (STEM, replace(BODY, modules=("stem", "body")))}, "is in stage body and in stage stem"),
        (
            {"stages": (STEM, replace(BODY, parameters=("tokn",)))},
            "stage body names the parameter 'tokn', which does not exist",
        ),
        ({"stages": (STEM, replace(BODY, parameters=("stem.0.bias",)))}, "is in stage body and in stage stem"),
        (
            {"stages": (replace(STEM, stride=2), BODY)},
            "stage stem .* is 16 x 16 for 64 px, the spec says stride 2",
        ),
        ({"stages": (replace(STEM, channels=5), BODY)}, "stage stem .* has 4 channels, the spec says 5"),
        ({"stages": (STEM, replace(BODY, stride=16))}, "forward is 8 x 8 for 64 px, the spec says stride 16"),
        (
            {"num_features": 9, "stages": (STEM, replace(BODY, channels=9))},
            "forward has 8 channels, the spec says 9",
        ),
        (bodied(lambda x: x.mean((2, 3))), r"forward returns \(2, 8\), not a map \[B, 8, h, w\]"),
        (bodied(lambda x: [x]), "forward returns list"),
        (bodied(lambda x: x.double()), "forward returns torch.float64 for torch.float32 images"),
        (bodied(lambda x: x / 0), "is not finite"),
        (bodied(lambda x: 1 / 0), "forward raised ZeroDivisionError"),
        (bodied(lambda x: x + torch.rand(())), "draws from a global random generator"),
        (bodied(lambda x: x + np.random.rand()), "draws from a global random generator"),
        (bodied(counted), "is not deterministic"),
        (bodied(lambda x: x - x.mean(0)), "depends on the batch"),
        (bodied(lambda x: x.detach()), "training raised RuntimeError|get no gradient"),
        (
            {"build": lambda args: parts(body=Half())},
            r"2 parameters get no gradient: body\.idle\.weight, body\.idle\.bias",
        ),
        (bodied(lambda x: (x * 0).sqrt()), "gradient that is not finite"),
        ({"build": drop_path_type_error}, "drop_path=0.1 must work or raise ValueError"),
        ({"build": drop_path_fails_in_training}, "forward raised ValueError: no such rate"),
        ({"build": lambda args: parts()}, "drop_path=0.1 changes nothing"),
        ({"build": lambda args, one=parts(): one}, "two builds share parameters"),
        ({"name": "a b"}, "a name is made of"),
    ],
)
def test_breaches_are_found(change, message):
    with pytest.raises(PluginError, match=message):
        check_backbone(replace(GOOD, **change))


def test_stochastic_depth_that_drops_nothing_here_is_found_by_what_it_draws():
    class Deep(Body):
        def __init__(self, rate):
            super().__init__(lambda x: x)
            self.rate = rate

        def forward(self, images):
            kept = torch.rand(len(images), 1, 1, 1) >= self.rate if self.training and self.rate else 1
            return super().forward(images) * kept

    def build(args):
        return parts(body=Deep(min(args.drop_path, 1e-9)))

    check_backbone(replace(GOOD, build=build))


def test_a_build_that_differs_each_time_is_found():
    widths = iter([1, 2])

    def build(args):
        return parts(body=nn.Sequential(nn.Conv2d(4, 4, 2, stride=2), nn.Conv2d(4, 8, next(widths), padding="same")))

    with pytest.raises(PluginError, match="state_dict does not load into a second build"):
        check_backbone(replace(GOOD, build=build))


def test_state_that_is_not_in_the_state_dict_is_found():
    def build(args):
        hidden = torch.rand(())
        return parts(body=Body(lambda x: x + hidden))

    with pytest.raises(PluginError, match="after loading its state_dict, a second build gives other features"):
        check_backbone(replace(GOOD, build=build))


def test_the_global_generator_is_left_as_it_was():
    before = torch.get_rng_state()
    check_backbone(GOOD)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.slow
def test_import_of_torch_by_a_plugin_is_found(tmp_path, monkeypatch):
    (tmp_path / "fxt_heavy.py").write_text("import torch\n", encoding="utf-8")
    (tmp_path / "fxt_absent.py").write_text("import fxt_nobody\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    from fxcli import testing

    with pytest.raises(PluginError, match="importing fxt_heavy alone: torch is imported"):
        testing._check_import("fxt_heavy")
    with pytest.raises(PluginError, match="No module named 'fxt_nobody'"):
        testing._check_import("fxt_absent")


def test_tiny_dataset(tmp_path):
    folder = tiny_dataset(tmp_path / "data", classes=2, per_class=3, size_px=48)
    files = sorted(folder.rglob("*.png"))
    assert [str(file.relative_to(folder).as_posix()) for file in files] == [
        f"class_{label}/{number}.png" for label in range(2) for number in range(3)
    ]
    with Image.open(files[0]) as picture:
        assert (picture.mode, picture.size) == ("L", (48, 48))
        assert np.asarray(picture).max() == 255
    assert len({file.read_bytes() for file in files}) == len(files)
    again = tiny_dataset(tmp_path / "again", classes=2, per_class=3, size_px=48)
    assert [file.read_bytes() for file in sorted(again.rglob("*.png"))] == [file.read_bytes() for file in files]
