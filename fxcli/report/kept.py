"""What a run directory holds, read without torch: settings, epochs, evaluations, data. Nothing is computed here.

A run may be in progress, stopped, or damaged in places: what cannot be read is told in `problems`, the rest is used.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fxcli.data.manifest import Row, read_manifest
from fxcli.errors import FxError
from fxcli.recipe.source import plain, read_tree
from fxcli.run.checkpoint import read_header
from fxcli.run.directory import Run
from fxcli.run.files import sha256_of

_LIMIT_BYTES = 64 << 20
# Those that most people ask for stand first; further ones follow by name.
_ORDER = ("test", "oof", "val", "calibration")


@dataclass
class Kept:
    """What a run directory holds.

    Attributes:
        run: It.
        info: run.json.
        status: See `Run.status`.
        recipe: As plain values; {} if it cannot be read.
        recipe_text: The file.
        header: Of the model file; {} without one.
        digest: sha256 of the model file; "" without one.
        epochs: Lines of metrics.jsonl.
        evaluations: What `fx evaluate` wrote, by name: test, oof, val, test-flips …
        fingerprint: Of the data.
        rows: Of the manifest.
        parts: Trainings within it (folds, seeds), by what they are called.
        problems: What could not be read.
    """

    run: Run
    info: dict[str, Any]
    status: str
    recipe: dict[str, Any] = field(default_factory=dict)
    recipe_text: str = ""
    header: dict[str, Any] = field(default_factory=dict)
    digest: str = ""
    epochs: list[dict[str, Any]] = field(default_factory=list)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    fingerprint: dict[str, Any] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    parts: dict[str, Kept] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.run.name

    @property
    def task(self) -> str:
        """classify, detect or pretrain."""
        return str(self.info.get("task"))

    @property
    def is_in_folds(self) -> bool:
        """Whether its parts held pictures out."""
        return any("fold" in name for name in self.parts)

    @property
    def quoted(self) -> str:
        """Its path, as a command takes it."""
        return shlex.quote(str(self.run.path))

    def section(self, *keys: str) -> Any:
        """A value of the recipe, or None."""
        value: Any = self.recipe
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value


def kept(run: Run) -> Kept:
    """Reads a run.

    Raises:
        RunError: run.json is absent or damaged.
    """
    info = run.info()
    found = Kept(run, info, run.status(info))
    for file, read in (
        (run.path / "recipe.yaml", _read_recipe),
        (run.model_file, _read_model),
        (run.metrics_file, _read_epochs),
        (run.path / "fingerprint.json", _read_fingerprint),
        (run.path / "manifest.csv", _read_rows),
        *((file, _read_evaluation) for file in _evaluations(run)),
    ):
        try:
            if file.is_file():
                read(found, file)
        except (OSError, ValueError, RecursionError, FxError) as error:
            what = error.what if isinstance(error, FxError) else error
            found.problems.append(f"{file.relative_to(run.path)} cannot be read: {str(what)[:200]}")
    for seed, fold, part in run.parts():
        name = ", ".join(f"{kind} {n}" for kind, n in (("seed", seed), ("fold", fold)) if n is not None)
        try:
            found.parts[name] = kept(part)
        except FxError as error:
            found.problems.append(f"{part.path.relative_to(run.path)} cannot be read: {error.what[:200]}")
    return found


def _read_recipe(found: Kept, file: Path) -> None:
    found.recipe = {key: plain(value) for key, value in read_tree(file, file.name).items()}
    found.recipe_text = file.read_text(encoding="utf-8")


def _read_model(found: Kept, file: Path) -> None:
    found.header = read_header(file)
    found.digest = sha256_of(file)


def _read_epochs(found: Kept, file: Path) -> None:
    for line in _text(file).splitlines():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue  # the last line of a run that was killed
        if isinstance(values, dict) and isinstance(values.get("epoch"), int):
            found.epochs.append(values)


def _read_fingerprint(found: Kept, file: Path) -> None:
    found.fingerprint = _mapping(file)


def _read_rows(found: Kept, file: Path) -> None:
    found.rows = read_manifest(file, with_pictures=False).rows


def _read_evaluation(found: Kept, file: Path) -> None:
    found.evaluations[file.stem] = _mapping(file)


def _mapping(file: Path) -> dict[str, Any]:
    value = json.loads(_text(file))
    if not isinstance(value, dict):
        raise ValueError("it is no mapping")
    return value


def _text(file: Path) -> str:
    if file.stat().st_size > _LIMIT_BYTES:
        raise ValueError("it is too large")
    return file.read_text(encoding="utf-8")


def _evaluations(run: Run) -> list[Path]:
    place = {name: number for number, name in enumerate(_ORDER)}
    files = (run.path / "evaluation").glob("*.json")
    return sorted(files, key=lambda file: (place.get(file.stem, len(place)), file.stem))
