"""Detectors of the zoo over backbones: the pyramid, the contract, and the model file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import box_iou

from fxcli import BackboneArgs, DetectorSpec
from fxcli.data.preprocess import Clean, Preprocessing
from fxcli.errors import ModelFileError, PluginError, RecipeError
from fxcli.model import classifier as classifiers
from fxcli.model import detector as detectors
from fxcli.model.detector import BoxShapes, TrainedDetector
from fxcli.model.pyramid import Pyramid, tapped
from fxcli.recipe.detection import Detect
from fxcli.recipe.schema import Model
from fxcli.run import checkpoint
from fxcli.zoo.detectors import quantiles, sides_of
from fxcli.zoo.plugins import Zoo, load_zoo

SHAPES = BoxShapes(tuple(np.linspace(10.0, 50.0, 21)), tuple(np.linspace(0.5, 2.0, 21)))
OPTIONS = {"channels": 32}
SEEN = Preprocessing(Clean(96), 96, "letterbox", (0.5,) * 3, (0.5,) * 3)


def make(zoo, detector="faster_rcnn", backbone="demo_tiny", size_px=96, classes=2, options=OPTIONS, seed=0):
    settings = Detect(detector=detector, options=options)
    model = Model(backbone=backbone, init="random")
    return detectors.build(
        zoo.backbone(backbone), zoo.detector(detector), model, settings, size_px, classes, SHAPES, seed
    )


def trained(zoo, detector="faster_rcnn", **more):
    info = {
        "task": "detect",
        "backbone": "demo_tiny",
        "model": Model(backbone="demo_tiny", init="random").model_dump(mode="json"),
        "detect": Detect(detector=detector, options=OPTIONS).model_dump(mode="json"),
        "box_shapes": {"sides_px": list(SHAPES.sides_px), "ratios": list(SHAPES.ratios)},
        "plugin": {"name": "demo", "distribution": "fx-demo", "version": "0.1"},
        "batch_size": 8,
        **more,
    }
    return TrainedDetector(make(zoo, detector), zoo.backbone("demo_tiny"), ("a", "b"), SEEN, info)


# --- pyramid ---


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "efficientnet_lite0", "timm:convnext_atto", "timm:test_mambaout"]
)
@pytest.mark.parametrize("finest", [4, 8])
def test_levels_of_real_backbones(name, finest):
    spec = load_zoo().backbone(name)
    pyramid = Pyramid(spec.build(BackboneArgs(image_size_px=96)), spec.stages, 32, finest).eval()
    with torch.inference_mode():
        maps = pyramid(torch.rand(2, 3, 96, 96))
    strides = [4, 8, 16, 32, 64] if finest == 4 else [8, 16, 32, 64]
    assert list(maps) == pyramid.names == [str(number) for number in range(len(strides))]
    assert [tuple(each.shape) for each in maps.values()] == [(2, 32, -(-96 // s), -(-96 // s)) for s in strides]


def test_the_last_stage_of_each_stride_is_tapped():
    spec = load_zoo().backbone("efficientnet_lite0")
    assert [stage.name for stage in tapped(spec.stages, 8)] == ["stage3", "stage5", "top"]


def test_a_backbone_without_that_stride(demo_zoo):
    with pytest.raises(ValueError, match="no pyramid from stride 4 on: its stages have the strides body 8"):
        tapped(demo_zoo.backbone("demo_tiny").stages[1:], 4)
    stages = load_zoo().backbone("efficientnet_lite0").stages
    with pytest.raises(ValueError, match="no pyramid"):
        tapped([stage for stage in stages if stage.stride != 16], 8)


def test_each_thread_gets_its_own_maps(demo_zoo):
    from concurrent.futures import ThreadPoolExecutor

    spec = demo_zoo.backbone("demo_tiny")
    pyramid = Pyramid(spec.build(BackboneArgs(image_size_px=64)), spec.stages, 32, 4).eval()
    pictures = [torch.rand(1, 3, 64, 64) for _ in range(40)]
    with torch.inference_mode():
        alone = [pyramid(picture)["0"] for picture in pictures]
    run = torch.inference_mode()(lambda picture: pyramid(picture)["0"])
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, pictures))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert pyramid._seen == {}


# --- the contract ---


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "size_px"), [(32, 65), (64, 64), (32, 64)])
def test_fcos_answers_for_a_single_picture_or_says_before_training_that_it_cannot(channels, size_px):
    """One channel a group, and a last map of one cell: torch refuses to normalise a single number."""
    if (channels, size_px) == (32, 64):
        with pytest.raises(RecipeError, match="channels=32 are too few for pictures of 64 px: it takes 64 of them, or"):
            make(load_zoo(), "fcos", "resnet18", size_px, options={"channels": channels})
        return
    network = make(load_zoo(), "fcos", "resnet18", size_px, options={"channels": channels}).eval()
    with torch.inference_mode():
        assert len(network(torch.zeros(1, 3, size_px, size_px))) == 1


@pytest.mark.parametrize("detector", ["faster_rcnn", "fcos"])
@pytest.mark.parametrize("backbone", ["demo_tiny", "resnet18", "efficientnet_lite0"])
def test_contract(demo_zoo, detector, backbone):
    network = make(demo_zoo, detector, backbone, options={**OPTIONS, "finest_stride": 8})
    images = torch.rand(2, 3, 96, 96)
    targets = [
        {"boxes": torch.tensor([[10.0, 12, 40, 50]]), "labels": torch.tensor([2])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    losses = network.train().losses(images, targets)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    idle = [name for name, value in network.named_parameters() if value.grad is None]
    assert not [name for name in idle if "backbone.backbone" in name]
    with torch.inference_mode():
        answers = network.eval()(images)
    for answer in answers:
        assert answer["boxes"].shape == (len(answer["scores"]), 4)
        assert set(answer["labels"].tolist()) <= {0, 1, 2}
        assert ((answer["scores"] >= 0) & (answer["scores"] <= 1)).all()
        assert ((answer["boxes"] >= 0) & (answer["boxes"] <= 96)).all()


def test_the_backbone_is_saved_once(demo_zoo):
    network = make(demo_zoo)
    names = [name for name, _ in network.named_parameters()]
    own = {id(value) for value in network.backbone.parameters()}
    assert len(names) == len(set(names))
    assert own <= {id(value) for value in network.parameters()}
    assert sum("stem.0.weight" in name for name in network.state_dict()) == 1


def test_weights_are_a_function_of_the_seed(demo_zoo):
    before = torch.get_rng_state()
    one, same, other = (make(demo_zoo, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_normalised_picture_goes_through_as_it_is(demo_zoo):
    """torchvision's transform neither scales nor shifts it."""
    network = make(demo_zoo).eval()
    image = torch.randn(3, 96, 96)
    images, _ = network.network.transform([image])
    assert torch.allclose(images.tensors[0], image)


# --- what a recipe may ask for ---


@pytest.mark.parametrize(
    ("options", "told"),
    [({"channels": 33}, "channels"), ({"finest_stride": 2}, "finest_stride"), ({"anchors": 3}, "anchors")],
)
def test_wrong_options(demo_zoo, options, told):
    with pytest.raises(RecipeError, match=told):
        make(demo_zoo, options=options)


def test_a_detector_that_the_backbone_cannot_carry(demo_zoo):
    from dataclasses import replace

    spec = demo_zoo.backbone("demo_tiny")
    coarse = replace(spec, stages=(replace(spec.stages[0], stride=16), replace(spec.stages[1], stride=32)))
    with pytest.raises(RecipeError, match="faster_rcnn over demo_tiny: no pyramid from stride 8 on"):
        detectors.build(
            coarse, demo_zoo.detector("faster_rcnn"), Model(backbone="demo_tiny"), Detect(), 96, 1, SHAPES, 0
        )


def test_a_plugin_that_builds_something_else(demo_zoo):
    spec = DetectorSpec(name="odd", build=lambda backbone, args: nn.Identity())
    with pytest.raises(PluginError, match="did not return a module that holds its backbone"):
        detectors.build(demo_zoo.backbone("demo_tiny"), spec, Model(backbone="demo_tiny"), Detect(), 96, 1, SHAPES, 0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda backbone, args: backbone.gone, "build failed: AttributeError: 'Sequential' object"),
        (lambda backbone, args: None, "build returned NoneType, not a torch module"),
    ],
)
def test_a_plugin_that_cannot_build_is_told_as_broken(demo_zoo, build, message):
    spec = DetectorSpec(name="faster_rcnn", build=build)
    with pytest.raises(PluginError, match=f"detector faster_rcnn: {message}") as caught:
        detectors.build(demo_zoo.backbone("demo_tiny"), spec, Model(backbone="demo_tiny"), Detect(), 96, 1, SHAPES, 0)
    assert "the plugin fx (fxcli " in caught.value.hint


# --- anchors ---


def test_quantiles_are_those_of_numpy():
    table = tuple(np.sort(np.random.default_rng(0).uniform(1, 9, 21)).tolist())
    at = (0.0, 0.03, 1 / 6, 0.5, 0.99, 1.0)
    expected = np.interp(at, np.linspace(0, 1, 21), table)
    assert quantiles(table, at) == pytest.approx(expected)


def test_anchor_sides_follow_the_boxes():
    assert sides_of(SHAPES.sides_px) == pytest.approx((15, 25, 35, 45))
    assert sides_of(tuple(np.linspace(1.0, 5.0, 21))) == (8,) * 4, "none smaller than a cell of the finest map"


def boxes_of(size_px, count=300):
    """[count, 4] of the sides and ratios of SHAPES, anywhere in a picture."""
    rng = np.random.default_rng(0)
    side, ratio = rng.choice(SHAPES.sides_px, count), rng.choice(SHAPES.ratios, count)
    width, height = side / ratio**0.5, side * ratio**0.5
    left, top = rng.uniform(0, size_px - width), rng.uniform(0, size_px - height)
    return torch.from_numpy(np.stack([left, top, left + width, top + height], axis=1)).float()


def seen_by(network, size_px=96):
    """The picture as a detector takes it, and the maps that it makes of it."""
    images, _ = network.transform([torch.zeros(3, size_px, size_px)])
    return images, list(network.backbone(images.tensors).values())


def test_nearly_every_box_has_anchors_to_be_learnt_from(demo_zoo):
    network = make(demo_zoo).network
    overlaps = box_iou(boxes_of(96), network.rpn.anchor_generator(*seen_by(network))[0])
    enough = overlaps >= network.rpn.proposal_matcher.high_threshold
    assert enough.any(dim=1).float().mean() > 0.85
    assert enough.sum(dim=1).float().mean() > 4


def test_nearly_every_box_has_cells_to_be_learnt_from(demo_zoo, monkeypatch):
    network = make(demo_zoo, "fcos").network
    images, maps = seen_by(network)
    cells = [each.shape[-1] * each.shape[-2] for each in maps]
    found = []
    monkeypatch.setattr(network.head, "compute_loss", lambda targets, outputs, anchors, matched: found.extend(matched))
    targets = [{"boxes": box[None], "labels": torch.ones(1, dtype=torch.int64)} for box in boxes_of(96)]
    network.compute_loss(targets, {}, network.anchor_generator(images, maps) * len(targets), cells)
    counts = (torch.stack(found) >= 0).sum(dim=1).float()
    assert (counts > 0).float().mean() > 0.95
    assert counts.mean() > 4


# --- the file ---


@pytest.mark.parametrize("detector", ["faster_rcnn", "fcos"])
def test_round_trip(demo_zoo, detector):
    model = trained(demo_zoo, detector)
    model.save(Path("m.safetensors"))
    again = detectors.load(Path("m.safetensors"), demo_zoo)
    image = torch.rand(1, 3, 96, 96)
    with torch.inference_mode():
        one, two = model.network.eval()(image)[0], again.network(image)[0]
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert (again.classes, again.preprocessing) == (model.classes, model.preprocessing)


def test_each_kind_of_file_says_what_it_is(demo_zoo):
    trained(demo_zoo).save(Path("my where.safetensors"))
    with pytest.raises(ModelFileError, match="holds a detector, not a classifier") as caught:
        classifiers.load(Path("my where.safetensors"), demo_zoo)
    assert caught.value.hint == "fx predict FOLDER --model 'my where.safetensors' finds boxes"
    checkpoint.save_model_file(Path("what.safetensors"), {"a": torch.zeros(1)}, {"task": "classify"})
    with pytest.raises(ModelFileError, match="not the file of a detector"):
        detectors.load(Path("what.safetensors"), demo_zoo)


@pytest.mark.parametrize(
    "damage",
    [
        {"box_shapes": {"sides_px": [1.0], "ratios": [1.0]}},
        {"box_shapes": {"sides_px": [5.0] * 20 + [1.0], "ratios": [1.0] * 21}},
        {"box_shapes": {"sides_px": [float("1e9")] * 21, "ratios": [1.0] * 21}},
        {"box_shapes": None},
        {"detect": {"detector": 3}},
        {"batch_size": 10**9},
        {"operating_points": {"0.5": "much"}},
        {"operating_points": [1]},
        {"model": {}, "box_shapes": {}},
    ],
)
def test_a_damaged_header(demo_zoo, damage):
    trained(demo_zoo, **damage).save(Path("m.safetensors"))
    with pytest.raises(ModelFileError, match="the header is damaged"):
        detectors.load(Path("m.safetensors"), demo_zoo)


def test_weights_that_do_not_fit(demo_zoo):
    other = Detect(options={"channels": 64}).model_dump(mode="json")
    trained(demo_zoo, detect=other).save(Path("m.safetensors"))
    with pytest.raises(ModelFileError, match="its weights do not fit"):
        detectors.load(Path("m.safetensors"), demo_zoo)


def test_a_plugin_that_is_gone(demo_zoo):
    trained(demo_zoo).save(Path("m.safetensors"))
    with pytest.raises(ModelFileError, match="needs the backbone demo_tiny"):
        detectors.load(Path("m.safetensors"), Zoo())
    gone = Detect(detector="their_yolo").model_dump(mode="json")
    trained(demo_zoo, detect=gone).save(Path("n.safetensors"))
    with pytest.raises(ModelFileError, match="needs the detector their_yolo"):
        detectors.load(Path("n.safetensors"), demo_zoo)


def test_the_header_is_plain_json(demo_zoo):
    trained(demo_zoo).save(Path("m.safetensors"))
    assert json.loads(json.dumps(checkpoint.read_header(Path("m.safetensors"))))["task"] == "detect"
