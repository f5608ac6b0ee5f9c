"""Forward–backward counts every CTC path with every edit path once."""

import itertools
import math

import numpy as np
import pytest

from modicum.huper.channel import Weights
from modicum.huper.graph import edit_posteriors
from modicum.huper.graph.posteriors import forward_backward
from modicum.huper.graph.viterbi import best_path


def random_case(rng, frames, classes, length):
    logits = rng.normal(size=(frames, classes)) * 1.5
    logprobs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return logprobs, Weights(
        rng.integers(1, classes, size=length),
        rng.normal(-2, 1, (length, classes)),
        rng.normal(-2, 1, length),
        rng.normal(-2.5, 1, (length + 1, classes)),
    )


def enumerate_all(logprobs, weights, lam):
    """Sum over CTC paths and, for each, over edit paths, step by step."""
    frames, classes = logprobs.shape
    length = len(weights)
    total = 0.0
    sub = np.zeros((length, classes))
    dele = np.zeros(length)
    ins = np.zeros((length + 1, classes))
    occupancy = np.zeros((frames, classes))

    def edits(i, phones):
        """Every edit path as (log-weight, steps)."""
        if i == length and not phones:
            yield 0.0, ()
        if i < length:
            for weight, steps in edits(i + 1, phones):
                yield weight + lam * weights.dele[i], (("del", i, 0), *steps)
        if phones:
            for weight, steps in edits(i, phones[1:]):
                yield weight + lam * weights.ins[i, phones[0]], (("ins", i, phones[0]), *steps)
        if i < length and phones:
            for weight, steps in edits(i + 1, phones[1:]):
                yield weight + lam * weights.sub[i, phones[0]], (("sub", i, phones[0]), *steps)

    for path in itertools.product(range(classes), repeat=frames):
        phones = tuple(q for q, _ in itertools.groupby(path) if q)
        heard = sum(logprobs[t, q] for t, q in enumerate(path))
        for weight, steps in edits(0, phones):
            mass = math.exp(heard + weight)
            total += mass
            for t, q in enumerate(path):
                occupancy[t, q] += mass
            for kind, i, q in steps:
                if kind == "del":
                    dele[i] += mass
                elif kind == "sub":
                    sub[i, q] += mass
                else:
                    ins[i, q] += mass
    return math.log(total), sub / total, dele / total, ins / total, occupancy / total


@pytest.mark.parametrize(
    "shape",
    [(1, 2, 0), (1, 3, 2), (3, 3, 2), (4, 2, 3), (4, 3, 2), (3, 4, 0), (5, 2, 1), (2, 3, 5)],
)
@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_equals_enumeration(shape, lam):
    rng = np.random.default_rng([3, *shape])
    for _ in range(3):
        logprobs, weights = random_case(rng, *shape)
        total, sub, dele, ins, occupancy = enumerate_all(logprobs, weights, lam)
        found = forward_backward(logprobs, weights, 0, lam)
        assert found.log_likelihood == pytest.approx(total, abs=1e-10)
        np.testing.assert_allclose(found.sub, sub, atol=1e-10)
        np.testing.assert_allclose(found.dele, dele, atol=1e-10)
        np.testing.assert_allclose(found.ins, ins, atol=1e-10)
        np.testing.assert_allclose(found.occupancy, occupancy, atol=1e-10)


@pytest.mark.parametrize("shape", [(40, 12, 13), (80, 30, 7), (25, 5, 40), (15, 3, 0)])
def test_rows_sum_to_one_and_the_total_is_at_least_the_best_path(shape):
    rng = np.random.default_rng([4, *shape])
    logprobs, weights = random_case(rng, *shape)
    for lam, maxdel in ((1.0, 3), (0.4, 60)):
        found = forward_backward(logprobs, weights, 0, lam)
        np.testing.assert_allclose(found.sub.sum(1) + found.dele, 1.0, atol=1e-9)
        np.testing.assert_allclose(found.occupancy.sum(1), 1.0, atol=1e-9)
        assert (found.ins[:, 0] == 0).all() and (found.sub[:, 0] == 0).all()
        assert found.log_likelihood >= best_path(logprobs, weights, 0, lam, maxdel).score


def test_a_dominating_phone_leaves_the_others_exact():
    # One class holds all but e^-700 of the mass: subtracting it in log space would lose the rest.
    logprobs = np.full((2, 3), -700.0)
    logprobs[:, 1] = 0.0
    weights = Weights([1, 2], np.zeros((2, 3)), np.full(2, -1e4), np.full((3, 3), -np.inf))
    found = forward_backward(logprobs, weights)
    # Two phones in two frames: 1 2 or 2 1, equally likely; nothing else is possible but a deletion.
    assert found.log_likelihood == pytest.approx(-700 + math.log(2), abs=1e-9)
    np.testing.assert_allclose(found.sub, [[0, 0.5, 0.5], [0, 0.5, 0.5]], atol=1e-12)


def test_without_any_path_all_is_zero():
    weights = Weights([1], [[-np.inf] * 3], [-np.inf], np.full((2, 3), -np.inf))
    found = forward_backward(np.full((4, 3), -math.log(3)), weights)
    assert found.log_likelihood == -np.inf
    assert found.sub.sum() == found.dele.sum() == found.occupancy.sum() == 0


def test_public_door():
    rng = np.random.default_rng(0)
    logprobs, weights = random_case(rng, 5, 4, 3)
    found = edit_posteriors(logprobs, weights.canonical.tolist(), weights)
    assert found.log_likelihood == forward_backward(logprobs, weights).log_likelihood
    with pytest.raises(ValueError, match="lam"):
        edit_posteriors(logprobs, weights.canonical.tolist(), weights, lam=-0.1)
    with pytest.raises(ValueError, match="columns"):
        forward_backward(logprobs[:, :3], weights)
