"""YAML as recipes read and write it."""

import math
from pathlib import Path

import pytest
import yaml

from fxcli.errors import RecipeError
from fxcli.recipe.source import Leaf, flatten, holds, leaves, merge, plain, read_tree, read_value, write


def tree(text):
    path = Path("r.yaml")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_tree(path, "r.yaml")


def value(text):
    return plain(tree(f"a: {text}"))["a"]


def problem(text):
    with pytest.raises(RecipeError) as error:
        tree(text)
    (line,) = error.value.problems
    return line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-4", 1e-4),
        ("1E4", 1e4),
        ("+1.5e+3", 1500.0),
        (".5", 0.5),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("-0", 0),
        ("010", 10),
        ("08", 8),
        ("+12", 12),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("2026-01-01", "2026-01-01"),
        ("1e", "1e"),
        (".", "."),
        ("=", "="),
        ("'1e-4'", "1e-4"),
        ('"true"', "true"),
        ("a\\b", "a\\b"),
        ("[1e-3, no, [on]]", [1e-3, "no", ["on"]]),
        ("{}", {}),
        ("[{b: 1e1, 2: x}]", [{"b": 10.0, "2": "x"}]),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, expected):
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


def test_infinities_are_numbers_which_the_schema_refuses_later():
    assert value(".inf") == math.inf
    assert value("-.Inf") == -math.inf
    assert math.isnan(value(".NAN"))
    assert value("inf") == "inf"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: {c: 1,\n c: 2}", "r.yaml:3: not valid YAML: the key 'c' stands here twice"),
        ("a: 1\na: 2", "r.yaml:2: not valid YAML: the key 'a' stands here twice"),
        ("a: [1, {b: 1, b: 2}]", "r.yaml:1: not valid YAML: the key 'b' stands here twice"),
        ("a: &x 1\n", "r.yaml:1: not valid YAML: anchors and aliases"),
        ("a: &x {b: 1}\nc: *x", "r.yaml:1: not valid YAML: anchors and aliases"),
        ("a: 1\nc: *x", "r.yaml:2: not valid YAML: anchors and aliases"),
        ("a:\n  <<: {b: 1}", "r.yaml:2: not valid YAML: merge keys (<<) are refused"),
        ("a: !!python/name:os.system x", "r.yaml:1: not valid YAML: tags (tag:yaml.org,2002:python/name:os.system)"),
        ("a: !!str 5", "r.yaml:1: not valid YAML: tags (tag:yaml.org,2002:str)"),
        ("a: !mine {b: 1}", "r.yaml:1: not valid YAML: tags (!mine)"),
        ("a: !!set {b}", "r.yaml:1: not valid YAML: tags"),
        ("!mine\na: 1", "r.yaml:1: not valid YAML: tags (!mine)"),
        ("? [a]\n: 1", "r.yaml:1: not valid YAML: a key must be plain text"),
        ("a: 1\n---\nb: 2", "r.yaml:2: not valid YAML: but found another document"),
        ("a: [1,\nb: 2", "r.yaml:2: not valid YAML:"),
        ("a: 1\n b: 2", "r.yaml:2: not valid YAML:"),
        ("a: \x07", "r.yaml: not valid YAML: unacceptable character #x0007"),
        ('a: 1\nb: "\\ud800"', "r.yaml:2: not valid YAML: \\ud800 is half a character"),
        ('"\\udfff": 1', "r.yaml:1: not valid YAML: \\udfff is half a character"),
        ("a: " + "9" * 5000, "r.yaml: not valid YAML: Exceeds the limit"),
        ("a: " + "[" * 5000, "r.yaml:1: not valid YAML: nested too deeply"),
        ("- " * 5000, "r.yaml: not valid YAML: maximum recursion depth exceeded"),
        ("- a", "r.yaml:1: a recipe is a mapping of sections"),
        ("text", "r.yaml:1: a recipe is a mapping of sections"),
        (b"a: \xff", "r.yaml: not UTF-8 text"),
        ("a: " + "x" * (1 << 20), "r.yaml: larger than 64 KiB; this is no recipe"),
    ],
)
def test_refused_with_the_line(text, expected):
    assert problem(text).startswith(expected)


def test_what_cannot_be_opened_is_told():
    with pytest.raises(RecipeError, match=r"gone\.yaml: No such file or directory"):
        read_tree(Path("gone.yaml"), "gone.yaml")


@pytest.mark.parametrize("text", ["", "# only a comment\n", "{}", "null", "---\n"])
def test_an_empty_file_is_an_empty_recipe(text):
    assert tree(text) == {}


def test_a_byte_order_mark_and_other_scripts_are_fine():
    assert plain(tree("\ufeffa: Brüche 骨折".encode())) == {"a": "Brüche 骨折"}


def test_every_leaf_knows_its_lines():
    found = dict(leaves(tree("# about\na:\n  b: 1\n\n  c:\n    - x\n    - y\nd: {e: {},\n  f: 2}\n")))
    assert {key: (leaf.value, leaf.lines) for key, leaf in found.items()} == {
        ("a", "b"): (1, (2, 3)),
        ("a", "c"): (["x", "y"], (2, 5)),
        ("d", "e"): ({}, (8, 8)),
        ("d", "f"): (2, (8, 9)),
    }
    leaf = found["a", "c"]
    assert (leaf.place, leaf.key) == ("r.yaml:5", ("a", "c"))
    assert (leaf.above(0), leaf.above(1).place, leaf.above(1).key) == (leaf, "r.yaml:2", ("a",))


def test_a_set_is_a_tree_without_lines():
    assert read_value("1e-4", ("optim", "lr")) == {"optim": {"lr": Leaf(1e-4, "--set", ("optim", "lr"))}}
    assert Leaf(1, "--set", ("a",)).place == "--set"
    assert plain(read_value("", ("a",))) == {"a": None}
    assert plain(read_value("[0.9, 1.1]", ("a", "b"))) == {"a": {"b": [0.9, 1.1]}}
    found = dict(leaves(read_value("{name: sgd, x: {y: no}}", ("optim",))))
    assert found["optim", "x", "y"] == Leaf("no", "--set", ("optim", "x", "y"))
    with pytest.raises(RecipeError, match=r"--set a\.b:1: not valid YAML"):
        read_value("[1", ("a", "b"))


def test_merging_is_by_key_and_leaves_both_sides_alone():
    base, over = tree("a: {x: 1, y: [1, 2], z: {u: 1}}\nb: 1\nc: {d: 1}"), tree("a: {y: [3], z: {v: 2}}\nb: {w: 1}")
    merged = merge(base, over)
    assert plain(merged) == {"a": {"x": 1, "y": [3], "z": {"u": 1, "v": 2}}, "b": {"w": 1}, "c": {"d": 1}}
    assert plain(base)["a"] == {"x": 1, "y": [1, 2], "z": {"u": 1}}
    assert plain(over)["a"] == {"y": [3], "z": {"v": 2}}
    assert list(merged) == ["a", "b", "c"]


def test_an_empty_mapping_changes_no_mapping_but_replaces_a_value():
    assert plain(merge(tree("a: {x: 1}\nb: 1"), tree("a: {}\nb: {}"))) == {"a": {"x": 1}, "b": {}}
    assert plain(merge(tree("a: {}"), tree("a: {x: 1}"))) == {"a": {"x": 1}}
    assert plain(merge(tree("a: {x: 1}"), tree("a:"))) == {"a": None}


def test_an_empty_mapping_replaces_another_where_it_may():
    base = tree("a: {x: 1}\nb: {a: {y: 1}, c: {z: 1}}")
    merged = merge(base, tree("a: {}\nb: {a: {}, c: {}}"), lambda key: key in {("a",), ("b", "c")})
    assert plain(merged) == {"a": {}, "b": {"a": {"y": 1}, "c": {}}}


def test_flatten_keeps_lists_and_empty_mappings():
    values = {"a": {"b": 1, "c": [1, {"d": 2}]}, "e": {}, "f.g": None}
    assert dict(flatten(values)) == {("a", "b"): 1, ("a", "c"): [1, {"d": 2}], ("e",): {}, ("f.g",): None}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("a", True),
        ("a.b", True),
        ("a.b.c", True),
        ("a.c", False),
        ("d", False),
        ("d.e", False),
        ("f", True),
        ("g", False),
    ],
)
def test_holds(key, expected):
    assert holds(tree("a: {b: 1}\nd: {}\nf: null"), key.split(".")) is expected


TRICKY = [
    *("1e-4", "1e5", "1.", ".5", "08", "010", "0x10", "1:30", "no", "on", "y", "true", "null", "~", "", " ", "a: b"),
    *(
        "# x",
        "- a",
        "'",
        '"',
        "a\nb\n",
        "é",
        ".inf",
        "=",
        "<<",
        "!x",
        "&x",
        "*x",
        "2026-01-01",
        "1_000",
        "x" * 300,
        "\t",
    ),
    *("{a}", "[a]", "@a", "%a", "C:\\data", "a  b" * 60),
]


@pytest.mark.parametrize("text", TRICKY)
def test_text_that_looks_like_something_else_survives_writing(text):
    values = {"key": text, "list": [text], "1e5": 1}
    written = write(values)
    assert plain(tree(written)) == values
    assert yaml.safe_load(written) == {**values, "1e5": 1}


@pytest.mark.parametrize("number", [0, -3, 10**20, 1e-5, 5e-324, 1.7976931348623157e308, 0.1, 1e16, 100.0, True, None])
def test_values_survive_writing(number):
    written = write({"a": number, "b": [number], "c": {}})
    found = plain(tree(written))
    assert found == {"a": number, "b": [number], "c": {}}
    assert type(found["a"]) is type(number)
    assert yaml.safe_load(written) == found
