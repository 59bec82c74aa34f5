"""How soon fx starts: what a command imports, and what that costs beside the bare libraries."""

import gc
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fxcli.commands.startup import import_torch

BARE = "import typer, pydantic, yaml, pluggy"


def python(*arguments):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done


def process_after(*arguments):
    """(top-level modules, whether garbage is collected, objects left out of that) of a process that ran fx."""
    code = """
import gc, json, sys
before = gc.get_freeze_count()  # Python 3.12 leaves some of its own out
from fxcli.cli import app
try:
    app(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
modules = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps([modules, gc.isenabled(), gc.get_freeze_count() - before]))
"""
    modules, collects, frozen = json.loads(python("-c", code, *map(str, arguments)).stdout.splitlines()[-1])
    return set(modules), collects, frozen


def test_help_imports_nothing_that_only_work_needs():
    found, collects, frozen = process_after("--help")
    assert {"typer", "fxcli"} <= found
    assert not found & {"pydantic", "pydantic_core", "pluggy", "yaml", "rich", "tqdm", "numpy", "PIL", "torch"}
    assert (collects, frozen) == (True, 0)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A folder with a picture and an untrained model file of resnet18 at 64 px."""
    from fxcli.data.preprocess import Clean, Preprocessing
    from fxcli.model import classifier as models
    from fxcli.recipe.schema import Model
    from fxcli.zoo.plugins import load_zoo

    folder = tmp_path_factory.mktemp("resnet")
    spec, settings = load_zoo().backbone("resnet18"), Model(backbone="resnet18", init="random")
    preprocessing = Preprocessing(Clean(64), 64, "letterbox", spec.input.mean, spec.input.std)
    info = {"task": "classify", "backbone": "resnet18", "model": settings.model_dump(mode="json")}
    network = models.build(spec, settings, 64, 3, seed=0)
    models.TrainedModel((network,), spec, ("a", "b", "c"), preprocessing, info).save(folder / "model.safetensors")
    Image.fromarray(np.arange(6400, dtype=np.uint8).reshape(80, 80)).save(folder / "picture.png")
    return folder


@pytest.mark.slow
def test_predict_imports_no_library_that_it_does_not_use(resnet):
    arguments = ("predict", resnet / "picture.png", "--model", resnet / "model.safetensors", "--quiet")
    found, collects, frozen = process_after(*arguments)
    assert {"torch", "torchvision", "safetensors"} <= found
    assert not found & {"timm", "sklearn", "scipy", "imagehash", "pydicom", "rich", "pandas", "matplotlib"}
    # What torch made is left out of the collecting, which goes on for what the command makes.
    assert collects
    assert frozen > 10_000


def test_what_is_made_after_torch_was_imported_is_collected():
    import torchvision  # noqa: F401

    before = gc.get_freeze_count()
    import_torch()
    assert (gc.isenabled(), gc.get_freeze_count()) == (True, before)


@pytest.mark.parametrize(("module", "left_out"), [("nanobind", False), ("pybind11_builtins", True)])
def test_nothing_is_left_out_at_the_end_where_triton_looks_for_leaks(module, left_out):
    code = """
import atexit, gc, importlib, sys, types
atexit.register(lambda: print(gc.get_freeze_count() > 0))
library = types.ModuleType("triton._C.libtriton")
library.ir = types.SimpleNamespace(builder=type("Meta", (type,), {"__module__": sys.argv[1]})("builder", (), {}))
importlib.import_module = lambda name: sys.modules.update({"triton._C.libtriton": library})
from fxcli.commands.startup import import_torch
import_torch()
assert gc.get_freeze_count() > 0
"""
    assert python("-c", code, module).stdout == f"{left_out}\n"


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_left_as_it_was(enabled):
    code = """
import gc, sys
from fxcli.commands.startup import import_torch
gc.enable() if sys.argv[1] == "True" else gc.disable()
sys.modules["torch"] = None
try:
    import_torch()
except ImportError:
    assert gc.isenabled() is (sys.argv[1] == "True")
else:
    sys.exit("torch was imported")
"""
    python("-c", code, str(enabled))


def seconds(*arguments):
    """User and system time of a process of its own."""
    resource = pytest.importorskip("resource")

    def used():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()
    python(*arguments)
    return used() - before


def ratio(command, base, *, at_most, runs):
    """The least time of `command` over the least time of `base`; measured again, for others may use the machine."""
    for _ in range(3):
        pairs = [(seconds(*command), seconds(*base)) for _ in range(runs)]
        found = min(pair[0] for pair in pairs) / min(pair[1] for pair in pairs)
        if found <= at_most:
            break
    return found


@pytest.mark.slow
def test_help_costs_hardly_more_than_the_bare_imports():
    assert ratio(("-m", "fxcli", "--help"), ("-c", BARE), at_most=1.3, runs=7) <= 1.3


@pytest.mark.slow
def test_predicting_one_picture_costs_hardly_more_than_importing_torch(resnet):
    command = ("-m", "fxcli", "predict", str(resnet / "picture.png"), "--model", str(resnet / "model.safetensors"))
    assert ratio(command, ("-c", "import torch, torchvision"), at_most=1.2, runs=3) <= 1.2
