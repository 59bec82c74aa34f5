"""Builds networks without drawing random weights, for those that a file is about to fill."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# What random initialisations are made of; those of torch.nn.init that torch hands over whole are known by their module.
_FILLS = {Tensor.normal_, Tensor.uniform_, Tensor.erfinv_}


class EmptyParameters(TorchFunctionMode):
    """Within it, parameters are set to 0 where they would be drawn at random, which takes longer than reading them.

    Everything else is computed as ever, for buffers may hold numbers that no file has. This is why the network is not
    built on the meta device: those buffers would be lost there, and a build could not look at any of its numbers.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls `func`, or sets the parameter that it would fill to 0."""
        given = kwargs or {}
        target = args[0] if args else given.get("tensor")
        fills = func in _FILLS or getattr(func, "__module__", None) == "torch.nn.init"
        # Not isinstance: a lazy parameter has no memory yet.
        if not fills or type(target) is not nn.Parameter:
            return func(*args, **given)
        target.data.zero_()
        return target
