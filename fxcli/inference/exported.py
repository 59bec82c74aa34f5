"""Exported files: a model for another runtime in one file, with all that predicting needs. How they are checked.

    NAME.onnx        ONNX, its header in the metadata entry `fx`, and a hash of both in `fx_sha256`
    NAME.openvino    a zip of model.xml and model.bin (OpenVINO's own two files, uncompressed) and fx.json, the header

Either takes images [B, 1, S, S] uint8 and gives logits [B, K] and maps [B, K, h, w]; an ensemble also members
[B, M, K], the logits of each network, and a model with feature statistics distance [B]. The header is that of a model
file, with `runtime`, `precision`, `agreement` and `statistics`. A file may come from anywhere: one that points to
other files or asks for operators of its own is refused here, before a runtime sees it. Export writes them, runtimes
opens them.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxcli.console import INTENDED_USE
from fxcli.data.preprocess import Preprocessing
from fxcli.errors import MissingDependency, ModelFileError
from fxcli.model.header import reading, told_by
from fxcli.run.files import replacing

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

FORMAT = 1
# Entries of an ONNX file's metadata: the header, and a hash of it and of all that stands before both.
KEY, DIGEST = "fx", "fx_sha256"
SUFFIXES = {"onnx": ".onnx", "openvino": ".openvino"}
INPUT = "images"

_XML, _BIN, _HEADER = "model.xml", "model.bin", "fx.json"
_ZIP, _SAFETENSORS = b"PK\x03\x04", b"{"
# Both standards number their own operators; everything else needs code that came from elsewhere.
_OPENVINO_OPERATORS = re.compile(r"opset\d+")
_ONNX_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class Exported:
    """An exported file that was read and checked.

    Attributes:
        file: Where it lies.
        runtime: "onnx" or "openvino".
        graph: The ONNX model, or OpenVINO's model.xml.
        weights: OpenVINO's model.bin; b"" for ONNX, which holds its own.
        classes: In the order of the logits.
        preprocessing: Path → input; its normalisation is part of the graph.
        info: The rest of the header.
    """

    file: Path
    runtime: str
    graph: bytes
    weights: bytes
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    info: dict[str, Any]

    @property
    def is_demo(self) -> bool:
        """Whether it was trained on phantoms."""
        return bool(self.info.get("demo"))


def outputs_of(header: Mapping[str, Any]) -> list[str]:
    """The outputs of a graph, in order."""
    members = ["members"] if header.get("members") else []
    return ["logits", "maps", *members, *(["distance"] if header.get("statistics") else [])]


def is_exported(file: Path) -> bool:
    """Whether this is no model file of fx but may be an exported one; its first bytes tell."""
    with file.open("rb") as handle:
        start = handle.read(9)
    return start.startswith(_ZIP) or (file.suffix == SUFFIXES["onnx"] and start[8:9] != _SAFETENSORS)


def load(file: Path) -> Exported:
    """Reads and checks an exported file.

    Raises:
        ModelFileError: It is none, is damaged, or needs other files or operators of its own.
        MissingDependency: An ONNX file, and onnx is not installed.
    """
    with file.open("rb") as handle:
        is_zip = handle.read(4) == _ZIP
    runtime = "openvino" if is_zip else "onnx"
    graph, weights, raw = _read_zip(file) if is_zip else _read_onnx(file)
    with reading(file):
        header = json.loads(raw)
        if header["format"] != FORMAT or header["kind"] != "exported" or header["runtime"] != runtime:
            raise ModelFileError("exported by another version of fx", where=file, hint="export the model again")
        classes, preprocessing = told_by(header)
        if header["precision"] not in ("fp32", "int8"):
            raise ValueError(f"precision {header['precision']}")
    info = {key: value for key, value in header.items() if key not in ("classes", "preprocessing")}
    return Exported(file, runtime, graph, weights, classes, preprocessing, info)


def save(file: Path, runtime: str, graph: bytes, weights: bytes, header: Mapping[str, Any]) -> None:
    """Writes an exported file, atomically.

    Args:
        file: To write.
        runtime: "onnx" or "openvino".
        graph: The ONNX model, or OpenVINO's model.xml.
        weights: OpenVINO's model.bin.
        header: With classes and preprocessing.
    """
    # Last, for the header of a model file says of itself that it is one.
    whole = {"intended_use": INTENDED_USE, **header, "format": FORMAT, "kind": "exported", "runtime": runtime}
    text = json.dumps(whole, ensure_ascii=False, allow_nan=False)
    with replacing(file) as part:
        if runtime == "onnx":
            import onnx

            model, told = onnx.load_model_from_string(graph), onnx.ModelProto()
            del model.metadata_props[:]
            content = model.SerializeToString()
            for key, value in ((KEY, text), (DIGEST, hashlib.sha256(content + text.encode()).hexdigest())):
                told.metadata_props.add(key=key, value=value)
            # Two messages, one behind the other, are read as one.
            part.write_bytes(content + told.SerializeToString())
            return
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as packed:
            for name, content in ((_HEADER, text), (_XML, graph), (_BIN, weights)):
                packed.writestr(name, content)


def _read_zip(file: Path) -> tuple[bytes, bytes, str]:
    try:
        with zipfile.ZipFile(file) as packed:
            entries = {entry.filename: entry for entry in packed.infolist()}
            if entries.keys() != {_XML, _BIN, _HEADER}:
                raise ModelFileError(f"holds {', '.join(sorted(entries))[:200]}, not an exported model", where=file)
            # Unpacking cannot make more of it than there is: nothing in it is compressed.
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
                raise ModelFileError("packed in another way than fx packs", where=file)
            graph, weights, header = (packed.read(name) for name in (_XML, _BIN, _HEADER))
            _check_xml(file, graph)
            return graph, weights, header.decode("utf-8")
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile) as error:
        raise ModelFileError(f"damaged: {error}", where=file) from error


def _check_xml(file: Path, graph: bytes) -> None:
    import xml.etree.ElementTree as ET

    try:
        text = graph.decode("utf-8")
        # Entities could point to other files, or grow without end.
        if "<!" in text or "\0" in text:
            raise ModelFileError("model.xml declares entities, which no model needs", where=file)
        elements = list(ET.fromstring(text).iter())
    except (ET.ParseError, UnicodeDecodeError) as error:
        raise ModelFileError(f"damaged: {error}", where=file) from error
    layers = [element for element in elements if element.tag == "layer"]
    # In a namespace a layer would not be seen here, but by OpenVINO.
    if not layers or any("}" in str(element.tag) for element in elements):
        raise ModelFileError("model.xml is not as OpenVINO writes it", where=file)
    for layer in layers:
        if not _OPENVINO_OPERATORS.fullmatch(layer.get("version", "")):
            raise ModelFileError(f"needs an operator of its own: {_operator(layer.get)}", where=file)


def _operator(get: Any) -> str:
    return f"{get('version') or 'no version'}.{get('type')}"


def _read_onnx(file: Path) -> tuple[bytes, bytes, str]:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise MissingDependency("onnx", extra="export", purpose="an ONNX file") from error
    try:
        data = file.read_bytes()
        # From bytes, not from the file: then onnx itself follows no reference to another one.
        model = onnx.load_model_from_string(data)
    except (OSError, DecodeError, ValueError) as error:
        raise ModelFileError("not a model file of fx, or damaged", where=file) from error
    found = {entry.key: entry.value for entry in model.metadata_props}
    if KEY not in found:
        raise ModelFileError("not exported by fx: it has no header", where=file, hint="fx export onnx RUN makes one")
    domains = {node.domain for graph in _graphs(model) for node in graph.node}
    if foreign := sorted(domains - set(_ONNX_DOMAINS)) or [function.name for function in model.functions]:
        raise ModelFileError(f"needs operators of its own: {', '.join(foreign)[:200]}", where=file)
    for graph in _graphs(model):
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in _tensors(graph)):
            raise ModelFileError("its weights lie in another file", where=file, hint="fx exports one file")
    _check_digest(file, data, model, found)
    return data, b"", found[KEY]


def _check_digest(file: Path, data: bytes, model: ModelProto, found: Mapping[str, str]) -> None:
    """Whether it is as it was written: other weights are read as readily. Files of an older fx do not tell."""
    told = type(model)(metadata_props=model.metadata_props)
    content = data[: len(data) - told.ByteSize()] + found[KEY].encode()
    if DIGEST in found and hashlib.sha256(content).hexdigest() != found[DIGEST]:
        raise ModelFileError("damaged, or changed since it was exported", where=file, hint="export the model again")


def _graphs(model: ModelProto) -> Iterator[GraphProto]:
    """The graph and all graphs within its nodes."""
    waiting = [model.graph]
    for graph in waiting:
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += [attribute.g, *attribute.graphs] if attribute.HasField("g") else list(attribute.graphs)


def _tensors(graph: GraphProto) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
