"""What `fx evaluate` does alike with classifiers and detectors: where results go, and what is said of the pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxcli.console import console
from fxcli.run import ledger
from fxcli.run.files import check_writable, write_json

if TYPE_CHECKING:
    from fxcli.data.manifest import Manifest, Row
    from fxcli.inference.detected import OpenedDetector
    from fxcli.inference.opened import ModelFile, Opened
    from fxcli.run.directory import Run

# For model files outside any run.
EVALUATIONS = Path("evaluations")


def columns_of(rows: Sequence[Row], by: Sequence[str]) -> list[str]:
    """The columns whose values are measured apart: those that were asked for, and first whether pictures leaked."""
    first = ["leaked"] if len({row.leaked for row in rows}) > 1 else []
    return list(dict.fromkeys([*first, *by]))


def warn_of_learnt(opened: Opened | OpenedDetector, manifest: Manifest, rows: Sequence[Row]) -> None:
    """Says how many pictures of another manifest than the model's own it learnt from."""
    from fxcli.inference.measured import learnt_from

    info = opened.model.info
    fitted = info.get("uncertainty") is not None
    is_own = manifest.digest == info.get("manifest_sha256")
    if not is_own and (known := learnt_from(opened.run, rows, fitted=fitted)):
        what = "this model, or by what it knows of its errors" if fitted else "this model"
        console.warn(f"{known} of these {len(rows)} pictures were learnt from by {what}: figures on them flatter")


def noted_look(opened: Opened | OpenedDetector, manifest: Manifest, rows: Sequence[Row]) -> dict[str, Any]:
    """Notes a look at a test part, says which it is, and returns what the result says of it."""
    from fxcli.inference.measured import look_at

    found = look_at(opened, manifest, rows)
    if found is None:
        return {}
    console.note(f"{found.told()} ({manifest.root / ledger.NAME})")
    return {"look": found.number, "models_that_looked": found.models, "looks_before": found.before}


def folder_of(model: ModelFile, names: Sequence[str], out: Path | None) -> Path | None:
    """Where the results of one of several models, of these names, go within --out; None: into its run."""
    if out is None or len(names) == 1:
        return out
    return out / (model.name if model.is_final and names.count(model.name) == 1 else model.unique_name)


def told_apart(models: Sequence[ModelFile]) -> list[str]:
    """What models are called beside each other: those that share a name, as seeds of a study do, by their hash, too."""
    names = [model.name for model in models]
    return [model.name if names.count(model.name) == 1 else model.unique_name for model in models]


def check_places(found: Iterable[tuple[Path, Run | None]], out: Path | None) -> None:
    """Whether results of models (files and their runs) can be written: found out later, a look would be for nothing.

    Raises:
        DataError: They cannot.
    """
    for folder in {out or (run.path if run else EVALUATIONS) for _, run in found}:
        check_writable(folder)


def write_result(
    model: ModelFile, name: str, result: Mapping[str, Any], out: Path | None, *, own_data: bool
) -> tuple[Path, Path]:
    """Writes the figures of a model.

    Args:
        model: It.
        name: Of the part that was measured, and how.
        result: For people and programs.
        out: Where to; None: its run, or EVALUATIONS for a file outside any.
        own_data: Whether the manifest is that of the run.

    Returns:
        The file of the figures, and that for its predictions, of the same name; its folder exists.
    """
    base = out or (model.run.path if model.run else EVALUATIONS / model.unique_name)
    if base == (model.run and model.run.path) and not model.is_final:
        # A checkpoint's figures beside those of the run's own model.
        name += f"-model-{model.digest[:8]}"
    if not own_data:
        name += f"-{result['evaluated_manifest_sha256'][:8]}"
    for folder in ("evaluation", "predictions"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    figures = base / "evaluation" / f"{name}.json"
    write_json(figures, result)
    return figures, base / "predictions" / f"{name}.csv"
