"""Begins a plugin: a whole distribution with one small backbone, copied from a template under names of its own.

The template is tests/third_party/fx_demo, which is tested as it stands. Called by `fx plugins new`.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fxcli.errors import UsageError
from fxcli.zoo.plugins import Zoo

FILES = ("README.md", "pyproject.toml", "fx_demo.py", "tests/test_backbone.py")

# What a distribution may be called: PEP 508, but with a letter first, for it becomes a module.
_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_OF_TEMPLATE = re.compile(r"fx-demo|fx_demo|demo_tiny|^demo(?= = )", re.MULTILINE)


@dataclass(frozen=True)
class Begun:
    """A plugin that was written.

    Attributes:
        folder: Of the distribution.
        distribution: Its name.
        module: Name of its module, its entry point and its backbone.
        files: Relative to the folder.
    """

    folder: Path
    distribution: str
    module: str
    files: tuple[str, ...]


def begin(name: str, folder: Path, zoo: Zoo) -> Begun:
    """Writes the distribution `name` into a new folder, which is there whole or not at all.

    Raises:
        UsageError: It cannot be called so, the name is taken, or the folder is there already.
    """
    module = re.sub(r"[-.]+", "_", name).lower()
    if not _NAME.fullmatch(name) or keyword.iskeyword(module):
        raise UsageError(
            f"a plugin cannot be called {name!r}", hint="a letter, then letters, digits, -, _ and . (my-backbone)"
        )
    if folder.exists() or folder.is_symlink():
        raise UsageError("is there already, and is never written over", where=folder, hint="another name, or --out")
    if taker := _taker(module, zoo):
        raise UsageError(f"the name '{name}' is taken: {taker}", hint="another name")
    names = {"fx-demo": name, "fx_demo": module, "demo_tiny": module, "demo": module}
    files = tuple(_renamed(file, names) for file in FILES)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as aside:
        # One within it: only its owner may read what tempfile makes.
        made = Path(aside) / folder.name
        for source, target in zip(FILES, files, strict=True):
            text = (_template() / source).read_text(encoding="utf-8")
            (made / target).parent.mkdir(parents=True, exist_ok=True)
            (made / target).write_text(_renamed(text, names), encoding="utf-8")
        made.rename(folder)
    return Begun(folder, name, module, files)


def _renamed(text: str, names: dict[str, str]) -> str:
    return _OF_TEMPLATE.sub(lambda found: names[found[0]], text)


def _template() -> Path:
    """Inside the wheel, or in a checkout."""
    package = Path(__file__).resolve().parent.parent
    packed = package / "_kit"
    return packed if packed.is_dir() else package.parent / "tests" / "third_party" / "fx_demo"


def _taker(module: str, zoo: Zoo) -> str:
    """What is called so already, or nothing."""
    for plugin in zoo.plugins:
        if module in (plugin.name, plugin.distribution.replace("-", "_")):
            return f"the plugin {plugin.name} of {plugin.distribution}"
    for kind, names in (("backbone", zoo.backbones()), ("family of backbones", zoo.families())):
        if module in {name.rpartition("/")[2] for name in names}:
            return f"a {kind}"
    # It would hide that module, or be hidden by it.
    return f"the module {module} is installed here" if importlib.util.find_spec(module) else ""
