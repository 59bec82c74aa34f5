"""What the sides are timed on: folders of real pictures, model files with random weights, manifests."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench.side import environment

T = TypeVar("T")

CLASSES = ("avulsion", "comminuted", "curved", "fracture_dislocation", "hairline", "internal", "linear")
FEW = 8
# So that half of them is still more than FEW.
LEAST = 4 * FEW


@dataclass(frozen=True)
class Folder:
    """A flat folder of pictures.

    Attributes:
        path: Where.
        count: How many pictures.
    """

    path: str
    count: int


@dataclass(frozen=True)
class Pictures:
    """Folders drawn from the same real pictures.

    Attributes:
        few: FEW of them; its time is start-up.
        half: Every second one, for sides that take long.
        once: All.
        thrice: All, three times: for sides so fast that `once` would be over too soon.
    """

    few: Folder
    half: Folder
    once: Folder
    thrice: Folder


def folders(real_data: Path, target: Path, count: int) -> Pictures:
    """Copies `count` pictures, evenly drawn over the classes' folders."""
    files = spread(sorted((real_data / "bone_break").rglob("*.jpg")), max(count, LEAST))
    return Pictures(
        few=_folder(target / "few", spread(files, FEW)),
        half=_folder(target / "half", files[::2]),
        once=_folder(target / "once", files),
        thrice=_folder(target / "thrice", files * 3),
    )


def spread(values: Sequence[T], count: int) -> list[T]:
    """`count` of the values (all, if there are fewer), evenly spaced."""
    count = min(count, len(values))
    return [values[index * len(values) // count] for index in range(count)]


def _folder(target: Path, files: Sequence[Path]) -> Folder:
    target.mkdir(parents=True)
    for number, file in enumerate(files):
        shutil.copyfile(file, target / f"{number:05d}.jpg")
    return Folder(str(target), len(files))


def model_file(file: Path, backbone: str, *, size_px: int | None = None, prepared_px: int = 640) -> str:
    """Writes a model file with random weights and the classes of Bone Break."""
    from fxcli.data.preprocess import Clean, Preprocessing
    from fxcli.model import classifier as models
    from fxcli.model.classifier import TrainedModel
    from fxcli.recipe.schema import Model
    from fxcli.zoo.plugins import load_zoo

    spec = load_zoo().backbone(backbone)
    seen, settings = spec.input, Model(backbone=backbone, init="random")
    size_px = size_px or seen.size_px
    preprocessing = Preprocessing(
        clean=Clean(prepared_px),
        image_size_px=size_px,
        resize="letterbox",
        mean=seen.mean,
        std=seen.std,
        interpolation=seen.interpolation,
    )
    info = {"task": "classify", "name": "bench", "backbone": spec.name, "model": settings.model_dump(mode="json")}
    network = models.build(spec, settings, size_px, len(CLASSES), seed=0)
    TrainedModel((network,), spec, CLASSES, preprocessing, info).save(file)
    return str(file)


def detector_file(file: Path, detector: str, size_px: int) -> str:
    """Writes the file of a detector with random weights, over EfficientNet-Lite0."""
    import numpy as np

    from fxcli.data.preprocess import Clean, Preprocessing
    from fxcli.model import detector as detectors
    from fxcli.recipe.detection import Detect
    from fxcli.recipe.schema import Model
    from fxcli.zoo.plugins import load_zoo

    spec, settings = load_zoo().backbone("efficientnet_lite0"), Model(backbone="efficientnet_lite0", init="random")
    detect = Detect(detector=detector)
    # As the boxes of FracAtlas are at 512 px.
    shapes = detectors.BoxShapes(tuple(np.linspace(8.0, 90.0, 21)), tuple(np.linspace(0.4, 2.5, 21)))
    network = detectors.build(spec, load_zoo().detector(detector), settings, detect, size_px, 1, shapes, seed=0)
    seen = Preprocessing(Clean(1024), size_px, "letterbox", spec.input.mean, spec.input.std, spec.input.interpolation)
    info = {
        "task": "detect",
        "name": "bench",
        "backbone": spec.name,
        "model": settings.model_dump(mode="json"),
        "detect": detect.model_dump(mode="json"),
        "box_shapes": {"sides_px": list(shapes.sides_px), "ratios": list(shapes.ratios)},
    }
    detectors.TrainedDetector(network, spec, ("fracture",), seen, info).save(file)
    return str(file)


def prepared(real_data: Path, folder: Path) -> Path:
    """The manifest of the prepared Bone Break pictures; prepared on the first call."""
    if not folder.exists():
        program("prepare", "bone_break", "--set", f"data.source='{real_data / 'bone_break'}'", "--out", folder)
    return folder / "manifest.csv"


def program(*arguments: object) -> None:
    """Runs fx as a program; its messages are shown only if it fails."""
    command = [sys.executable, "-m", "fxcli", *map(str, arguments), "--quiet"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def part_of(manifest: Path, name: str, *, train: int, val: int) -> Path:
    """Writes a manifest with some of the rows beside it."""
    with manifest.open(newline="", encoding="utf-8") as handle:
        reader = csv.DictReader(handle)
        columns, rows = list(reader.fieldnames or ()), list(reader)
    kept = [
        row
        for split, count in (("train", train), ("val", val))
        for row in spread([row for row in rows if row["split"] == split], count)
    ]
    target = manifest.with_name(f"{name}.csv")
    with target.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, columns)
        writer.writeheader()
        writer.writerows(kept)
    return target


def counts(manifest: Path) -> dict[str, int]:
    """Pictures of the splits train and val."""
    with manifest.open(newline="", encoding="utf-8") as handle:
        splits = [row["split"] for row in csv.DictReader(handle)]
    return {split: splits.count(split) for split in ("train", "val")}


def int8_file(model: str, target: Path, pictures: Folder) -> tuple[str, str]:
    """What `fx export openvino --precision int8` would write, and why there is none; unchecked.

    fx itself refuses it: of random weights the quantised answers differ too much.
    """
    from fxcli.errors import MissingDependency
    from fxcli.inference import export, exported
    from fxcli.model import classifier as models
    from fxcli.zoo.plugins import load_zoo

    opened = models.load(Path(model), load_zoo())
    try:
        graph, weights = export.graph_of(opened, "openvino", sorted(Path(pictures.path).iterdir()))
    except MissingDependency as error:
        return "", f"not measured: {error.what}"
    exported.save(target, "openvino", graph, weights, {**export.header_of(opened), "precision": "int8"})
    return str(target), ""
