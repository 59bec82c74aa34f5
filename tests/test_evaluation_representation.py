"""k nearest neighbours and collapse, by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier

from fxcli.evaluation import representation


def test_neighbours_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    bank, labels = rng.normal(size=(300, 12)), rng.integers(0, 3, 300)
    bank += np.eye(3)[labels] @ rng.normal(size=(3, 12)) * 2
    queries = rng.normal(size=(80, 12)) + bank[:80]
    theirs = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp(-d / representation.TEMPERATURE)).fit(
        bank, labels
    )
    found = representation.knn(bank, labels, queries, 3)
    assert np.array_equal(found, theirs.predict(queries))


def test_fewer_pictures_than_neighbours():
    bank = np.array([[1.0, 0], [0, 1]])
    assert representation.knn(bank, np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.9]]), 2).tolist() == [0, 1]


def test_balanced_accuracy_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    targets, predicted = rng.integers(0, 3, 50), rng.integers(0, 4, 50)
    targets[targets == 2] = 0
    ours = representation.balanced_accuracy(predicted, targets, 4)
    recalls = [np.mean(predicted[targets == label] == label) for label in (0, 1)]
    assert ours == pytest.approx(np.mean(recalls))
    full = rng.integers(0, 4, 50)
    assert representation.balanced_accuracy(predicted, full, 4) == pytest.approx(
        balanced_accuracy_score(full, predicted)
    )


def test_spread_is_one_everywhere_and_zero_in_one_place():
    rng = np.random.default_rng(2)
    assert representation.spread(rng.normal(size=(4000, 32))) == pytest.approx(1, abs=0.02)
    assert representation.spread(np.ones((50, 32))) == pytest.approx(0, abs=1e-9)
    assert representation.spread(np.zeros((50, 32))) == 0


@pytest.mark.parametrize("rank", [1, 2, 5, 16])
def test_effective_rank_counts_equal_directions(rank):
    basis = np.linalg.qr(np.random.default_rng(3).normal(size=(16, rank)))[0]
    features = np.vstack([basis.T, -basis.T]) + 7
    assert representation.effective_rank(features) == pytest.approx(rank)


def test_effective_rank_of_equal_features():
    assert representation.effective_rank(np.full((5, 4), 3.0)) == pytest.approx(1)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_nearest_are_those_of_brute_force(monkeypatch, chunk):
    monkeypatch.setattr(representation, "_CHUNK", chunk)
    rng = np.random.default_rng(3)
    features = rng.normal(size=(50, 8)).astype(np.float32)
    features[10:15] = np.nan
    among = [place for place in range(50) if not 10 <= place < 15]
    np.save("features.npy", features)
    found = representation.nearest(np.load("features.npy", mmap_mode="r"), [0, 20, 49], among, 5)
    for query, others in zip([0, 20, 49], found, strict=True):
        kept = [place for place in among if place != query]
        cosines = cosine_similarity(features[[query]], features[kept])[0]
        order = np.argsort(-cosines)[:5]
        assert [other.place for other in others] == [kept[index] for index in order]
        assert [other.cosine for other in others] == pytest.approx(cosines[order].tolist(), abs=1e-6)


def test_nearest_where_there_are_few_or_all_are_alike():
    features = np.array([[1.0, 0], [2, 0], [3, 0], [0, 0]])
    found = representation.nearest(features, [1], [0, 1, 2, 3], 9)
    assert found == [[(0, 1.0), (2, 1.0), (3, 0.0)]]
    assert representation.nearest(features, [1], [1], 9) == [[]]
