"""Peer of `fx train`: the plain loop in fp32 over a prepared folder's manifest."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.models import resnet50

from bench.peers_predict import MEAN, STD, usual_transform


class Part(Dataset[tuple[torch.Tensor, int]]):
    """The pictures and targets of a split."""

    def __init__(self, manifest: str, split: str, transform: transforms.Compose) -> None:
        with Path(manifest).open(newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
        classes = sorted({row["label"] for row in rows})
        part = [row for row in rows if row["split"] == split]
        self.files = [Path(manifest).parent / row["path"] for row in part]
        self.targets = [classes.index(row["label"]) for row in part]
        self.num_classes, self.transform = len(classes), transform

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.open(self.files[index]).convert("RGB")), self.targets[index]

    def __len__(self) -> int:
        return len(self.files)


def plain_epoch(*, manifest: str, frozen: bool) -> Callable[..., dict[str, float]]:
    """run() trains ResNet-50 for an epoch: wholly, with light augmentation; or, `frozen`, the head, and validates.

    Batch 32, AdamW, two processes that stay from epoch to epoch.
    """
    transform = usual_transform() if frozen else _augmenting()
    train = Part(manifest, "train", transform)
    network = resnet50(num_classes=train.num_classes)
    if frozen:
        network.requires_grad_(False)
        network.fc.requires_grad_(True)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-3)
    loader = DataLoader(train, batch_size=32, shuffle=True, num_workers=2, persistent_workers=True)
    checks = DataLoader(Part(manifest, "val", usual_transform()), batch_size=32, num_workers=2, persistent_workers=True)
    criterion = nn.CrossEntropyLoss()

    def run() -> dict[str, float]:
        # A frozen network in training mode would still move its BatchNorm statistics.
        network.train(not frozen)
        for images, targets in loader:
            loss = criterion(network(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        right = _validate(network, checks) if frozen else 0
        return {"images": len(train), "right": right}

    return run


@torch.no_grad()
def _validate(network: nn.Module, checks: DataLoader[tuple[torch.Tensor, int]]) -> int:
    network.eval()
    return sum(int((network(images).argmax(1) == targets).sum()) for images, targets in checks)


def _augmenting() -> transforms.Compose:
    """Of the recipe finetune: rotation, brightness, contrast."""
    return transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.RandomRotation(20),
            transforms.ColorJitter(brightness=0.2, contrast=0.2),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
