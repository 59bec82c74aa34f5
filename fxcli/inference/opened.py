"""Opens what `--model` names: a model file or an exported one, in an engine, in a pipeline. For every command.

Here it is decided which engine and precision compute. Speed never changes answers unasked: `fx predict` takes bf16
only where the model's own validation pictures showed that it may, and all else runs fp32.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fxcli import __version__
from fxcli.console import console
from fxcli.data.manifest import Manifest, Row, read_manifest
from fxcli.errors import DataError, FxError, MissingDependency, ModelFileError, RunError, UsageError
from fxcli.evaluation import uncertainty as uncertainties
from fxcli.evaluation.agreement import BF16, Agreement
from fxcli.evaluation.predictions import assumes_fracture
from fxcli.evaluation.uncertainty import Said, Uncertainty
from fxcli.inference import engines, export, exported, runtimes
from fxcli.inference.engines import Engine, TorchEngine
from fxcli.inference.exported import Exported
from fxcli.inference.pipeline import Answer, Pipeline
from fxcli.model import classifier as models
from fxcli.model import hardware
from fxcli.model.classifier import TrainedModel
from fxcli.recipe.schema import Hardware
from fxcli.run.cache import cache_dir, key_of, storing
from fxcli.run.directory import Run, find_model
from fxcli.run.files import sha256_of
from fxcli.run.provenance import version_of
from fxcli.zoo.plugins import load_zoo

# What an output says of the training behind a model, by keys of its header.
_ORIGIN = ("name", "backbone", "created", "data", "demo", "recipe_sha256", "manifest_sha256", "fx_version")


@dataclass(frozen=True)
class ModelFile:
    """The file of a model, of whatever task.

    Attributes:
        file: It.
        run: The run it lies in, or None.
        digest: sha256 of the file.
    """

    file: Path
    run: Run | None
    digest: str

    @property
    def name(self) -> str:
        """The run's folder name, or the file's."""
        return self.run.name if self.run else self.file.name

    @property
    def is_final(self) -> bool:
        """Whether the file is what its run made, and not a checkpoint or a file elsewhere."""
        return self.run is not None and self.file == self.run.model_file

    @property
    def unique_name(self) -> str:
        """The run's folder name, or the file's, with the start of its hash: no two models share it."""
        return f"{self.run.name if self.run else self.file.stem}-{self.digest[:8]}"

    def told(self, info: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """What an output says of the model behind it, whose header this is."""
        return {"model": self.name, "sha256": self.digest, **more, **{key: info.get(key) for key in _ORIGIN}}


@dataclass(frozen=True)
class Opened(ModelFile):
    """A model, ready to run.

    Attributes:
        model: What the file holds.
        pipeline: Runs it.
        uncertainty: What the model knows of its own errors.
    """

    model: TrainedModel | Exported
    pipeline: Pipeline
    uncertainty: Uncertainty

    def say(self, answer: Answer, *, sets: bool = False) -> Said:
        """What the model says of a picture that has an answer; with its prediction set only where that is wanted."""
        if answer.members is None:
            raise FxError("nothing is said of a picture without an answer", where=answer.path)
        folds = by("fold", self.model.info) if sets else None
        return self.uncertainty.say(answer.members, answer.distance, folds=folds)

    def origin(self) -> dict[str, Any]:
        """What an output says of the model behind it."""
        info, engine = self.model.info, self.pipeline.engine
        computed = {"engine": engine.name, "precision": engine.precision}
        return self.told(info, **computed, assumes_fracture=assumes_fracture(info))

    @property
    def is_in_folds(self) -> bool:
        """Whether its networks held pictures out, each others."""
        return any(member.get("fold") is not None for member in self.model.info.get("members") or ())

    @property
    def described(self) -> str:
        """Which model it is, for people."""
        info, engine = self.model.info, self.pipeline.engine
        return (
            f"{self.run.path if self.run else self.file}: recipe {info.get('name')}, {info.get('backbone')}, "
            f"data {info.get('data')}, trained {info.get('created')}, sha256 {self.digest[:12]}; "
            f"{engine.name} {engine.precision}"
        )

    def trained(self, purpose: str) -> TrainedModel:
        """The model, where only one in torch will do.

        Raises:
            UsageError: It is an exported one.
        """
        if isinstance(self.model, Exported):
            raise UsageError(f"{purpose} needs the model file of a run, not an exported one: {self.file}")
        return self.model

    def feature_width(self) -> int:
        """How many features a picture has, of all networks of the model.

        Raises:
            UsageError: It is an exported one.
        """
        model = self.trained("--features")
        return len(model.members) * model.spec.num_features

    def manifest(self, data: Path | None, command: str) -> Manifest:
        """The manifest that a command was given, or the run's own; see `manifest_of`."""
        return manifest_of(self.file, self.run, self.model.info, data, command)

    def part(self, manifest: Manifest, split: str) -> list[Row]:
        """The rows of a split.

        Raises:
            DataError: There is none, or one has a label that the model does not know.
        """
        rows = manifest.part(split)
        if not rows:
            parts = ", ".join(sorted({row.split for row in manifest.rows}))
            raise DataError(f"no picture in split '{split}'", where=manifest.file, hint=f"it has {parts}")
        manifest.require_labels()
        unknown = sorted({row.label for row in rows} - set(self.model.classes))
        if unknown:
            raise DataError(
                f"the model does not know {', '.join(unknown)}",
                where=manifest.file,
                hint=f"its classes: {', '.join(self.model.classes)}",
            )
        return rows


def manifest_of(file: Path, run: Run | None, info: Mapping[str, Any], data: Path | None, command: str) -> Manifest:
    """The manifest that a command was given, or that of a model's run.

    Args:
        file: Of the model.
        run: It lies in, or None.
        info: Its header.
        data: What the command was given.
        command: Named in hints.

    Raises:
        UsageError: The file lies in no run, and none was given.
        DataError: The run's was changed since training, or its folder is gone.
    """
    if data is not None:
        return read_manifest(data)
    again = f"{command} {shlex.quote(str(file))} --data"
    if run is None:
        raise UsageError(f"{file} lies in no run, so it has no data of its own", hint=f"{again} MANIFEST")
    recorded = run.manifest_file
    if not recorded.parent.is_dir():
        where = recorded.parent
        raise DataError("the folder of the run's pictures is not there", where=where, hint=f"{again} MANIFEST")
    # The run's copy says what was trained on; the pictures are still beside the original.
    manifest = read_manifest(run.path / "manifest.csv", root=recorded.parent)
    if manifest.digest != info.get("manifest_sha256"):
        raise DataError(
            "the run's manifest was changed since training",
            where=manifest.file,
            hint=f"{again} {shlex.quote(str(recorded))}",
        )
    return manifest


def by(kind: str, info: dict[str, Any]) -> list[list[int]]:
    """The members of a model file with the same seed (or fold), by their number; one list where there is one network.

    Args:
        kind: "seed" or "fold".
        info: Its header.
    """
    found: dict[Any, list[int]] = {}
    for number, member in enumerate(info.get("members") or [{}]):
        found.setdefault(member.get(kind), []).append(number)
    return list(found.values())


def warn_of_unfinished(file: Path, run: Run | None) -> None:
    """Says where a model is only what its training has come to so far."""
    if run is None or file.resolve() != run.best_file.resolve():
        return
    with contextlib.suppress(RunError):  # a damaged run.json is no reason not to predict
        if (status := run.status(run.info())) != "finished":
            console.warn(f"{run.path}, status {status}: this is the best epoch so far of an unfinished training")


def open_model(
    wanted: str | None,
    *,
    device: str | None = None,
    workers: int | None = None,
    batch_size: int | None = None,
    flips: bool = False,
    engine: str | None = None,
    precision: str | None = None,
    fast: bool = False,
    draft: bool = False,
    headless: bool = False,
) -> Opened:
    """Finds, checks and loads a model, and says on stderr which one it is.

    Args:
        wanted: See `find_model`; an exported file, too.
        device: In place of auto.
        workers: Streams of the pipeline.
        batch_size: In place of the one that validation used, or of the engine's best where it is to be fast.
        flips: Whether to average over mirrors.
        engine: "torch", "openvino" or "onnxruntime"; None is torch, or what an exported file was made for.
        precision: "fp32" or "bf16"; None is fp32, or bf16 where it is to be fast and is known to agree.
        fast: For prediction alone: the answers are rounded otherwise, and the model cannot be looked into.
        draft: Whether large JPEGs may be decoded at a fraction of their size.
        headless: Whether a pretrained backbone will do, for its features.

    Raises:
        RunError: There is none.
        ModelFileError: It cannot be used.
        UsageError: The device is not there, or the engine cannot do this.
        MissingDependency: The engine is not installed.
    """
    file, run = find_model(wanted)
    digest = sha256_of(file)
    model: TrainedModel | Exported
    runner: Engine
    model = exported.load(file) if exported.is_exported(file) else models.load(file, load_zoo(), headless=headless)
    engine = engine or (runtimes.default_engine(model) if isinstance(model, Exported) else "torch")
    if engine == "torch":
        runner = _torch(file, model, device, precision, fast=fast)
    else:
        if device not in (None, "auto", "cpu"):
            raise UsageError(f"--engine {engine} runs on the CPU")
        chosen = _precision(model.info, engine, torch.device("cpu"), precision, fast=fast)
        graph = model if isinstance(model, Exported) else _converted(model, digest, engine)
        runner = runtimes.open_runtime(graph, engine, chosen)
    pipeline = Pipeline(
        runner,
        model.preprocessing,
        batch_size=batch_size or (runner.batch_size if fast else int(model.info.get("batch_size") or 32)),
        workers=workers,
        flips=flips,
        draft=draft,
    )
    try:
        negative = model.info.get("negative_class")
        if negative is not None and negative not in model.classes:
            raise ValueError(f"negative_class is {str(negative)[:40]}, which is no class")
        folds = len(by("fold", model.info))
        uncertainty = uncertainties.from_mapping(model.info.get("uncertainty"), len(model.classes), folds)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelFileError(f"the header is damaged: {error}", where=file) from error
    opened = Opened(file, run, digest, model, pipeline, uncertainty)
    console.note(f"model {opened.described}")
    warn_of_unfinished(file, run)
    return opened


def _torch(
    file: Path, model: TrainedModel | Exported, device: str | None, precision: str | None, *, fast: bool
) -> TorchEngine:
    if isinstance(model, Exported):
        raise UsageError(
            f"--engine torch cannot run an exported file: {file}", hint="name the run it was exported from"
        )
    compute = hardware.compute(Hardware(channels_last=bool(model.info.get("channels_last"))), device=device)
    chosen = _precision(model.info, f"torch-{compute.device.type}", compute.device, precision, fast=fast)
    compute = hardware.Compute(compute.device, chosen, compute.channels_last)
    if fast:
        return engines.fast(model.members, model.preprocessing, compute, model.spec.stages)
    for member in model.members:
        compute.place(member)
    return TorchEngine(model.members, model.preprocessing, compute)


def _precision(info: dict[str, Any], engine: str, device: torch.device, asked: str | None, *, fast: bool) -> str:
    """What to compute in; one line says why it is not the fastest."""
    if info.get("precision") == "int8":
        if asked is not None:
            raise UsageError(f"this file was exported in int8, and cannot run in {asked}")
        return "int8"
    can_bf16 = hardware.has_bf16(device)
    if asked == "bf16" and not can_bf16:
        console.warn(f"{device} has no bf16 of its own: it is emulated, and slower than fp32")
    if asked is not None or not fast:
        return asked or "fp32"
    if not can_bf16 or engine == "onnxruntime":
        return "fp32"
    try:
        known = Agreement.from_mapping(info["agreement"][engine]["bf16"])
    except (KeyError, TypeError):
        known = None
    if known is not None and known.within(BF16):
        return "bf16"
    why = f"gives other answers ({known.told()})" if known else "was not compared with fp32"
    console.note(f"computing in fp32: bf16 {why} on the model's validation part; --precision bf16 takes it anyway")
    return "fp32"


def _converted(model: TrainedModel, digest: str, engine: str) -> Exported:
    """The model for another runtime, kept in the cache by the hash of its file.

    Raises:
        MissingDependency: A package that it needs is not installed.
    """
    runtime = "openvino" if engine == "openvino" else "onnx"
    packages = ("torch", "onnx", engine)
    for package in packages:
        if find_spec(package) is None:
            raise MissingDependency(package, extra="export", purpose=f"--engine {engine}")
    # Some distributions are called otherwise than the module in them: onnxruntime-gpu.
    versions = [__version__, *(version_of(name) or import_module(name).__version__ for name in packages)]
    key = key_of({"model": digest, "plugin": model.info.get("plugin"), "versions": versions})
    file = cache_dir() / "exported" / f"{key}{exported.SUFFIXES[runtime]}"
    if file.is_file():
        try:
            return exported.load(file)
        except ModelFileError as error:
            console.warn(f"{error.what}; the model is converted anew")
    console.note(f"converting the model for {engine}, once")
    graph, weights = export.graph_of(model, runtime)
    with storing(file) as part:
        exported.save(part, runtime, graph, weights, {**export.header_of(model), "precision": "fp32"})
        _check(model, exported.load(part), engine)
    return exported.load(file)


def _check(model: TrainedModel, converted: Exported, engine: str) -> None:
    """Whether the converted model gives the same logits; on noise, for there are no pictures at hand.

    Raises:
        RunError: It does not.
    """
    size_px = model.preprocessing.image_size_px
    images = np.random.default_rng(0).integers(0, 256, (2, 1, size_px, size_px)).astype(np.uint8)
    exact = TorchEngine(model.members, model.preprocessing, hardware.Compute(torch.device("cpu"))).run(images).logits
    found = runtimes.open_runtime(converted, engine, "fp32").run(images).logits
    difference = float(np.abs(exact - found).max() / max(1.0, np.abs(exact).max()))
    if difference > 1e-3:
        what = f"converted for {engine}, the model gives other answers: logits differ by a fraction of {difference:.1g}"
        raise RunError(what, hint="--engine torch")
