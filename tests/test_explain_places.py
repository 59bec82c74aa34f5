from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
from PIL import Image

from fxcli.errors import UsageError
from fxcli.explain import places
from fxcli.explain.places import Drawing, below_shared, check_places, output_names
from fxcli.explain.png import save_drawn


def test_names_mirror_the_tree_below_the_shared_folder():
    assert output_names([Path("a/x.png"), Path("a/b/x.png")]) == [Path("x.png"), Path("b/x.png")]
    assert output_names([Path("only.png")]) == [Path("only.png")]
    assert output_names([]) == []


def test_names_that_are_too_long_for_a_suffix():
    names = output_names([Path("a") / ("x" * 250 + f"{i}.png") for i in range(2)] + [Path("a/y.png")])
    assert len(set(names)) == 3
    assert names[2] == Path("y.png")
    for name in names[:2]:
        Path(f"{name}.overlay.png.0123456789ab.part").touch()
    (wide,) = output_names([Path("é" * 125 + ".png")])
    assert len(str(wide).encode()) <= 200
    assert str(wide).startswith("ééé")


def test_names_do_not_meet_folders():
    names = output_names([Path("a/x.png/1.png"), Path("a/x"), Path("a/y.overlay.png/2.png"), Path("a/y"), Path("a/z")])
    for name in names:
        for suffix in (".png", ".overlay.png", ".map.npy"):
            file = Path("out") / f"{name}{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            assert not file.exists()
            file.touch()
    assert names[4] == Path("z")


def test_what_another_thread_takes_away_is_gone(monkeypatch):
    file, real = Path("drawn.png"), places.is_drawn
    save_drawn(np.zeros((4, 4, 3), np.uint8), file, "a notice")
    monkeypatch.setattr(places, "is_drawn", lambda path: (real(path), path.unlink())[0])
    Drawing(file, "").remove()
    assert not file.exists()


def test_the_overlay_of_one_picture_and_the_pair_of_another_do_not_meet():
    names = output_names([Path("a/x.png"), Path("a/x.png.overlay")])
    made = {f"{name}{suffix}" for name in names for suffix in (".png", ".overlay.png", ".map.npy")}
    assert len(made) == 6


def test_what_is_drawn_takes_the_place_of_what_was_drawn_alone():
    save_drawn(np.zeros((4, 4, 3), np.uint8), Path("drawn.png"), "a notice")
    check_places([Path("drawn.png"), Path("new.png")], [])
    Image.new("L", (4, 4)).save("own.png")
    for path in (Path("own.png"), Path("new.png")):
        with pytest.raises(UsageError, match="would replace the picture"):
            check_places([path], [Path("new.png")])
    check_places([Path("own.png")], [], may_replace=True)


def test_two_windows_drives_share_nothing():
    texts = (r"C:\a\x.png", r"c:\A\y.png", r"D:\a\x.png", r"\\host\share\x.png")
    paths = [PureWindowsPath(text) for text in texts]
    assert below_shared(paths[:2]) == [Path("x.png"), Path("y.png")]
    assert below_shared(paths) == [Path("C/a/x.png"), Path("c/A/y.png"), Path("D/a/x.png"), Path("host_share/x.png")]
