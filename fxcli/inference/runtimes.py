"""Engines over exported files: OpenVINO and ONNX Runtime. What may be opened is decided in exported.

Both take one picture a call: that is their fastest here, and an answer cannot depend on its neighbours.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fxcli.errors import MissingDependency, ModelFileError, UsageError
from fxcli.inference.engines import MOST_STREAMS, Computed, Engine, dividing
from fxcli.inference.exported import INPUT, Exported, outputs_of
from fxcli.model.hardware import has_bf16

_PACKAGES = {"openvino": "openvino", "onnxruntime": "onnxruntime"}
_BATCH_SIZE = 8


def default_engine(exported: Exported) -> str:
    """The engine that an exported file was made for."""
    return "openvino" if exported.runtime == "openvino" else "onnxruntime"


def precisions(exported: Exported) -> list[str]:
    """What its own engine can compute an exported file in, here."""
    own = [str(exported.info["precision"])]
    can_bf16 = own == ["fp32"] and exported.runtime == "openvino" and has_bf16(torch.device("cpu"))
    return [*own, "bf16"] if can_bf16 else own


def open_runtime(exported: Exported, name: str, precision: str) -> Engine:
    """Compiles an exported file.

    Args:
        exported: Read and checked.
        name: "openvino", which reads both kinds, or "onnxruntime".
        precision: "fp32", "bf16" (OpenVINO alone), or "int8" for a file that was quantised.

    Raises:
        UsageError: The engine cannot run this file, or not in this precision.
        MissingDependency: The runtime is not installed.
        ModelFileError: The runtime refuses the file.
    """
    if name == "onnxruntime" and exported.runtime != "onnx":
        raise UsageError("onnxruntime cannot run an OpenVINO file", hint="--engine openvino, or fx export onnx")
    if name == "onnxruntime" and precision == "bf16":
        raise UsageError(
            "onnxruntime computes in fp32 on a CPU", hint="--engine openvino or torch, or --precision fp32"
        )
    opened = _openvino if name == "openvino" else _onnxruntime
    threads, size_px = _threads(), exported.preprocessing.image_size_px
    try:
        engine = opened(exported, precision, threads, min(threads, MOST_STREAMS))
        # Also because OpenVINO's bindings set something up at the first picture, and two threads that do so at once
        # wait for each other for good.
        first = engine.run(np.zeros((1, 1, size_px, size_px), dtype=np.uint8))
    except ImportError as error:
        raise MissingDependency(_PACKAGES[name], extra="export", purpose=f"--engine {name}") from error
    except Exception as error:
        # The runtimes have error classes of their own.
        reason = str(error).strip().splitlines()
        raise ModelFileError(f"{name} refuses it: {reason[-1] if reason else error}", where=exported.file) from error
    count, members = len(exported.classes), len(exported.info.get("members") or [None])
    if (
        first.logits.shape != (1, members, count)
        or first.maps.ndim != 4
        or first.maps.shape[:2] != (1, count)
        or (first.distance is not None and first.distance.shape != (1,))
    ):
        what = f"gives logits {first.logits.shape} and maps {first.maps.shape} for {count} classes, {members} members"
        raise ModelFileError(what, where=exported.file)
    return engine


def _threads() -> int:
    """Cores that this process may use; OMP_NUM_THREADS lowers it, as it does for torch."""
    free = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(free, int(asked)) if asked.isdigit() and int(asked) else free


@dataclass(frozen=True)
class RuntimeEngine:
    """An exported file in its runtime; `one` runs one picture, [1, 1, S, S] → the outputs of the graph by name."""

    name: str
    precision: str
    streams: int
    one: Callable[[np.ndarray], dict[str, np.ndarray]] = field(repr=False)
    batch_size: int = _BATCH_SIZE

    def shared_by(self, streams: int) -> contextlib.AbstractContextManager[Callable[[], None]]:
        """See Engine; the runtimes divide the processor themselves, but not what a detector beside them takes of it."""
        return dividing(streams)

    def run(self, images: np.ndarray) -> Computed:
        """See Engine."""
        found = [self.one(images[index : index + 1]) for index in range(len(images))]
        outputs = {name: np.concatenate([each[name] for each in found]) for name in found[0]}
        logits = outputs["members"] if "members" in outputs else outputs["logits"][:, None]
        return Computed(logits, outputs["maps"], outputs.get("distance"))


def without_telemetry() -> None:
    """Keeps OpenVINO and NNCF from telling Google Analytics of their use; to be called before either is imported.

    Unless a user has opted out by hand, they take that for consent; without its package, each goes on with a stub.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as import itself reads it


@functools.cache
def openvino_core() -> Any:
    """OpenVINO's core, one for the life of the process.

    Its CPU plugin moves signal handling of this thread onto a stack of its own, and takes that away when it goes: the
    next signal, be it Ctrl-C or the end of a child, would then end the process.
    """
    without_telemetry()
    import openvino

    return openvino.Core()


def _openvino(exported: Exported, precision: str, threads: int, streams: int) -> Engine:
    core = openvino_core()
    # Compiled anew each time: what OpenVINO would keep of it is read again unchecked, and saves a third of a second.
    graph = core.read_model(exported.graph, exported.weights or b"")
    size_px = exported.preprocessing.image_size_px
    graph.reshape({INPUT: [1, 1, size_px, size_px]})
    # Of an int8 file it is for the layers that are not: left to itself, OpenVINO takes bf16 where the processor has it.
    hint = "bf16" if precision == "bf16" else "f32"
    settings = {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint}
    compiled = core.compile_model(graph, "CPU", settings)
    own, names = threading.local(), outputs_of(exported.info)

    def run(image: np.ndarray) -> dict[str, np.ndarray]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        own.request.infer({INPUT: image})
        return {name: own.request.get_tensor(name).data.copy() for name in names}

    # It computes in threads of its own, and with twice as many to feed them none waits for its next picture.
    return RuntimeEngine("openvino", precision, 2 * streams, run)


def _onnxruntime(exported: Exported, precision: str, threads: int, streams: int) -> Engine:
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = max(1, threads // streams)
    session = onnxruntime.InferenceSession(exported.graph, settings, providers=["CPUExecutionProvider"])

    names = outputs_of(exported.info)

    def run(image: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {INPUT: image}), strict=True))

    return RuntimeEngine("onnxruntime", precision, streams, run)
