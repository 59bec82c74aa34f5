"""Folders of strangers: nothing that may be a picture is passed over, nothing is listed twice, nothing hangs."""

import ast
import io
import os
import socket
import stat
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fxcli.data.tree import below, looks_like_picture, told, unusable
from fxcli.errors import DataError

links = pytest.mark.skipif(os.name == "nt", reason="links need rights there")


def touch(*names, data=b""):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(data)


def listed(root="in"):
    found, _ = below(Path(root))
    return sorted(path.as_posix() for path in found)


def encoded(kind, **options):
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


# --- what is listed ---


def test_hidden_files_and_those_of_systems_are_passed_over():
    names = ["Thumbs.db", "desktop.ini", ".DS_Store", "._1.png", ".hidden/2.png", "__MACOSX/3.png", "@eaDir/4.jpg"]
    touch("in/1.png", *(f"in/{name}" for name in names), "in/THUMBS.DB.png")
    found, others = below(Path("in"))
    assert sorted(path.name for path in found) == ["1.png", "THUMBS.DB.png"]
    assert others == {"hidden or of the system": len(names)}


def test_a_hidden_folder_that_is_named_is_searched():
    touch(".in/1.png", ".in/.2.png")
    assert listed(".in") == [".in/1.png"]


def test_extensions_in_any_case_and_files_without_one():
    touch("in/a.JPG", "in/b.Png", "in/c.TIFF", "in/folder.jpg/d.png")
    touch("in/IM00001", "in/1.2.840.55", "in/x.dat", data=encoded("PNG"))
    touch("in/README", "in/y.dat", "in/1.2.840.66", data=b"text")
    found, others = below(Path("in"))
    assert len(found) == 7
    assert others == {".dat": 1, "without an extension": 2}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000"])
def test_pictures_are_known_by_how_they_begin(kind):
    touch("in/picture", data=encoded(kind))
    assert listed() == ["in/picture"]


@pytest.mark.parametrize(
    "start",
    [
        b"\0" * 128 + b"DICM",
        b"\x02\0\0\0UL\x04\0" + b"\0" * 130,
        b"\x08\0\x05\0CS\x0a\0ISO_IR 100" + b"\0" * 130,
        b"\x08\0\x08\0\x16\0\0\0ORIGINAL" + b"\0" * 130,
        b"\0\0\0\x18ftypheic" + b"\0" * 130,
    ],
)
def test_dicom_with_and_without_preamble_and_others(start):
    assert looks_like_picture(start[:132])


@pytest.mark.parametrize(
    "start",
    [
        *(
            b"",
            b"text",
            b"BMI,age\n27,45\n" * 12,
            b"RIFF\0\0\0\0WAVEfmt ",
            b"\x08\0",
            b"%PDF-1.7\n",
            b"PK\3\4" + b"\0" * 140,
        ),
        *(b"\x7fELF\2\1\1" + b"\0" * 140, b"\0" * 132, b"<html>" * 30, b"II", b"MM", b"GIF"),
    ],
)
def test_what_begins_as_no_picture(start):
    assert not looks_like_picture(start[:132])


# --- links ---


@links
def test_links_are_followed_but_not_in_circles():
    touch("in/1.png", "other/2.png")
    Path("in/link").symlink_to(Path("other").resolve())
    Path("in/up").symlink_to(Path("in").resolve())
    Path("in/self").symlink_to(".")
    Path("other/back").symlink_to(Path("in").resolve())
    Path("in/3.png").symlink_to("gone.png")
    assert listed() == ["in/1.png", "in/3.png", "in/link/2.png"]


@links
def test_a_folder_is_searched_once_and_at_its_own_place():
    touch("in/z/1.png", "other/deep/2.png")
    for name in ("a", "b", "z/c"):
        (Path("in") / name).symlink_to(Path("in/z").resolve())
    Path("in/d").symlink_to(Path("other/deep").resolve())
    Path("in/e").symlink_to(Path("other").resolve())
    assert listed() == ["in/d/2.png", "in/z/1.png"]


@links
def test_a_link_to_a_folder_above_is_not_followed():
    touch("work/in/sub/1.png", "work/elsewhere/2.png")
    Path("work/in/root").symlink_to("/")
    Path("work/in/sub/up").symlink_to(Path("work").resolve())
    assert listed("work/in") == ["work/in/sub/1.png"]


@links
def test_a_bomb_of_links():
    for level in range(30):
        Path(f"bomb/{level}").mkdir(parents=True)
        for name in "ab":
            Path(f"bomb/{level}/{name}").symlink_to(Path(f"bomb/{level + 1}").resolve())
    touch("bomb/30/1.png")
    Path("in").mkdir()
    Path("in/start").symlink_to(Path("bomb/0").resolve())
    assert len(listed()) == 1


@links
def test_a_named_link_is_followed():
    touch("there/1.png")
    Path("in").symlink_to("there")
    assert listed() == ["in/1.png"]


@links
def test_a_deep_tree():
    folder = "in/" + "/".join(["d"] * 400)
    touch(f"{folder}/1.png")
    assert listed() == [f"{folder}/1.png"]


# --- what cannot be opened ---


@pytest.fixture
def odd():
    """A folder with everything that is called like a picture and is no file."""
    touch("in/1.png")
    os.mkfifo("in/pipe.png")
    Path("in/self.png").symlink_to("self.png")
    Path("in/gone.png").symlink_to("nowhere.png")
    Path("in/device.png").symlink_to("/dev/zero")
    Path("in/to_pipe.png").symlink_to("pipe.png")
    os.mkfifo("in/pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("in/socket.png")
    return Path("in")


@links
def test_what_is_called_like_a_picture_is_listed_whatever_it_is(odd):
    found, others = below(odd)
    assert sorted(path.name for path in found) == [
        *("1.png", "device.png", "gone.png", "pipe.png", "self.png", "socket.png", "to_pipe.png")
    ]
    assert others == {"no file": 1}


@links
def test_reasons(odd):
    reasons = {path.name: unusable(path) for path in odd.iterdir()}
    assert reasons == {
        "1.png": "",
        "device.png": "a device, not a file",
        "gone.png": "a link that leads nowhere",
        "pipe": "a pipe, not a file",
        "pipe.png": "a pipe, not a file",
        "self.png": "a link that leads to itself",
        "socket.png": "a socket, not a file",
        "to_pipe.png": "a pipe, not a file",
    }
    assert unusable(Path("gone")) == "no such file"
    assert unusable(Path("a\0b")) == "no such file"
    assert unusable(odd) == "this is a folder"
    assert "too long" in unusable(Path("x" * 300))


def test_block_devices(monkeypatch):
    touch("disk.png")
    real = os.stat("disk.png")
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", lambda path: os.stat_result((stat.S_IFBLK | 0o600, *real[1:10])))
        reason = unusable(Path("disk.png"))
    assert reason == "a device, not a file"


def as_somebody(function):
    """What a function returns for a user without rights; root may do anything, and becomes nobody for this."""
    if os.geteuid():
        return function()
    ends = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setuid(65534)
            os.write(ends[1], repr(function()).encode())
        finally:
            os._exit(0)
    os.close(ends[1])
    with os.fdopen(ends[0]) as answer:
        value = ast.literal_eval(answer.read())
    os.waitpid(child, 0)
    return value


@pytest.mark.skipif(os.name == "nt", reason="rights are others there")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_what_may_not_be_read():
    touch("in/1.png", "in/locked/2.png", "in/secret.png", "in/secret", "in/notes.txt")
    for path, mode in (("in/locked", 0), ("in/secret.png", 0), ("in/secret", 0), (".", 0o755), ("in", 0o755)):
        os.chmod(path, mode)

    def look():
        try:
            below(Path("in/locked"))
            refused = ""
        except DataError as error:
            refused = str(error)
        return listed(), [unusable(Path("in/locked")), unusable(Path("in/locked/2.png"))], refused

    found, reasons, refused = as_somebody(look)
    os.chmod("in/locked", 0o700)
    # What a file without a telling name is cannot be told, either: its row says why.
    assert found == ["in/1.png", "in/locked", "in/secret", "in/secret.png"]
    assert reasons == ["this folder cannot be listed: Permission denied", "permission denied"]
    assert refused == "in/locked: this folder cannot be listed: Permission denied"


# --- what is said ---


def test_told():
    assert told(Counter({".txt": 3, "no file": 1, ".db": 3})) == "3 .db, 3 .txt, 1 no file"
    many = Counter({f".{letter}": 1 for letter in "abcdefgh"}) + Counter({".z": 5})
    assert told(many) == "5 .z, 1 .a, 1 .b, 1 .c, 1 .d, 1 .e, 3 others"


@links
def test_no_name_moves_the_cursor():
    touch("in/1.png", "in/x.\x1b[2J", "in/y.\x07a", "in/z.a\nb", data=b"text")
    _, others = below(Path("in"))
    assert others == {"without an extension": 3}
