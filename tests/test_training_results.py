"""Results of a study on disk: what is kept, what counts as the same recipe, and the table that follows."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel
from readme_blocks import study
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.commands.study import COLUMNS, cells, recalls, verdicts
from fxcli.errors import RunError
from fxcli.evaluation.predictions import Labelled
from fxcli.evaluation.study import Answers
from fxcli.recipe.load import load, shipped
from fxcli.recipe.schema import ClassifyRecipe, Phase
from fxcli.recipe.study import entries
from fxcli.training.results import Results, deciding_digest, report, states_of

CLASSES = ("bent", "cut")
TARGETS = np.array([0, 0, 1, 1])


def answers(*right, leaked=("yes", "no", "no", "no")):
    """Of four pictures a, b, c, d; `right` has a word such as "1101" for each seed."""
    logits = np.zeros((len(right), 4, 2), dtype=np.float32)
    for seed, picture in np.ndindex(len(right), 4):
        logits[seed, picture, TARGETS[picture] if right[seed][picture] == "1" else 1 - TARGETS[picture]] = 2.0
    return Answers(Labelled(tuple("abcd"), tuple("1234"), TARGETS, logits), np.array(leaked), CLASSES)


@pytest.fixture
def listed():
    """A study of two runs and two seeds, whose manifest is not there, and its trainings."""
    Path("study.yaml").write_text(
        "task: study\n"
        "seeds: [0, 1]\n"
        "data: {one: one.csv}\n"
        "runs: {low: {recipe: baseline, published: 42.7}, high: {recipe: finetune}}\n"
        "comparisons: [{a: low, b: high, data: one}, {a: high, b: low, data: one, metric: nll}]\n",
        encoding="utf-8",
    )
    loaded = load("study.yaml")
    return loaded.recipe, entries(loaded.recipe, loaded.runs)


def kept(results, listed, words):
    """Keeps the answers of each training that `words` names."""
    for entry in listed:
        if word := words.get(f"{entry.run}{entry.seed}"):
            line = {"data": entry.data, "run": entry.run, "minutes": 3.0 + entry.seed, "manifest_sha256": "m"}
            results.keep(entry, {"test": answers(word)}, line | {"recipe_sha256": deciding_digest(entry.recipe)})


ADDING = """
import sys
from pathlib import Path
from types import SimpleNamespace
from fxcli.training.results import Results

results = Results(Path("results"))
line = {"run": "low", "minutes": 1.0, "recipe_sha256": "r", "manifest_sha256": "m"}
print("ready", flush=True)
sys.stdin.readline()
for number in range(30):
    results.keep(SimpleNamespace(name=f"{sys.argv[1]}{number}", data="one"), {}, line)
"""


def test_of_two_processes_that_add_at_once_no_line_is_lost():
    command = [sys.executable, "-c", ADDING]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([*command, name], **pipes) for name in "ab"]
    for each in both:
        assert each.stdout.readline() == "ready\n"
    for each in both:
        each.stdin.write("\n")
        each.stdin.flush()
    for each in both:
        each.communicate(timeout=60)
    assert [each.returncode for each in both] == [0, 0]
    assert Results(Path("results")).index().keys() == {f"{name}{number}" for name in "ab" for number in range(30)}
    assert [each.name for each in Path("results").iterdir()] == ["index.json"]


@pytest.fixture
def results(listed):
    found = Results(Path("results"))
    found.name(listed[0].comparisons)
    kept(found, listed[1], {"low0": "1000", "low1": "1100", "high0": "1110"})
    return found


def test_files_are_those_that_are_told(results):
    assert sorted(path.name for path in Path("results/one").iterdir()) == [
        "high-s0-test.csv",
        "low-s0-test.csv",
        "low-s1-test.csv",
        "test.csv",
    ]
    assert Path("results/one/test.csv").read_text().splitlines() == [
        "path,label,group,leaked",
        "a,bent,1,yes",
        "b,bent,2,no",
        "c,cut,3,no",
        "d,cut,4,no",
    ]
    assert Path("results/one/low-s0-test.csv").read_text() == "logit_bent,logit_cut\n2,0\n0,2\n2,0\n2,0\n"
    lines = Path("results/index.json").read_text().splitlines()
    assert [line[:16] for line in lines[1:-1]] == ['"one/high-s0": {', '"one/low-s0": {"', '"one/low-s1": {"']


def test_the_table_by_hand(results, listed):
    study, trainings = listed
    found = report(study, trainings, results)
    low, high = found["rows"]
    assert (low["run"], low["published"], low["seeds"], low["accuracy_seeds"]) == ("low", 42.7, 2, [0.25, 0.5])
    assert low["accuracy"]["value"] == 0.375
    assert (low["leaked"]["accuracy"]["value"], low["not_leaked"]["accuracy"]["value"]) == (1.0, pytest.approx(1 / 6))
    assert (high["published"], high["seeds"], high["accuracy"]["value"]) == (None, 1, 0.75)
    first, second = found["comparisons"]
    assert (first["names"], first["primary"], second["primary"]) == (["low", "high"], True, False)
    assert first["difference"]["value"] == pytest.approx(0.75 - 0.375)
    # A right answer costs ln(1 + e⁻²), a wrong one 2 more.
    assert second["difference"]["value"] == pytest.approx(2 * (0.625 - 0.25), abs=1e-6)
    shown = cells(found["rows"], "test")
    assert [len(row) for row in shown] == [len(COLUMNS)] * 2
    assert shown[0][:3] == ["one", "low", "42.7"]
    assert shown[0][3].startswith("37.5 [")
    # F1 of bent and cut: 2/5 and 0, with the second seed 2/3 and 0.
    assert shown[0][6].startswith("26.7 [")
    # A right answer costs ln(1 + e⁻²), a wrong one 2 more: of four pictures no resample says more.
    assert shown[0][7].startswith("1.38 [")
    columns, (recall, _) = recalls(found["rows"], "test")
    assert columns == ["data", "run", "bent", "cut"]
    assert (recall[2][:4], recall[3][:3]) == ("75 [", "0 [")
    assert shown[1][2] == ""
    assert [row[-1] for row in shown] == ["2", "1"]
    assert cells(found["rows"], "oof") == []
    one, two = verdicts(found["comparisons"])
    assert one.startswith("one: high against low: high is better in accuracy by 37.5 points")
    assert one.endswith("named beforehand; one training is no measure of others")
    assert two.startswith("one: low against high: high is better in nll by 0.75")
    assert "exploratory" in two


def test_a_comparison_waits_for_both_sides(listed):
    study, trainings = listed
    results = Results(Path("results"))
    kept(results, trainings, {"low0": "1000"})
    found = report(study, trainings, results)
    assert [row["run"] for row in found["rows"]] == ["low"]
    assert verdicts(found["comparisons"]) == []
    assert found["comparisons"][0] == {
        "data": "one",
        "data_b": None,
        "part": "test",
        "on": None,
        "metric": "accuracy",
        "names": ["low", "high"],
        "pictures": "one",
        "primary": False,
    }


def reordered(study, *places):
    return study.model_copy(update={"comparisons": tuple(study.comparisons[place] for place in places)})


def test_what_is_named_beforehand_is_what_came_first_with_the_first_result(results, listed):
    study, trainings = listed
    named = results.named()
    assert (named.comparison, named.when[-1]) == (study.comparisons[0], "Z")
    # Neither a later result nor another order names another one.
    other = reordered(study, 1, 0)
    results.name(other.comparisons)
    assert results.named() == named
    found = report(other, trainings, results)
    assert not any("named beforehand" in line for line in verdicts(found["comparisons"]))
    told = f"all are exploratory: what was named beforehand, on {named.when[:10]}, is another"
    assert found["notes"] == [f"{told} (one: high against low, accuracy)"]
    assert report(study, trainings, results)["comparisons"][0]["primary"]
    # Nor counts what is moved to the second place.
    assert not any(line["primary"] for line in found["comparisons"])


def test_without_a_word_from_before_all_is_exploratory(results, listed):
    study, trainings = listed
    told = ["all are exploratory: none is known to have been named before the first result"]
    Path("results/named.json").unlink()
    results.name(study.comparisons)
    assert not Path("results/named.json").exists()
    assert report(study, trainings, results)["notes"] == told
    # A study that had no comparisons then.
    fresh = Results(Path("fresh"))
    fresh.name(())
    assert fresh.named().comparison is None
    kept(fresh, trainings, {"low0": "1000", "high0": "1110"})
    fresh.name(study.comparisons)
    found = report(study, trainings, fresh)
    assert (found["notes"], found["comparisons"][0]["primary"]) == (told, False)


def test_before_any_result_the_first_is_named(listed):
    study, trainings = listed
    found = report(study, trainings, Results(Path("results")))
    assert ([line["primary"] for line in found["comparisons"]], found["notes"]) == ([True, False], [])


def test_trainings_in_another_precision_are_told(results, listed):
    study, trainings = listed
    assert report(study, trainings, results)["notes"] == []

    def in_precision(**precisions):
        index = results.index()
        for name, value in precisions.items():
            index[f"one/{name[:-1]}-s{name[-1]}"]["precision"] = value
        Path("results/index.json").write_text(json.dumps(index), encoding="utf-8")
        return report(study, trainings, results)["notes"]

    assert in_precision(low0="bf16", low1="bf16", high0="bf16") == []
    # Once, though two comparisons are of both.
    assert in_precision(high0="fp32") == ["one: high was trained in fp32, low in bf16"]
    assert in_precision(low1="fp32") == ["one: high was trained in fp32, low in bf16 and fp32"]


@pytest.fixture
def across():
    """A study that compares a recipe with itself on two data, and its trainings."""
    Path("across.yaml").write_text(
        "task: study\n"
        "data: {one: one.csv, two: two.csv}\n"
        "runs: {low: {recipe: baseline}, high: {recipe: finetune}}\n"
        "comparisons:\n"
        "  - {a: low, b: low, data: one, data_b: two, on: not_leaked}\n"
        "  - {a: low, b: low, data: one, data_b: two}\n"
        "  - {a: low, b: high, data: one, on: leaked, metric: recall:bent}\n",
        encoding="utf-8",
    )
    loaded = load("across.yaml")
    return loaded.recipe, entries(loaded.recipe, loaded.runs)


def test_comparisons_over_two_data_and_on_some_pictures(across):
    study, trainings = across
    results = Results(Path("results"))
    kept(results, trainings, {"low0": "1000", "high0": "0111"})
    results.keep(trainings[2], {"test": answers("0111")}, results.index()["two/low-s0"])
    apart, whole, recall = report(study, trainings, results)["comparisons"]
    assert (apart["n"], apart["difference"]["value"]) == (3, 1.0)
    assert (whole["n"], whole["difference"]["value"]) == (4, 0.5)
    assert (recall["n"], recall["difference"]["value"]) == (1, -1.0)
    lines = [line.partition(" by ")[0] for line in verdicts([apart, whole, recall])]
    assert lines == [
        "pictures not leaked: low on two against low on one: low on two is better in accuracy",
        "test part: low on two against low on one: low on two is better in accuracy",
        "one, leaked pictures: high against low: low is better in recall of bent",
    ]


def test_two_data_with_other_pictures_are_not_compared(across):
    study, trainings = across
    results = Results(Path("results"))
    kept(results, trainings, {"low0": "1000"})
    known = results.index()["two/low-s0"]
    results.keep(trainings[2], {"test": answers("0111", leaked=("no", "no", "no", "no"))}, known)
    found = report(study, trainings, results)
    assert "verdict" not in found["comparisons"][0]
    why = "low on one and low on two did not answer to the same pictures"
    assert f"comparisons.0 is not possible: {why}" in found["notes"]
    assert len(found["rows"]) == 2, "what there is, is shown all the same"


def test_minutes_that_are_not_known_are_those_of_the_same_run(results, listed):
    _, trainings = listed
    states = states_of(trainings, Path("runs"), results)
    assert [(line["run"], line["seed"], line["state"], line["minutes"]) for line in states] == [
        ("low", 0, "done", 3.0),
        ("high", 0, "done", 3.0),
        ("low", 1, "done", 4.0),
        ("high", 1, "missing", 3.0),
    ]
    Path("runs/one/high-s1").mkdir(parents=True)
    Path("runs/one/high-s1/run.json").touch()
    assert states_of(trainings, Path("runs"), results)[-1]["state"] == "begun"
    assert states_of(trainings, Path("runs"), Results(Path("none")))[0] == {
        "data": "one",
        "run": "low",
        "seed": 0,
        "state": "missing",
        "minutes": None,
    }


def test_a_class_that_looks_like_a_number_and_a_comma_in_a_path_come_back(listed):
    _, trainings = listed
    said = Labelled(("a, b.png", 'c"d.png'), ("1", "1"), np.array([1, 0]), np.array([[[1.5, 2], [-1e-9, 1e6]]]))
    results = Results(Path("results"))
    results.keep(trainings[0], {"test": Answers(said, np.array(["", ""]), ("1e3", "no"))}, {})
    back = results.read(trainings[:1], "test")
    assert (back.said.paths, back.said.groups, back.classes) == (said.paths, said.groups, ("1e3", "no"))
    assert list(back.said.targets) == [1, 0]
    assert back.said.logits == pytest.approx(said.logits)


@pytest.mark.parametrize(
    ("sets", "same"),
    [
        (["data.workers=3", "data.cache=disk", "data.manifest=there.csv"], True),
        (["hardware.device=cpu", "hardware.threads=1", "hardware.precision=fp32"], True),
        (["optim.lr=1e-3"], True),
        (["optim.lr=2e-3"], False),
        (["seed=1"], False),
        (["data.image_size_px=96"], False),
        (["model.backbone=resnet18"], False),
        (["ensemble.folds=2"], False),
    ],
)
def test_a_recipe_is_the_same_where_its_results_are(sets, same):
    assert load("baseline").recipe.phases["main"].optim.lr == 1e-3
    assert (deciding_digest(load("baseline", sets).recipe) == deciding_digest(load("baseline").recipe)) == same


DEFAULTS = """
seed 0, data.train_frac 1.0, data.image_size_px None, data.resize letterbox, model.backbone resnet50,
model.init imagenet, model.drop_path 0.0, evaluate.coverage 0.9, evaluate.per_class_sets False, ensemble.folds 1,
ensemble.fold_seed 0, ensemble.seeds 1, start best, augment.hflip 0.0, augment.vflip 0.0, augment.rotate_deg 0.0,
augment.translate_frac 0.0, augment.scale None, augment.shear_deg 0.0, augment.brightness 0.0, augment.contrast 0.0,
augment.elastic 0.0, augment.crop_scale None, augment.erase 0.0, augment.mixup 0.0, augment.cutmix 0.0,
model.freeze none, model.bn train, model.dropout 0.0, optim.name adamw, optim.lr 0.001, optim.weight_decay 0.01,
optim.momentum 0.9, optim.head_lr_mult 1.0, optim.layer_decay 1.0, optim.clip_norm None, schedule.name constant,
schedule.warmup_epochs 0.0, schedule.pct_start 0.3, schedule.div_factor 25.0, schedule.final_div_factor 10000.0,
schedule.step_epochs 10.0, schedule.gamma 0.1, train.epochs 30, train.batch_size 32, train.accumulate 1, train.loss ce,
train.focal_gamma 2.0, train.label_smoothing 0.0, train.class_weights none, train.sampler shuffle, train.ema None,
train.monitor val_macro_f1, train.patience None
"""


def test_defaults_are_those_of_results_that_exist():
    """Hashes of recipes leave defaults out: another one would pass old results for those of the new recipe."""

    def defaults(model, before=""):
        for name, field in model.model_fields.items():
            value = field.get_default(call_default_factory=True)
            if isinstance(value, BaseModel):
                yield from defaults(type(value), f"{before}{name}.")
            else:
                yield f"{before}{name} {value}"

    assert {*defaults(ClassifyRecipe), *defaults(Phase)} >= set(" ".join(DEFAULTS.split()).split(", "))


def test_the_order_of_phases_counts():
    write = "data: {{source: phantom}}\nphases: {{{}}}\n"
    a, b = "a: {train: {epochs: 1}}", "b: {train: {epochs: 2}}"
    digests = set()
    for text in (f"{a}, {b}", f"{b}, {a}"):
        Path("r.yaml").write_text(write.format(text), encoding="utf-8")
        digests.add(deciding_digest(load("r.yaml").recipe))
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("index.json", "{", "index.json: damaged"),
        ("index.json", '<<<<<<< ours\n{"a": {}}', "it may hold what a merge left"),
        ("index.json", "[1]", "for each training"),
        ("index.json", '{"a": 1}', "for each training"),
        ("named.json", "{", "named.json: damaged"),
        ("named.json", "[1]", "named.json: damaged"),
        ("named.json", '{"comparison": {"a": "low"}, "when": ""}', "named.json: damaged"),
        ("named.json", '{"comparison": null}', "named.json: damaged"),
        ("one/test.csv", "path,label\na,bent\n", "its columns are not path, label, group, leaked"),
        ("one/test.csv", "", "test.csv: damaged"),
        ("one/test.csv", "path,label,group,leaked\n", "no rows"),
        ("one/test.csv", "path,label,group,leaked\na,bent,1\n", "rows of another length"),
        ("one/low-s0-test.csv", "logit_bent,logit_cut\n2,0\n", "not one line for each picture"),
        ("one/low-s0-test.csv", "logit_bent,logit_x\n1,2\n1,2\n1,2\n1,2\n", "with its class"),
        ("one/low-s0-test.csv", "logit_bent,logit_cut\n1,2\n1,x\n1,2\n1,2\n", "could not convert"),
        ("one/low-s0-test.csv", "logit_cut,logit_bent\n1,2\n1,2\n1,2\n1,2\n", "differ in their classes"),
        ("one/low-s0-test.csv", b"logit_\xff", "low-s0-test.csv: damaged"),
    ],
)
def test_damaged_results_are_told(results, listed, file, text, message):
    study, trainings = listed
    Path("results", file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RunError, match="damaged") as error:
        report(study, trainings, results)
    assert message in str(error.value)


def test_the_table_of_the_readme_works_with_none_and_with_partial_results(tmp_path):
    assert study("experiments", tmp_path / "none") == "no results yet"
    loaded = load("experiments")
    results = Results(tmp_path / "some")
    kept(results, entries(loaded.recipe, loaded.runs)[:4], {"baseline0": "1000", "finetune0": "1100"})
    lines = study("experiments", tmp_path / "some").splitlines()
    assert lines[:4] == [
        "Test part [95 %]:",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"| {' | '.join(['---'] * len(COLUMNS))} |",
    ]
    assert [line.split(" | ")[:3] for line in lines[4:6]] == [
        ["| published", "baseline", "42.7"],
        ["| published", "finetune", "48.6"],
    ]
    assert all(line.endswith("| 1 |") for line in lines[4:6])
    assert lines[7:10] == ["Recall of each class, % [95 %]:", "", "| data | run | bent | cut |"]
    assert [line.split(" | ")[1] for line in lines[11:13]] == ["baseline", "finetune"]
    comparison, note = lines[14:]
    assert note == "- all are exploratory: none is known to have been named before the first result"
    assert comparison.startswith("- published, leaked pictures: finetune against baseline: equal accuracy")


def test_committed_results_are_small_for_their_number_and_of_the_recipes_as_they_are():
    """`find` refuses a result of another recipe; the manifests are not committed."""
    for name, path in shipped().items():
        loaded = load(path)
        if loaded.recipe.task != "study":
            continue
        folder = path.parent.parent / loaded.recipe.results
        results = Results(folder)
        index, trainings = results.index(), entries(loaded.recipe, loaded.runs)
        assert set(index) <= {entry.name for entry in trainings}, name
        for entry in trainings:
            assert (results.find(entry, index) is not None) == (entry.name in index), entry.name
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        assert size < 200_000 + 100_000 * len(index)
        assert "/" not in json.dumps([list(line.values()) for line in index.values()])
        if named := results.named():
            assert named.comparison == loaded.recipe.comparisons[0], name
            assert named.when <= min(line["when"] for line in index.values()), name


def test_an_empty_study_shows_nothing_but_a_line(listed):
    done = CliRunner().invoke(app, ["train", "study.yaml", "--dry-run"])
    assert done.exit_code == 0
    assert "no results yet" in done.stderr
