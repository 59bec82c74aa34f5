"""audit.html: one file that loads nothing, shows every kind of pair, and lets no name become markup."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fxcli
from fxcli.data import audit_page
from fxcli.data.audit import Audit, Pair
from fxcli.data.oddities import Oddity
from fxcli.data.views import view

EVIL = "<script>alert(1)</script>\"'&.png"


@pytest.fixture(scope="module")
def views():
    rng = np.random.default_rng(0)
    return [view(rng.integers(0, 256, (40, 30 + i), dtype=np.uint8)) for i in range(5)]


def found(**changes):
    values = {
        "names": [EVIL, "one.png", "two.png", "three.png", "four.png"],
        "labels": ["x", "x", "y", "y", "y"],
        "splits": ["test", "train", "train", "val", "train"],
        "pairs": [
            Pair(0, 1, "same_picture", 0.91),
            Pair(1, 2, "same_picture", 0.8),
            Pair(2, 3, "same_picture", 0.99),
            Pair(3, 4, "same_figure", 0.0),
        ],
        "groups": list("aaaaa"),
        "copies": list("aaaab"),
        "leaked": frozenset([0]),
        "oddities": [Oddity(4, "ct", 1.7)],
        "dropped": {3: "shares a group"},
    }
    return Audit(**(values | changes))


def page(**changes):
    audit_page.write(Path("audit.html"), "my <set>", found(**changes), changes.pop("shown", VIEWS))
    return Path("audit.html").read_text(encoding="utf-8")


VIEWS: list = []


@pytest.fixture(autouse=True)
def _views(views):
    VIEWS[:] = views


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def tags(text):
    parser = Tags()
    parser.feed(text)
    return parser.found


def test_names_are_escaped():
    text = page()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "my &lt;set&gt;" in text
    assert {tag for tag, _ in tags(text)} <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div"),
        *("table", "tr", "td", "figure", "figcaption", "img", "br"),
    }


def test_it_loads_nothing():
    text = page()
    policies = [a["content"] for tag, a in tags(text) if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    ]
    assert all(a["src"].startswith("data:image/jpeg;base64,") for tag, a in tags(text) if tag == "img")
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text


def test_every_template_says_so():
    found = sorted(Path(fxcli.__file__).parent.rglob("*.j2"))
    assert found
    for file in found:
        text = file.read_text(encoding="utf-8")
        is_base = file.name == "base.html.j2"
        assert ("default-src 'none'" in text) if is_base else '{% extends "data/base.html.j2" %}' in text, file
        assert "safe" not in re.findall(r"\|\s*(\w+)", text), file
        assert "<script" not in text or "script-src 'sha256-{{ digest }}'" in text, file


def test_pictures_are_side_by_side(views):
    shown = [a["src"].partition(",")[2] for tag, a in tags(page()) if tag == "img"]
    assert len(shown) == 2 * 4 + 1
    for data in shown:
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert max(image.size) == 128
    first = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown[0]))), dtype=float)
    assert np.abs(first - views[0].pixels).mean() < 12


def test_sections():
    text = page()
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles == [
        "Test pictures that are learnt from (1)",
        "Other copies with different labels (1)",
        "Other copies (1)",
        "Panels of one figure (1)",
        "Unusual pictures (1)",
    ]
    assert "score 0.910" in text
    assert text.count('class="differ"') == 1
    assert "val, left out, y: three.png" in text
    assert "ct 1.70" in text
    assert "<td>pictures</td>" in text


def test_empty_sections_are_left_out():
    text = page(pairs=[], oddities=[])
    assert "<h2>" not in text
    assert "<table>" in text


def test_a_long_list_is_cut_and_says_so(monkeypatch):
    monkeypatch.setattr(audit_page, "MOST_SHOWN", 2)
    pairs = [Pair(a, b, "same_picture", 0.8 + b / 100) for a, b in ((1, 2), (1, 3), (2, 3))]
    text = page(pairs=pairs, labels=["x"] * 5)
    assert "Other copies (3)" in text
    assert "The first 2; audit.json has all." in text
    assert text.count("<figure>") == 3
    assert "score 0.820" in text, "the doubtful ones come first"


def test_without_views_names_are_shown():
    audit_page.write(Path("audit.html"), "names", found(), [])
    text = Path("audit.html").read_text(encoding="utf-8")
    assert "<img" not in text
    assert "three.png" in text


def test_names_that_are_no_text_become_escapes():
    assert r"\udcff.png" in page(names=["\udcff.png", "b", "c", "d", "e"])
