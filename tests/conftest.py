"""Fixtures of all tests: each runs in an empty folder of its own, with one thread, a cache and a key of its own."""

import multiprocessing.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

# Before torch is imported: on a busy machine two spinning threads are many times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from typer.testing import CliRunner

# Plugins of strangers, whose tests are for where they are installed.
collect_ignore = ["third_party"]
# Tests that import OpenVINO themselves tell nobody, either: see inference/runtimes.
sys.modules.setdefault("openvino_telemetry", None)
REAL_DATA = Path(os.environ.get("FX_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="session", autouse=True)
def _own_temporary_folder(tmp_path_factory):
    """Takes away with the session what torchrun, and processes that a test kills, leave among temporary files.

    Its name is short: sockets are made in it, whose paths must not be long.
    """
    tmp_path_factory.getbasetemp()  # of pytest, which keeps the last of them, stays outside
    multiprocessing.util.get_temp_dir()  # of this process, which takes it away itself, when it ends
    with (
        tempfile.TemporaryDirectory(prefix="fx-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    from fxcli.console import console

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FX_CACHE_DIR", str(tmp_path / "cache"))
    for variable in ("XDG_DATA_HOME", "APPDATA"):
        monkeypatch.setenv(variable, str(tmp_path / "share"))
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
    return prepare(load_default(sets, name="tiny").recipe, root / "prepared").folder


@pytest.fixture(scope="session")
def prepared_boxes(tmp_path_factory):
    """A prepared folder with boxes: 12 train, 6 val and 6 test pictures with one bright bar, and as many with none."""
    import json

    import numpy as np
    from PIL import Image

    from fxcli.data.prepare import prepare
    from fxcli.recipe.load import load_default

    root = tmp_path_factory.mktemp("boxed")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(48):
        name = f"{'none' if number % 2 else 'broken'}/{('train', 'val', 'train', 'test')[number // 2 % 4]}/{number}.png"
        clouds = Image.fromarray(rng.integers(0, 110, (6, 4), dtype=np.uint8)).resize(
            (64, 96), Image.Resampling.BICUBIC
        )
        pixels = np.asarray(clouds).copy()
        images.append({"id": number, "file_name": name, "width": 64, "height": 96})
        if not number % 2:
            left, top, width, height = (int(rng.integers(*span)) for span in ((4, 38), (4, 66), (14, 22), (14, 24)))
            pixels[top : top + height, left : left + width] = 250
            annotations.append({"image_id": number, "category_id": 1, "bbox": [left, top, width, height]})
        file = root / "source" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    boxes = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "fracture"}]}
    (root / "boxes.json").write_text(json.dumps(boxes))
    sets = [f"data.source='{root / 'source'}'", f"boxes.source='{root / 'boxes.json'}'", "data.prepared_px=96"]
    sets += ["data.workers=0", "audit.search=false"]
    return prepare(load_default(sets, name="boxed").recipe, root / "prepared").folder


@pytest.fixture
def tiny_detect(demo_zoo, prepared_boxes):
    """Makes a detect recipe on `prepared_boxes` with demo_tiny: tiny_detect("train.epochs=2", phases=…)."""
    from fxcli.recipe.load import load

    def make(*sets, phases=""):
        Path("boxes.yaml").write_text(
            "task: detect\n"
            f"data: {{manifest: '{prepared_boxes / 'manifest.csv'}', workers: 0, image_size_px: 96}}\n"
            "model: {backbone: demo_tiny, init: random}\n"
            "detect: {options: {channels: 32, finest_stride: 4}}\n"
            "optim: {lr: 2e-3, clip_norm: 5.0}\n"
            "train: {epochs: 2, batch_size: 4}\n"
            f"{phases}\n",
            encoding="utf-8",
        )
        return load("boxes.yaml", sets).recipe

    return make


@pytest.fixture(scope="session")
def found_folder(tmp_path_factory, demo_zoo, prepared_boxes):
    """A detector that knows where the bars of `prepared_boxes` are."""
    from fxcli.cli import app

    folder = tmp_path_factory.mktemp("detector")
    recipe = folder / "where.yaml"
    recipe.write_text(
        "task: detect\n"
        f"data: {{manifest: '{prepared_boxes / 'manifest.csv'}', workers: 0, image_size_px: 96}}\n"
        "model: {backbone: demo_tiny, init: random}\n"
        "detect: {options: {channels: 32, finest_stride: 4}}\n"
        "optim: {lr: 3e-3, clip_norm: 5.0}\n"
        "train: {epochs: 10, batch_size: 4, ema: 0.9}\n"
    )
    done = CliRunner().invoke(app, ["train", str(recipe), "--out", str(folder / "run"), "--quiet"])
    assert done.exit_code == 0, done.output
    return folder / "run"


@pytest.fixture
def detector(found_folder):
    """A copy of it."""
    shutil.copytree(found_folder, "runs/where")
    return Path("runs/where")


@pytest.fixture(scope="session")
def reported_runs(tmp_path_factory, demo_zoo, prepared, prepared_boxes):
    """A folder of runs that were trained and measured once: one, other, folds, boxes, views."""
    from reported import make

    root = tmp_path_factory.mktemp("reported")
    make(root, prepared / "manifest.csv", prepared_boxes / "manifest.csv")
    return root


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


@pytest.fixture(scope="session")
def _trained_before(tmp_path_factory):
    """Recipe and command → a folder with the run that they made."""
    return {}, tmp_path_factory.mktemp("trained")


@pytest.fixture
def run_of(_trained_before, demo_zoo):
    """Makes a finished run of tiny.yaml as it is: run_of("runs/a", "--folds", 2). Trained once; others get a copy."""
    from fxcli.cli import app
    from fxcli.console import console
    from fxcli.run.directory import Run

    known, folder = _trained_before

    def make(out, *options):
        command = ["train", "tiny.yaml", "--out", out, "--quiet", *map(str, options)]
        key = (Path("tiny.yaml").read_text(encoding="utf-8"), *command)
        if key in known:
            shutil.copytree(known[key], out)
        else:
            done = CliRunner().invoke(app, command)
            assert done.exit_code == 0, done.output
            console.configure()
            known[key] = shutil.copytree(out, folder / str(len(known)))
        return Run(Path(out))

    return make


@pytest.fixture
def trained(tiny_recipe, run_of):
    """A finished run of two epochs."""
    tiny_recipe()
    return run_of("runs/trained")
