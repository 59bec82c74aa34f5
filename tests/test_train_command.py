import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.data.manifest import read_manifest, write_manifest
from fxcli.model.hardware import Compute
from fxcli.model.init import Origin
from fxcli.recipe.load import load
from fxcli.run import checkpoint
from fxcli.run.directory import Run
from fxcli.training import job, loop
from fxcli.zoo.plugins import load_zoo


def fx(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def said(*arguments):
    """On one line."""
    done = fx(*arguments)
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_a_run_holds_what_the_design_promises(trained):
    names = {path.relative_to(trained.path).as_posix() for path in trained.path.rglob("*") if path.is_file()}
    assert names >= {
        "run.json",
        "recipe.yaml",
        "manifest.csv",
        "fingerprint.json",
        "metrics.jsonl",
        "log.txt",
        "model.safetensors",
        "checkpoints/last/state.safetensors",
        "checkpoints/best/model.safetensors",
    }
    assert "lock.json" not in names
    info = trained.info()
    assert info["status"] == "finished"
    assert info["recipe"] == "tiny"
    assert info["argv"] is not None
    assert info["versions"]["torch"]
    assert info["plugins"]["fx"]
    assert info["compute"]["threads"] >= 1
    assert set(info["figures"]) >= {"accuracy", "macro_f1", "confusion"}
    assert not [name for name in names if name.endswith((".pt", ".pth", ".pkl"))]


def test_what_to_do_next_is_a_command_that_works(tiny_recipe, prepared):
    """Without a test part nothing can be evaluated but what chose the epoch, which another line names."""
    tiny_recipe("train.epochs=1")
    told = said("train", "tiny.yaml", "--out", "runs/a")
    assert "next: fx evaluate runs/a or fx predict FOLDER --model runs/a" in told
    whole = read_manifest(prepared / "manifest.csv")
    without = [row for row in whole.rows if row.split != "test"]
    write_manifest(prepared / "without.csv", without)
    sets = ("--set", f"data.manifest={prepared / 'without.csv'}")
    assert "next: fx predict FOLDER --model runs/b" in said("train", "tiny.yaml", *sets, "--out", "runs/b")


def test_the_resolved_recipe_alone_reproduces_the_run(trained):
    done = fx("train", trained.path / "recipe.yaml", "--out", "runs/again", "--quiet")
    assert done.exit_code == 0, done.output
    again = Run(Path("runs/again"))
    assert again.model_file.stat().st_size > 0
    assert "validation part (with intervals: fx evaluate runs/again --split val)" in " ".join(done.stdout.split())
    assert again.info()["figures"] == trained.info()["figures"]
    assert again.info()["recipe_sha256"] == trained.info()["recipe_sha256"]


@pytest.mark.slow
def test_a_leaking_manifest_is_told(tiny_recipe, prepared):
    tiny_recipe()
    quick = ("--set", "train.epochs=1", "--quiet")
    done = fx("train", "tiny.yaml", *quick, "--out", "runs/clean")
    assert "share a group" not in done.stderr
    assert Run(Path("runs/clean")).info()["straddling_test"] == 0
    with (prepared / "manifest.csv").open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    groups = [row["group"] for row in rows if row["split"] == "train"]
    for part, leaked in (("test", groups[:2]), ("val", groups[2:5])):
        for row, group in zip((row for row in rows if row["split"] == part), leaked, strict=False):
            row["group"] = group
    leaking = prepared / "leaking.csv"
    with leaking.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    done = fx("train", "tiny.yaml", "--set", f"data.manifest='{leaking}'", *quick, "--out", "runs/leaking")
    leaking.unlink()
    assert done.exit_code == 0, done.output
    assert "warning: 2 of 12 test pictures share a group with a picture that is learnt from" in done.stderr
    assert "warning: 3 of 12 val pictures share a group with a picture that is learnt from" in done.stderr
    assert Run(Path("runs/leaking")).info()["straddling_test"] == 2


def test_json_names_the_run_and_its_figures(tiny_recipe):
    tiny_recipe()
    done = fx("train", "tiny.yaml", "--set", "train.epochs=1", "--json", "--quiet")
    record = json.loads(done.stdout)
    assert Path(record["model"]).is_file()
    assert 0 <= record["validation"]["accuracy"] <= 1


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 2, "no recipe"),
        (["tiny.yaml", "--resume", "x"], 2, "takes nothing else"),
        (["phantom"], 2, "prepares pictures"),
        (["nothing.yaml"], 3, "no such file"),
        (["tiny.yaml", "--set", "optim.lr=fast"], 3, "optim.lr"),
        (["tiny.yaml", "--set", "model.backbone=resnet51"], 3, "did you mean resnet50"),
        (["tiny.yaml", "--set", "data.manifest=gone.csv"], 4, "no such manifest"),
        (["tiny.yaml", "--set", "hardware.device=cuda:99"], 2, "--set hardware.device=cpu always works"),
        (["--resume", "gone"], 6, "no such run directory"),
    ],
)
def test_mistakes(tiny_recipe, arguments, code, text):
    tiny_recipe()
    done = fx("train", *arguments)
    assert done.exit_code == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_weights_that_cannot_be_downloaded(tiny_recipe, monkeypatch):
    tiny_recipe()
    # Nothing listens on the discard port: refused at once, like a machine without a network.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    done = fx("train", "tiny.yaml", "--set", "model.backbone=resnet18", "--set", "model.init=imagenet")
    assert done.exit_code == 7
    assert "resnet18" in done.stderr
    assert next(Path("runs").iterdir()).joinpath("run.json").read_text().count('"failed"') == 1


def test_an_out_in_use_is_refused_and_left_alone(trained, tiny_recipe):
    before = (trained.path / "run.json").read_text()
    done = fx("train", "tiny.yaml", "--out", trained.path)
    assert done.exit_code == 6
    assert "in use" in done.stderr
    assert (trained.path / "run.json").read_text() == before


def test_dry_run_estimates_and_writes_nothing(tiny_recipe):
    tiny_recipe(phases="phases: {a: {}, b: {train: {epochs: 5}}}")
    done = fx("train", "tiny.yaml", "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    phases = json.loads(done.stdout)["phases"]
    assert [(phase["phase"], phase["epochs"]) for phase in phases] == [("a", 2), ("b", 5)]
    assert all(phase["images_per_s"] > 0 and phase["minutes"] > 0 for phase in phases)
    assert not Path("runs").exists()
    assert "peak memory" in fx("train", "tiny.yaml", "--dry-run").stderr


def test_dry_run_knows_that_max_minutes_ends_a_training(tiny_recipe):
    tiny_recipe(phases="phases: {warm: {}, tune: {}}")
    sets = ["--set", "train.epochs=100000", "--set", "train.max_minutes=0.25"]
    done = fx("train", "tiny.yaml", "--dry-run", "--json", *sets)
    assert done.exit_code == 0, done.output
    assert [row["minutes"] for row in json.loads(done.stdout)["phases"]] == [0.25, 0.0]
    told = "train.max_minutes ends the training in phase "
    assert done.stderr.count(told) == done.stderr.count(f"{told}warm, whose 100000 epochs take ") == 1
    done = fx("train", "tiny.yaml", "--dry-run", "--set", "train.max_minutes=999")
    assert "max_minutes" not in done.stderr


def test_dry_run_takes_no_out_and_knows_a_phase_of_one_step(tiny_recipe):
    tiny_recipe()
    assert fx("train", "tiny.yaml", "--dry-run", "--out", "x").exit_code == 2
    done = fx("train", "tiny.yaml", "--dry-run", "--set", "train.batch_size=64")
    assert done.exit_code == 0, done.output


def test_a_dry_run_refuses_what_a_training_would(tiny_recipe):
    tiny_recipe()
    sets = ["model.backbone=resnet18", "data.image_size_px=32", "train.batch_size=23"]
    options = [part for setting in sets for part in ("--set", setting)]
    for more in ([], ["--dry-run"]):
        done = fx("train", "tiny.yaml", *options, *more)
        assert done.exit_code == 3, done.output
        assert "leave a last one of a single picture" in done.stderr


def test_a_folder_of_others_is_not_taken_for_the_phantoms(tiny_recipe, prepared):
    Path("prepared").mkdir()
    Path("prepared/phantom").symlink_to(prepared)
    tiny_recipe()
    done = fx("train", "tiny.yaml", "--set", "data.manifest=null", "--set", "data.source=phantom")
    assert done.exit_code == 4
    assert "other pictures than the phantoms" in done.stderr


def test_a_linked_manifest_keeps_its_pictures(tiny_recipe, prepared):
    shutil.copytree(prepared, "linked")
    tiny_recipe()
    Path("store").mkdir()
    Path("store/content").write_bytes((prepared / "manifest.csv").read_bytes())
    Path("linked/manifest.csv").unlink()
    Path("linked/manifest.csv").symlink_to(Path("store/content").absolute())
    done = fx("train", "tiny.yaml", "--set", "data.manifest=linked/manifest.csv", "--out", "runs/linked", "--quiet")
    assert done.exit_code == 0, done.output
    assert fx("evaluate", "runs/linked", "--quiet").exit_code == 0


@pytest.mark.slow
def test_folds_all_start_from_what_the_run_was_started_from(trained, monkeypatch):
    """One that was made anew meanwhile, or is gone, is told where the next fold would load it."""
    start = Run(Path("runs/start"))
    shutil.copytree(trained.path, start.path)
    real, begun = loop.train, []

    def train(training, run, *, resume):
        begun.append(run.path)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return real(training, run, resume=resume)

    monkeypatch.setattr(loop, "train", train)
    sets = ("--set", f"model.init={start.path}", "--set", "train.epochs=1", "--folds", 2)
    done = fx("train", "tiny.yaml", *sets, "--out", "runs/folds")
    assert done.exit_code == 130
    assert "36 of 36 held-out pictures were learnt from, with their labels" in done.stderr
    weights, header = checkpoint.load_model_file(start.model_file)
    checkpoint.save_model_file(start.model_file, {name: value * 2 for name, value in weights.items()}, header)
    done = fx("train", "--resume", "runs/folds")
    assert done.exit_code == 6
    assert "what model.init names changed since this run was started" in done.stderr
    start.model_file.unlink()
    done = fx("train", "--resume", "runs/folds")
    assert done.exit_code == 6
    assert "what model.init names is gone since this run was started" in done.stderr
    checkpoint.save_model_file(start.model_file, weights, header)
    assert fx("train", "--resume", "runs/folds", "--quiet").exit_code == 0


def test_what_a_run_started_from_is_recorded(trained):
    sets = ("--set", f"model.init={trained.path}", "--set", "train.epochs=1")
    assert fx("train", "tiny.yaml", *sets, "--out", "runs/next", "--quiet").exit_code == 0
    init = Run(Path("runs/next")).info()["init"]
    assert init["file"] == str(trained.model_file.absolute())
    assert len(init["sha256"]) == 64
    header = checkpoint.read_header(Run(Path("runs/next")).model_file)
    assert header["init_sha256"] == init["sha256"]
    assert trained.info()["init"].keys() == {"name", "input"}
    recipe = load("tiny.yaml", ["model.backbone=resnet18", "model.init=imagenet"]).recipe
    source = load_zoo().backbone("resnet18").weights["imagenet"]
    told = job.origin_of(recipe)
    assert (told.name, told.reference, told.licence) == ("imagenet", source.reference, source.licence)
    assert Origin.from_mapping(json.loads(json.dumps(told.to_mapping()))) == told


def test_a_share_of_the_training_part_is_all_that_is_learnt_from(tiny_recipe, demo_zoo, prepared, capsys):
    manifest = read_manifest(prepared / "manifest.csv")
    whole = len(manifest.part("train"))
    built = {
        frac: job.build(
            tiny_recipe(f"data.train_frac={frac}"), manifest, Compute(torch.device("cpu")), demo_zoo, {}
        ).manifest
        for frac in (0.25, 0.5, 1.0)
    }
    paths = {frac: {row.path for row in each.part("train")} for frac, each in built.items()}
    assert paths[0.25] < paths[0.5] < paths[1.0]
    assert whole / 4 <= len(paths[0.25]) < whole / 2
    assert built[0.25].part("val") == manifest.part("val")
    assert built[0.25].digest == manifest.digest
    assert (
        f"learns from {len(paths[0.25])} of {whole} pictures for training (data.train_frac)" in capsys.readouterr().err
    )
    again = job.build(
        tiny_recipe("data.train_frac=0.25", "seed=1"), manifest, Compute(torch.device("cpu")), demo_zoo, {}
    ).manifest
    assert {row.path for row in again.part("train")} != paths[0.25]


@pytest.mark.slow
def test_parts_of_a_run_in_folds_each_learn_from_their_share(tiny_recipe):
    tiny_recipe("train.epochs=1", "train.monitor=none")
    sets = ("train.epochs=1", "train.monitor=none", "data.train_frac=0.5", "ensemble.folds=2")
    arguments = [part for each in sets for part in ("--set", each)]
    done = fx("train", "tiny.yaml", *arguments, "--out", "runs/halves")
    assert done.exit_code == 0, done.output
    assert done.stderr.count("(data.train_frac)") == 2
    held_out = (Path("runs/halves") / "predictions" / "oof.csv").read_text("utf-8").splitlines()
    with Path("runs/halves/manifest.csv").open(encoding="utf-8") as rows:
        assert len(held_out) - 1 == len([row for row in csv.DictReader(rows) if row["split"] != "test"])


@pytest.mark.parametrize("init", ["x" * 5000, f"runs/{'x' * 5000}"])
def test_an_init_that_no_file_can_be_called_is_a_mistake_of_the_recipe(tiny_recipe, init):
    tiny_recipe()
    done = CliRunner().invoke(app, ["train", "tiny.yaml", "--set", f"model.init={init}"])
    assert done.exit_code == 3, done.output
    assert "space and permissions" not in done.stderr


@pytest.mark.parametrize(("size_px", "is_told"), [(96, True), (64, False)])
def test_pictures_that_are_enlarged_are_told_of(tiny_recipe, demo_zoo, prepared, capsys, size_px, is_told):
    recipe = tiny_recipe(f"data.image_size_px={size_px}")
    job.create(recipe, read_manifest(prepared / "manifest.csv"), Path("runs/large"))
    told = "warning: the pictures were prepared 64 px a side, and are enlarged to 96 px"
    assert (told in capsys.readouterr().err) == is_told
