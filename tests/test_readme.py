import re

from readme_blocks import BLOCK, MAKERS, README, filled


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
