"""Boxes of a prepared folder: from the source to the model's input and back."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.data.boxes import FILE, read_boxes, to_input, to_original
from fxcli.data.manifest import read_manifest
from fxcli.data.preprocess import Clean, Preprocessing
from fxcli.errors import DataError

SIZES = {"a": (200, 100), "b": (120, 160), "c": (90, 90), "d": (64, 300)}
BOXES = {"a": [(20, 30, 60, 80), (100.5, 10.25, 199, 99)], "b": [(0, 0, 40, 60)], "c": []}


def draw(folder="raw"):
    """Grey pictures with white boxes; d is in no list of boxes."""
    for name, (width, height) in SIZES.items():
        pixels = np.random.default_rng(ord(name)).integers(20, 90, (height, width), dtype=np.uint8)
        for left, top, right, bottom in BOXES.get(name, []):
            pixels[round(top) : round(bottom), round(left) : round(right)] = 255
        file = Path(folder, "fracture" if BOXES.get(name) else "none", f"{name}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)


def coco(boxes=BOXES, category="Fracture"):
    images = [
        {"id": number, "file_name": f"{name}.png", "width": SIZES[name][0], "height": SIZES[name][1]}
        for number, name in enumerate(boxes)
    ]
    annotations = [
        {"image_id": number, "category_id": 5, "bbox": [left, top, right - left, bottom - top]}
        for number, name in enumerate(boxes)
        for left, top, right, bottom in boxes[name]
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 5, "name": category}]}
    Path("boxes.json").write_text(json.dumps(content))


def prepare(*options, json=False):
    sets = [f"--set={option}" for option in ("split.val_frac=0", "data.prepared_px=128", *options)]
    sets += ["--json"] if json else []
    done = CliRunner().invoke(app, ["prepare", "raw", "--out", "p", "--overwrite", *sets])
    return done.exit_code, done.output


@pytest.fixture
def boxed():
    draw()
    coco()
    code, output = prepare("boxes.source=boxes.json")
    assert code == 0, output
    manifest = read_manifest(Path("p/manifest.csv"))
    return manifest, {Path(row.source).stem: row for row in manifest.rows}


# --- prepared ---


def test_boxes_stand_beside_the_manifest(boxed):
    manifest, rows = boxed
    found = read_boxes(manifest)
    assert found.classes == ("Fracture",)
    assert found.by_path.keys() == {rows[name].path for name in "abc"}
    for name, expected in BOXES.items():
        here = found.by_path[rows[name].path]
        assert len(here) == len(expected)
        assert here.corners == pytest.approx(np.array(expected, np.float32).reshape(-1, 4))
        assert here.corners.dtype == np.float32
        assert here.labels.tolist() == [0] * len(expected)
    assert {row.path for row in found.known(manifest.rows)} == found.by_path.keys()
    values = json.loads(Path("p/fingerprint.json").read_text())["boxes"]
    names = ("boxes", "pictures_with", "pictures_without", "pictures_unknown", "wrong")
    assert [values[name] for name in names] == [3, 2, 1, 1, []]


def test_the_file_is_one_that_pycocotools_would_read(boxed):
    values = json.loads(Path("p", FILE).read_text())
    assert [each["id"] for each in values["annotations"]] == [1, 2, 3]
    assert all(
        each["area"] == pytest.approx(each["bbox"][2] * each["bbox"][3], abs=0.01) for each in values["annotations"]
    )
    assert {each["image_id"] for each in values["annotations"]} < {each["id"] for each in values["images"]}
    assert values["categories"] == [{"id": 1, "name": "Fracture"}]


@pytest.mark.parametrize("resize", ["letterbox", "squash", "crop"])
def test_into_the_models_input_and_back(boxed, resize):
    """The oracle is the picture: its white rectangle lies where the box comes to lie."""
    manifest, rows = boxed
    preprocessing = Preprocessing(manifest.clean(), 96, resize, (0.5,) * 3, (0.5,) * 3)
    row = rows["b"]
    corners = read_boxes(manifest).by_path[row.path].corners
    cleaned = preprocessing.load(manifest.path_of(row))
    size_px = (cleaned.width_px, cleaned.height_px)
    inside = to_input(corners, size_px, preprocessing)
    seen_rows, seen_columns = np.nonzero(preprocessing.fit(cleaned) > 170)
    seen = (seen_columns.min(), seen_rows.min(), seen_columns.max() + 1, seen_rows.max() + 1)
    assert np.clip(inside[0], 0, 96) == pytest.approx(seen, abs=1.01)
    assert to_original(inside, size_px, preprocessing) == pytest.approx(corners, abs=1e-3)


def test_answers_stay_within_the_picture():
    preprocessing = Preprocessing(Clean(128), 64, "letterbox", (0.5,) * 3, (0.5,) * 3)
    found = to_original(np.array([[-5.0, 0, 70, 64]], np.float32), (200, 100), preprocessing)
    assert found.tolist() == [[0, 0, 200, 100]], "the letterbox's border is no part of it"
    assert to_original(np.zeros((0, 4), np.float32), (200, 100), preprocessing).shape == (0, 4)


@pytest.mark.slow
def test_how_many_there_are_is_told():
    draw()
    coco()
    values = json.loads(Path("boxes.json").read_text())
    values["images"].append({"id": 9, "file_name": "gone.png", "width": 9, "height": 9})
    Path("boxes.json").write_text(json.dumps(values))
    code, output = prepare("boxes.source=boxes.json")
    assert code == 0, output
    told = "3 boxes on 2 pictures, 1 pictures without one, and 1 of which the boxes' source tells nothing"
    assert told in output
    assert "warning: boxes of 1 pictures are not used: no picture here has their path or name" in output
    code, output = prepare("boxes.source=boxes.json", json=True)
    record = json.loads(output.splitlines()[-1])["boxes"]
    assert record == json.loads(Path("p/fingerprint.json").read_text())["boxes"]
    assert record["pictures_unused"] == record["pictures_unknown"] == 1


# --- labels ---


def test_boxes_can_give_the_labels():
    draw()
    for file in [*Path("raw").rglob("*.png")]:
        file.rename(Path("raw", file.name))
    coco({**BOXES, "d": []})
    code, output = prepare("boxes.source=boxes.json", "boxes.label=true", 'boxes.classes={"Fracture": "fracture"}')
    assert code == 0, output
    with Path("p/manifest.csv").open(newline="") as handle:
        labels = {row["source"]: row["label"] for row in csv.DictReader(handle)}
    assert labels == {"a.png": "fracture", "b.png": "fracture", "c.png": "no_fracture", "d.png": "no_fracture"}
    coco()
    code, output = prepare("boxes.source=boxes.json", "boxes.label=true", "boxes.unlisted=negative")
    assert code == 0, output
    manifest = read_manifest(Path("p/manifest.csv"))
    found = read_boxes(manifest).by_path
    assert {(row.source, row.label, len(found[row.path])) for row in manifest.rows} == {
        ("a.png", "Fracture", 2),
        ("b.png", "Fracture", 1),
        ("c.png", "no_Fracture", 0),
        ("d.png", "no_Fracture", 0),
    }
    code, output = prepare("boxes.source=boxes.json", "boxes.label=true")
    assert code == 4
    assert "d.png: nothing is known of this picture" in output


# --- what is wrong ---


def test_classes_are_told_of_that_no_box_has():
    draw()
    coco()
    code, output = prepare("boxes.classes={Fracture: fracture}")
    assert code == 3
    assert "boxes.classes: there are no boxes to name; set boxes.source" in " ".join(output.split())
    content = json.loads(Path("boxes.json").read_text())
    content["categories"].append({"id": 6, "name": "implant"})
    Path("boxes.json").write_text(json.dumps(content))
    code, output = prepare("boxes.source=boxes.json")
    assert code == 0
    assert "warning: no box is of the class implant; boxes.classes says which" in output


@pytest.mark.slow
def test_wrong_boxes_are_refused_or_cut_and_listed():
    draw()
    coco({**BOXES, "a": [(20, 30, 60, 120), (50, 10, 40, 20)]})
    code, output = prepare("boxes.source=boxes.json")
    assert code == 4
    assert "2 boxes cannot be used as they are" in output
    assert "annotations[0]: 20.0 px outside its picture" in output
    assert "annotations[1]: inverted" in output
    assert "boxes.bad=clip" in output
    assert not Path("p").exists()
    code, output = prepare("boxes.source=boxes.json", "boxes.bad=clip")
    assert code == 0, output
    manifest = read_manifest(Path("p/manifest.csv"))
    (row,) = [row for row in manifest.rows if row.source.endswith("a.png")]
    assert read_boxes(manifest).by_path[row.path].corners.tolist() == [[20, 30, 60, 100]]
    assert len(json.loads(Path("p/fingerprint.json").read_text())["boxes"]["wrong"]) == 2
    assert "2 boxes were cut or left out" in output


@pytest.mark.parametrize("unlisted", ["unknown", "negative"])
def test_of_copies_the_one_with_boxes_stays(unlisted):
    draw()
    coco()
    shutil.copy("raw/fracture/a.png", "raw/fracture/0.png")
    sets = (
        "boxes.source=boxes.json",
        f"boxes.unlisted={unlisted}",
        "audit.duplicates=one_per_group",
        "split.policy=train",
    )
    code, output = prepare(*sets)
    assert code == 0, output
    manifest = read_manifest(Path("p/manifest.csv"))
    rows = {Path(row.source).stem: row for row in manifest.rows}
    assert set(rows) == set(SIZES)
    assert len(read_boxes(manifest).by_path[rows["a"].path]) == len(BOXES["a"])


def test_labels_without_boxes_are_a_contradiction():
    draw()
    code, output = prepare("boxes.label=true")
    assert code == 3
    assert "boxes.label" in output


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda values: values["images"][0].update(file_name="pictures/x.png"), "a picture that the manifest lacks"),
        (lambda values: values["images"][0].update(width=1), "refer to another size"),
        (lambda values: values["annotations"][0].update(bbox=[0, 0, -1, 5]), "inverted"),
        (lambda values: values["annotations"][0].update(category_id=7), "its number is that of no class"),
        (lambda values: values["categories"][0].update(name="=cmd"), "do not name classes"),
        (lambda values: values.update(categories=[]), "do not name classes"),
    ],
)
def test_a_file_that_was_changed(boxed, change, told):
    manifest, _ = boxed
    values = json.loads(Path("p", FILE).read_text())
    change(values)
    Path("p", FILE).write_text(json.dumps(values))
    with pytest.raises(DataError, match=told):
        read_boxes(manifest)


def test_no_boxes_beside_a_manifest(boxed):
    manifest, _ = boxed
    Path("p", FILE).unlink()
    with pytest.raises(DataError, match="no boxes beside this manifest"):
        read_boxes(manifest)
