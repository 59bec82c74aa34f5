"""Pictures to pretrain on, a recipe on them, and what runs it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pretraining import BYOL_OPTIONS, CPU, RECIPE

from fxcli.data.manifest import Row, read_manifest, write_manifest
from fxcli.data.preprocess import Clean
from fxcli.recipe.load import load
from fxcli.recipe.schema import PretrainRecipe
from fxcli.run import directory
from fxcli.training import pretrain


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """24 drawn training pictures and 6 for validation, wider than high, in a folder with a manifest."""
    folder = tmp_path_factory.mktemp("drawn")
    rng, rows = np.random.default_rng(0), []
    for number in range(30):
        clouds = Image.fromarray(rng.integers(40, 200, (4, 6), dtype=np.uint8))
        picture = clouds.resize((64, 44), Image.Resampling.BICUBIC)
        x, y = rng.integers(10, 40, 2)
        ImageDraw.Draw(picture).line((x, y, x + 20, y - 20 * (number % 2)), fill=255, width=4)
        picture.save(folder / f"{number}.png")
        split = "train" if number < 24 else "val"
        rows.append(Row(path=f"{number}.png", label=("flat", "steep")[number % 2], split=split))
    write_manifest(folder / "manifest.csv", rows)
    text = json.dumps({"clean": asdict(Clean(prepared_px=64))})
    (folder / "fingerprint.json").write_text(text, encoding="utf-8")
    return read_manifest(folder / "manifest.csv")


@pytest.fixture
def recipe_of(demo_zoo, manifest):
    """Writes and loads a recipe on those pictures: recipe_of("simclr", "train.epochs=3")."""

    def make(method, *sets):
        options = BYOL_OPTIONS if method == "byol" else "options: {embedding_dim: 16}"
        text = RECIPE.format(manifest=manifest.file, method=method, options=options)
        Path("pre.yaml").write_text(text, encoding="utf-8")
        return load("pre.yaml", sets).recipe

    return make


@pytest.fixture
def go(demo_zoo, manifest):
    """Pretrains: a new run, or with `run` the rest of that one."""

    def train(recipe: PretrainRecipe, run=None, *, compute=CPU, manifest=manifest):
        resume, run = run is not None, run or directory.create("pre", {}, out=None)
        info = {"task": "pretrain", "backbone": recipe.model.backbone, "model": recipe.model.model_dump(mode="json")}
        return run, pretrain.train(recipe, manifest, compute, demo_zoo, info, run, resume=resume)

    return train
