"""Where and how numbers are computed: device, precision, memory layout. Used by training and inference alike."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fxcli.console import console
from fxcli.errors import RunError, UsageError
from fxcli.model.depthwise import DepthwiseGradients
from fxcli.recipe.fields import DEVICE, PATTERNS
from fxcli.recipe.schema import Hardware

Module = TypeVar("Module", bound=nn.Module)

REASON_LIMIT = 200

# Of glibc's malloc.h: no block is mapped of its own, nothing is given back, and the heap grows by so many bytes.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_HELD_S = 600


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

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """The context of a forward pass."""
        bf16 = self.precision == "bf16"
        gradients = DepthwiseGradients() if bf16 and self.device.type == "cpu" else contextlib.nullcontext()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16), gradients:
            yield


def compute(settings: Hardware, *, device: str | None = None, training: bool = False) -> Compute:
    """Resolves the recipe's section.

    Args:
        settings: The section; its `threads` is applied to the process. Where the processor has no bf16 of its own,
            fp32 takes its place, with a warning: emulated, it is slower.
        device: Of the command line, in place of the recipe's.
        training: Whether precision `auto` may be bf16. Elsewhere it is fp32: what a model answers must not depend on
            the processor. And whether the process keeps the memory of one step for the next.

    Raises:
        UsageError: The device is not there, or is none of those that fx runs on.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if training:
        held.start()
    name = device or settings.device
    if not re.fullmatch(DEVICE, name):
        raise UsageError(f"device {name} cannot be used: it must be {PATTERNS[DEVICE]}")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and training and (number := os.environ.get("LOCAL_RANK")) is not None:
        # torchrun starts a process for each GPU.
        name = f"cuda:{number}"
    try:
        chosen = torch.device(name)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0][:REASON_LIMIT]
        # fx train has no --device: the recipe says it there, and --resume takes no --set.
        hint = f"{'--device cpu' if device else 'a new run with --set hardware.device=cpu'} always works"
        raise UsageError(f"device {name} cannot be used: {reason}", hint=hint) from error
    if chosen.type == "cuda":
        # TF32 keeps 10 bits of each number; a GPU is to give the probabilities that a CPU gives.
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
    channels_last = settings.channels_last
    if channels_last is None:
        channels_last = chosen.type in ("cpu", "cuda")
    return Compute(chosen, _precision(settings.precision, chosen, training), channels_last)


def recorded(settings: Hardware, values: Mapping[str, Any]) -> Compute:
    """What a run that goes on is computed with: precision, layout and threads as its run.json says.

    The device is what there is; a warning tells of another kind of it.

    Args:
        settings: The recipe's section.
        values: What `describe` gave when the run was started.

    Raises:
        RunError: This machine cannot compute so.
        UsageError: See `compute`.
    """
    layout, threads = values["channels_last"], settings.threads or values["threads"]
    found = compute(
        settings.model_copy(update={"precision": "fp32", "channels_last": layout, "threads": threads}), training=True
    )
    if values["precision"] == "bf16" and not has_bf16(found.device):
        raise RunError(
            f"this run computes in bf16, and {found.device} here has none of its own; "
            "in another precision it would mix two experiments",
            hint="resume it on a machine like the one it was started on, or start a new run",
        )
    if is_elsewhere(found, values):
        console.warn(
            f"this run was computed on {values['device']} and goes on on {found.device}: "
            "it will not end to the bit as it would have there"
        )
    return replace(found, precision=values["precision"])


def is_elsewhere(chosen: Compute, values: Mapping[str, Any]) -> bool:
    """Whether this is another kind of device than that of `recorded`'s values."""
    return str(values.get("device", chosen.device)).partition(":")[0] != chosen.device.type


@contextlib.contextmanager
def own_threads() -> Iterator[None]:
    """How many threads the process computes in may be changed within; afterwards they are as many as before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Computes in one thread: small matrices gain nothing by more, and wait where other programs use the cores."""
    with own_threads():
        torch.set_num_threads(1)
        yield


class _Held:
    """Memory that is freed and stays in the process, where the C library is glibc.

    It would give large blocks back at once, and the system clears each anew: a sixth of the time of a step on a CPU.
    But what lies free between blocks in use grows by gigabytes in an hour, so all is given back now and then.
    """

    def __init__(self) -> None:
        self._since: float | None = None

    def start(self) -> None:
        """From here on."""
        if sys.platform != "linux" or self._since is not None:
            return
        with contextlib.suppress(OSError, AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 64 << 20)):
                mallopt(option, value)
            self._since = time.monotonic()

    def give_back(self, *, at_once: bool = False) -> None:
        """All that is free, where the last time is long enough ago or it is to be now; it costs about a training step.

        To be now before processes are forked: they would keep what lies free here, and it would take twice the memory
        as soon as it is used.
        """
        if self._since is not None and (at_once or time.monotonic() - self._since >= _HELD_S):
            ctypes.CDLL(None).malloc_trim(0)
            self._since = time.monotonic()


# Of this process, as are the settings of its C library.
held = _Held()


def _precision(wanted: str, device: torch.device, training: bool) -> str:
    if wanted == "auto":
        return "bf16" if training and device.type != "mps" and has_bf16(device) else "fp32"
    if wanted == "bf16" and not has_bf16(device):
        console.warn(f"{device} has no bf16 of its own: hardware.precision is fp32")
        return "fp32"
    return wanted


def has_bf16(device: torch.device) -> bool:
    """Whether the processor computes in bf16 itself. What an older torch cannot tell counts as no."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "mps":
        return True
    if torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        # Not _is_mkldnn_bf16_supported: on x86 it is true of all of AVX-512, which emulates bf16.
        asked = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")]
    else:
        asked = [getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)]
    return any(supported() for supported in asked if supported)


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
