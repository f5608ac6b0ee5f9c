"""Which positions are scored: a plain definition, the tracker and the vectorised form agree."""

import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.core.watermark.contexts import ContextTracker, distinct_contexts, token_ids


def by_definition(ids, width, warmup, deduplicate):
    contexts, scored, seen = [], [], set()
    for t in range(len(ids)):
        context = tuple(ids[t - i] if t - i >= 0 else -1 for i in range(width, 0, -1))
        fresh = t >= warmup and (context not in seen or not deduplicate)
        if t >= warmup:
            seen.add(context)
        contexts.append(context)
        scored.append(fresh)
    return contexts, scored


@settings(max_examples=200, deadline=None)
@given(
    ids=st.lists(st.integers(0, 3), max_size=60),
    width=st.integers(1, 5),
    warmup=st.one_of(st.none(), st.integers(0, 9)),
    deduplicate=st.booleans(),
    keep=st.one_of(st.none(), st.integers(0, 7)),
    cut=st.integers(0, 60),
)
def test_three_forms_agree(ids, width, warmup, deduplicate, keep, cut):
    contexts, scored = by_definition(ids, width, width if warmup is None else warmup, deduplicate)
    contexts_Tc, scored_T = distinct_contexts(ids, width, warmup, deduplicate=deduplicate)
    assert contexts_Tc.shape == (len(ids), width)
    assert [tuple(c) for c in contexts_Tc.tolist()] == contexts
    assert scored_T.tolist() == scored
    tracker = ContextTracker(width, warmup, deduplicate=deduplicate, keep=keep)
    for t, token in enumerate(ids):
        if t == cut:
            again = ContextTracker.from_dict(json.loads(json.dumps(tracker.to_dict())))
            assert again == tracker
            tracker = pickle.loads(pickle.dumps(again))
        context = tracker.context()
        assert (context is not None) == scored[t]
        assert context is None or context == contexts[t]
        tracker.push(token)
    assert tracker.length == len(ids)
    if keep is not None:
        assert len(tracker.tokens) <= 2 * max(keep, width)


def test_context_does_not_change_the_tracker():
    tracker = ContextTracker(2)
    for token in (1, 2):
        tracker.push(token)
    assert tracker.context() == tracker.context() == (1, 2)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: ContextTracker(0), ValueError, "at least 1"),
        (lambda: ContextTracker(1.5), TypeError, "must be an int"),
        (lambda: ContextTracker(2, -1), ValueError, "not be negative"),
        (lambda: ContextTracker(2, "3"), TypeError, "warmup"),
        (lambda: ContextTracker(2).push(-1), ValueError, "must not be negative"),
        (lambda: token_ids([[1, 2]]), ValueError, "shape"),
        (lambda: token_ids([1.0, 2.0]), TypeError, "must be integers"),
        (lambda: token_ids([True]), TypeError, "must be integers"),
        (lambda: token_ids([1, -1]), ValueError, "at position 1 is negative"),
        (lambda: token_ids([1, 9], 9), ValueError, "token id 9 at position 1"),
        (lambda: token_ids(torch.tensor(3)), ValueError, "shape"),
    ],
)
def test_bad_input_is_named(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_ids_come_from_lists_arrays_and_tensors():
    for ids in ([1, 2], np.array([1, 2], np.int16), torch.tensor([1, 2]), (1, 2)):
        assert token_ids(ids).tolist() == [1, 2]
    assert token_ids([]).dtype == np.int64
