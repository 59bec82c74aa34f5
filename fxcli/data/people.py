"""Patients and studies of a data set: what belongs together, and numbers in place of ids. Called by prepare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

# One patient may well have fewer pictures, or a smaller share of few.
_LEAST_TOLD, _LEAST_TOLD_FRAC = 6, 0.1
# What programs and people write where they know nobody's id: lower case.
_PLACEHOLDERS = {"nan", "none", "null", "na", "n/a", "unknown", "anonymous", "0", "-", "--", "?"}


def same(marks: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of pictures, by index, that bear the same mark; "" is none."""
    firsts: dict[str, int] = {}
    return [(firsts.setdefault(mark, index), index) for index, mark in enumerate(marks) if mark]


def patients(listed: Sequence[str | None], said: Sequence[str]) -> tuple[list[str], list[tuple[int, int]]]:
    """Whom pictures show, where a list and their files may both say it: the list goes before.

    Args:
        listed: Patient of each picture as a list has it, or None.
        said: As its file says; "" if unknown.

    Returns:
        A mark for each picture, "" if unknown; and pairs of pictures, by index, that are of one patient beyond that:
        where the list leaves one of a file's patient out, it joins the others, listed or not.
    """
    known: dict[str, str] = {}
    for patient, mark in zip(listed, said, strict=True):
        if patient and mark:
            known.setdefault(mark, patient)
    left_out = {mark for patient, mark in zip(listed, said, strict=True) if not patient}
    pairs = same([mark if mark in left_out else "" for mark in said])
    return [patient or known.get(mark, mark) for patient, mark in zip(listed, said, strict=True)], pairs


def numbered(letter: str, marks: Sequence[str]) -> list[str]:
    """A running number in place of each mark, which is no id to anybody; "" for ""."""
    numbers = {"": ""}
    return [numbers.setdefault(mark, f"{letter}{len(numbers):05d}") for mark in marks]


def doubts(patients: Sequence[str], listed: Sequence[str] = (), studies: Sequence[str] = ()) -> str:
    """What to tell people where ids, or a list's groups, may have been replaced by one and the same; "" for nothing."""
    counts, told = Counter(filter(None, patients)), []
    for what, marks in (("patient", counts), ("group", Counter(filter(None, listed)))):
        if stand_ins := sorted(mark for mark, count in marks.items() if count > 1 and mark.lower() in _PLACEHOLDERS):
            named = ", ".join(f"'{mark}' ({marks.pop(mark)} pictures)" for mark in stand_ins)
            told.append(f"what may stand for no {what} ties pictures to one group: {named}; an empty cell ties none")
    least = max(_LEAST_TOLD, _LEAST_TOLD_FRAC * len(patients))
    for what, marks in (("patient", counts), ("study", Counter(filter(None, studies)))):
        most = max(marks.values(), default=0)
        if most >= least:
            told.append(f"{most} of {len(patients)} pictures say that they are of one {what}, and so share a group")
            # A patient's pictures may all be of one study.
            least = most + 1
    return "; ".join(told)
