"""Detectors run over files: in streams, in order, and folded for prediction alone."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fxcli.data.preprocess import Clean, Preprocessing
from fxcli.errors import RunError
from fxcli.inference.detected import open_detector
from fxcli.model import detector as detectors
from fxcli.model.detector import BoxShapes, TrainedDetector
from fxcli.recipe.detection import Detect
from fxcli.recipe.schema import Model

SHAPES = BoxShapes(tuple(np.linspace(10.0, 50.0, 21)), tuple(np.linspace(0.5, 2.0, 21)))
SEEN = Preprocessing(Clean(96), 96, "letterbox", (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(params=["faster_rcnn", "fcos"])
def file(request, demo_zoo):
    """A model file whose norms are no identities, as after training."""
    model = Model(backbone="demo_tiny", init="random")
    settings = Detect(detector=request.param, options={"channels": 32, "score_threshold": 0.0})
    spec, method = demo_zoo.backbone("demo_tiny"), demo_zoo.detector(request.param)
    network = detectors.build(spec, method, model, settings, 96, 2, SHAPES, seed=0)
    generator = torch.Generator().manual_seed(1)
    for norm in norms(network):
        norm.running_mean.normal_(0, 0.1, generator=generator)
        norm.running_var.uniform_(0.5, 2, generator=generator)
    info = {
        "task": "detect",
        "name": "tiny",
        "data": "drawn",
        "created": "now",
        "backbone": "demo_tiny",
        "model": model.model_dump(mode="json"),
        "detect": settings.model_dump(mode="json"),
        "box_shapes": {"sides_px": list(SHAPES.sides_px), "ratios": list(SHAPES.ratios)},
        "plugin": {"name": "demo", "distribution": "fx-demo", "version": "0.1"},
        "batch_size": 3,
    }
    TrainedDetector(network, spec, ("a", "b"), SEEN, info).save(Path("model.safetensors"))
    return Path("model.safetensors")


@pytest.fixture
def files():
    """Nine pictures, one of which is none."""
    found = []
    for number, side in enumerate(range(60, 150, 10)):
        pixels = np.random.default_rng(number).integers(0, 256, (side, 100)).astype(np.uint8)
        Image.fromarray(pixels).save(f"{number}.png")
        found.append(Path(f"{number}.png"))
    found[4].write_bytes(b"nothing")
    return found


def test_a_picture_that_a_package_is_missing_for_has_a_reason(file, files, monkeypatch):
    for name in [*(name for name in sys.modules if name.split(".")[0] == "pydicom"), "pydicom"]:
        monkeypatch.setitem(sys.modules, name, None)
    files[4].write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 64)
    found = list(open_detector(file, None, workers=0).finder.over(files))
    assert [number for number, each in enumerate(found) if each.found is None] == [4]
    assert found[4].reason.endswith("is not installed: python -m pip install 'fxcli[dicom]'")


@pytest.mark.parametrize("broken", ["boxes", "scores"])
def test_boxes_that_are_nowhere_are_told_and_not_left_out(file, files, monkeypatch, broken):
    found = {"boxes": torch.ones(1, 4), "labels": torch.ones(1, dtype=torch.int64), "scores": torch.ones(1)}
    found[broken] = found[broken] * float("nan")
    monkeypatch.setattr(detectors.Detector, "forward", lambda self, images: [found] * len(images))
    with pytest.raises(RunError, match="boxes or scores are not finite"):
        open_detector(file, None, workers=0).finder.look(files[0])


def norms(network):
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def assert_alike(sightings, others):
    assert [each.path for each in sightings] == [each.path for each in others]
    assert [each.found is None for each in sightings] == [number == 4 for number in range(9)]
    assert any(len(each.found) for each in sightings if each.found is not None)
    for one, other in zip(sightings, others, strict=True):
        if one.found is not None:
            assert one.found.scores == pytest.approx(other.found.scores, abs=1e-4)
            assert one.found.corners == pytest.approx(other.found.corners, abs=0.05)


def test_streams_tell_what_one_thread_does_in_the_order_of_the_files(file, files):
    alone = list(open_detector(file, None, workers=0, batch_size=1).finder.over(files))
    for workers in (1, 3, None):
        assert_alike(list(open_detector(file, None, workers=workers).finder.over(files)), alone)
    assert open_detector(file, None).finder.look(files[0]).found.scores == pytest.approx(
        alone[0].found.scores, abs=1e-4
    )


def test_threads_of_torch_are_shared_by_streams_and_given_back(file, files, monkeypatch):
    finder, seen, before = open_detector(file, None, workers=2).finder, [], torch.get_num_threads()
    real = type(finder)._found
    monkeypatch.setattr(
        type(finder), "_found", lambda self, images: (seen.append(torch.get_num_threads()), real(self, images))[1]
    )
    torch.set_num_threads(4)
    try:
        list(finder.over(files))
        assert set(seen) == {2}
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_to_predict_norms_are_folded_and_boxes_stay(file, files):
    exact, fast = (open_detector(file, None, fast=fast).finder for fast in (False, True))
    assert norms(exact.model.network)
    assert norms(fast.model.network) == []
    assert_alike(list(fast.over(files)), list(exact.over(files)))
