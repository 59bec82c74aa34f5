"""Where and how numbers are computed: device, precision, memory layout. Used by training and inference alike."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from fxcli.errors import UsageError
from fxcli.recipe.schema import Hardware

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Compute:
    """A device with its settings.

    Attributes:
        device: Where tensors go.
        precision: "fp32" or "bf16" (the forward pass is autocast).
        channels_last: Memory layout of pictures and weights.
    """

    device: torch.device
    precision: str = "fp32"
    channels_last: bool = False

    def place(self, module: Module) -> Module:
        """Moves a module here, in place."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return module.to(self.device, memory_format=layout)  # type: ignore[call-overload, no-any-return]

    def send(self, images: Tensor) -> Tensor:
        """Moves a batch of pictures here."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return images.to(self.device, memory_format=layout)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context of a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def compute(settings: Hardware, *, device: str | None = None) -> Compute:
    """Resolves the recipe's section.

    Args:
        settings: The section; its `threads` is applied to the process.
        device: Of the command line, in place of the recipe's.

    Raises:
        UsageError: The device is not there.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    name = device or settings.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(name)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {name} cannot be used: {reason}", hint="--device cpu always works") from error
    return Compute(chosen, settings.precision, settings.channels_last)


def describe(chosen: Compute) -> dict[str, object]:
    """For run.json."""
    name = torch.cuda.get_device_name(chosen.device) if chosen.device.type == "cuda" else chosen.device.type
    return {
        "device": str(chosen.device),
        "device_name": name,
        "precision": chosen.precision,
        "channels_last": chosen.channels_last,
        "threads": torch.get_num_threads(),
    }
