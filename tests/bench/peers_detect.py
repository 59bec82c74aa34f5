"""The peer of detectors in `fx predict`: torchvision's Faster R-CNN as its reference script runs it."""

from __future__ import annotations

import json
from pathlib import Path

import timm
import torch
from PIL import Image
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.transforms.functional import to_tensor

from bench.peers_predict import Run, pictures


class Features(nn.Module):
    """EfficientNet-Lite0's stages of stride 4 to 32 and a pyramid of 256 channels, as torchvision has it for ResNet."""

    out_channels = 256

    def __init__(self) -> None:
        super().__init__()
        self.body = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3, 4))
        channels = self.body.feature_info.channels()
        self.fpn = FeaturePyramidNetwork(channels, self.out_channels, extra_blocks=LastLevelMaxPool())

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps by name."""
        return self.fpn({str(number): each for number, each in enumerate(self.body(images))})


def torchvision_reference(*, size_px: int) -> Run:
    """One picture after the other, fp32, every setting but the size as it comes."""
    network = FasterRCNN(Features(), num_classes=2, min_size=size_px, max_size=size_px).eval()

    @torch.inference_mode()
    def run(*, folder: str, out: str) -> None:
        found = {}
        for file in pictures(folder):
            (answer,) = network([to_tensor(Image.open(file).convert("RGB"))])
            found[file.name] = {name: value.tolist() for name, value in answer.items()}
        Path(out, "boxes.json").write_text(json.dumps(found), encoding="utf-8")

    return run
