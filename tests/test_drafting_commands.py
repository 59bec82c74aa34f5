"""`fx recipe new` and `fx train FOLDER`: from a folder of pictures to a recipe, and to a run."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.commands import drafting
from fxcli.data.drafting import Means
from fxcli.recipe.load import load
from fxcli.run.directory import all_runs
from fxcli.training import dry

# Of the estimate of one phase.
ROW = {"phase": "main", "epochs": 1, "images_per_s": 1.0, "minutes": 1.0, "memory_mib": None}


def fx(*arguments, code=0):
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == code, done.output
    return done


@pytest.fixture
def tiny(demo_zoo, monkeypatch):
    """A drafted recipe takes the demo's backbone, at random."""
    means = Means(demo_zoo.backbone("demo_tiny"), "random", "it is tiny", has_gpu=False)
    monkeypatch.setattr(drafting, "_means", lambda: means)


@pytest.fixture
def raw():
    """my pictures/: two classes of drawn pictures."""
    rng = np.random.default_rng(0)
    for label in ("bent", "straight"):
        Path("my pictures", label).mkdir(parents=True)
        for number in range(12):
            clouds = Image.fromarray(rng.integers(0, 255, (6, 5), dtype=np.uint8))
            clouds.resize((70, 90), Image.Resampling.BICUBIC).save(Path("my pictures", label, f"{number}.png"))
    return Path("my pictures")


def test_a_drafted_recipe_goes_to_stdout_and_loads(prepared, tiny):
    done = fx("recipe", "new", prepared, "--no-estimate")
    Path("mine.yaml").write_text(done.stdout, encoding="utf-8")
    recipe = load("mine.yaml").recipe
    assert recipe.model.backbone == "demo_tiny"
    assert Path(recipe.data.manifest) == prepared / "manifest.csv"
    assert "minutes" not in done.stdout


def test_the_estimate_is_of_all_trainings(prepared, tiny, monkeypatch):
    monkeypatch.setattr(dry, "run", lambda training: [{"minutes": 4.0}, {"minutes": 6.0}])
    second = fx("recipe", "new", prepared).stdout.splitlines()[1]
    assert second.startswith("# about 50 minutes on this machine, without validation")


def test_as_json_it_is_the_text_and_what_will_run(prepared, tiny, monkeypatch):
    monkeypatch.setattr(dry, "run", lambda training: [{"minutes": 4.0}, {"minutes": 6.0}])
    found = json.loads(fx("recipe", "new", prepared, "--json").stdout)
    assert found["minutes"] == 50.0
    assert found["yaml"] == fx("recipe", "new", prepared).stdout
    Path("mine.yaml").write_text(found["yaml"], encoding="utf-8")
    assert found["recipe"] == load("mine.yaml").recipe.model_dump(mode="json")
    without = json.loads(fx("recipe", "new", prepared, "--no-estimate", "--json").stdout)
    assert without["minutes"] is None
    assert without["recipe"] == found["recipe"]


def test_a_raw_folder_is_not_prepared_by_recipe_new(raw, tiny):
    done = fx("recipe", "new", raw, code=4)
    assert "was not prepared" in done.stderr
    assert "fx prepare 'my pictures' makes one; or all in one go: fx train 'my pictures'" in done.stderr


@pytest.mark.slow
def test_a_folder_of_pictures_is_prepared_and_trained_on(raw, tiny):
    sets = ["--set", "phases.head.train.epochs=1", "--set", "phases.deep.train.epochs=1", "--set", "ensemble.folds=2"]
    sets += ["--set", "data.workers=0", "--set", "data.image_size_px=32"]
    done = fx("train", raw, *sets)
    file = Path("prepared/my_pictures/train.yaml")
    assert "made for these pictures" in done.stderr
    assert load(file).recipe.name == "my_pictures"
    ((_, info),) = list(all_runs())
    assert info["status"] == "finished"
    assert info["recipe"] == "my_pictures"
    # A second time, with a recipe that was changed.
    text = file.read_text(encoding="utf-8").replace("folds: 5", "folds: 3")
    file.write_text(text, encoding="utf-8")
    done = fx("train", raw, *sets[:4], "--dry-run")
    assert "as they were prepared; fx prepare 'my pictures' --overwrite does it again" in done.stderr
    assert "as it stands there" in done.stderr
    assert file.read_text(encoding="utf-8") == text
    assert "3 trainings" in done.stderr


@pytest.mark.slow
def test_other_pictures_of_the_same_name_are_refused(raw, tiny):
    fx("prepare", raw)
    Path("elsewhere").mkdir()
    shutil.copytree(raw, Path("elsewhere", raw.name))
    done = fx("train", Path("elsewhere", raw.name), code=4)
    assert "was prepared of other pictures" in done.stderr
    again = shlex.quote(str(Path("elsewhere", raw.name)))
    assert f"fx prepare {again} --out prepared/OTHER" in done.stderr
    assert not Path("prepared/my_pictures/train.yaml").exists()


def test_from_elsewhere_the_pictures_beside_the_recipe_are_meant_or_none(prepared, tiny, monkeypatch):
    named = Path("prepared", "mine")
    shutil.copytree(prepared, named)
    folder = named.resolve()
    file = folder / "train.yaml"
    file.write_text(fx("recipe", "new", named, "--no-estimate").stdout, encoding="utf-8")
    # Other pictures lie there under the path that the recipe names.
    shutil.copytree(folder, Path("elsewhere", named))
    monkeypatch.chdir("elsewhere")
    done = fx("train", folder, "--dry-run", code=4)
    assert f"{file}: its data.manifest, " in done.stderr
    assert f"--set data.manifest={folder / 'manifest.csv'} takes the one beside it" in done.stderr
    asked = []
    monkeypatch.setattr(dry, "estimate", lambda recipe, manifest: asked.append(manifest.root) or ([ROW], 1))
    fx("train", folder, "--dry-run", "--set", f"data.manifest={folder / 'manifest.csv'}")
    fx("train", file, "--dry-run")
    assert [root.resolve() for root in asked] == [folder, named.resolve()]


def test_a_folder_called_like_a_recipe_is_ambiguous(tiny):
    Path("final").mkdir()
    done = fx("train", "final", code=2)
    assert "is a folder here, and a recipe of fx" in done.stderr
    assert "fx train ./final for the folder" in done.stderr
    assert "no picture found here" in fx("train", "./final", code=4).stderr


def test_the_backbone_is_that_of_best_where_its_weights_are_here(demo_zoo, monkeypatch):
    found = drafting._means()
    assert found.spec.name == load("best").recipe.model.backbone
    assert found.init == "imagenet"
    monkeypatch.setattr("fxcli.model.init.at_hand", lambda source: "somewhere else")
    assert drafting._means().spec.name == "resnet50"


@pytest.mark.slow
def test_a_changed_recipe_outlives_preparing_again(raw, tiny):
    fx("prepare", raw)
    file = Path("prepared/my_pictures/train.yaml")
    file.write_text("mine\n", encoding="utf-8")
    fx("prepare", raw, "--overwrite")
    assert file.read_text(encoding="utf-8") == "mine\n"


def test_a_run_is_not_taken_for_pictures(trained):
    done = fx("train", trained.path, code=2)
    assert f"fx train --resume {trained.path} goes on with it" in done.stderr
