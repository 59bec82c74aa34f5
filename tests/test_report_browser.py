"""Reports in a real browser: nothing is blocked or logged, nothing runs over, focus is seen, and it prints."""

import pytest
from browser import chromium, driven, needs_browser
from PIL import Image
from reported import well

pytestmark = [pytest.mark.slow, needs_browser]

FITS = """
const over = Array.from(document.querySelectorAll("main *")).filter((each) =>
  each.getBoundingClientRect().right > document.documentElement.clientWidth + 1 && !each.closest(".wide, pre, svg"));
return { page: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  over: over.slice(0, 5).map((each) => each.outerHTML.slice(0, 120)),
  width: document.documentElement.clientWidth, scripts: document.scripts.length,
  order: Array.from(document.querySelectorAll("a, summary, [tabindex]")).every((each) => each.tabIndex === 0) };
"""


@pytest.fixture
def made(trained):
    well("evaluate", trained.path, "--quiet")
    well("evaluate", trained.path, "--split", "val", "--quiet")
    well("report", trained.path, "--pictures", 2, "--quiet")
    return trained.path / "report.html"


def test_a_page_fits_wide_and_narrow_screens_and_can_be_walked_by_keyboard(made):
    told = driven(made, FITS)
    assert told["page"] <= 0
    assert told["over"] == []
    assert told["scripts"] == 1, "the test's own"
    assert told["order"]
    framed = made.with_name("framed.html")
    framed.write_text('<!doctype html><body style="margin:0"><iframe src="driven.html" width=375 height=800></iframe>')
    chromium(framed, "--dump-dom")


def test_it_is_drawn_light_dark_and_narrow(made):
    back = {}
    for name, flags in {
        "light": ("--window-size=1000,700",),
        "dark": ("--window-size=1000,700", "--blink-settings=preferredColorScheme=0"),
        "narrow": ("--window-size=375,700",),
    }.items():
        chromium(made, f"--screenshot={made.with_name(name)}.png", *flags)
        with Image.open(f"{made.with_name(name)}.png") as picture:
            back[name] = picture.convert("RGB").getpixel((3, 3))
    assert back["light"] == back["narrow"] == (255, 255, 255)
    assert max(back["dark"]) < 60


def test_it_prints(made):
    target = made.with_name("report.pdf")
    chromium(made, f"--print-to-pdf={target}", "--no-pdf-header-footer")
    assert target.read_bytes().startswith(b"%PDF-")
