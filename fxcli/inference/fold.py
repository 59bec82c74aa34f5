"""Folds BatchNorm into the convolution before it: the same answers from fewer passes over memory.

Which norm follows which convolution is seen in one forward pass, not in a traced graph: some nets cannot be traced.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

# Of the largest answer, or of 1: folding changes only the order of additions.
TOLERANCE = 1e-4


@torch.no_grad()
def fold_batchnorm(net: nn.Module, images: Tensor) -> set[nn.Module]:
    """Folds every BatchNorm that directly follows a convolution, in place; takes all back if an answer changes.

    Args:
        net: In eval mode; images → logits, or any other answer.
        images: [B, 3, S, S], to see the order of the layers and to compare the answers on.

    Returns:
        The convolutions that took a norm in; none where an answer changed by more than `TOLERANCE`.
    """
    pairs, before = _adjacent(net, images)
    undo: list[tuple[nn.Conv2d, Tensor, Tensor | None, str, nn.Module]] = []
    for conv_name, norm_name in pairs:
        conv, norm = cast(nn.Conv2d, net.get_submodule(conv_name)), net.get_submodule(norm_name)
        undo.append((conv, conv.weight, conv.bias, norm_name, norm))
        conv.weight, conv.bias = _fused(conv, norm)
        # A norm that activates, too, has its activation as a child.
        net.set_submodule(norm_name, nn.Sequential(*norm.children()))
    if _same(net, images, before):
        return {conv for conv, *_ in undo}
    # Backwards: what two norms read was folded twice.
    for conv, weight, bias, norm_name, norm in reversed(undo):
        conv.weight, conv.bias = weight, bias
        net.set_submodule(norm_name, norm)
    return set()


def _same(net: nn.Module, images: Tensor, before: Tensor) -> bool:
    try:
        return bool((net(images) - before).abs().max() < TOLERANCE * before.abs().max().clamp(min=1))
    except AttributeError:
        # The net looks for something of a norm that it no longer has.
        return False


def _fused(conv: nn.Conv2d, norm: Any) -> tuple[nn.Parameter, nn.Parameter]:
    return fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )


def _adjacent(net: nn.Module, images: Tensor) -> tuple[list[tuple[str, str]], Tensor]:
    """Names of (convolution, norm) where the one's output is the other's input, and the answer."""
    made: dict[int, tuple[str, Tensor]] = {}
    calls: Counter[str] = Counter()
    found: list[tuple[str, str]] = []

    def after_conv(name: str, _: nn.Module, __: Any, output: Tensor) -> None:
        calls[name] += 1
        # The tensor is kept: another must not get its id.
        made[id(output)] = name, output

    def before_norm(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[name] += 1
        # What is listened to must stay, and the module that takes its place would be silent.
        if inputs and id(inputs[0]) in made and not net.get_submodule(name)._forward_hooks:
            found.append((made[id(inputs[0])][0], name))

    handles = []
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(functools.partial(after_conv, name)))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            handles.append(module.register_forward_pre_hook(functools.partial(before_norm, name)))
    try:
        logits = net(images)
    finally:
        for handle in handles:
            handle.remove()
    # A layer that serves twice cannot take in what follows it once.
    return [pair for pair in found if calls[pair[0]] == calls[pair[1]] == 1], logits
