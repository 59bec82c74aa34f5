"""Figures of reports: numbers where they belong, colours of the page, and nothing that a name could break."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import pytest

import fxcli
from fxcli.errors import MissingDependency
from fxcli.report import figures, measured
from fxcli.report.figures import Line, Range

HOSTILE = "</svg><script>alert(1)</script>$x_{2}$ \\frac \x1b\x00 _é漢"


def curve(*lines, **more):
    return figures.curves(lines, **{"alt": "a", "x": "epoch", "y": "loss", **more})


def tree(svg):
    # Without its namespace it is XML like any other.
    return ElementTree.fromstring(str(svg))


def strokes(svg, colour):
    """Points of each path of a colour."""
    found = []
    for path in tree(svg).iter("path"):
        if f"stroke: {colour};" in path.get("style", "") and "M" in path.get("d", ""):
            numbers = re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", path.get("d"))
            found.append([(float(x), float(y)) for x, y in numbers])
    return found


def test_points_lie_where_their_values_say():
    x, y = [1, 2, 3, 4], [0.1, 0.5, 0.2, 0.9]
    (points,) = [each for each in strokes(curve(Line("a", x, y)), "var(--c1)") if len(each) == 4]
    steps = [after[0] - before[0] for before, after in pairwise(points)]
    assert steps == pytest.approx([steps[0]] * 3, abs=1e-3)
    # Upwards is less in SVG; all values share one scale.
    scales = [(b[1] - a[1]) / (w - v) for (a, b), (v, w) in zip(pairwise(points), pairwise(y), strict=True)]
    assert scales == pytest.approx([scales[0]] * 3, rel=1e-3)
    assert scales[0] < 0


def test_an_interval_is_as_long_as_it_says():
    svg = figures.intervals(["one", "other"], {"m": [Range(0.5, 0.25, 0.75), Range(0.4, 0.35, 0.45)]}, alt="a")
    lengths = [b[0] - a[0] for a, b in (each for each in strokes(svg, "var(--c1)") if len(each) == 2)]
    assert max(lengths) / min(lengths) == pytest.approx(5, rel=0.01)


def test_what_is_undefined_is_left_out():
    svg = figures.intervals(["one", "two"], {"m": [None, Range(0.4)], "n": [None, None]}, alt="a")
    assert "var(--c1)" in svg
    assert figures.reliability([0.3], [Range(0.2)], alt="a").startswith("<svg")


@pytest.mark.slow
def test_the_same_numbers_give_the_same_bytes():
    lines = [Line("a", [1, 2], [0.3, 0.2]), Line("b", [1, 2], [0.3, 0.4])]
    assert curve(*lines) == curve(*lines)
    code = (
        "from fxcli.report.figures import Line, curves\n"
        "print(curves([Line('a', [1, 2], [0.3, 0.2]), Line('b', [1, 2], [0.3, 0.4])], alt='a', x='epoch', y='loss'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8")
    assert done.stdout == f"{curve(*lines)}\n"


def test_colours_and_fonts_are_those_of_the_page():
    svg = curve(*[Line(str(n), [1, 2], [n, n]) for n in range(7)], breaks={1.5: "tune"})
    assert not re.search(r"#[0-9a-fA-F]{3,6}\b(?!\")", re.sub(r'href="#[^"]*"|url\(#[^)]*\)', "", svg))
    assert "font-family" not in svg
    assert {f"var(--c{n})" for n in range(1, 7)} <= set(re.findall(r"var\(--c\d\)", svg))
    assert "<style" not in svg
    assert "http" not in svg
    texts = ["".join(each.itertext()) for each in tree(svg).iter("text")]
    assert {"epoch", "loss"} <= set(texts)
    assert any("tune" in text for text in texts)


def test_lines_differ_by_more_than_colour():
    svg = curve(Line("a", [1, 2], [0, 1]), Line("b", [1, 2], [1, 0]))
    dashes = {
        path.get("style").partition("stroke-dasharray:")[2][:12]
        for path in tree(svg).iter("path")
        if "var(--c" in path.get("style", "")
    }
    assert len(dashes) == 2


def test_a_hostile_name_stays_a_name():
    svg = curve(
        Line(HOSTILE, [1], [0.5]), Line("_hidden", [1], [0.2]), alt=HOSTILE.replace("\x00", "").replace("\x1b", "")
    )
    assert "<script" not in svg
    texts = ["".join(each.itertext()) for each in tree(svg).iter("text")]
    assert any("</svg><script>alert…" in text for text in texts)
    assert any("_hidden" in text for text in texts)
    assert tree(svg).get("role") == "img"
    assert tree(svg).get("aria-label").startswith("</svg>")


@pytest.mark.parametrize("run", ["regularize-20260101T120000Z-1a2b", "x" * 99])
def test_names_that_differ_at_their_end_alone_stay_apart(run):
    svg = curve(*[Line(f"{run}, fold {n}", [1, 2], [n, n]) for n in (0, 1)])
    shown = [text.strip("\u200b") for each in tree(svg).iter("text") if ", fold" in (text := "".join(each.itertext()))]
    assert [text[-8:] for text in shown] == [", fold 0", ", fold 1"]
    assert all(len(text) == 40 and text[:4] == run[:4] for text in shown)


def test_figures_on_one_page_share_no_id():
    svg = curve(Line("a", [1, 2], [0, 1]), breaks={1.5: "x"})
    assert not [element for element in tree(svg).iter() if {"id", "href", "clip-path"} & set(element.attrib)]
    ticks = [path for path in tree(svg).iter("path") if path.get("transform", "").startswith("translate(")]
    assert len(ticks) >= 8
    assert all("stroke: currentColor" in path.get("style") for path in ticks)


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependency, match="a report's figures needs the package matplotlib") as error:
        figures.require()
    assert error.value.exit_code == 7
    assert "fxcli[report]" in error.value.hint


def luminance(colour):
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """WCAG 2.2, 1.4.3."""
    light, dark = sorted([luminance(one), luminance(other)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_all_colours_are_seen_on_light_and_dark():
    folder = Path(fxcli.__file__).parent
    css = [(folder / name).read_text("utf-8") for name in ("data/base.html.j2", "report/report.html.j2")]
    for scheme in ("light", "dark"):
        found = {}
        for text in css:
            light, dark = text.split("prefers-color-scheme: dark", 1)
            part = light if scheme == "light" else dark[: dark.index("\n}")]
            found |= {
                name: "#" + "".join(c * (1 if len(value) == 6 else 2) for c in value)
                for name, value in re.findall(r"--(\w+): #([0-9a-f]{3,6})", part)
            }
        for name in ("text", "faint", "bad", "accent", *(f"c{n}" for n in range(1, 7))):
            assert contrast(found[name], found["back"]) >= 4.5, (scheme, name)
        # The fullest cell of a confusion matrix.
        share = measured.STRONGEST
        mixed = "#" + "".join(
            f"{round(share * int(found['c1'][n : n + 2], 16) + (1 - share) * int(found['back'][n : n + 2], 16)):02x}"
            for n in (1, 3, 5)
        )
        assert contrast(found["text"], mixed) >= 4.5, (scheme, mixed)


def test_titles_of_axes_hold_what_xml_can():
    svg = figures.curves([Line("a", [1, 2], [0.1, 0.2])], alt="x", x="epoch", y="val\x01_loss\x0b", is_share=False)
    assert "val\ufffd_loss\ufffd" in svg
