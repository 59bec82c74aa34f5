import contextlib
import csv
import errno
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.commands import cam
from fxcli.data.read import MARK
from fxcli.evaluation.predictions import notice
from fxcli.explain import gradcam


def fx(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def picture(prepared):
    return sorted((prepared / "pictures" / "test" / "class_1").iterdir())[0]


def test_three_files_and_numbers(trained, picture):
    done = fx("cam", picture, "--out", "why", "--quiet")
    assert done.exit_code == 0, done.output
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    saliency = np.load(f"why/{picture.name}.map.npy", allow_pickle=False)
    assert saliency.shape == (8, 8)
    assert saliency.dtype == np.float32
    assert saliency.min() >= 0
    assert float(row["max"]) == pytest.approx(saliency.max(), abs=1e-6)
    assert float(row["sum"]) == pytest.approx(saliency.sum(), abs=1e-4)
    with Image.open(f"why/{picture.name}.overlay.png") as overlay, Image.open(f"why/{picture.name}.png") as pair:
        assert overlay.size == (64, 64)
        assert pair.width > 800


def test_a_disk_that_fills_up_cuts_no_map(trained, picture, monkeypatch):
    def full(file, *_, **__):
        with open(file, "wb") if isinstance(file, str) else contextlib.nullcontext(file) as handle:
            handle.write(b"cut")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert fx("cam", picture, "--out", "why", "--quiet").exit_code == 0
    file = Path(f"why/{picture.name}.map.npy")
    before = file.read_bytes()
    monkeypatch.setattr(np, "save", full)
    done = fx("cam", picture, "--out", "why", "--quiet")
    assert done.exit_code == 4
    assert "cannot be written: No space left on device" in done.stderr
    assert file.read_bytes() == before
    assert len(list(Path("why").iterdir())) == 3


def test_the_target_decides_what_is_explained(trained, picture):
    for target in ("class_0", "class_2"):
        done = fx("cam", picture, "--target", target, "--out", target, "--json", "--quiet")
        assert json.loads(done.stdout)["target"] == target
    one, other = (np.load(f"{name}/{picture.name}.map.npy") for name in ("class_0", "class_2"))
    assert not np.array_equal(one, other)


def test_another_layer_has_its_own_size(trained, picture):
    done = fx("cam", picture, "--layer", "stem", "--out", "stem", "--quiet")
    assert done.exit_code == 0, done.output
    assert np.load(f"stem/{picture.name}.map.npy").shape == (16, 16)
    fx("cam", picture, "--out", "output", "--quiet")
    fx("cam", picture, "--layer", "body", "--out", "body", "--quiet")
    one, other = (np.load(f"{name}/{picture.name}.map.npy") for name in ("output", "body"))
    assert one == pytest.approx(other, abs=1e-6)


def test_maps_of_other_methods_and_sizes(trained, picture):
    """The answer stays that of the model's own size; the map is another's."""
    probabilities = set()
    for out, options in {"a": [], "b": ["--method", "layercam"], "c": ["--method", "layercam", "--size", 128]}.items():
        done = fx("cam", picture, "--layer", "stem", "--target", "class_1", *options, "--out", out, "--quiet")
        assert done.exit_code == 0, done.output
        probabilities.add(next(csv.DictReader(io.StringIO(done.stdout)))["p"])
    assert len(probabilities) == 1
    plain, layered, large = (np.load(f"{out}/{picture.name}.map.npy") for out in "abc")
    assert (plain.shape, layered.shape, large.shape) == ((16, 16), (16, 16), (32, 32))
    assert not np.allclose(plain, layered)
    # At twice the size, the same places speak.
    pooled = large.reshape(16, 2, 16, 2).mean(axis=(1, 3))
    assert np.corrcoef(pooled.ravel(), layered.ravel())[0, 1] > 0.3


def test_equal_names_keep_apart(trained, prepared):
    folders = [Path("a"), Path("b")]
    for folder, source in zip(folders, sorted((prepared / "pictures" / "test" / "class_0").iterdir()), strict=False):
        folder.mkdir()
        (folder / "same.png").write_bytes(source.read_bytes())
    assert fx("cam", *folders, "--out", "why", "--quiet").exit_code == 0
    found = sorted(file.relative_to("why").as_posix() for file in Path("why").rglob("*.map.npy"))
    assert found == ["a/same.png.map.npy", "b/same.png.map.npy"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--target", "nonsense"], "no class 'nonsense'"),
        (["--layer", "top"], "no stage 'top'"),
        (["--layer", ""], "no stage ''"),
        (["--split", ""], "goes with --against"),
        (["--layer", "body", "--workers", "2"], "no --workers beside it"),
    ],
)
def test_mistakes(trained, picture, arguments, text):
    done = fx("cam", picture, *arguments)
    assert done.exit_code == 2
    assert text in done.stderr
    assert done.stdout == ""


def test_bad_pictures_are_rows(trained, picture):
    Path("bad.png").write_bytes(b"")
    done = fx("cam", picture, "bad.png", "--quiet")
    assert done.exit_code == 9
    assert [row["status"] for row in csv.DictReader(io.StringIO(done.stdout))] == ["ok", "error"]


def test_an_error_record_has_no_numbers(trained):
    Path("bad.png").write_bytes(b"")
    done = fx("cam", "bad.png", "--json", "--quiet")
    assert done.exit_code == 9
    assert list(json.loads(done.stdout)) == ["path", "status", "reason", "assumes_fracture", "notice"]


def test_no_cell_is_a_formula(trained, picture):
    Path("=x.png").write_bytes(picture.read_bytes())
    (row,) = csv.DictReader(io.StringIO(fx("cam", "=x.png", "--quiet").stdout))
    assert row["path"] == "./=x.png"


def test_pictures_say_what_they_are_and_are_no_radiographs(trained, picture):
    fx("cam", picture, "--out", "why", "--quiet")
    for file in Path("why").glob("*.png"):
        with Image.open(file) as drawn:
            mark = json.loads(drawn.text[MARK])
        assert mark == {"heat_map": True, "notice": notice({})}
    done = fx("cam", "why", "--quiet")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["reason"] for row in rows] == ["a heat map that fx drew"] * 2


def test_the_methods_are_those_that_there_are():
    assert [method.value for method in cam.Method] == list(gradcam.METHODS)
