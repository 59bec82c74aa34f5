"""Which parts learn, and how fast: freezing by stage, and the parameter groups of the optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from fxcli.recipe.detection import DetectPhaseModel
from fxcli.recipe.schema import Optim, PhaseModel
from fxcli.zoo.specs import BackboneSpec, Stage

_NORMS = (nn.modules.batchnorm._BatchNorm,)


def frozen_stages(spec: BackboneSpec, freeze: str) -> int:
    """How many stages, from the input on, are frozen: none, all, or until:<stage> inclusive."""
    if freeze == "none":
        return 0
    if freeze == "all":
        return len(spec.stages)
    return [stage.name for stage in spec.stages].index(freeze.removeprefix("until:")) + 1


def is_frozen(spec: BackboneSpec, freeze: str) -> bool:
    """Whether nothing of the backbone learns."""
    return frozen_stages(spec, freeze) == len(spec.stages)


def _parameters(backbone: nn.Module, stage: Stage) -> Iterator[nn.Parameter]:
    for name in stage.modules:
        yield from backbone.get_submodule(name).parameters()
    for name in stage.parameters:
        yield backbone.get_parameter(name)


def left_out(backbone: nn.Module, spec: BackboneSpec) -> str:
    """Which parameters are in no stage, so that nothing would freeze them, in words; "" where there are none."""
    covered = {parameter for stage in spec.stages for parameter in _parameters(backbone, stage)}
    names = [name for name, parameter in backbone.named_parameters() if parameter not in covered]
    return f"{len(names)} parameters are in no stage: {', '.join(names[:3])}" if names else ""


def apply(network: nn.Module, backbone: nn.Module, spec: BackboneSpec, settings: PhaseModel | DetectPhaseModel) -> None:
    """Freezes what the phase freezes, and puts all else into training mode.

    Frozen stages are wholly in eval mode: BatchNorm would drift, dropout and stochastic depth would act, even
    without gradients.

    Args:
        network: All that learns.
        backbone: Within it.
        spec: Of the backbone.
        settings: The phase's section.
    """
    count = frozen_stages(spec, settings.freeze)
    network.train()
    network.requires_grad_(True)
    for stage in spec.stages[:count]:
        for name in stage.modules:
            backbone.get_submodule(name).eval()
        for parameter in _parameters(backbone, stage):
            parameter.requires_grad_(False)
    if is_frozen(spec, settings.freeze):
        # Layers that belong to no stage have no parameters, but may be random.
        backbone.eval()
    if settings.bn == "eval":
        for module in backbone.modules():
            if isinstance(module, _NORMS):
                module.eval()


def parameter_groups(
    module: nn.Module, backbone: nn.Module, spec: BackboneSpec, settings: Optim
) -> list[dict[str, Any]]:
    """Groups of learning parameters with their own rate and decay.

    A stage that is d stages away from the head learns at lr · layer_decay^d; biases and norms are not decayed.

    Args:
        module: All that learns.
        backbone: Within it; all other parameters are the head.
        spec: Of the backbone.
        settings: The recipe's section.
    """
    factors = {
        parameter: settings.layer_decay**distance
        for distance, stage in enumerate(reversed(spec.stages), start=1)
        for parameter in _parameters(backbone, stage)
    }
    # Apart even where nothing is decayed: LARS treats matrices and biases differently.
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            factor = factors.get(parameter, settings.head_lr_mult)
            is_matrix = parameter.ndim > 1
            decay = settings.weight_decay if is_matrix else 0.0
            groups.setdefault((factor, decay, is_matrix), []).append(parameter)
    return [
        {"params": parameters, "lr": settings.lr * factor, "weight_decay": decay, "factor": factor}
        for (factor, decay, _), parameters in groups.items()
    ]
