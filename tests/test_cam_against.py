"""`fx cam --against`: heat maps held against boxes, on pictures whose bright bar is the only thing to learn."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.data.boxes import FILE
from fxcli.data.manifest import read_manifest
from fxcli.explain import faithfulness, held
from fxcli.inference.measured import members_of
from fxcli.inference.opened import open_model
from fxcli.run.directory import Run


def fx(*arguments, code=0):
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == code, done.output
    return done


def lines(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="session")
def bars_run(tmp_path_factory, demo_zoo, prepared_boxes):
    """A classifier in two folds that tells pictures with a bar from those without."""
    folder = tmp_path_factory.mktemp("bars")
    recipe = folder / "bars.yaml"
    recipe.write_text(
        f"data: {{manifest: '{prepared_boxes / 'manifest.csv'}', workers: 0, image_size_px: 96}}\n"
        "model: {backbone: demo_tiny, init: random}\n"
        "optim: {lr: 1e-2}\n"
        "ensemble: {folds: 2}\n"
        "train: {epochs: 20, batch_size: 8, monitor: none}\n"
    )
    fx("train", recipe, "--out", folder / "run", "--quiet")
    return folder / "run"


@pytest.fixture
def bars(bars_run):
    shutil.copytree(bars_run, "runs/bars")
    return Path("runs/bars")


def test_maps_of_a_model_that_looks_at_the_bar_point_at_it(bars, prepared_boxes):
    done = fx(
        "cam", "--against", prepared_boxes / FILE, "--model", bars, "--target", "broken", "--split", "test", "--json"
    )
    found = {(line["method"], line["stage"]): line for line in lines(done)}
    assert set(found) == {
        (method, stage) for method in ("gradcam", "gradcam++", "layercam") for stage in ("stem", "body")
    }
    best = max(found.values(), key=lambda line: line["energy"]["value"])
    assert best["energy_lift"]["low"] > 1
    assert "look 1 at this test part" in done.stderr
    for line in found.values():
        assert line["n"] == 6
        assert line["cells"] == {"stem": 24, "body": 12}[line["stage"]]
        assert 0 <= line["pointing"]["low"] <= line["pointing"]["value"] <= line["pointing"]["high"] <= 1
        assert set(line["rank_correlation"]) == {"head", "all"}


def test_other_sizes_and_one_stage(bars, prepared_boxes):
    (line, *_) = lines(
        fx(
            "cam",
            "--against",
            prepared_boxes / FILE,
            "--model",
            bars,
            "--split",
            "test",
            "--size",
            192,
            "--layer",
            "body",
            "--json",
        )
    )
    assert (line["stage"], line["cells"], line["image_size_px"]) == ("body", 24, 192)


def test_a_table_for_people(bars, prepared_boxes):
    done = fx("cam", "--against", prepared_boxes / FILE, "--model", bars, "--split", "val")
    assert "layercam" in done.stdout
    assert "/ random" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("blank", "mean", "cell"), [(0, 0.25, " 0.25 "), (2, 0.25, " 0.25 (n = 4) "), (6, None, " – (n = 0) ")]
)
def test_it_is_told_how_many_pictures_a_rank_correlation_is_of(bars, prepared_boxes, monkeypatch, blank, mean, cell):
    options = ["--against", prepared_boxes / FILE, "--model", bars, "--split", "test", "--layer", "body"]
    # Of each picture: three methods, each held against two networks.
    for form in ("--json", "--quiet"):
        values = iter([float("nan")] * 6 * blank + [0.25] * 6 * (6 - blank))
        monkeypatch.setattr(faithfulness, "rank_correlation", lambda *_, values=values: next(values))
        done = fx("cam", *options, form)
        if form == "--quiet":
            assert [row.count(cell) for row in done.stdout.splitlines() if " body " in row] == [2, 2, 2]
            continue
        for line in lines(done):
            assert line["n"] == 6
            assert line["rank_correlation"] == {"head": mean, "all": mean}
            assert line["rank_correlation_n"] == {"head": 6 - blank, "all": 6 - blank}


def test_each_picture_is_explained_by_networks_that_never_saw_it(bars, prepared_boxes):
    opened = open_model(str(bars))
    manifest = read_manifest(prepared_boxes / "manifest.csv")
    rows = [row for row in manifest.rows if row.label == "broken"]
    of_fold = {}
    for fold in range(2):
        part = read_manifest(bars / f"folds/{fold}/manifest.csv", root=prepared_boxes)
        of_fold |= {row.path: fold for row in part.rows if row.split == "calibration"}
    for row, numbers in zip(rows, members_of(opened, rows), strict=True):
        assert numbers == ([0, 1] if row.split == "test" else [of_fold[row.path]])
    assert len(of_fold) == 36
    assert Run(bars).info()["status"] == "finished"


@pytest.mark.slow
def test_learnt_pictures_are_told(trained, prepared_boxes, tiny_recipe, demo_zoo):
    tiny_recipe(f"data.manifest='{prepared_boxes / 'manifest.csv'}'")
    fx(
        "train",
        "tiny.yaml",
        "--out",
        "runs/plain",
        "--quiet",
        "--set",
        f"data.manifest='{prepared_boxes / 'manifest.csv'}'",
    )
    done = fx("cam", "--against", prepared_boxes / FILE, "--model", "runs/plain", "--split", "train")
    assert "12 of these 12 pictures were learnt from" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "told", "code"),
    [
        (["x.png", "--against", "BOXES"], "no PATH beside it", 2),
        ([], "no pictures", 2),
        (["--against", "BOXES", "--out", "o"], "--against writes no pictures", 2),
        (["x.png", "--split", "val"], "goes with --against", 2),
        (["x.png", "--size", "64"], "go with --layer STAGE", 2),
        (["x.png", "--method", "layercam"], "go with --layer STAGE", 2),
        (["--against", "BOXES", "--method", "layercam"], "no --method beside it", 2),
        (["--against", "boxes.json"], "no boxes of a prepared folder", 4),
        (["--against", "BOXES", "--split", "calibration"], "no picture with boxes in split 'calibration'", 4),
        (["--against", "BOXES", "--target", "bent"], "the model has no class 'bent'", 2),
        (["--against", "BOXES", "--layer", "top"], "has no stage 'top'", 2),
        (["--against", "BOXES", "--layer", ""], "has no stage ''", 2),
    ],
)
def test_what_it_refuses(bars, prepared_boxes, options, told, code):
    Path("boxes.json").write_text("{}")
    options = [prepared_boxes / FILE if option == "BOXES" else option for option in options]
    assert told in fx("cam", *options, "--model", bars, code=code).stderr


def test_a_copy_of_a_fold_model_is_told_of(bars, prepared_boxes):
    shutil.copy(bars / "model.safetensors", "copy.safetensors")
    done = fx("cam", "--against", prepared_boxes / FILE, "--model", "copy.safetensors", "--split", "train")
    assert "nobody knows which pictures each fold held out" in done.stderr


def test_the_random_head_is_on_the_same_backbone(bars):
    holder = held.Holder.of(open_model(str(bars)), None, [])
    assert len({blank.head.weight[0, 0].item() for blank in holder.blanks}) == 5
    for member, other in zip(holder.members, holder.headless[1], strict=True):
        assert other.backbone is member.backbone
        assert other.head is holder.blanks[1].head
    assert len({id(member.backbone) for member in holder.members}) == 2


def test_an_unreadable_picture_does_not_end_it(bars, prepared_boxes):
    shutil.copytree(prepared_boxes, "copy")
    manifest = read_manifest(Path("copy/manifest.csv"))
    row = next(row for row in manifest.rows if row.label == "broken" and row.split == "test")
    manifest.path_of(row).write_bytes(b"nothing")
    done = fx("cam", "--against", f"copy/{FILE}", "--model", bars, "--split", "test", "--json", code=9)
    assert {line["n"] for line in lines(done)} == {5}
    assert row.path in done.stderr


@pytest.mark.slow
def test_a_net_of_one_size_says_so(prepared_boxes, tiny_recipe):
    sets = [
        f"data.manifest='{prepared_boxes / 'manifest.csv'}'",
        "model.backbone=timm:vit_tiny_patch16_224",
        "data.image_size_px=64",
    ]
    tiny_recipe(*sets)
    fx("train", "tiny.yaml", "--out", "runs/vit", "--quiet", *(f"--set={each}" for each in (*sets, "train.epochs=1")))
    done = fx(
        "cam", "--against", prepared_boxes / FILE, "--model", "runs/vit", "--split", "test", "--size", 128, code=2
    )
    assert "was made for pictures of 64 px, and cannot see those of 128" in done.stderr
    done = fx("cam", prepared_boxes, "--model", "runs/vit", "--layer", "blocks.11", "--size", 128, code=2)
    assert "was made for pictures of 64 px, and cannot see those of 128" in done.stderr
    assert lines(fx("cam", "--against", prepared_boxes / FILE, "--model", "runs/vit", "--split", "test", "--json"))
