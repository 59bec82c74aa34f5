import numpy as np
import pytest
from sklearn.covariance import EmpiricalCovariance, LedoitWolf, ledoit_wolf_shrinkage
from sklearn.decomposition import PCA

from fxcli.evaluation import novelty
from fxcli.evaluation.novelty import fit, threshold


def features(n, width=40, seed=0, rank=10):
    """Mostly within `rank` directions."""
    rng = np.random.default_rng(seed)
    basis = np.random.default_rng(99).normal(size=(rank, width))
    return (3 + rng.normal(size=(n, rank)) @ basis + 0.3 * rng.normal(size=(n, width))).astype(np.float32)


@pytest.mark.parametrize("n", [160, 5000])
def test_with_every_direction_it_is_the_shrunk_mahalanobis_distance(n):
    train, new = features(n), features(50, seed=1)
    fitted = fit(train)
    assert (fitted.projection.shape, fitted.residual) == ((40, 40), 0.0)
    expected = LedoitWolf().fit(train).mahalanobis(new) / 40
    assert fitted.distance(new) ** 2 == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("n", "width"), [(120, 40), (60, 200)])
def test_the_shrinkage_is_scikit_learns(n, width):
    centred = features(n, width).astype(np.float64)
    centred -= centred.mean(axis=0)
    for gram in (centred @ centred.T / n, centred.T @ centred / n):
        found = novelty._shrinkage(centred, gram)
        assert found == pytest.approx(ledoit_wolf_shrinkage(centred, assume_centered=True))
    assert novelty._shrinkage(np.eye(2), np.eye(2)) == 1.0


@pytest.mark.parametrize(("n", "width"), [(4000, 100), (90, 300)])
def test_both_halves_are_principal_components(n, width, monkeypatch):
    monkeypatch.setattr(novelty, "DIMENSIONS", 10)
    monkeypatch.setattr(novelty, "_shrinkage", lambda centred, gram: 0.0)
    train, new = features(n, width), features(30, width, seed=1)
    pca = PCA(10, whiten=True, svd_solver="full").fit(train.astype(np.float64))
    z = pca.transform(new) * np.sqrt((n) / (n - 1))  # its variances are over n − 1
    outside = lambda x: ((x - pca.inverse_transform(pca.transform(x))) ** 2).sum(axis=1)  # noqa: E731
    fitted = fit(train)
    assert fitted.residual == pytest.approx(outside(train.astype(np.float64)).mean(), rel=1e-4)
    expected = ((z**2).mean(axis=1) + outside(new.astype(np.float64)) / fitted.residual) / 2
    assert fitted.distance(new) ** 2 == pytest.approx(expected, rel=1e-3)
    # Each half has the mean 1 over the training pictures.
    assert (fitted.distance(train) ** 2).mean() == pytest.approx(1, rel=1e-4)
    assert np.mean(((train - fitted.mean) @ fitted.projection) ** 2) == pytest.approx(1, rel=1e-4)


def test_without_shrinkage_it_is_the_mahalanobis_distance(monkeypatch):
    monkeypatch.setattr(novelty, "_shrinkage", lambda centred, gram: 0.0)
    train, new = features(400), features(50, seed=1)
    expected = EmpiricalCovariance().fit(train).mahalanobis(new) / 40
    assert fit(train).distance(new) ** 2 == pytest.approx(expected, rel=1e-3)


def test_few_pictures_have_few_directions():
    assert fit(features(40)).projection.shape == (40, 10)
    assert fit(features(2)).projection.shape == (40, 1)
    assert fit(features(5000, 100)).projection.shape == (100, 64)
    fitted = fit(np.repeat(features(3), 40, axis=0))
    assert fitted.projection.shape == (40, 2)  # three points span a plane
    assert fitted.residual == 0.0
    assert np.isfinite(fitted.distance(features(9))).all()


def test_the_torch_formula_in_the_docstring_is_the_distance():
    import torch

    train, new = features(200), features(20, seed=1)
    whole = fit(train)
    fitted = novelty.Novelty(whole.mean, whole.projection[:, :8], 2.5)
    names = {"x": torch.tensor(new), "mean": torch.tensor(fitted.mean), "P": torch.tensor(fitted.projection)}
    names["residual"] = fitted.residual
    exec("\n".join(line.strip() for line in novelty.__doc__.split("\n") if line.startswith("    ")), names)
    assert names["distance"].numpy() == pytest.approx(fitted.distance(new), rel=1e-3)


def test_pictures_of_another_kind_are_far():
    rng = np.random.default_rng(3)
    fitted = fit(features(300, 100))
    limit = threshold(fitted.distance(features(300, 100, seed=1)))
    assert (fitted.distance(features(300, 100, seed=2)) > limit).mean() == pytest.approx(0.025, abs=0.03)
    outside = features(50, 100, seed=4) + rng.normal(size=(50, 100)).astype(np.float32)
    assert (fitted.distance(outside) > limit).all()
    within = 3 + 6 * (features(50, 100, seed=5) - 3)
    assert (fitted.distance(within) > limit).mean() > 0.9


def test_the_threshold_is_the_quantile():
    distances = np.random.default_rng(4).permutation(np.arange(1, 201)) / 200
    assert threshold(distances) == pytest.approx(np.quantile(distances, 0.975, method="inverted_cdf"))
    assert threshold(distances, quantile=1.0) == 1.0
    # One group of a hundred alike weighs as one picture.
    groups = np.concatenate([np.zeros(100), np.arange(1, 100)])
    distances = np.concatenate([np.full(100, 9.0), np.arange(1, 100) / 100])
    assert threshold(distances, groups) == 0.98
    assert threshold(distances) == 9.0


def test_what_tells_nothing_is_refused():
    with pytest.raises(ValueError, match="at least two pictures, not 1"):
        fit(features(1))
    with pytest.raises(ValueError, match="all 3 pictures are equal"):
        fit(np.ones((3, 4), dtype=np.float32))
