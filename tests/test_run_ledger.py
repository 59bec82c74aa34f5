import json

import pytest

from fxcli.run.ledger import NAME, look, part_of


def test_looks_at_one_part_are_counted_with_their_models(tmp_path):
    part, other = part_of([("a", "x"), ("b", "y")]), part_of([("a", "x")])
    assert look(tmp_path, part=part, model="m1", manifest="1").told() == "look 1 at this test part, by 1 model so far"
    look(tmp_path, part=other, model="m2", manifest="2")
    look(tmp_path, part=part, model="m1", manifest="1")
    found = look(tmp_path, part=part, model="m2", manifest="1")
    assert found.told() == "look 3 at this test part, by 2 different models so far"
    assert found.before == 0
    assert look(tmp_path, part=part, model="m1", manifest="1").before == 2
    assert found.before == 0
    lines = [json.loads(line) for line in (tmp_path / NAME).read_text().splitlines()]
    told = [(line["model"], line["manifest"]) for line in lines]
    assert told == [("m1", "1"), ("m2", "2"), ("m1", "1"), ("m2", "1"), ("m1", "1")]
    assert all(line["time"].endswith("Z") for line in lines)


def test_the_part_is_its_pictures_in_any_order():
    assert part_of([("a", "x"), ("b", "y")]) == part_of([("b", "y"), ("a", "x")])
    assert part_of([("a", "x"), ("b", "y")]) != part_of([("a", "y"), ("b", "x")])


def test_a_line_cut_short_hides_no_other(tmp_path):
    part = part_of([("a", "x")])
    look(tmp_path, part=part, model="m1")
    with (tmp_path / NAME).open("a") as handle:
        handle.write('{"time": "2026\n[1]\n')
    assert look(tmp_path, part=part, model="m2").number == 2
    with (tmp_path / NAME).open("ab") as handle:
        handle.write('{"name": "Ü'.encode()[:-1])
    assert look(tmp_path, part=part, model="m3").number == 3


@pytest.mark.parametrize("name", ["a\u2028b", "a\x85b", "a\nb"])
def test_a_name_that_breaks_lines_breaks_none_here(tmp_path, name):
    part = part_of([("a", "x")])
    assert [look(tmp_path, part=part, model="m", name=name).number for _ in range(2)] == [1, 2]
