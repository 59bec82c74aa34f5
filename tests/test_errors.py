"""The tree of errors, its messages, and what the command line makes of them."""

import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from fxcli import cli, errors
from fxcli.console import console
from fxcli.errors import (
    DataError,
    FxError,
    Interrupted,
    MissingDependency,
    NothingFound,
    RecipeError,
    SomeRowsFailed,
    UnknownName,
    UnreadableImage,
    WeightsUnavailable,
)


def drawn():
    """(class, parent, code) of each line of the tree in the docstring."""
    found, stack = [], []
    for line in inspect.getdoc(errors).splitlines():
        match = re.fullmatch(r"( *(?:[│ ]   )*(?:[├└]── )?)(\w+) +(\d+)    \S.*", line)
        if match:
            depth = (len(match[1]) - 4) // 4
            del stack[depth:]
            found.append((match[2], stack[-1] if stack else "Exception", int(match[3])))
            stack.append(match[2])
    return found


def test_the_drawn_tree_is_the_tree():
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__]
    assert {(cls.__name__, cls.__base__.__name__, cls.exit_code) for cls in classes} == set(drawn())
    assert len(drawn()) == len(classes) == 14


def test_each_branch_has_a_code_of_its_own():
    branches = [code for _, parent, code in drawn() if parent in ("Exception", "FxError")]
    assert len(set(branches)) == len(branches)
    codes = {name: code for name, _, code in drawn()}
    assert all(codes[name] == codes[parent] for name, parent, _ in drawn() if parent not in ("Exception", "FxError"))


def test_a_message_says_where_and_what_to_do():
    assert str(FxError("it broke")) == "it broke"
    assert str(FxError("it broke", where=Path("a") / "b", hint="mend it")) == f"{Path('a/b')}: it broke\n  → mend it"
    error = DataError("it broke", where="m.csv:3")
    assert (error.what, error.where, error.hint, str(error)) == ("it broke", "m.csv:3", None, "m.csv:3: it broke")


def test_messages_of_the_classes():
    assert (
        str(RecipeError(["r:1: a", "r:2: b"], recipe="r", hint="h"))
        == "2 problems in recipe r\n  r:1: a\n  r:2: b\n  → h"
    )
    assert str(RecipeError(["r:1: a"], recipe=Path("r"))) == "1 problem in recipe r\n  r:1: a"
    assert str(RecipeError(["model: a"], recipe=None)) == "1 problem in the recipe\n  model: a"
    unknown = UnknownName("backbone", "x", known=["a", "b"], close=["a", "b"], not_loaded=["p: it broke"])
    assert str(unknown).splitlines() == [
        "unknown backbone 'x' — did you mean a or b?",
        "  known: a, b",
        "  not loaded: p: it broke",
        "  → fx plugins lists everything that is installed",
    ]
    assert "known: none" in str(UnknownName("detector", "x", known=[]))
    assert (
        str(NothingFound("d", (".png", ".jpg"))) == "d: no picture found here: there is nothing in it\n"
        "  → pictures are files ending in .png .jpg, or beginning as those do"
    )
    assert str(MissingDependency("onnx", extra="export", purpose="fx export")) == (
        "fx export needs the package onnx, which is not installed\n  → python -m pip install 'fxcli[export]'"
    )
    assert str(WeightsUnavailable("offline", hint="later")) == "offline\n  → later"
    assert str(SomeRowsFailed(2, 9, "p.csv")) == (
        "2 of 9 pictures could not be used\n  → p.csv names each with its reason"
    )


def test_an_unreadable_image_travels_between_processes():
    error = pickle.loads(pickle.dumps(UnreadableImage("a/b.png", "it ends early")))
    assert type(error) is UnreadableImage
    assert (error.path, error.reason) == (Path("a/b.png"), "it ends early")
    assert str(error) == "a/b.png: cannot read this picture: it ends early"


def run(function, debug=False):
    app = typer.Typer()
    app.command()(cli._guarded(function))
    console.configure(debug=debug)
    return CliRunner().invoke(app, [])


def raising(error):
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DataError("it broke", where="here", hint="mend it"), 4, "error: here: it broke\n  → mend it\n"),
        (Interrupted("stopped at step 3; everything is saved"), 130, "error: stopped at step 3; everything is saved\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (
            ZeroDivisionError("by zero"),
            1,
            "error: internal error: ZeroDivisionError: by zero\n"
            "  → this is a defect of fx: please report it with what --debug prints\n",
        ),
    ],
)
def test_an_error_becomes_one_block_and_an_exit_code(error, code, text):
    done = run(raising(error))
    assert (done.exit_code, done.stderr, done.stdout) == (code, text, "")
    shown = run(raising(error), debug=True)
    assert shown.exit_code == code
    assert shown.stderr.startswith("Traceback (most recent call last)")
    assert shown.stderr.endswith(text)


def test_a_command_without_an_error_exits_with_zero():
    assert run(lambda: None).exit_code == 0


@pytest.mark.parametrize("flags", [[], ["--debug"]])
def test_debug_shows_the_traceback(flags):
    done = CliRunner().invoke(cli.app, ["recipe", "check", "nothing", *flags])
    assert done.exit_code == 3
    assert ("Traceback" in done.stderr) == bool(flags)
    assert "error: 1 problem in recipe nothing" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["recipe", "check"], ["recipe", "check", "--no-such-flag", "final"]]
)
def test_a_wrong_command_line_exits_with_two(arguments):
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 2
    assert "Traceback" not in done.output


def test_every_command_is_guarded():
    groups = [group.typer_instance for group in cli.app.registered_groups]
    commands = [*cli.app.registered_commands, *(info for group in groups for info in group.registered_commands)]
    commands += [group.registered_callback for group in groups if group.registered_callback]
    assert len(commands) >= 13
    for info in commands:
        assert info.callback.__code__ is cli._guarded(lambda: None).__code__, info.callback


def test_version_and_help():
    from fxcli import __version__

    assert CliRunner().invoke(cli.app, ["--version"]).stdout == f"fx {__version__}\n"
    done = CliRunner().invoke(cli.app, ["-h"])
    assert done.exit_code == 0
    assert "Research use only" in done.stdout


@pytest.mark.parametrize("group", [[], ["plugins"], ["recipe"]])
def test_help_says_of_each_command_its_whole_first_paragraph(group):
    shown = " ".join(CliRunner().invoke(cli.app, [*group, "--help"]).stdout.split())
    groups = {group.name: group.typer_instance for group in cli.app.registered_groups}
    app = groups[group[0]] if group else cli.app
    for info in app.registered_commands:
        first = " ".join(inspect.getdoc(info.callback).partition("\n\n")[0].split())
        assert f"{info.name or info.callback.__name__} {first}" in shown


def test_a_reader_that_leaves_is_no_error():
    # The schema is longer than a pipe's buffer in Python, so that the write itself fails.
    command = [sys.executable, "-m", "fxcli", "recipe", "schema"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait() == 0


def test_what_the_system_refuses_is_no_defect_of_fx():
    Path("a_file").touch()
    done = CliRunner().invoke(cli.app, ["prepare", "phantom", "--out", "a_file/below"])
    assert done.exit_code == 4
    assert "a_file" in done.stderr
    assert "defect" not in done.stderr


def test_memory_that_is_used_up_is_no_defect_of_fx():
    import torch

    done = run(raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate …")))
    assert done.exit_code == 1
    assert done.stderr == (
        "error: the memory of the device is used up\n"
        "  → lower train.batch_size (and raise train.accumulate), evaluate.batch_size or data.image_size_px\n"
    )


def test_neither_is_that_of_the_computer():
    import numpy as np
    import torch

    for taking in (lambda: np.empty(1 << 58, np.uint8), lambda: torch.empty(1 << 58), lambda: bytes(1 << 58)):
        done = run(taking)
        assert done.exit_code == 1
        assert done.stderr.startswith("error: the memory of the computer is used up\n  → lower"), done.stderr


def test_who_has_no_recipe_is_told_of_a_flag_where_memory_is_used_up(capsys):
    import torch

    def predict(batch_size: int | None = None) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(typer.Exit):
        cli._guarded(predict)()
    assert capsys.readouterr().err.endswith("\n  → a smaller --batch-size takes less\n")


@pytest.mark.parametrize(
    ("error", "code"), [(typer.Exit(9), 9), (typer.Abort(), 1), (typer.BadParameter("no such thing"), 2)]
)
def test_what_typer_raises_is_left_to_typer(error, code):
    done = run(raising(error))
    assert done.exit_code == code
    assert "internal error" not in done.stderr
