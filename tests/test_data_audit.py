"""What follows from pairs: sets, leaks, conflicts, figures, policies. The pairs themselves are made by hand here."""

import itertools

import distortions
import numpy as np
import pytest

from fxcli.data import audit, phantom, split
from fxcli.data.audit import Pair, conclude, find_pairs
from fxcli.data.oddities import Oddity
from fxcli.data.views import view
from fxcli.errors import DataError
from fxcli.recipe.preparation import Audit as Policy

# A test picture with a twin, one with a panel of its figure, and one that is alone; three copies with two labels.
NAMES = ["t0", "t1", "t2", "a", "b", "c", "d", "e", "f"]
LABELS = ["x", "x", "y", "y", "x", "x", "y", "x", "y"]
SPLITS = ["test", "test", "test", "train", "val", "train", "train", "train", "train"]
PAIRS = [
    Pair(0, 3, "same_picture", 0.9),
    Pair(1, 4, "same_figure", 0.0),
    Pair(5, 6, "same_picture", 0.95),
    Pair(6, 7, "same_picture", 0.85),
]
RANKS = [(size,) for size in (9, 9, 9, 10, 20, 30, 50, 40, 60)]


def concluded(policy=None, splits=SPLITS, pairs=PAIRS, **changes):
    groups = split.groups([None] * 9, NAMES, [(pair.a, pair.b) for pair in pairs])
    return conclude(Policy(**(policy or {})), NAMES, LABELS, splits, pairs, groups, RANKS, NAMES, **changes)


def dropped(found):
    return {NAMES[index]: why for index, why in found.dropped.items()}


def test_leaks_and_groups():
    found = concluded()
    assert found.leaked == {0}
    assert found.straddling == [0, 1]
    assert found.dropped == {}
    assert found.groups[1] == found.groups[4] != found.groups[0]
    assert len(set(found.copies)) == 6
    assert found.copies[1] != found.copies[4], "panels are no copies"


def test_conflicts_are_of_copies_alone():
    assert concluded().conflicts == [[0, 3], [5, 6, 7]]


def test_a_chain_of_copies_leaks_where_it_touches():
    """t0 – t1 – a: the picture that t0 equals is in test; only a pair counts."""
    pairs = [Pair(0, 1, "same_picture", 0.9), Pair(1, 3, "same_picture", 0.9)]
    assert concluded(pairs=pairs).leaked == {1}
    assert concluded(pairs=pairs).straddling == [0, 1]


def test_every_one_of_very_many_byte_equal_files_leaks():
    names = [f"{index}.png" for index in range(80)]
    splits = ["test" if index < 3 or index >= 76 else "train" for index in range(80)]
    digests = ["x" if index < 40 else "y" for index in range(80)]
    pairs = find_pairs(names, digests, [], workers=1)
    groups = split.groups([None] * 80, digests, [(pair.a, pair.b) for pair in pairs])
    found = conclude(Policy(), names, ["a"] * 80, splits, pairs, groups, [(1,)] * 80, digests)
    assert sorted(found.leaked) == found.straddling == [0, 1, 2, 76, 77, 78, 79]


def test_figures():
    found = concluded(oddities=[Oddity(3, "ct", 1.5), Oddity(4, "ct", 1.3), Oddity(5, "blank", 0.0)])
    assert found.figures() == {
        "pictures": 9,
        "same_picture_pairs": 3,
        "same_figure_pairs": 1,
        "pictures_with_copies": 5,
        "groups": 5,
        "groups_of_several": 3,
        "test": 3,
        "leaked_test": 1,
        "straddling_test": 2,
        "label_conflicts": 2,
        # t0–a and c–d and d–e.
        "disagreeing_pairs": 3,
        "disagreement_rate": 1.0,
        # One of two, and two of three.
        "label_ceiling": pytest.approx(3 / 5),
        "dropped": 0,
        "oddities": {"blank": 1, "ct": 2},
    }
    rows = dict(found.table())
    assert rows["… with the same picture in train or val, as it was given"] == "1"
    assert rows["pairs of the same picture whose labels disagree"] == "100.0%"
    assert rows["… so that on such pictures at most this many answers can be right"] == "60.0%"
    assert rows["pictures that may be CT or MR"] == "2"


def test_the_ceiling_is_that_of_the_best_answers():
    """Against all ways of giving one answer to each set of copies."""
    found = concluded()
    sets = [[0, 3], [5, 6, 7]]
    right = max(
        sum(LABELS[index] == answer for members, answer in zip(sets, answers, strict=True) for index in members)
        for answers in itertools.product("xy", repeat=2)
    )
    assert found.figures()["label_ceiling"] == right / 5


def test_without_pairs():
    found = concluded(pairs=[])
    figures = found.figures()
    assert figures["disagreement_rate"] is figures["label_ceiling"] is None
    assert figures["groups"] == 9
    record = found.record()
    assert [record[key] for key in ("pairs", "groups", "leaked_test", "label_conflicts", "dropped", "suspects")] == [
        [] for _ in range(6)
    ]
    assert not [row for row in found.table() if "disagree" in row[0]]


def test_record():
    record = concluded({"leaks": "drop_train"}, oddities=[Oddity(8, "colour", 0.51239)]).record()
    assert record["pairs"][0] == {"a": "t0", "b": "a", "kind": "same_picture", "score": 0.9}
    assert record["groups"] == [["t0", "a"], ["t1", "b"], ["c", "d", "e"]]
    assert record["leaked_test"] == ["t0"]
    assert record["label_conflicts"] == [
        {"paths": ["t0", "a"], "labels": ["x", "y"]},
        {"paths": ["c", "d", "e"], "labels": ["x", "y", "x"]},
    ]
    assert record["dropped"] == [
        {"path": "a", "why": "shares a group with a test picture"},
        {"path": "b", "why": "shares a group with a test picture"},
    ]
    assert record["suspects"] == [{"path": "f", "kind": "colour", "value": 0.5124}]


# --- policies ---


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, ""),
        ({"leaks": "drop_train"}, "ab"),
        ({"label_conflicts": "drop"}, "acde"),
        ({"duplicates": "one_per_group"}, "ce"),
        ({"leaks": "drop_train", "duplicates": "one_per_group"}, "abce"),
        ({"leaks": "drop_train", "duplicates": "one_per_group", "label_conflicts": "drop"}, "abcde"),
    ],
)
def test_policies(policy, expected):
    found = concluded(policy)
    assert set(dropped(found)) == set(expected)
    assert found.leaked == {0}, "what was found stays known"


def test_no_policy_drops_a_test_picture():
    everything = {"leaks": "drop_train", "duplicates": "one_per_group", "label_conflicts": "drop"}
    pairs = [Pair(a, b, "same_picture", 0.9) for a, b in itertools.combinations(range(9), 2)]
    assert set(concluded(everything, pairs=pairs).dropped) == set(range(3, 9))
    assert concluded(everything, splits=["test"] * 9, pairs=pairs).dropped == {}


def test_of_copies_the_largest_stays_and_says_so():
    assert dropped(concluded({"duplicates": "one_per_group"})) == {"c": "a copy of d", "e": "a copy of d"}


def test_refusing_names_pairs():
    with pytest.raises(DataError, match="2 of 3 test pictures share a group") as caught:
        concluded({"leaks": "refuse"})
    assert "t0 and a (same_picture)" in str(caught.value)
    assert "t1 and b (same_figure)" in str(caught.value)
    assert "audit.leaks=report" in caught.value.hint
    assert concluded({"leaks": "refuse"}, pairs=PAIRS[2:]).dropped == {}


def test_refusing_names_pictures_of_one_patient():
    patients = ["", "q", "", "p", "p", "q", "", "", "p"]
    groups = split.groups([patient or None for patient in patients], NAMES)
    with pytest.raises(DataError, match="1 of 3 test pictures share a group") as caught:
        conclude(Policy(leaks="refuse"), NAMES, LABELS, SPLITS, [], groups, RANKS, NAMES)
    assert f"\n  t1 and {NAMES[5]} (same_group)" in str(caught.value)
    assert "its audit.json lists all groups" in caught.value.hint


# --- pairs ---


def test_byte_equal_files_are_pairs_without_looking():
    found = find_pairs(["a", "b", "c", "d"], ["x", "y", "x", "x"], [], workers=1)
    assert found == [Pair(a, b, "same_picture", 1.0) for a, b in ((0, 2), (0, 3), (2, 3))]
    many = find_pairs([f"p{i}" for i in range(100)], ["x"] * 100, [], workers=1)
    assert len(many) == 99


@pytest.mark.slow
def test_pairs_of_pictures_names_and_bytes():
    cases = phantom.plan(seed=2, train_per_class=1, val_per_class=0, test_per_class=0)[:4]
    one, two, three, four = (phantom.draw(case, 200) for case in cases)
    shown = [one, two, distortions.mirrored(one), one, three, four]
    names = ["one.png", "13018_2019_1385_Fig3a.png", "mirror.png", "again.png", "x.png", "13018_2019_1385_Fig3b.png"]
    digests = ["1", "2", "3", "1", "4", "5"]
    found = find_pairs(names, digests, [view(pixels) for pixels in shown], workers=1)
    assert [(pair.a, pair.b, pair.kind) for pair in found] == [
        (0, 2, "same_picture"),
        (0, 3, "same_picture"),
        (1, 5, "same_figure"),
        (2, 3, "same_picture"),
    ]
    scores = {(pair.a, pair.b): pair.score for pair in found}
    assert scores[0, 3] == 1.0
    assert scores[0, 2] == scores[2, 3] > 0.9


def test_pictures_that_are_equal_are_no_mere_figure():
    cases = phantom.plan(seed=2, train_per_class=1, val_per_class=0, test_per_class=0)
    pixels = phantom.draw(cases[0], 200)
    views = [view(pixels), view(distortions.re_encoded(pixels))]
    names = ["13018_2019_1385_Fig3a.png", "13018_2019_1385_Fig3b.png"]
    (found,) = find_pairs(names, ["1", "2"], views, workers=1)
    assert found.kind == audit.SAME_PICTURE
    assert np.isfinite(found.score)
