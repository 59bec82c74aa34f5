from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fxcli.data.phantom import CLASSES, PhantomCase, box, draw, plan
from fxcli.data.phantom_fractures import FRACTURES, Fracture, Piece, everything
from fxcli.data.phantom_shapes import Bone, Motion, draw_limb
from fxcli.errors import DataError

ONE_OF_EACH = plan(seed=3, train_per_class=1, val_per_class=0, test_per_class=0)


def pairs(seed: int = 0) -> list[tuple[PhantomCase, PhantomCase]]:
    """Both views of one patient of each class."""
    cases = plan(seed=seed, train_per_class=2, val_per_class=0, test_per_class=0)
    return list(zip(cases[::2], cases[1::2], strict=True))


def digest(cases: list[PhantomCase], size_px: int = 96) -> str:
    return hashlib.sha256(b"".join(draw(case, size_px).tobytes() for case in cases)).hexdigest()


def without_noise(picture: np.ndarray) -> np.ndarray:
    small = Image.fromarray(picture).resize((16, 16), Image.Resampling.BOX)
    return np.asarray(small, dtype=float).ravel()


class TestPlan:
    def test_classes_are_the_seven_in_order_and_each_has_its_fracture(self):
        expected = "avulsion comminuted fracture_dislocation curved linear internal hairline"
        assert expected.split() == list(CLASSES) == list(FRACTURES)

    def test_the_default_is_balanced_in_every_split(self):
        counts = Counter((case.split, case.label) for case in plan())
        for split in ("train", "val", "test"):
            assert len({counts[split, label] for label in CLASSES}) == 1
            assert counts[split, CLASSES[0]] >= 10

    @pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7])
    def test_counts_are_met_exactly(self, count):
        cases = plan(train_per_class=count, val_per_class=2, test_per_class=1)
        counts = Counter((case.split, case.label) for case in cases)
        for label in CLASSES:
            assert (counts["train", label], counts["val", label], counts["test", label]) == (count, 2, 1)

    def test_a_group_has_one_split_and_one_label(self):
        seen = defaultdict(set)
        for case in plan():
            seen[case.group].add((case.split, case.label))
        assert all(len(found) == 1 for found in seen.values())

    def test_groups_have_one_or_two_pictures(self):
        sizes = Counter(Counter(case.group for case in plan()).values())
        assert set(sizes) == {1, 2}

    def test_names_and_seeds_are_unique_and_names_are_safe_on_every_system(self):
        cases = plan()
        assert len({case.name for case in cases}) == len(cases) == len({case.seed for case in cases})
        assert all(set(case.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_") for case in cases)

    def test_it_is_a_function_of_the_seed(self):
        assert plan(seed=5) == plan(seed=5)
        assert not {case.seed for case in plan(seed=5)} & {case.seed for case in plan(seed=6)}
        assert not {case.group for case in plan(seed=5)} & {case.group for case in plan(seed=6)}

    @pytest.mark.parametrize("wrong", [{"train_per_class": -1}, {"test_per_class": -3}, {"seed": -1}])
    def test_negative_numbers_are_refused(self, wrong):
        with pytest.raises(DataError, match="from 0 up"):
            plan(**wrong)


class TestDraw:
    @pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda case: case.label)
    def test_shape_type_and_range(self, case):
        picture = draw(case)
        assert picture.shape == (256, 256)
        assert picture.dtype == np.uint8
        low, high = np.percentile(picture, (2, 99))
        assert low < 70
        assert high > 110
        assert np.mean(picture == 255) < 0.05
        assert len(np.unique(picture)) > 100

    @pytest.mark.parametrize("size_px", [32, 97, 128])
    def test_other_sizes_show_the_same_scene(self, size_px):
        for case in ONE_OF_EACH:
            small = draw(case, size_px)
            assert small.shape == (size_px, size_px)
            correlation = np.corrcoef(without_noise(small), without_noise(draw(case)))[0, 1]
            assert correlation > 0.93, case.label

    @pytest.mark.parametrize("label", CLASSES)
    def test_a_box_holds_the_fracture(self, label, monkeypatch):
        """The oracle is the same picture unbroken: where nothing far away was moved, they differ in the box alone."""
        cases = [
            case for case in plan(seed=3, train_per_class=6, val_per_class=0, test_per_class=0) if case.label == label
        ]
        broken = [draw(case).astype(float) for case in cases]
        boxes = [box(case) for case in cases]
        for case, (left, top, right, bottom) in zip(cases, boxes, strict=True):
            assert 0 <= left < right - 5 < right <= 256
            assert 0 <= top < bottom - 5 < bottom <= 256
            assert np.array(box(case, 512)) / 2 == pytest.approx((left, top, right, bottom), abs=2)
            assert (right - left) * (bottom - top) < 0.5 * 256 * 256
        whole = FRACTURES[label]

        def unbroken(rng, bone, site_u):
            return Fracture(site_u=whole(rng, bone, site_u).site_u, pieces=(Piece(keep=everything),))

        monkeypatch.setitem(FRACTURES, label, unbroken)
        for case, picture, (left, top, right, bottom) in zip(cases, broken, boxes, strict=True):
            changed = np.abs(picture - draw(case)) ** 2
            inside = changed[int(top) : int(bottom), int(left) : int(right)].sum() / changed.sum()
            assert inside > (0.85 if label in ("avulsion", "hairline") else 0.0)

    def test_equal_arguments_give_equal_bytes(self):
        assert digest(ONE_OF_EACH) == digest(ONE_OF_EACH)

    def test_equal_bytes_in_another_process(self):
        program = (
            "import hashlib\n"
            "from fxcli.data.phantom import draw, plan\n"
            "cases = plan(seed=3, train_per_class=1, val_per_class=0, test_per_class=0)\n"
            "print(hashlib.sha256(b''.join(draw(case, 96).tobytes() for case in cases)).hexdigest())\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == digest(ONE_OF_EACH)

    def test_order_and_global_random_state_do_not_matter(self):
        np.random.seed(1)
        first = digest(ONE_OF_EACH[:2])
        np.random.seed(2)
        draw(ONE_OF_EACH[5], 96)
        assert digest(ONE_OF_EACH[:2]) == first

    def test_the_global_random_state_is_left_alone(self):
        np.random.seed(7)
        before = np.random.get_state()[1].copy()
        draw(ONE_OF_EACH[0], 96)
        np.testing.assert_array_equal(before, np.random.get_state()[1])

    def test_name_split_and_group_do_not_show_in_the_picture(self):
        case = ONE_OF_EACH[0]
        other = replace(case, name="x", split="test", group="y")
        np.testing.assert_array_equal(draw(case, 96), draw(other, 96))

    def test_another_seed_gives_other_pictures(self):
        others = plan(seed=4, train_per_class=1, val_per_class=0, test_per_class=0)
        for case, other in zip(ONE_OF_EACH, others, strict=True):
            assert np.mean(draw(case, 96) != draw(other, 96)) > 0.5

    def test_the_label_changes_only_the_fracture(self):
        limbs = {}
        for label in CLASSES:
            rng = np.random.default_rng([9, 0])
            limb = draw_limb(rng)
            limbs[label] = replace(limb, canal=None)
            assert FRACTURES[label](rng, limb.bones[limb.broken], limb.site_u).pieces
        assert len(set(limbs.values())) == 1

    @pytest.mark.parametrize(
        ("change", "size_px"), [({"label": "greenstick"}, 64), ({"seed": -2}, 64), ({}, 31), ({}, 0)]
    )
    def test_what_cannot_be_drawn_is_refused(self, change, size_px):
        with pytest.raises(DataError, match="cannot draw"):
            draw(replace(ONE_OF_EACH[0], **change), size_px)


class TestViews:
    def test_views_of_a_patient_differ(self):
        for first, second in pairs():
            assert first.group == second.group
            assert np.mean(draw(first, 96) != draw(second, 96)) > 0.5

    def test_views_of_a_patient_share_the_bones(self, monkeypatch):
        drawn = []

        def record(rng: np.random.Generator):
            drawn.append(draw_limb(rng))
            return drawn[-1]

        monkeypatch.setattr("fxcli.data.phantom.draw_limb", record)
        for case in (case for pair in pairs() for case in pair):
            draw(case, 32)
        bones = [(limb.bones, limb.beyond, limb.still) for limb in drawn]
        assert bones[::2] == bones[1::2]
        assert len(set(bones)) == len(CLASSES)


class TestGeometry:
    def test_a_motion_is_undone(self):
        motion = Motion(pivot=(0.3, -0.2), shift=(0.1, 0.4), turn_rad=0.7)
        u, v = np.random.default_rng(0).uniform(-1, 1, (2, 50))
        moved = motion.apply(u, v)
        np.testing.assert_allclose(np.hypot(np.diff(u), np.diff(v)), np.hypot(*map(np.diff, moved)))
        np.testing.assert_allclose(motion.undo(*moved), (u, v), atol=1e-12)

    def test_a_shaft_is_a_hollow_cylinder(self):
        bone = Bone(start=-9.0, end=9.0, centre=0.0, half_width=1.0, cortex=0.25)
        v = np.linspace(-1.2, 1.2, 49)
        cortex, spongy, q = bone.paths(np.zeros_like(v), v)
        outer, inner = float(bone.half_width_at(np.zeros(1))[0]), 0.75 * float(bone.half_width_at(np.zeros(1))[0])
        wall = 2 * (np.sqrt(np.clip(outer**2 - v**2, 0, None)) - np.sqrt(np.clip(inner**2 - v**2, 0, None)))
        np.testing.assert_allclose(cortex, wall, atol=1e-9)
        np.testing.assert_allclose(q, v / outer)
        assert spongy[24] > 0
        assert np.all((cortex + spongy)[np.abs(v) > outer] == 0)

    @pytest.mark.parametrize("label", CLASSES)
    def test_pieces_cover_the_bone_once_but_for_the_gaps(self, label):
        for seed in range(5):
            rng = np.random.default_rng(seed)
            limb = draw_limb(rng)
            bone = limb.bones[limb.broken]
            fracture = FRACTURES[label](rng, bone, limb.site_u)
            u, q = np.meshgrid(np.linspace(-1.4, 0.0, 200), np.linspace(-0.99, 0.99, 41), indexing="ij")
            whole = sum(piece.keep(u, q) for piece in fracture.pieces)
            assert whole.max() <= 1.0 + 1e-6
            assert whole.mean() > 0.85


@pytest.mark.slow
def test_a_linear_model_on_pixels_does_badly():
    # Its point is that the label is in the shape of a small region, not in brightness or framing.
    from sklearn.linear_model import RidgeClassifier

    cases = plan(train_per_class=26, val_per_class=0, test_per_class=14)
    pixels = np.stack([np.asarray(Image.fromarray(draw(case, 64)).reduce(2)) for case in cases])
    features = pixels.reshape(len(cases), -1) / 255.0
    labels = np.array([case.label for case in cases])
    train = np.array([case.split == "train" for case in cases])
    model = RidgeClassifier(alpha=100.0).fit(features[train], labels[train])
    assert model.score(features[~train], labels[~train]) < 0.35
