"""`fx predict` with a detector: rows, outlines and COCO, alone and beside a classifier; and `fx evaluate`."""

import csv
import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import fxcli
from fxcli.cli import app
from fxcli.commands import evaluate_boxes
from fxcli.data.read import read
from fxcli.errors import UnreadableImage, UsageError
from fxcli.run import checkpoint
from fxcli.run.directory import Run


def fx(*arguments, code=0, **more):
    done = CliRunner().invoke(app, [str(each) for each in arguments], **more)
    assert done.exit_code == code, done.output
    return done


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture(scope="session")
def found_folder(tmp_path_factory, demo_zoo, prepared_boxes):
    """A detector that knows where the bars are."""
    folder = tmp_path_factory.mktemp("detector")
    recipe = folder / "where.yaml"
    recipe.write_text(
        "task: detect\n"
        f"data: {{manifest: '{prepared_boxes / 'manifest.csv'}', workers: 0, image_size_px: 96}}\n"
        "model: {backbone: demo_tiny, init: random}\n"
        "detect: {options: {channels: 32, finest_stride: 4}}\n"
        "optim: {lr: 3e-3, clip_norm: 5.0}\n"
        "train: {epochs: 10, batch_size: 4, ema: 0.9}\n"
    )
    fx("train", recipe, "--out", folder / "run", "--quiet")
    return folder / "run"


@pytest.fixture
def detector(found_folder):
    shutil.copytree(found_folder, "runs/where")
    return Path("runs/where")


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


# --- evaluate ---


@pytest.mark.slow
def test_evaluate_gives_what_training_gave(detector):
    info = json.loads((detector / "run.json").read_text())
    done = fx("evaluate", detector, "--split", "val", "--json")
    result = json.loads(done.stdout)
    for name, value in info["figures"].items():
        assert result["figures"][name]["value"] == pytest.approx(value), name
    assert result["figures"]["n"] == 12
    assert result["figures"]["n_positive"] == 6
    written = json.loads((detector / "evaluation/val.json").read_text())
    assert written == result
    rows = rows_of((detector / "predictions/val.csv").read_text())
    assert len(rows) == 12
    assert "look" not in result


@pytest.mark.slow
def test_evaluate_keeps_what_is_found_and_no_picture(detector, monkeypatch):
    real, kept = evaluate_boxes._measured, []
    monkeypatch.setattr(evaluate_boxes, "_measured", lambda *asked: kept.append(real(*asked)) or kept[-1])
    fx("evaluate", detector, "--split", "val", "--quiet")
    assert [(told.cleaned, told.found is None) for _, _, told, _ in kept[0].lines] == [(None, False)] * 12


@pytest.mark.slow
def test_a_look_at_the_test_part_is_noted(detector):
    first = json.loads(fx("evaluate", detector, "--json").stdout)
    again = json.loads(fx("evaluate", detector, "--json").stdout)
    assert again["look"] == first["look"] + 1


@pytest.mark.slow
def test_evaluate_by_a_column(detector):
    result = json.loads(fx("evaluate", detector, "--split", "val", "--by", "label", "--json").stdout)
    broken, none = result["by"]["label"]["broken"], result["by"]["label"]["none"]
    assert (broken["n"], none["n"]) == (6, 6)
    assert none["ap50"] is None
    assert broken["ap50"]["value"] > 0


@pytest.mark.slow
def test_what_metadata_alone_tell_stands_beside_the_detector(detector, prepared_boxes):
    shutil.copytree(prepared_boxes, "own")
    lines = Path("own/manifest.csv").read_text().splitlines()
    # A column that gives the boxed ones away.
    hardware = ["hardware", *(str(int(",broken," in line)) for line in lines[1:])]
    Path("own/manifest.csv").write_text("".join(f"{a},{b}\n" for a, b in zip(lines, hardware, strict=True)))
    asked = ["evaluate", detector, "--data", "own/manifest.csv", "--split", "val", "--by", "hardware", "--by", "label"]
    result = json.loads(fx(*asked, "--json").stdout)
    assert result["metadata"]["columns"] == ["hardware"]
    assert (result["metadata"]["n_learnt"], result["metadata"]["auroc"]["value"]) == (24, 1.0)
    assert result["by"]["hardware"]["1"]["metadata_auroc"] is None
    shown = fx(*asked).stdout
    assert "without any picture, hardware alone reach an AUROC of 1.000" in " ".join(shown.split())
    assert "metadata" not in json.loads(fx("evaluate", detector, "--split", "val", "--json").stdout)


@pytest.mark.slow
def test_evaluate_shows_a_table(detector):
    done = fx("evaluate", detector, "--split", "val")
    assert "AP50" in done.stdout
    assert "sensitivity at" in done.stdout


def test_evaluate_refuses_a_mixture(detector, trained):
    assert "detectors and classifiers" in fx("evaluate", detector, trained.path, code=2).stderr
    for options in (["--split", "oof"], ["--study", "group"], ["--tta", "flips"], ["--engine", "openvino"]):
        assert "detector" in fx("evaluate", detector, *options, code=2).stderr


def test_evaluate_by_a_source_that_lists_more_classes(detector, prepared_boxes):
    shutil.copytree(prepared_boxes, "own")
    file = Path("own/boxes.coco.json")
    content = json.loads(file.read_text())
    content["categories"].append({"id": 99, "name": "implant"})
    file.write_text(json.dumps(content))
    plain, more = (
        json.loads(fx("evaluate", detector, "--split", "val", "--json", *data).stdout)["figures"]["ap50"]
        for data in ((), ("--data", "own/manifest.csv"))
    )
    assert plain == more


def test_evaluate_needs_boxes(detector, prepared):
    done = fx("evaluate", detector, "--data", prepared / "manifest.csv", code=4)
    assert "no boxes beside this manifest" in done.stderr


@pytest.mark.slow
def test_two_detectors_are_compared(detector):
    shutil.copytree(detector, "runs/other")
    lines = [
        json.loads(line)
        for line in fx("evaluate", detector, "runs/other", "--split", "val", "--json").stdout.splitlines()
    ]
    (comparison,) = [line["comparison"] for line in lines if "comparison" in line]
    assert comparison["metric"] == "ap50"
    assert comparison["difference"]["value"] == 0


@pytest.mark.slow
def test_detectors_of_one_name_do_not_overwrite_each_other(detector, prepared_boxes):
    for name, score in (("a", 1), ("b", 2)):
        Path(name).mkdir()
        tensors, header = checkpoint.load_model_file(detector / "model.safetensors")
        checkpoint.save_model_file(Path(name, "model.safetensors"), tensors, {**header, "seed": score})
    fx(
        "evaluate",
        "a/model.safetensors",
        "b/model.safetensors",
        "--data",
        prepared_boxes / "manifest.csv",
        "--split",
        "val",
        "--out",
        "o",
    )
    assert len(list(Path("o").glob("*/evaluation/*.json"))) == 2


@pytest.mark.slow
def test_a_part_without_boxes_can_be_compared(detector, prepared_boxes):
    shutil.copytree(prepared_boxes, "copy")
    content = json.loads(Path("copy/boxes.coco.json").read_text())
    content["annotations"] = []
    Path("copy/boxes.coco.json").write_text(json.dumps(content))
    shutil.copytree(detector, "runs/other")
    for more in ([], ["--json"]):
        fx("evaluate", detector, "runs/other", "--data", "copy/manifest.csv", "--split", "val", *more)


def test_the_detector_with_a_failed_row_is_the_one_that_is_named(detector, prepared_boxes, monkeypatch):
    from fxcli.inference.detected import Finder

    shutil.copytree(detector, "runs/other")
    real, started = Finder.over, []

    def failing(self, paths):
        started.append(self)
        for number, found in enumerate(real(self, paths)):
            unread = replace(found, found=None, reason="gone", cleaned=None)
            yield unread if number == 0 and len(started) == 1 else found

    monkeypatch.setattr(Finder, "over", failing)
    done = fx("evaluate", detector, "runs/other", "--split", "val", code=9)
    assert str(Path(detector) / "predictions" / "val.csv") in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_an_unreadable_picture_has_a_row_and_no_figure(detector, prepared_boxes):
    from fxcli.data.manifest import read_manifest

    shutil.copytree(prepared_boxes, "copy")
    manifest = read_manifest(Path("copy/manifest.csv"))
    for row in manifest.part("val"):
        if row.label == "none":
            manifest.path_of(row).write_bytes(b"nothing")
    done = fx(
        "evaluate",
        detector,
        "--data",
        "copy/manifest.csv",
        "--split",
        "val",
        "--by",
        "label",
        "--out",
        "o",
        "--json",
        code=9,
    )
    result = json.loads(done.stdout)
    assert (result["n_failed"], result["figures"]["n"]) == (6, 6)
    assert list(result["by"]["label"]) == ["broken"]
    (file,) = Path("o/predictions").glob("*.csv")
    rows = rows_of(file.read_text())
    assert [row["status"] for row in rows].count("error") == 6
    assert all(row["reason"] for row in rows if row["status"] == "error")


def test_evaluate_notices_other_boxes(found_folder, prepared_boxes):
    shutil.copytree(found_folder, "runs/where")
    info = json.loads(Path("runs/where/run.json").read_text())
    shutil.copytree(prepared_boxes, "copy")
    info["manifest"] = str(Path("copy/manifest.csv").resolve())
    Path("runs/where/run.json").write_text(json.dumps(info))
    content = json.loads(Path("copy/boxes.coco.json").read_text())
    content["annotations"].pop()
    Path("copy/boxes.coco.json").write_text(json.dumps(content))
    assert "the boxes were changed since training" in fx("evaluate", "runs/where", "--split", "val", code=4).stderr


@pytest.mark.slow
def test_true_boxes_beside_pictures_stay(detector, prepared_boxes):
    shutil.copytree(prepared_boxes, "copy")
    before = Path("copy/boxes.coco.json").read_bytes()
    fx("predict", "copy", "--model", detector, "--boxes", "copy")
    assert Path("copy/boxes.coco.json").read_bytes() == before


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
