"""What file names tell, and what they do not."""

import random
import re
import time

import pytest

from fxcli.data import figures
from fxcli.data.figures import same_figure

HASH = "c146d133697935a23e0f1a9160b744f0"


@pytest.mark.parametrize(
    "names",
    [
        (f"a/greenstick_jpg.rf.{HASH}.jpg", f"b/a509797810e432_greenstick_jpg.rf.{HASH}.jpg"),
        (f"MalletFinger-PNG_jpg.rf.{HASH}.jpg", f"InkedMalletFinger-Ppg.rf.{HASH}_LI.jpg"),
        # Characters lost in the middle, at the beginning or at the end of the hash, or from the name.
        (f"galleyfig1a_jpeg.rf.{HASH}.jpg", f"galleyfig1a_jpeg.rf{HASH[:6]}{HASH[11:]}.jpg"),
        (f"galleyfig1a_jpeg.rf.{HASH}.jpg", f"galleyfig1a_jpeg.rf.{HASH[:-7]}.jpg"),
        (f"galleyfig1a_jpeg.rf.{HASH}.jpg", f"galleyf1a_jpeg{HASH[9:]}.jpg"),
        # Panels and figures of articles.
        ("13018_2019_1385_Fig3a_HTML.png", "13018_2019_1385_Fig3b_HTML.png"),
        ("13018_2019_1385_Fig3_HTML.png", "other/13018_2019_1385_fig3-C.jpg"),
        ("T1507F01_Fig03A.jpg", "T1507F01_Fig03B.jpg"),
        ("jfmk-07-00030-g001.png", "x/jfmk-07-00030-g001.jpg"),
        ("stock-376010893-xray.jpg", "b/stock-376010893-xray.png"),
    ],
)
def test_one_figure(names):
    assert same_figure(names) == [(0, 1)]


@pytest.mark.parametrize(
    "names",
    [
        ("one/image25.jpg", "two/image25.jpg"),
        ("one/IMG_0001.jpg", "two/IMG_0001.jpg"),
        ("one/000123.png", "two/000123.png"),
        ("one/gr1_lrg.jpg", "two/gr1_lrg.jpg"),
        ("one/Figure-2a.jpg", "two/Figure-2b.jpg"),
        ("one/F1-large.jpg", "two/F1-large.jpg"),
        ("one/fracture.jpg", "two/fracture.jpg"),
        (f"image25_jpeg.rf.{HASH}.jpg", f"image25_jpeg.rf.{HASH[::-1]}.jpg"),
        ("13018_2019_1385_Fig1_HTML.png", "13018_2019_1385_Fig2_HTML.png"),
        ("13018_2019_1385_Fig3_HTML.png", "13018_2020_1385_Fig3_HTML.png"),
        # Of other names, the ends of a hash are not enough; nor are digits alone, such as times and DICOM's numbers.
        (f"wrist_jpg.rf.{HASH}.jpg", f"ankle_jpg.rf.{'0f' * 12}{HASH[-8:]}.jpg"),
        ("a/1.2.840.113619.2.55.3.jpg", "a/1.2.840.113619.2.55.4.jpg"),
        ("a/1.2.840.113619.2.55.3", "a/1.2.840.113619.2.55.4"),
        (f"{HASH}.jpg", f"{HASH[:20]}999.jpg"),
        # What devices and programs call the first picture of every study; and UIDs with a long last part.
        ("PA000001/ST000001/SE000001/IM000001", "PA000002/ST000001/SE000001/IM000001"),
        ("one/IM-0001-0001.dcm", "two/IM-0001-0001.dcm"),
        ("one/CR000012.png", "two/CR000012.png"),
        ("one/20230405_wrist_ap.png", "two/20230405_wrist_ap.png"),
        ("one/wrist-2023-04-05-lat.png", "two/wrist-2023-04-05-lat.png"),
        ("one/05.04.2023_wrist_ap.png", "two/05.04.2023_wrist_ap.png"),
        ("one/wrist 04252023 lat.png", "two/wrist 04252023 lat.png"),
        ("1.3.12.2.1107.5.3.33.11101.30000018030505373412300000001.dcm", f"1.3.12.2.1107.5.3.33.11101.{'30' * 14}.dcm"),
        (f"1.2.826.0.1.3680043.8.498.{'45787841' * 4}", f"1.2.826.0.1.3680043.8.498.{'90678127' * 4}"),
    ],
)
def test_two_figures(names):
    assert same_figure(names) == []


def test_all_panels_hang_on_the_first():
    names = [f"{folder}/T1507F01_Fig03{panel}.jpg" for folder, panel in zip("wxyz", "ABCD", strict=True)]
    assert same_figure(["image1.jpg", *names]) == [(1, 2), (1, 3), (1, 4)]


def test_a_name_that_very_many_share_tells_nothing():
    names = [f"{i}/scan-376010893-a1.jpg" for i in range(40)]
    assert len(same_figure(names[:32])) == 31
    assert same_figure(names) == []


def test_what_upload_services_append_is_cut_off_alike_however_it_is_looked_for():
    """The oracle is the plain pattern, which takes cubic time."""
    end = r"[._-]*(?=\d*[a-f])[0-9a-f]{16,}.*$"
    plain = re.compile(r"[._-]*(jpe?g|png|bmp|tiff?|webp|gif)?[._-]*(rf)?" + end, re.IGNORECASE)
    rng = random.Random(0)
    parts = [*"._-", "jpg", "tif", "tiff", "bmp", "gif", "rf", "f", "x", "RF", "A", "\n"]
    parts += [HASH[:15], HASH[:16], HASH, "1" * 16]
    for _ in range(3000):
        name = "".join(rng.choices(parts, k=rng.randrange(9)))
        assert figures._SUFFIX.sub("", name) == plain.sub("", name), name


@pytest.mark.parametrize(
    "name", ["-" * 250, "._-" * 80, "jpg" + "-" * 240, "rf." * 80, HASH[:15] + "-" * 230, "1" * 250]
)
def test_long_names_take_no_time(name):
    start = time.process_time()
    same_figure([name])
    assert time.process_time() - start < 0.2
