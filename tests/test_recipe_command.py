"""`fx recipe`: list, show, check, diff, schema."""

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.recipe.load import load, shipped
from fxcli.recipe.tasks import TASKS, json_schema


def fx(*arguments, code=0):
    done = CliRunner().invoke(app, ["recipe", *arguments])
    assert done.exit_code == code, done.output
    return done


def records(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def files():
    Path("good.yaml").write_text("data: {source: phantom}\n", encoding="utf-8")
    Path("bad.yaml").write_text("data: {source: phantom}\noptim: {lrr: 1}\nseed: x\n", encoding="utf-8")
    Path("worse.yaml").write_text("a: [", encoding="utf-8")


@pytest.mark.slow
def test_list_shows_every_shipped_recipe_with_its_first_comment():
    lines = fx("list").stdout.splitlines()
    for name, path in shipped().items():
        comment = path.read_text(encoding="utf-8").splitlines()[0]
        assert comment.startswith(f"# {name} — ")
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert line.split()[1] == load(name).recipe.task
        assert line.split(maxsplit=2)[2].strip() == comment.removeprefix(f"# {name} — ")


def test_list_as_json_needs_no_plugin(monkeypatch):
    monkeypatch.setattr("fxcli.recipe.rules.load_zoo", lambda: pytest.fail("a listing asked the zoo"))
    rows = records(fx("list", "--json"))
    assert [row["name"] for row in rows] == list(shipped())
    tasks = {row["name"]: row["task"] for row in rows}
    assert (tasks["bone_break"], tasks["final"], tasks["pretrain_simclr"]) == ("prepare", "classify", "pretrain")
    assert all(set(row) == {"name", "task", "about"} and row["about"] for row in rows)


def test_show_writes_a_recipe_that_can_be_saved_and_checked():
    text = fx("show", "final", "--set", "phases.tune.train.epochs=2").stdout
    Path("saved.yaml").write_text(text, encoding="utf-8")
    assert load("saved.yaml").recipe == load("final", ["phases.tune.train.epochs=2"]).recipe
    (values,) = records(fx("show", "final", "--json", "--set", "phases.tune.train.epochs=2"))
    assert values == yaml.safe_load(text)
    assert values["phases"]["tune"]["train"]["epochs"] == 2


def test_show_sources(files):
    arguments = ["show", "good.yaml", "--sources", "--set", "optim.lr=1e-4"]
    rows = {line.split()[0]: line.split()[1:] for line in fx(*arguments).stdout.splitlines() if line.strip()}
    assert rows["data.source"] == ['"phantom"', "good.yaml:1"]
    assert rows["phases.main.optim.lr"] == ["0.0001", "--set"]
    assert rows["phases.main.augment.erase_scale"] == ["[0.02,", "0.2]", "default"]
    found = {row["key"]: row for row in records(fx(*arguments, "--json"))}
    assert found["phases.main.optim.lr"] == {"key": "phases.main.optim.lr", "value": 1e-4, "from": "--set"}
    assert set(found) == {key for key in rows if "." in key or key in ("task", "name", "seed")}


def test_check_of_good_recipes(files):
    assert fx("check", "good.yaml", "bone_break").stdout == "good.yaml: valid (classify)\nbone_break: valid (prepare)\n"
    assert records(fx("check", "good.yaml", "--json")) == [{"recipe": "good.yaml", "valid": True, "task": "classify"}]


def test_check_goes_on_after_a_bad_recipe(files):
    done = fx("check", "bad.yaml", "good.yaml", "worse.yaml", "nothing", code=3)
    assert done.stdout == "good.yaml: valid (classify)\n"
    for line in ("error: 2 problems in recipe bad.yaml", "error: 1 problem in recipe worse.yaml", "recipe nothing"):
        assert done.stderr.count(line) == 1
    assert "bad.yaml:2: optim.lrr: unknown key — did you mean lr?" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_as_json_says_everything_on_stdout(files):
    rows = records(fx("check", "bad.yaml", "good.yaml", "--json", code=3))
    assert [row["valid"] for row in rows] == [False, True]
    assert sorted(rows[0]["problems"]) == [
        "bad.yaml:2: optim.lrr: unknown key — did you mean lr?",
        'bad.yaml:3: seed: "x" is not a whole number',
    ]


def test_check_of_an_unknown_backbone_and_a_set():
    done = fx("check", "final", "--set", "model.backbone=resnet5", code=3)
    assert "--set: model.backbone: unknown backbone 'resnet5' — did you mean resnet50 or resnet18?" in done.stderr
    assert "fx plugins lists everything" in done.stderr


def test_check_goes_on_after_a_plugin_that_fails(files, monkeypatch):
    from fxcli.errors import PluginError
    from fxcli.recipe import rules

    class Zoo:
        def backbone(self, name):
            raise PluginError("it broke")

    monkeypatch.setattr(rules, "load_zoo", Zoo)
    done = fx("check", "good.yaml", "bone_break", "--json", code=5)
    assert [row["valid"] for row in records(done)] == [False, True]
    assert records(done)[0]["problems"] == ["it broke"]


def test_diff_shows_what_differs():
    rows = records(fx("diff", "finetune", "regularize", "--json"))
    assert rows == [
        {"key": "name", "left": "finetune", "right": "regularize"},
        {"key": "phases.main.model.dropout", "left": 0.0, "right": 0.5},
        {"key": "phases.main.optim.weight_decay", "left": 0.0, "right": 0.01},
    ]
    lines = [line.split() for line in fx("diff", "finetune", "regularize").stdout.splitlines()]
    assert ["key", "finetune", "regularize"] in lines
    assert ["phases.main.model.dropout", "0.0", "0.5"] in lines


def test_diff_marks_what_one_side_lacks():
    lines = [line.split() for line in fx("diff", "regularize", "final").stdout.splitlines()]
    assert ["phases.main.train.patience", "null", "—"] in lines
    assert ["phases.tune.optim.name", "—", '"sgd"'] in lines
    row = next(row for row in records(fx("diff", "regularize", "final", "--json")) if row["key"].endswith("patience"))
    assert row == {"key": "phases.main.train.patience", "left": None}


def test_diff_tells_phases_in_another_order():
    a, b = "a: {train: {epochs: 1}}", "b: {train: {epochs: 2}}"
    for name, phases in (("one", f"{a}, {b}"), ("two", f"{b}, {a}")):
        Path(f"{name}.yaml").write_text(f"name: x\ndata: {{source: phantom}}\nphases: {{{phases}}}\n")
    assert records(fx("diff", "one.yaml", "two.yaml", "--json")) == [
        {"key": "phases", "left": ["a", "b"], "right": ["b", "a"]}
    ]


def test_diff_of_equals_says_so_on_stderr():
    done = fx("diff", "final", "final")
    assert (done.stdout, done.stderr) == ("", "no difference\n")
    assert fx("diff", "final", "final", "--quiet").stderr == ""


def test_the_help_of_schema_names_every_task():
    text = fx("schema", "--help").stdout
    assert [task for task in TASKS if task not in text] == []


def test_the_schema_on_one_line_is_the_same():
    (line,) = fx("schema", "detect", "--json").stdout.splitlines()
    assert json.loads(line) == json.loads(fx("schema", "detect").stdout) == json_schema("detect")


def test_schema_of_an_unknown_task():
    done = fx("schema", "classfy", code=2)
    assert "no task 'classfy'" in done.stderr
    assert "classify, detect, prepare, pretrain" in done.stderr


def refused(value, schema, root, where="recipe"):
    """What a JSON Schema says against a value: as much of the standard as fx's own schema uses."""
    schema = {**root["$defs"][schema["$ref"].rpartition("/")[2]], **schema} if "$ref" in schema else schema
    if "anyOf" in schema:
        return [] if any(not refused(value, each, root) for each in schema["anyOf"]) else [f"{where}: {value}"]
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "null": type(None)}
    kind = schema.get("type")
    if kind and (not isinstance(value, kinds.get(kind, bool)) or (kind != "boolean" and isinstance(value, bool))):
        return [f"{where}: {value} is no {kind}"]
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        return [f"{where}: {value} is not allowed"]
    if isinstance(value, dict):
        known, other = schema.get("properties", {}), schema.get("additionalProperties", True)
        for pattern, part in schema.get("patternProperties", {}).items():
            known = {**known, **{key: part for key in value if re.search(pattern, key)}}
        lines = [f"{where}.{key} is unknown" for key in value if other is False and key not in known]
        inner = {key: known.get(key, other if isinstance(other, dict) else {}) for key in value}
        return lines + [line for key in value for line in refused(value[key], inner[key], root, f"{where}.{key}")]
    if isinstance(value, list):
        parts = schema.get("prefixItems", [{}] * len(value))
        return [line for item, part in zip(value, parts, strict=True) for line in refused(item, part, root, where)]
    return []


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped())
def test_the_schema_takes_every_shipped_recipe_as_it_is_written(name):
    text = shipped()[name].read_text(encoding="utf-8")
    # PyYAML reads 1e-4 as text.
    from fxcli.recipe.source import plain, read_tree

    assert yaml.safe_load(text)
    raw = plain(read_tree(shipped()[name], name))
    schema = json.loads(fx("schema", load(name).recipe.task).stdout)
    assert refused(raw, schema, schema) == []
    assert refused(load(name).recipe.model_dump(mode="json"), schema, schema) == []


def test_the_schema_refuses_what_fx_refuses():
    schema = json_schema("classify")
    for wrong in (
        {"optm": {}},
        {"optim": {"lrr": 1}},
        {"optim": {"lr": "fast"}},
        {"optim": {"name": "adam"}},
        {"model": {"dropout": "x"}},
        {"phases": {"a": {"data": {}}}},
        {"phases": {"a": {"model": {"backbone": "x"}}}},
        {"phases": {"a b": {}}},
        {"task": "prepare"},
        {"extends": 3},
        {"seed": True},
    ):
        assert refused(wrong, schema, schema), wrong


@pytest.mark.parametrize("task", TASKS)
def test_every_key_of_the_schema_is_described(task):
    schema = json_schema(task)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert schema["additionalProperties"] is False
    assert "extends" in schema["properties"]
    for model in (schema, *schema["$defs"].values()):
        for key, field in model["properties"].items():
            assert "$ref" in field or "description" in field or key == "task", key
    assert ("phases" in schema["properties"]) == ("augment" in schema["properties"]) == (task in ("classify", "detect"))


def test_making_a_schema_leaves_the_models_alone():
    assert json_schema("classify") == json_schema("classify")
    assert "augment" not in TASKS["classify"].model_json_schema()["properties"]
