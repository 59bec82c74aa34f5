"""--set: one key of a recipe from the command line."""

import pytest
from written import PHANTOM, made, problems, write

from fxcli.recipe.load import load

PRETRAIN = PHANTOM + "task: pretrain\n"
STUDY = """task: study
data: {one: m.csv}
set: {model.dropout: 0.5}
runs: {a: {recipe: baseline, set: {optim.lr: 1e-2}}, b: {recipe: baseline}}
"""
PHASES = "optim: {lr: 1e-2}\nphases:\n  warm: {optim: {lr: 1e-3}}\n  tune: {optim: {lr: 1e-4}, model: {dropout: 0.5}}\n"


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("optim.lr=1e-4", "phases.main.optim.lr", 1e-4),
        ("train.epochs=3", "phases.main.train.epochs", 3),
        ("train.patience=null", "phases.main.train.patience", None),
        ("data.workers=0", "data.workers", 0),
        ("hardware.channels_last=true", "hardware.channels_last", True),
        ("model.freeze=until:layer2", "phases.main.model.freeze", "until:layer2"),
        ("model.dropout=0.3", "phases.main.model.dropout", 0.3),
        ("augment.scale=[0.9, 1.1]", "phases.main.augment.scale", (0.9, 1.1)),
        ("name='123'", "name", "123"),
        (" seed = 4", "seed", 4),
        ("optim={lr: 1e-5, name: sgd}", "phases.main.optim.lr", 1e-5),
        ("phases.main.optim.lr=1e-6", "phases.main.optim.lr", 1e-6),
        ("phases={main: {optim: {lr: 2}}}", "phases.main.optim.lr", 2),
    ],
)
def test_set_takes_typed_values(text, path, expected):
    found = made("train: {patience: 5}\noptim: {momentum: 0.7}\n", text).model_dump()
    for name in path.split("."):
        found = found[name]
    assert found == expected
    assert type(found) is type(expected) or (type(found), type(expected)) == (float, int)


def test_set_of_a_section_leaves_its_other_keys():
    phase = made("optim: {momentum: 0.7, lr: 1}\n", "optim={lr: 1e-5}", "augment={}").phases["main"]
    assert (phase.optim.lr, phase.optim.momentum) == (1e-5, 0.7)


@pytest.mark.parametrize(
    ("base", "text", "path", "expected"),
    [
        ("task: prepare\ndata: {classes: {a: b}}\n", "data: {classes: {}}", "data.classes", {}),
        ("task: prepare\nboxes: {classes: {a: b}}\n", "boxes: {classes: {}}", "boxes.classes", {}),
        (PRETRAIN + "pretrain: {options: {blur: 0.1}}\n", "pretrain: {options: {}}", "pretrain.options", {}),
        (PHANTOM + "phases: {a: {optim: {lr: 1e-2}}, b: {}}\n", "phases: {}", "phases", ["main"]),
        (PHANTOM + "phases: {a: {optim: {lr: 1e-2}}, b: {}}\n", "phases: {b: {}}", "phases", ["a", "b"]),
        (STUDY, "set: {}", "set", {}),
        (STUDY, "runs: {a: {set: {}}, b: {}}", "runs.a.set", {}),
    ],
)
def test_an_empty_mapping_of_data_takes_away_what_was_there(base, text, path, expected):
    write("base.yaml", base)
    child = load(write("child.yaml", f"extends: base.yaml\n{text}\n")).recipe
    found = child.model_dump(mode="json")
    for name in path.split("."):
        found = found[name]
    assert (list(found) if isinstance(expected, list) else found) == expected
    key, _, value = text.partition(": ")
    assert load("base.yaml", [f"{key}={value}"]).recipe.model_dump() == child.model_dump() | {"name": "base"}


def test_an_empty_section_is_refused_where_it_would_change_nothing():
    write("base.yaml", PHANTOM + "augment: {hflip: 0.5}\nphases: {a: {optim: {lr: 1e-2}}}\n")
    text = "extends: base.yaml\naugment: {}\ndata: {}\nhardware: {}\nphases:\n  a:\n    optim: {}\n"
    nothing = "{} changes nothing: set each key"
    assert problems(write("child.yaml", text)) == [
        f"child.yaml:2: augment: {nothing}",
        f"child.yaml:3: data: {nothing}",
        f"child.yaml:7: phases.a.optim: {nothing}",
    ]
    assert problems("base.yaml", ["augment={}", "data.columns={}", "data={}"])[:2] == [
        f"--set augment: {nothing}",
        f"--set data: {nothing}",
    ]
    study = STUDY.replace("optim.lr: 1e-2", "data: {}").replace("baseline", "base.yaml")
    (line,) = problems(write("study.yaml", study))
    assert line == f"run a: study.yaml:4: data: {nothing}"


def test_the_last_set_wins_and_sets_come_after_extends():
    write("base.yaml", PHANTOM + "seed: 1\n")
    assert load(write("child.yaml", "extends: base.yaml\nseed: 2"), ["seed=3", "seed=4"]).recipe.seed == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "optim.lr=1",
            "--set optim.lr: phase warm and tune overrides this key; set phases.warm.optim.lr or phases.tune.optim.lr",
        ),
        ("model.dropout=0.1", "--set model.dropout: phase tune overrides this key; set phases.tune.model.dropout"),
        (
            "optim={lr: 1, momentum: 0.5}",
            "--set optim.lr: phase warm and tune overrides this key; set phases.warm.optim.lr or phases.tune.optim.lr",
        ),
        ("phases.wram.optim.lr=1", "--set phases.wram.optim.lr: there is no phase 'wram'; phases: warm, tune"),
        ("phases={main: {}}", "--set phases.main: there is no phase 'main'; phases: warm, tune"),
        ("optim.lr", "--set optim.lr: write it as section.key=value"),
        ("=1", "--set =1: write it as section.key=value"),
        ("optim..lr=1", "--set optim..lr=1: write it as section.key=value"),
        ("optim.lr=[1", "--set optim.lr:1: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("optim.clip_norm=fast", '--set: optim.clip_norm: "fast" is not a number'),
        ("optim.rate=1", "--set: optim.rate: unknown key; allowed here: name, lr, weight_decay, momentum, "),
        ("extends=final", "--set extends: only a file extends another"),
        ("task=prepare", '--set: task: "prepare" must be classify'),
    ],
)
def test_a_set_that_would_do_nothing_or_is_wrong_is_refused(text, expected):
    (line,) = problems(write("r.yaml", PHANTOM + PHASES), [text])
    assert line.startswith(expected)


def test_set_of_what_no_phase_overrides_reaches_every_phase():
    recipe = made(PHASES, "optim.momentum=0.5", "optim={clip_norm: 2.0}", "phases.tune.optim.lr=7")
    assert [phase.optim.momentum for phase in recipe.phases.values()] == [0.5, 0.5]
    assert [phase.optim.clip_norm for phase in recipe.phases.values()] == [2.0, 2.0]
    assert [phase.optim.lr for phase in recipe.phases.values()] == [1e-3, 7]


def test_a_phase_that_says_nothing_overrides_nothing():
    recipe = made("phases: {a: , b: {}, c: {optim: {}}}\n", "optim.lr=1e-7")
    assert [phase.optim.lr for phase in recipe.phases.values()] == [1e-7] * 3


def test_wrong_sets_and_wrong_keys_are_told_together():
    write("r.yaml", PHANTOM + "seed: x\n")
    assert set(problems("r.yaml", ["optim.lr", "train.epochs=0", "name=a b"])) == {
        "--set optim.lr: write it as section.key=value",
        '--set: name: "a b" must be letters, digits, _, - and ., which is not the first',
        'r.yaml:2: seed: "x" is not a whole number',
        "--set: train.epochs: 0 must be greater than or equal to 1",
    }
