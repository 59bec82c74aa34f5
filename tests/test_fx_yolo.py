"""YOLOX over the backbones of fx: the detection contract, what it learns, and how it does without its library."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import fx_yolo
import fxcli
from fx_yolo import YoloxOptions
from fx_yolo.network import Yolox, _labels
from fxcli.cli import app
from fxcli.model import detector as detectors
from fxcli.model.detector import BoxShapes
from fxcli.recipe.detection import Detect
from fxcli.recipe.schema import Model
from fxcli.zoo.plugins import load_zoo

SHAPES = BoxShapes(tuple(np.linspace(10.0, 50.0, 21)), tuple(np.linspace(0.5, 2.0, 21)))
BOX = {"boxes": torch.tensor([[10.0, 12, 40, 50]]), "labels": torch.tensor([2])}
NOTHING = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def make(zoo, backbone="demo_tiny", **options):
    settings = Detect(detector="yolox", options={"channels": 32, **options})
    model = Model(backbone=backbone, init="random")
    return detectors.build(zoo.backbone(backbone), zoo.detector("yolox"), model, settings, 96, 2, SHAPES, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "finest"), [("demo_tiny", 4), ("demo_tiny", 8), ("resnet18", 8), ("efficientnet_lite0", 8)]
)
def test_contract(demo_zoo, backbone, finest):
    network = make(demo_zoo, backbone, finest_stride=finest)
    images = torch.rand(2, 3, 96, 96)
    losses = network.train().losses(images, [BOX, NOTHING])
    assert set(losses) == {"iou_loss", "obj_loss", "cls_loss"}
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert not [name for name, value in network.named_parameters() if value.grad is None]
    with torch.inference_mode():
        for answer in network.eval()(images):
            assert answer["boxes"].shape == (len(answer["scores"]), 4)
            assert set(answer["labels"].tolist()) <= {1, 2}
            assert ((answer["boxes"] >= 0) & (answer["boxes"] <= 96)).all()
            assert torch.equal(answer["scores"], answer["scores"].sort(descending=True).values)
            assert len(answer["scores"]) <= 100


def test_negatives_alone_teach_that_there_is_nothing(demo_zoo):
    network = make(demo_zoo).train()
    losses = network.losses(torch.rand(2, 3, 96, 96), [NOTHING, NOTHING])
    assert losses["obj_loss"] > 0
    assert losses["iou_loss"] == losses["cls_loss"] == 0


def test_labels_are_centres_and_sides():
    labels = _labels([BOX, NOTHING], torch.zeros(2, 3, 96, 96))
    assert labels.tolist() == [[[1, 25, 31, 30, 38]], [[0, 0, 0, 0, 0]]]


@pytest.mark.slow
def test_it_decodes_what_it_learns(demo_zoo):
    """One picture, learnt by heart: the box comes back where it was, as its class."""
    network = make(demo_zoo, score_threshold=0.3).train()
    torch.manual_seed(0)
    images = torch.rand(2, 3, 96, 96)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        sum(network.losses(images, [BOX, NOTHING]).values()).backward()
        optimizer.step()
    with torch.inference_mode():
        found, none = network.eval()(images)
    assert found["labels"][0] == 2
    assert found["boxes"][0].tolist() == pytest.approx(BOX["boxes"][0].tolist(), abs=4)
    assert len(none["scores"]) == 0 or none["scores"][0] < found["scores"][0]


def test_training_needs_targets(demo_zoo):
    with pytest.raises(ValueError, match="needs targets"):
        make(demo_zoo).train().network([torch.rand(3, 96, 96)])


@pytest.mark.slow
def test_a_recipe_trains_and_predicts_with_it(tiny_detect):
    tiny_detect("detect.detector=yolox")

    def fx(*arguments):
        done = CliRunner().invoke(app, [str(each) for each in arguments])
        assert done.exit_code == 0, done.output
        return done

    fx("train", "boxes.yaml", "--set", "detect.detector=yolox", "--set", "train.epochs=1", "--out", "runs/y", "--quiet")
    picture = next(Path(tiny_detect().data.manifest).parent.rglob("pictures/**/*.png"))
    assert "boxes" in fx("predict", picture, "--model", "runs/y", "--score", 0.01).stdout


def test_without_libreyolo(demo_zoo, monkeypatch):
    monkeypatch.delitem(sys.modules, "fx_yolo.network")
    monkeypatch.setitem(sys.modules, "libreyolo.models.yolox.nn", None)
    with pytest.raises(fxcli.MissingDependency, match=r"the detector yolox needs the package libreyolo") as told:
        make(demo_zoo)
    assert "fxcli[yolo]" in told.value.hint
    assert told.value.exit_code == 7


def test_registering_imports_neither_torch_nor_libreyolo():
    code = "import sys, fx_yolo as p; p.fx_register_detectors(print)"
    code += "; sys.exit(bool({'torch', 'libreyolo'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_it_uses_public_names_alone():
    for file in Path(fx_yolo.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fxcli"):
                assert node.module == "fxcli"
                assert {alias.name for alias in node.names} <= set(fxcli.__all__)


def test_it_is_registered():
    zoo = load_zoo()
    assert zoo.provider("detector", "yolox").name == "yolo"
    assert zoo.detector("yolox").options is YoloxOptions
    assert issubclass(Yolox, torch.nn.Module)
