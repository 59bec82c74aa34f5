"""What TensorBoard is told of one training; all but the figures is read from the files of its run."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

# Of each class, one sheet with so many pictures of this size.
PICTURES, SIDE_PX = 8, 128
CLASSES = 32


class Tracker:
    """Writes `<run>/tensorboard`; of a training that goes on, all after the last line of metrics.jsonl is told anew.

    Args:
        run: Its directory.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        folder = run / "tensorboard"
        last = _last_step(run / "metrics.jsonl")
        self.writer = SummaryWriter(str(folder), purge_step=last + 1 if folder.exists() else None)
        self._has_settings = False
        if last < 0:
            for label, sheet in _sheets(run):
                self.writer.add_image(f"train/{label}", sheet, 0, dataformats="HW")
        self.writer.flush()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds a point to each curve, and beforehand, once, the settings."""
        tags = {name: re.sub(r"^(train|val)_", r"\1/", name) for name in metrics}
        if not self._has_settings:
            self._has_settings = True
            # The table of settings shows the last point of these curves.
            figures = {tag: metrics[name] for name, tag in tags.items() if tag != name}
            told = hparams(dict(settings(self.run / "recipe.yaml")), figures)  # type: ignore[no-untyped-call]
            # The third says that the training is over, which nobody knows here.
            for summary in told[:2]:
                self.writer.file_writer.add_summary(summary)  # type: ignore[attr-defined]
        for name, value in metrics.items():
            self.writer.add_scalar(tags[name], value, step)
        # Nobody tells when the training ends.
        self.writer.flush()

    def close(self) -> None:
        """No more is to come."""
        self.writer.close()


def settings(recipe: Path) -> Iterator[tuple[str, float | str]]:
    """The leaves of a resolved recipe by dotted key: numbers as they are, all else as JSON has it."""
    waiting = [("", yaml.safe_load(recipe.read_text(encoding="utf-8")))]
    for key, value in waiting:
        if isinstance(value, dict) and value:
            waiting += [(f"{key}.{name}".lstrip("."), inner) for name, inner in value.items()]
        elif isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
            yield key, value
        else:
            yield key, json.dumps(value)


def _last_step(metrics: Path) -> int:
    """Of the last line; -1 where there is none."""
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else -1


def _sheets(run: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Of each class its first training pictures side by side, as they were prepared: uint8 [SIDE_PX, n · SIDE_PX]."""
    root = Path(json.loads((run / "run.json").read_text(encoding="utf-8"))["manifest"]).parent
    chosen: dict[str, list[Path]] = {}
    with (run / "manifest.csv").open(encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            if row["split"] == "train":
                of_class = chosen.setdefault(row["label"] or "unlabelled", [])
                if len(of_class) < PICTURES and (root / row["path"]).is_file():
                    of_class.append(root / row["path"])
    for label, files in list(chosen.items())[:CLASSES]:
        sheet = Image.new("L", (SIDE_PX * PICTURES, SIDE_PX))
        for number, file in enumerate(files):
            with Image.open(file) as picture:
                sheet.paste(picture.convert("L").resize((SIDE_PX, SIDE_PX)), (number * SIDE_PX, 0))
        yield label, np.asarray(sheet)
