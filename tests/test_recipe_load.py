"""From a file or name to a recipe: extends, phases, --set, origins, reloading."""

from itertools import pairwise
from pathlib import Path

import pytest
from written import PHANTOM, made, problems, write

from fxcli.errors import RecipeError
from fxcli.recipe import load as loading
from fxcli.recipe.load import difference, load, load_default, resolved_yaml, shipped
from fxcli.recipe.preparation import PrepareRecipe
from fxcli.recipe.schema import ClassifyRecipe, Phase

# finding and extending


def test_a_recipe_is_a_file_or_the_name_of_one_that_comes_with_fx():
    assert load("final").recipe.name == "final"
    assert load(shipped()["final"]) == load("final")
    write("final", "name: mine\n" + PHANTOM)
    assert load("final").recipe.name == "mine"


def test_an_unknown_recipe_is_told_with_the_likeliest():
    assert problems("finall") == [
        "no such file or folder, and no recipe of this name comes with fx — did you mean final?"
    ]
    assert problems("recipes/basline.yaml")[0].endswith("did you mean baseline?")
    assert problems("xyz") == ["no such file or folder, and no recipe of this name comes with fx"]
    Path("pictures").mkdir()
    assert problems("pictures") == ["a folder, and no recipe of this name comes with fx"]


def test_recipes_of_the_wheel_come_before_those_of_a_checkout(monkeypatch):
    write("site/fxcli/recipe/load.py")
    write("site/recipes/one.yaml")
    monkeypatch.setattr(loading, "__file__", str(Path("site/fxcli/recipe/load.py").resolve()))
    assert list(shipped()) == ["one"]
    write("site/fxcli/_recipes/two.yaml")
    assert list(shipped()) == ["two"]


def test_extends_merges_by_key_and_lists_replace():
    write("a/base.yaml", PHANTOM + "seed: 3\naugment: {hflip: 0.5, scale: [0.8, 1.2], erase: 0.1}\noptim: {lr: 1e-2}\n")
    recipe = load(write("a/b/child.yaml", "extends: ../base.yaml\naugment: {hflip: 0.1, scale: [0.9, 1.0]}\n")).recipe
    phase = recipe.phases["main"]
    assert (recipe.seed, phase.augment.hflip, phase.augment.erase, phase.augment.scale) == (3, 0.1, 0.1, (0.9, 1.0))
    assert phase.optim.lr == 1e-2


def test_extends_goes_on_over_several_files_and_names_of_fx():
    write("mine.yaml", "extends: regularize\nseed: 9\n")
    recipe = load(write("child.yaml", "extends: mine.yaml\noptim: {lr: 1e-6}\n")).recipe
    phase = recipe.phases["main"]
    assert (recipe.seed, phase.optim.lr, phase.optim.weight_decay, phase.model.dropout) == (9, 1e-6, 1e-2, 0.5)
    assert recipe.data.manifest == "prepared/bone_break/manifest.csv"


def test_a_file_beside_comes_before_a_recipe_of_fx():
    write("regularize", PHANTOM + "seed: 5\n")
    assert load(write("child.yaml", "extends: regularize\n")).recipe.seed == 5
    # As README and the recipes of fx write it, which lie beside each other.
    assert load(write("child.yaml", "extends: regularize.yaml\n")).recipe.phases["main"].optim.weight_decay == 1e-2


def test_the_name_is_not_inherited():
    write("base.yaml", "name: base_name\n" + PHANTOM)
    assert load(write("child.yaml", "extends: base.yaml\n")).recipe.name == "child"
    assert load(write("named.yaml", "extends: base.yaml\nname: other\n")).recipe.name == "other"


@pytest.mark.parametrize(("file", "name"), [("my run (2).yaml", "my_run__2_"), (".x.yaml", "x"), ("ü.yaml", "_")])
def test_a_file_name_that_is_no_name_is_made_one(file, name):
    assert load(write(file, PHANTOM)).recipe.name == name


def test_extends_in_a_circle_is_refused():
    write("a.yaml", "extends: b.yaml\n")
    write("b.yaml", "seed: 1\nextends: c/../a.yaml\n")
    Path("c").mkdir()
    assert problems("a.yaml") == ["b.yaml:2: extends runs in a circle: a.yaml → b.yaml → a.yaml"]
    assert problems(write("self.yaml", "extends: self.yaml")) == [
        "self.yaml:1: extends runs in a circle: self.yaml → self.yaml"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("extends: 3", "r.yaml:1: extends takes the name or file of one recipe"),
        ("\nextends: [a, b]", "r.yaml:2: extends takes the name or file of one recipe"),
        ("extends: {a: b}", "r.yaml: extends takes the name or file of one recipe"),
        ("extends:", "r.yaml:1: extends takes the name or file of one recipe"),
        ("extends: nothing", "r.yaml:1: extends: no recipe nothing, here or with fx"),
        ("extends: final.yml", "r.yaml:1: extends: no recipe final.yml, here or with fx — did you mean final?"),
    ],
)
def test_extends_that_leads_nowhere(text, expected):
    assert problems(write("r.yaml", text)) == [expected]


def test_errors_name_the_file_they_stand_in():
    write("sub/base.yaml", PHANTOM + "optim:\n  lr: fast\n")
    name = write("sub/child.yaml", "extends: base.yaml\nseed: -1\n")
    assert set(problems(name)) == {
        "sub/child.yaml:2: seed: -1 must be greater than or equal to 0",
        'sub/base.yaml:3: optim.lr: "fast" is not a number',
    }


def test_a_file_of_the_same_name_here_is_not_mistaken_for_a_recipe_of_fx():
    write("baseline.yaml", "seed: 7\n")
    origin = load("final").origins["data", "manifest"]
    assert Path(origin.source) == shipped()["baseline"]


# phases


def test_without_phases_there_is_one():
    for text in ("", "phases: {}\n", "phases: {main: {}}\n", "phases: {main: }\n"):
        recipe = made("optim: {lr: 1e-2}\nmodel: {dropout: 0.4}\n" + text)
        assert list(recipe.phases) == ["main"]
        assert recipe.phases["main"].optim.lr == 1e-2
        assert recipe.phases["main"].model.dropout == 0.4


def test_phases_lie_over_the_top_level_and_never_over_the_phase_before():
    recipe = made(
        "model: {drop_path: 0.1, dropout: 0.5}\n"
        "optim: {lr: 1e-2, momentum: 0.8}\n"
        "phases:\n"
        "  warm: {optim: {lr: 1e-3, weight_decay: 0.5}, model: {dropout: 0.1, freeze: all}, augment: {hflip: 1}}\n"
        "  tune: {optim: {momentum: 0.7}, start: last}\n"
    )
    warm, tune = recipe.phases["warm"], recipe.phases["tune"]
    assert list(recipe.phases) == ["warm", "tune"]
    assert (warm.optim.lr, warm.optim.momentum, warm.optim.weight_decay) == (1e-3, 0.8, 0.5)
    assert (tune.optim.lr, tune.optim.momentum, tune.optim.weight_decay) == (1e-2, 0.7, Phase().optim.weight_decay)
    assert (warm.model.dropout, warm.model.freeze, warm.augment.hflip) == (0.1, "all", 1)
    assert (tune.model.dropout, tune.model.freeze, tune.augment.hflip) == (0.5, "none", 0)
    assert (warm.start, tune.start, recipe.model.drop_path) == ("best", "last", 0.1)


def test_phases_of_both_files_merge_by_name():
    write("base.yaml", PHANTOM + "phases: {a: {optim: {lr: 1e-2, momentum: 0.5}}, b: {train: {epochs: 2}}}\n")
    child = write("child.yaml", "extends: base.yaml\nphases: {c: {}, a: {optim: {lr: 1e-3}}, b: {}}\n")
    phases = load(child).recipe.phases
    assert list(phases) == ["a", "b", "c"]
    assert (phases["a"].optim.lr, phases["a"].optim.momentum, phases["b"].train.epochs) == (1e-3, 0.5, 2)


def test_what_the_phases_of_the_other_file_override_is_refused_unless_it_is_said_again():
    name = write("child.yaml", "extends: final\noptim: {lr: 3e-4}\ntrain: {epochs: 3}\n")
    assert problems(name) == [
        "child.yaml:2: optim.lr: phase warm and tune overrides this key; "
        "set phases.warm.optim.lr or phases.tune.optim.lr",
        "child.yaml:3: train.epochs: phase warm and tune overrides this key; "
        "set phases.warm.train.epochs or phases.tune.train.epochs",
    ]
    write("base.yaml", PHANTOM + "phases: {a: {optim: {lr: 1e-2}}, b: {}}\n")
    text = "extends: base.yaml\noptim: {lr: 0.5}\n"
    assert problems(write("child.yaml", text)) == [
        "child.yaml:2: optim.lr: phase a overrides this key; set phases.a.optim.lr"
    ]
    recipe = load(write("child.yaml", text + "phases: {a: {optim: {lr: 0.25}}}\n")).recipe
    assert [phase.optim.lr for phase in recipe.phases.values()] == [0.25, 0.5]


def test_final_is_as_the_design_draws_it():
    recipe = load("final").recipe
    warm, tune = recipe.phases["warm"], recipe.phases["tune"]
    assert (warm.optim.name, warm.optim.lr, warm.optim.weight_decay, warm.schedule.name) == (
        "adamw",
        5e-5,
        1e-2,
        "onecycle",
    )
    assert (tune.optim.name, tune.optim.lr, tune.optim.momentum, tune.schedule.name) == ("sgd", 1e-4, 0.9, "constant")
    assert (warm.train.epochs, tune.train.epochs, warm.augment.mixup) == (30, 10, 0.2)


# tasks


def test_the_task_chooses_the_model():
    assert isinstance(load(write("r.yaml", "task: prepare")).recipe, PrepareRecipe)
    assert isinstance(made("task: classify\n"), ClassifyRecipe)
    tasks = "classify or detect or prepare or pretrain or study"
    expected = f'r.yaml:1: task: "prepaer" must be {tasks} — did you mean prepare?'
    assert problems(write("r.yaml", "task: prepaer")) == [expected]
    expected = f"r.yaml:1: task: [1] must be {tasks}"
    assert problems(write("r.yaml", "task: [1]")) == [expected]
    assert problems(write("r.yaml", "task: {a: b}"))[0].startswith('r.yaml:1: task: {"a": "b"} must be')


def test_pictures_without_labels_take_none():
    sets = ["data.classes={a: b}", "data.columns.label=kind", "boxes={source: b.json, label: true}"]
    told = "data.labels is none, so no picture has a label; leave one out"
    file = write("r.yaml", "task: prepare\ndata: {source: x, labels: none}\n")
    assert load(file).recipe.data.labels == "none"
    for one in sets:
        with pytest.raises(RecipeError, match=told):
            load(file, [one])


def test_a_command_can_expect_a_task():
    assert load("bone_break", expect="prepare").recipe.task == "prepare"
    with pytest.raises(RecipeError, match="task is classify, not prepare") as error:
        load("final", expect="prepare")
    assert error.value.hint == "run it with: fx train final"
    with pytest.raises(RecipeError, match="task is prepare, not classify") as error:
        load("bone_break", expect="classify")
    assert error.value.hint == "run it with: fx prepare bone_break"


def test_a_recipe_of_defaults():
    loaded = load_default(["data.source=x", "split.val_frac=0.2"], name="mine")
    assert loaded.recipe.model_dump(include={"name", "task"}) == {"name": "mine", "task": "prepare"}
    assert (loaded.recipe.data.source, loaded.recipe.split.val_frac) == ("x", 0.2)
    assert loaded.origins["name",].place == "default"
    with pytest.raises(RecipeError, match=r"--set: split\.val_fraction: unknown key — did you mean val_frac\?"):
        load_default(["split.val_fraction=1"], name="mine")


# strictness


def test_a_whole_number_is_a_number_but_not_the_other_way_round():
    assert made("augment: {rotate_deg: 10}\n").phases["main"].augment.rotate_deg == 10.0
    assert problems(write("r.yaml", PHANTOM + "train: {epochs: 3.0}")) == [
        "r.yaml:2: train.epochs: 3.0 is not a whole number"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optim: {lr: true}", "optim.lr: true is not a number"),
        ("hardware: {channels_last: yes}", 'hardware.channels_last: "yes" is not true or false'),
        ("hardware: {channels_last: 1}", "hardware.channels_last: 1 is not true or false"),
        ("name: 5", "name: 5 is not text: put it in quotes"),
        ("name: true", "name: true is not text: put it in quotes"),
        ("name: [a]", 'name: ["a"] is not text'),
        ("seed: null", "seed: null is not a whole number"),
        ("augment: {scale: 1}", "augment.scale: 1 is not a list"),
        ("augment: {scale: [0.9]}", "augment.scale.1: is missing"),
        ("augment: {scale: [1, 2, 3]}", "augment.scale: [1, 2, 3] must have at most 2 items, not 3"),
        ("augment: {scale: [1.1, 0.9]}", "augment.scale: [1.1, 0.9]: the smaller number comes first: [0.9, 1.1]"),
        ("augment: {scale: [0, 1]}", "augment.scale.0: 0 must be greater than or equal to 0.001"),
        ("augment: 5", "augment: 5 is not a mapping"),
        ("augment:", "augment: null is not a mapping"),
        ("phases: [a]", 'phases: ["a"] is not a mapping'),
        ("phases: {a: 5}", "phases.a: 5 is not a mapping"),
        ("phases: {a.b: {augment: {hflip: 1}}}", 'phases.a.b: "a.b" must be letters, digits, _ and -'),
        ("optim: {lr: .inf}", "optim.lr: Infinity is not a finite number"),
        ("optim: {lr: .nan}", "optim.lr: NaN is not a finite number"),
        ("optim: {lr: 1e999}", "optim.lr: Infinity is not a finite number"),
        ("name: ..", 'name: ".." must be letters, digits, _, - and ., which is not the first'),
        ("name: " + "x" * 70, f'name: "{"x" * 58}… must have at most 64 characters'),
    ],
)
def test_values_of_another_type_are_refused(text, expected):
    assert problems(write("r.yaml", PHANTOM + text)) == [f"r.yaml:2: {expected}"]


def test_what_json_cannot_carry_is_no_crash():
    (line,) = problems(write("r.yaml", PHANTOM + 'name: "\\ud800"'))
    assert "r.yaml" in line


# origins, reloading, difference


def test_origins_say_where_each_value_was_written():
    write("base.yaml", PHANTOM + "augment:\n  hflip: 0.5\n")
    child = write("child.yaml", "extends: base.yaml\nphases:\n  a: {}\n  b:\n    augment: {hflip: 0.1}\n")
    places = {key: leaf.place for key, leaf in load(child, ["train.epochs=2"]).origins.items()}
    assert places == {
        ("name",): "default",
        ("data", "source"): "base.yaml:1",
        ("phases", "a", "augment", "hflip"): "base.yaml:3",
        ("phases", "a", "train", "epochs"): "--set",
        ("phases", "b", "augment", "hflip"): "child.yaml:5",
        ("phases", "b", "train", "epochs"): "--set",
    }


COMBINATIONS = [
    ("final", ["phases.warm.optim.lr=1e-5", "augment.erase=0.3", "name='1e5'", "seed=9007199254740993"]),
    ("final_as_run", ["model.options={}", "hardware={precision: bf16, threads: 2}", "train.ema=0.999"]),
    ("bone_break", ["data.source='no'", "data.classes={'1e-4': '08', 'St. Mary: a': 'on'}", "split.val_frac=1e-5"]),
    ("pretrain_simclr", ["optim.lr=1e-30", "data.workers=0"]),
    ("quickstart", ["train.patience=3", "augment.scale=[1e-3, 1e3]"]),
    ("baseline", ["data={manifest: 'C:\\data\\m.csv'}", "model.freeze=until:layer3"]),
]


@pytest.mark.parametrize(("name", "sets"), [*((name, []) for name in shipped()), *COMBINATIONS])
def test_the_resolved_recipe_reloaded_alone_is_equal(name, sets):
    recipe = load(name, sets).recipe
    text = resolved_yaml(recipe)
    again = load(write("elsewhere/other_name.yaml", text))
    assert again.recipe == recipe
    assert resolved_yaml(again.recipe) == text
    assert "extends" not in text
    assert difference(recipe, again.recipe) == []
    if isinstance(recipe, ClassifyRecipe):
        assert {key[:2] for key in again.origins if key[0] == "phases"} == {("phases", key) for key in recipe.phases}


def test_the_difference_names_every_leaf_once():
    left = made("phases: {a: {optim: {lr: 1e-2}}, b: {}}\n")
    right = made("seed: 1\nphases: {a: {optim: {lr: 1e-3}, augment: {scale: [0.9, 1.1]}}}\n")
    rows = dict(difference(left, right))
    assert {key: row for key, row in rows.items() if key[:2] != ("phases", "b")} == {
        ("seed",): {"left": 0, "right": 1},
        ("phases", "a", "optim", "lr"): {"left": 1e-2, "right": 1e-3},
        ("phases", "a", "augment", "scale"): {"left": None, "right": [0.9, 1.1]},
    }
    assert rows["phases", "b", "train", "patience"] == {"left": None}
    assert difference(left, left) == []


def test_shipped_recipes_say_what_the_experiments_say():
    stages = ["baseline", "augment", "finetune", "regularize", "final"]
    for name, figure in zip([*stages, "final_as_run"], ["42.7", "45.3", "48.6", "53.6", "55.0", "55.0"], strict=True):
        head = shipped()[name].read_text(encoding="utf-8").splitlines()[:3]
        assert head[0].startswith(f"# {name} — ")
        assert head[1].startswith(f"# fx train recipes/{name}.yaml")
        assert head[2].startswith(f"# to reproduce: {figure} % test accuracy (published split)")
    changed = [
        {".".join(key[2:]) for key, _ in difference(load(left).recipe, load(right).recipe) if key != ("name",)}
        for left, right in pairwise(stages[:4])
    ]
    assert changed[0] == {"augment.rotate_deg", "augment.brightness", "augment.contrast"}
    assert changed[1] == {"model.freeze", "model.bn", "optim.lr", "schedule.name"}
    assert changed[2] == {"model.dropout", "optim.weight_decay"}


def test_final_as_run_keeps_the_facts():
    recipe = load("final_as_run").recipe
    rows = [
        (p.train.epochs, p.optim.lr, p.optim.weight_decay, p.model.dropout, p.train.label_smoothing, p.schedule.name)
        for p in recipe.phases.values()
    ]
    assert rows == [
        (30, 1e-4, 1e-3, 0.5, 0.0, "cosine"),
        (5, 1e-4, 1e-2, 0.7, 0.1, "constant"),
        (10, 1e-5, 1e-3, 0.5, 0.05, "constant"),
    ]
    for name, phase in recipe.phases.items():
        assert (phase.train.batch_size, phase.train.monitor, phase.train.sampler) == (64, "none", "balanced")
        assert (phase.model.freeze, phase.model.bn, phase.optim.name) == ("none", "train", "adamw")
        assert name == "p1" or phase.start == "last"


def test_bone_break_maps_ten_folders_to_seven_classes():
    classes = load("bone_break").recipe.data.classes
    assert len(classes) == 10
    names = "avulsion comminuted curved fracture_dislocation hairline internal linear"
    assert sorted(set(classes.values())) == names.split()


@pytest.mark.real
def test_bone_break_names_the_folders_that_are_there(real_data):
    folders = {path.name for path in (real_data / "bone_break").iterdir() if path.is_dir()}
    assert set(load("bone_break").recipe.data.classes) == folders
