"""What a model file says of its network, read with care: it may come from anywhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fxcli.data.names import are_class_names
from fxcli.data.preprocess import Preprocessing
from fxcli.errors import DataError, FxError, ModelFileError, UnknownName
from fxcli.zoo.plugins import Zoo
from fxcli.zoo.specs import BackboneSpec

# 1,024 pictures of 512 × 512: 3 GiB as the network sees them.
_BATCH_LIMIT_PX = 1 << 28


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """What goes wrong within is the header's fault.

    Raises:
        ModelFileError: In its place.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, RecursionError, DataError) as error:
        raise ModelFileError(f"the header is damaged: {str(error)[:300]}", where=file) from error


def told_by(info: Mapping[str, Any], *, headless: bool = False) -> tuple[tuple[str, ...], Preprocessing]:
    """The classes and the preprocessing that a header tells, its `members` checked; to be called within `reading`.

    Args:
        info: The header.
        headless: Whether the network has no head, and so no classes.
    """
    classes = () if headless else info["classes"]
    if not headless and not are_class_names(classes):
        raise ValueError("classes")
    preprocessing = Preprocessing.from_mapping(info["preprocessing"])
    size = info.get("batch_size") or 1
    if type(size) is not int or not 0 < size * preprocessing.image_size_px**2 <= _BATCH_LIMIT_PX:
        raise ValueError("batch_size")
    members = info.get("members")
    if members is not None and not (isinstance(members, list) and members and all(map(_is_member, members))):
        raise ValueError("members")
    return tuple(classes), preprocessing


def _is_member(told: Any) -> bool:
    return isinstance(told, dict) and all(type(told.get(key)) in (int, type(None)) for key in ("seed", "fold"))


def spec_of(file: Path, info: dict[str, Any], backbone: str, zoo: Zoo) -> BackboneSpec:
    """The spec that a model file needs.

    Raises:
        ModelFileError: Its plugin is not there.
    """
    try:
        return zoo.backbone(backbone)
    except FxError as error:
        plugin = info.get("plugin") or {}
        wanted = f"{plugin.get('distribution')} {plugin.get('version')}"
        lines, hint = [error.what], f"fx plugins shows what became of the plugin {wanted}, which it was trained with"
        if isinstance(error, UnknownName):
            # What else is registered helps nobody here: the file needs this one.
            lines = [line for line in error.problems if not line.startswith("known: ")]
            if type(error) is UnknownName and len(lines) == 1:
                hint = f"install the plugin {wanted}"
        reason = "\n  ".join(lines)
        raise ModelFileError(f"needs the backbone {backbone}: {reason}", where=file, hint=hint) from error


def fill(module: nn.Module, state: dict[str, Tensor], file: Path) -> None:
    """Puts the weights of a model file into a network, to the last one.

    Raises:
        ModelFileError: They do not fit.
    """
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ModelFileError(f"its weights do not fit this backbone: {first}", where=file) from error
