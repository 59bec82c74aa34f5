"""fx predict --report: a page of answers that loads nothing, runs its own script alone, and stays quick."""

import base64
import hashlib
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from browser import driven, needs_browser
from PIL import Image
from reported import Page, fx, own_cache, page, recipe, well

from fxcli.data.preprocess import Clean, Cleaned
from fxcli.data.radiograph import Radiograph
from fxcli.report import gallery
from fxcli.report.gallery import Gallery, Views

EVIL = "<img src=x onerror=alert(1)>&\"' <b>.png"


@pytest.fixture(scope="module")
def models(tmp_path_factory, demo_zoo, prepared, prepared_boxes):
    """A classifier in folds, and a detector."""
    root = tmp_path_factory.mktemp("models")
    with own_cache(root):
        tiny = recipe(root / "tiny.yaml", prepared / "manifest.csv", "train: {epochs: 1, batch_size: 8}")
        boxes = recipe(
            root / "boxes.yaml",
            prepared_boxes / "manifest.csv",
            "detect: {options: {channels: 32, finest_stride: 4}}",
            "train: {epochs: 1, batch_size: 8}",
            task="detect",
        )
        well("train", tiny, "--folds", 2, "--out", root / "folds", "--quiet")
        well("train", boxes, "--out", root / "boxes", "--quiet")
    return root


@pytest.fixture
def pictures(prepared):
    """Six pictures, one with a name that is none, and a file that is no picture."""
    Path("in").mkdir()
    for number, file in enumerate(sorted((prepared.parent / "source").rglob("*.png"))[:5]):
        shutil.copy(file, f"in/{number}.png")
    shutil.copy("in/0.png", f"in/{EVIL}")
    Path("in/broken.png").write_text("no")
    return Path("in")


def check_harmless(file):
    """That a page loads nothing and runs its own script alone."""
    text = Path(file).read_text(encoding="utf-8")
    found = Page(text)
    policy = next(a["content"] for _, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    script = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    assert text.count("<script") == 1
    for word in ("innerHTML", "insertAdjacent", "outerHTML", "document.write", "eval(", "fetch", "http"):
        assert word not in script
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert attributes.get("src", "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
        assert tag not in ("iframe", "object", "embed", "link", "base", "form")
    return found


def rows_of(found):
    (rows,) = found.cells
    heads = rows[0]
    return [dict(zip(heads, row, strict=True)) for row in rows[1:]]


def test_the_page_says_what_the_rows_say(models, pictures):
    done = fx("predict", pictures, "--model", models / "folds", "--report", "look.html", "--sets", "--json")
    assert done.exit_code == 9, done.output
    records = [json.loads(line) for line in done.stdout.splitlines()]
    shown = rows_of(check_harmless("look.html"))
    assert [row["path"] for row in shown] == [record["path"] for record in records]
    for row, record in zip(shown, records, strict=True):
        assert row["status"] == record["status"]
        if record["status"] == "ok":
            assert row["class"] == record["class"]
            assert row["set"] == ", ".join(record["set"])
            assert row["unlike_training"] == ("yes" if record["unlike_training"] else "no")
            for name, value in record["probabilities"].items():
                assert row[f"p {name}"] == f"{value:.3f}"
            assert row["p"] == f"{max(record['probabilities'].values()):.3f}"
        else:
            assert row["reason"] == record["reason"]
    found = page("look.html")
    assert records[0]["notice"] in found.text
    assert "recipe tiny, demo_tiny, data tiny" in found.text
    assert sum(tag == "img" for tag, _ in found.tags) == 2 * 6
    assert ("checkbox", "heat") in [(a.get("type"), a.get("id")) for _, a in found.tags]
    assert "7 pictures to look at: look.html" in done.stderr


def test_hostile_names_stay_names(models, pictures):
    fx("predict", pictures, "--model", models / "folds", "--report", "look.html", "--quiet")
    found = check_harmless("look.html")
    assert f"in/{EVIL}" in [row["path"] for row in rows_of(found)]
    assert any(EVIL in a.get("aria-label", "") for _, a in found.tags)


def test_names_that_are_no_text(models, pictures):
    name = b"in/\xff.png"
    shutil.copy(b"in/0.png", name)
    fx("predict", pictures, "--model", models / "folds", "--report", "look.html", "--quiet")
    assert r"in/\udcff.png" in [row["path"] for row in rows_of(check_harmless("look.html"))]


def test_heat_maps_and_rows_stay_as_they_are(models, pictures):
    plain = fx("predict", pictures, "--model", models / "folds", "--cam", "one")
    both = fx("predict", pictures, "--model", models / "folds", "--cam", "two", "--report", "look.html")
    assert plain.stdout == both.stdout
    names = sorted(file.name for file in Path("one").iterdir())
    assert names == sorted(file.name for file in Path("two").iterdir())
    assert all((Path("one") / n).read_bytes() == (Path("two") / n).read_bytes() for n in names)


def test_paths_are_shown_as_they_are_wanted(models, pictures):
    fx("predict", pictures, "--model", models / "folds", "--report", "look.html", "--paths", "hashed", "--quiet")
    text = Path("look.html").read_text()
    assert "in/" not in re.sub(r"base64,[^\"]*", "", text).replace("main/", "")
    assert "broken" not in text


def test_detectors_have_a_page_with_boxes(models, pictures):
    done = fx("predict", pictures, "--model", models / "boxes", "--score", "0", "--report", "look.html", "--json")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    shown = rows_of(check_harmless("look.html"))
    assert "class" not in shown[0]
    for row, record in zip(shown, records, strict=True):
        assert row["boxes"] == ", ".join(f"{box['class']} {box['score']:.2f}" for box in record.get("boxes", ()))


@pytest.mark.slow
def test_boxes_beside_a_classifier(models, pictures):
    options = ("--model", models / "folds", "--detector", models / "boxes", "--score", "0")
    done = fx("predict", pictures, *options, "--report", "look.html")
    assert done.exit_code == 9, done.output
    assert {"class", "box_score", "boxes"} <= set(rows_of(check_harmless("look.html"))[0])


def test_boxes_are_drawn_where_they_are():
    cleaned = Clean(256)(Radiograph(np.zeros((100, 200), np.uint8)), Path("a"))
    assert isinstance(cleaned, Cleaned)
    box = {"class": "x", "score": 0.5, "left": 50.0, "top": 50.0, "right": 150.0, "bottom": 75.0}
    data = gallery.views(cleaned, None, [box]).picture
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), dtype=int)
    lit = pixels[..., 1] > 150
    height, width = lit.shape
    assert width == 2 * height
    # The lower left corner of the box, below and beside which nothing is drawn.
    rows, columns = np.nonzero(lit)
    assert columns.min() / width == pytest.approx(0.25, abs=0.03)
    assert rows.max() / height == pytest.approx(0.75, abs=0.05)


def test_pictures_are_small_and_thin_lines_keep_their_colour():
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.integers(0, 120, (64, 64, 1), dtype=np.uint8), 3, axis=2)
    lined = grey.copy()
    lined[:, 30] = (64, 224, 208)
    pictures = [Image.open(io.BytesIO(base64.b64decode(gallery.page.jpeg(pixels)))) for pixels in (grey, lined)]
    assert [picture.mode for picture in pictures] == ["L", "RGB"]
    assert np.abs(np.asarray(pictures[1], dtype=int)[:, 30].mean(axis=0) - (64, 224, 208)).max() < 40


def test_what_is_there_is_not_replaced_unasked(models, pictures):
    Path("look.html").write_text("mine")
    refused = fx("predict", pictures, "--model", models / "folds", "--report", "look.html")
    assert refused.exit_code == 4
    assert "this file exists" in refused.stderr
    assert refused.stdout == ""
    assert Path("look.html").read_text() == "mine"
    assert fx("predict", pictures, "--model", models / "folds", "--report", "look.html", "--overwrite").exit_code == 9
    assert "7 pictures" in Path("look.html").read_text()
    assert fx("predict", pictures, "--model", models / "folds", "--report", "in").exit_code == 2


@pytest.mark.parametrize("name", ["other.png", "another.DCM", "without_ending"])
def test_a_picture_is_never_replaced(models, pictures, name):
    """As where a shell writes out --report *.png, which makes its first picture the page."""
    for each in {name, "without_ending"}:
        shutil.copy(pictures / "0.png", each)
    before = Path(name).read_bytes()
    done = fx("predict", "without_ending", pictures, "--model", models / "folds", "--report", name, "--overwrite")
    assert done.exit_code == 2, done.output
    assert name in done.stderr
    assert Path(name).read_bytes() == before


@pytest.mark.parametrize("model", ["folds", "boxes"])
@pytest.mark.parametrize("where", ["a_file/page.html", f"{'x' * 248}.html", "/proc/page.html"])
def test_what_cannot_be_written_is_told_before_the_first_picture(models, pictures, model, where):
    Path("a_file").touch()
    done = fx("predict", pictures, "--model", models / model, "--report", where, "--out", "rows")
    assert done.exit_code == 4
    assert f"error: {where}: cannot be written: " in done.stderr
    assert not Path("rows").exists()


def test_the_folder_is_made_and_nothing_left_in_it():
    Gallery.begun(Path("new/page.html"), 7, (), overwrite=False)
    assert list(Path("new").iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [("--resume", "--out", "o", "--report", "a.html"), ("--overwrite",), ("--resume",), ("--resume", "--report", "a")],
)
def test_wrong_use(options):
    assert fx("predict", "in", *options).exit_code == 2


def test_a_page_has_an_end(models, pictures, monkeypatch):
    monkeypatch.setattr(gallery, "MOST", 3)
    refused = fx("predict", pictures, "--model", models / "folds", "--report", "look.html")
    assert refused.exit_code == 2
    assert "7 pictures are more than its 3" in refused.stderr


def drawn(count):
    """A page of so many rows."""
    rng = np.random.default_rng(0)
    made = Gallery(Path("many.html"), [f"c{n}" for n in range(7)])
    small = Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8)).resize((192, 192))
    data = gallery.page.jpeg(np.asarray(small))
    for number in range(count):
        p = rng.dirichlet(np.ones(7))
        record = {"path": f"folder/{EVIL}-{number}", "status": "error" if number % 50 == 7 else "ok"}
        if record["status"] == "ok":
            record |= {"class": f"c{p.argmax()}", "probabilities": {f"c{n}": float(v) for n, v in enumerate(p)}}
        made.add(record, Views(data, data) if record["status"] == "ok" else None)
    made.write("notice", "model")
    return made.file


def test_columns_are_as_wide_as_what_stands_in_them():
    rows = [["a/long/name/of/a/picture.png", "0.5"], ["b.png", ""]]
    assert gallery._tracks(["path", "p fracture_dislocation"], rows) == "28ch 22ch"
    assert gallery._tracks(["path", "p"], [["x" * 99, "0.123"]]) == "32ch 5ch"
    assert gallery._tracks(["path"], []) == "6ch"
    assert gallery._tracks(["y" * 40], []) == "32ch"


DRIVER = """
const body = document.querySelector("tbody");
const shown = () => Array.from(body.rows).filter((row) => !row.hidden);
const column = (number) => shown().map((row) => row.cells[number].textContent);
const heads = Array.from(document.querySelectorAll("thead button"));
const button = (name) => heads.find((each) => each.textContent === name);
const told = {};
const timed = (name, work) => { const start = performance.now(); work(); document.body.offsetHeight;
  told[name] = performance.now() - start; };
timed("sort_ms", () => button("p").click());
told.up = column(4); told.aria = button("p").parentElement.getAttribute("aria-sort");
timed("back_ms", () => button("p").click());
told.down = column(4); told.aria_down = button("p").parentElement.getAttribute("aria-sort");
const select = document.getElementById("by-class");
select.value = "c3"; timed("filter_ms", () => select.dispatchEvent(new Event("change")));
told.classes = Array.from(new Set(column(3))); told.count = document.getElementById("count").textContent;
select.value = ""; const search = document.getElementById("search"); search.value = "-17";
timed("search_ms", () => search.dispatchEvent(new Event("input")));
told.found = column(1);
search.value = ""; search.dispatchEvent(new Event("input"));
button("path").focus(); told.focused = document.activeElement.textContent;
const heat = (view) => { const its = view.querySelector(".heat"); its.style.transition = "none";
  return getComputedStyle(its).opacity; };
const [view, other] = body.querySelectorAll(".view"); view.focus();
told.heat = [heat(view), heat(other)];
document.getElementById("heat").click(); told.off = [heat(view), heat(other)];
told.drawn = [view, body.lastElementChild].map((each) => getComputedStyle(each.closest("tr")).contentVisibility);
const lefts = (row) => Array.from(row.cells, (cell) => Math.round(cell.getBoundingClientRect().left));
told.columns = [document.querySelector("thead tr"), body.rows[0], body.lastElementChild].map(lefts);
told.label = view.getAttribute("aria-label");
told.images = document.images.length; told.scripts = document.scripts.length;
told.wide = document.documentElement.scrollWidth <= window.innerWidth;
return told;
"""


@pytest.mark.slow
@needs_browser
def test_two_thousand_rows_stay_quick_in_a_browser():
    told = driven(drawn(2000), DRIVER)
    up, down = ([float(text) for text in told[way] if text] for way in ("up", "down"))
    assert up == sorted(up)
    assert down == sorted(down, reverse=True)
    assert len(up) == 1960
    assert told["up"][-40:] == told["down"][-40:] == [""] * 40, "what is not known stands at the end"
    assert (told["aria"], told["aria_down"]) == ("ascending", "descending")
    assert told["classes"] == ["c3"]
    assert re.fullmatch(r"\d+ of 2000", told["count"])
    assert told["found"]
    assert all("-17" in name for name in told["found"])
    assert told["focused"] == "path"
    assert told["heat"] == ["0", "1"], "it is seen at once, and what lies under it under the focus"
    assert told["off"] == ["1", "0"]
    assert told["drawn"] == ["visible", "auto"], (
        "the picture that grows is not cut off, and what is far away costs nothing"
    )
    assert told["columns"][0] == told["columns"][1] == told["columns"][2]
    assert told["label"].startswith(f"folder/{EVIL}-")
    # No name has become an element: two pictures for each row that has any.
    assert (told["images"], told["scripts"]) == (2 * 1960, 2)
    assert told["wide"], "the table scrolls, not the page"
    slowest = max(told[name] for name in ("sort_ms", "back_ms", "filter_ms", "search_ms"))
    # On an idle machine a tenth of that: all rows are laid out in one go where they are no grids of their own.
    assert slowest < 1000, told
