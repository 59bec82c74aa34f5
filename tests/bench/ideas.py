"""Ideas that need other pictures or labels than recipes/ideas.yaml can name, each against plain training, out of fold.

python tests/bench/ideas.py MANIFEST SOURCE [--out DIR]

MANIFEST is that of recipes/bone_break_clean.yaml, SOURCE the folder it was prepared from, with boxes.coco.json. As in
recipes/ideas.yaml heads learn on frozen features at 320 px, in five folds, with three seeds. No test picture is read.

clahe    every picture after contrast-limited adaptive histogram equalisation, by scikit-image as it comes
crops    each picture with boxes is learnt once more, cut around them at twice their extent
folders  the data set's ten folders are learnt, and the probabilities of a class's folders added

More pictures, and other labels, are dealt into other folds: with the first two pictures alone differ.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from fxcli.data.annotations import read_annotations
from fxcli.data.manifest import Manifest, Row, read_manifest, write_manifest
from fxcli.data.preprocess import letterbox
from fxcli.evaluation.comparison import METRICS, compare_models
from fxcli.evaluation.metrics import softmax
from fxcli.evaluation.predictions import Labelled
from fxcli.inference.measured import out_of_fold
from fxcli.run.directory import Run
from fxcli.run.files import copy

ASKED = ("data.image_size_px=320", "ensemble.folds=5", "ensemble.fold_seed=0", "ensemble.seeds=3")
EXTENT = 2.0

Drawn = Iterable[tuple[Row, Image.Image]]


def radiograph(manifest: Manifest, row: Row) -> Image.Image:
    """As it lies within the prepared square."""
    with Image.open(manifest.path_of(row)) as square:
        return square.crop(letterbox(row.width_px, row.height_px, manifest.clean().prepared_px))


def equalised(picture: Image.Image) -> Image.Image:
    """By CLAHE."""
    from skimage.exposure import equalize_adapthist

    return Image.fromarray(np.round(255 * equalize_adapthist(np.asarray(picture))).astype(np.uint8))


def around(corners: np.ndarray, picture: Image.Image) -> Image.Image:
    """What lies around all boxes of a picture, [N, 4] in fractions of it."""
    low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
    middle, half = (low + high) / 2, EXTENT * (high - low) / 2
    left, top = np.floor(np.maximum(middle - half, 0) * picture.size).astype(int).tolist()
    right, bottom = np.ceil(np.minimum(middle + half, 1) * picture.size).astype(int).tolist()
    return picture.crop((left, top, right, bottom))


def crops(manifest: Manifest, rows: Iterable[Row], source: Path) -> Iterator[tuple[Row, Image.Image]]:
    """Of each picture with boxes one; of its group, so that none is learnt from where the picture is held out."""
    rows, known = list(rows), read_annotations(source / "boxes.coco.json")
    for row, key in zip(rows, known.match([row.source for row in rows]), strict=True):
        if key and (boxes := known.pictures[key].boxes):
            size_px = known.pictures[key].size_px or (1, 1)
            corners = np.array([box.corners for box in boxes]) / (size_px * 2)
            picture = around(corners, radiograph(manifest, row))
            path = str(Path("crops", *Path(row.path).parts[1:]))
            yield replace(row, path=path, sha256="", width_px=picture.width, height_px=picture.height), picture


def variants(manifest: Manifest, source: Path) -> dict[str, Drawn]:
    """By name: what is learnt and told of."""
    rows = [row for row in manifest.rows if row.split != "test"]
    plain = [(row, radiograph(manifest, row)) for row in rows]
    return {
        "plain": plain,
        "clahe": ((row, equalised(picture)) for row, picture in plain),
        "crops": [*plain, *crops(manifest, rows, source)],
        "folders": ((replace(row, label=folder_of(row)), picture) for row, picture in plain),
    }


def folder_of(row: Row) -> str:
    """Where the data set has a picture, as a class may be called."""
    return Path(row.source).parts[0].replace(" ", "_")


def write(folder: Path, manifest: Manifest, drawn: Drawn) -> None:
    """A prepared folder."""
    rows = []
    for row, picture in drawn:
        file = folder / row.path
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)
        rows.append(row)
    write_manifest(folder / "manifest.csv", rows)
    copy(manifest.fingerprint_file, folder / manifest.fingerprint_file.name)


def trained(folder: Path) -> Labelled:
    """What the heads that learn a prepared folder say of the pictures that they hold out."""
    keys = [f"data.manifest={folder / 'manifest.csv'}", *ASKED]
    options = [part for key in keys for part in ("--set", key)]
    command = [sys.executable, "-m", "fxcli", "train", "probe", *options, "--out", str(folder / "run")]
    subprocess.run(command, check=True)
    return out_of_fold(Run(folder / "run"))


def added(said: Labelled, pairs: Iterable[tuple[str, str]]) -> Labelled:
    """Of folders, in terms of classes: `pairs` has each folder with its class."""
    class_of = dict(pairs)
    classes = sorted(set(class_of.values()))
    belongs = np.array([[class_of[folder] == name for name in classes] for folder in sorted(class_of)], dtype=float)
    targets = belongs[said.targets].argmax(axis=1)
    return replace(said, targets=targets, logits=np.log(softmax(said.logits) @ belongs))


def main() -> None:
    """Prints a verdict for each idea and metric."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/more_ideas"), help="where none of it is yet")
    asked = parser.parse_args()
    manifest = read_manifest(asked.manifest)
    plain = None
    for name, drawn in variants(manifest, asked.source).items():
        write(asked.out / name, manifest, drawn)
        said = trained(asked.out / name)
        if name == "folders":
            said = added(said, {(folder_of(row), row.label) for row in manifest.rows})
        if plain is None:
            plain = said
            continue
        a, b = plain.shared(said) or sys.exit("not the same pictures")
        for metric in METRICS:
            sides, names = (list(a.logits), list(b.logits)), ("plain", name)
            told = compare_models(*sides, a.targets, a.groups, metric=metric, names=names)
            print(f"{np.mean(told.a_seeds):.3f}, {np.mean(told.b_seeds):.3f}: {told.verdict}", flush=True)


if __name__ == "__main__":
    main()
