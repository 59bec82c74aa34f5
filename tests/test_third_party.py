"""Plugins of strangers: distributions that pip installs for real, and fx in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fxcli.data.manifest import Row, write_manifest
from fxcli.data.preprocess import Clean

HERE = Path(__file__).parent / "third_party"
VERSIONS = {
    "fx_demo": "0.1.0",
    "fx_broken": "0.0.1",
    "fx_clash": "0.0.2",
    "fx_misspelt": "0.0.3",
    "fx_siamese": "0.1.0",
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Each distribution in a folder of its own, so that a test chooses by path which are there."""
    folders = {}
    for name in VERSIONS:
        folders[name] = tmp_path_factory.mktemp(name)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
        where = ["--no-deps", "--no-build-isolation", "--target", str(folders[name]), str(HERE / name)]
        subprocess.run([*pip, *where], check=True)
    return folders


@pytest.fixture
def fx(installed):
    """Runs fx with some of the distributions on the path."""

    def run(*arguments: str, plugins: tuple[str, ...], **env: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(str(installed[name]) for name in plugins)
        return subprocess.run(
            [sys.executable, "-m", "fxcli", *arguments],
            env={**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1", **env},
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )

    return run


def listing(done: subprocess.CompletedProcess[str]) -> tuple[dict[str, dict], dict[str, dict]]:
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    return {each["name"]: each for each in record["plugins"]}, {each["name"]: each for each in record["backbones"]}


@pytest.mark.slow
def test_the_demo_is_found_and_works(fx, installed):
    plugins, backbones = listing(fx("plugins", "--json", plugins=("fx_demo",)))
    assert plugins["demo"] == {
        "name": "demo",
        "distribution": "fx-demo",
        "version": "0.1.0",
        "status": "ok",
        "stage": "",
        "reason": "",
        "hooks": ["fx_register_backbones"],
    }
    assert backbones["demo_tiny"]["plugin"] == "demo"
    code = "from fxcli.testing import check_backbone; check_backbone('demo_tiny')"
    env = {**os.environ, "PYTHONPATH": str(installed["fx_demo"])}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)


def test_broken_plugins_are_listed_with_stage_and_reason(fx):
    plugins, backbones = listing(fx("plugins", "--json", plugins=tuple(VERSIONS)))
    for name, version in VERSIONS.items():
        plugin = plugins[name.removeprefix("fx_")]
        assert (plugin["distribution"], plugin["version"]) == (name.replace("_", "-"), version)
    assert (plugins["broken"]["status"], plugins["broken"]["stage"]) == ("failed", "import")
    assert plugins["broken"]["reason"] == "ModuleNotFoundError: No module named 'a_package_that_nobody_has'"
    assert (plugins["misspelt"]["status"], plugins["misspelt"]["stage"]) == ("failed", "hooks")
    assert "did you mean fx_register_backbones?" in plugins["misspelt"]["reason"]
    assert plugins["clash"]["status"] == plugins["demo"]["status"] == plugins["siamese"]["status"] == "ok"
    assert {"clash/demo_tiny", "demo/demo_tiny"} <= backbones.keys()
    assert "demo_tiny" not in backbones


@pytest.mark.slow
def test_the_table_names_what_failed(fx):
    done = fx("plugins", plugins=("fx_broken", "fx_misspelt"))
    assert done.returncode == 0
    assert "failed import" in done.stdout
    assert "failed hooks" in done.stdout
    assert "a_package_that_nobody_has" in done.stdout


@pytest.mark.slow
def test_check_exits_with_5_if_a_plugin_failed(fx):
    done = fx("plugins", "--check", plugins=("fx_broken",))
    assert done.returncode == 5
    assert "plugins failed to load" in done.stderr
    assert "broken: ModuleNotFoundError" in done.stderr
    assert "Traceback" not in done.stderr
    assert fx("plugins", "--check", plugins=("fx_demo",)).returncode == 0
    assert fx("plugins", "--check", plugins=("fx_broken",), FX_DISABLE_PLUGINS="broken").returncode == 0


@pytest.mark.slow
def test_a_backbone_and_a_pretrainer_of_two_strangers_work_together(fx, tmp_path):
    assert len((HERE / "fx_siamese" / "fx_siamese.py").read_text(encoding="utf-8").splitlines()) < 80
    rng = np.random.default_rng(0)
    rows = [Row(path=f"{number}.png", label="ab"[number % 2], split="train") for number in range(24)]
    for row in rows:
        clouds = Image.fromarray(rng.integers(0, 255, (4, 4), dtype=np.uint8))
        clouds.resize((48, 48), Image.Resampling.BICUBIC).save(tmp_path / row.path)
    write_manifest(tmp_path / "manifest.csv", rows)
    (tmp_path / "fingerprint.json").write_text(json.dumps({"clean": asdict(Clean(prepared_px=48))}), encoding="utf-8")
    recipe = tmp_path / "siamese.yaml"
    recipe.write_text(
        f"""
task: pretrain
data: {{manifest: '{tmp_path / "manifest.csv"}', image_size_px: 32, workers: 0}}
model: {{backbone: demo_tiny, init: random}}
pretrain: {{method: simsiam, options: {{dim: 32}}}}
optim: {{name: sgd, lr: 0.05}}
train: {{epochs: 12, batch_size: 12}}
""",
        encoding="utf-8",
    )
    run, plugins = tmp_path / "run", ("fx_demo", "fx_siamese")
    done = fx("train", str(recipe), "--out", str(run), "--json", plugins=plugins)
    assert done.returncode == 0, done.stderr
    _start, *epochs = (run / "metrics.jsonl").read_text("utf-8").splitlines()
    losses = [json.loads(line)["train_loss"] for line in epochs]
    assert -1 <= losses[-1] < losses[0] <= 1
    done = fx("recipe", "check", str(recipe), "--set", "pretrain.options.dim=0", plugins=plugins)
    assert done.returncode == 3
    assert "pretrain.options.dim" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("plugins", "--help"), ("recipe", "list")])
def test_broken_plugins_stop_no_command_that_does_not_need_them(fx, arguments):
    done = fx(*arguments, plugins=tuple(VERSIONS))
    assert done.returncode == 0, done.stderr
    assert "a_package_that_nobody_has" not in done.stderr


@pytest.mark.slow
def test_a_recipe_with_a_contested_name_is_refused(fx, tmp_path):
    recipe = tmp_path / "contested.yaml"
    text = "task: classify\nname: contested\ndata: {manifest: m.csv}\nmodel: {backbone: %s, init: random}\n"
    recipe.write_text(text % "demo_tiny", encoding="utf-8")
    done = fx("recipe", "check", str(recipe), plugins=("fx_demo", "fx_clash"))
    assert done.returncode == 3
    assert "clash/demo_tiny or demo/demo_tiny" in done.stderr
    recipe.write_text(text % "demo/demo_tiny", encoding="utf-8")
    done = fx("recipe", "check", str(recipe), plugins=("fx_demo", "fx_clash"))
    assert done.returncode == 0, done.stderr
    recipe.write_text(text % "demo_tiny", encoding="utf-8")
    done = fx("recipe", "check", str(recipe), plugins=("fx_broken",))
    assert done.returncode == 3
    assert "not loaded: broken (fx-broken 0.0.1): ModuleNotFoundError" in done.stderr


@pytest.mark.slow
def test_a_blocked_plugin_is_shown_and_frees_the_name(fx):
    done = fx("plugins", "--json", plugins=("fx_demo", "fx_clash"), FX_DISABLE_PLUGINS="clash,nobody")
    plugins, backbones = listing(done)
    assert plugins["clash"]["status"] == "blocked"
    assert backbones["demo_tiny"]["plugin"] == "demo"
    assert "no plugin that can be disabled is named 'nobody'" in done.stderr
