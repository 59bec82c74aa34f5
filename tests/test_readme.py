import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from readme_blocks import BLOCK, MAKERS, README, filled


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
