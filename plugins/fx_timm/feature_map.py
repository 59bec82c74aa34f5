"""A net of timm as a backbone: what its layers give, whatever their form, becomes maps [B, C, h, w].

A stage must end with a module that returns a map, and blocks of a transformer return tokens. So a block that ends a
stage hands its output through a module of `maps`, which gives the map that is seen, and the block goes on with what
was made of it: a map that is looked at, replaced or differentiated is on the way to the answer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Form:
    """How a tensor holds a square map.

    Attributes:
        axes: "NCHW", "NHWC", or "NLC": tokens, row by row.
        prefix: Tokens before those of the map: class tokens, registers.
    """

    axes: str
    prefix: int = 0


class AsMap(nn.Module):
    """A tensor of this form → the map [B, C, h, w] in it; prefix tokens are dropped."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        if self.form.axes == "NHWC":
            return features.permute(0, 3, 1, 2)
        if self.form.axes == "NLC":
            tokens = features[:, self.form.prefix :]
            side = math.isqrt(tokens.shape[1])
            return tokens.transpose(1, 2).unflatten(2, (side, side))  # type: ignore[no-untyped-call, no-any-return]
        return features


def as_before(feature_map: Tensor, features: Tensor, form: Form) -> Tensor:
    """The opposite of AsMap; prefix tokens are taken from `features`."""
    if form.axes == "NHWC":
        return feature_map.permute(0, 2, 3, 1)
    tokens = feature_map.flatten(2).transpose(1, 2)
    return torch.cat([features[:, : form.prefix], tokens], dim=1) if form.prefix else tokens


class FeatureMap(nn.Module):
    """Images [B, 3, H, W] → feature map [B, C, h, w]: what the net gives before its pooling and classifier.

    Args:
        net: Of timm.
        form: Of what its `forward_features` returns.
        taps: Form of what its layers return, by name, for those that end a stage and return no map.
    """

    def __init__(self, net: nn.Module, form: Form, taps: Mapping[str, Form]) -> None:
        super().__init__()
        self.net = net
        self.maps = nn.ModuleDict({tap_name(name): AsMap(each) for name, each in taps.items()})
        self.out = AsMap(form)
        for name, each in taps.items():
            net.get_submodule(name).register_forward_hook(functools.partial(self._through, tap_name(name), each))

    def _through(self, key: str, form: Form, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return as_before(self.maps[key](output), output, form)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        features: Tensor = self.net.forward_features(images)  # type: ignore[operator]
        return self.out(features)  # type: ignore[no-any-return]


def tap_name(layer: str) -> str:
    """A layer's name in `maps`, where no name may have a dot."""
    return layer.replace(".", "_")
