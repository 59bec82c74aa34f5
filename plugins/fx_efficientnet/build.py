"""Builds an EfficientNet of timm as a sequence of its parts, and fits the weights of the Lite packages."""

from __future__ import annotations

from collections import OrderedDict

import timm
from torch import Tensor, nn

from fxcli import BackboneArgs

PARTS = ("conv_stem", "bn1", "blocks", "conv_head", "bn2")


def build(timm_name: str, args: BackboneArgs) -> nn.Module:
    """The net up to its last activation (bn2 holds norm and activation), with timm's own keys."""
    whole = timm.create_model(timm_name, num_classes=0, drop_path_rate=args.drop_path)
    return nn.Sequential(OrderedDict((part, getattr(whole, part)) for part in PARTS))


def convert_lite(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Gives the tensors the keys of timm: they stand in the same order, with the classifier's two at the end.

    Raises:
        ValueError: Number, kind or shape of the tensors is another.
    """
    own = module.state_dict()
    *theirs, weight, bias = state.items()
    if len(theirs) != len(own) or (weight[0], bias[0]) != ("_fc.weight", "_fc.bias"):
        raise ValueError(f"expected {len(own)} tensors and a classifier, found {len(state)} tensors")
    for (key, tensor), (their_key, theirs_tensor) in zip(own.items(), theirs, strict=True):
        if tensor.shape != theirs_tensor.shape or key.split(".")[-1] != their_key.split(".")[-1]:
            raise ValueError(f"{their_key} does not stand where {key} is expected")
    return dict(zip(own, (tensor for _, tensor in theirs), strict=True))
