"""The position code is what a token-by-token reading of the stream gives, and is causal."""

import numpy as np
import pytest
import torch

from modicum.testtime.construct.stream import (
    FEEDBACK,
    PROMPT,
    SINK,
    TURN,
    TokenLayout,
    read_stream,
)


def _read_slowly(layout, ids):
    """Read one stream token by token, as its definition says."""
    kinds, turns, actions, positions, flags = [], [], [], [], []
    turn, action, since = 0, -1, 0
    read = [0] * layout.num_experts
    for token in ids:
        position, flag = [0] * layout.num_experts, [False] * layout.num_experts
        has = [
            layout.first_word(k) <= token < layout.first_word(k) + layout.vocab_sizes[k]
            for k in range(layout.num_experts)
        ]
        if token == layout.sink:
            kind = SINK
        elif token < layout.num_words and turn == 0:
            kind = PROMPT
            for k in range(layout.num_experts):
                flag[k] = not has[k]
                if has[k]:
                    position[k] = read[k]
                    read[k] += 1
        elif token > layout.num_words + layout.num_experts:
            kind, flag = FEEDBACK, [True] * layout.num_experts
        else:
            kind = TURN
            if token > layout.num_words:
                turn, action, since = turn + 1, token - layout.num_words - 1, 0
            else:
                since += 1
            position = [count + since for count in read]
            flag = [k != action for k in range(layout.num_experts)]
        kinds.append(kind)
        turns.append(turn)
        actions.append(action)
        positions.append(position)
        flags.append(flag)
    return kinds, turns, actions, positions, flags


def _random_stream(layout, rng):
    ids = [layout.sink]
    prompt = rng.integers(0, layout.num_words, size=rng.integers(0, 5))
    if not layout.disjoint:
        prompt = prompt % min(layout.vocab_sizes)
    ids += prompt.tolist()
    for _ in range(rng.integers(0, 4)):
        expert = int(rng.integers(layout.num_experts))
        ids.append(layout.action(expert))
        words = rng.integers(0, layout.vocab_sizes[expert], size=rng.integers(0, 4))
        ids += (words + layout.first_word(expert)).tolist()
        ids.append(layout.feedback(int(rng.integers(2))))
    return ids


@pytest.mark.parametrize("disjoint", [False, True])
@pytest.mark.parametrize("sizes", [(4,), (3, 3), (5, 2, 7)])
def test_code_is_that_of_a_slow_reading(sizes, disjoint):
    layout = TokenLayout(sizes, disjoint)
    rng = np.random.default_rng(len(sizes))
    for _ in range(60):
        ids = _random_stream(layout, rng)
        code = read_stream(layout, torch.tensor([ids]))
        kinds, turns, actions, positions, flags = _read_slowly(layout, ids)
        assert code.kind_BN[0].tolist() == kinds
        assert code.turn_BN[0].tolist() == turns
        assert code.action_BN[0].tolist() == actions
        assert code.inactive_BNK[0].tolist() == flags
        assert code.accepted_BN[0].tolist() == [token == layout.feedback(1) for token in ids]
        for position, given, kind in zip(
            positions, code.position_BNK[0].tolist(), kinds, strict=True
        ):
            if kind in (PROMPT, TURN):
                assert given == position


def test_code_of_a_prefix_is_the_prefix_of_the_code():
    layout = TokenLayout((5, 4, 5))
    rng = np.random.default_rng(1)
    ids = []
    while len(ids) < 12:
        ids = _random_stream(layout, rng)
    whole = read_stream(layout, torch.tensor([ids]))
    for length in range(1, len(ids)):
        part = read_stream(layout, torch.tensor([ids[:length]]))
        for left, right in zip(part, whole, strict=True):
            assert torch.equal(left, right[:, :length])


def test_numbers_of_tokens_are_distinct_and_cover_the_layout():
    for layout in (TokenLayout((3, 6)), TokenLayout((3, 6), disjoint=True)):
        special = [layout.sink, layout.action(0), layout.action(1)]
        special += [layout.feedback(0), layout.feedback(1)]
        assert sorted(special) == list(range(layout.num_words, layout.size))
    assert TokenLayout((3, 6)).num_words == 6
    assert TokenLayout((3, 6), disjoint=True).num_words == 9
    assert TokenLayout((3, 6), disjoint=True).first_word(1) == 3
    with pytest.raises(ValueError, match=r"0 … 1, not 2"):
        TokenLayout((3, 6)).action(2)


# Two experts with words 0 … 3: sink 4, actions 5 and 6, feedback 7 and 8.
@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 1], r"at \[0, 0\] is wrong: the sink"),
        ([4, 0, 4], r"token 4 at \[0, 2\] is wrong: the sink"),
        ([4, 0, 7], r"token 7 at \[0, 2\] is feedback that follows no turn"),
        ([4, 5, 1, 7, 8], r"token 8 at \[0, 4\] is feedback that follows no turn"),
        ([4, 0, 5, 1, 6], r"token 6 at \[0, 4\] is an action before"),
        ([4, 0, 5, 1, 7, 2], r"token 2 at \[0, 5\] follows feedback"),
        ([4, 9], r"0 … 8, not 9"),
        ([4, -1], r"0 … 8, not -1"),
    ],
)
def test_malformed_streams_are_refused_with_their_place(ids, message):
    with pytest.raises(ValueError, match=message):
        read_stream(TokenLayout((4, 4)), torch.tensor([ids]))


def test_words_that_an_expert_does_not_have_are_refused():
    shared, disjoint = TokenLayout((2, 4)), TokenLayout((2, 4), disjoint=True)
    with pytest.raises(ValueError, match="not a word of the expert whose turn it is"):
        read_stream(shared, torch.tensor([[4, 0, 5, 3]]))
    read_stream(shared, torch.tensor([[4, 3, 6, 3]]))
    with pytest.raises(ValueError, match=r"expert 0, whose turn it is at \[0, 2\]"):
        read_stream(shared, torch.tensor([[4, 3, 5]]))
    # With words of their own, experts skip what is written for others.
    read_stream(disjoint, torch.tensor([[6, 3, 7, 1]]))
    with pytest.raises(ValueError, match="not a word of the expert"):
        read_stream(disjoint, torch.tensor([[6, 3, 7, 3]]))


@pytest.mark.parametrize(
    "ids", [torch.zeros(3).long(), torch.zeros(1, 3), torch.zeros(1, 0).long()]
)
def test_ids_of_other_shapes_and_types_are_refused(ids):
    with pytest.raises(ValueError, match="int64"):
        read_stream(TokenLayout((4,)), ids)
