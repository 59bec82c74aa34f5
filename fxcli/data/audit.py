"""The audit of a data set: pictures that occur more than once, and what becomes of them. Called by data/prepare.

Finding them is in duplicates and figures; the page for people is in audit_page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fxcli.data import duplicates, figures, split
from fxcli.data.manifest import LEARNT
from fxcli.data.oddities import ODD, Oddity
from fxcli.data.views import View
from fxcli.errors import DataError
from fxcli.recipe.preparation import Audit as Policy

SAME_PICTURE, SAME_FIGURE = "same_picture", "same_figure"
# Of byte-equal files up to this number every two are a pair; of more, each with the first.
_MOST_COPIES = 32


@dataclass(frozen=True)
class Pair:
    """Two pictures that belong together, by index.

    Attributes:
        a: The one; the smaller index.
        b: The other.
        kind: SAME_PICTURE or SAME_FIGURE.
        score: Agreement of the pictures, at most 1; 0 where names alone tell.
    """

    a: int
    b: int
    kind: str
    score: float


@dataclass(frozen=True)
class Audit:
    """What was found, and what follows from it; all by index.

    Attributes:
        names: Of the pictures.
        labels: Likewise.
        splits: Likewise.
        pairs: Found.
        groups: A group for each picture: pairs of both kinds, patients and byte-equal files.
        copies: A set for each picture: those that are one picture share it.
        leaked: Test pictures that are the same as a picture that is learnt from.
        oddities: Pictures that may be no radiographs.
        dropped: Picture → why it is left out.
    """

    names: Sequence[str]
    labels: Sequence[str]
    splits: Sequence[str]
    pairs: Sequence[Pair]
    groups: Sequence[str]
    copies: Sequence[str]
    leaked: frozenset[int]
    oddities: Sequence[Oddity] = ()
    dropped: Mapping[int, str] = field(default_factory=dict)

    @property
    def conflicts(self) -> list[list[int]]:
        """Sets of copies of one picture whose labels disagree."""
        return [members for members in _sets(self.copies) if len({self.labels[index] for index in members}) > 1]

    @property
    def straddling(self) -> list[int]:
        """Test pictures whose group holds a picture that is learnt from."""
        learnt = {group for group, part in zip(self.groups, self.splits, strict=True) if part in LEARNT}
        return [i for i, part in enumerate(self.splits) if part == "test" and self.groups[i] in learnt]

    def figures(self) -> dict[str, Any]:
        """The numbers of the table."""
        same = [pair for pair in self.pairs if pair.kind == SAME_PICTURE]
        disagreeing = sum(self.labels[pair.a] != self.labels[pair.b] for pair in same)
        sets = _sets(self.copies)
        often = [max(Counter(self.labels[index] for index in members).values()) for members in sets]
        pictures, labelled = sum(map(len, sets)), any(self.labels)
        return {
            "pictures": len(self.names),
            "same_picture_pairs": len(same),
            "same_figure_pairs": len(self.pairs) - len(same),
            "pictures_with_copies": pictures,
            "groups": len(set(self.groups)),
            "groups_of_several": len(_sets(self.groups)),
            "test": sum(part == "test" for part in self.splits),
            "leaked_test": len(self.leaked),
            "straddling_test": len(self.straddling),
            "label_conflicts": len(self.conflicts),
            "disagreeing_pairs": disagreeing,
            "disagreement_rate": disagreeing / len(same) if same and labelled else None,
            "label_ceiling": sum(often) / pictures if pictures and labelled else None,
            "dropped": len(self.dropped),
            "oddities": dict(sorted(Counter(oddity.kind for oddity in self.oddities).items())),
        }

    def table(self) -> list[tuple[str, str]]:
        """The same for people: what, and how much."""
        numbers = self.figures()
        rate, ceiling = numbers["disagreement_rate"], numbers["label_ceiling"]
        pairs, odd = numbers["same_picture_pairs"], numbers["oddities"]
        rows = [
            ("pictures", str(numbers["pictures"])),
            ("groups (what must not straddle a split)", str(numbers["groups"])),
            ("pictures that occur more than once", str(numbers["pictures_with_copies"])),
            ("pairs of the same picture", str(pairs)),
            ("pairs of panels of one figure", str(numbers["same_figure_pairs"])),
            ("test pictures", str(numbers["test"])),
            ("… with the same picture in train or val, as it was given", str(numbers["leaked_test"])),
            ("… with their group in train or val", str(numbers["straddling_test"])),
        ]
        if any(self.labels):
            rows.append(("pictures with copies that bear other labels (sets)", str(numbers["label_conflicts"])))
        if rate is not None and ceiling is not None:
            rows.append(("pairs of the same picture whose labels disagree", f"{rate:.1%}"))
            rows.append(("… so that on such pictures at most this many answers can be right", f"{ceiling:.1%}"))
        rows += [(f"{ODD[kind]}", str(count)) for kind, count in odd.items()]
        rows.append(("left out", str(numbers["dropped"])))
        return rows

    def record(self) -> dict[str, Any]:
        """What audit.json holds."""
        names = self.names
        return {
            "figures": self.figures(),
            "pairs": [
                {"a": names[pair.a], "b": names[pair.b], "kind": pair.kind, "score": round(pair.score, 4)}
                for pair in self.pairs
            ],
            "groups": [[names[index] for index in members] for members in _sets(self.groups)],
            "leaked_test": [names[index] for index in sorted(self.leaked)],
            "label_conflicts": [
                {"paths": [names[i] for i in members], "labels": [self.labels[i] for i in members]}
                for members in self.conflicts
            ],
            "dropped": [{"path": names[index], "why": why} for index, why in sorted(self.dropped.items())],
            "suspects": [
                {"path": names[oddity.index], "kind": oddity.kind, "value": round(oddity.value, 4)}
                for oddity in self.oddities
            ],
        }


def find_pairs(names: Sequence[str], digests: Sequence[str], views: Sequence[View], *, workers: int) -> list[Pair]:
    """All pairs of the same picture, and of the same figure where they are not the same picture.

    Args:
        names: Of the pictures.
        digests: sha256 of each file.
        views: Of each; none: the pictures are not looked at, and byte-equal files and names are all.
        workers: Threads.
    """
    equal: dict[str, list[int]] = {}
    for index, digest in enumerate(digests):
        equal.setdefault(digest, []).append(index)
    of_first = {members[0]: members for members in equal.values()}
    same: dict[tuple[int, int], float] = {}
    for members in equal.values():
        same |= dict.fromkeys(_all_pairs(members), 1.0)
    firsts = list(of_first)
    views_of_firsts = [views[index] for index in firsts] if views else []
    found = duplicates.search(views_of_firsts, workers=workers)
    for duplicate in found:
        mine, theirs = of_first[firsts[duplicate.a]], of_first[firsts[duplicate.b]]
        for a in mine[:_MOST_COPIES]:
            same |= {(min(a, b), max(a, b)): duplicate.score for b in theirs[:_MOST_COPIES]}
    pairs = [Pair(a, b, SAME_PICTURE, score) for (a, b), score in same.items()]
    panels = {(firsts[a], firsts[b]) for a, b in duplicates.panels(views_of_firsts, found)}
    together = sorted({*figures.same_figure(names), *panels} - set(same))
    pairs += [Pair(a, b, SAME_FIGURE, 0.0) for a, b in together]
    return sorted(pairs, key=lambda pair: (pair.a, pair.b))


def _all_pairs(members: Sequence[int]) -> list[tuple[int, int]]:
    if len(members) > _MOST_COPIES:
        return [(members[0], other) for other in members[1:]]
    return [(a, b) for place, a in enumerate(members) for b in members[place + 1 :]]


def conclude(
    policy: Policy,
    names: Sequence[str],
    labels: Sequence[str],
    splits: Sequence[str],
    pairs: Sequence[Pair],
    groups: Sequence[str],
    ranks: Sequence[tuple[int, ...]],
    digests: Sequence[str],
    oddities: Sequence[Oddity] = (),
) -> Audit:
    """What follows from the pairs under a policy.

    Args:
        policy: The recipe's section.
        names: Of the pictures.
        labels: Likewise.
        splits: Likewise.
        pairs: From `find_pairs`.
        groups: From `split.groups`.
        ranks: Of copies, the one of the highest is kept, and of equal ones the first.
        digests: sha256 of each file.
        oddities: Found among the pictures.

    Raises:
        DataError: A test picture shares its group with one that is learnt from, and the policy refuses that; or the
            policy leaves out every picture.
    """
    same = [(pair.a, pair.b) for pair in pairs if pair.kind == SAME_PICTURE]
    copies = split.groups([None] * len(names), [str(index) for index in range(len(names))], same)
    # By files, not pairs: of many that are byte-equal not every two are a pair.
    learnt = {digest for digest, part in zip(digests, splits, strict=True) if part in LEARNT}
    ends = [(digests[a], digests[b]) for pair in same for a, b in (pair, pair[::-1])]
    seen = learnt | {a for a, b in ends if b in learnt}
    leaked = frozenset(index for index, part in enumerate(splits) if part == "test" and digests[index] in seen)
    found = Audit(names, labels, splits, pairs, groups, copies, leaked, oddities)
    if policy.leaks == "refuse" and found.straddling:
        raise _refusal(found)
    dropped = _dropped(policy, found, ranks)
    if len(dropped) == len(names):
        hint = "audit.label_conflicts=report keeps them, and audit.html shows them"
        raise DataError(f"all {len(names)} pictures are left out: copies of each bear other labels", hint=hint)
    return replace(found, dropped=dropped)


def _dropped(policy: Policy, found: Audit, ranks: Sequence[tuple[int, ...]]) -> dict[int, str]:
    """Pictures that the policy leaves out, none of them from test, each with the first reason."""
    dropped: dict[int, str] = {}
    learnt = [index for index, part in enumerate(found.splits) if part in LEARNT]
    if policy.leaks == "drop_train":
        tested = {group for group, part in zip(found.groups, found.splits, strict=True) if part == "test"}
        dropped |= {index: "shares a group with a test picture" for index in learnt if found.groups[index] in tested}
    if policy.label_conflicts == "drop":
        unclear = {index for members in found.conflicts for index in members}
        dropped |= {i: "copies of it bear other labels" for i in learnt if i in unclear and i not in dropped}
    if policy.duplicates == "one_per_group":
        best: dict[str, int] = {}
        for index in learnt:
            if index not in dropped:
                key = found.copies[index]
                best[key] = max(best.get(key, index), index, key=lambda i: (ranks[i], -i))
        dropped |= {
            index: f"a copy of {found.names[best[found.copies[index]]]}"
            for index in learnt
            if index not in dropped and best[found.copies[index]] != index
        }
    return dropped


def _refusal(found: Audit) -> DataError:
    """Each example is a test picture with one that is learnt from: paired with it, or at least of its group."""
    straddling, learnt = found.straddling, [i for i, part in enumerate(found.splits) if part in LEARNT]
    of_group = {found.groups[index]: (index, "same_group") for index in reversed(learnt)}
    ends = [(a, b, pair.kind) for pair in found.pairs for a, b in ((pair.a, pair.b), (pair.b, pair.a))]
    paired = {a: (b, kind) for a, b, kind in reversed(ends) if found.splits[b] in LEARNT}
    lines = ""
    for index in straddling[:3]:
        other, kind = paired.get(index) or of_group[found.groups[index]]
        lines += f"\n  {found.names[index]} and {found.names[other]} ({kind})"
    total = sum(part == "test" for part in found.splits)
    return DataError(
        f"{len(straddling)} of {total} test pictures share a group with a picture that is learnt from{lines}",
        hint="audit.leaks=report prepares all the same, and its audit.json lists all groups; "
        "audit.leaks=drop_train leaves them out of training",
    )


def _sets(marks: Sequence[str]) -> list[list[int]]:
    """The pictures that share a mark with another, by mark, in order."""
    members: dict[str, list[int]] = {}
    for index, mark in enumerate(marks):
        members.setdefault(mark, []).append(index)
    return [found for found in members.values() if len(found) > 1]
