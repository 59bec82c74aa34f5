"""One measurement of the audit's parts at one size, in a process of its own: `python -m bench.audit_side COUNT`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import distortions
import numpy as np

from fxcli.data import duplicates, phantom
from fxcli.data.keypoints import Keypoints
from fxcli.data.views import ORIENTATIONS, SIDE_PX, View, view

T = TypeVar("T")

# Above that, drawing would take longer than all that is measured.
MOST_DRAWN = 1_000
SIDE = 160
COPY_EVERY = 10
MOST_COMPARED = 1_000
KEYPOINTS = 40


def drawn(count: int) -> tuple[list[np.ndarray], set[tuple[int, int]]]:
    """Phantoms of as many patients, every tenth followed by a distorted copy; and the pairs that these make."""
    copies = count // COPY_EVERY
    cases = phantom.plan(seed=9, train_per_class=count // 4, val_per_class=0, test_per_class=0)
    patients = list({case.group: case for case in cases}.values())[: count - copies]
    pictures = [phantom.draw(case, SIDE) for case in patients]
    kinds = list(distortions.ALL.values())
    made = [kinds[i % len(kinds)](pictures[i * (COPY_EVERY - 1)]) for i in range(copies)]
    return [*pictures, *made], {(i * (COPY_EVERY - 1), len(pictures) + i) for i in range(copies)}


def made_up(count: int) -> list[View]:
    """Views of no picture: random keypoints, hashes and pixels; as costly to index as others, and less to compare."""
    rng = np.random.default_rng(0)
    views = []
    for _ in range(count):
        frames = rng.uniform((0, 0, 1, -3), (SIDE_PX, SIDE_PX, 6, 3), (KEYPOINTS, 4)).astype(np.float32)
        descriptors = rng.integers(0, 90, (KEYPOINTS, 128), dtype=np.uint8)
        hashes = rng.integers(0, 2**64, ORIENTATIONS, dtype=np.uint64)
        pixels = rng.integers(0, 256, (SIDE_PX, SIDE_PX), dtype=np.uint8)
        views.append(View(pixels, Keypoints(frames, descriptors), hashes, False))
    return views


def timed(what: Callable[[], T]) -> tuple[float, T]:
    """Seconds of the processor, which others on the machine take none of, and what came out."""
    started = time.process_time()
    value = what()
    return time.process_time() - started, value


def measured(count: int) -> dict[str, Any]:
    """Seconds of each part, per picture where the part is the same for each."""
    result: dict[str, Any] = {"count": count}
    views: Sequence[View]
    if count <= MOST_DRAWN:
        pictures, expected = drawn(count)
        seconds, views = timed(lambda: [view(pixels) for pixels in pictures])
        result["view_s"] = seconds / count
        seconds, found = timed(lambda: duplicates.search(views))
        pairs = {(pair.a, pair.b) for pair in found}
        result |= {"search_s": seconds, "recall": len(pairs & expected) / len(expected)}
        result["precision"] = len(pairs & expected) / len(pairs)
    else:
        views = made_up(count)
    result["hashes_s"], by_hash = timed(lambda: duplicates.hash_pairs(np.stack([each.hashes for each in views])))
    result["words_s"], by_word = timed(lambda: duplicates.word_pairs([each.keypoints for each in views]))
    candidates = sorted({*by_hash, *by_word})
    sample = candidates[:: max(1, len(candidates) // MOST_COMPARED)]
    seconds, _ = timed(lambda: [duplicates.verify(views, *pair, by_hash.get(pair)) for pair in sample])
    return result | {"candidates": len(candidates), "compare_s": seconds / max(1, len(sample))}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measured(int(sys.argv[1]))) + "\n")
