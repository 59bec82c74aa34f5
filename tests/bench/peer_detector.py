"""The peer of `fx train detect`: torchvision's Faster R-CNN, trained by the plain fp32 loop of its reference script.

    python tests/bench/peer_detector.py MANIFEST --epochs 16

MANIFEST is that of a folder prepared with boxes. As in the script: SGD with momentum 0.9, weight decay 1e-4 of every
parameter, a rate of 0.02 for 16 pictures, warmed up over the first epoch and cut to a tenth after 16 and 22 of 26 parts
of the training, mirrored pictures, anchors as they come. As in fx: the weights that it starts from, of which all layers
learn, BatchNorm's statistics kept, size, parts, batch, the pictures of an epoch (those with boxes and as many without),
and boxes from a score of 0.01 on. After each epoch it tells what the validation part gives, by fx's own figures.
Pictures are decoded in the same process: the minutes are no measure of its speed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.transforms.functional import to_tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.peers_detect import Features
from fxcli.data.boxed import with_negatives
from fxcli.data.boxes import Boxes, read_boxes
from fxcli.data.manifest import Row, groups_of, read_manifest
from fxcli.data.preprocess import letterbox
from fxcli.evaluation.detection import Detections, measured
from fxcli.model import classifier
from fxcli.model.init import initialise
from fxcli.recipe.schema import Model
from fxcli.zoo.plugins import load_zoo

BACKBONE = "efficientnet_lite0"
RATE, RATE_OF, MILESTONES, PARTS = 0.02, 16, (16, 22), 26


class Pictures:
    """Of a part of a prepared folder, with the boxes that are known on them."""

    def __init__(self, manifest: Path, split: str) -> None:
        read = read_manifest(manifest)
        boxes = read_boxes(read)
        self.rows: list[Row] = boxes.known(read.part(split))
        self.files = [read.path_of(row) for row in self.rows]
        self.boxes: list[Boxes] = [boxes.by_path[row.path] for row in self.rows]
        self.classes, self.side_px = boxes.classes, read.clean().prepared_px

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        row, boxes = self.rows[index], self.boxes[index]
        corners = torch.from_numpy(boxes.corners * self.scale(index))
        with Image.open(self.files[index]) as square:
            radiograph = square.crop(letterbox(row.width_px, row.height_px, self.side_px))
        return to_tensor(radiograph.convert("RGB")), {"boxes": corners, "labels": torch.from_numpy(boxes.labels) + 1}

    def scale(self, index: int) -> np.float32:
        """Pixels of a prepared picture per pixel of the original, in which boxes are told."""
        return np.float32(self.side_px / max(self.rows[index].width_px, self.rows[index].height_px))

    def found(self, index: int, told: dict[str, Tensor]) -> Detections:
        """What a network told of a picture, in pixels of the original."""
        corners = told["boxes"].numpy() / self.scale(index)
        return Detections(corners, told["labels"].numpy() - 1, told["scores"].numpy())


def network(size_px: int, num_classes: int) -> FasterRCNN:
    """Over the ImageNet weights that fx starts from, normalised as they want it."""
    spec = load_zoo().backbone(BACKBONE)
    backbone = classifier.build_backbone(spec, Model(backbone=BACKBONE), size_px, seed=0)
    seen = initialise(spec, backbone, "imagenet")
    features, given = Features(), backbone.state_dict()
    features.body.load_state_dict({name: given[name] for name in features.body.state_dict()})
    # The first class is the background. Boxes are told from the score on that fx tells them from.
    sizes = {"min_size": size_px, "max_size": size_px}
    scale = {"image_mean": seen.mean, "image_std": seen.std}
    return FasterRCNN(features, num_classes + 1, **sizes, **scale, box_score_thresh=0.01)


def mirrored(picture: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Left for right."""
    width = picture.shape[-1]
    left, top, right, bottom = target["boxes"].unbind(1)
    return picture.flip(-1), target | {"boxes": torch.stack([width - right, top, width - left, bottom], 1)}


def rate_at(epoch: int, share: float, epochs: int, batch: int, steps: int) -> float:
    """The learning rate of a step: `share` of the epoch, counted from 0, was before it; `steps` are in an epoch."""
    passed = (epoch + share) * PARTS / epochs
    cut = 0.1 ** sum(passed >= milestone for milestone in MILESTONES)
    ramp = min(1000, steps - 1)
    warm = min(1.0, 1e-3 + (1 - 1e-3) * share * steps / ramp) if epoch == 0 and ramp else 1.0
    return RATE * batch / RATE_OF * cut * warm


def epoch(model: FasterRCNN, part: Pictures, optimizer: torch.optim.Optimizer, number: int, asked: Any) -> float:
    """One pass over the pictures with boxes and as many without, in fp32; the mean loss."""
    model.train()
    for module in model.backbone.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    rng = np.random.default_rng([asked.seed, number])
    _, order = with_negatives([len(each) > 0 for each in part.boxes], 1.0)
    places = order(rng).tolist()
    batches = [places[start : start + asked.batch] for start in range(0, len(places), asked.batch)]
    losses = []
    for step, numbers in enumerate(batches):
        rate = rate_at(number, step / len(batches), asked.epochs, asked.batch, len(batches))
        for group in optimizer.param_groups:
            group["lr"] = rate
        items = [part[index] for index in numbers]
        items = [mirrored(*item) if rng.random() < 0.5 else item for item in items]
        parts = model([picture for picture, _ in items], [target for _, target in items])
        loss = sum(parts.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses))


@torch.inference_mode()
def figures(model: nn.Module, part: Pictures) -> dict[str, object]:
    """Of a part, by fx's measure."""
    model.eval()
    found = []
    for number in range(len(part.rows)):
        (told,) = model([part[number][0]])
        found.append(part.found(number, told))
    return measured(found, part.boxes, part.classes, groups_of(part.rows))


def main() -> None:
    """Trains, and prints a line of JSON for each epoch."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("manifest", type=Path)
    for name, default in (("epochs", 16), ("size", 512), ("batch", 4), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    torch.manual_seed(asked.seed)
    train, val = Pictures(asked.manifest, "train"), Pictures(asked.manifest, "val")
    model = network(asked.size, len(train.classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-4)
    for number in range(asked.epochs):
        began = time.monotonic()
        loss = epoch(model, train, optimizer, number, asked)
        line = {"epoch": number + 1, "loss": loss, "minutes": (time.monotonic() - began) / 60}
        print(json.dumps(line | {"figures": figures(model, val)}, default=float), flush=True)


if __name__ == "__main__":
    main()
