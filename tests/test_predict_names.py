"""Names that make trouble, from the folder to every output: predict in both formats, heat maps, cam, prepare."""

import csv
import io
import json
import os
import socket
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sources import draw
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.data.manifest import read_manifest
from fxcli.data.names import path_of
from fxcli.testing import tiny_dataset

pytestmark = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="such names are not possible there")

PICTURES = [
    *(b"a space.png", b"-lead.png", b"--model.png", b"new\nline.png", b"re\rturn.png", b"both\r\n.png", b"\ttab.png"),
    *(b"=cmd|'/c calc'!A1.png", b"+1.png", b"@sum.png", "\uff1dwide.png".encode(), b"q\"uo'te.png", b"com,ma;.png"),
    *(b"<img src=x onerror=alert(1)>.png", b"&amp;.png", b"{{7*7}}.png", b"%s%n%20.png", b"$(id).png", b"`id`.png"),
    *(b"caf\xe9.png", b"\xff\xfe.png", rb"caf\udce9.png", rb"fol\der.png", b"\xed\xa0\x80.png"),
    *("cafe\u0301.png".encode(), "caf\u00e9.png".encode(), "橈骨.png".encode(), "\u202egnp.exe.png".encode()),
    *("line\u2028sep\x85.png".encode(), b"\x1b[2J\x07.png", b"a" * 136 + b".png", b"b" * 251 + b".png", b" .png"),
    *(b"UPPER.PNG", b"without", b"name.dat", b"x.png.png", b"x..png", b"#1.png", b"~.png", b"*.png", b"?.png"),
    *(b"folder.jpg/1.png", b"dir\xff/1.png", b"new\ndir/1.png", b"=dir/1.png", b"-dir/1.png", b"without.png/1.png"),
]
BROKEN = {b"broken.png": "not a picture", b"pipe.png": "a pipe", b"gone.png": "nowhere", b"self.png": "itself"}
PASSED_OVER = [b".hidden.png", b"._a.png", b"__MACOSX/a.png", b".git/a.png", b"Thumbs.db", b"desktop.ini", b"notes.txt"]


@pytest.fixture
def tree(trained):
    """A folder `in` with all of them; every picture looks otherwise."""
    rng = np.random.default_rng(0)
    for name in [*PICTURES, *PASSED_OVER]:
        path = b"in/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as handle:
            if name.endswith((b".db", b".ini", b".txt")):
                handle.write(b"text")
            else:
                Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8)).save(handle, "PNG")
    Path("in/broken.png").write_bytes(b"nothing")
    os.mkfifo("in/pipe.png")
    os.symlink("nowhere", "in/gone.png")
    os.symlink("self.png", "in/self.png")
    os.symlink(".", "in/loop")
    return Path("in")


def fx(*arguments, stdin=None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def rows_of(done):
    # Not stdout, in which CliRunner makes each \r\n one \n.
    return list(csv.DictReader(io.StringIO(done.stdout_bytes.decode("utf-8"), newline=""), strict=True))


def real(cell):
    """The file that a cell means, as bytes below the folder."""
    return os.path.relpath(os.fsencode(path_of(cell)), b"in")


def test_predictions_as_csv(tree):
    done = fx("predict", "in", "--out", "out")
    assert done.exit_code == 9, done.output
    text = Path("out/predictions.csv").read_bytes().decode("utf-8")
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert {len(row) for row in rows} == {len(rows[0])}
    found = {real(row[0]): row for row in rows[1:]}
    assert len(found) == len(rows) - 1
    assert set(found) == {*PICTURES, *BROKEN}
    for name, row in found.items():
        assert row[1] == ("error" if name in BROKEN else "ok")
        assert BROKEN.get(name, "") in row[2]
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert "\x1b" not in done.stderr
    assert "passed over: 6 hidden or of the system, 1 .txt" in done.stderr


def test_from_within_no_cell_is_a_formula(tree, monkeypatch):
    model = Path("runs/trained").resolve()
    monkeypatch.chdir("in")
    done = fx("predict", ".", "--model", model, "--quiet")
    rows = rows_of(done)
    assert {os.fsencode(path_of(row["path"])) for row in rows} == {*PICTURES, *BROKEN}
    assert not [
        cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))
    ]
    assert {row["path"] for row in rows} >= {"./-lead.png", "./+1.png", "./=dir/1.png", "./\ttab.png"}


@pytest.mark.slow
def test_features(tree):
    done = fx("predict", "in", "--features", "learnt")
    assert done.exit_code == 9, done.output
    text = Path("learnt/paths.csv").read_bytes().decode("utf-8")
    cells = [row["path"] for row in csv.DictReader(io.StringIO(text, newline=""), strict=True)]
    assert cells == [row["path"] for row in rows_of(done)]
    found = np.load("learnt/features.npy")
    assert {real(cell) for cell, row in zip(cells, found, strict=True) if np.isnan(row).any()} == set(BROKEN)
    with Image.open("learnt/neighbours.png") as sheet:
        assert sheet.height > 2000


def test_predictions_as_json(tree):
    done = fx("predict", "in", "--json", "--quiet")
    lines = done.stdout_bytes.decode("utf-8").splitlines()
    assert {real(json.loads(line)["path"]) for line in lines} == {*PICTURES, *BROKEN}
    assert "\\ud" not in done.stdout.replace("\\\\ud", ""), "no lone surrogate, which strict readers refuse"


def test_heat_maps(tree):
    done = fx("predict", "in", "--cam", "maps", "--quiet")
    assert done.exit_code == 9, done.output
    drawn = [path for path in Path("maps").rglob("*") if path.is_file()]
    assert len(drawn) == len(PICTURES)
    for path in drawn:
        with Image.open(path) as image:
            image.load()
    assert Path("maps/-lead.png.png").is_file()
    assert os.path.isfile(b"maps/caf\xe9.png.png")


@pytest.mark.slow
def test_cam(tree):
    done = fx("cam", "in", "--out", "why", "--quiet")
    assert done.exit_code == 9, done.output
    assert {real(row["path"]) for row in rows_of(done)} == {*PICTURES, *BROKEN}
    assert len([path for path in Path("why").rglob("*") if path.is_file()]) == 3 * len(PICTURES)


def test_lists_of_names(tree):
    names = [b"in/" + name for name in [*PICTURES, *BROKEN]]
    done = fx("predict", "-", "--quiet", "--cam", "maps", stdin=b"".join(name + b"\0" for name in names))
    assert done.exit_code == 9
    assert [os.fsencode(path_of(row["path"])) for row in rows_of(done)] == names
    plain = [name for name in names if b"\n" not in name]
    for end in (b"\n", b"\r\n"):
        done = fx("predict", "-", "--quiet", stdin=end.join(plain) + end)
        assert [os.fsencode(path_of(row["path"])) for row in rows_of(done)] == plain


def test_names_on_the_command_line(tree):
    names = [b"in/" + name for name in PICTURES]
    done = fx("predict", "--quiet", "--", *map(os.fsdecode, names))
    assert done.exit_code == 0, done.output
    assert [os.fsencode(path_of(row["path"])) for row in rows_of(done)] == names


def test_what_is_named_and_is_no_file(tree):
    done = fx("predict", "in/pipe.png", "--quiet")
    assert done.exit_code == 9
    assert rows_of(done)[0]["reason"] == "a pipe, not a file"
    for name, reason in (("gone.png", "leads nowhere"), ("self.png", "leads to itself")):
        done = fx("predict", f"in/{name}", "--quiet")
        assert done.exit_code == 9
        assert reason in rows_of(done)[0]["reason"]
    done = fx("predict", "in/no\x1b[2J.png", "--quiet")
    assert done.exit_code == 4
    assert "no such" in done.stderr
    assert "\x1b" not in done.stderr


@pytest.mark.slow
def test_a_program_in_any_locale(tree):
    # As a user's shell would run it: the bytes go through stdin, stdout and the command line.
    for locale in ("C", "C.UTF-8", "POSIX"):
        code = "import os; from fxcli.commands.predict import _listed; print([os.fsencode(path) for path in _listed()])"
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=b"caf\xe9.png\nb\xff.png\n",
            env={**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0"},
            capture_output=True,
            check=True,
        )
        assert done.stdout == b"[b'caf\\xe9.png', b'b\\xff.png']\n"


# --- prepare ---


class Markup(HTMLParser):
    """Every tag and attribute of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes = set(), set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes.update((tag, name) for name, _ in attrs)


def markup(text):
    parser = Markup()
    parser.feed(text)
    parser.close()
    return parser.tags, parser.attributes


def prepare(source, *options):
    sets = ["--set", "data.prepared_px=64", "--set", "data.workers=0"]
    return fx("prepare", source, "--out", "out", *sets, *options)


@pytest.fixture
def hostile():
    """Class folders with copies of one another in train and test, under names that would be markup."""
    names = [
        *(b'"><script>alert(1)</script>.png', b"<img src=x onerror=alert(1)>.png", b"' onmouseover='alert(1).png"),
        *(b"</figcaption><iframe src=x>.png", b"{{ 7*7 }}{% raw %}.png", b"--><svg onload=x>.png", b"new\nline.png"),
        *(b"caf\xe9.png", b"=cmd.png", b"&lt;b&gt;.png", b"javascript:alert(1).png"),
    ]
    plain = tiny_dataset(Path("plain"), classes=2, per_class=len(names), size_px=128)
    for number, name in enumerate(names):
        # A slash is no letter of a name.
        name = name.replace(b"/", b"\\")
        for label, part in ((b"=<b>one", b"Train"), (b'two" onload=x', b"Train"), (b"=<b>one", b"Test")):
            folder = b"/".join([b"in", label, part])
            os.makedirs(folder, exist_ok=True)
            source = plain / ("class_1" if b"two" in label else "class_0") / f"{number}.png"
            with open(folder + b"/" + name, "wb") as handle:
                handle.write(source.read_bytes())
    return Path("in")


@pytest.mark.slow
def test_a_page_with_hostile_names(hostile):
    done = prepare(hostile)
    assert done.exit_code == 0, done.output
    text = Path("out/audit.html").read_bytes().decode("utf-8")
    assert text.count("<figure>") >= 10
    for piece in ("alert(1)", "onerror", "onload", "{{ 7*7 }}"):
        assert piece in text, "it is shown as it is"
    Path("tame").mkdir()
    draw(*(f"tame/{label}/{part}/{i}.png" for label in "ab" for part in ("Train", "Test") for i in range(2)))
    tame = fx("prepare", "tame", "--out", "other", "--set", "data.prepared_px=64", "--set", "data.workers=0")
    assert tame.exit_code == 0, tame.output
    tags, attributes = markup(text)
    allowed, known = markup(Path("other/audit.html").read_text(encoding="utf-8"))
    shown = {"h2", "p", "div", "figure", "figcaption", "img", "br"}
    assert tags <= allowed | shown
    assert attributes <= known | {("img", "alt"), ("img", "src"), ("div", "class"), ("figcaption", "class")}
    assert "Content-Security-Policy" in text
    assert "default-src 'none'" in text
    for file in ("audit.json", "fingerprint.json"):
        whole = Path("out", file).read_bytes().decode("utf-8")
        assert "\\ud" not in whole.replace("\\\\ud", ""), "no lone surrogate, which strict readers refuse"
        json.loads(whole)


def test_a_manifest_with_hostile_names(hostile):
    assert prepare(hostile, "--set", "audit.search=false").exit_code == 0
    manifest = read_manifest(Path("out/manifest.csv"))
    assert manifest.classes == ("b_one", "two__onload_x")
    raw = {os.path.relpath(os.path.join(folder, name), b"in") for folder, _, names in os.walk(b"in") for name in names}
    assert {os.fsencode(path_of(row.source)) for row in manifest.rows} == raw
    with open("out/manifest.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.reader(handle, strict=True))
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    manifest.divided([row.split for row in manifest.rows])
    assert all(row.path.isascii() for row in manifest.rows)


def test_columns_of_others_come_back(hostile):
    lines = ["path,label,patient,note,=x"]
    draw(*(f"{i}.png" for i in range(12)))
    values = ["=1+1", "-3.5", "-x", "@a", "'=a", "plain", "+1", "\ttab", "a,b", "'", "-", '=HYPERLINK("x")']
    rows = [[f"{i}.png", f"c{i % 2}", value, value, value] for i, value in enumerate(values)]
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    Path("list.csv").write_text("\n".join(lines) + "\n" + out.getvalue(), newline="")
    assert prepare("list.csv", "--set", "audit.search=false").exit_code == 0
    manifest = read_manifest(Path("out/manifest.csv"))
    found = {row.source: row for row in manifest.rows}
    for i, value in enumerate(values):
        assert found[f"{i}.png"].column("note") == value
        assert found[f"{i}.png"].column("=x") == value
    text = Path("out/manifest.csv").read_bytes().decode("utf-8")
    for cell in (cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row):
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")) or cell in ("-3.5", "+1")


def test_sources_that_are_no_files():
    draw(*(f"in/{label}/{i}.png" for label in ("a", "b") for i in range(8)))
    os.mkfifo("in/a/pipe.png")
    os.symlink("nowhere", "in/a/gone.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("in/b/socket.png")
    done = prepare("in", "--set", "audit.search=false", "--json")
    assert done.exit_code == 9, done.output
    assert json.loads(done.stdout)["unreadable"] == [
        {"path": "a/gone.png", "reason": "a link that leads nowhere"},
        {"path": "a/pipe.png", "reason": "a pipe, not a file"},
        {"path": "b/socket.png", "reason": "a socket, not a file"},
    ]
