import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from readme_blocks import BLOCK, MAKERS, README, filled

from fxcli.data.prepare import prepare
from fxcli.recipe.load import load


@pytest.mark.slow
def test_generated_blocks_are_up_to_date():
    text = README.read_text(encoding="utf-8")
    assert {found["name"] for found in BLOCK.finditer(text)} == set(MAKERS)
    assert filled(text) == text, "run: python tests/readme_blocks.py"


def test_every_command_and_recipe_named_in_it_exists():
    from fxcli.cli import app
    from fxcli.recipe.load import shipped

    text = README.read_text(encoding="utf-8")
    names = {info.name for info in app.registered_commands} | {group.name for group in app.registered_groups}
    for command in re.findall(r"(?:^|`|&& )(?:fx|python -m fxcli) ([a-z]+)", text, re.MULTILINE):
        assert command in names, command
    for recipe in re.findall(r"recipes/(\w+)\.yaml", text):
        assert recipe in shipped(), recipe


def main_job():
    """The commands of the first one that a newcomer types, without the installation."""
    text = README.read_text(encoding="utf-8")
    (line,) = re.findall(r'^python -m pip install -e "\.\[lite\]" && (.*)$', text, re.MULTILINE)
    return [shlex.split(command) for command in line.split("&&")]


def test_the_first_command_ends_with_the_page_to_open_first():
    last = main_job()[-1]
    (page,) = re.findall(r"\*\*Open `(.*?)` first\*\*", README.read_text(encoding="utf-8"))
    assert last[last.index("--report") + 1] == page


@pytest.mark.slow
def test_the_first_command_runs(monkeypatch):
    """As it stands there, but that one epoch on small pictures is enough to see that it does."""
    Path("recipes").symlink_to(README.parent / "recipes")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(README.parent), str(README.parent / "plugins")]))
    train, *others = main_job()
    for python, *command in [[*train, "--set", "train.epochs=1", "--set", "data.image_size_px=64"], *others]:
        assert python == "python"
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    assert 'class="heat"' in Path("out/index.html").read_text(encoding="utf-8")
    pictures = len(list(Path("prepared/phantom/pictures/test").rglob("*.png")))
    assert (
        len(list(Path("out").rglob("*.png")))
        == pictures
        == len(Path("out/predictions.csv").read_text().splitlines()) - 1
    )


def fracatlas(root):
    """A tiny folder as in FracAtlas' zip: its COCO file lists the 12 pictures with a fracture, not the 12 others."""
    images, boxes, lines = [], [], ["image_id,hand,leg,hardware,fractured,fracture_count\n"]
    rng = np.random.default_rng(0)
    for number in range(24):
        name, is_fractured = f"IMG{number:07}.jpg", number % 2
        file = root / "images" / ("Fractured" if is_fractured else "Non_fractured") / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 30), dtype=np.uint8)).save(file)
        lines.append(f"{name},1,0,0,{is_fractured},{is_fractured}\n")
        if is_fractured:
            images.append({"id": number, "file_name": name, "width": 30, "height": 40})
            boxes.append({"id": number, "image_id": number, "category_id": 0, "bbox": [5, 5, 9, 9]})
    (root / "dataset.csv").write_text("".join(lines))
    coco = root / "Annotations" / "COCO JSON" / "COCO_fracture_masks.json"
    coco.parent.mkdir(parents=True)
    categories = [{"id": 0, "name": "fractured"}]
    coco.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))


def test_fracatlas_as_its_zip_has_it_becomes_what_the_recipes_read():
    (code,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
        if "dataset.csv" in block
    )
    fracatlas(Path("FracAtlas"))
    exec(compile(code, "README.md", "exec"), {})
    sets = ["data.source=FracAtlas/images.csv", "boxes.classes={fractured: fracture}"]
    sets.append("boxes.source=FracAtlas/Annotations/COCO JSON/COCO_fracture_masks.json")
    loaded = load("fracatlas_boxes", [*sets, "data.prepared_px=32", "data.workers=0", "audit.search=false"])
    found = prepare(loaded.recipe, Path("out"))
    assert {(row.source.partition("/")[0], row.label) for row in found.rows} == {
        ("Fractured", "fracture"),
        ("Non_fractured", "no_fracture"),
    }
    assert {row.column("hand") for row in found.rows} == {"1"}
    record = found.boxes.record()
    numbers = {key: record[f"pictures_{key}"] for key in ("with", "without", "unknown", "unused")}
    assert numbers == {"with": 12, "without": 12, "unknown": 0, "unused": 0}
    assert record["classes"] == ["fracture"]


def test_links_inside_lead_somewhere():
    text = README.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("http"):
            assert (README.parent / target).exists(), target
