"""Every recipe that comes with fx resolves, and trains two steps of each phase on tiny pictures."""

import math
import re
from pathlib import Path

import pytest
import torch

from fxcli.data.manifest import read_manifest
from fxcli.model.hardware import Compute
from fxcli.recipe.detection import DetectRecipe
from fxcli.recipe.load import difference, load, resolved_yaml, shipped
from fxcli.recipe.schema import Augment, ClassifyRecipe, PretrainRecipe
from fxcli.recipe.study import entries
from fxcli.run import directory
from fxcli.training import classify, detect, loop, pretrain, state
from fxcli.training import feed as feeds
from fxcli.training.session import Timer

FIGURES = {"baseline": 42.7, "augment": 45.3, "finetune": 48.6, "regularize": 53.6, "final": 55.0, "final_as_run": 55.0}
TASKS = {name: load(path).recipe.task for name, path in shipped().items()}


def small(name, prepared):
    sets = [
        "model.backbone=demo_tiny",
        "model.init=random",
        f"data.manifest='{prepared / 'manifest.csv'}'",
        "data.image_size_px=64",
        "data.workers=0",
    ]
    recipe = load(name).recipe
    if isinstance(recipe, DetectRecipe):
        sets += [f"phases.{phase}.train.batch_size=4" for phase in recipe.phases]
        sets += ["detect.options.channels=32"]
    if isinstance(recipe, ClassifyRecipe):
        sets += [f"phases.{phase}.train.batch_size=4" for phase in recipe.phases]
        frozen = [name for name, phase in recipe.phases.items() if phase.model.freeze.startswith("until:")]
        sets += [f"phases.{phase}.model.freeze='until:stem'" for phase in frozen]
        if recipe.evaluate.negative_class:
            sets.append("evaluate.negative_class=class_0")
    return sets


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task == "classify"])
def test_two_steps_of_each_phase(name, demo_zoo, prepared):
    sets = small(name, prepared)
    if load(name).recipe.data.source:
        sets.append("data.source=null")
    recipe = load(name, sets).recipe
    training = classify.build(
        recipe, read_manifest(Path(recipe.data.manifest)), Compute(torch.device("cpu")), demo_zoo, {}
    )
    for index, phase in enumerate(recipe.phases):
        training.place = state.Place(phase=index)
        loop.set_up(training, {})
        before = [value.clone() for value in training.model.network.parameters()]
        feed = feeds.make(training, lambda: None)
        steps = loop.steps(training, feed, Timer())
        next(steps), next(steps)
        steps.close()
        after = list(training.model.network.parameters())
        assert training.place.step == 2, phase
        assert math.isfinite(training.place.loss_sums["loss"])
        changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        learning = [value.requires_grad for value in after]
        assert any(changed)
        assert not any(moved and not learns for moved, learns in zip(changed, learning, strict=True)), phase


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task == "detect"])
def test_two_steps_of_each_phase_of_a_detector(name, demo_zoo, prepared_boxes):
    recipe = load(name, small(name, prepared_boxes)).recipe
    manifest = read_manifest(Path(recipe.data.manifest))
    training = detect.build(recipe, manifest, Compute(torch.device("cpu")), demo_zoo, {})
    for index in range(len(recipe.phases)):
        training.place = state.Place(phase=index)
        loop.set_up(training, {})
        before = [value.clone() for value in training.model.network.parameters()]
        steps = loop.steps(training, training.task.feed(training, None), Timer())
        next(steps), next(steps)
        steps.close()
        assert math.isfinite(training.place.loss_sums["loss"])
        after = training.model.network.parameters()
        assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task == "pretrain"])
def test_pretraining_runs_an_epoch(name, demo_zoo, prepared):
    sets = small(name, prepared)
    recipe = load(name, [*sets, "train.epochs=1", "schedule.warmup_epochs=0", "train.batch_size=8"]).recipe
    assert isinstance(recipe, PretrainRecipe)
    run = directory.create(name, {}, out=None)
    manifest = read_manifest(Path(recipe.data.manifest))
    info = {"task": "pretrain", "backbone": "demo_tiny"}
    found = pretrain.train(recipe, manifest, Compute(torch.device("cpu")), demo_zoo, info, run, resume=False)
    assert math.isfinite(found["loss"])
    assert run.model_file.exists()


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task == "study"])
def test_each_training_of_a_study_is_of_a_shipped_recipe_that_stands_alone(name):
    loaded = load(name)
    found = entries(loaded.recipe, loaded.runs)
    assert len(found) == len(loaded.recipe.seeds) * len(loaded.recipe.data) * len(loaded.recipe.runs)
    assert loaded.recipe.results == f"recipes/results/{name}"
    for run, about in loaded.recipe.runs.items():
        assert TASKS[about.recipe] == "classify"
        Path("alone.yaml").write_text(resolved_yaml(loaded.runs[run]), encoding="utf-8")
        assert load("alone.yaml").recipe == loaded.runs[run]


def test_the_experiments_are_all_stages_with_their_figures_and_one_backbone():
    loaded = load("experiments")
    assert {run: about.published for run, about in loaded.recipe.runs.items()} == FIGURES
    for run, about in loaded.recipe.runs.items():
        assert about.recipe == run
        changed = {".".join(key) for key, _ in difference(loaded.runs[run], load(run).recipe)}
        assert changed == {"model.backbone"}
        assert loaded.runs[run].model.backbone == "efficientnet_lite0"
    first = loaded.recipe.comparisons[0]
    assert (first.data, first.part, first.metric) == ("clean", "test", "accuracy")


@pytest.mark.parametrize("name", list(TASKS))
def test_each_begins_with_what_it_does_and_its_command(name):
    lines = shipped()[name].read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith(f"# {name} — ")
    command = "prepare" if TASKS[name] == "prepare" else "train"
    assert re.match(rf"# fx {command} (recipes/{name}\.yaml|{name})\b", lines[1]), lines[1]
    comments = [line for line in lines if line.startswith("#")]
    stated = [line for line in comments if "%" in line and "test accuracy" in line]
    assert bool(stated) == (name in FIGURES)
    if stated:
        assert f"{FIGURES[name]} %" in stated[0]
        assert "reproduce" in stated[0]


@pytest.mark.parametrize(
    ("name", "parent"),
    [("augment", "baseline"), ("finetune", "augment"), ("regularize", "finetune"), ("final", "regularize")],
)
def test_the_stages_extend_each_other(name, parent):
    assert re.search(rf"^extends: {parent}(\.yaml)?$", shipped()[name].read_text(encoding="utf-8"), re.MULTILINE)


def test_what_the_stages_promise():
    recipes = {name: load(name).recipe for name in FIGURES}
    main = {name: recipe.phases["main"] for name, recipe in recipes.items() if "main" in recipe.phases}
    assert main["baseline"].model.freeze == "all"
    assert main["baseline"].augment == Augment()
    assert main["augment"].augment.rotate_deg > 0
    assert main["augment"].augment.brightness > 0
    assert main["finetune"].model.freeze == "none"
    assert main["regularize"].model.dropout > 0
    assert main["regularize"].optim.weight_decay > 0
    final = list(recipes["final"].phases.values())
    assert [phase.optim.name for phase in final] == ["adamw", "sgd"]
    assert final[0].optim.weight_decay == 1e-2
    assert final[0].schedule.name == "onecycle"
    assert all(phase.augment.mixup > 0 and phase.augment.crop_scale and phase.augment.hflip for phase in final)
    assert final[0].optim.lr < main["regularize"].optim.lr
    as_run = list(recipes["final_as_run"].phases.values())
    assert [phase.train.epochs for phase in as_run] == [30, 5, 10]
    assert {phase.train.monitor for phase in as_run} == {"none"}
