from fxcli.data import people


def test_the_same_mark_makes_pairs_with_its_first():
    assert people.same(["a", "", "b", "a", "", "a"]) == [(0, 0), (2, 2), (0, 3), (0, 5)]
    assert people.same(["", ""]) == []


def test_a_list_goes_before_files_and_joins_what_it_leaves_out():
    assert people.patients(["k", "l", None], ["", "", ""]) == (["k", "l", ""], [])
    assert people.patients(["k", "l"], ["x", "x"]) == (["k", "l"], []), "such as one id in place of all"
    marks, pairs = people.patients(["k", None, "l", None, "m"], ["x", "x", "y", "z", "x"])
    assert marks == ["k", "k", "l", "z", "m"]
    assert [(a, b) for a, b in pairs if a != b] == [(0, 1), (0, 4)]


def test_running_numbers():
    assert people.numbered("p", ["x", "", "y", "x"]) == ["p00001", "", "p00002", "p00001"]
    assert people.numbered("s", []) == []


def test_doubts_where_many_are_of_one():
    others = [f"a{i}" for i in range(54)]
    assert people.doubts(["x"] * 5) == "", "one patient may well have as many"
    told = "6 of 60 pictures say that they are of one patient, and so share a group"
    assert people.doubts([*["x"] * 6, *others]) == told
    assert people.doubts([*["x"] * 6, *others, "y"]) == ""
    assert people.doubts([""] * 50) == ""
    assert people.doubts([]) == ""


def test_doubts_where_many_are_of_one_study():
    """As a program that makes files anonymous may write one UID into all."""
    told = "9 of 9 pictures say that they are of one study, and so share a group"
    assert people.doubts([""] * 9, studies=["1.2.3"] * 9) == told
    assert people.doubts([f"a{i}" for i in range(9)], studies=["1.2.3"] * 9) == told
    assert people.doubts(["a"] * 9, studies=["1.2.3"] * 9) == told.replace("study", "patient")
    assert people.doubts([""] * 9, studies=["", *"abcdefgh"]) == ""


def test_doubts_where_ids_stand_for_nobody():
    others = [f"a{i}" for i in range(90)]
    told = people.doubts([*others, "nan", "nan", "Unknown", "0", "0", "0", "-"])
    assert told.startswith("what may stand for no patient ties pictures to one group: '0' (3 pictures), 'nan' (2 pictu")
    assert people.doubts([*others, "nan", "0"]) == "", "one picture of each is tied to none"
    assert people.doubts([*["x"] * 9, "NaN", "NaN"]).endswith(
        "; 9 of 11 pictures say that they are of one patient, and so share a group"
    )


def test_doubts_where_groups_stand_for_none():
    told = people.doubts(["a", "b", "c"], ["nan", "nan", "g"])
    assert told == "what may stand for no group ties pictures to one group: 'nan' (2 pictures); an empty cell ties none"
    assert people.doubts(["a"] * 3, ["g"] * 3) == "", "a list's own groups may be large"
