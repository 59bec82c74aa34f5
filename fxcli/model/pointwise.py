"""Convolutions of 1 × 1 on a CPU, from oneDNN whatever the number of threads and pictures.

In fp32, on one thread and for fewer than 16 pictures, which is what a stream predicts, PyTorch makes a plain matrix
product of them (`use_mkldnn` in its Convolution.cpp): half as fast, or less, on processors that MKL has no kernels for.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def by_onednn(network: nn.Module, device: torch.device) -> Callable[[], None]:
    """Has oneDNN compute the 1 × 1 convolutions of a network in fp32, in place, on x86 processors; elsewhere nothing.

    PyTorch always gives it dilated ones, and a kernel of a single pixel has nothing to dilate. bf16 is its anyway.

    Args:
        network: With any weights.
        device: Where it is.

    Returns:
        What makes it as it was before.
    """
    found: list[tuple[nn.Conv2d, tuple[int, ...]]] = []
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if device.type == "cpu" and has_onednn and torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        found = [
            (module, module.dilation)
            for module in network.modules()
            if type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.weight.dtype == torch.float32
        ]
    for module, _ in found:
        module.dilation = (2, 2)

    def undo() -> None:
        for module, dilation in found:
            module.dilation = dilation

    return undo
