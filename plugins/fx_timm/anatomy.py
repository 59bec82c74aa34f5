"""What a BackboneSpec has to say of a net of timm, seen in one forward pass without memory.

On the meta device nothing is computed or drawn: it takes seconds for any net.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import Tensor, nn

from fx_timm.feature_map import AsMap, Form, tap_name
from fxcli import Stage

# Side of what a net is shown that takes any size: most strides divide it.
SIZE_PX = 256


@dataclass(frozen=True)
class Anatomy:
    """What the pass shows.

    Attributes:
        form: Of the output.
        idle: Modules that take no part in it: a norm after pooling, a second head. Without them every parameter learns.
        taps: Forms of what layers return, by name, that end a stage and return no map.
        stages: As in the spec.
    """

    form: Form
    idle: tuple[str, ...]
    taps: Mapping[str, Form]
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Seen:
    """A map that a layer, or the whole net, returns in some form."""

    form: Form
    channels: int
    side: int


@dataclass(frozen=True)
class Record:
    """What each module was seen to do, by its name.

    Attributes:
        shapes: Of the tensors that were returned; () for something else.
        begun: When it was called first, as a number that grows.
        ended: When it returned last.
    """

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    begun: dict[str, int] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)

    def watch(self, net: nn.Module) -> None:
        """Notes every call of every module of the net from now on."""
        clock = itertools.count()

        def begin(name: str, _: nn.Module, __: object) -> None:
            self.begun.setdefault(name, next(clock))

        def end(name: str, _: nn.Module, __: object, output: object) -> None:
            self.shapes[name] = _shape(output)
            self.ended[name] = next(clock)

        for name, module in net.named_modules():
            module.register_forward_pre_hook(functools.partial(begin, name))
            module.register_forward_hook(functools.partial(end, name))


def anatomy(name: str, config: Any) -> Anatomy:
    """The anatomy of a net.

    Args:
        name: As timm calls it.
        config: What timm knows of its weights.

    Raises:
        ValueError: It gives no square feature map, or one that grows otherwise than the picture.
    """
    size_px = config.input_size[1] if config.fixed_input_size else SIZE_PX
    record = Record()
    with torch.device("meta"), torch.enable_grad():
        net: Any = timm.create_model(name, num_classes=0).eval()
        prefix = getattr(net, "num_prefix_tokens", 0)
        larger = None if config.fixed_input_size else _shape(net.forward_features(_blank(2 * SIZE_PX)))
        record.watch(net)
        features = net.forward_features(_blank(size_px))
        final = _seen(_shape(features), prefix)
        if final is None:
            given = _shape(features) or type(features).__name__
            raise ValueError(f"{name} of timm gives no square feature map but {given}")
        if larger is not None:
            _check_growth(name, final.side, _seen(larger, prefix))
        idle = tuple(_idle(net, AsMap(final.form)(features)))
    take_out(net, idle)
    names = [info["module"] for info in getattr(net, "feature_info", ())]
    found = {name: _seen(record.shapes.get(name, ()), prefix, final) for name in names}
    taps = {name: seen for name, seen in found.items() if seen and size_px % seen.side == 0}
    pieces = _cut(net, taps)
    if size_px % final.side or len(pieces) == 1 or not _in_order(pieces, record):
        whole = Stage(name="all", modules=("",), stride=round(size_px / final.side), channels=final.channels)
        return Anatomy(final.form, idle, {}, (whole,))
    *inner, last = pieces
    forms = {piece[-1]: taps[piece[-1]].form for piece in inner if taps[piece[-1]].form.axes != "NCHW"}
    own = {name for name, _ in net.named_parameters()}
    stages = []
    for piece in inner:
        ends = [f"maps.{tap_name(piece[-1])}"] if piece[-1] in forms else []
        stages.append(_stage(piece, own, ends, taps[piece[-1]], size_px))
    return Anatomy(final.form, idle, forms, (*stages, _stage(last, own, ["out"], final, size_px)))


def _blank(size_px: int) -> Tensor:
    return torch.zeros(1, 3, size_px, size_px)


def _check_growth(name: str, side: int, larger: Seen | None) -> None:
    """Whether a map of so many cells for SIZE_PX, and the one for twice as much, have one stride.

    Nets that cut their borders off (the Inceptions) have none, and their cells lie elsewhere than a stretched map says;
    others give the same number of cells for any picture.
    """
    wanted = 2 * SIZE_PX / round(SIZE_PX / side)
    if larger is None or larger.side not in (math.floor(wanted), math.ceil(wanted)):
        cells = "none" if larger is None else f"{larger.side} x {larger.side}"
        raise ValueError(
            f"{name} of timm gives {side} x {side} cells for {SIZE_PX} px and {cells} for {2 * SIZE_PX}: "
            "no stride is true of it, and nobody could say where a cell lies on the picture"
        )


def take_out(net: nn.Module, idle: Sequence[str]) -> None:
    """Puts nothing in the place of the modules of these names."""
    for name in idle:
        net.set_submodule(name, nn.Identity())


def _shape(output: object) -> tuple[int, ...]:
    return tuple(output.shape) if isinstance(output, Tensor) else ()


def _seen(shape: tuple[int, ...], prefix: int, final: Seen | None = None) -> Seen | None:
    """The map in a tensor of this shape.

    Args:
        shape: Of it, for one picture.
        prefix: Tokens before those of the map, if it is one of tokens; not every layer has them.
        final: What the net gives, if the tensor is another one.
    """
    if len(shape) == 4 and shape[0] == 1:
        _, first, second, third = shape
        # Where all three are equal, as the net does at its end.
        if first == second and (second != third or (final is not None and final.form.axes == "NHWC")):
            return Seen(Form("NHWC"), third, first)
        return Seen(Form("NCHW"), first, second) if second == third else None
    for before in (prefix, 0) if len(shape) == 3 else ():
        side = math.isqrt(shape[1] - before)
        # Some nets order the tokens of their finer layers otherwise (Hiera: by what will be pooled).
        is_row_by_row = final is None or (final.form.axes == "NLC" and final.side == side)
        if side > 1 and side**2 == shape[1] - before and is_row_by_row:
            return Seen(Form("NLC", before), shape[2], side)
    return None


def _idle(net: nn.Module, features: Tensor) -> Iterator[str]:
    """The outermost modules none of whose parameters take part in the features."""
    names, parameters = zip(*net.named_parameters(), strict=True)
    gradients = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
    unused = {name for name, gradient in zip(names, gradients, strict=True) if gradient is None}
    done: tuple[str, ...] = ()
    for module_name, module in net.named_modules():
        own = {f"{module_name}.{name}" for name, _ in module.named_parameters()}
        if module_name and own and own <= unused and not module_name.startswith(done):
            done += (f"{module_name}.",)
            yield module_name


def _cut(net: nn.Module, taps: Collection[str]) -> list[list[str]]:
    """Names of modules and parameters, every parameter once, in pieces that end with a tap, the last maybe without."""
    pieces: list[list[str]] = [[]]
    for name in _units(net, "", taps):
        pieces[-1].append(name)
        if name in taps:
            pieces.append([])
    return pieces if pieces[-1] else pieces[:-1]


def _units(module: nn.Module, name: str, taps: Collection[str]) -> Iterator[str]:
    """The outermost modules that hold no tap inside them, and the parameters of those that do, as they stand."""
    inside = f"{name}." if name else ""
    if name in taps or not any(tap.startswith(inside) for tap in taps):
        if name in taps or any(True for _ in module.parameters()):
            yield name
        return
    yield from (inside + own for own, _ in module.named_parameters(recurse=False))
    for child_name, child in module.named_children():
        yield from _units(child, inside + child_name, taps)


def _in_order(pieces: Sequence[Sequence[str]], record: Record) -> bool:
    """Whether all of a piece, and nothing that follows, is called before the tap at its end returns."""
    for number, piece in enumerate(pieces[:-1], start=1):
        end = record.ended[piece[-1]]
        before, after = itertools.chain(*pieces[:number]), itertools.chain(*pieces[number:])
        if any(record.begun.get(name, end) > end for name in before):
            return False
        if any(record.begun.get(name, end) < end for name in after):
            return False
    return True


def _stage(piece: Sequence[str], own: Collection[str], ends: Sequence[str], seen: Seen, size_px: int) -> Stage:
    return Stage(
        name=piece[-1],
        modules=(*(f"net.{name}" for name in piece if name not in own), *ends),
        stride=size_px // seen.side,
        channels=seen.channels,
        parameters=tuple(f"net.{name}" for name in piece if name in own),
    )
