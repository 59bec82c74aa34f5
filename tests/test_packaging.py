"""The wheel holds everything: built and installed for real into a folder, then run from elsewhere."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import fxcli

ROOT = Path(__file__).resolve().parent.parent


def test_version_and_changelog_agree():
    assert f"## [{fxcli.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"version: {fxcli.__version__}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_extras_are_as_promised():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert set(extras) == {"lite", "dicom", "export", "report", "yolo", "parquet", "track", "ray", "all", "dev"}
    inside = extras["all"][0].removeprefix("fxcli[").removesuffix("]").split(",")
    assert set(inside) == set(extras) - {"all", "dev"}
    assert project["requires-python"] == ">=3.11"


@pytest.mark.slow
def test_a_wheel_runs_anywhere(tmp_path):
    def python(*arguments, **settings):
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, **settings)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    python("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT))
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "fxcli/py.typed" in names
    assert "fxcli/_recipes/final.yaml" in names
    assert "fx_simclr/__init__.py" in names
    assert "fx_yolo/network.py" in names
    assert {"fxcli/data/base.html.j2", "fxcli/data/page.html.j2"} <= set(names)
    assert {f"fxcli/report/{name}" for name in ("report.html.j2", "gallery.html.j2", "gallery.js")} <= set(names)
    assert {"fx_timm/family.py", "fx_tensorboard/tracker.py", "fxcli/_kit/tests/test_backbone.py"} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "recipes/")) or name.endswith((".png", ".jpg"))]
    target = tmp_path / "site"
    python("-m", "pip", "install", "--no-deps", "--target", str(target), str(wheel))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(target)}
    shown = python("-m", "fxcli", "recipe", "show", "final", cwd=elsewhere, env=environment)
    assert "mixup: 0.2" in shown
    begun = python("-m", "fxcli", "plugins", "new", "mine", cwd=elsewhere, env=environment)
    assert Path("mine", "mine.py").as_posix() in begun
    assert 'name="mine"' in (elsewhere / "mine" / "mine.py").read_text(encoding="utf-8")
    code = "import fxcli, fx_simclr; print(fxcli.__file__)"
    assert str(target) in python("-c", code, cwd=elsewhere, env=environment)
