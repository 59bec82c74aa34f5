"""Data on stdout, all else on stderr, and what --quiet leaves."""

import inspect
import io
import json
import os
import re
import subprocess
import sys

import pytest

from fxcli.cli import app
from fxcli.console import Console, console
from fxcli.errors import DataError, FxError


@pytest.fixture
def out():
    return Console()


def test_configure_sets_and_resets_every_flag(out):
    assert (out.json, out.quiet, out.debug) == (False, False, False)
    out.configure(json=True, quiet=True, debug=True)
    assert (out.json, out.quiet, out.debug) == (True, True, True)
    out.configure()
    assert (out.json, out.quiet, out.debug) == (False, False, False)
    assert isinstance(console, Console)


def test_messages_go_to_stderr(out, capsys):
    out.note("a note")
    out.warn("mind")
    out.error(DataError("it broke", where="here", hint="mend it"))
    assert capsys.readouterr() == ("", "a note\nwarning: mind\nerror: here: it broke\n  → mend it\n")


def test_quiet_silences_notes_alone(out, capsys):
    out.configure(quiet=True)
    out.note("a note")
    out.warn("mind")
    out.error(DataError("it broke"))
    out.data("1")
    assert capsys.readouterr() == ("1\n", "warning: mind\nerror: it broke\n")


def test_data_goes_to_stdout_as_it_is(out, capsys):
    out.data("[bold]a[/bold] \\ é 骨")
    assert capsys.readouterr() == ("[bold]a[/bold] \\ é 骨\n", "")


def test_a_record_is_one_line_of_json(out, capsys):
    record = {"text": "é\n骨", "number": 0.1, "none": None, "list": [1]}
    out.record(record)
    stdout = capsys.readouterr().out
    assert stdout.count("\n") == 1
    assert "é" in stdout
    assert json.loads(stdout) == record
    with pytest.raises(ValueError, match="not JSON compliant"):
        out.record({"number": float("nan")})


def test_a_table_aligns_numbers_to_the_right_and_text_to_the_left(out, capsys):
    out.table(["name", "count", "share"], [["a", 5, "5%"], ["longer", 12345, None], ["", "", "55%"]], title="all of it")
    stdout, stderr = capsys.readouterr()
    lines = [line.rstrip() for line in stdout.splitlines()]
    assert stderr == ""
    assert lines[0].strip() == "all of it"
    header, first, second, third = lines[2], *lines[4:7]
    assert header.split() == ["name", "count", "share"]
    assert first.index("a") == second.index("longer") == header.index("name")
    assert first.index("5") == header.index("count") + 4
    assert first.endswith("5%")
    assert len(first) == len(header) == len(third)
    assert third.split() == ["55%"]


def test_a_column_with_one_word_is_text(out, capsys):
    out.table(["value"], [[1], ["none"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].startswith("1") == lines[4].startswith("none") == lines[1].startswith("value")
    assert [line.index(word) for line, word in zip(lines[3:5], ["1", "none"], strict=True)] == [
        lines[1].index("value")
    ] * 2


def test_a_table_in_a_pipe_is_neither_folded_nor_coloured_nor_read_as_markup(out, capsys):
    cell = "[red]x[/red] " + "word " * 30
    out.table(["text"], [[cell.strip()]])
    stdout = capsys.readouterr().out
    assert cell.strip() in stdout
    assert "\x1b" not in stdout


def test_a_table_without_rows_shows_its_columns(out, capsys):
    out.table(["one", "two"], [])
    assert capsys.readouterr().out.split()[:2] == ["one", "two"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "quiet", "drawn"), [(Terminal, False, True), (Terminal, True, False), (io.StringIO, False, False)]
)
def test_progress_is_drawn_on_a_terminal_unless_quiet(out, monkeypatch, capsys, stream, quiet, drawn):
    monkeypatch.setattr(sys, "stderr", stream())
    out.configure(quiet=quiet)
    assert list(out.progress(range(3), total=3, what="reading")) == [0, 1, 2]
    assert ("reading" in sys.stderr.getvalue()) is drawn
    assert capsys.readouterr().out == ""


class Clock:
    """Each time it is looked at, a minute has gone by."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 60.0
        return self.now


@pytest.mark.parametrize(("quiet", "pictures", "least"), [(False, 40, 3), (False, 2, 0), (True, 40, 0)])
def test_progress_in_a_log_is_a_line_every_few_minutes(out, monkeypatch, quiet, pictures, least):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr("tqdm.std.time", Clock())
    out.configure(quiet=quiet)
    bar = out.progress(total=pictures, what="reading", unit="pic")
    for _ in range(pictures):
        bar.update()
        out.warn("odd")
    bar.close()

    lines = [line for line in sys.stderr.getvalue().splitlines() if line != "warning: odd"]
    assert least <= len(lines) <= pictures / 4  # a line takes further looks
    assert all(re.fullmatch(r"reading: \d+ of 40 \(pic\), \S+ so far, \S+ left", line) for line in lines)
    assert "\r" not in sys.stderr.getvalue()


def test_progress_goes_on_from_what_is_done(out, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with out.progress(total=10, what="training", done=4, unit="pic") as bar:
        bar.update(2)
        assert (bar.n, bar.total, bar.unit) == (6, 10, "pic")


def test_a_title_is_one_line_however_narrow_the_table(out, capsys):
    title = "how often it was called which"
    out.table(["a"], [[1]], title=title)
    assert capsys.readouterr().out.splitlines()[0] == title


def test_a_table_on_a_terminal_has_its_width_and_colours(out, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", Terminal())
    out.table(["text"], [["word " * 30]])
    drawn = sys.stdout.getvalue()
    assert "\x1b" in drawn
    assert max(len(line) for line in drawn.splitlines() if "word" in line) <= 40


@pytest.mark.slow
@pytest.mark.parametrize("command", [["recipe", "list"], ["plugins"], ["plugins", "--json"]])
def test_a_reader_that_left_is_no_error(command):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fxcli", *command], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_name_moves_the_cursor(out, capsys):
    name = "a\x1b[2J\x1b]0;title\x07\rb\x9bc\u202ed\té\u0301.png"
    shown = r"a\x1b[2J\x1b]0;title\x07\rb\x9bc\u202ed" + "\té\u0301.png"
    out.note(name)
    out.warn(name)
    out.error(FxError("no such file", where=name, hint="a\nb"))
    assert capsys.readouterr().err == f"{shown}\nwarning: {shown}\nerror: {shown}: no such file\n  → a\nb\n"
    out.table(["name"], [["a\x1b[2J"]])
    assert "\x1b" not in capsys.readouterr().out


def test_every_command_has_the_flags_that_mean_the_same_everywhere():
    """What each prints with --json is parsed where the command is tested."""
    groups = [group.typer_instance for group in app.registered_groups]
    commands = [*app.registered_commands, *(info for group in groups for info in group.registered_commands)]
    commands += [group.registered_callback for group in groups if group.registered_callback]
    assert len(commands) >= 16
    for info in commands:
        assert inspect.signature(info.callback).parameters.keys() >= {"json", "quiet", "debug"}, info.callback
