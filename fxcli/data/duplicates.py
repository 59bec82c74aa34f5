"""Which pictures of a set are one and the same picture: candidates that are cheap to find, each then looked at.

Candidates come from perceptual hashes, equal in one of the eight orientations, and from common visual words. Both are
indexed, so that no picture meets all others. Called by data/audit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from threadpoolctl import threadpool_limits

from fxcli.console import console
from fxcli.data import alignment
from fxcli.data.alignment import Affine, Box
from fxcli.data.keypoints import Floats, Keypoints
from fxcli.data.views import ORIENTATIONS, View
from fxcli.run import randomness

if TYPE_CHECKING:
    from tqdm import tqdm

# Bits in which two hashes of one picture may differ, of 64. The bands find all that differ in up to _BANDS - 1 bits.
MOST_BITS = 10
_BANDS, _BAND_BITS = 4, 16
# A query looks at so many entries of a bucket at most: thousands of copies of one picture need no million pairs.
_MOST_IN_BUCKET = 64
# Turned once is the other way round turned three times.
_ASKED = tuple(orientation for orientation in range(ORIENTATIONS) if orientation != 3)
_SELF_INVERSE = (0, 2, 4, 5, 6, 7)

WORDS = 2048
_NEAREST_WORDS = 2
_CHUNK = 32
NEIGHBOURS = 8
# Of the table of similarities that is held at a time, and pictures whose descriptors are.
_BLOCK_CELLS, _BLOCK_PICTURES = 1 << 24, 64

# Both from looking at the pairs of Bone Break near them; see the README.
LEAST_SCORE = 0.79
LEAST_OVERLAP_FRAC = 0.35
# A panel is at most this much of its figure, and has at most this much of itself in common with another panel.
_MOST_OF_FIGURE, _MOST_COMMON = 0.7, 0.1


@dataclass(frozen=True)
class Duplicate:
    """Two pictures that are one.

    Attributes:
        a: Index of the one; the smaller.
        b: Index of the other.
        score: Agreement of their fine structure, at most 1.
        affine: From places of `a` to places of `b`.
    """

    a: int
    b: int
    score: float
    affine: Affine


def search(views: Sequence[View], *, workers: int = 1) -> list[Duplicate]:
    """All pairs of the same picture, by index.

    Args:
        views: Of the pictures; of byte-equal files, one.
        workers: Threads.
    """
    turned = hash_pairs(np.stack([view.hashes for view in views])) if views else {}
    turned = {pair: turn for pair, turn in turned.items() if not any(views[index].is_blank for index in pair)}
    pairs = sorted({*turned, *word_pairs([view.keypoints for view in views])})

    found = _verified(views, pairs, turned, workers)
    # Copies of one copy are copies too, but were perhaps no candidates.
    found += _verified(views, sorted(_closing(found) - set(pairs)), turned, workers)
    return sorted(found, key=lambda duplicate: (duplicate.a, duplicate.b))


def _verified(
    views: Sequence[View],
    pairs: Sequence[tuple[int, int]],
    turned: Mapping[tuple[int, int], int],
    workers: int,
) -> list[Duplicate]:
    """Those of the pairs that are one picture."""

    def looked_at(chunk: Sequence[tuple[int, int]]) -> list[Duplicate]:
        return [duplicate for pair in chunk if (duplicate := verify(views, *pair, turned.get(pair)))]

    # One task for each pair would take more memory than the pictures.
    chunks = [pairs[start : start + _CHUNK] for start in range(0, len(pairs), _CHUNK)]
    found: list[Duplicate] = []
    pool = ThreadPoolExecutor(max_workers=max(1, workers))
    bar: tqdm[Any]
    # The tables are small: threads of BLAS would only wait for each other.
    with threadpool_limits(1, user_api="blas"), console.progress(total=len(pairs), what="compare", unit="pair") as bar:
        try:
            for chunk, good in zip(chunks, pool.map(looked_at, chunks), strict=True):
                found += good
                bar.update(len(chunk))
        finally:
            # After Ctrl-C nothing that still waits may start.
            pool.shutdown(cancel_futures=True)
    return found


def verify(views: Sequence[View], a: int, b: int, orientation: int | None = None) -> Duplicate | None:
    """Looks at two pictures; None if they are two.

    Args:
        views: Of all pictures.
        a: Index of the one.
        b: Index of the other.
        orientation: In which the other looks like the one, where that is known.
    """
    one, other = views[a], views[b]
    guesses = [alignment.by_keypoints(one, other)]
    if orientation is not None:
        guesses.append(alignment.by_orientation(one, other, orientation))
    judged = [alignment.agreement(one, other, guess) for guess in guesses if guess]
    good = [found for found in judged if found.overlap_frac >= LEAST_OVERLAP_FRAC and found.affine.is_plausible]
    best = max(good, key=lambda found: found.score, default=None)
    return Duplicate(a, b, best.score, best.affine) if best and best.score >= LEAST_SCORE else None


def panels(views: Sequence[View], found: Sequence[Duplicate]) -> list[tuple[int, int]]:
    """Pairs of pictures that are different parts of one larger picture: panels of one figure.

    Args:
        views: Of the pictures.
        found: By `search`.
    """
    parts: dict[int, list[tuple[int, Box]]] = {}
    for duplicate in found:
        a, b = duplicate.a, duplicate.b
        for part, whole, affine in ((a, b, duplicate.affine), (b, a, duplicate.affine.inverse())):
            box = affine.box(views[part].pixels.shape, within=views[whole].pixels.shape)
            if _area(box) <= _MOST_OF_FIGURE * views[whole].pixels.size:
                parts.setdefault(whole, []).append((part, box))
    same = {(duplicate.a, duplicate.b) for duplicate in found}
    pairs = {
        (min(a, b), max(a, b))
        for inside in parts.values()
        for place, (a, box) in enumerate(inside)
        for b, other in inside[place + 1 :]
        if _area(_common(box, other)) < _MOST_COMMON * min(_area(box), _area(other))
    }
    return sorted(pairs - same)


def _common(box: Box, other: Box) -> Box:
    return max(box[0], other[0]), max(box[1], other[1]), min(box[2], other[2]), min(box[3], other[3])


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _closing(found: Sequence[Duplicate]) -> set[tuple[int, int]]:
    """The pairs of pictures that both have a third one in common; of pictures with very many copies, not all."""
    near: dict[int, list[int]] = {}
    for duplicate in found:
        near.setdefault(duplicate.a, []).append(duplicate.b)
        near.setdefault(duplicate.b, []).append(duplicate.a)
    pairs = set()
    for others in near.values():
        few = sorted(others)[:_MOST_IN_BUCKET]
        pairs |= {(a, b) for place, a in enumerate(few) for b in few[place + 1 :]}
    return pairs


def hash_pairs(hashes: npt.NDArray[np.uint64]) -> dict[tuple[int, int], int]:
    """Pairs whose hashes are near each other in some orientation of the second: (a, b), a < b → orientation.

    Args:
        hashes: [N, ORIENTATIONS].
    """
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for band in range(_BANDS):
        shift = np.uint64(band * _BAND_BITS)
        keys = (hashes >> shift).astype(np.uint16)
        order = np.argsort(keys[:, 0], kind="stable")
        index = keys[order, 0]
        for orientation in _ASKED:
            asked = keys[:, orientation]
            start, end = np.searchsorted(index, asked, "left"), np.searchsorted(index, asked, "right")
            first, second = _expanded(start, np.minimum(end, start + _MOST_IN_BUCKET), order)
            bits = np.bitwise_count(hashes[first, 0] ^ hashes[second, orientation])
            keep = (bits <= MOST_BITS) & ((first < second) if orientation in _SELF_INVERSE else (first != second))
            for a, b, count in zip(first[keep].tolist(), second[keep].tolist(), bits[keep].tolist(), strict=True):
                pair, turn = ((a, b), orientation) if a < b else ((b, a), 3)
                if pair not in found or count < found[pair][0]:
                    found[pair] = (count, turn)
    return {pair: orientation for pair, (_, orientation) in found.items()}


def _expanded(
    start: npt.NDArray[np.intp], end: npt.NDArray[np.intp], order: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """(found, asking) for all entries of `order` from start to end of each asking."""
    counts = end - start
    asking = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(asking)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[np.repeat(start, counts) + within], asking


def word_pairs(found: Sequence[Keypoints]) -> set[tuple[int, int]]:
    """Each picture with the NEIGHBOURS that have most rare visual words in common with it, mirrored or not.

    A word is a descriptor drawn from all, and each keypoint counts as the two nearest words (after Sivic & Zisserman,
    "Video Google: a text retrieval approach to object matching in videos", ICCV 2003).
    """
    counts = np.array([len(keypoints) for keypoints in found])
    if counts.sum() == 0 or len(found) < 2:
        return set()
    words = _vocabulary(found, counts)
    plain, mirrored = (_counted(words, found, is_mirrored) for is_mirrored in (False, True))
    rarity = np.log(len(found) / np.maximum(np.bincount(plain.indices, minlength=len(words)), 1)).astype(np.float32)
    plain, mirrored = _weighed(plain, rarity), _weighed(mirrored, rarity)
    pairs: set[tuple[int, int]] = set()
    block = max(1, _BLOCK_CELLS // len(found))
    for start in range(0, len(found), block):
        rows = slice(start, start + block)
        alike = np.maximum((plain[rows] @ plain.T).toarray(), (mirrored[rows] @ plain.T).toarray())
        number = np.arange(len(alike))
        alike[number, start + number] = 0
        most = min(NEIGHBOURS, len(found) - 1)
        nearest = np.argpartition(-alike, most - 1, axis=1)[:, :most]
        for row, other in zip(*np.nonzero(np.take_along_axis(alike, nearest, axis=1) > 0), strict=True):
            a, b = start + int(row), int(nearest[row, other])
            pairs.add((min(a, b), max(a, b)))
    return pairs


def _vocabulary(found: Sequence[Keypoints], counts: npt.NDArray[np.intp]) -> Floats:
    """WORDS descriptors [W, 128], drawn evenly from all keypoints; always the same ones of the same pictures."""
    generator = randomness.generator(0, "words")
    chosen = np.sort(generator.choice(counts.sum(), min(WORDS, int(counts.sum())), replace=False))
    ends = np.cumsum(counts)
    of = np.searchsorted(ends, chosen, side="right")
    within = chosen - (ends - counts)[of]
    return np.stack([found[i].descriptors[j] for i, j in zip(of, within, strict=True)]).astype(np.float32)


def _counted(words: Floats, found: Sequence[Keypoints], is_mirrored: bool) -> sparse.csr_array:
    """How often each picture has each word, [N, W]."""
    length = (words * words).sum(axis=1)
    rows, columns = [], []
    for start in range(0, len(found), _BLOCK_PICTURES):
        part = found[start : start + _BLOCK_PICTURES]
        descriptors = np.concatenate([x.mirrored() if is_mirrored else x.descriptors for x in part])
        # Half the squared distance, up to what is the same for all words.
        distance = length / 2 - descriptors.astype(np.float32) @ words.T
        of = start + np.repeat(np.arange(len(part)), [len(x) for x in part])
        # The least, twice: several times as fast as argpartition.
        for _ in range(min(_NEAREST_WORDS, len(words))):
            nearest = distance.argmin(axis=1)
            distance[np.arange(len(nearest)), nearest] = np.inf
            columns.append(nearest)
            rows.append(of)
    row, column = np.concatenate(rows), np.concatenate(columns)
    table = sparse.coo_array((np.ones(len(row), np.float32), (row, column)), (len(found), len(words)))
    return table.tocsr()


def _weighed(counted: sparse.csr_array, rarity: Floats) -> sparse.csr_array:
    """Rows of unit length, of the root of each count times the rarity of its word."""
    table = counted.copy()
    table.data = np.sqrt(table.data) * rarity[table.indices]
    length = np.sqrt(np.asarray((table * table).sum(axis=1)).ravel())
    table.data /= np.repeat(np.maximum(length, 1e-9), np.diff(table.indptr))
    return table
