"""A plugin that `fx plugins new` begins: what it is called, and that it is installed, tested and trained as it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.errors import UsageError
from fxcli.zoo import kit
from fxcli.zoo.plugins import load_zoo

TEMPLATE = Path(__file__).parent / "third_party" / "fx_demo"


def test_the_whole_template_is_copied_and_packed():
    there = {path.relative_to(TEMPLATE).as_posix() for path in TEMPLATE.rglob("*") if path.is_file()}
    assert {name for name in there if "__pycache__" not in name} == set(kit.FILES)
    project = tomllib.loads((TEMPLATE.parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    packed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert {f"tests/third_party/fx_demo/{name}": f"fxcli/_kit/{name}" for name in kit.FILES}.items() <= packed.items()


def test_names():
    begun = kit.begin("My.own-Backbone", Path("here"), load_zoo())
    assert (begun.distribution, begun.module) == ("My.own-Backbone", "my_own_backbone")
    assert begun.files == ("README.md", "pyproject.toml", "my_own_backbone.py", "tests/test_backbone.py")
    project = tomllib.loads(Path("here/pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["name"] == "My.own-Backbone"
    assert project["project"]["entry-points"] == {"fx.plugins": {"my_own_backbone": "my_own_backbone"}}
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"] == ["my_own_backbone.py"]
    for file in begun.files:
        assert "demo" not in Path("here", file).read_text(encoding="utf-8"), file


def test_a_name_that_holds_one_of_the_templates():
    kit.begin("demo-fx_demo-demo_tiny", Path("here"), load_zoo())
    module = Path("here/demo_fx_demo_demo_tiny.py").read_text(encoding="utf-8")
    assert 'name="demo_fx_demo_demo_tiny"' in module


@pytest.mark.parametrize("name", ["", "9lives", "a b", "-x", "x-", "../up", "a/b", "class", "naïve", "a\n"])
def test_what_nothing_can_be_called(name):
    with pytest.raises(UsageError, match="a plugin cannot be called"):
        kit.begin(name, Path("here"), load_zoo())
    assert not Path("here").exists()


@pytest.mark.parametrize(
    ("name", "taker"),
    [
        ("resnet50", "a backbone"),
        ("simclr", "the plugin simclr of fxcli"),
        ("FX", "the plugin fx of fxcli"),
        ("fxcli", "the plugin fx of fxcli"),
        ("fx-yolo", "the module fx_yolo is installed here"),
        ("json", "the module json is installed here"),
    ],
)
def test_names_that_are_taken(name, taker):
    with pytest.raises(UsageError, match=f"the name '{name}' is taken: {taker}"):
        kit.begin(name, Path("here"), load_zoo())
    assert not Path("here").exists()


def test_nothing_is_written_over():
    Path("mine").mkdir()
    done = CliRunner().invoke(app, ["plugins", "new", "mine"])
    assert done.exit_code == 2
    assert "is there already, and is never written over" in done.stderr
    assert os.listdir("mine") == []
    Path("file").touch()
    assert CliRunner().invoke(app, ["plugins", "new", "mine", "--out", "file"]).exit_code == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_what_is_cut_off_leaves_nothing(monkeypatch, error):
    write, written = Path.write_text, []

    def write_some(path, *arguments, **options):
        if len(written) == 2:
            raise error
        written.append(path)
        return write(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", write_some)
        with pytest.raises((KeyboardInterrupt, OSError)):
            kit.begin("mine", Path("in/mine"), load_zoo())
    assert len(written) == 2
    assert os.listdir("in") == []
    kit.begin("mine", Path("in/mine"), load_zoo())
    assert os.listdir("in") == ["mine"]
    assert Path("in/mine").stat().st_mode == Path("in").stat().st_mode, "others may read it, too"


def test_options_before_the_command_are_not_ignored():
    done = CliRunner().invoke(app, ["plugins", "--check", "new", "mine"])
    assert done.exit_code == 2
    assert "options of a command stand behind it" in done.stderr
    assert os.listdir() == []


@pytest.mark.slow
def test_begun_installed_tested_and_trained_as_it_says(tmp_path, prepared):
    done = CliRunner().invoke(app, ["plugins", "new", "my-backbone", "--json"])
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["folder"], told["module"], told["backbone"]) == ("my-backbone", "my_backbone", "my_backbone")
    assert [line.split(": ")[0] for line in done.stderr.splitlines()] == ["next", "then", "and"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", "site", "./my-backbone"], check=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["site", *filter(None, sys.path)]), "PYTHONUTF8": "1"}

    def python(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "2 passed" in python("-m", "pytest", "-p", "no:cacheprovider", "my-backbone")
    Path("one.yaml").write_text(
        f"data: {{manifest: '{prepared / 'manifest.csv'}', workers: 0, image_size_px: 64}}\n"
        "model: {backbone: my_backbone, init: random}\n"
        "train: {epochs: 1, batch_size: 8}\n",
        encoding="utf-8",
    )
    trained = json.loads(python("-m", "fxcli", "train", "one.yaml", "--out", "run", "--json"))
    assert Path(trained["model"]).is_file()
    plugins = json.loads(Path("run/run.json").read_text(encoding="utf-8"))["plugins"]
    assert plugins["my_backbone"] == "0.1.0"
