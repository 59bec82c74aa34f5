"""What a shell asks while a command is being typed, in a process of its own, as shells ask it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fxcli.commands import completion
from fxcli.recipe.load import about, shipped

ASK = """
import sys
from fxcli.cli import main
try:
    main()
finally:
    print({"torch", "numpy", "PIL"} & set(sys.modules))
"""


def asked(**environment):
    """What the shell gets; no heavy package may have been imported for it."""
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env=os.environ | {"PYTHONWARNINGS": "error"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    *offered, imported = done.stdout.splitlines()
    assert imported == "set()"
    return offered


def offered(*words):
    """In bash, at the end of the last word."""
    return asked(_FX_COMPLETE="complete_bash", COMP_WORDS="\n".join(words), COMP_CWORD=str(len(words) - 1))


def a_run(name, **info):
    folder = Path("runs", name)
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"status": "finished", "task": "classify", **info}))


@pytest.mark.slow
def test_commands_and_options():
    assert offered("fx", "pre") == ["prepare", "predict"]
    assert offered("fx", "recipe", "s") == ["show", "schema"]
    assert offered("fx", "predict", "--js") == ["--json"]
    assert offered("fx", "predict", "--precision", "") == ["fp32", "bf16"]


@pytest.mark.slow
def test_recipes_and_what_lies_here():
    for name in ("final_pictures", "final $(date)", ".fin"):
        Path(name).mkdir()
    Path("finish.yaml").touch()
    Path("finish.txt").touch()
    assert offered("fx", "train", "fin") == [
        *(name for name in shipped() if name.startswith("fin")),
        "final_pictures/",
        "finish.yaml",
    ]
    # Then the shell offers what it finds below the folder.
    assert offered("fx", "train", "final_pictures/") == [""]


def test_each_command_is_offered_recipes_for_it():
    of_tasks = {name: about(name)[0] for name in shipped()}
    preparing = {name for name, task in of_tasks.items() if task == "prepare"}
    assert {name for name, _ in completion.preparations("")} == preparing
    assert {name for name, _ in completion.trainings("")} == of_tasks.keys() - preparing
    assert {name for name, _ in completion.recipes("")} == of_tasks.keys()


@pytest.mark.slow
def test_runs_are_offered_where_they_can_be_used():
    a_run("final-1", recipe="final", created="1")
    a_run("final-2", recipe="final", created="2")
    a_run("best-1", recipe="best", status="interrupted", created="3")
    Path("runs/damaged").mkdir()
    Path("runs/damaged/run.json").write_text("{")
    for words in (("predict", "in", "--model"), ("evaluate",), ("export", "onnx"), ("report",)):
        assert offered("fx", *words, "") == ["final", "runs/final-1", "runs/final-2"], words
    assert offered("fx", "train", "--resume", "runs/b") == ["runs/best-1"]


def test_without_runs_there_is_nothing_to_offer():
    assert completion.models("") == completion.stopped("") == []


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_backbones_where_the_shell_leaves_the_word_whole(shell):
    words = "fx train final --set model.backbone=efficientnet_lite"
    more = {"_TYPER_COMPLETE_FISH_ACTION": "get-args"} if shell == "fish" else {}
    found = "\n".join(asked(_FX_COMPLETE=f"complete_{shell}", _TYPER_COMPLETE_ARGS=words, **more))
    for number in range(3):
        assert f"model.backbone=efficientnet_lite{number}" in found
    assert "resnet50" not in found


@pytest.mark.slow
def test_what_is_said_of_a_recipe_is_one_line_in_zsh():
    lines = asked(_FX_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="fx train f")
    names = [name for name in shipped() if name.startswith("f")]
    assert [line.rpartition("(")[2].split('"')[1] for line in lines] == [
        name for name in names if about(name)[0] != "prepare"
    ]


def test_other_keys_are_not_guessed():
    assert completion.overrides("optim.lr=") == completion.overrides("model.back") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_a_shell_must_be_told(shell):
    script = "\n".join(asked(_FX_COMPLETE=f"source_{shell}"))
    assert f"_FX_COMPLETE=complete_{shell}" in script
