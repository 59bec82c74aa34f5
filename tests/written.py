"""Recipes that a test writes down; for test_recipe_*."""

from pathlib import Path

import pytest

from fxcli.errors import RecipeError
from fxcli.recipe.load import load

PHANTOM = "data: {source: phantom}\n"


def write(name="r.yaml", text=""):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return name


def made(text, *sets):
    return load(write("r.yaml", PHANTOM + text), sets).recipe


def problems(name, sets=(), **options):
    with pytest.raises(RecipeError) as error:
        load(name, sets, **options)
    assert error.value.exit_code == 3
    return error.value.problems
