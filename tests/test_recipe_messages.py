"""What fx says of a mistake in a recipe: the place, the key as written, and what to write in its stead."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from fxcli.errors import PluginError, RecipeError
from fxcli.recipe.load import load, resolved_yaml
from fxcli.recipe.messages import likely, written
from fxcli.recipe.source import Leaf
from fxcli.zoo.plugins import load_zoo, options_of
from fxcli.zoo.specs import BackboneSpec, NoOptions, PretrainerSpec

PHANTOM = "data: {source: phantom}\n"


def problems(text, *sets, start=PHANTOM):
    Path("r.yaml").write_text(start + text, encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        load("r.yaml", sets)
    return error.value.problems


def problem(text, *sets, start=PHANTOM):
    (line,) = problems(text, *sets, start=start)
    return line


@pytest.fixture
def zoo(monkeypatch):
    """A zoo in which a test may change options."""
    from fxcli.recipe import rules

    class Zoo:
        def __init__(self):
            self.real, self.options = load_zoo(), NoOptions

        def backbone(self, name) -> BackboneSpec:
            return replace(self.real.backbone(name), options=self.options)

        def pretrainer(self, name) -> PretrainerSpec:
            return replace(self.real.pretrainer(name), options=self.options)

    zoo = Zoo()
    monkeypatch.setattr(rules, "load_zoo", lambda: zoo)
    return zoo


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int = Field(8, ge=1)
    pool: Literal["mean", "max"] = "mean"
    code: str = Field("a", pattern="^[ab]$")


# unknown keys


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optim: {lrr: 1}", "optim.lrr: unknown key — did you mean lr?"),
        ("optim:\n  weight_decy: 1", "optim.weight_decy: unknown key — did you mean weight_decay?"),
        ("augment: {rotate: 5}", "augment.rotate: unknown key — did you mean rotate_deg?"),
        ("augmnt:\n  hflip: 1", "augmnt: unknown key — did you mean augment?"),
        ("extend: final", "extend: unknown key — did you mean extends?"),
        ("model: {freez: all}", "model.freez: unknown key — did you mean freeze?"),
        ("train: {extends: final}", "train.extends: unknown key here — 'extends' belongs in the top level"),
        ("optim:\n  dropout: 0.5", "optim.dropout: unknown key here — 'dropout' belongs in model"),
        ("lr: 1", "lr: unknown key here — 'lr' belongs in optim"),
        ("optim: {batch_size: 4}", "optim.batch_size: unknown key here — 'batch_size' belongs in evaluate or train"),
        ("train: {name: x}", "train.name: unknown key here — 'name' belongs in optim or schedule or the top level"),
        ("start: last", "start: unknown key here — 'start' belongs in a phase"),
        ("train: {augment: {hflip: 1}}", "train.augment: unknown key here — 'augment' belongs in the top level"),
        (
            "split: {val_frac: 0.1}",
            "split: unknown key here — 'split' belongs in data.columns or the top level of a recipe with task: prepare",
        ),
        (
            "optim: {val_frac: 1}",
            "optim.val_frac: unknown key here — 'val_frac' belongs in split of a recipe with task: prepare",
        ),
        (
            "train: {method: x}",
            "train.method: unknown key here — 'method' belongs in pretrain of a recipe with task: pretrain",
        ),
        (
            "train: {patient: x}",
            "train.patient: unknown key here — 'patient' belongs in data.columns of a recipe with task: prepare",
        ),
        ("phases: {a: {data: {workers: 1}}}", "phases.a.data: unknown key here — 'data' belongs in the top level"),
        (
            "phases: {a: {model: {backbone: x}}}",
            "phases.a.model.backbone: unknown key here — 'backbone' belongs in model",
        ),
        ("phases: {a: {optm: {lr: 1}}}", "phases.a.optm: unknown key — did you mean optim?"),
        ("hardware: {zzz: 1}", "hardware.zzz: unknown key; allowed here: device, precision, channels_last, threads"),
        (
            "evaluate: {'': 1}",
            "evaluate.: unknown key; allowed here: batch_size, coverage, per_class_sets, negative_class",
        ),
    ],
)
def test_unknown_keys(text, expected):
    line = 2 + text.partition(":\n  ")[0].count("\n")
    line += "\n" in text and "augmnt" not in text  # the key that is told stands one line below its section
    assert problem(text) == f"r.yaml:{line}: {expected}"


def test_a_key_of_another_task_in_a_pretraining():
    start = "task: pretrain\ndata: {source: phantom}\n"
    assert problem("train: {patience: 1}", start=start) == (
        "r.yaml:3: train.patience: unknown key here — 'patience' belongs in train of a recipe with task: classify"
    )
    assert problem("model: {dropout: 0.5}", start=start).endswith("belongs in model of a recipe with task: classify")
    assert problem("phases: {a: {}}", start=start).endswith("the top level of a recipe with task: classify")


# values


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optim: {lr: '1e-4'}", 'optim.lr: "1e-4" is not a number: take the quotes away: 1e-4'),
        ("train: {epochs: '30'}", 'train.epochs: "30" is not a whole number: take the quotes away: 30'),
        ("train: {epochs: many}", 'train.epochs: "many" is not a whole number'),
        ("train: {epochs: 1_000}", 'train.epochs: "1_000" is not a whole number'),
        (
            "data: {source: phantom, image_size_px: 224 px}",
            'data.image_size_px: "224 px" is not a whole number: write the number alone, in pixels',
        ),
        (
            "augment: {rotate_deg: 15deg}",
            'augment.rotate_deg: "15deg" is not a number: write the number alone, in degrees',
        ),
        ("augment: {rotate_deg: 15°}", 'augment.rotate_deg: "15°" is not a number: write the number alone, in degrees'),
        ("train: {max_minutes: 5 min}", 'train.max_minutes: "5 min" is not a number: write the number alone'),
        (
            "train: {save_every_min: 5min}",
            'train.save_every_min: "5min" is not a number: write the number alone, in minutes',
        ),
        (
            "schedule: {step_epochs: 3 e}",
            'schedule.step_epochs: "3 e" is not a number: write the number alone, in epochs',
        ),
        (
            "augment: {hflip: 10%}",
            'augment.hflip: "10%" is not a number: write the number alone; where it is a fraction, 0.1',
        ),
        (
            "augment: {translate_frac: 15}",
            "augment.translate_frac: 15 must be less than or equal to 1; it is a fraction, not a percentage: "
            "15 % is 0.15",
        ),
        ("augment: {translate_frac: 150}", "augment.translate_frac: 150 must be less than or equal to 1"),
        ("augment: {translate_frac: -1}", "augment.translate_frac: -1 must be greater than or equal to 0"),
        ("optim: {lr: 0}", "optim.lr: 0 must be greater than 0"),
        ("optim: {momentum: 15}", "optim.momentum: 15 must be less than 1"),
        ("optim: {name: adam}", 'optim.name: "adam" must be adamw or sgd or lars — did you mean adamw?'),
        ("optim: {name: zzz}", 'optim.name: "zzz" must be adamw or sgd or lars'),
        (
            "schedule: {name: onecyle}",
            'schedule.name: "onecyle" must be onecycle or cosine or step or constant — did you mean onecycle?',
        ),
        (
            "schedule: {name: [step]}",
            'schedule.name: ["step"] must be onecycle or cosine or step or constant — did you mean step?',
        ),
        ("model: {freeze: until}", 'model.freeze: "until" must be none, all or until:<stage>'),
        ("hardware: {device: gpu}", 'hardware.device: "gpu" must be auto, cpu, mps, cuda or cuda:<number>'),
        ("hardware: {threads: " + "1" * 80 + "}", f"hardware.threads: {'1' * 59}… must be less than or equal to 1024"),
    ],
)
def test_values(text, expected):
    start = "" if text.startswith("data") else PHANTOM
    assert problem(text, start=start) == f"r.yaml:{1 + bool(start)}: {expected}"


def test_a_key_without_its_unit():
    assert problem("split: {val: 0.1}", start="task: prepare\n").endswith("unknown key — did you mean val_frac?")


def test_a_percentage_for_a_fraction():
    line = problem("split:\n  val_frac: 15\n", start="task: prepare\n")
    assert line == "r.yaml:3: split.val_frac: 15 must be less than 1; it is a fraction, not a percentage: 15 % is 0.15"


# all at once, each once


def test_all_problems_at_once_each_at_its_place():
    text = """\
optim:
  lr: fast
  weight_decay: -1
train:
  epochs: 3.5
augmnt: {}
phases:
  a:
    optim: {momentum: 2}
  b: {}
  c: {train: {epochs: 0}}
"""
    assert set(problems(text)) == {
        'r.yaml:3: optim.lr: "fast" is not a number',
        "r.yaml:4: optim.weight_decay: -1 must be greater than or equal to 0",
        "r.yaml:6: train.epochs: 3.5 is not a whole number",
        "r.yaml:7: augmnt: unknown key — did you mean augment?",
        "r.yaml:10: phases.a.optim.momentum: 2 must be less than 1",
        "r.yaml:12: phases.c.train.epochs: 0 must be greater than or equal to 1",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optim: {lr: x}", 'r.yaml:3: optim.lr: "x" is not a number'),
        ("optim: {lrr: x}", "r.yaml:3: optim.lrr: unknown key — did you mean lr?"),
        ("optim: {foo: {a: 1, b: {c: 2}}}", "r.yaml:3: optim.foo: unknown key; allowed here: name, lr, weight_decay"),
        ("optim: 5", "r.yaml:3: optim: 5 is not a mapping"),
        ("model: {freeze: 'until:x'}", "r.yaml:3: model.freeze: resnet50 has no stage 'x'; it has stem, layer1,"),
        (
            "train: {monitor: none, patience: 3}",
            "r.yaml:3: train.patience: early stopping needs train.monitor, which is none",
        ),
    ],
)
def test_what_every_phase_takes_from_the_top_is_told_once(text, expected):
    assert problem(text, start=PHANTOM + "phases: {a: {start: last}, b: {}, c: {augment: {hflip: 1}}}\n").startswith(
        expected
    )


def test_the_message_counts_and_names_the_recipe():
    Path("r.yaml").write_text(PHANTOM + "seed: -1\nname: a b\n", encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        load("r.yaml")
    assert str(error.value).splitlines()[0] == "2 problems in recipe r.yaml"
    assert all(line.startswith("  r.yaml:") for line in str(error.value).splitlines()[1:])


# keys that depend on each other


def test_a_recipe_needs_one_source_of_pictures():
    wanted = "data: needs either manifest, which fx prepare writes, or source: phantom"
    assert problem("seed: 1", start="") == f"r.yaml: {wanted}"
    assert problem("data:\n  workers: 1", start="") == f"r.yaml:1: {wanted}"
    assert problem("data:\n  manifest: m.csv\n  source: phantom", start="") == (
        f"r.yaml:1: {wanted}; set the other to null"
    )


def test_patience_and_monitor_at_the_place_of_patience():
    text = "train: {monitor: none}\nphases:\n  a: {}\n  b:\n    train:\n      patience: 2\n"
    expected = "r.yaml:7: phases.b.train.patience: early stopping needs train.monitor, which is none"
    assert problem(text) == expected
    assert problem("train: {monitor: none}", "train.patience=2").startswith("--set: train.patience: early")


# names that plugins register


def test_an_unknown_backbone_with_its_place_and_all_known():
    line = problem("model:\n  backbone: resnet5\n")
    assert line.startswith("r.yaml:3: model.backbone: unknown backbone 'resnet5' — did you mean resnet50 or resnet18?")
    assert "\n    known: " in line
    assert line.endswith("\n    → fx plugins lists everything that is installed")
    assert problem("", "model.backbone=x").startswith("--set: model.backbone: unknown backbone 'x'\n")


def test_an_unknown_backbone_is_told_with_the_rest():
    lines = problems("model: {backbone: nope}\ntrain: {monitor: none, patience: 1}\n")
    assert [line.partition(": ")[0] for line in lines] == ["r.yaml:3", "r.yaml:2"]


def test_an_unknown_init():
    expected = "'imagnet' is no run or model file, and no weight key of resnet50: random, imagenet, "
    line = problem("model: {init: imagnet}")
    assert line.startswith(f"r.yaml:2: model.init: {expected}")
    assert line.endswith(" — did you mean imagenet? (a run is named by its path, like runs/imagnet)")
    Path("run").mkdir()
    Path("r.yaml").write_text(PHANTOM + "model: {init: run}", encoding="utf-8")
    assert load("r.yaml").recipe.model.init == "run"
    Path("run").rmdir()
    assert problem("model: {init: run}")
    assert load("r.yaml", check_init=False).recipe.model.init == "run"


def test_an_init_that_no_file_can_be_called():
    """The system says so, which is no matter of the disk."""
    long = "x" * 5000
    assert f"'{long}' is no run or model file" in problem(f"model: {{init: {long}}}")
    assert "is no run or model file" in problem('model: {init: "a\\0b"}')


@pytest.mark.parametrize("init", ["runs/gone", "../other/runs/gone", "C:\\runs\\gone", "gone.safetensors"])
def test_a_path_of_model_init_is_looked_at_when_the_network_starts(init):
    Path("r.yaml").write_text(PHANTOM + f"model: {{init: '{init}'}}", encoding="utf-8")
    assert load("r.yaml").recipe.model.init == init


def test_best_after_a_phase_without_a_monitor():
    expected = "phases.b.start: train.monitor of phase a is none, so it has no best epoch; write last"
    text = "phases:\n  a: {train: {monitor: none}}\n  b: {start: best}\n"
    assert problem(text) == f"r.yaml:4: {expected}"
    silent = "phases:\n  a: {train: {monitor: none}}\n  b: {}\n  c: {}\n"
    assert problem(silent, "phases.b.start=best") == f"--set: {expected}"
    recipe = load_with(silent)
    assert [phase.start for phase in recipe.phases.values()] == ["best", "last", "best"]
    Path("resolved.yaml").write_text(resolved_yaml(recipe), encoding="utf-8")
    assert load("resolved.yaml").recipe == recipe
    assert load_with("train: {monitor: none}\nphases: {a: {start: best}, b: {start: last}}\n")


@pytest.mark.parametrize(("start", "at"), [(PHANTOM, "phases.main."), ("task: pretrain\n" + PHANTOM, "")])
def test_onecycle_has_no_other_warm_up(start, at):
    text = "schedule:\n  name: onecycle\n  warmup_epochs: 2\n"
    line = 4 + (start != PHANTOM)
    found = problem(text, start=start)
    assert found.startswith(f"r.yaml:{line}: ")
    assert found.endswith(
        "schedule.warmup_epochs: onecycle rises by itself, over schedule.pct_start of the steps; set 0"
    )
    assert load_with(text.replace("2", "0"), start)


@pytest.mark.parametrize(("start", "at"), [(PHANTOM, "phases.main."), ("task: pretrain\n" + PHANTOM, "")])
def test_a_warm_up_ends_before_the_training(start, at):
    text = "schedule: {name: cosine, warmup_epochs: 3}\n"
    found = problem(text, "train.epochs=3", start=start)
    assert found.endswith(
        "schedule.warmup_epochs: the rate would rise over all 3 of train.epochs and never reach optim.lr; set less"
    )
    assert load_with(text, start).name == "r"


@pytest.mark.parametrize("value", ["a #b", "#b", "[a, b] # c", "1 # one"])
def test_set_refuses_what_yaml_would_cut(value):
    line = problem("", f"name={value}")
    assert line.startswith(f"--set name={value}: what follows # would be a comment; put the value in quotes: name=")


@pytest.mark.parametrize("value", ["'a #b'", '"a #b"', "a#b"])
def test_set_takes_a_hash_in_quotes(value):
    Path("r.yaml").write_text("task: prepare\n", encoding="utf-8")
    recipe = load("r.yaml", [f"data.source={value}"]).recipe
    assert recipe.data.source == value.strip("'\"")


def test_an_unknown_stage():
    line = problem("phases:\n  a: {}\n  b:\n    model: {freeze: 'until:layr2'}\n")
    assert line == (
        "r.yaml:5: phases.b.model.freeze: resnet50 has no stage 'layr2'; it has stem, layer1, layer2, layer3, layer4"
        " — did you mean layer2?"
    )


def test_options_of_a_backbone(zoo):
    assert problem("model: {options: {width: 3}}") == ("r.yaml:2: model.options.width: unknown key; allowed here: none")
    zoo.options = Options
    assert load_with("model: {options: {width: 3}}").model.options == {"width": 3}
    assert problem("model: {options: {widht: 3}}") == "r.yaml:2: model.options.widht: unknown key — did you mean width?"
    assert problem("model:\n  options:\n    dropout: 3") == (
        "r.yaml:4: model.options.dropout: unknown key here — 'dropout' belongs in model"
    )
    assert set(problems("model: {options: {width: x, pool: men, code: c}}")) == {
        'r.yaml:2: model.options.width: "x" is not a whole number',
        'r.yaml:2: model.options.pool: "men" must be mean or max — did you mean mean?',
        'r.yaml:2: model.options.code: "c" must be like ^[ab]$',
    }
    assert problem("", "model.options.width=0") == ("--set: model.options.width: 0 must be greater than or equal to 1")


def test_options_whose_model_is_broken_are_told_as_the_plugins(zoo):
    class Broken(BaseModel):
        width: int = 3

        @field_validator("width")
        @classmethod
        def odd(cls, width):
            raise TypeError("never even")

    zoo.options = Broken
    with pytest.raises(PluginError, match=r"Broken failed to validate options: TypeError: never even"):
        load_with("model: {options: {width: 3}}")
    with pytest.raises(PluginError, match="never even"):
        options_of(Broken, {"width": 3}, "model.options")


def load_with(text, start=PHANTOM):
    Path("r.yaml").write_text(start + text, encoding="utf-8")
    return load("r.yaml").recipe


def test_options_and_name_of_a_pretrainer(zoo):
    start = "task: pretrain\n" + PHANTOM
    zoo.options = Options
    assert load_with("pretrain: {options: {width: 2}}\nmodel: {options: {width: 2}}", start).pretrain.options == {
        "width": 2
    }
    assert problem("pretrain: {options: {zzz: 3}}", start=start) == (
        "r.yaml:3: pretrain.options.zzz: unknown key; allowed here: width, pool, code"
    )
    line = problem("pretrain: {method: simclrr}", start=start)
    assert line.startswith("r.yaml:3: pretrain.method: unknown pretrainer 'simclrr' — did you mean simclr?")


# the parts


def test_written_tells_what_the_user_wrote():
    origins = {
        ("seed",): Leaf(1, "r.yaml", ("seed",), (1,)),
        ("phases", "a", "optim", "lr"): Leaf(1, "r.yaml", ("optim", "lr"), (2, 3)),
        ("phases", "b", "optim", "lr"): Leaf(1, "r.yaml", ("phases", "b", "optim", "lr"), (4, 5, 6, 7)),
    }
    for key, expected in {
        "seed": "r.yaml:1: seed",
        "data.workers": "x: data.workers",
        "phases.a.optim.lr": "r.yaml:3: optim.lr",
        "phases.a.optim": "r.yaml:2: optim",
        "phases.a.optim.momentum": "r.yaml:2: optim.momentum",
        "phases.a.train.epochs": "r.yaml:4: phases.a.train.epochs",
        "phases.b": "r.yaml:5: phases.b",
        "phases.b.optim": "r.yaml:6: phases.b.optim",
        "phases.b.train.epochs": "r.yaml:5: phases.b.train.epochs",
        "phases.b.optim.lr.0": "r.yaml:7: phases.b.optim.lr.0",
    }.items():
        assert written(tuple(key.split(".")), origins, "x") == expected
    assert written((), {}, "x") == "x"


def test_likely():
    assert likely("lr", ["lrs", "xyz"]) == " — did you mean lrs?"
    assert likely("layer", ["layer1", "layer2", "later5"]) == " — did you mean layer2 or layer1?"
    assert likely("extend", ["seed", "extends"]) == " — did you mean extends?"
    assert likely("nothing", ["lr"]) == ""
    assert likely("nothing", []) == ""
