"""`fx predict` with a detector: rows, outlines and COCO, alone and beside a classifier."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from boxed import fx, rows_of
from PIL import Image
from typer.testing import CliRunner

import fxcli
from fxcli.cli import app
from fxcli.data.read import read
from fxcli.errors import UnreadableImage, UsageError
from fxcli.run import checkpoint
from fxcli.run.directory import Run


def picture(path, left, top, right, bottom, size=(64, 96), **save):
    """A grey picture with a bright bar, as the detector knows them."""
    pixels = np.full((size[1], size[0]), 60, np.uint8)
    pixels[top:bottom, left:right] = 250
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **save)


def test_rows_have_boxes_in_pixels_of_the_original(detector):
    picture(Path("in/small.png"), 20, 30, 38, 48)
    picture(Path("in/large.png"), 60, 90, 114, 144, size=(192, 288))
    done = fx("predict", "in", "--model", detector, "--score", 0.3)
    small, large = sorted(rows_of(done.stdout), key=lambda row: int(row["width_px"]))
    for row, expected in ((small, (20, 30, 38, 48)), (large, (60, 90, 114, 144))):
        assert row["status"] == "ok"
        (box, *_) = json.loads(row["boxes"])
        assert [box[side] for side in ("left", "top", "right", "bottom")] == pytest.approx(
            expected, abs=0.25 * (expected[2] - expected[0])
        )
        assert box["class"] == "fracture"
        assert float(row["box_score"]) == box["score"]
        assert "not a medical device" in row["notice"]


def test_exif_is_undone(detector):
    """A picture stored on its side gives the boxes that it gives upright."""
    picture(Path("in/upright.png"), 20, 30, 38, 48)
    sideways = Image.open("in/upright.png").rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways.save("in/turned.png", exif=exif)
    turned, upright = rows_of(fx("predict", "in", "--model", detector, "--score", 0.3).stdout)
    assert (turned["width_px"], turned["height_px"]) == ("64", "96")
    assert turned["boxes"] == upright["boxes"] != "[]"


def test_outlines_and_coco(detector):
    picture(Path("in/a/one.png"), 20, 30, 38, 48)
    picture(Path("in/b/none.png"), 0, 0, 0, 0)
    fx("predict", "in", "--model", detector, "--boxes", "out", "--score", 0.3)
    drawn = np.asarray(Image.open("out/a/one.png.png"))
    assert (drawn == (64, 224, 208)).all(axis=2).any()
    plain = np.asarray(Image.open("out/b/none.png.png"))
    assert not (plain == (64, 224, 208)).all(axis=2).any()
    with pytest.raises(UnreadableImage, match="heat map"):
        read(Path("out/a/one.png.png"))
    coco = json.loads(Path("out/found.coco.json").read_text())
    assert {image["file_name"] for image in coco["images"]} == {"in/a/one.png", "in/b/none.png"}
    assert coco["categories"] == [{"id": 1, "name": "fracture"}]
    box, *_ = coco["annotations"]
    assert box["bbox"][:2] == pytest.approx((20, 30), abs=5)
    assert box["score"] >= 0.3


def test_coco_goes_back_into_prepare(detector):
    """What one command writes, another reads."""
    for number in range(4):
        picture(Path(f"in/x/{number}.png"), 20, 30 + number, 38, 48 + number)
    with Image.open("in/x/0.png") as upright:
        exif = upright.getexif()
        exif[274] = 3  # upside down: no size tells
        upright.save("in/x/0.png", exif=exif)
    fx("predict", "in", "--model", detector, "--boxes", "out", "--score", 0.3)
    content = json.loads(Path("out/found.coco.json").read_text())
    for image in content["images"]:
        image["file_name"] = image["file_name"].removeprefix("in/")
    Path("again.json").write_text(json.dumps(content))
    fx("prepare", "in", "--set=boxes.source=again.json", "--set=audit.search=false", "--out", "p")
    again = json.loads(Path("p/boxes.coco.json").read_text())
    assert len(again["annotations"]) >= 4
    assert [each["bbox"] for each in again["annotations"]] == [each["bbox"] for each in content["annotations"]]


def test_a_detector_of_an_unfinished_training_says_so(detector):
    picture(Path("in/a.png"), 20, 30, 38, 48)
    (detector / "model.safetensors").unlink()
    Run(detector).update(status="failed")
    told = fx("predict", "in", "--model", detector, "--quiet").stderr
    assert f"{detector}, status failed: this is the best epoch so far of an unfinished training" in told


def test_an_unreadable_picture_is_a_row(detector):
    picture(Path("in/a.png"), 20, 30, 38, 48)
    Path("in/b.png").write_bytes(b"nothing")
    done = fx("predict", "in", "--model", detector, "--json", "--boxes", "out", code=9)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["status"] for line in lines] == ["ok", "error"]
    assert lines[1]["reason"]
    assert "boxes" not in lines[1]
    assert len(json.loads(Path("out/found.coco.json").read_text())["images"]) == 1


def test_resume_does_what_is_missing_and_coco_has_all(detector):
    picture(Path("in/a.png"), 20, 30, 38, 48)
    fx("predict", "in", "--model", detector, "--boxes", "out", "--out", "rows")
    picture(Path("in/b.png"), 30, 30, 48, 48)
    fx("predict", "in", "--model", detector, "--boxes", "out", "--out", "rows", "--resume")
    assert [row["path"] for row in rows_of(Path("rows/predictions.csv").read_text())] == ["in/a.png", "in/b.png"]
    assert len(json.loads(Path("out/found.coco.json").read_text())["images"]) == 2
    fx("predict", "in", "--model", detector, "--out", "rows", "--resume", "--score", 0.9, code=6)
    before = files_in("out")
    told = fx("predict", "in/a.png", "--model", detector, "--boxes", "out", "--out", "other", "--resume", code=4).stderr
    assert "out/found.coco.json: this file exists, and nothing tells that it is of the rows in other" in told
    assert files_in("out") == before, "what another prediction found stays"


def test_outlines_of_another_score_are_drawn_again_and_none_stays_beside_an_error(detector):
    for name in ("a.png", "b.png"):
        picture(Path("in", name), 20, 30, 38, 48)
    fx("predict", "in", "--model", detector, "--boxes", "out", "--score", 0.3)
    rows = ("predict", "in", "--model", detector, "--score", 0.99, "--out", "rows")
    fx(*rows)
    before = files_in("out")
    told = fx(*rows, "--boxes", "out", "--resume", code=4).stderr
    assert "out/found.coco.json: this file exists, and nothing tells that it is of the rows in rows" in told
    assert "move it elsewhere, and --resume writes it anew" in told
    assert files_in("out") == before
    Path("out/found.coco.json").rename("elsewhere.json")
    told = fx(*rows, "--boxes", "out", "--resume").stderr
    assert "going on: 0 of 2" in told
    assert "nothing is missing" in fx(*rows, "--boxes", "out", "--resume").stderr
    Path("in/b.png").write_bytes(b"no")
    fx(*rows, "--boxes", "out", "--overwrite", code=9)
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.png.png", "found.coco.json"]


def test_names_stay_where_outlines_lie_among_the_pictures(detector):
    """In a folder of their own they would make the folder that all share a higher one."""
    picture(Path("in/a/one.png"), 20, 30, 38, 48)
    options = ["--model", detector, "--boxes", "in/found", "--out", "rows", "--paths", "relative"]
    fx("predict", "in", *options)
    told = fx("predict", "in", *options, "--resume").stderr
    assert "nothing is missing" in told
    assert [row["path"] for row in rows_of(Path("rows/predictions.csv").read_text())] == ["one.png"]


def test_what_another_command_is_drawing_is_not_swept_away(detector):
    picture(Path("in/a.png"), 20, 30, 38, 48)
    options = ["--model", detector, "--boxes", "out", "--out", "rows"]
    fx("predict", "in", *options)
    being_drawn = Path("out/a.png.png.0123456789ab.part")
    being_drawn.touch()
    Path("rows/lock.json").write_text('{"pid": 1, "host": "elsewhere"}')
    fx("predict", "in", *options, "--resume", code=6)
    assert being_drawn.exists()


def test_coco_is_not_replaced_unasked(detector):
    picture(Path("in/a.png"), 20, 30, 38, 48)
    Path("out").mkdir()
    Path("out/found.coco.json").write_text("corrected by hand")
    told = fx("predict", "in", "--model", detector, "--boxes", "out", "--out", "rows", code=4).stderr
    assert "out/found.coco.json: this file exists" in told
    assert "--overwrite replaces it; --boxes names another folder" in told
    assert os.listdir("out") == ["found.coco.json"]
    assert not Path("rows").exists()
    fx("predict", "in", "--model", detector, "--boxes", "out", "--overwrite")
    assert len(json.loads(Path("out/found.coco.json").read_text())["images"]) == 1


def test_rows_of_another_version_of_fx_are_not_gone_on_with(detector, monkeypatch):
    picture(Path("in/a.png"), 20, 30, 38, 48)
    fx("predict", "in", "--model", detector, "--out", "rows")
    monkeypatch.setattr("fxcli.inference.detected.__version__", "9.9")
    told = fx("predict", "in", "--model", detector, "--out", "rows", "--resume", code=6).stderr
    assert 'fx was "' in told


def test_the_score_is_that_of_the_operating_point(detector):
    points = checkpoint.read_header(detector / "model.safetensors")["operating_points"]
    picture(Path("in/a.png"), 20, 30, 38, 48)
    done = fx("predict", "in", "--model", detector)
    assert f"boxes of a score of {points['0.5']:.3f} or more" in done.stderr


@pytest.mark.slow
def test_type_and_place_in_one_pass(detector, trained):
    picture(Path("in/a.png"), 20, 30, 38, 48)
    alone = rows_of(fx("predict", "in", "--model", trained.path).stdout)[0]
    boxes = json.loads(rows_of(fx("predict", "in", "--model", detector, "--score", 0.3).stdout)[0]["boxes"])
    done = fx("predict", "in", "--model", trained.path, "--detector", detector, "--score", 0.3, "--cam", "out")
    (row,) = rows_of(done.stdout)
    assert row["class"] == alone["class"]
    found = json.loads(row["boxes"])
    assert [box["class"] for box in found] == [box["class"] for box in boxes]
    assert [box["left"] for box in found] == pytest.approx([box["left"] for box in boxes], abs=0.1)
    assert (np.asarray(Image.open("out/a.png.png")) == (64, 224, 208)).all(axis=2).any()
    line = json.loads(fx("predict", "in", "--model", trained.path, "--detector", detector, "--json").stdout)
    assert isinstance(line["boxes"], list)


def files_in(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*.*")}


@pytest.mark.slow
def test_beside_a_classifier_boxes_go_where_they_go_alone(detector, trained):
    picture(Path("in/a/one.png"), 20, 30, 38, 48)
    picture(Path("in/b/none.png"), 0, 0, 0, 0)
    Path("in/c.png").write_bytes(b"no")
    least = ("--score", 0.3, "--batch-size", 1)
    fx("predict", "in", "--model", detector, *least, "--boxes", "alone", code=9)
    both = ("predict", "in", "--model", trained.path, "--detector", detector, *least, "--boxes")
    assert "3 pictures, boxes in stdout" in fx(*both, "stdout", code=9).stderr
    assert sorted(files_in("alone")) == ["a/one.png.png", "b/none.png.png", "found.coco.json"]
    found = files_in("stdout")
    assert all(found[name] == bytes for name, bytes in files_in("alone").items() if name.endswith(".png"))
    coco, alone = (json.loads(each["found.coco.json"]) for each in (found, files_in("alone")))
    assert coco["images"] == alone["images"]
    assert [each["bbox"] for each in coco["annotations"]] == [each["bbox"] for each in alone["annotations"]]
    for kind in ("csv", "json"):
        options = [kind, "--cam", f"{kind}-maps", "--out", f"{kind}-rows", *(["--json"] if kind == "json" else [])]
        fx(*both, *options, code=9)
        told = files_in(kind)
        own = json.loads(told.pop("found.coco.json"))
        assert {**own, "info": coco["info"]} == coco, "rows in a file tell the same"
        assert told == {name: bytes for name, bytes in found.items() if name in told}
        assert own["info"].keys() == coco["info"].keys()
        assert sorted(files_in(f"{kind}-maps")) == ["a/one.png.png", "b/none.png.png"]
    assert "exists" in fx(*both, "csv", code=4).stderr


@pytest.mark.slow
def test_outlines_stand_beside_what_is_not_answered_too(detector, tiny_recipe, run_of, monkeypatch):
    """And are drawn where they are missing, when a command goes on."""
    tiny_recipe()
    folds = run_of("runs/folds", "--folds", "2", "--set", "train.epochs=1")
    for name in ("a.png", "b.png"):
        picture(Path("in", name), 20, 30, 38, 48)
    monkeypatch.setattr("fxcli.inference.verdict.Judge._least", lambda judge, error: 1.0)
    options = ["--model", folds.path, "--detector", detector, "--abstain", 0.3, "--out", "rows"]
    fx("predict", "in", *options)
    assert {row["status"] for row in rows_of(Path("rows/predictions.csv").read_text())} == {"abstained"}
    for drawn, done in ((("b.png.png",), 0), (("a.png.png", "b.png.png"), 1)):
        told = fx("predict", "in", *options, "--boxes", "found", "--cam", "maps", "--resume").stderr
        assert f"going on: {done} of 2" in told
        assert not Path("maps").exists()
        assert all(Path("found", name).exists() for name in drawn)
        assert len(json.loads(Path("found/found.coco.json").read_text())["images"]) == 2
        Path("found/a.png.png").unlink()
    told = fx("predict", "in", *options[:-2], "--boxes", "found", "--overwrite").stderr
    assert "boxes in found" in told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--cam", "out"], "is a detector"),
        (["--sets"], "is a detector"),
        (["--features", "learnt"], "is a detector"),
        (["--engine", "openvino"], "is a detector"),
        (["--detector", "runs/where"], "is a detector"),
    ],
)
def test_what_a_detector_cannot(detector, options, told):
    picture(Path("in/a.png"), 20, 30, 38, 48)
    assert told in fx("predict", "in", "--model", detector, *options, code=2).stderr


def test_what_a_classifier_cannot(detector, trained):
    picture(Path("in/a.png"), 20, 30, 38, 48)
    for options, told in (
        (["--boxes", "out"], "--boxes is for a detector, and"),
        (
            ["--detector", detector, "--cam", "out", "--boxes", "out"],
            "a heat map and the outlines of boxes would both be out/a.png.png",
        ),
        (["--score", "0.3"], "--score is for a detector"),
        (["--detector", trained.path], "is no detector"),
    ):
        assert told in fx("predict", "in", "--model", trained.path, *options, code=2).stderr


@pytest.mark.slow
def test_from_python_boxes_are_those_of_the_rows(detector, prepared_boxes, tmp_path):
    folder = prepared_boxes / "pictures" / "test"
    done = CliRunner().invoke(app, ["predict", str(folder), "--model", str(detector), "--json", "--quiet"])
    model = fxcli.load(detector, quiet=True)
    said = model.predict(folder)
    assert [each.row for each in said] == [json.loads(line) for line in done.stdout.splitlines()]
    assert any(each.boxes for each in said)
    (tmp_path / "no.png").write_bytes(b"no picture")
    for options in ({"sets": True}, {"heat_maps": True}, {"score": 5}):
        with pytest.raises(UsageError):
            model.predict(folder, **options)
    (none,) = model.predict(tmp_path / "no.png", score=0.1)
    assert (none.row["status"], none.boxes, none.label) == ("error", [], None)
    assert none.reason
