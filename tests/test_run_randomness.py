"""Seeds: functions of the recipe's seed and a place, the same on every machine."""

import random

import numpy as np
import torch

from fxcli.run.randomness import derive, generator, seed_everything


def test_values_do_not_change_between_versions():
    """A run that is resumed with a later version of fx draws what it would have drawn."""
    assert derive(0) == 4761921975702974394
    assert derive(0, "augment", 3, 17) == 1874120953320323877
    assert derive(2**63 - 1, "order", 0) == 8223437372333185919


def test_places_differ():
    places = [(), (0,), (0, 0), ("a",), ("a", 0), ("a", 1), ("b", 0), (1, 0), (10,), (1, "0a")]
    values = {derive(seed, *place) for seed in (0, 1, 10, 11) for place in places}
    assert len(values) == 4 * len(places)


def test_range():
    values = [derive(0, i) for i in range(2000)]
    assert all(0 <= value < 2**63 for value in values)
    assert max(values) > 0.99 * 2**63
    assert len(set(values)) == 2000


def test_generator_is_a_function_of_its_place():
    assert generator(0, "x").random() == generator(0, "x").random()
    assert generator(0, "x").random() != generator(0, "y").random()
    assert generator(0, "x").random() != generator(1, "x").random()


def draws():
    return (
        random.random(),
        float(np.random.rand()),
        float(torch.rand(1)),
        float(torch.nn.functional.dropout(torch.ones(64)).sum()),
    )


def test_seed_everything():
    seed_everything(3, "step", 7)
    first = draws()
    assert draws() != first
    seed_everything(3, "step", 7)
    assert draws() == first
    seed_everything(3, "step", 8)
    second = draws()
    assert all(a != b for a, b in zip(first[:3], second[:3], strict=True))
