"""Fixtures of all tests: each runs in an empty folder of its own, with one thread and a cache of its own."""

import os
import sys
from pathlib import Path

# Before torch is imported: on a busy machine two spinning threads are many times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from typer.testing import CliRunner

REAL_DATA = Path(os.environ.get("FX_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    from fxcli.console import console

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("FX_DISABLE_PLUGINS", raising=False)
    yield
    console.configure()


@pytest.fixture
def real_data():
    """The folder of real pictures; the test is skipped where there is none."""
    if not (REAL_DATA / "bone_break").is_dir():
        pytest.skip("the real pictures are not here")
    return REAL_DATA


@pytest.fixture(scope="session")
def demo_zoo():
    """The zoo with demo_tiny of tests/third_party in it, for loops that must be quick."""
    from importlib.metadata import EntryPoint

    from fxcli.zoo.plugins import Plugin, load_zoo

    zoo = load_zoo()
    if "demo_tiny" not in zoo.backbones():
        sys.path.insert(0, str(Path(__file__).parent / "third_party" / "fx_demo"))
        entry = EntryPoint("demo", "fx_demo", "fx.plugins")
        zoo.load(Plugin(name="demo", distribution="fx-demo", version="0.1", module="fx_demo"), entry)
    return zoo


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A prepared folder of 3 classes: 8 train, 4 val and 4 test pictures of each, at 64 px."""
    from fxcli.data.prepare import prepare
    from fxcli.recipe.load import load_default
    from fxcli.testing import tiny_dataset

    root = tmp_path_factory.mktemp("tiny")
    source = tiny_dataset(root / "source", per_class=16)
    for folder in source.iterdir():
        for index, file in enumerate(sorted(folder.iterdir())):
            target = folder / ("train" if index < 8 else "val" if index < 12 else "test")
            target.mkdir(exist_ok=True)
            file.rename(target / file.name)
    sets = [f"data.source='{source}'", "data.prepared_px=64", "data.workers=0", "audit.search=false"]
    return prepare(load_default("prepare", sets, name="tiny").recipe, root / "prepared").folder


@pytest.fixture
def tiny_recipe(demo_zoo, prepared):
    """Makes a classify recipe on `prepared` with demo_tiny: tiny_recipe("train.epochs=2", phases=…)."""
    from fxcli.recipe.load import load

    def make(*sets, phases=""):
        Path("tiny.yaml").write_text(
            f"data: {{manifest: '{prepared / 'manifest.csv'}', workers: 0}}\n"
            "model: {backbone: demo_tiny, init: random}\n"
            "optim: {lr: 3e-3}\n"
            "train: {epochs: 2, batch_size: 8}\n"
            f"{phases}\n",
            encoding="utf-8",
        )
        return load("tiny.yaml", sets).recipe

    return make


@pytest.fixture
def trained(tiny_recipe, demo_zoo):
    """A finished run of two epochs."""
    from fxcli.cli import app
    from fxcli.console import console
    from fxcli.run.directory import Run

    tiny_recipe()
    done = CliRunner().invoke(app, ["train", "tiny.yaml", "--out", "runs/trained", "--quiet"])
    assert done.exit_code == 0, done.output
    console.configure()
    return Run(Path("runs/trained"))
