"""Dividing: no group straddles what fx draws, fractions and classes are kept, and one seed is one split."""

from collections import Counter

import numpy as np
import pytest

from fxcli.data.split import assign, groups, share
from fxcli.errors import DataError
from fxcli.recipe.preparation import Split

SPLITS = ("train", "val", "test")


def data_set(count=300, classes=3, seed=0, largest=4):
    """Labels and groups: groups of 1 to `largest` pictures of one class."""
    rng = np.random.default_rng(seed)
    labels, group = [], []
    while len(labels) < count:
        size = int(rng.integers(1, largest + 1))
        label = f"class_{rng.integers(classes)}"
        group += [f"g{len(labels)}"] * size
        labels += [label] * size
    return labels, group


def shares(result):
    found = Counter(result)
    return {name: found[name] / len(result) for name in SPLITS}


# --- groups ---


def test_pictures_without_a_tie_are_alone():
    assert groups([None, None, None], ["a", "b", "c"]) == ["g00000", "g00001", "g00002"]


def test_equal_bytes_and_equal_patients_belong_together():
    assert groups([None, None, None], ["a", "b", "a"]) == ["g00000", "g00001", "g00000"]
    assert groups(["p", "q", "p"], ["a", "b", "c"]) == ["g00000", "g00001", "g00000"]


def test_chains_are_closed():
    """p – a – q – b – r, met in an order in which the last row ties two groups that have grown already."""
    patients = ["p", "r", "s", "q", "q", "p", "r", None]
    digests = ["x", "y", "z", "a", "b", "a", "b", "z"]
    found = groups(patients, digests)
    assert found == ["g00000", "g00000", "g00001", "g00000", "g00000", "g00000", "g00000", "g00001"]


def test_pairs_belong_together():
    assert groups([None] * 4, list("abcd"), [(0, 3), (1, 2)]) == ["g00000", "g00001", "g00001", "g00000"]
    assert groups([None] * 4, list("abcd"), [(3, 1), (1, 0)]) == ["g00000", "g00000", "g00001", "g00000"]


def test_pairs_patients_and_bytes_are_one_chain():
    found = groups(["p", None, "p", None, None], ["a", "a", "b", "c", "d"], [(2, 3)])
    assert found == ["g00000"] * 4 + ["g00001"]


def test_a_patient_is_no_file():
    assert len(set(groups(["a", None], ["b", "a"]))) == 2
    assert len(set(groups([None, "a"], ["file:a", "x"]))) == 2


def test_long_chain_and_no_patient_ids_in_names():
    count = 3000
    found = groups([f"p{i // 2}" for i in range(count)], [f"d{(i + 1) // 2}" for i in range(count)])
    assert set(found) == {"g00000"}


# --- drawn ---


@pytest.mark.parametrize("seed", range(4))
def test_no_group_straddles(seed):
    labels, group = data_set(seed=seed)
    result = assign(Split(), seed, labels, group, [None] * len(labels))
    assert set(result) == set(SPLITS)
    parts = {}
    for name, part in zip(group, result, strict=True):
        parts.setdefault(name, set()).add(part)
    assert all(len(part) == 1 for part in parts.values())


@pytest.mark.slow
@pytest.mark.parametrize(("test_frac", "val_frac"), [(0.15, 0.15), (0.1, 0.05), (0.3, 0.4), (0.5, 0.25), (0.6, 0.1)])
def test_fractions(test_frac, val_frac):
    labels, group = data_set(count=1200)
    split = Split(test_frac=test_frac, val_frac=val_frac)
    found = shares(assign(split, 0, labels, group, [None] * len(labels)))
    assert found["test"] == pytest.approx(test_frac, abs=0.02)
    assert found["val"] == pytest.approx(val_frac * (1 - test_frac), abs=0.02), "of what is left for training"


@pytest.mark.slow
def test_classes_are_drawn_in_proportion():
    labels = ["common"] * 600 + ["rare"] * 60
    result = assign(Split(), 0, labels, [str(i) for i in range(660)], [None] * 660)
    for part, found in shares(result).items():
        for label in ("common", "rare"):
            of_class = shares([r for r, name in zip(result, labels, strict=True) if name == label])
            assert of_class[part] == pytest.approx(found, abs=0.03)


def test_one_large_group_is_not_drawn_for_every_seed(capsys):
    labels = ["a" if index < 25 or index % 2 else "b" for index in range(60)]
    group = ["nan"] * 25 + [f"g{index}" for index in range(35)]
    drawn = [assign(Split(), seed, labels, group, ["train"] * 60) for seed in range(6)]
    assert all(found.count("val") == pytest.approx(0.15 * 60, abs=3) for found in drawn)
    assert len(set(map(tuple, drawn))) > 3
    assert capsys.readouterr().err == ""


def test_a_part_that_misses_its_share_is_told_of(capsys):
    labels, group = ["a"] * 30, ["x"] * 14 + ["y"] * 16
    found = assign(Split(val_frac=0.15), 0, labels, group, ["train"] * 30)
    assert found.count("val") in (14, 16)
    told = f"{found.count('val')} of 30 pictures (1 of 2 groups) are drawn for val, where 15% were asked"
    assert f"{told}: groups stay whole, and some are large" in capsys.readouterr().err
    assign(Split(val_frac=0), 0, labels, group, [None] * 30)
    assert "(1 of 2 groups) are drawn for test, where 15% were asked" in capsys.readouterr().err
    # A pair is no large group.
    labels, group = [f"c{index % 20}" for index in range(40)], [f"g{max(index, 1)}" for index in range(40)]
    for own, many in ([f"g{index}" for index in range(40)], 40), (group, 39):
        found = assign(Split(val_frac=0), 0, labels, own, [None] * 40).count("test")
        told = f" of {many} groups) are drawn for test, where 15% were asked: classes have few pictures"
        assert f"{found} of 40 pictures" in (err := capsys.readouterr().err)
        assert told in err


def test_a_seed_is_a_split():
    labels, group = data_set()
    results = [assign(Split(), seed, labels, group, [None] * len(labels)) for seed in (0, 0, 1)]
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_the_seed_decides_on_validation_too():
    labels, group = data_set()
    given = ["test"] * 60 + ["train"] * (len(labels) - 60)
    results = [assign(Split(), seed, labels, group, given) for seed in (0, 0, 1)]
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_the_global_generators_stay_where_they_are():
    before = np.random.get_state()[1].copy()
    labels, group = data_set()
    assign(Split(), 0, labels, group, [None] * len(labels))
    assert np.array_equal(np.random.get_state()[1], before)


def test_without_validation():
    labels, group = data_set()
    result = assign(Split(val_frac=0), 0, labels, group, [None] * len(labels))
    assert set(result) == {"train", "test"}


@pytest.mark.parametrize("per_class", [3, 4, 6])
def test_small_data_sets_can_be_divided(per_class):
    labels = [name for name in "abc" for _ in range(per_class)]
    result = assign(Split(), 0, labels, [str(i) for i in range(len(labels))], [None] * len(labels))
    for part in SPLITS:
        assert {label for label, name in zip(labels, result, strict=True) if name == part} == set("abc")


# --- given ---


def test_given_splits_are_kept_and_val_is_drawn_from_train():
    labels, group = data_set()
    given = ["test" if index % 5 == 0 else "train" for index in range(len(labels))]
    result = assign(Split(val_frac=0.2), 0, labels, group, given)
    assert [name == "test" for name in result] == [name == "test" for name in given]
    found = Counter(result)
    assert found["val"] / (found["val"] + found["train"]) == pytest.approx(0.2, abs=0.02)
    of_train = {}
    for name, part in zip(group, result, strict=True):
        if part != "test":
            of_train.setdefault(name, set()).add(part)
    assert all(len(parts) == 1 for parts in of_train.values())


def test_given_validation_is_kept():
    given = ["train", "val", "test", "train"]
    assert assign(Split(), 0, list("abab"), list("wxyz"), given) == given


def test_grouped_may_overrule_what_is_given():
    labels, group = data_set()
    result = assign(Split(policy="grouped"), 0, labels, group, ["train"] * len(labels))
    assert set(result) == set(SPLITS)
    assert result == assign(Split(), 0, labels, group, [None] * len(labels))


def test_only_a_test_part():
    with pytest.raises(DataError, match="no picture is for training") as caught:
        assign(Split(), 0, list("ab"), list("xy"), ["test", "test"])
    assert "split.val_frac=0" in caught.value.hint
    assert assign(Split(val_frac=0), 0, list("ab"), list("xy"), ["test", "test"]) == ["test", "test"]


# --- errors ---


@pytest.mark.parametrize(("policy", "told"), [(None, "2 of 3"), ("given", "split.policy is given, but 2 of 3")])
def test_partly_given(policy, told):
    with pytest.raises(DataError, match=f"^{told} pictures have no split") as caught:
        assign(Split(policy=policy), 0, list("aab"), list("xyz"), ["train", None, None])
    assert "split.policy=grouped" in caught.value.hint


def test_all_may_be_for_training_but_what_is_given():
    group = [str(index) for index in range(20)]
    assert assign(Split(policy="train"), 0, [""] * 20, group, [None] * 20) == ["train"] * 20
    assert assign(Split(), 0, [""] * 20, group, [None] * 20) == ["train"] * 20, "null means it without labels"
    given = ["test", None, "val", "train"]
    assert assign(Split(policy="train"), 0, [""] * 4, group[:4], given) == ["test", "train", "val", "train"]


def test_given_without_any():
    with pytest.raises(DataError, match="3 of 3 pictures have no split"):
        assign(Split(policy="given"), 0, list("aab"), list("xyz"), [None] * 3)


@pytest.mark.parametrize(
    ("labels", "group"),
    [(list("aaaa"), list("xxxx")), (list("abcd"), list("wxyz")), (["a"], ["x"])],
    ids=["one group", "one picture a class", "one picture"],
)
def test_too_few_to_draw_from(labels, group):
    with pytest.raises(DataError, match="are too few to draw a part of them") as caught:
        assign(Split(), 0, labels, group, [None] * len(labels))
    assert "split.policy=train in fx prepare" in caught.value.hint
    assert set(assign(Split(policy="train"), 0, labels, group, [None] * len(labels))) == {"train"}


@pytest.mark.slow
@pytest.mark.parametrize(("groups_in_all", "frac", "expected"), [(1999, None, 0), (2400, None, 306), (60, 0.2, 10)])
def test_a_calibration_part_is_drawn_where_there_are_groups_enough(groups_in_all, frac, expected):
    labels = ["a", "b"] * (groups_in_all // 2) + ["a"] * (groups_in_all % 2)
    names = [f"g{index}" for index in range(groups_in_all)]
    found = assign(Split(calibration_frac=frac), 0, labels, names, ["train"] * groups_in_all)
    assert found.count("calibration") == pytest.approx(expected, abs=1 + 0.05 * expected)
    assert found.count("val") == pytest.approx(0.15 * groups_in_all, abs=0.02 * groups_in_all)


def test_a_given_calibration_part_is_kept():
    given = ["calibration"] * 10 + ["train"] * 50
    found = assign(Split(calibration_frac=0.2), 0, ["a", "b"] * 30, [f"g{i}" for i in range(60)], given)
    assert found[:10] == ["calibration"] * 10
    assert "calibration" not in found[10:]


# --- a share of the training part ---


@pytest.mark.parametrize("frac", [0.1, 0.3, 0.75])
def test_a_share_has_whole_groups_of_each_class_and_about_its_size(frac):
    labels, group = data_set(count=400)
    taken = share(labels, group, frac, seed=4)
    for name in set(group):
        assert len({bool(its) for its, of in zip(taken, group, strict=True) if of == name}) == 1
    for label, count in Counter(labels).items():
        found = sum(its for its, of in zip(taken, labels, strict=True) if of == label)
        assert frac * count <= found < frac * count + 4, "at most the rest of the last group too many"


def test_a_smaller_share_is_a_part_of_a_larger_one_and_other_seeds_draw_others():
    labels, group = data_set()
    small, large = share(labels, group, 0.1, seed=1), share(labels, group, 0.3, seed=1)
    assert (large >= small).all()
    assert small.sum() < large.sum()
    assert not np.array_equal(small, share(labels, group, 0.1, seed=2))
    assert share(labels, group, 1.0, seed=1).all()


def test_each_class_keeps_a_group_however_small_the_share():
    labels, group = ["a"] * 50 + ["b", "b"], [f"g{number}" for number in range(51)] + ["g50"]
    taken = share(labels, group, 0.01, seed=0)
    assert taken.tolist().count(True) == 3
    assert taken[50:].all()


def test_a_class_whose_pictures_all_lie_in_groups_of_another_is_kept():
    labels = ["a", "b"] * 20
    group = [f"g{number // 2}" for number in range(40)]
    taken = share(labels, group, 0.1, seed=0)
    assert {label for label, its in zip(labels, taken, strict=True) if its} == {"a", "b"}
    assert (share(labels, group, 0.5, seed=0) >= taken).all()
