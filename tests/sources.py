"""What the tests of preparation share: drawn sources, recipes, and the command."""

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.data.prepare import prepare
from fxcli.recipe.load import load_default


def fx(*arguments, code=0):
    done = CliRunner().invoke(app, ["prepare", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def draw(*names, seed=0):
    """Small pictures, all different."""
    for name in names:
        seed = int.from_bytes(hashlib.sha256(f"{seed}{name}".encode()).digest()[:4], "big")
        pixels = np.random.default_rng(seed).integers(0, 256, (24, 32), dtype=np.uint8)
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(name)


def tree(root="source", classes=("one", "two"), count=8, parts=("",)):
    draw(*(f"{root}/{name}/{part}/{i}.png" for name in classes for part in parts for i in range(count)))
    return Path(root)


def recipe(source, **changes):
    # Looking takes seconds; the tests of the audit ask for it.
    changes = {"audit__search": False, **changes}
    sets = [f"data.source='{source}'", "data.prepared_px=32", "data.workers=0"]
    sets += [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in changes.items()]
    return load_default(sets, name="test").recipe


def made(source, out="out", **changes):
    return prepare(recipe(source, **changes), Path(out))


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())
