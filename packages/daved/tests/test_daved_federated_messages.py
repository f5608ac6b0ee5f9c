"""Frames: what goes in comes out, and nothing else is let in."""

import json

import numpy as np
import pytest

from modicum.daved.federated.merkle import MerkleTree, leaf_hash, row_salt, verify
from modicum.daved.federated.messages import (
    MAGIC,
    Aggregate,
    AskHello,
    Best,
    Hello,
    Peers,
    Score,
    array_bytes,
    decode,
    encode,
    join_frames,
    split_frames,
)


def test_a_frame_gives_back_fields_and_arrays():
    hello = Hello(3, 2, "float32", "ab", 0.1, 1e300, "00", "ff", 2.0, None, 1)
    assert decode(encode(hello)) == hello
    peers = Peers(1, "r", 0, ["1", "2"], 24)
    assert decode(encode(peers)) == peers
    score = decode(encode(Score(7, 2, np.arange(6.0).reshape(2, 3).T)))
    assert (score.step, score.top) == (7, 2)
    np.testing.assert_array_equal(score.directions_dm, [[0, 3], [1, 4], [2, 5]])


def test_arrays_travel_little_endian_whatever_the_machine():
    little = encode(Best(np.array([1.5]), np.array([2])))
    big = encode(Best(np.array([1.5], dtype=">f8"), np.array([2], dtype=">i8")))
    assert little == big
    assert little.endswith((2).to_bytes(8, "little"))


def test_empty_arrays_and_two_arrays_keep_their_shapes():
    message = decode(encode(Aggregate(0, "start", 5.0, np.empty((4, 0)))))
    assert message.directions_dm.shape == (4, 0)
    best = decode(encode(Best(np.array([2.0, 1.0]), np.array([4, 0]))))
    assert best.values_r.tolist() == [2.0, 1.0] and best.indices_r.tolist() == [4, 0]
    assert array_bytes(best) == 32


def _frame(header: dict, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return MAGIC + len(text).to_bytes(4, "little") + text + body


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"PK\x03\x04",
        encode(AskHello("x"))[:-3],
        encode(Score(0, 1, np.ones((2, 1))))[:-1],
        encode(Score(0, 1, np.ones((2, 1)))) + b"x",
        _frame({"kind": "eval", "fields": {}, "arrays": []}),
        _frame({"kind": "hello", "fields": {"run": "1", "more": 2}, "arrays": []}),
        _frame({"kind": "hello", "fields": {}, "arrays": []}),
        _frame(
            {"kind": "peak", "fields": {}, "arrays": [["directions_dm", "|O", [1]]]}, b"12345678"
        ),
        _frame({"kind": "peak", "fields": {}, "arrays": [["directions_dm", "<f8", [-1, -1]]]}),
        _frame({"kind": "peak", "fields": {}, "arrays": [["directions_dm", "<f8", [2**62, 8]]]}),
        _frame([1, 2]),
        _frame({"kind": "hello", "fields": {"run": 1}, "arrays": []}),
        _frame({"kind": "peak", "fields": {"directions_dm": [[1.0]]}, "arrays": []}),
        _frame({"kind": "peak_reply", "fields": {"value": True}, "arrays": []}),
        _frame({"kind": "done", "fields": {"have": 1.5}, "arrays": []}),
        _frame({"kind": "hello", "fields": {}, "arrays": [["run", "<f8", [1]]]}, bytes(8)),
        MAGIC + (200_000).to_bytes(4, "little") + b"[" * 200_000,
    ],
)
def test_what_is_no_frame_of_the_protocol_is_a_value_error(frame):
    with pytest.raises(ValueError):
        decode(frame)


def test_an_array_of_another_type_is_not_sent():
    with pytest.raises(TypeError, match="values_r has type complex128"):
        encode(Best(np.array([1j]), np.array([0])))


def test_joined_frames_come_apart_again_and_a_cut_is_seen():
    frames = [b"", b"abc", bytes(300)]
    joined = join_frames(frames)
    assert split_frames(joined) == frames
    with pytest.raises(ValueError, match="cut off"):
        split_frames(joined[:-1])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 13])
def test_every_leaf_proves_its_place_and_no_other(n):
    leaves = [bytes([index]) * 32 for index in range(n)]
    tree = MerkleTree(leaves)
    for index in range(n):
        proof = tree.proof(index)
        assert verify(tree.root, n, index, leaves[index], proof)
        assert not verify(tree.root, n, index, bytes(32 * [200]), proof)
        others = [k for k in range(-1, 2 * n) if k != index]
        assert not any(verify(tree.root, n, k, leaves[index], proof) for k in others)
        assert not verify(tree.root, n, index, leaves[index], [*proof, bytes(32)])


def test_a_leaf_binds_every_part_of_a_record():
    row, labels = np.array([1.0, 2.0]), np.array([3.0])
    salt = row_salt(b"secret", 4)
    base = leaf_hash(4, 1.0, row, labels, salt)
    others = [
        leaf_hash(5, 1.0, row, labels, salt),
        leaf_hash(4, 1.5, row, labels, salt),
        leaf_hash(4, 1.0, row[::-1], labels, salt),
        leaf_hash(4, 1.0, row, labels + 1, salt),
        leaf_hash(4, 1.0, row[:1], np.array([2.0, 3.0]), salt),
        leaf_hash(4, 1.0, row, labels, row_salt(b"secret", 5)),
    ]
    assert len({base, *others}) == 7
    assert base == leaf_hash(4, 1.0, row.astype(np.float32), labels, salt)
