"""`fx evaluate` with detectors: figures, rows, comparisons, and the pictures beside them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from boxed import fx, rows_of

from fxcli.commands import evaluate_boxes
from fxcli.run import checkpoint
from fxcli.run.files import sha256_of


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
    done = fx(
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
    names = [f"model-{sha256_of(Path(name, 'model.safetensors'))[:8]}" for name in ("a", "b")]
    assert f"{names[1]} against {names[0]}: AP50" in done.stdout
    assert done.stdout.count(names[1]) == 2


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
