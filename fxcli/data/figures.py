"""What file names tell: panels cut from one figure of an article keep its name. Called by data/audit.

Such panels show one patient, or one page's choice of patients, so they must not straddle a split. Generic names
(image1, IMG_0001, gr1) are no evidence, nor is a name that very many files share.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from fxcli.data.read import without_ending

_MOST_SHARING = 32
# What upload services append to tell files apart; people who cut a file up keep it, or most of it.
_HASH = re.compile(r"[0-9a-f]{16,}")
# Each run of separators is gone through once: three that may share one would take seconds for a long one. Digits alone
# are no hash: what of a DICOM UID tells pictures apart can be as long.
_SUFFIX = re.compile(
    r"(?<![._-])[._-]*+(?:(?:jpe?g|png|bmp|tiff?|webp|gif)[._-]*+)?(?:rf[._-]*+)?(?=\d*[a-f])[0-9a-f]{16}.*$",
    re.IGNORECASE,
)
# A figure's number, then the letters of its panels, then what publishers append.
_FIGURE = re.compile(
    r"^(?P<article>.*?)(?P<figure>(?:fig(?:ure)?|gr|f|g)[-_. ]?\d+)"
    r"(?:[-_. ]?\(?[a-h]{1,3}\)?)?(?:[-_. ](?:html|large|lrg|m))?$",
    re.IGNORECASE,
)
# Dates, and what a count begins with: 20230405_wrist_ap or IM-0001-0001 may stand in the folders of many patients.
_NO_EVIDENCE = re.compile(
    r"(?<!\d)(?:(?:19|20)\d\d([-_. ]?)[01]\d\1[0-3]\d(?!\d)|[0-3]\d([-_. ]?)[0-3]\d\2(?:19|20)\d\d(?!\d)|0+)"
)
_GENERIC = re.compile(
    r"^(img|image|images|dsc|scan|photo|picture|xray|x-ray|case|slide|frame)?[-_. ]*\d*$", re.IGNORECASE
)


def same_figure(names: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of pictures (by index, the smaller first) whose names say that they come from one figure.

    Each picture of a figure is paired with the figure's first one.
    """
    sharing: dict[tuple[str, ...], list[int]] = {}
    for index, name in enumerate(names):
        for key in _keys(without_ending(PurePosixPath(name).name)):
            sharing.setdefault(key, []).append(index)
    pairs = {
        (indices[0], index)
        for indices in sharing.values()
        if len(indices) <= _MOST_SHARING
        for index in indices[1:]
        if index != indices[0]
    }
    return sorted(pairs)


def _keys(stem: str) -> list[tuple[str, ...]]:
    """What a name has in common with the names of the same figure alone."""
    keys: list[tuple[str, ...]] = []
    hashes = [found for found in _HASH.finditer(stem) if re.search("[a-f]", found[0]) and re.search("[0-9]", found[0])]
    if hashes and hashes[-1].start() > 0:
        # Characters are at times lost in the middle, at either end, or from the name; never from all of them.
        digits, begin = hashes[-1][0], stem[:4].lower()
        keys += [("hash", digits), ("hash begins", begin, digits[:12]), ("hash ends", begin, digits[-8:])]
    plain = _SUFFIX.sub("", stem).lower()
    if figure := _FIGURE.match(plain):
        if _is_specific(figure["article"]):
            keys.append(("figure", figure["article"], re.sub(r"\W|_", "", figure["figure"])))
    elif _is_specific(_NO_EVIDENCE.sub("", plain)) and not _GENERIC.match(plain):
        keys.append(("name", plain))
    return keys


def _is_specific(text: str) -> bool:
    """Whether a name is unlikely to be given twice: enough digits that are no mere date or count."""
    digits = sum(c.isdigit() for c in text)
    letters = sum(c.isalpha() for c in text)
    return digits >= 9 or (digits >= 6 and letters >= 2)
