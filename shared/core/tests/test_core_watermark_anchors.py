"""Uniform and n-gram anchors against a direct computation, and the checks at the door."""

import os
import pickle
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.core.watermark.anchors import (
    NGramAnchor,
    UniformAnchor,
    anchor_windows,
    check_context,
    iter_sequence_log_probs,
    validate_anchor_log_probs,
)


def naive(sequences, vocab_size, context, order, add_k, strength, min_count=1):
    """Follow the recursion with dictionaries."""
    counts = Counter()
    for s in sequences:
        for n in range(1, order + 1):
            counts.update(tuple(s[i : i + n]) for i in range(len(s) - n + 1))
    total = sum(c for g, c in counts.items() if len(g) == 1)
    p = np.array([(counts[(v,)] + add_k) / (total + add_k * vocab_size) for v in range(vocab_size)])
    for n in range(2, order + 1):
        if len(context) < n - 1:
            break
        h = tuple(context[-(n - 1) :])
        seen = [counts[(*h, v)] for v in range(vocab_size)]
        seen = np.array([c if c >= min_count else 0 for c in seen])
        p = (seen + strength * p) / (seen.sum() + strength)
    return p


def corpus(seed, vocab_size, texts=6, length=80):
    rng = np.random.default_rng(seed)
    law = rng.dirichlet(np.full(vocab_size, 0.2))
    return [rng.choice(vocab_size, size=length, p=law) for _ in range(texts)]


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("min_count", [1, 2])
def test_ngram_equals_the_recursion(order, min_count):
    V = 13
    texts = corpus(order, V)
    anchor = NGramAnchor(V, order, add_k=0.3, strength=2.5, min_count=min_count).fit(
        texts, chunk_tokens=100
    )
    assert anchor.window == order - 1
    rng = np.random.default_rng(9)
    lengths = rng.integers(0, 5, 40)
    ids = np.full((40, 5), -1)
    for i, n in enumerate(lengths):
        ids[i, 5 - n :] = rng.integers(0, V, n)
    got = anchor.log_probs(ids, lengths)
    assert got.dtype == np.float32
    for i, n in enumerate(lengths):
        context = ids[i, 5 - n :].tolist()
        want = naive([t.tolist() for t in texts], V, context, order, 0.3, 2.5, min_count)
        np.testing.assert_allclose(np.exp(got[i].astype(float)), want, rtol=1e-6)


def test_torch_gives_the_same_law_on_the_same_device():
    torch = pytest.importorskip("torch")
    V = 50
    for anchor in (UniformAnchor(V), *(NGramAnchor(V, n).fit(corpus(4, V)) for n in (1, 2, 3))):
        ids, lengths = anchor_windows(corpus(5, V)[0], 3)
        want = anchor.log_probs(ids, lengths)
        got = anchor.log_probs(torch.from_numpy(ids), torch.from_numpy(lengths))
        assert got.dtype == torch.float32
        assert got.device.type == "cpu"
        np.testing.assert_allclose(got.numpy(), want, atol=1e-6)


@pytest.mark.gpu
def test_ngram_on_the_gpu():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    V = 50
    anchor = NGramAnchor(V, 3).fit(corpus(4, V))
    ids, lengths = anchor_windows(corpus(5, V)[0], 3)
    got = anchor.log_probs(torch.from_numpy(ids).cuda(), torch.from_numpy(lengths).cuda())
    assert got.device.type == "cuda"
    np.testing.assert_allclose(got.cpu().numpy(), anchor.log_probs(ids, lengths), atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, 6), max_size=12), min_size=1, max_size=4),
    st.integers(1, 3),
    st.lists(st.integers(0, 6), max_size=4),
)
def test_every_law_is_normalised_and_positive(texts, order, context):
    if not any(texts):
        return
    anchor = NGramAnchor(7, order).fit(texts)
    ids = np.array([context], dtype=np.int64).reshape(1, len(context))
    p = np.exp(anchor.log_probs(ids, np.array([len(context)])).astype(float))
    assert abs(p.sum() - 1) < 1e-6
    assert p.min() > 0
    np.testing.assert_allclose(p[0], naive(texts, 7, context, order, 0.1, 5.0), rtol=1e-6)


def test_more_context_predicts_better():
    rng = np.random.default_rng(0)
    V = 20
    chain = rng.dirichlet(np.full(V, 0.1), size=V)
    text = [0]
    for _ in range(6000):
        text.append(int(rng.choice(V, p=chain[text[-1]])))
    train, test = text[:5000], np.array(text[5000:])

    def nll(anchor):
        ids, lengths = anchor_windows(test, anchor.window)
        return -anchor.log_probs(ids, lengths)[np.arange(len(test)), test].mean()

    uniform, unigram, bigram = (
        nll(a)
        for a in (UniformAnchor(V), NGramAnchor(V, 1).fit([train]), NGramAnchor(V).fit([train]))
    )
    assert uniform == pytest.approx(np.log(V), abs=1e-6)
    assert bigram < unigram - 0.5 < uniform


def test_save_load_and_fingerprint(tmp_path):
    pytest.importorskip("safetensors")
    texts = corpus(1, 30)
    anchor = NGramAnchor(30, 3, add_k=0.25).fit(texts)
    path = tmp_path / "anchor.safetensors"
    anchor.save(path)
    assert os.listdir(tmp_path) == ["anchor.safetensors"]
    again = NGramAnchor.load(path)
    assert again.fingerprint == anchor.fingerprint
    ids, lengths = anchor_windows(texts[0], 2)
    np.testing.assert_array_equal(again.log_probs(ids, lengths), anchor.log_probs(ids, lengths))
    clone = pickle.loads(pickle.dumps(anchor))
    np.testing.assert_array_equal(clone.log_probs(ids, lengths), anchor.log_probs(ids, lengths))
    # Chunking and the order of the texts change nothing; settings and data do.
    assert NGramAnchor(30, 3, add_k=0.25).fit(texts[::-1], chunk_tokens=1).fingerprint == (
        anchor.fingerprint
    )
    others = [
        NGramAnchor(30, 3, add_k=0.5).fit(texts),
        NGramAnchor(30, 2, add_k=0.25).fit(texts),
        NGramAnchor(31, 3, add_k=0.25).fit(texts),
        NGramAnchor(30, 3, add_k=0.25).fit(texts[:-1]),
    ]
    assert len({a.fingerprint for a in [anchor, *others]}) == 5
    assert UniformAnchor(7).fingerprint != UniformAnchor(8).fingerprint


def test_load_refuses_other_files(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "x.safetensors"
    safetensors.save_file({"a": np.zeros(1)}, path)
    with pytest.raises(ValueError, match="not an n-gram anchor"):
        NGramAnchor.load(path)
    safetensors.save_file({"a": np.zeros(1)}, path, {"format": "modicum.ngram", "version": "99"})
    with pytest.raises(ValueError, match="99"):
        NGramAnchor.load(path)
    with pytest.raises(FileNotFoundError):
        NGramAnchor.load(tmp_path / "missing")


def test_windows():
    ids, lengths = anchor_windows([5, 6, 7], 2)
    assert ids.tolist() == [[-1, -1], [-1, 5], [5, 6]]
    assert lengths.tolist() == [0, 1, 2]
    ids, lengths = anchor_windows([5, 6, 7], None, [3, 1])
    assert ids.tolist() == [[5, 6, 7], [-1, -1, 5]]
    assert lengths.tolist() == [3, 1]
    ids, lengths = anchor_windows([5, 6, 7], 0)
    assert ids.shape == (3, 0)
    ids, lengths = anchor_windows([], 4)
    assert ids.shape == (0, 4)
    for bad in (
        {"window": -1},
        {"window": 2, "positions_N": [4]},
        {"window": 2, "positions_N": [-1]},
    ):
        with pytest.raises(ValueError):
            anchor_windows([5, 6, 7], **bad)


def test_blocks_cover_the_text_once():
    V = 12
    text = corpus(2, V)[0]
    anchor = NGramAnchor(V, 3).fit(corpus(3, V))
    whole = anchor.log_probs(*anchor_windows(text, 2))
    places, rows = zip(*iter_sequence_log_probs(anchor, text, batch_size=7), strict=True)
    np.testing.assert_array_equal(np.concatenate(places), np.arange(len(text)))
    np.testing.assert_array_equal(np.concatenate(rows), whole)
    some = [3, 10, 11, 40]
    places, rows = zip(*iter_sequence_log_probs(anchor, text, some, batch_size=3), strict=True)
    np.testing.assert_array_equal(np.concatenate(rows), whole[some])
    assert list(iter_sequence_log_probs(anchor, [])) == []
    with pytest.raises(ValueError, match="increase"):
        list(iter_sequence_log_probs(anchor, text, [4, 3]))
    with pytest.raises(ValueError, match="outside"):
        list(iter_sequence_log_probs(anchor, [V]))

    class Own(UniformAnchor):
        def iter_log_probs_sequence(self, ids_T, positions_N):
            yield positions_N, "own"

    assert [r for _, r in iter_sequence_log_probs(Own(V), text)] == ["own"]


@pytest.mark.parametrize(
    ("ids", "lengths", "error"),
    [
        (np.zeros((2, 3)), np.array([3, 3]), TypeError),
        (np.zeros((2, 3), int), np.array([3.0, 3.0]), TypeError),
        (np.zeros((2, 3), bool), np.array([3, 3]), TypeError),
        ([[0, 0]], np.array([2]), TypeError),
        (np.zeros(3, int), np.array([3, 3]), ValueError),
        (np.zeros((2, 3), int), np.array([3]), ValueError),
        (np.zeros((1, 3), int), np.array([2]), ValueError),
        (np.zeros((1, 3), int), np.array([4]), ValueError),
        (np.array([[0, 0, -1]]), np.array([2]), ValueError),
        (np.array([[-1, 0, 9]]), np.array([2]), ValueError),
        (np.array([[-2, 0, 1]]), np.array([2]), ValueError),
    ],
)
def test_malformed_contexts(ids, lengths, error):
    with pytest.raises(error):
        check_context(ids, lengths, 9)
    torch = pytest.importorskip("torch")
    if isinstance(ids, np.ndarray):
        with pytest.raises(error):
            check_context(torch.from_numpy(ids), torch.from_numpy(lengths), 9)
        with pytest.raises(TypeError, match="both"):
            check_context(torch.from_numpy(ids), lengths, 9)


def test_door_check_of_foreign_anchors():
    good = np.log(np.full((2, 4), 0.25))
    assert validate_anchor_log_probs(good, 4) is good
    truncated = np.log(np.array([[0.5, 0.5, 1e-300, 1e-300]]))
    truncated[0, 2:] = -np.inf
    validate_anchor_log_probs(truncated, 4)
    with pytest.raises(ValueError, match="sums to 2"):
        validate_anchor_log_probs(np.stack([good[0], np.log(np.full(4, 0.5))]), 4)
    bad = good.copy()
    bad[1, 0] = np.nan
    with pytest.raises(ValueError, match="row 1"):
        validate_anchor_log_probs(bad, 4)
    with pytest.raises(ValueError, match="another vocabulary"):
        validate_anchor_log_probs(good, 5)
    with pytest.raises(TypeError, match="float16"):
        validate_anchor_log_probs(good.astype(np.float16), 4)
    with pytest.raises(TypeError, match="list"):
        validate_anchor_log_probs(good.tolist(), 4)
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(good)
    assert validate_anchor_log_probs(tensor, 4) is tensor
    with pytest.raises(ValueError, match="row 1"):
        validate_anchor_log_probs(torch.from_numpy(bad), 4)


@pytest.mark.parametrize(
    ("args", "kwargs", "error"),
    [
        ((0,), {}, ValueError),
        ((3.5,), {}, TypeError),
        ((1 << 22,), {}, ValueError),
        ((9, 4), {}, ValueError),
        ((9, 0), {}, ValueError),
        ((9, 2), {"add_k": 0.0}, ValueError),
        ((9, 2), {"strength": float("inf")}, ValueError),
        ((9, 2), {"min_count": 0}, ValueError),
    ],
)
def test_bad_settings(args, kwargs, error):
    with pytest.raises(error):
        NGramAnchor(*args, **kwargs)


def test_unfitted_and_bad_corpora(tmp_path):
    anchor = NGramAnchor(9)
    for use in (
        lambda: anchor.fingerprint,
        lambda: anchor.log_probs(np.zeros((1, 1), int), np.array([1])),
        lambda: anchor.save(tmp_path / "x"),
    ):
        with pytest.raises(ValueError, match="fit"):
            use()
    with pytest.raises(ValueError, match="no tokens"):
        anchor.fit([[], []])
    with pytest.raises(ValueError, match="outside"):
        anchor.fit([[9]])
    with pytest.raises(TypeError):
        anchor.fit([[0.5]])
    # One token has no pair to learn from; the bigram law is then the unigram law.
    lone = NGramAnchor(9).fit([[3]])
    ids = np.array([[3]])
    np.testing.assert_array_equal(
        lone.log_probs(ids, np.array([1])),
        NGramAnchor(9, 1).fit([[3]]).log_probs(ids, np.array([1])),
    )


def test_import_without_torch():
    code = (
        "import sys, numpy as np; from modicum.core.watermark import NGramAnchor, UniformAnchor;"
        "NGramAnchor(5).fit([[1, 2, 3]]).log_probs(np.array([[1]]), np.array([1]));"
        "assert 'torch' not in sys.modules and 'safetensors' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
