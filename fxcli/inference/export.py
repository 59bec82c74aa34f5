"""Writes a trained model for another runtime, and refuses one whose answers differ too much. Called by fx export.

The graph holds normalisation, network and class maps; the file what exported describes.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from fxcli.console import console
from fxcli.data.manifest import Manifest, Row
from fxcli.data.preprocess import Preprocessing
from fxcli.errors import MissingDependency, RunError
from fxcli.evaluation import agreement
from fxcli.inference.engines import joined
from fxcli.inference.exported import INPUT, Exported, outputs_of
from fxcli.inference.pipeline import Pipeline
from fxcli.inference.runtimes import default_engine, open_runtime, precisions, without_telemetry
from fxcli.model.classifier import Classifier, TrainedModel

if TYPE_CHECKING:
    from onnx import ModelProto

# Pictures that int8 ranges are taken from.
CALIBRATION_PICTURES = 300


class Whole(nn.Module):
    """Images [B, 1, S, S] uint8 → the outputs of exported.outputs_of, in its order."""

    def __init__(self, members: Sequence[Classifier], preprocessing: Preprocessing) -> None:
        super().__init__()
        self.members, self.preprocessing = nn.ModuleList(members), preprocessing

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        batch = self.preprocessing.normalise(images)
        members = [cast(Classifier, member) for member in self.members]
        logits, maps, distance, _ = joined([member.outputs(member.backbone(batch)) for member in members])
        each = (logits,) if len(members) > 1 else ()
        return (logits.mean(dim=1), maps, *each, *(() if distance is None else (distance,)))


def header_of(model: TrainedModel) -> dict[str, Any]:
    """What an exported file says of itself, but for `precision` and `agreement`."""
    # How the network was built is in the graph; it may name files of this machine.
    info = {key: value for key, value in model.info.items() if key != "model"}
    info["statistics"] = all(member.statistics for member in model.members)
    return {**info, "classes": list(model.classes), "preprocessing": model.preprocessing.to_mapping()}


def graph_of(model: TrainedModel, runtime: str, calibration: Sequence[Path] = ()) -> tuple[bytes, bytes]:
    """The model as another runtime reads it.

    Args:
        model: In fp32, on the CPU.
        runtime: "onnx" or "openvino".
        calibration: Pictures whose ranges int8 is made from; without any, weights stay fp32.

    Returns:
        Graph and weights, as exported.save takes them.

    Raises:
        MissingDependency: A package of the extra `export` is not installed.
        RunError: The backbone cannot be exported.
    """
    without_telemetry()
    try:
        graph = _onnx(model)
        if runtime == "onnx":
            return (_quantised(graph, model, calibration) if calibration else graph).SerializeToString(), b""
        import openvino as ov

        with tempfile.TemporaryDirectory() as folder:
            # By way of files: OpenVINO would take the bytes for a path, and saves nowhere else.
            plain, xml = Path(folder) / "plain.onnx", Path(folder) / "model.xml"
            plain.write_bytes(graph.SerializeToString())
            network = ov.convert_model(plain)
            network = _quantised(network, model, calibration) if calibration else network
            ov.save_model(network, xml, compress_to_fp16=False)
            return xml.read_bytes(), xml.with_suffix(".bin").read_bytes()
    except ImportError as error:
        raise MissingDependency(error.name or "onnx", extra="export", purpose="exporting") from error


def compared(
    exact: Pipeline,
    manifest: Manifest,
    rows: Sequence[Row],
    made: Exported,
    members: Sequence[Sequence[int]],
    temperature: float,
) -> dict[str, Any]:
    """How far a file agrees with the model that it was made of.

    Args:
        exact: Runs the model, in fp32.
        manifest: Of the pictures.
        rows: Those that both answer.
        made: The file.
        members: For each row the networks that answer, by number: of folds those that had not seen the picture.
        temperature: At which probabilities are told.

    Returns:
        Agreement, as a mapping, by engine and precision.

    Raises:
        RunError: Too little to be used.
    """
    paths = [manifest.path_of(row) for row in rows]
    targets = np.array([made.classes.index(row.label) for row in rows])

    def said(pipeline: Pipeline) -> np.ndarray:
        answers = zip(pipeline.readable(paths), members, strict=True)
        return np.stack([logits[numbers].mean(axis=0) for (logits, _), numbers in answers]) / temperature

    expected, report = said(exact), {}
    for precision in precisions(made):
        engine = open_runtime(made, default_engine(made), precision)
        other = said(Pipeline(engine, made.preprocessing, batch_size=engine.batch_size))
        found = agreement.compare(expected, other, targets)
        allowed = {"fp32": agreement.EXPORTED, "bf16": agreement.BF16, "int8": agreement.INT8}[precision]
        console.note(f"{engine.name} {precision} against torch fp32: {found.told()}")
        if precision == made.info["precision"] and not found.within(allowed):
            raise RunError(
                f"nothing was written: in {precision} the model gives other answers ({found.told()})",
                hint="keep fp32" if precision == "int8" else "this backbone cannot be exported: please report it",
            )
        report[precision] = found.to_mapping(allowed)
    return {default_engine(made): report}


def _onnx(model: TrainedModel) -> ModelProto:
    size_px = model.preprocessing.image_size_px
    example = torch.zeros(2, 1, size_px, size_px, dtype=torch.uint8)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # Of the exporter's own making, about its own parts.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                Whole(model.members, model.preprocessing).eval(),
                (example,),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=outputs_of(header_of(model)),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(f"{model.spec.name} cannot be exported: {reason}", hint="--debug shows more") from error
    if program is None:
        raise RunError(f"{model.spec.name} cannot be exported")
    return _without_traces(program.model_proto)


def _without_traces(graph: ModelProto) -> ModelProto:
    """The exporter writes at each node where in the code it comes from, with the paths of this machine."""
    for part in (graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.input, *graph.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for tensor in graph.graph.initializer:
        tensor.ClearField("metadata_props")
        tensor.ClearField("doc_string")
    return graph


def _quantised(graph: Any, model: TrainedModel, calibration: Sequence[Path]) -> Any:
    import nncf

    load, fit = model.preprocessing.load, model.preprocessing.fit
    bar = console.progress(calibration, total=len(calibration), what="calibrate")
    pictures = [fit(load(path))[None, None] for path in bar]
    data = nncf.Dataset(pictures, lambda image: {INPUT: np.ascontiguousarray(image)})
    return nncf.quantize(graph, data, subset_size=len(pictures))
