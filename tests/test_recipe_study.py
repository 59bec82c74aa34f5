"""The recipe of a study: its runs, its overrides, its mistakes, and the order of its trainings."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.errors import RecipeError
from fxcli.recipe.load import load
from fxcli.recipe.study import entries, joined

STUDY = """task: study
seeds: [3, 1]
data: {one: one.csv, two: two.csv}
set: {model.backbone: resnet18}
runs:
  base: {recipe: baseline, published: 42.7}
  tuned: {recipe: own/tuned.yaml, set: {phases.b.optim.lr: 1e-4, model.backbone: resnet50}}
"""


@pytest.fixture
def study():
    """Writes study.yaml with more lines at its end, and loads it."""
    Path("own").mkdir()
    text = "data: {source: phantom}\nphases:\n  a: {}\n  b: {optim: {lr: 1e-2}}\n"
    Path("own/tuned.yaml").write_text(text, encoding="utf-8")

    def made(more="", *sets, text=STUDY):
        Path("study.yaml").write_text(text + more, encoding="utf-8")
        return load("study.yaml", sets)

    return made


def problems(study, more="", *sets, text=STUDY):
    with pytest.raises(RecipeError) as error:
        study(more, *sets, text=text)
    return error.value.problems


def test_each_run_is_its_recipe_with_the_overrides(study):
    loaded = study()
    assert list(loaded.runs) == ["base", "tuned"]
    assert [run.model.backbone for run in loaded.runs.values()] == ["resnet18", "resnet50"]
    assert [run.name for run in loaded.runs.values()] == ["base", "tuned"]
    base, tuned = loaded.runs.values()
    expected = load("baseline", ["model.backbone=resnet18", "name=base", "seed=3", "data.manifest=one.csv"]).recipe
    assert base == expected
    assert [phase.optim.lr for phase in tuned.phases.values()] == [1e-3, 1e-4]
    assert loaded.recipe.results is None


def test_the_order_is_seed_then_data_then_run(study):
    loaded = study()
    listed = entries(loaded.recipe, loaded.runs)
    assert [entry.name for entry in listed] == [
        "one/base-s3",
        "one/tuned-s3",
        "two/base-s3",
        "two/tuned-s3",
        "one/base-s1",
        "one/tuned-s1",
        "two/base-s1",
        "two/tuned-s1",
    ]
    for entry in listed:
        assert entry.recipe.seed == entry.seed
        # The phantoms that tuned.yaml names give way to the study's data.
        assert (entry.recipe.data.manifest, entry.recipe.data.source) == (f"{entry.data}.csv", None)
        assert entry.recipe.name == entry.run
        assert entry.parts == ("test",)


def test_folds_bring_out_of_fold_predictions(study):
    loaded = study("", "runs.base.set.ensemble.folds=5")
    assert [entry.parts for entry in entries(loaded.recipe, loaded.runs)][:2] == [("test", "oof"), ("test",)]


def test_in_folds_the_test_part_is_looked_at_only_where_it_is_asked_for(study):
    def parts(more="", *sets):
        loaded = study(more, "set.ensemble.folds=5", *sets)
        return {f"{entry.data}/{entry.run}": entry.parts for entry in entries(loaded.recipe, loaded.runs)}

    both, held_out = ("test", "oof"), ("oof",)
    # By the published figure of base.
    published = {"one/base": both, "one/tuned": held_out, "two/base": both, "two/tuned": held_out}
    assert parts() == published
    comparison = "comparisons: [{a: base, b: tuned, data: one, part: oof}"
    assert parts(f"{comparison}]\n") == published
    assert parts(f"{comparison}]\n", "runs.base.published=null") == dict.fromkeys(published, held_out)
    asked = parts(f"{comparison}, {{a: tuned, b: tuned, data: one, data_b: two}}]\n", "runs.base.published=null")
    assert asked == {"one/base": held_out, "one/tuned": both, "two/base": held_out, "two/tuned": both}


def test_set_overrides_the_study_itself(study):
    loaded = study(
        "",
        "seeds=[7]",
        "data.two=b.csv",
        "set.model.backbone=efficientnet_lite0",
        "runs.tuned.set.phases.b.optim.lr=1e-5",
        "results=there",
        "runs.new.recipe=finetune",
    )
    recipe = loaded.recipe
    assert (recipe.seeds, recipe.data["two"], recipe.results) == ((7,), "b.csv", "there")
    assert recipe.set == {"model.backbone": "efficientnet_lite0"}
    assert recipe.runs["tuned"].set == {"phases.b.optim.lr": 1e-5, "model.backbone": "resnet50"}
    assert loaded.runs["tuned"].phases["b"].optim.lr == 1e-5
    assert [run.model.backbone for run in loaded.runs.values()] == [
        "efficientnet_lite0",
        "resnet50",
        "efficientnet_lite0",
    ]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("set.optim.lr", ("set", "optim.lr")),
        ("runs.a.set.phases.b.optim.lr", ("runs", "a", "set", "phases.b.optim.lr")),
        ("runs.set.recipe", ("runs", "set", "recipe")),
        ("data.x.set.y", ("data", "x", "set", "y")),
        ("set", ("set",)),
    ],
)
def test_what_follows_set_is_one_key(key, expected):
    assert joined(tuple(key.split("."))) == expected


def test_a_study_that_extends_another_finds_the_recipes_of_both(study):
    study()
    Path("own/child.yaml").write_text("extends: ../study.yaml\nruns: {more: {recipe: tuned.yaml}}\n", encoding="utf-8")
    assert list(load("own/child.yaml").runs) == ["base", "tuned", "more"]


@pytest.mark.parametrize(
    ("of_x", "expected"),
    [
        ("recipe: finetun", "run x: study.yaml:8: runs.x.recipe: no recipe finetun, here or with fx — did you mean"),
        ("recipe: own/tune.yaml", "run x: study.yaml:8: runs.x.recipe: no recipe own/tune.yaml, here or with fx"),
        ("recipe: bone_break", "run x: task is prepare, not classify"),
        ("recipe: study.yaml", "run x: task is study, not classify"),
        ("", "study.yaml:8: runs.x.recipe: is missing"),
        ("recip: final", "study.yaml:8: runs.x.recip: unknown key — did you mean recipe?"),
        ("recipe: final, published: 101", "study.yaml:8: runs.x.published: 101 must be less than or equal to 100"),
        ("recipe: final, set: {seed: 1}", "run x: study.yaml:8: seed is nothing to override: in a study, seeds say it"),
        ("recipe: final, set: {data: {manifest: m}}", "run x: study.yaml:8: data.manifest is nothing to override"),
        ("recipe: final, set: {optm.lr: 1}", "run x: study.yaml:8: optm: unknown key — did you mean optim?"),
        ("recipe: finetune, set: {optim.lr: no}", 'run x: study.yaml:8: optim.lr: "no" is not a number'),
        ("recipe: final, set: {optim.lr: 1}", "run x: study.yaml:8: optim.lr: phase warm and tune overrides this key"),
        ("recipe: final, set: {phases.z.optim.lr: 1}", "run x: study.yaml:8: phases.z.optim.lr: there is no phase 'z'"),
        ("recipe: final, set: {model.backbone: resnet5}", "run x: study.yaml:8: model.backbone: unknown backbone"),
        ("recipe: final, set: {ensemble.seeds: 2}", "run x: study.yaml:8: runs.x.recipe: it asks for several seeds"),
    ],
)
def test_mistakes_of_a_run_are_told_with_their_place(study, of_x, expected):
    found = problems(study, f"  x: {{{of_x}}}\n")
    assert any(expected in line for line in found), found


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("  a b: {recipe: final}", 'runs.a b: "a b" must be letters, digits, _ and -'),
        ("seedz: [1]", "seedz: unknown key — did you mean seeds?"),
        ("published: 3", "published: unknown key here — 'published' belongs in a run"),
        ("metric: nll", "metric: unknown key here — 'metric' belongs in a comparison"),
        ("data: on", "comparisons.0.data: this study has no data 'on'; it has one, two"),
        ("b: tune", "comparisons.0.b: this study has no run 'tune'; it has base, tuned — did you mean tuned?"),
        ("b: base", "comparisons.0: it compares a run with itself"),
        ("metric: acc", 'comparisons.0.metric: "acc" must be accuracy or macro_f1 or nll or brier or recall:<class>'),
        ("metric: 'recall:'", 'comparisons.0.metric: "recall:" must be accuracy or'),
        ("data_b: thre", "comparisons.0.data_b: this study has no data 'thre'; it has one, two"),
        ("on: leakd", 'comparisons.0.on: "leakd" must be leaked or not_leaked — did you mean leaked'),
        ("prt: oof", "comparisons.0.prt: unknown key — did you mean part?"),
        ("part: oof", "comparisons.0.part: run tuned has no out-of-fold predictions; set ensemble.folds for it"),
    ],
)
def test_mistakes_of_comparisons_and_keys(study, more, expected):
    if expected.startswith("comparisons"):
        values = {"a": "base", "b": "tuned", "data": "one"} | dict([more.split(": ")])
        more = f"comparisons: [{{{', '.join(f'{key}: {value}' for key, value in values.items())}}}]"
    found = problems(study, more)
    assert any(line.startswith(f"study.yaml:8: {expected}") for line in found), found


@pytest.mark.parametrize(
    ("line", "text", "expected"),
    [
        ("seeds: [3, 1]", "seeds: [1, 1]", "study.yaml:2: seeds: each seed once"),
        ("seeds: [3, 1]", "seeds: []", "study.yaml:2: seeds: [] must have at least 1 item, not 0"),
        ("seeds: [3, 1]", "seeds: [-1]", "study.yaml:2: seeds.0: -1 must be greater than or equal to 0"),
        ("data: {one: one.csv, two: two.csv}", "", "study.yaml: data: is missing"),
        ("data: {one: one.csv, two: two.csv}", "data: {a.b: x}", 'study.yaml:3: data.a.b: "a.b" must be letters'),
        ("set: {model.backbone: resnet18}", "set: {optim.lrr: 1}", "run base: study.yaml:4: optim.lrr: unknown key"),
        ("set: {model.backbone: resnet18}", "set: [a]", 'study.yaml:4: set: ["a"] is not a mapping'),
    ],
)
def test_mistakes_of_the_whole(study, line, text, expected):
    assert line in STUDY
    found = problems(study, text=STUDY.replace(line, text))
    assert any(expected in each for each in found), found


def test_a_mistake_within_a_runs_own_file_names_that_file(study):
    Path("bad.yaml").write_text("data: {source: phantom}\noptim: {lrr: 1}\n", encoding="utf-8")
    found = problems(study, "  x: {recipe: bad.yaml}\n  y: {recipe: finetun}\n")
    assert "run x: bad.yaml:2: optim.lrr: unknown key — did you mean lr?" in found
    assert any(line.startswith("run y: ") for line in found)


def test_check_and_show_take_a_study(study):
    study()
    done = CliRunner().invoke(app, ["recipe", "check", "study.yaml"])
    assert (done.exit_code, done.stdout) == (0, "study.yaml: valid (study)\n")
    shown = CliRunner().invoke(app, ["recipe", "show", "study.yaml", "--sources"]).stdout
    assert "runs.tuned.set.model.backbone" in shown
    refused = CliRunner().invoke(app, ["prepare", "study.yaml"])
    assert refused.exit_code == 3
    assert "run it with: fx train study.yaml" in refused.stderr


def test_a_run_may_be_compared_with_itself_on_other_data(study):
    more = "comparisons: [{a: base, b: base, data: one, data_b: two, on: leaked, metric: recall:hairline}]"
    (asked,) = study(more).recipe.comparisons
    assert asked.sides == (("base", "one"), ("base", "two"))
    assert asked.names == ("base on one", "base on two")
    assert (asked.on, asked.metric) == ("leaked", "recall:hairline")
    found = problems(study, more.replace("data_b: two", "data_b: one"))
    assert found == ["study.yaml:8: comparisons.0: it compares a run with itself"]
    folds = "comparisons: [{a: base, b: tuned, data: one, on: leaked, part: oof}]"
    found = problems(study, folds, "set.ensemble.folds=2")
    assert found == ["study.yaml:8: comparisons.0.on: only test pictures leak; leave out part: oof"]


def test_data_may_be_called_as_a_run_is(study):
    text = STUDY.replace("one: one.csv", "base: one.csv").replace("set: {", "set: {ensemble.folds: 3, ")
    text = text.replace("recipe: baseline,", "recipe: baseline, set: {ensemble.folds: 1},")
    more = "  other: {recipe: baseline}\ncomparisons: [{a: tuned, b: other, data: base, part: oof}]\n"
    assert study(more, text=text).recipe.comparisons[0].data == "base"
