"""Opens what `--model` names: the model file, on its device, in a pipeline. Called by evaluate, predict and cam."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxcli.console import console
from fxcli.inference.pipeline import Pipeline
from fxcli.model import classifier as models
from fxcli.model.classifier import TrainedModel
from fxcli.model.hardware import compute
from fxcli.recipe.schema import Hardware
from fxcli.run.directory import Run, find_model
from fxcli.run.files import sha256_of
from fxcli.zoo.plugins import load_zoo


@dataclass(frozen=True)
class Opened:
    """A model, ready to run.

    Attributes:
        file: The model file.
        run: The run it lies in, or None.
        model: What it holds.
        pipeline: Runs it.
        digest: sha256 of the file.
    """

    file: Path
    run: Run | None
    model: TrainedModel
    pipeline: Pipeline
    digest: str

    @property
    def name(self) -> str:
        """The run's folder name, or the file's."""
        return self.run.path.name if self.run else self.file.name

    @property
    def is_final(self) -> bool:
        """Whether the file is what its run made, and not a checkpoint or a file elsewhere."""
        return self.run is not None and self.file == self.run.model_file

    @property
    def unique_name(self) -> str:
        """The run's folder name, or the file's, with the start of its hash: no two models share it."""
        return f"{self.run.path.name if self.run else self.file.stem}-{self.digest[:8]}"

    def origin(self) -> dict[str, Any]:
        """What an output says of the model behind it."""
        info = self.model.info
        keys = (
            "name",
            "backbone",
            "created",
            "data",
            "demo",
            "recipe_sha256",
            "manifest_sha256",
            "fx_version",
        )
        return {"model": self.name, "sha256": self.digest, **{key: info.get(key) for key in keys}}


def open_model(
    wanted: str | None,
    *,
    device: str | None = None,
    workers: int | None = None,
    batch_size: int | None = None,
    flips: bool = False,
) -> Opened:
    """Finds, checks and loads a model, and says on stderr which one it is.

    Args:
        wanted: See `find_model`.
        device: In place of auto.
        workers: Decoding threads.
        batch_size: In place of the one that validation used.
        flips: Whether to average over mirrors.

    Raises:
        RunError: There is none.
        ModelFileError: It cannot be used.
        UsageError: The device is not there.
    """
    file, run = find_model(wanted)
    model = models.load(file, load_zoo())
    chosen = compute(Hardware(channels_last=bool(model.info.get("channels_last"))), device=device)
    chosen.place(model.classifier)
    pipeline = Pipeline(
        model.classifier,
        model.preprocessing,
        chosen,
        batch_size=batch_size or int(model.info.get("batch_size") or 32),
        workers=workers,
        flips=flips,
    )
    opened = Opened(file, run, model, pipeline, sha256_of(file))
    info = model.info
    console.note(
        f"model {run.path if run else file}: recipe {info.get('name')}, {info.get('backbone')}, "
        f"data {info.get('data')}, trained {info.get('created')}, sha256 {opened.digest[:12]}"
    )
    return opened
