"""Divides pictures into train, val and test so that no group straddles a split that fx draws."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np

from fxcli.console import console
from fxcli.data.manifest import Manifest, groups_of
from fxcli.errors import DataError
from fxcli.recipe.preparation import Split
from fxcli.run.randomness import derive

# With fewer groups in training, folds tell a model its errors better than pictures that it then cannot learn from.
CALIBRATION_GROUPS = 2000
_CALIBRATION_FRAC = 0.15


def groups(patients: Sequence[str | None], digests: Sequence[str], pairs: Iterable[tuple[int, int]] = ()) -> list[str]:
    """A group for each picture: pictures of one patient, byte-equal files and pairs belong together.

    Args:
        patients: Patient of each picture, or None.
        digests: sha256 of each picture's file.
        pairs: Of pictures, by index.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while (above := parent.setdefault(key, key)) != key:
            parent[key] = parent[above]
            key = above
        return key

    for patient, digest in zip(patients, digests, strict=True):
        if patient is not None:
            parent[root(f"file:{digest}")] = root(f"patient:{patient}")
    for a, b in pairs:
        parent[root(f"file:{digests[a]}")] = root(f"file:{digests[b]}")
    # Running numbers, so that no patient id reaches the manifest's group column.
    numbers: dict[str, str] = {}
    return [numbers.setdefault(root(f"file:{digest}"), f"g{len(numbers):05d}") for digest in digests]


def policy_of(settings: Split, labels: Sequence[str], given: Sequence[str | None]) -> str:
    """What split.policy is, or means where it is null; what is wrong with a given split is known before any picture is.

    Args:
        settings: The recipe's section.
        labels: See `assign`; all are "" of pictures without labels.
        given: Likewise.

    Raises:
        DataError: The given split is absent, or partly so; or it has no picture to draw a part from.
    """
    missing = sum(split is None for split in given)
    meant = "train" if not any(labels) else "grouped" if missing == len(given) else "given"
    policy = settings.policy or meant
    if policy != "given":
        return policy
    if missing:
        whose = "split.policy is given, but " if settings.policy else ""
        raise DataError(
            f"{whose}{missing} of {len(given)} pictures have no split",
            hint="give each one, or set split.policy=grouped to draw all anew",
        )
    for name, frac in (("val", settings.val_frac), ("calibration", settings.calibration_frac)):
        if frac and name not in given and "train" not in given:
            raise DataError(
                f"no picture is for training, so no {name} part can be drawn",
                hint=f"set split.policy=grouped to draw a split, or split.{name}_frac=0 to do without",
            )
    return policy


def assign(
    settings: Split, seed: int, labels: Sequence[str], group: Sequence[str], given: Sequence[str | None]
) -> list[str]:
    """The split of each picture.

    Args:
        settings: The recipe's section.
        seed: Of the drawing.
        labels: Class of each picture.
        group: Group of each picture.
        given: The source's own split of each picture, or None.

    Raises:
        DataError: See `policy_of`; or there are too few groups to draw from.
    """
    policy = policy_of(settings, labels, given)
    if policy == "grouped":
        test = drawn(labels, group, settings.test_frac, derive(seed, "test"))
        result = ["test" if is_test else "train" for is_test in test]
        _tell("test", test, group, settings.test_frac)
    else:
        result = [split or "train" for split in given]
    if policy == "train":
        return result
    calibration_frac = settings.calibration_frac
    if calibration_frac is None:
        many = len({its for its, split in zip(group, result, strict=True) if split == "train"}) >= CALIBRATION_GROUPS
        calibration_frac = _CALIBRATION_FRAC if many else 0.0
    for name, frac in (("val", settings.val_frac), ("calibration", calibration_frac)):
        if name not in result and frac > 0:
            _draw(result, name, frac, labels, group, seed)
    return result


def _draw(splits: list[str], name: str, frac: float, labels: Sequence[str], group: Sequence[str], seed: int) -> None:
    """Gives a part of the training pictures another split."""
    train = [index for index, split in enumerate(splits) if split == "train"]
    groups_of = [group[i] for i in train]
    chosen = drawn([labels[i] for i in train], groups_of, frac, derive(seed, name))
    _tell(name, chosen, groups_of, frac)
    for index, is_chosen in zip(train, chosen, strict=True):
        splits[index] = name if is_chosen else "train"


def _tell(name: str, chosen: np.ndarray, group: Sequence[str], frac: float) -> None:
    count = int(chosen.sum())
    if _is_far(count, frac * len(chosen)):
        some, every = len({its for its, is_its in zip(group, chosen, strict=True) if is_its}), len(set(group))
        what = f"{count} of {len(chosen)} pictures ({some} of {every} groups) are drawn for {name}"
        has_large = max(Counter(group).values()) > _tolerance(frac * len(chosen))
        why = "groups stay whole, and some are large" if has_large else "classes have few pictures"
        console.warn(f"{what}, where {frac:.0%} were asked: {why}")


def _is_far(count: float, wanted: float) -> bool:
    """Whether a part misses its share by more than a third of it."""
    return abs(count - wanted) > _tolerance(wanted)


def _tolerance(wanted: float) -> float:
    return max(wanted / 3, 1)


def folds(labels: Sequence[str], group: Sequence[str], count: int, seed: int) -> list[int]:
    """The fold of each picture, 0 ≤ fold < count, stratified by label; no group straddles two.

    Raises:
        DataError: There are fewer groups than folds.
    """
    largest = max(Counter(labels).values())
    if (most := min(len(set(group)), largest)) < count:
        what = f"{len(set(group))} groups, and {largest} pictures of the largest class"
        raise DataError(f"{what}, are too few for {count} folds", hint=f"at most --folds {most}")
    number = np.zeros(len(labels), dtype=int)
    for fold, held_out in enumerate(_parts(labels, group, count, seed)):
        number[held_out] = fold
    found: list[int] = number.tolist()
    return found


def _parts(labels: Sequence[str], group: Sequence[str], count: int, seed: int) -> list[np.ndarray]:
    """The indices of each of `count` parts, stratified by label, whole groups at a time."""
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed % 2**32)
    with warnings.catch_warnings():
        # Classes with fewer pictures than parts are told by prepare's table.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        return [part for _, part in splitter.split(np.zeros(len(labels)), labels, group)]


def drawn(labels: Sequence[str], group: Sequence[str], frac: float, seed: int) -> np.ndarray:
    """Marks about `frac` of the pictures, [N] bool, stratified by label, whole groups at a time."""
    # More folds than pictures of the largest class cannot be made.
    limit = min(len(set(group)), max(Counter(labels).values()))
    drawn = np.zeros(len(labels), dtype=bool)
    if limit >= 2:
        taken, count = _ratio(frac, limit)
        parts = _parts(labels, group, count, seed)
        if _is_far(sum(map(len, parts[:taken])), taken * len(labels) / count):
            # A group larger than a part always fills the first one; of others as near to their share the seed chooses.
            order = np.random.default_rng(derive(seed, "parts")).permutation(count)
            parts = sorted((parts[i] for i in order), key=lambda part: abs(len(part) - len(labels) / count))
        drawn[np.concatenate(parts[:taken])] = True
    if not drawn.any() or drawn.all():
        raise DataError(
            f"{len(labels)} pictures in {len(set(group))} groups are too few to draw a part of them",
            hint="add pictures, give the split yourself (folders Train and Test), or draw none: split.policy=train in "
            "fx prepare, train.monitor=none in fx train",
        )
    return drawn


def learnt(manifest: Manifest, frac: float, seed: int, splits: Collection[str] = ("train",)) -> Manifest:
    """A manifest with what is learnt from as its training part.

    Args:
        manifest: Of all pictures.
        frac: The recipe's data.train_frac: others of that part are left out.
        seed: The recipe's.
        splits: Of a pretraining, its data.splits: parts that make one.
    """
    manifest = manifest.pooled(splits)
    train = manifest.part("train")
    if frac == 1 or not train:
        return manifest
    taken = share([row.label for row in train], groups_of(train), frac, derive(seed, "train_frac"))
    left_out = {row.path for row, is_taken in zip(train, taken, strict=True) if not is_taken}
    return replace(manifest, rows=tuple(row for row in manifest.rows if row.path not in left_out))


def share(labels: Sequence[str], group: Sequence[str], frac: float, seed: int) -> np.ndarray:
    """Marks whole groups of each class, in an order drawn with the seed, until they hold `frac` of its pictures.

    Unlike `drawn`, it takes at least one group of each class, and with the same seed more for a larger `frac`.

    Args:
        labels: Class of each picture; a group with pictures of several may be drawn for each of them.
        group: Of each picture.
        frac: In (0, 1].
        seed: Of the order.

    Returns:
        [N] bool.
    """
    taken: set[str] = set()
    for label in sorted(set(labels)):
        sizes = Counter(its for its, of in zip(group, labels, strict=True) if of == label)
        own, have = sorted(sizes), 0
        for place in np.random.default_rng(derive(seed, label)).permutation(len(own)):
            if have >= frac * sizes.total():
                break
            taken.add(own[place])
            have += sizes[own[place]]
    return np.array([name in taken for name in group])


def _ratio(frac: float, limit: int) -> tuple[int, int]:
    """(k, n) with k / n near `frac`: the smallest n up to `limit` that comes close, or the nearest there is."""
    tolerance = min(0.01, frac / 10)
    choices = [(min(n - 1, max(1, round(frac * n))), n) for n in range(2, limit + 1)]
    return min(choices, key=lambda choice: (max(tolerance, abs(choice[0] / choice[1] - frac)), choice[1]))
