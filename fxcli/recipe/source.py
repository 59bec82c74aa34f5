"""Reads YAML into a tree whose every leaf knows where it was written, and writes it. Called by load; knows no schema.

YAML 1.2 scalars, unlike PyYAML's own: `1e-4` is a number, `no` and `on` are text, `010` is ten. Duplicate keys,
anchors, merge keys and tags are refused: a recipe is read by people, and an alias can grow without bound.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from fxcli.errors import RecipeError

# The names from the top of a recipe to a value. Not joined by dots: a class folder may have one in its name.
Key = tuple[str, ...]


@dataclass(frozen=True)
class Leaf:
    """A value as written, with its place.

    Attributes:
        value: Scalar, list, or empty mapping.
        source: File, "--set", "default", or file:line of the study that overrides it.
        key: As it was written there; a leaf that a phase took from the top level keeps its key of the top level.
        lines: Of each name in `key`, from 1; empty where there are none.
    """

    value: Any
    source: str
    key: Key
    lines: tuple[int, ...] = ()

    @property
    def place(self) -> str:
        """`file:line`, or the source alone."""
        return f"{self.source}:{self.lines[-1]}" if self.lines else self.source

    def above(self, levels: int) -> Leaf:
        """The mapping that holds this leaf, so many levels up."""
        return replace(self, value=None, key=self.key[:-levels], lines=self.lines[:-levels]) if levels else self


Tree = dict[str, "Leaf | Tree"]

_SCALARS = (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", "-+."),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}

    def fetch_flow_collection_start(self, token_class: Any) -> None:
        if self.flow_level > _DEPTH_LIMIT:
            # PyYAML's time grows with the square of this depth.
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=self.get_mark())
        super().fetch_flow_collection_start(token_class)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            problem = "anchors and aliases (&name, *name) are refused: use extends"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        if event.tag:
            raise yaml.MarkedYAMLError(problem=f"tags ({event.tag}) are refused", problem_mark=event.start_mark)
        mark = event.start_mark
        if isinstance(event, yaml.ScalarEvent) and (half := _HALF.search(event.value)):
            raise yaml.MarkedYAMLError(problem=f"\\u{ord(half[0]):x} is half a character", problem_mark=mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Puts quotes around text that either version of YAML would take for something else."""


for _tag, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    # YAML writes .inf where Python reads inf.
    return float(re.sub(r"\.(?=inf|nan)", "", node.value.lower()))


# PyYAML's own constructors read 010 as octal and 1:30 in base sixty.
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
_Loader.add_constructor("tag:yaml.org,2002:float", _float)

_DEPTH_LIMIT = 100
# Of a pair that UTF-16 has; alone it is no text, and no file could hold it.
_HALF = re.compile("[\ud800-\udfff]")
# The largest recipe of fx has 2 KiB; and a long list of mistakes takes long to tell.
_SIZE_LIMIT_BYTES = 64 << 10


def read_tree(path: Path, shown: str) -> Tree:
    """Reads a recipe file.

    Args:
        path: The file.
        shown: How messages name it.

    Raises:
        RecipeError: The file is absent, too large, no YAML mapping, or uses what is refused (see the module).
    """
    try:
        if path.stat().st_size > _SIZE_LIMIT_BYTES:
            raise RecipeError([f"{shown}: larger than 64 KiB; this is no recipe"], recipe=shown)
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError([f"{shown}: {error.strerror or error}"], recipe=shown) from error
    except UnicodeDecodeError as error:
        raise RecipeError([f"{shown}: not UTF-8 text"], recipe=shown) from error
    found = _parse(text, shown)
    if isinstance(found, Leaf) and found.value not in (None, {}):
        raise RecipeError([f"{shown}:1: a recipe is a mapping of sections"], recipe=shown)
    return found if isinstance(found, dict) else {}


def read_value(text: str, key: Key) -> Tree:
    """The tree that `--set key=text` stands for.

    Raises:
        RecipeError: `text` is no YAML.
    """
    return override(plain(_parse(text, f"--set {'.'.join(key)}")), key, "--set")


def override(value: Any, key: Key, source: str) -> Tree:
    """The tree of one plain value at `key`, written at `source`."""
    part = _placed(value, key, source)
    for name in reversed(key[1:]):
        part = {name: part}
    return {key[0]: part}


def has_comment(text: str) -> bool:
    """Whether a part of a line of YAML is a comment, which reading drops."""
    try:
        marks = [(token.start_mark.index, token.end_mark.index) for token in yaml.scan(text)]
    except yaml.YAMLError:
        return False
    return any("#" in text[end:start] for (_, end), (start, _) in pairwise(marks))


def _placed(value: Any, key: Key, source: str) -> Leaf | Tree:
    if isinstance(value, Mapping) and value:
        return {name: _placed(below, (*key, name), source) for name, below in value.items()}
    return Leaf(value, source, key)


def _parse(text: str, shown: str) -> Leaf | Tree:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return Leaf(None, shown, ()) if node is None else _convert(loader, node, shown, (), ())
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError([f"{shown}:{line}: not valid YAML: {error.problem}"], recipe=shown) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise RecipeError([f"{shown}: not valid YAML: {first}"], recipe=shown) from error


def _convert(loader: _Loader, node: yaml.Node, shown: str, key: Key, lines: tuple[int, ...]) -> Leaf | Tree:
    if isinstance(node, yaml.SequenceNode):
        values = [plain(_convert(loader, item, shown, key, lines)) for item in node.value]
        return Leaf(values, shown, key, lines)
    if not isinstance(node, yaml.MappingNode):
        return Leaf(loader.construct_object(node), shown, key, lines)
    tree: Tree = {}
    for name, value in node.value:
        mark = name.start_mark
        if not isinstance(name, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a key must be plain text", problem_mark=mark)
        if name.value == "<<":
            raise yaml.MarkedYAMLError(problem="merge keys (<<) are refused: use extends", problem_mark=mark)
        if name.value in tree:
            raise yaml.MarkedYAMLError(problem=f"the key '{name.value}' stands here twice", problem_mark=mark)
        tree[name.value] = _convert(loader, value, shown, (*key, name.value), (*lines, mark.line + 1))
    return tree if tree else Leaf({}, shown, key, lines)


def write(values: Mapping[str, Any]) -> str:
    """YAML of plain values, for this reader and for those of YAML 1.1."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def merge(base: Tree, over: Tree, may_empty: Callable[[Key], bool] = lambda key: False, key: Key = ()) -> Tree:
    """`over` on top of `base`: mappings merge by key, all else replaces.

    Args:
        base: Left as it is, as is the other.
        over: Goes before it.
        may_empty: Of which keys an empty mapping replaces another; elsewhere it changes nothing.
        key: Where both stand.
    """
    merged = dict(base)
    for name, part in over.items():
        below, at = merged.get(name), (*key, name)
        if isinstance(below, dict) and isinstance(part, dict):
            merged[name] = merge(below, part, may_empty, at)
        elif not isinstance(below, dict) or not isinstance(part, Leaf) or part.value != {} or may_empty(at):
            merged[name] = part
    return merged


def plain(tree: Leaf | Tree) -> Any:
    """The values alone."""
    return {name: plain(part) for name, part in tree.items()} if isinstance(tree, dict) else tree.value


def leaves(tree: Leaf | Tree, key: Key = ()) -> list[tuple[Key, Leaf]]:
    """(key, leaf) of every leaf, in order."""
    if isinstance(tree, Leaf):
        return [(key, tree)]
    return [found for name, part in tree.items() for found in leaves(part, (*key, name))]


def flatten(values: Mapping[str, Any], key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """(key, value) of every leaf of plain values; lists and empty mappings are leaves."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, (*key, name))
        else:
            yield (*key, name), value


def is_section(part: Leaf | Tree, key: Sequence[str]) -> bool:
    """Whether a mapping with something in it stands at `key`."""
    for name in key:
        if not isinstance(part, dict) or name not in part:
            return False
        part = part[name]
    return isinstance(part, dict)


def holds(part: Leaf | Tree, key: Sequence[str]) -> bool:
    """Whether something stands at `key`, below it, or in its way."""
    for name in key:
        if not isinstance(part, dict):
            break
        if name not in part:
            return False
        part = part[name]
    return isinstance(part, dict) or part.value != {}
