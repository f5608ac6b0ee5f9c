"""The comparison graph is searched exactly, and cannot hear a substituted phone."""

import itertools
import math

import numpy as np
import pytest

from modicum.huper.channel import Weights
from modicum.huper.graph import fused_decode
from modicum.huper.graph.dysfluent import decode, reference_graph

AA, V, B, T, IY = 1, 2, 3, 4, 5
CLASSES = 6


def spoken(ids, certainty=0.98, frames_each=3, gap=1):
    labels = [0, *(label for q in ids for label in [q] * frames_each + [0] * gap)]
    logprobs = np.full((len(labels), CLASSES), math.log((1 - certainty) / (CLASSES - 1)))
    logprobs[np.arange(len(labels)), labels] = math.log(certainty)
    return logprobs


def plain_weights(canonical):
    sub = np.full((len(canonical), CLASSES), -4.0)
    sub[np.arange(len(canonical)), canonical] = -0.1
    return Weights(
        canonical, sub, np.full(len(canonical), -3.0), np.full((len(canonical) + 1, CLASSES), -5.0)
    )


def similar(phone):
    return {V: (B, T), B: (V, T)}.get(phone, ())


def test_a_substituted_phone_is_heard_by_our_graph_and_not_by_this_one():
    canonical = [T, V, AA]
    logprobs = spoken([T, B, AA])
    ours = fused_decode(logprobs, canonical, plain_weights(canonical))
    assert ours.ids == (T, B, AA) and ours.ops == ("keep", "sub", "keep")
    theirs = decode(logprobs, canonical, similar=similar)
    assert B not in theirs.ids
    # Structural: every arc that can say B reads V, so the frames of B are worth those of V.
    swapped = logprobs.copy()
    swapped[:, B] = -50.0
    assert decode(swapped, canonical, similar=similar).ids == theirs.ids
    # Through the public door.
    assert (
        B not in fused_decode(logprobs, canonical, plain_weights(canonical), graph="dysfluent").ids
    )


def brute_force(logprobs, canonical, **options):
    """Every labelling of the frames, every walk over the arcs that says it."""
    arcs = reference_graph(canonical, similar, **options)
    frames = len(logprobs)
    states = len(canonical) + 1

    def reach(scores):
        """Relax the arcs that take no frame until nothing changes."""
        scores = dict(scores)
        for _ in range(states):
            for arc in arcs:
                if arc.reads is None and arc.source in scores:
                    value = scores[arc.source] + arc.weight
                    scores[arc.target] = max(scores.get(arc.target, -math.inf), value)
        return scores

    best = -math.inf
    for path in itertools.product(range(logprobs.shape[1]), repeat=frames):
        scores = reach({0: 0.0})
        for q in (q for q, _ in itertools.groupby(path) if q):
            after = {}
            for arc in arcs:
                if arc.reads == q and arc.source in scores:
                    value = scores[arc.source] + arc.weight
                    after[arc.target] = max(after.get(arc.target, -math.inf), value)
            scores = reach(after)
        if states - 1 in scores:
            heard = sum(logprobs[t, q] for t, q in enumerate(path))
            best = max(best, heard + scores[states - 1])
    return best


@pytest.mark.parametrize("skip", ["linear", "published", None])
def test_search_equals_enumeration(skip):
    rng = np.random.default_rng(31)
    for trial in range(6):
        logits = rng.normal(size=(4, 4)) * 2
        logprobs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        canonical = rng.integers(1, 4, size=trial % 4)
        expected = brute_force(logprobs, canonical, skip=skip)
        found = decode(logprobs, canonical, similar=similar, skip=skip)
        if expected == -math.inf:
            assert found.reason == "no_path"
        else:
            assert found.score == pytest.approx(expected, abs=1e-9)


def test_published_skip_is_cheaper_when_longer_and_ours_dearer():
    def skips(**options):
        return {
            arc.target - arc.source: arc.weight
            for arc in reference_graph([1, 2, 3, 4], **options)
            if arc.kind == "skip"
        }

    published = skips(skip="published")
    assert published[3] > published[2]
    assert published[2] == pytest.approx(-math.exp(-2.0))
    assert skips(kappa=0.5) == {2: -1.0, 3: -1.5}
    assert skips(skip=None) == {}


def test_repetitions_and_deletions_are_named():
    found = decode(spoken([T, AA, T, AA, IY]), [T, AA, IY])
    assert found.ids == (T, AA, T, AA, IY)
    assert found.ops == ("keep", "keep", "rep", "rep", "keep")
    found = decode(spoken([T, IY]), [T, AA, V, IY])
    assert found.ops == ("keep", "keep")
    assert found.deleted == (1, 2)
    assert [edit.op for edit in found.edits] == ["keep", "del", "del", "keep"]


def test_without_frames_or_reference():
    assert decode(np.zeros((0, CLASSES)), []).score == 0.0
    assert decode(np.zeros((0, CLASSES)), [T]).reason == "no_path"
    assert decode(spoken([T]), []).phones == ()
    with pytest.raises(ValueError, match="'exp'"):
        reference_graph([1], skip="exp")
