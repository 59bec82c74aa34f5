"""fx from Python gives what its commands give."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import fxcli
from fxcli.cli import app
from fxcli.errors import FxError, NothingFound, RunError, UsageError

README = Path(__file__).resolve().parent.parent / "README.md"


def rows_of(*arguments):
    done = CliRunner().invoke(app, ["predict", *map(str, arguments), "--json", "--quiet"])
    assert done.exit_code in (0, 9), done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_answers_are_the_rows_of_fx_predict(trained, prepared):
    folder = prepared / "pictures" / "test"
    model = fxcli.load(trained.path, quiet=True)
    said = model.predict(folder)
    assert [each.row for each in said] == rows_of(folder, "--model", trained.path)
    assert all(each.label in model.classes and each.reason == "" for each in said)
    assert all(sum(each.probabilities.values()) == pytest.approx(1, abs=1e-5) for each in said)
    assert all(each.heat is None and each.overlay is None for each in said)
    assert {each.features.shape for each in said} == {(32,)}
    assert model.info["name"] == "tiny"


def test_paths_of_every_kind_and_one_that_cannot_be_read(trained, prepared, tmp_path):
    folder = prepared / "pictures" / "test" / "class_0"
    one = sorted(folder.iterdir())[0]
    (tmp_path / "no.png").write_bytes(b"no picture")
    model = fxcli.load(str(trained.path), quiet=True)
    said = model.predict([str(one), folder, tmp_path / "no.png"])
    assert [each.path for each in said] == [one, *sorted(folder.iterdir()), tmp_path / "no.png"]
    assert said[0].label == said[1].label
    assert said[-1].label is None
    assert said[-1].probabilities == {}
    assert said[-1].features is None
    assert said[-1].reason
    # Not the same bits: the picture stood in another batch.
    assert model.predict(str(one))[0].probabilities == pytest.approx(said[0].probabilities, abs=1e-5)


def test_heat_maps_add_up_to_what_the_head_says(trained, prepared):
    one = sorted((prepared / "pictures" / "test" / "class_1").iterdir())[0]
    (seen,) = fxcli.load(trained.path, quiet=True).predict(one, heat_maps=True)
    assert seen.heat.dtype == np.float32
    assert seen.overlay.shape == (*seen.heat.shape, 3)
    assert seen.overlay.dtype == np.uint8
    assert np.ptp(seen.heat) > 0


def test_mistakes_are_errors_of_fx(trained, prepared, tmp_path):
    model = fxcli.load(trained.path, quiet=True)
    with pytest.raises(NothingFound):
        model.predict(tmp_path)
    with pytest.raises(UsageError, match="knows nothing of its own errors"):
        model.predict(prepared, sets=True)
    with pytest.raises(RunError, match="no run directory or model file"):
        fxcli.load("nothing")
    with pytest.raises(UsageError, match="score is for a detector"):
        model.predict(prepared, score=0.5)
    assert issubclass(RunError, FxError)


def test_the_lines_in_the_readme_run(trained, prepared, capsys):
    """As they stand, but for the names of model and folder; with a picture that cannot be read."""
    folder = shutil.copytree(prepared / "pictures/test", "folder")
    Path(folder, "bad.png").write_bytes(b"no picture")
    (code,) = re.findall(r"```python\n(import fxcli\n.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.splitlines()) <= 5
    code = code.replace('"final"', repr(str(trained.path))).replace('"folder/"', repr(folder))
    exec(code, {})
    told = capsys.readouterr().out.splitlines()
    assert len(told) == len(list(Path(folder).rglob("*.png")))
    assert told[0] == f"{folder}/bad.png not a picture, or of an unknown format {{}}"
    assert all(re.match(r".*\.png class_\d {'class_0': 0\.\d+, ", line) for line in told[1:])


def test_importing_fx_imports_no_torch():
    code = "import fxcli, sys; fxcli.load; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
