"""The search for equal pictures: distorted phantoms are found, other phantoms are not, and the indices miss nothing."""

import itertools

import distortions
import numpy as np
import pytest

from fxcli.data import duplicates, phantom
from fxcli.data.duplicates import Duplicate, hash_pairs, panels, search, verify, word_pairs
from fxcli.data.keypoints import Keypoints
from fxcli.data.views import ORIENTATIONS, view


@pytest.fixture(scope="module")
def pictures():
    """Of 14 drawn patients, two of each class."""
    cases = phantom.plan(seed=3, train_per_class=3, val_per_class=0, test_per_class=0)
    patients = {case.group: case for case in cases}
    return [phantom.draw(case, 224) for case in patients.values()]


@pytest.fixture(scope="module")
def views(pictures):
    return [view(pixels) for pixels in pictures]


# --- two pictures ---


@pytest.mark.slow
@pytest.mark.parametrize("name", distortions.ALL)
def test_a_distorted_copy_is_the_same_picture(name, pictures, views):
    for index in (0, 5, 9):
        copy = view(distortions.ALL[name](pictures[index]))
        (orientation,) = hash_pairs(np.stack([views[index].hashes, copy.hashes])).values() or (None,)
        found = verify([views[index], copy], 0, 1, orientation)
        assert found is not None, (name, index)
        assert found.score > (0.9 if name in ("equal", "mirrored", "turned by 90", "barred") else 0.79)


@pytest.mark.slow
def test_other_patients_are_other_pictures(views):
    for a, b in itertools.combinations(range(len(views)), 2):
        assert verify(views, a, b, (a + b) % ORIENTATIONS) is None, (a, b)


@pytest.mark.slow
def test_a_picture_of_another_size_in_one_pose_is_no_copy(pictures):
    """The same outline with other noise in it: only the fine structure tells."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:200, :200]
    outline = 90 + 80 * (np.abs(x - 100 - 8 * np.sin(y / 30)) < 30)

    def bone():
        texture = np.kron(rng.normal(0, 22, (50, 50)), np.ones((4, 4)))
        return np.clip(outline + texture, 0, 255).astype(np.uint8)

    assert verify([view(bone()), view(bone())], 0, 1, 0) is None
    same = bone()
    assert verify([view(same), view(distortions.re_encoded(same))], 0, 1, 0) is not None


def test_blank_pictures_are_not_compared():
    blank = [view(np.full((60, 80), grey, np.uint8)) for grey in (0, 0, 128, 255)]
    assert all(picture.is_blank for picture in blank)
    assert search(blank) == []


# --- the search ---


@pytest.mark.slow
def test_search_finds_every_copy_and_nothing_else(pictures):
    names = list(distortions.ALL)
    shown = [*pictures, *(distortions.ALL[name](pictures[i % 14]) for i, name in enumerate(names))]
    found = search([view(pixels) for pixels in shown], workers=2)
    assert {(pair.a, pair.b) for pair in found} == {(i % 14, 14 + i) for i in range(len(names))}
    assert [(pair.a, pair.b) for pair in found] == sorted((pair.a, pair.b) for pair in found)


@pytest.mark.slow
def test_search_does_not_depend_on_threads_or_runs(pictures):
    shown = [view(p) for p in [*pictures[:4], *map(distortions.cropped, pictures[:4])]]
    first, second = (search(shown, workers=workers) for workers in (1, 3))
    assert [(x.a, x.b, x.score) for x in first] == [(x.a, x.b, x.score) for x in second]
    assert len(first) == 4


@pytest.mark.slow
def test_many_copies_are_all_paired(pictures, monkeypatch):
    """More than the indices list: copies of a copy are looked at too."""
    monkeypatch.setattr(duplicates, "NEIGHBOURS", 2)
    copies = [view(distortions.re_encoded(distortions.cropped(pictures[2], right=0.8 + i / 50))) for i in range(6)]
    found = search([*copies, view(pictures[0])])
    assert {(pair.a, pair.b) for pair in found} == set(itertools.combinations(range(6), 2))


def test_what_waits_is_not_started_after_an_interrupt(views, monkeypatch):
    done = []

    def stopped(views, a, b, orientation=None):
        done.append((a, b))
        raise KeyboardInterrupt

    monkeypatch.setattr(duplicates, "_CHUNK", 1)
    monkeypatch.setattr(duplicates, "verify", stopped)
    with pytest.raises(KeyboardInterrupt):
        search(views)
    assert len(done) < 20


@pytest.mark.parametrize("count", [0, 1])
def test_search_of_next_to_nothing(count, views):
    assert search(views[:count]) == []


# --- the indices ---


def brute_force(hashes):
    """All pairs that share a band of their hashes and differ in few enough bits, in any orientation."""
    found = {}
    for a, b in itertools.combinations(range(len(hashes)), 2):
        best = (duplicates.MOST_BITS + 1, 0)
        for orientation in range(ORIENTATIONS):
            # b in orientation 3 looks like a: so a in orientation 1 looks like b.
            x, y = (hashes[b][0], hashes[a][1]) if orientation == 3 else (hashes[a][0], hashes[b][orientation])
            bits = int(x ^ y)
            if any(not bits >> shift & 0xFFFF for shift in (0, 16, 32, 48)):
                best = min(best, (bits.bit_count(), orientation))
        if best[0] <= duplicates.MOST_BITS:
            found[a, b] = best[0]
    return found


def test_banded_look_up_against_brute_force():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, (160, ORIENTATIONS), dtype=np.uint64)
    for place in range(80):
        # Near each other by up to 14 bits, in a random orientation.
        flips = rng.choice(64, rng.integers(0, 15), replace=False)
        mask = np.bitwise_or.reduce(np.uint64(1) << flips.astype(np.uint64), initial=np.uint64(0))
        hashes[80 + place, rng.integers(ORIENTATIONS)] = hashes[place, 0] ^ mask
    plain = [[int(value) for value in row] for row in hashes]
    expected, found = brute_force(plain), hash_pairs(hashes)
    assert len(expected) > 20
    assert set(found) == set(expected)
    for (a, b), orientation in found.items():
        x, y = (hashes[b, 0], hashes[a, 1]) if orientation == 3 else (hashes[a, 0], hashes[b, orientation])
        assert int(np.bitwise_count(x ^ y)) == expected[a, b]


def test_hashes_near_each_other_by_three_bits_are_never_missed():
    rng = np.random.default_rng(1)
    hashes = np.repeat(rng.integers(0, 2**64, (64, 1), dtype=np.uint64), ORIENTATIONS, axis=1)
    near = hashes.copy()
    for row in near:
        row ^= np.bitwise_or.reduce(np.uint64(1) << rng.choice(64, 3, replace=False).astype(np.uint64))
    found = hash_pairs(np.concatenate([hashes, near]))
    assert {(i, 64 + i) for i in range(64)} <= set(found)


@pytest.mark.slow
def test_thousands_of_equal_hashes_do_not_make_millions_of_pairs():
    found = hash_pairs(np.full((1000, ORIENTATIONS), 12345, np.uint64))
    assert len(found) < 1000 * 64
    assert {(0, i) for i in range(1, 1000)} <= set(found)


def word_oracle(found, words):
    """The similarity of every two pictures, one keypoint at a time."""

    def table(descriptors_of):
        counts = np.zeros((len(found), len(words)))
        for row, keypoints in enumerate(found):
            for descriptor in descriptors_of(keypoints).astype(float):
                counts[row, np.argsort(((words - descriptor) ** 2).sum(axis=1))[:2]] += 1
        return counts

    plain, mirror = table(lambda k: k.descriptors), table(Keypoints.mirrored)
    rarity = np.log(len(found) / np.maximum((plain > 0).sum(axis=0), 1))
    plain, mirror = (np.sqrt(t) * rarity for t in (plain, mirror))
    plain, mirror = (t / np.maximum(np.linalg.norm(t, axis=1, keepdims=True), 1e-9) for t in (plain, mirror))
    return np.maximum(plain @ plain.T, mirror @ plain.T)


def test_word_pairs_are_the_nearest_by_the_oracle(views, monkeypatch):
    monkeypatch.setattr(duplicates, "WORDS", 60)
    monkeypatch.setattr(duplicates, "NEIGHBOURS", 3)
    monkeypatch.setattr(duplicates, "_BLOCK_CELLS", 5 * len(views))
    monkeypatch.setattr(duplicates, "_BLOCK_PICTURES", 4)
    found = [picture.keypoints for picture in views]
    words = duplicates._vocabulary(found, np.array([len(keypoints) for keypoints in found]))
    assert words.shape == (60, 128)
    alike = word_oracle(found, words)
    np.fill_diagonal(alike, 0)
    nearest = np.argsort(-alike, axis=1)[:, :3]
    expected = {(min(a, int(b)), max(a, int(b))) for a, row in enumerate(nearest) for b in row}
    assert word_pairs(found) == expected


def test_pictures_without_keypoints_have_no_neighbours(views):
    empty = Keypoints(np.zeros((0, 4), np.float32), np.zeros((0, 128), np.uint8))
    assert word_pairs([empty, empty]) == set()
    pairs = word_pairs([views[0].keypoints, empty, views[1].keypoints, views[2].keypoints])
    assert pairs
    assert not [pair for pair in pairs if 1 in pair]


# --- panels ---


@pytest.mark.slow
def test_parts_of_one_larger_picture_are_panels(pictures):
    left, right = pictures[1], pictures[8]
    shown = [view(p) for p in (left, distortions.beside(left, right), distortions.mirrored(right), pictures[4])]
    found = search(shown)
    assert {(pair.a, pair.b) for pair in found} == {(0, 1), (1, 2)}
    assert panels(shown, found) == [(0, 2)]


def test_crops_that_overlap_are_no_panels(pictures):
    whole = pictures[1]
    shown = [view(p) for p in (whole, distortions.cropped(whole, 0, 0, 0.75, 0.9), distortions.cropped(whole, 0.2, 0))]
    found = search(shown)
    assert {(pair.a, pair.b) for pair in found} >= {(0, 1), (0, 2)}
    assert panels(shown, found) == []
    assert panels(shown, [Duplicate(*pair) for pair in ()]) == []
