import os
from pathlib import Path

import pytest

from fxcli.data.paths import AS_GIVEN, PathStyle, Shown

PATHS = [Path("secret/a/x.png"), Path("secret/b/x.png"), Path("secret/y.png")]


def test_as_given():
    shown = Shown.of(PathStyle.GIVEN, PATHS)
    assert [shown(path) for path in PATHS] == [str(path) for path in PATHS]
    assert shown == AS_GIVEN


def test_relative_to_the_folder_that_all_share():
    shown = Shown.of(PathStyle.RELATIVE, PATHS)
    assert [shown(path) for path in PATHS] == [str(Path(name)) for name in ("a/x.png", "b/x.png", "y.png")]
    assert Shown.of(PathStyle.RELATIVE, PATHS[:1])(PATHS[0]) == "x.png"
    absolute = [Path(os.path.abspath(path)) for path in PATHS]
    assert Shown.of(PathStyle.RELATIVE, absolute)(absolute[1]) == str(Path("b/x.png"))


def test_hashed_the_same_for_the_same_file():
    shown = Shown.of(PathStyle.HASHED, PATHS)
    names = [shown(path) for path in PATHS]
    assert len(set(names)) == 3
    assert all(len(name) == 32 and set(name) <= set("0123456789abcdef") for name in names)
    assert shown(Path("secret/../secret/a/x.png")) == shown(Path(os.path.abspath(PATHS[0]))) == names[0]


@pytest.mark.parametrize("style", list(PathStyle))
def test_of_nothing(style):
    assert Shown.of(style, []) is not None
