"""Files that were changed at random: each is used or refused with an error of fx, within a time limit.

A few hundred cases run by default, more than 10,000 with the slow tests; the same ones every time.
"""

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from fuzzing import MANY, ODD_BYTES, ODD_TEXT, amounts, changed, fuzz, one_of, with_odd_values
from hypothesis import strategies as st

from fxcli.data.manifest import read_manifest
from fxcli.errors import ModelFileError
from fxcli.inference.opened import open_model
from fxcli.model.hardware import Compute
from fxcli.recipe.load import load, shipped
from fxcli.recipe.tasks import TASKS
from fxcli.run import checkpoint, directory
from fxcli.training import classify, loop, session, state


def test_the_slow_tests_try_ten_thousand():
    assert sum(MANY.values()) >= 10_000


# --- recipes ---


@pytest.mark.slow
@amounts("recipe")
def test_recipes(count):
    seeds = [file.read_text(encoding="utf-8") for file in shipped().values()]

    def use(text):
        Path("r.yaml").write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
        load("r.yaml")

    ends = fuzz(count, one_of(seeds, ODD_TEXT), use)
    assert set(ends) == {"used", "RecipeError"}


@pytest.mark.slow
@amounts("values")
def test_values_in_recipes(count):
    complete = [load(name).recipe.model_dump(mode="json") for name in ("quickstart", "pretrain_simclr", "experiments")]
    assert {recipe["task"] for recipe in complete} < set(TASKS)

    def use(recipe):
        Path("r.yaml").write_text(json.dumps(recipe), encoding="utf-8")
        load("r.yaml")

    fuzz(count, st.sampled_from(complete).flatmap(with_odd_values), use)


# The ends of what a recipe may say, and beyond.
EXTREMES = {
    "data.cache": ("none", "memory", "disk"),
    "data.resize": ("letterbox", "squash", "crop"),
    "augment.hflip": (1,),
    "augment.rotate_deg": (180, 1e-300),
    "augment.translate_frac": (1,),
    "augment.scale": ("[0.001, 0.001]", "[1000, 1000]", "[0.001, 1000]", "[1e-300, 1]"),
    "augment.shear_deg": (89.999999,),
    "augment.brightness": (1,),
    "augment.contrast": (1,),
    "augment.elastic": (1e-300, 1000),
    "augment.crop_scale": ("[0.001, 0.001]", "[1, 1]"),
    "augment.erase": (1,),
    "augment.erase_scale": ("[0.001, 0.001]", "[1, 1]"),
    "augment.mixup": (1e-300, 1000),
    "augment.cutmix": (1e-300, 1000),
    "model.freeze": ("all", "until:stem"),
    "model.bn": ("eval",),
    "model.dropout": (0.9999999999,),
    "optim.name": ("adamw", "sgd"),
    "optim.lr": (1e-300, 1e300, 1e38),
    "optim.weight_decay": (1e300,),
    "optim.momentum": (0, 0.9999999999),
    "optim.head_lr_mult": (1e-300, 1e300),
    "optim.layer_decay": (1e-300,),
    "optim.clip_norm": (1e-300, 1e300),
    "schedule.name": ("onecycle", "cosine", "step", "constant"),
    "schedule.warmup_epochs": (1e-300, 1e6),
    "schedule.pct_start": (1e-300, 0.9999999999),
    "schedule.div_factor": (1, 1e300),
    "schedule.final_div_factor": (1, 1e300),
    "schedule.step_epochs": (1e-300, 1e6),
    "schedule.gamma": (1e-300,),
    "train.batch_size": (1, 23, 65_536),
    "train.accumulate": (5, 65_536),
    "train.loss": ("focal",),
    "train.focal_gamma": (0, 1e-300, 100),
    "train.label_smoothing": (0.9999999999,),
    "train.class_weights": ("balanced",),
    "train.sampler": ("balanced",),
    "train.ema": (1e-300, 0.9999999999),
    "train.monitor": ("none", "val_loss"),
    "train.patience": (1,),
    "train.save_every_min": (1e-300, 1e6),
    "train.max_minutes": (1e-300, 1e9),
    "evaluate.batch_size": (1, 1024),
    "evaluate.coverage": (1e-300, 0.9999999999),
    "ensemble.fold_seed": (2**63 - 1,),
    "seed": (2**63 - 1,),
}


@pytest.mark.slow
@amounts("training", few=8)
def test_trainings_of_extremes(count, demo_zoo, tiny_recipe, prepared):
    manifest = read_manifest(prepared / "manifest.csv")
    keys = sorted(EXTREMES)
    one = st.sampled_from(keys).flatmap(lambda key: st.tuples(st.just(key), st.sampled_from(EXTREMES[key])))
    whole = load("quickstart").recipe.model_dump(mode="json")
    assert {key.partition(".")[0] for key in keys} <= {*whole, *whole["phases"]["main"]}

    def use(chosen):
        recipe = tiny_recipe("train.epochs=1", *(f"{key}={value}" for key, value in chosen))
        training = classify.build(recipe, manifest, Compute(torch.device("cpu")), demo_zoo, {"task": "classify"})
        training.workers = 0
        run = directory.create("tiny", {"created": "now"}, out=None)
        try:
            loop.train(training, run, resume=False)
        finally:
            shutil.rmtree(run.path)

    ends = fuzz(count, st.lists(one, min_size=1, max_size=5), use)
    assert set(ends) <= {"used", "RecipeError", "RunError"}
    assert ends["used"] > count / 4


# --- manifests ---


@amounts("manifest")
def test_manifests(count, prepared):
    shutil.copytree(prepared, "own")
    lines = (prepared / "manifest.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    few = "".join(lines[:4])

    def use(text):
        file = Path("own/manifest.csv")
        file.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
        found = read_manifest(file)
        assert all(found.path_of(row).resolve().is_relative_to(Path("own").resolve()) for row in found.rows)

    ends = fuzz(count, changed(few, ODD_TEXT), use)
    assert set(ends) == {"used", "DataError"}


# --- model files ---


@pytest.fixture
def parts(trained):
    """Header and data of a model file."""
    content = trained.model_file.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def written(header, data):
    raw = json.dumps(header).encode("utf-8", "surrogatepass")
    Path("m.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + data)


@amounts("header")
def test_headers_of_model_files(count, parts, prepared):
    whole, data = parts
    header = json.loads(whole["__metadata__"]["fx"])
    del header["content_sha256"]
    picture = next((prepared / "pictures" / "test").rglob("*.png"))

    def use(changed_header):
        written(whole | {"__metadata__": {"fx": json.dumps(changed_header)}}, data)
        list(open_model("m.safetensors").pipeline.run([picture]))

    ends = fuzz(count, with_odd_values(header), use)
    # The last one is of answers that a mean of 1e300 makes infinite.
    assert set(ends) <= {"used", "ModelFileError", "RunError"}


@amounts("bytes")
def test_bytes_of_model_files(count, parts, trained):
    content = trained.model_file.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    # Changed weights are other weights; what is fuzzed is where they are said to lie.
    head, rest = content[: 8 + size], content[8 + size :]

    def use(changed_head):
        Path("m.safetensors").write_bytes(changed_head + rest)
        open_model("m.safetensors")

    ends = fuzz(count, changed(head, ODD_BYTES), use)
    assert set(ends) <= {"used", "ModelFileError"}


@amounts("state")
def test_places_of_resume_states(count, trained, tiny_recipe):
    recipe = tiny_recipe()
    place = checkpoint.load_state(trained.state_file)[1]["place"]

    def use(changed_place):
        session.take_over(state.Place(), {"place": changed_place}, recipe, Path("state.safetensors"))

    ends = fuzz(count, with_odd_values(place), use)
    assert ends.keys() <= {"used", ModelFileError.__name__}
