"""Augmentation: a function of the picture and a seed, and exactly `fit` where it is off."""

import random

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from fxcli.data import augment
from fxcli.data.augment import Augmenter, mix
from fxcli.data.preprocess import Clean, Cleaned, Preprocessing
from fxcli.recipe.schema import Augment

SETTINGS = {
    "hflip": 1.0,
    "vflip": 1.0,
    "rotate_deg": 20.0,
    "translate_frac": 0.2,
    "scale": (0.7, 0.8),
    "shear_deg": 20.0,
    "brightness": 0.5,
    "contrast": 0.5,
    "elastic": 2.0,
    "crop_scale": (0.3, 0.5),
    "erase": 1.0,
}
EVERYTHING = {**SETTINGS, "hflip": 0.5, "vflip": 0.5, "erase": 0.5}


def preprocessing(**changes):
    values = {"clean": Clean(64), "image_size_px": 48, "resize": "letterbox", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    return Preprocessing(**{**values, **changes})


@pytest.fixture(scope="module")
def cleaned():
    """Smooth clouds, 64 × 40 in a square of 64."""
    clouds = torch.rand(1, 1, 6, 9, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(clouds, (40, 64), mode="bicubic").clamp(0, 1)
    pixels = np.zeros((64, 64), np.uint8)
    pixels[12:52] = (smooth[0, 0] * 200 + 50).byte().numpy()
    return Cleaned(pixels, (0, 12, 64, 52), 640, 400)


def view(cleaned, seed=0, resize="letterbox", **settings):
    augmenter = Augmenter(Augment(**settings), preprocessing(resize=resize))
    return augmenter(augmenter.seen(cleaned), seed)


def states():
    numpy_state = np.random.get_state()[1].tolist()
    return torch.get_rng_state().tolist(), random.getstate(), numpy_state


# --- one picture ---


@pytest.mark.parametrize("resize", ["letterbox", "squash", "crop"])
def test_off_is_exactly_fit(cleaned, resize):
    found = view(cleaned, resize=resize)
    assert found.dtype == torch.uint8
    assert found.shape == (1, 48, 48)
    assert np.array_equal(found[0].numpy(), preprocessing(resize=resize).fit(cleaned))


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_changes_the_picture(cleaned, name):
    found = torch.stack([view(cleaned, seed, **{name: SETTINGS[name]}) for seed in range(4)])
    assert found.dtype == torch.uint8
    assert found.shape == (4, 1, 48, 48)
    assert (found.int() - view(cleaned).int()).abs().float().mean() > 1


@pytest.mark.parametrize("name", sorted(set(SETTINGS) - {"hflip", "vflip"}))
def test_each_setting_is_drawn_anew(cleaned, name):
    views = [view(cleaned, seed, **{name: SETTINGS[name]}) for seed in range(3)]
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views[1], views[2])


def test_a_seed_is_a_view(cleaned):
    augmenter = Augmenter(Augment(**EVERYTHING), preprocessing())
    seen = augmenter.seen(cleaned)
    first = [augmenter(seen, seed) for seed in range(6)]
    torch.rand(3)
    again = [augmenter(seen, seed) for seed in reversed(range(6))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({view.numpy().tobytes() for view in first}) == 6
    assert torch.equal(augmenter(seen, 2**63 - 1), augmenter(seen, 2**63 - 1))


def test_no_global_generator_is_moved(cleaned):
    before = states()
    view(cleaned, 7, **EVERYTHING)
    assert states() == before


def test_a_gpu_is_not_seeded(cleaned, monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    view(cleaned, 7, **EVERYTHING)
    assert seeded == []


def test_the_picture_itself_is_left_alone(cleaned):
    before = cleaned.pixels.copy()
    view(cleaned, **EVERYTHING)
    assert np.array_equal(cleaned.pixels, before)


def test_mirrors(cleaned):
    plain = view(cleaned)
    assert torch.equal(view(cleaned, hflip=1.0), plain.flip(-1))
    assert torch.equal(view(cleaned, vflip=1.0), plain.flip(-2))
    halves = [torch.equal(view(cleaned, seed, hflip=0.5), plain) for seed in range(60)]
    assert 15 < sum(halves) < 45


def test_elastic_is_in_pixels(monkeypatch):
    """The root mean square of torchvision's displacement, along each axis, is what the recipe says."""
    (change,) = augment._changes(Augment(elastic=3.0), preprocessing())
    assert isinstance(change, v2.ElasticTransform)
    squares = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(10):
            displacement = change.make_params([torch.zeros(1, 128, 128)])["displacement"]
            squares.append((displacement * 128 / 2).square().mean())
    assert torch.stack(squares).mean().sqrt().item() == pytest.approx(3.0, rel=0.15)


def test_rotation_stays_within_its_limit():
    """A bar at 0° is turned by no more than asked, and by nearly as much in some views."""
    pixels = np.zeros((64, 64), np.uint8)
    pixels[31:33, 4:60] = 255
    cleaned, angles = Cleaned(pixels, (0, 0, 64, 64), 64, 64), []
    for seed in range(40):
        y, x = np.nonzero(view(cleaned, seed, rotate_deg=15.0)[0].numpy() > 100)
        angles.append(abs(np.degrees(np.arctan(np.polyfit(x, y, 1)[0]))))
    assert 10 < max(angles) < 16.5
    assert min(angles) < 3


def test_erase_blanks_the_fraction(cleaned):
    bright = Cleaned(np.full((64, 64), 200, np.uint8), (0, 0, 64, 64), 64, 64)
    fractions = [
        float((view(bright, seed, erase=1.0, erase_scale=(0.1, 0.3)) == 0).float().mean()) for seed in range(30)
    ]
    assert 0.08 < min(fractions) < 0.15
    assert 0.25 < max(fractions) < 0.32


@pytest.mark.parametrize("resize", ["letterbox", "squash", "crop"])
@pytest.mark.parametrize("box", [(0, 31, 64, 32), (31, 0, 32, 64)])
def test_crops_of_a_sliver(resize, box):
    sliver = Cleaned(np.full((64, 64), 90, np.uint8), box, 4000, 16)
    assert view(sliver, resize=resize, crop_scale=(0.2, 1.0)).unique().tolist() == [90]


def test_crops_are_taken_from_the_region(cleaned):
    """Cut out of the radiograph, so no black from around it."""
    for seed in range(10):
        assert view(cleaned, seed, resize="squash", crop_scale=(0.2, 1.0)).min() > 40
        assert view(cleaned, seed, resize="crop", crop_scale=(0.2, 1.0)).min() > 40
    assert min(int(view(cleaned, seed, crop_scale=(0.5, 1.0)).min()) for seed in range(10)) == 0


# --- a batch ---


@pytest.fixture
def batch():
    """Images of one value each, so that every pixel tells where it comes from; one-hot targets."""
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 20, 30).contiguous()
    return images, torch.eye(8)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_mix_off_returns_the_same(batch):
    images, targets = mix(*batch, Augment(), rng())
    assert images is batch[0]
    assert targets is batch[1]


def test_mixup(batch):
    images, targets = mix(*batch, Augment(mixup=1.0), rng(3))
    assert torch.allclose(targets.sum(1), torch.ones(8))
    partners = []
    for index in range(8):
        lam = targets[index, index].item()
        rest = targets[index].clone()
        rest[index] = 0
        partner = int(rest.argmax()) if lam < 1 else index
        partners.append(partner)
        assert torch.allclose(images[index], torch.full((3, 20, 30), index * lam + partner * (1 - lam)))
    assert sorted(partners) == list(range(8)), "a permutation"
    lams = {round(targets[i, i].item(), 5) for i in range(8) if partners[i] != i}
    assert len(lams) == 1, "one λ for the batch"


def test_mixup_lambda_is_of_beta(batch):
    found = []
    for seed in range(300):
        _, targets = mix(*batch, Augment(mixup=0.4), rng(seed))
        found.append(max(targets[i].max().item() for i in range(8) if targets[i].max() < 1))
    expected = np.maximum(*(lambda x: (x, 1 - x))(rng(1).beta(0.4, 0.4, 20_000))).mean()
    assert np.mean(found) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("seed", range(12))
def test_cutmix_area_is_exact(batch, seed):
    images, targets = mix(*batch, Augment(cutmix=1.0), rng(seed))
    for index in range(8):
        own = (images[index] == index).float().mean().item()
        others = images[index][images[index] != index].unique().tolist()
        assert len(others) <= 1
        if others:
            assert targets[index, index].item() == pytest.approx(own, abs=1e-6)
            assert targets[index, int(others[0])].item() == pytest.approx(1 - own, abs=1e-6)
        else:
            assert targets[index].max() == 1
    assert torch.allclose(targets.sum(1), torch.ones(8))


def test_cutmix_replaces_one_rectangle(batch):
    areas = []
    for seed in range(12):
        images, _ = mix(*batch, Augment(cutmix=1.0), rng(seed))
        changed = (images != batch[0])[:, 0].any(0)
        rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
        if len(rows):
            assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        areas.append(int(changed.sum()))
    assert len(set(areas)) > 6


def test_mix_leaves_its_input_alone(batch):
    before = [tensor.clone() for tensor in batch]
    for settings in (Augment(mixup=1.0), Augment(cutmix=1.0)):
        mix(*batch, settings, rng(1))
        assert torch.equal(batch[0], before[0])
        assert torch.equal(batch[1], before[1])


def test_mix_is_a_function_of_its_generator(batch):
    settings, before = Augment(mixup=0.5, cutmix=0.5), states()
    results = [mix(*batch, settings, rng(seed)) for seed in (0, 0, 1)]
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not torch.equal(results[0][0], results[2][0])
    assert states() == before


def test_with_both_each_batch_draws_one(batch):
    """Mixed images hold values that no image had; cut ones hold none."""
    kinds = []
    for seed in range(40):
        images, _ = mix(*batch, Augment(mixup=0.5, cutmix=0.5), rng(seed))
        kinds.append("cutmix" if torch.equal(images, images.round()) else "mixup")
    assert 10 < kinds.count("mixup") < 30


def test_a_batch_of_one(batch):
    for settings in (Augment(mixup=1.0), Augment(cutmix=1.0)):
        images, targets = mix(batch[0][3:4], batch[1][3:4], settings, rng())
        assert torch.allclose(images, batch[0][3:4])
        assert torch.allclose(targets, batch[1][3:4])
