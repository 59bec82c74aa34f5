"""Model files and resume states: safetensors with a JSON header, never a pickle.

A header can be read without torch; weights are only tensors. Both are written atomically, with a hash of them: weights
that were damaged since are read as readily, and would give other answers.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxcli.console import INTENDED_USE
from fxcli.errors import ModelFileError
from fxcli.run.files import replacing

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
# A hundred networks in one file have half as much.
_HEADER_LIMIT_BYTES = 8 << 20
_DIGEST = "content_sha256"


def save_model_file(file: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Writes a model file."""
    _save(file, tensors, {"format": FORMAT, "kind": "model", "intended_use": INTENDED_USE, **header})


def load_model_file(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a model file.

    Raises:
        ModelFileError: Absent, damaged, or not a model file of fx.
    """
    return _load(file, "model")


def save_state(file: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Writes a resume state."""
    _save(file, tensors, {"format": FORMAT, "kind": "state", **header})


def load_state(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a resume state.

    Raises:
        ModelFileError: Absent, damaged, or not a resume state of fx.
    """
    return _load(file, "state")


def read_header(file: Path) -> dict[str, Any]:
    """The header alone, without torch and without reading weights.

    Raises:
        ModelFileError: Absent, damaged, or not a file of fx.
    """
    return _read_header(file)[0]


def digest_of(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """The SHA-256 of tensors with their names, types and shapes, and of a text, in hexadecimal."""
    import torch

    found = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        plain = tensor.detach().cpu().contiguous()
        found.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        found.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _text(header: Mapping[str, Any]) -> str:
    return json.dumps(header, ensure_ascii=False, allow_nan=False)


def _read_header(file: Path) -> tuple[dict[str, Any], str | None]:
    """The header, and the hash of it and the tensors; files of an older fx have none."""
    try:
        with file.open("rb") as handle:
            (size,) = struct.unpack("<Q", handle.read(8))
            if size > _HEADER_LIMIT_BYTES:
                raise ModelFileError("not a model file of fx: its header is too large", where=file)
            raw = json.loads(handle.read(size))
        header = dict(json.loads(raw["__metadata__"]["fx"]))
        if header["format"] != FORMAT:
            raise ModelFileError(
                f"written by another version of fx (format {str(header['format'])[:20]}, this one reads {FORMAT})",
                where=file,
            )
        return header, header.pop(_DIGEST, None)
    except OSError as error:
        raise ModelFileError(f"cannot be read: {error.strerror or error}", where=file) from error
    except (ValueError, KeyError, TypeError, struct.error, RecursionError) as error:
        raise ModelFileError(
            "not a model file of fx, or damaged", where=file, hint="a model file is the model.safetensors of a run"
        ) from error


def _save(file: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    from safetensors.torch import save

    # Tensors of a module may be views or channels-last; safetensors stores plain ones.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    # One entry: of several, safetensors writes now one and now another first.
    data = save(plain, metadata={"fx": _text({**header, _DIGEST: digest_of(plain, _text(header))})})
    with replacing(file) as part:
        # Not by safetensors' own save_file: of a full disk it makes an error of its own, and in a process that is
        # killed it leaves a file under a name that nobody knows.
        part.write_bytes(data)


def _load(file: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    header, digest = _read_header(file)
    if header.get("kind") != kind:
        raise ModelFileError(f"this is a {str(header.get('kind'))[:20]} file, not a {kind} file", where=file)
    try:
        tensors = load_file(file)
        is_whole = digest is None or digest == digest_of(tensors, _text(header))
    except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:
        raise ModelFileError(f"damaged: {error}", where=file) from error
    if not is_whole:
        raise ModelFileError("damaged, or changed since it was written", where=file)
    return tensors, header
