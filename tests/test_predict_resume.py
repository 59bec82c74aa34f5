"""fx predict that is stopped, by people, by the system, by what is wrong with a picture: what remains, and going on."""

import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from resumed import PART, assert_same, fx, pictures, predict, table

from fxcli.console import Console
from fxcli.explain import places
from fxcli.explain.png import sweep
from fxcli.inference import rows as output
from fxcli.inference.pipeline import Pipeline
from fxcli.model import classifier as models
from fxcli.testing import tiny_dataset

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture
def raw(trained):
    """48 pictures, older than any prediction of them."""
    folder = tiny_dataset(Path("raw"), per_class=16)
    time.sleep(0.02)
    return folder


@pytest.fixture
def decoded(monkeypatch):
    """How often each picture was decoded."""
    counts = Counter()
    decode = Pipeline._decode

    def counting(self, path):
        counts[str(path)] += 1
        return decode(self, path)

    monkeypatch.setattr(Pipeline, "_decode", counting)
    return counts


def killed_at(row, *options, torn=False):
    """Runs fx predict in a process that is killed instead of writing this row, or halfway."""
    child = os.fork()
    if not child:
        append, written = output.Growing._append, [-1]

        def at_row(self, text):
            written[0] += text != self.lines.head
            if written[0] == row:
                if torn:
                    self.handle.write(text[: len(text) // 2].encode())
                os.kill(os.getpid(), signal.SIGKILL)
            append(self, text)

        output.Growing._append = at_row
        # The threads that torch may have computed with were not forked with the rest.
        torch.set_num_threads(1)
        fx("predict", "raw", "--model", "runs/trained", "--out", "out", *options)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.slow
@forks
@pytest.mark.parametrize("options", [("--cam", "maps"), ("--workers", "0", "--batch-size", "5")])
def test_killed_and_resumed(raw, decoded, options):
    predict(*options)
    expected, drawn = table(), pictures("maps") if Path("maps").exists() else []
    shutil.rmtree("out")
    shutil.rmtree("maps", ignore_errors=True)
    done = 0
    for row, torn in ((0, False), (9, True), (14, True), (20, False)):
        killed_at(row, *options, "--resume", torn=torn)
        done += row
        assert len(table(PART)) - torn == done
        assert not Path("out/predictions.csv").exists()
    decoded.clear()
    told = predict("--resume", *options).stderr
    assert f"going on: {done} of 48 pictures have their row" in told
    assert len(decoded) == 48 - done
    assert set(decoded.values()) == {1}
    assert_same(table(), expected)
    assert sorted(os.listdir("out")) == ["predictions.csv", "predictions.csv.json"]
    assert (pictures("maps") if drawn else []) == drawn, "nothing half-drawn is left either"


@forks
def test_json_lines_too(raw):
    predict("--json")
    with open("out/predictions.jsonl", encoding="utf-8") as handle:
        expected = [json.loads(line)["path"] for line in handle]
    shutil.rmtree("out")
    killed_at(20, "--json", torn=True)
    predict("--json", "--resume")
    with open("out/predictions.jsonl", encoding="utf-8") as handle:
        assert [json.loads(line)["path"] for line in handle] == expected


@forks
def test_heat_maps_that_are_gone_are_drawn_again(raw, decoded):
    killed_at(30, "--cam", "maps")
    drawn = pictures("maps")
    kept = [row["path"] for row in table(PART)]
    gone = [f"{Path(path).relative_to('raw').as_posix()}.png" for path in kept[3:5]]
    for name in gone:
        (Path("maps") / name).unlink()
    decoded.clear()
    predict("--cam", "maps", "--resume")
    assert set(decoded) == {row["path"] for row in table()} - (set(kept) - set(kept[3:5]))
    assert set(pictures("maps")) >= {name for name in drawn if name.endswith(".png")}
    assert len(pictures("maps")) == 48


def drawn_at(folder):
    return {name: (Path(folder) / name).stat().st_mtime_ns for name in pictures(folder)}


def other_model(zoo):
    """A copy of the run with another head."""
    shutil.copytree("runs/trained", "runs/other")
    model = models.load(Path("runs/other/model.safetensors"), zoo)
    model.network.head.bias.data += 1
    model.save(Path("runs/other/model.safetensors"))
    return "runs/other"


def test_heat_maps_of_another_model_picture_or_command_are_drawn_again(raw, demo_zoo):
    names = sorted((raw / "class_0").iterdir())[:3]
    fx("predict", *names, "--model", "runs/trained", "--cam", "maps", "--quiet")
    first = drawn_at("maps")
    again = ("predict", *names, "--model", other_model(demo_zoo), "--out", "out")
    assert fx(*again).exit_code == 0
    told = fx(*again, "--cam", "maps", "--resume").stderr
    assert "going on: 0 of 3 pictures have their row" in told, "of another model"
    second = drawn_at("maps")
    assert second.keys() == first.keys()
    assert all(second[name] > first[name] for name in first)
    assert "nothing is missing" in fx(*again, "--cam", "maps", "--resume").stderr
    shutil.copy("maps/0.png.png", "maps/1.png.png")
    fx("cam", names[2], raw / "class_0/5.png", "--model", "runs/other", "--out", "maps")
    told = fx(*again, "--cam", "maps", "--resume").stderr
    assert "going on: 1 of 3 pictures have their row" in told, "of another picture, and of fx cam"
    shutil.copy(raw / "class_1/0.png", names[1])
    assert fx(*again, "--overwrite").exit_code == 0
    told = fx(*again, "--cam", "maps", "--resume").stderr
    assert "going on: 2 of 3 pictures have their row" in told, "of what the picture was before"


def test_each_heat_map_is_looked_at_once(raw, monkeypatch):
    names = sorted((raw / "class_0").iterdir())[:3]
    again = ("predict", *names, "--model", "runs/trained", "--out", "out", "--cam", "maps")
    assert fx(*again).exit_code == 0
    looked, real = [], places.Drawing.is_there
    monkeypatch.setattr(
        places.Drawing, "is_there", lambda self, picture: (looked.append(self.file), real(self, picture))[1]
    )
    assert fx(*again, "--resume").exit_code == 0
    assert len(looked) == len(set(looked)) == 3


def test_no_heat_map_stays_beside_an_error(raw):
    names = sorted((raw / "class_0").iterdir())[:3]
    options = ("--model", "runs/trained", "--out", "out", "--cam", "maps")
    assert fx("predict", *names, *options).exit_code == 0
    names[1].write_bytes(b"no")
    assert fx("predict", *names, *options, "--overwrite").exit_code == 9
    assert pictures("maps") == ["0.png.png", "10.png.png"]


@pytest.mark.slow
def test_heat_maps_among_the_pictures(raw):
    options = ("--cam", "raw/maps")
    predict(*options)
    assert len(table()) == 48
    told = predict(*options, "--resume").stderr
    assert "passed over: 48 pictures in raw/maps that fx drew" in told
    assert "nothing is missing" in told
    shutil.rmtree("raw/maps")
    if hasattr(os, "fork"):
        shutil.rmtree("out")
        killed_at(20, *options)
        predict(*options, "--resume")
        assert len(table()) == 48
        assert len(pictures("raw/maps")) == 48
    done = fx("predict", "raw/maps", "--model", "runs/trained", "--cam", "raw/maps")
    assert done.exit_code == 4
    assert "no picture found here, but 48 that fx drew" in done.stderr


@pytest.mark.parametrize("command", [("predict", "--cam"), ("cam", "--out")])
def test_no_heat_map_takes_the_place_of_a_picture(raw, command):
    shutil.copy("raw/class_0/1.png", "raw/class_0/0.png.png")
    before = Path("raw/class_0/0.png.png").read_bytes()
    done = fx(command[0], "raw", "--model", "runs/trained", command[1], "raw")
    assert done.exit_code == 2
    assert "what is drawn would replace the picture raw/class_0/0.png.png" in done.stderr
    assert Path("raw/class_0/0.png.png").read_bytes() == before
    assert len(pictures("raw")) == 49


@pytest.mark.slow
def test_cam_twice_beside_the_pictures(raw):
    for _ in range(2):
        done = fx("cam", "raw/class_0", "--model", "runs/trained", "--out", "raw/class_0/why", "--quiet")
        assert done.exit_code == 0, done.output
        assert len(done.stdout.splitlines()) == 17


def test_what_is_left_of_a_drawing_that_was_killed(raw):
    kept = [Path("maps/a.png.part"), Path("maps/b.png.0123456789ab.part"), Path("maps/a.png")]
    left = Path("maps/a.png.0123456789ab.part")
    Path("maps").mkdir()
    for path in (*kept, left):
        path.touch()
    sweep([Path("maps/a.png"), Path("elsewhere/a.png")])
    assert [path.exists() for path in (*kept, left)] == [True, True, True, False]


def test_interrupted_by_people(raw, monkeypatch):
    write, count = output.Growing.write, [0]

    def interrupted(self, record):
        count[0] += 1
        if count[0] == 11:
            raise KeyboardInterrupt
        write(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(output.Growing, "write", interrupted)
        told = predict(code=130).stderr
    assert f"10 rows are in {PART}: the same command with --resume goes on" in told
    assert sorted(os.listdir("out")) == ["predictions.csv.part", "predictions.csv.part.json"]
    assert "left 10 rows here" in predict(code=4).stderr
    predict("--resume")
    assert len(table()) == 48


def test_the_model_and_what_was_asked_must_be_the_same(raw, demo_zoo, monkeypatch):
    (raw / "class_1" / "0.png").write_bytes(b"no")
    predict("--strict", code=4)
    assert "draft was true, and is false" in predict("--resume", "--no-draft", code=6).stderr
    assert 'paths was "given", and is "hashed"' in predict("--resume", "--paths", "hashed", code=6).stderr
    model = models.load(Path("runs/trained/model.safetensors"), demo_zoo)
    model.network.head.bias.data += 1
    model.save(Path("runs/trained/model.safetensors"))
    told = predict("--resume", code=6).stderr
    assert "made with something else: model was" in told
    assert len(table(PART)) == 17


def test_one_name_never_means_two_pictures(raw, monkeypatch):
    shutil.copy("raw/class_1/0.png", "raw/0.png")
    top = Path.cwd()
    where, model = top / "raw", top / "runs/trained"

    def rows(folder, style, *options):
        return fx("predict", folder, "--model", model, "--out", top / style, "--paths", style, *options)

    assert rows(where / "class_0", "relative").exit_code == 0
    monkeypatch.chdir(where / "class_0")
    assert rows("0.png", "given").exit_code == 0
    monkeypatch.chdir(where)
    for done in (rows(where, "relative", "--resume"), rows("0.png", "given", "--resume")):
        assert done.exit_code == 6, done.output
        assert "made with something else: their paths are relative to another folder" in done.stderr
    assert rows(where, "hashed").exit_code == 0
    monkeypatch.chdir(where.parent)
    done = rows("raw", "hashed", "--resume")
    assert "nothing is missing" in done.stderr


def test_rows_that_were_hashed_under_another_key(raw, monkeypatch):
    options = ("--paths", "hashed", "--cam", "maps")
    predict(*options)
    monkeypatch.setenv("FX_CACHE_DIR", "another")
    assert "nothing is missing" in predict(*options, "--resume").stderr, "no cache holds the key"
    for variable in ("XDG_DATA_HOME", "APPDATA"):
        monkeypatch.setenv(variable, "lost")
    told = predict(*options, "--resume", code=6).stderr
    assert "made with something else: their names are hashed under another key" in told
    assert len(pictures("maps")) == len(table()) == 48


def test_complete_is_complete(raw, decoded):
    predict()
    before = Path("out/predictions.csv").read_bytes()
    decoded.clear()
    assert "nothing is missing" in predict("--resume").stderr
    assert not decoded
    told = predict(code=4).stderr
    assert "out/predictions.csv: this file exists" in told
    assert "--overwrite replaces it" in told
    assert Path("out/predictions.csv").read_bytes() == before
    predict("--overwrite")


def test_a_folder_that_goes_on_growing(raw):
    (raw / "class_1" / "3.png").write_bytes(b"no")
    predict("--strict", code=4)
    done = len(table(PART))
    shutil.copy(raw / "class_0" / "1.png", raw / "class_0" / "new.png")
    shutil.copy(raw / "class_0" / "1.png", raw / "class_1" / "3.png")
    told = predict("--resume").stderr
    assert f"going on: {done - 1} of 49" in told
    assert [row["path"] for row in table()] == sorted(row["path"] for row in table())
    assert Counter(row["status"] for row in table()) == {"ok": 49}


# --- strict ---


def test_strict_stops_at_the_first(raw, decoded):
    for name in ("3.png", "7.png"):
        (raw / "class_1" / name).write_bytes(b"no")
    done = predict("--strict", code=4)
    assert "raw/class_1/3.png: cannot read this picture: not a picture" in done.stderr
    assert "--resume goes on" in done.stderr
    assert not Path("out/predictions.csv").exists()
    rows = table(PART)
    assert [row["status"] for row in rows].count("error") == 1
    assert rows[-1]["path"] == "raw/class_1/3.png"
    predict("--resume", "--strict", code=4)
    predict("--resume", code=9)
    assert Counter(row["status"] for row in table()) == {"ok": 46, "error": 2}


def test_no_thread_goes_on_after_the_last_row(raw, monkeypatch):
    (raw / "class_0" / "0.png").write_bytes(b"no")
    before, alive, error = threading.enumerate(), [], Console.error

    def telling(self, told):
        alive.append([each.name for each in threading.enumerate() if each not in before])
        error(self, told)

    monkeypatch.setattr(Console, "error", telling)
    predict("--strict", "--workers", "2", "--batch-size", "1", code=4)
    assert alive == [[]]


def test_strict_on_stdout(raw):
    (raw / "class_0" / "1.png").write_bytes(b"no")
    done = fx("predict", "raw", "--model", "runs/trained", "--strict", "--quiet")
    assert done.exit_code == 4
    assert len(done.stdout.splitlines()) == 3
    assert fx("predict", "raw", "--model", "runs/trained", "--quiet").exit_code == 9


def test_strict_without_a_bad_one(raw):
    predict("--strict")
    assert len(table()) == 48


# --- what cannot be asked ---


@pytest.mark.parametrize("options", [("--resume",), ("--overwrite",), ("--out", "out", "--resume", "--overwrite")])
def test_resume_and_overwrite_go_with_out(raw, options):
    done = fx("predict", "raw", "--model", "runs/trained", *options)
    assert done.exit_code == 2
    assert "goes with --out DIR" in done.stderr
