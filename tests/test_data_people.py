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


def test_doubts_where_most_are_of_one():
    many = [f"a{i}" for i in range(8)]
    assert people.doubts(["anonymous"] * 9) == "", "too few to tell"
    assert people.doubts([*["x"] * 8, *many]) == ""
    assert (
        people.doubts([*["x"] * 9, *many]) == "9 of 17 pictures say that they are of one patient, and so share a group"
    )
    assert people.doubts([""] * 50) == ""
    assert people.doubts([]) == ""
