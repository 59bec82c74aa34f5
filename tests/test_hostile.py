"""Files that were made to do harm: they run nothing, lead nowhere, and take neither memory nor time."""

import json
import os
import pickle
import shutil
import time
from pathlib import Path

import pytest
import torch
from harmful import LIMIT_MIB, SOON_S, fx
from peaks import peak_of

from fxcli.data.manifest import read_manifest
from fxcli.errors import DataError, RecipeError, RunError
from fxcli.recipe.load import load
from fxcli.run import ledger
from fxcli.run.directory import Run, all_runs


@pytest.fixture
def soon():
    started = time.monotonic()
    yield
    assert time.monotonic() - started < SOON_S


# --- code ---


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("trace"),)


@pytest.fixture(params=["pickle", "torch"])
def pickled(request):
    """A file that runs code where it is unpickled."""
    file = Path("evil.pth")
    if request.param == "torch":
        torch.save({"head.weight": Evil()}, file)
    else:
        file.write_bytes(pickle.dumps({"head.weight": Evil()}))
    yield file
    assert not Path("trace").exists()
    pickle.loads(pickle.dumps(Evil()))
    assert Path("trace").exists(), "it would have been"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["evil.pth", "model.safetensors", "evil.onnx", "evil.openvino"])
def test_a_pickle_is_no_model(pickled, prepared, name):
    pickled.rename(name) if name != pickled.name else None
    for command in (["predict", prepared / "pictures", "--model", name], ["cam", prepared, "--model", name]):
        done = fx(*command, *(["--out", "out"] if command[0] == "cam" else []))
        assert done.exit_code == 6, done.output


def test_a_pickle_is_no_start_of_a_training(pickled, tiny_recipe):
    tiny_recipe()
    done = fx("train", "tiny.yaml", "--set", f"model.init={pickled.absolute()}")
    assert done.exit_code == 6
    assert "not a model file of fx" in done.stderr


def test_a_pickle_is_no_resume_state(trained, pickled):
    trained.update(status="interrupted")
    shutil.copy(pickled, trained.state_file)
    done = fx("train", "--resume", trained.path)
    assert done.exit_code == 6
    assert "not a model file of fx" in done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "seed: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [trace]]",
        "seed: !!python/object/new:os.system ['touch trace']",
        "model: {backbone: \"__import__('os').system('touch trace')\"}",
        "model: {backbone: 'timm:hf-hub:evil/model'}",
        "name: '$(touch trace)'",
        "name: ../evil",
        "extends: |\n  $(touch trace)",
    ],
)
def test_a_recipe_runs_nothing(text):
    Path("r.yaml").write_text(f"data: {{source: phantom}}\n{text}\n")
    assert fx("recipe", "check", "r.yaml").exit_code == 3
    assert fx("train", "r.yaml").exit_code == 3
    assert os.listdir() == ["r.yaml"]


def test_weights_come_from_no_address_of_a_recipe(tiny_recipe):
    tiny_recipe()
    done = fx("train", "tiny.yaml", "--set", "model.init='https://evil.invalid/weights.safetensors'")
    assert done.exit_code == 3
    assert "unknown weights" in done.stderr


# --- places ---


@pytest.fixture
def outside(tmp_path_factory):
    """A folder of somebody else's, which must stay as it is and unread."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "recipe.yaml").write_text("seed: 7\n")
    (folder / "secret.json").write_text('{"password": "secret"}')
    (folder / "lines.jsonl").write_text("mine\n")
    yield folder
    assert sorted(os.listdir(folder)) == ["lines.jsonl", "recipe.yaml", "secret.json"]
    assert (folder / "lines.jsonl").read_text() == "mine\n"


@pytest.mark.parametrize("how", ["absolute", "dots", "link"])
def test_extends_leads_nowhere_else(outside, how):
    name = {
        "absolute": str(outside / "recipe.yaml"),
        "dots": os.path.relpath(outside / "recipe.yaml"),
        "link": "linked.yaml",
    }[how]
    Path("linked.yaml").symlink_to(outside / "recipe.yaml")
    Path("r.yaml").write_text(f"extends: '{name}'\n")
    with pytest.raises(RecipeError, match="leads out of the recipe's folder and of this one"):
        load("r.yaml")
    Path("s.yaml").write_text(f"task: study\ndata: {{a: a.csv}}\nruns: {{a: {{recipe: '{name}'}}}}\n")
    with pytest.raises(RecipeError, match="leads out of the recipe's folder and of this one"):
        load("s.yaml")


def test_extends_beside_the_recipe_and_here_is_fine(outside, monkeypatch):
    Path("sub").mkdir()
    Path("base.yaml").write_text("data: {source: phantom}\nseed: 3\n")
    Path("sub/r.yaml").write_text("extends: ../base.yaml\n")
    assert load("sub/r.yaml").recipe.seed == 3
    assert load(Path("sub/r.yaml").absolute()).recipe.seed == 3
    monkeypatch.chdir("sub")
    with pytest.raises(RecipeError, match="leads out"):
        load("r.yaml")


@pytest.mark.parametrize("results", ["/tmp/evil", "../evil", "a/../../evil", "C:/evil", "a\\..\\..\\evil", "a\0b"])
def test_a_study_writes_nowhere_else(results):
    study = {"task": "study", "data": {"a": "a.csv"}, "runs": {"a": {"recipe": "final"}}, "results": results}
    Path("s.yaml").write_text(json.dumps(study))
    with pytest.raises(RecipeError, match="must lie in the current folder"):
        load("s.yaml")


@pytest.fixture
def folder(prepared):
    shutil.copytree(prepared, "own")
    return Path("own")


def first(folder):
    manifest = read_manifest(folder / "manifest.csv")
    return manifest.path_of(manifest.rows[0])


def refused(folder, message):
    with pytest.raises(DataError, match=message) as caught:
        read_manifest(folder / "manifest.csv").fingerprint()
    assert caught.value.exit_code == 4
    assert "secret" not in str(caught.value)


def test_a_picture_that_is_a_link_to_elsewhere(folder, outside):
    picture = first(folder)
    picture.unlink()
    picture.symlink_to(outside / "secret.json")
    refused(folder, "1 of 48 pictures lie elsewhere")


def test_a_folder_that_is_a_link_to_elsewhere(folder, outside):
    shutil.move(folder / "pictures", "there")
    (folder / "pictures").symlink_to(Path("there").absolute())
    refused(folder, "48 of 48 pictures lie elsewhere")


def test_a_fingerprint_that_is_a_link_to_elsewhere(folder, outside, tiny_recipe):
    (folder / "fingerprint.json").unlink()
    (folder / "fingerprint.json").symlink_to(outside / "secret.json")
    refused(folder, "a link that leaves the folder")
    tiny_recipe()
    done = fx("train", "tiny.yaml", "--set", f"data.manifest={folder / 'manifest.csv'}", "--out", "runs/x")
    assert done.exit_code == 4
    assert not Path("runs").exists()


@pytest.mark.parametrize("target", ["loop", "dangling", "/dev/zero", "pipe", "folder"])
def test_pictures_that_are_no_files(folder, target, soon):
    picture = first(folder)
    picture.unlink()
    if target == "pipe":
        os.mkfifo(picture)
    elif target == "folder":
        picture.mkdir()
    else:
        picture.symlink_to({"loop": picture.name, "dangling": "gone.png"}.get(target, target))
    refused(folder, "1 of 48 pictures are not there")


def test_links_within_the_folder_and_to_all_of_it_are_fine(folder):
    picture = first(folder)
    picture.rename(folder / "kept.png")
    picture.symlink_to((folder / "kept.png").absolute())
    Path("link").symlink_to("own")
    assert len(read_manifest(Path("link/manifest.csv")).rows) == 48


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_looks_are_written_into_no_other_file(folder, trained, outside, kind, soon):
    file = folder / ledger.NAME
    file.unlink(missing_ok=True)  # of another test
    file.symlink_to(outside / "lines.jsonl") if kind == "link" else os.mkfifo(file)
    done = fx("evaluate", trained.path, "--data", folder / "manifest.csv", "--quiet")
    assert done.exit_code == 0, done.output
    assert "this look at the test part cannot be noted beside the manifest" in done.stderr


def test_a_log_is_written_into_no_other_file(trained, outside):
    trained.update(status="interrupted")
    (trained.path / "log.txt").unlink()
    (trained.path / "log.txt").symlink_to(outside / "lines.jsonl")
    trained.metrics_file.unlink()
    trained.metrics_file.symlink_to(outside / "lines.jsonl")
    trained.state_file.unlink()
    done = fx("train", "--resume", trained.path)
    assert done.exit_code == 6
    assert "log.txt: cannot be written to: not a plain file" in done.stderr


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../evil", "C:\\evil", "..", ".", "-rf", "=cmd"])
def test_labels_are_names_of_classes(folder, name):
    file = folder / "manifest.csv"
    file.write_text(file.read_text().replace(",class_0,", f',"{name}",'))
    refused(folder, "only letters, digits")


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"status": "running"}', '{"status": "running", "manifest": 3}'])
def test_a_run_json_that_is_damaged(trained, text):
    (trained.path / "run.json").write_text(text)
    for command in (["train", "--resume"], ["evaluate"]):
        done = fx(*command, trained.path)
        assert done.exit_code == 6, done.output
    assert fx("runs").exit_code == 0


def test_a_run_json_without_end(trained, soon):
    with (trained.path / "run.json").open("wb") as handle:
        handle.truncate(1 << 40)
    with pytest.raises(RunError, match="too large"):
        trained.info()
    assert list(all_runs()) == []


# --- memory and time ---


@pytest.mark.parametrize("how", ["sparse", "field", "cells"])
def test_a_manifest_without_end(how):
    file = Path("manifest.csv")
    file.write_text("path,label,split\n")
    if how == "sparse":
        with file.open("r+b") as handle:
            handle.truncate(1 << 40)
    else:
        with file.open("a") as handle:
            handle.write("x" * 200_000 + ",a,train\n" if how == "field" else "a," * 2_000_000 + "\n")
    peak, said = peak_of("from fxcli.data.manifest import read_manifest; read_manifest(Path(sys.argv[1]))", file)
    assert said.startswith("DataError")
    assert peak < LIMIT_MIB


def test_more_classes_than_there_are(folder):
    file = folder / "manifest.csv"
    header, *rows = file.read_text().splitlines()
    one = rows[0].split(",")
    lines = [",".join([f"pictures/{number}.png", f"c{number}", *one[2:]]) for number in range(1001)]
    file.write_text("\n".join([header, *lines]))
    refused(folder, "more than 1000 classes")


SIZE = 60_000
BOMBS = {
    "laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{b}: &{b} [*{a},*{a},*{a}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)),
    "list": "data: {workers: [" + "1," * (SIZE // 2) + "1]}",
    "keys": "\n".join(f"k{number}: 1" for number in range(SIZE // 9)),
    "deep": "a: " + "{a: " * 99 + "1" + "}" * 99,
    "deeper": "a: " + "{" * SIZE,
    "dashes": "- " * (SIZE // 2),
    "indented": "\n".join(" " * number + "a:" for number in range(300)),
    "phases": "phases:\n" + "\n".join(f" a{number}: {{optim: {{lrx: 1}}}}" for number in range(SIZE // 32)),
    "number": "train: {epochs: " + "9" * 4000 + "}",
    "digits": "train: {epochs: " + "9" * (SIZE - 100) + "}",
    "name": "? " + "x" * SIZE + "\n: 1",
    "runs": "task: study\ndata: {a: b}\nruns:\n" + "\n".join(f" r{n}: {{recipe: final}}" for n in range(SIZE // 25)),
    "overrides": "task: study\ndata: {a: b}\nruns: {a: {recipe: final}}\nset: {"
    + ",".join(f"k{number}.b: 1" for number in range(4000))
    + "}",
    "size": "a: " + "x" * (64 << 10),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_recipes_that_grow(name):
    Path("r.yaml").write_text(BOMBS[name])
    started = time.process_time()
    with pytest.raises(RecipeError) as caught:
        load("r.yaml")
    assert time.process_time() - started < SOON_S
    assert len(str(caught.value)) < 2 * SIZE
    assert len(caught.value.problems) <= 60


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_recipes_that_grow_take_no_memory(name):
    Path("r.yaml").write_text(BOMBS[name])
    peak, said = peak_of("from fxcli.recipe.load import load; load('r.yaml')")
    assert said.startswith("RecipeError")
    assert peak < LIMIT_MIB


def test_a_state_of_another_kind(trained):
    trained.update(status="interrupted")
    shutil.copy(trained.model_file, trained.state_file)
    done = fx("train", "--resume", Run(trained.path).path)
    assert done.exit_code == 6
    assert "this is a model file, not a state file" in done.stderr
