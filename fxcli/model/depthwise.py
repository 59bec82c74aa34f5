"""Gradients of depthwise convolutions in bf16 on a CPU, from the calls of oneDNN that are fast.

PyTorch hands bf16 convolutions to oneDNN, whose backward pass is fast for a depthwise kernel of 3 × 3 at stride 1 and
falls to a reference implementation elsewhere, many times as slow. Both other cases are made of the fast one here. Of a
stride of s, the pictures' gradient falls into s × s interleaved parts, each a plain convolution of the output's
gradient with every s-th row and column of the kernel. Of a larger kernel, the gradient is put together from those of
its 3 × 3 parts. Sums are taken in another order, so last bits differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_KERNELS = (3, 5, 7)
_LAST = torch.channels_last


class DepthwiseGradients(TorchFunctionMode):
    """While entered, depthwise convolutions that autocast runs in bf16 get the gradients of this module.

    Only those that training needs and oneDNN is slow at: square kernels of 5 or 7, or of 3 with a stride of 2.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d:
            return _conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.conv2d`, by `_Depthwise` where that is faster; named after its arguments, which come by name, too."""
    strides, paddings = _pair(stride), _pair(padding)
    if not (
        # A backbone may have switched it off for a part of itself.
        torch.is_autocast_enabled("cpu")
        and torch.is_grad_enabled()
        and weight.requires_grad
        and 1 < groups == weight.shape[0] == input.shape[1]
        and weight.shape[2] == weight.shape[3] in _KERNELS
        and (weight.shape[2], *strides) != (3, 1, 1)
        and strides in ((1, 1), (2, 2))
        and paddings in ((0, 0), (1, 1), (2, 2), (3, 3))
        and _pair(dilation) == (1, 1)
    ):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    images, kernel = input.to(torch.bfloat16), weight.to(torch.bfloat16)
    answer: Tensor = _Depthwise.apply(images, kernel, strides[0], paddings[0])
    return answer if bias is None else answer + bias.to(torch.bfloat16)[:, None, None]


def _pair(value: int | str | Sequence[int]) -> tuple[Any, Any]:
    return (value, value) if isinstance(value, int | str) else (value[0], value[-1])


class _Depthwise(torch.autograd.Function):
    """x [B, C, H, W], weight [C, 1, k, k], stride s, padding p → [B, C, H', W']."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, s: int, p: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.s, ctx.p = s, p
        return torch.conv2d(x, weight, None, s, p, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=_LAST)
        of_x = _of_input(gradient, x, weight, ctx.s, ctx.p) if ctx.needs_input_grad[0] else None
        of_weight = _of_weight(gradient, x, weight, ctx.s, ctx.p) if ctx.needs_input_grad[1] else None
        return of_x, of_weight, None, None


def _of_input(gradient: Tensor, x: Tensor, weight: Tensor, s: int, p: int) -> Tensor:
    """Input row r·s + a takes kernel rows i with i ≡ a + p (mod s), each from output row r + (a + p − i) / s."""
    if s == 1:
        return _backward(gradient, x, weight, s, p, (True, False, False))[0]
    answer = torch.empty_like(x)
    for a in range(s):
        for b in range(s):
            part = answer[:, :, a::s, b::s]
            if not part.numel():
                continue  # of a map that is one row high, or one column wide
            rows, columns = _kernel_part(weight.shape[2], a + p, s), _kernel_part(weight.shape[3], b + p, s)
            kernel = weight[:, :, rows][..., columns].flip(2, 3).contiguous(memory_format=_LAST)
            top, bottom = _border(a + p, rows, s, part.shape[2], gradient.shape[2])
            left, right = _border(b + p, columns, s, part.shape[3], gradient.shape[3])
            padded = functional.pad(gradient, (left, right, top, bottom))
            part.copy_(torch.conv2d(padded, kernel, None, 1, 0, 1, len(weight)))
    return answer


def _kernel_part(size: int, first: int, s: int) -> list[int]:
    return list(range(first % s, size, s))


def _border(first: int, rows: Sequence[int], s: int, wanted: int, given: int) -> tuple[int, int]:
    """How far `given` rows of an output's gradient must be padded for a convolution that gives `wanted` rows."""
    start = (first - rows[-1]) // s
    return -start, start + wanted + len(rows) - 1 - given


def _of_weight(gradient: Tensor, x: Tensor, weight: Tensor, s: int, p: int) -> Tensor:
    """From 3 × 3 parts that overlap by a row and a column."""
    size = weight.shape[2]
    if size == 3:
        return _backward(gradient, x, weight, s, p, (False, True, False))[1]
    padded = functional.pad(x, (p,) * 4)
    height, width = ((n - 1) * s + 3 for n in gradient.shape[2:])
    small = weight[:, :, :3, :3].contiguous(memory_format=_LAST)
    answer = torch.empty_like(weight)
    for i in range(0, size - 2, 2):
        for j in range(0, size - 2, 2):
            seen = padded[:, :, i : i + height, j : j + width].contiguous(memory_format=_LAST)
            part = _backward(gradient, seen, small, s, 0, (False, True, False))[1]
            answer[:, :, i : i + 3, j : j + 3] = part
    return answer


def _backward(
    gradient: Tensor, x: Tensor, weight: Tensor, s: int, p: int, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.aten.convolution_backward(  # type: ignore[no-any-return]
        gradient, x, weight, None, (s, s), (p, p), (1, 1), False, (0, 0), len(weight), wanted
    )
