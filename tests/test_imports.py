"""Which way imports point, and that the light commands stay light. Read from syntax trees, so no import can hide."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fxcli
from fxcli import errors
from fxcli.zoo import hookspecs, specs

ROOT = Path(fxcli.__file__).resolve().parent
PLUGINS = ROOT.parent / "plugins"

# An import points to a layer further down, or stays within its package. Packages of one line are neighbours.
LAYERS = (
    {"__main__"},
    {"cli"},
    {"api", "commands", "testing"},
    {"training", "report"},
    {"explain"},
    {"inference"},
    {"evaluation"},
    {"model"},
    {"data"},
    {"recipe", "run"},
    {"zoo"},
    {"console"},
    {"errors", "progress"},
)
RANKS = {package: rank for rank, layer in enumerate(LAYERS) for package in layer}

# What the public names of `fxcli` are made of.
PUBLIC = {"api", "errors", "zoo"}

HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "sklearn",
    "numpy",
    "PIL",
    "pydicom",
    "safetensors",
    "imagehash",
    "pyarrow",
    "ray",
}


def modules(folder: Path) -> dict[str, Path]:
    """Dotted name below `folder` → file."""
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(folder.rglob("*.py"))
    }


def imported(tree: ast.AST, package: str = "") -> Iterator[tuple[int, str, str]]:
    """(line, module, name) of every import anywhere in a syntax tree; `package` resolves relative ones."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from ((node.lineno, part.value, "") for part in node.args[:1] if isinstance(part, ast.Constant))


def internal(module: str, name: str) -> str | None:
    """The package of fxcli that an import reaches; "" for the public names, None for other libraries."""
    parts = module.split(".")
    if parts[0] != "fxcli":
        return None
    if len(parts) > 1:
        return parts[1]
    return name if name in RANKS else ""


def violations(files: dict[str, str]) -> list[str]:
    """Imports among modules of fxcli (dotted name below fxcli → source) that point the wrong way."""
    found = []
    for module, source in files.items():
        home = module.partition(".")[0] if module != "__init__" else ""
        package = f"fxcli.{module}".rpartition(".")[0]
        for line, target, name in imported(ast.parse(source), package):
            reached = internal(target, name)
            allowed = reached in (None, home)
            if not home:
                allowed = allowed or reached in PUBLIC
            elif reached == "":
                # The version is the one public name that fxcli itself reads.
                allowed = name == "__version__"
            elif reached is not None and not allowed:
                allowed = RANKS[home] < RANKS[reached]
            if not allowed:
                found.append(f"{module}:{line} imports {target} {name}".rstrip())
    return found


@pytest.mark.slow
def test_imports_point_down():
    files = {name: path.read_text(encoding="utf-8") for name, path in modules(ROOT).items()}
    assert {name.partition(".")[0] for name in files} - {"__init__"} <= set(RANKS), "a package without a layer"
    assert violations(files) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("errors", "from fxcli.console import console"),
        ("zoo.specs", "import fxcli.recipe.schema"),
        ("recipe.load", "from fxcli.run import directory"),
        ("data.scan", "def f():\n    from fxcli.model import init"),
        ("model.init", "if TYPE_CHECKING:\n    from fxcli.training import optim"),
        ("evaluation.metrics", "from fxcli import inference"),
        ("commands.train", "from fxcli.testing import tiny_dataset"),
        ("commands.train", "import fxcli.cli"),
        ("zoo.plugins", "from fxcli import BackboneSpec"),
        ("zoo.plugins", "from ..recipe import load"),
        ("run.files", "importlib.import_module('fxcli.data.scan')"),
        ("__init__", "from fxcli.recipe import load"),
    ],
)
def test_a_wrong_import_is_seen(module, source):
    assert violations({module: source}) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("console", "from fxcli.errors import FxError"),
        ("zoo.plugins", "from fxcli import __version__\nfrom fxcli.zoo import hookspecs"),
        ("zoo.plugins", "from .specs import Stage\nfrom ..errors import FxError"),
        ("__init__", "from fxcli.zoo.specs import Stage"),
        ("training.classify", "from fxcli.model import freeze\nimport torch"),
        ("__main__", "from fxcli.cli import main"),
    ],
)
def test_a_right_import_is_let_through(module, source):
    assert violations({module: source}) == []


@pytest.mark.slow
def test_no_plugin_is_imported_by_fx():
    own = {path.name for path in PLUGINS.iterdir() if path.is_dir() and (path / "__init__.py").is_file()}
    assert own >= {"fx_efficientnet", "fx_simclr", "fx_tensorboard", "fx_timm", "fx_yolo"}
    for name, path in modules(ROOT).items():
        targets = {target.partition(".")[0] for _, target, _ in imported(ast.parse(path.read_text(encoding="utf-8")))}
        assert not targets & own, name


def test_plugins_use_public_names_alone():
    for module, path in modules(PLUGINS).items():
        own = module.partition(".")[0]
        for line, target, name in imported(ast.parse(path.read_text(encoding="utf-8")), own):
            top = target.partition(".")[0]
            where = f"{path.name}:{line} imports {target}"
            assert not top.startswith("fx_") or top == own, where
            if top == "fxcli":
                assert target == "fxcli", where
                assert name in fxcli.__all__, where


def test_public_names_are_there():
    assert sorted(fxcli.__all__) == sorted(set(fxcli.__all__))
    assert all(hasattr(fxcli, name) for name in fxcli.__all__)
    assert set(fxcli.__all__) <= set(dir(fxcli))
    assert fxcli.FxError is errors.FxError
    assert fxcli.hookimpl is hookspecs.hookimpl
    assert fxcli.BackboneSpec is specs.BackboneSpec


def test_a_name_that_is_not_public_is_not_there():
    with pytest.raises(AttributeError, match="module 'fxcli' has no attribute 'BaseModel'"):
        _ = fxcli.BaseModel


def eager(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, top-level name) of what is imported as soon as the module is: not in functions, nor for types alone."""
    waiting: list[ast.stmt] = list(tree.body)
    for node in waiting:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((line, target.partition(".")[0]) for line, target, _ in imported(node))
        for block in ("body", "orelse", "finalbody"):
            waiting += getattr(node, block, [])
        waiting += [line for handler in getattr(node, "handlers", []) for line in handler.body]


def test_eager_imports_are_told_from_late_ones():
    source = """
import torch.nn
if TYPE_CHECKING:
    import numpy
else:
    import timm
try:
    from PIL import Image
except ImportError:
    import sklearn
class A:
    import pydicom
    def f(self):
        import safetensors
def g():
    import imagehash
"""
    assert {name for _, name in eager(ast.parse(source))} == {"torch", "timm", "PIL", "sklearn", "pydicom"}


def light() -> dict[str, Path]:
    """The modules that must not import anything heavy when they are imported."""
    found = modules(ROOT)
    names = [
        name
        for name in found
        if name.partition(".")[0] in ("__init__", "__main__", "cli", "commands", "errors", "console", "recipe", "zoo")
    ]
    names += ["run", "run.directory", "run.provenance", "run.files"]
    plugins = {name: path for name, path in modules(PLUGINS).items() if path.name == "__init__.py"}
    return {name: found[name] for name in names} | plugins


@pytest.mark.parametrize(("name", "path"), light().items())
def test_light_modules_import_nothing_heavy(name, path):
    found = [f"{path}:{line} {top}" for line, top in eager(ast.parse(path.read_text("utf-8"))) if top in HEAVY]
    assert found == []


LIGHT_COMMANDS = (
    ["--help"],
    ["--version"],
    ["train", "--help"],
    ["predict", "--help"],
    ["recipe", "check", "final"],
    ["recipe", "list"],
    ["recipe", "show", "final"],
    ["runs"],
    ["plugins"],
)


@pytest.mark.slow
def test_light_commands_import_nothing_heavy():
    code = """
import json, sys
from fxcli.cli import app
loaded = {}
for arguments in json.loads(sys.argv[1]):
    try:
        app(arguments)
    except SystemExit as end:
        assert not end.code, (arguments, end.code)
    loaded[" ".join(arguments)] = sorted({name.partition(".")[0] for name in sys.modules} & set(sys.argv[2].split()))
print(json.dumps(loaded), file=sys.stderr)
"""
    arguments = [sys.executable, "-c", code, json.dumps(LIGHT_COMMANDS), " ".join(HEAVY)]
    done = subprocess.run(arguments, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stderr.splitlines()[-1])
    assert loaded == {" ".join(command): [] for command in LIGHT_COMMANDS}


def test_the_public_names_import_nothing_heavy():
    code = f"from fxcli import *; import sys; sys.exit(', '.join(sorted({HEAVY!r} & set(sys.modules))) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
