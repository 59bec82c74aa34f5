"""`fx export`: a trained model → one file for another runtime, with a report of how far its answers agree."""

from __future__ import annotations

import re
import shlex
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from fxcli.commands import completion
from fxcli.commands.options import Debug, Json, Quiet
from fxcli.commands.startup import import_torch
from fxcli.console import console
from fxcli.errors import DataError, UsageError

if TYPE_CHECKING:
    from fxcli.data.manifest import Manifest, Row
    from fxcli.inference.opened import Opened


class Runtime(StrEnum):
    """What the file is for."""

    onnx = "onnx"
    openvino = "openvino"


class ExportPrecision(StrEnum):
    """What the weights are stored in."""

    fp32 = "fp32"
    int8 = "int8"


def export(
    runtime: Annotated[Runtime, typer.Argument(help="onnx (for ONNX Runtime and others) or openvino.")],
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN_OR_FILE",
            help="A run, a model file, or the name of a recipe; default: the last finished run.",
            autocompletion=completion.models,
        ),
    ] = None,
    precision: Annotated[
        ExportPrecision, typer.Option("--precision", help="int8 is quantised on up to 300 training pictures.")
    ] = ExportPrecision.fp32,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="MANIFEST", help="A manifest (.csv, .parquet) to compare on; default: the run's own."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The file to write; default: in the run's exports/.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is not in the run.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Writes a model as one file for OpenVINO or ONNX, and reports how far its answers agree with the model's own.

    The file carries preprocessing, classes and heat-map output: fx predict --model FILE needs nothing else. Answers
    are compared on the validation part; a file in int8 is refused where more than 3 % of the clear answers change,
    probabilities move by more than 0.02 on average, or accuracy falls by more than 2 points. What agrees in bf16 is
    kept in the file, and lets fx predict use it.

    Example: fx export openvino final

    Example: fx export openvino runs/final-20260101T120000Z-1a2b --precision int8 --out final-int8.openvino
    """
    console.configure(json=json, quiet=quiet, debug=debug)
    import_torch()
    from fxcli.inference import export as exporting
    from fxcli.inference import exported
    from fxcli.inference.measured import members_of
    from fxcli.inference.opened import open_model
    from fxcli.run.files import check_writable

    opened = open_model(model, device="cpu")
    trained = opened.trained("fx export")
    manifest = opened.manifest(data, f"fx export {runtime.value}")
    file = _file(opened, runtime, precision, out)
    # Its own file in a run is made anew; any other may be somebody's.
    if file.exists() and not overwrite and (out is not None or opened.run is None):
        raise DataError("this file exists", where=file, hint="--overwrite replaces it; --out names another")
    check_writable(file.parent)
    rows = _compared_on(opened, manifest)
    members = list(members_of(opened, rows))
    if opened.is_in_folds and opened.run is None:
        console.warn("without its run nobody knows which pictures each fold held out: it is compared on learnt ones")
    calibration = _calibration(opened, manifest) if precision == "int8" else []
    graph, weights = exporting.graph_of(trained, runtime.value, calibration)
    header = {**exporting.header_of(trained), "precision": precision.value, "source_sha256": opened.digest}
    file.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=file.parent) as folder:
        unchecked = Path(folder) / file.name
        exported.save(unchecked, runtime.value, graph, weights, header)
        made, temperature = exported.load(unchecked), opened.uncertainty.temperature
        report = exporting.compared(opened.pipeline, manifest, rows, made, members, temperature)
    exported.save(file, runtime.value, graph, weights, {**header, "agreement": report})
    if json:
        console.record({"file": str(file), "bytes": file.stat().st_size, "agreement": report})
    console.note(f"wrote {file}, {file.stat().st_size / 2**20:.1f} MiB")
    console.note(f"next: fx predict FOLDER --model {shlex.quote(str(file))}")


def _file(opened: Opened, runtime: Runtime, precision: ExportPrecision, out: Path | None) -> Path:
    """What to write.

    Raises:
        UsageError: `out` is a folder, or would not be recognised by its name.
    """
    from fxcli.inference.exported import SUFFIXES

    suffix = SUFFIXES[runtime.value]
    if out is not None:
        if out.suffix != suffix or out.is_dir():
            raise UsageError(f"--out {out} must be a file that ends in {suffix}")
        return out
    # The name stands in the model file, which may come from anywhere.
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", str(opened.model.info.get("name") or "model")).lstrip(".")
    folder = opened.run.path / "exports" if opened.run else Path()
    if opened.run and not opened.is_final:
        name += f"-model-{opened.digest[:8]}"
    return folder / f"{name}{'-int8' if precision == 'int8' else ''}{suffix}"


def _calibration(opened: Opened, manifest: Manifest) -> list[Path]:
    """Training pictures, evenly over the manifest's order, in which classes follow each other."""
    from fxcli.data.dataset import evenly
    from fxcli.inference.export import CALIBRATION_PICTURES

    return [manifest.path_of(row) for row in evenly(opened.part(manifest, "train"), CALIBRATION_PICTURES)]


def _compared_on(opened: Opened, manifest: Manifest) -> list[Row]:
    """The validation part; of an ensemble, whose parts draw one for themselves, else the training part."""
    has_own = bool(opened.model.info.get("members"))
    return opened.part(manifest, "train" if has_own and not manifest.part("val") else "val")
