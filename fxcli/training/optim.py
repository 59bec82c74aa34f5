"""Optimizers and learning rates. A rate is a function of the step, so resuming needs no scheduler's state."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fxcli.recipe.schema import Optim, Schedule


def make(settings: Optim, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The recipe's optimizer over parameter groups that carry lr, weight_decay and `factor`."""
    # One pass over memory instead of six. On a GPU torch has its own choice; here, its default is the slow one.
    fused = True if all(value.device.type == "cpu" for group in groups for value in group["params"]) else None
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, fused=fused)
    momentum = settings.momentum
    if settings.name == "lars":
        from timm.optim.lars import Lars

        # Biases and norm parameters keep the plain rate (You et al. 2017; Chen et al. 2020, appendix B.9).
        adapted = [{**group, "always_adapt": all(value.ndim > 1 for value in group["params"])} for group in groups]
        lars: torch.optim.Optimizer = Lars(adapted, lr=settings.lr, momentum=momentum)
        return lars
    sgd = torch.optim.SGD(groups, lr=settings.lr, momentum=momentum, nesterov=momentum > 0, fused=fused)
    if fused and momentum:
        # Else torch's fused step fails at the first gradient of a parameter that had none in steps before.
        for parameter in _parameters(sgd):
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def rate(settings: Schedule, step: int, total: int, steps_per_epoch: int) -> float:
    """The factor of the learning rate at a step.

    Args:
        settings: The recipe's section.
        step: From 0, within the phase.
        total: Steps of the phase.
        steps_per_epoch: For warm-up and step.

    Returns:
        In (0, 1]. onecycle follows Smith & Topin 2018 with cosine halves, as torch's OneCycleLR.
    """
    if settings.name == "onecycle":
        return _onecycle(settings, step, total)
    # One step is left at least: of very few steps an epoch all could round to warm-up, which never reaches 1.
    warmup = min(round(settings.warmup_epochs * steps_per_epoch), total - 1)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if settings.name == "cosine":
        return _cosine(1.0, 0.0, (step - warmup) / max(1, total - warmup))
    if settings.name == "step":
        drops = int((step - warmup) // max(1, round(settings.step_epochs * steps_per_epoch)))
        return float(settings.gamma**drops)
    return 1.0


def _onecycle(settings: Schedule, step: int, total: int) -> float:
    first = 1 / settings.div_factor
    last = first / settings.final_div_factor
    peak = settings.pct_start * total - 1
    if total == 1 or step == peak:
        return 1.0
    if step < peak:
        return _cosine(first, 1.0, step / peak)
    return _cosine(1.0, last, (step - peak) / max(1e-12, total - 1 - peak))


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * min(1.0, done)))


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets each group to `lr` times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]


def step(optimizer: torch.optim.Optimizer, network: nn.Module, settings: Optim, factor: float) -> None:
    """Updates a network once, at `factor` times the recipe's learning rate, and drops its gradients."""
    set_rate(optimizer, settings.lr * factor)
    if settings.clip_norm:
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def state_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors: `<index of the parameter>.<entry>`."""
    return {
        f"{index}.{name}": value
        for index, parameter in enumerate(_parameters(optimizer))
        for name, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Puts named tensors back; what `state_tensors` gave of an optimizer over the same parameters."""
    by_index: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        by_index.setdefault(int(number), {})[name] = value
    for index, parameter in enumerate(_parameters(optimizer)):
        if index in by_index:
            # AdamW keeps its step counter on the CPU, whatever the device. All else must lie in memory as the
            # parameter does: a fused step takes that for granted.
            optimizer.state[parameter] = {
                name: value.clone() if name == "step" else torch.empty_like(parameter).copy_(value).detach()
                for name, value in by_index[index].items()
            }


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]
