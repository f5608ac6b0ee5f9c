"""Warpers held to the engines' own, to a slow definition, and to their rules about ties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.core.watermark.warpers import Warper, warp

CASES = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.8, "top_k": 5},
    {"top_k": 1},
    {"top_k": 10_000},
    {"top_k": -1, "top_p": 0.9},
    {"top_p": 0.0},
    {"top_p": 0.5, "temperature": 0.4},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"temperature": 1.3, "top_k": 20, "top_p": 0.8, "min_p": 0.05},
    {"temperature": 0.9, "top_k": 7, "top_p": 0.95, "min_p": 0.02},
]


def logits(seed: int, rows: int = 16, size: int = 97) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 3, (rows, size)).astype(np.float32)
    x[:, -9:] = -np.inf
    x[rows // 2 :] = np.round(x[rows // 2 :])  # many exact ties
    return x


def definition(row: np.ndarray, temperature, top_k, top_p, min_p, order) -> np.ndarray:
    """One row in float64, token by token, straight from the rules."""
    x = row.astype(np.float64) / temperature
    alive = x > -np.inf

    def law():
        p = np.where(alive, np.exp(x - x[alive].max()), 0.0)
        return p / p.sum()

    def apply_min_p():
        p = law()
        return alive & (p >= min_p * p.max())

    if order == "vllm" and min_p:
        alive = apply_min_p()
    if top_k and top_k > 0:
        least = np.sort(np.where(alive, x, -np.inf))[::-1][min(top_k, len(x)) - 1]
        alive = alive & (x >= least)
    if top_p < 1:
        p = law()
        best_first = sorted(range(len(x)), key=lambda v: (-p[v], -v))
        kept, mass = set(), 0.0
        for v in best_first:
            if mass >= top_p and kept:
                break
            kept.add(v)
            mass += p[v]
        alive = alive & np.isin(np.arange(len(x)), list(kept))
    if order == "transformers" and min_p:
        alive = apply_min_p()
    with np.errstate(divide="ignore"):
        return np.log(law())


def assert_same_law(got, want):
    # The engines' sorts are not stable, so among exact ties at the edge of top-p they may keep
    # other ids than we do: the first half of the rows (no ties) must be identical, the second
    # half identical up to the order of the values.
    half = len(got) // 2
    assert (got[:half] == want[:half]).all()
    ours, theirs = got[half:].sort(-1).values, want[half:].sort(-1).values
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("order", ["transformers", "vllm"])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_definition(case, order):
    torch = pytest.importorskip("torch")
    x = logits(3)
    full = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | case
    want = np.stack([definition(row, *full.values(), order) for row in x])
    got = Warper(**case, order=order)(x)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    np.testing.assert_allclose(got, want, atol=2e-5)
    got_torch = Warper(**case, order=order)(torch.from_numpy(x))
    assert got_torch.dtype == torch.float32
    np.testing.assert_array_equal(np.isfinite(got_torch.numpy()), np.isfinite(want))
    np.testing.assert_allclose(got_torch.numpy(), want, atol=2e-5)


@pytest.mark.parametrize("case", CASES)
def test_equals_transformers_own_warpers(case):
    torch = pytest.importorskip("torch")
    t = pytest.importorskip("transformers")
    x = torch.from_numpy(logits(5))
    want = x
    if "temperature" in case:
        want = t.TemperatureLogitsWarper(case["temperature"])(None, want)
    if case.get("top_k", 0) > 0:
        want = t.TopKLogitsWarper(case["top_k"])(None, want)
    if case.get("top_p", 1.0) < 1:
        want = t.TopPLogitsWarper(case["top_p"])(None, want)
    if "min_p" in case:
        want = t.MinPLogitsWarper(case["min_p"])(None, want)
    assert_same_law(Warper(**case)(x), want.log_softmax(-1))


def test_order_of_the_rules_is_that_of_generate():
    pytest.importorskip("torch")
    t = pytest.importorskip("transformers")
    model = t.GPT2LMHeadModel(
        t.GPT2Config(
            n_layer=1, n_head=1, n_embd=8, vocab_size=11, bos_token_id=None, eos_token_id=None
        )
    )
    config = t.GenerationConfig(
        do_sample=True, temperature=0.5, top_k=3, top_p=0.5, min_p=0.1, eos_token_id=None
    )
    processors = model._get_logits_processor(config, input_ids_seq_length=1, device="cpu")
    names = [type(p).__name__ for p in processors if type(p).__name__.endswith("Warper")]
    assert names == [
        "TemperatureLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "MinPLogitsWarper",
    ]


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
def test_equals_vllm_per_row():
    torch = pytest.importorskip("torch")
    sampler = pytest.importorskip("vllm.v1.sample.ops.topk_topp_sampler")
    x = torch.from_numpy(logits(7, rows=8))
    temperature = torch.tensor([1.0, 0.7, 1.5, 1.0, 0.3, 2.0, 1.0, 0.9])
    k = torch.tensor([97, 5, 1, 30, 97, 12, 4, 97])
    p = torch.tensor([1.0, 0.9, 0.8, 0.45, 0.7, 1.0, 0.99, 0.05])
    min_p = torch.tensor([0.0, 0.1, 0.0, 0.02, 0.3, 0.0, 1.0, 0.01])
    y = x / temperature[:, None]
    probs = y.softmax(-1)
    y = y.masked_fill(probs < probs.amax(-1, keepdim=True) * min_p[:, None], -math.inf)
    want = sampler.apply_top_k_top_p_pytorch(y, k, p).log_softmax(-1)
    got = warp(x, temperature, k, p, min_p, order="vllm")
    assert_same_law(got, want)


def test_rows_do_not_influence_each_other():
    x = logits(11, rows=6)
    temperature = [0.5, 1.0, 2.0, 1.0, 0.8, 1.0]
    k = [3, 0, -1, 9, None, 1]
    p = [1.0, 0.3, None, 0.9, 0.6, 1.0]
    m = [0.0, 0.0, 0.2, None, 0.05, 0.5]
    got = warp(x, temperature, k, p, m)
    for i in range(6):
        alone = warp(x[i : i + 1], temperature[i], k[i], p[i], m[i])
        np.testing.assert_array_equal(got[i], alone[0])


def test_min_p_in_front_changes_what_top_p_keeps():
    probs = np.array([[0.5, 0.2, 0.17, 0.13]])
    x = np.log(probs)
    after = Warper(top_p=0.86, min_p=0.3, order="transformers")(x)
    before = Warper(top_p=0.86, min_p=0.3, order="vllm")(x)
    assert np.isfinite(after).tolist() == [[True, True, True, False]]
    assert np.isfinite(before).tolist() == [[True, True, True, False]]
    # .5 and .2 hold .805 of the mass that min-p leaves, only .7 of the whole.
    after = Warper(top_p=0.75, min_p=0.3, order="transformers")(x)
    before = Warper(top_p=0.75, min_p=0.3, order="vllm")(x)
    assert np.isfinite(after).tolist() == [[True, True, True, False]]
    assert np.isfinite(before).tolist() == [[True, True, False, False]]


def test_ties_and_forbidden_tokens():
    x = np.array([[2.0, 2.0, 2.0, 1.0, -np.inf]])
    np.testing.assert_allclose(np.exp(Warper(top_k=1)(x)), [[1 / 3, 1 / 3, 1 / 3, 0, 0]], atol=1e-7)
    # Of three equal tokens top-p keeps as many as it needs, the highest ids first.
    flat = np.zeros((1, 3))
    assert np.isfinite(Warper(top_p=0.5)(flat)).tolist() == [[False, True, True]]
    few = np.array([[0.0, -np.inf, -np.inf, -np.inf]])
    np.testing.assert_array_equal(Warper(top_k=3, top_p=0.9, min_p=0.5)(few), few)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40),
    st.floats(0.05, 4),
    st.integers(-1, 45),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["transformers", "vllm"]),
)
def test_always_a_law_that_keeps_the_mode(row, temperature, k, p, m, order):
    x = np.array([row], dtype=np.float32)
    got = warp(x, temperature, k, p, m, order=order)
    assert abs(np.exp(got.astype(np.float64)).sum() - 1) < 1e-5
    mode = x[0] == x.max()
    assert np.isfinite(got[0][mode]).any()
    kept = np.isfinite(got[0])
    assert x[0][kept].min() >= (x[0][~kept].max() if (~kept).any() else -np.inf)


def test_numpy_path_does_not_import_torch():
    import subprocess
    import sys

    code = (
        "import sys, numpy as np; from modicum.core.watermark.warpers import Warper;"
        "Warper(top_p=.9)(np.zeros((2, 3))); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"temperature": 0.0}, ValueError, "greedy"),
        ({"temperature": -1.0}, ValueError, "positive"),
        ({"temperature": float("nan")}, ValueError, "nan"),
        ({"temperature": "hot"}, TypeError, "hot"),
        ({"top_k": -2}, ValueError, "-2"),
        ({"top_k": 2.5}, TypeError, "2.5"),
        ({"top_k": True}, TypeError, "True"),
        ({"top_p": 1.5}, ValueError, "1.5"),
        ({"min_p": -0.1}, ValueError, "-0.1"),
        ({"order": "jax"}, ValueError, "jax"),
    ],
)
def test_bad_parameters(kwargs, error, words):
    with pytest.raises(error, match=words):
        Warper(**kwargs)


def test_bad_logits():
    good = Warper()
    with pytest.raises(ValueError, match=r"\[B, V\]"):
        good(np.zeros(3))
    with pytest.raises(TypeError, match="floating"):
        good(np.zeros((1, 3), dtype=int))
    with pytest.raises(TypeError, match="list"):
        good([[0.0, 1.0]])
    for bad in (np.nan, np.inf):
        x = np.zeros((2, 3))
        x[1, 1] = bad
        with pytest.raises(ValueError, match="row 1"):
            good(x)
    with pytest.raises(ValueError, match="row 0"):
        good(np.full((1, 3), -np.inf))
    with pytest.raises(ValueError, match="2 rows"):
        warp(np.zeros((2, 3)), temperature_B=[1.0, 1.0, 1.0])
    assert good(np.zeros((0, 3))).shape == (0, 3)
    assert Warper().is_identity
    assert not Warper(top_k=3).is_identity


def test_half_precision_and_gradless_shapes():
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(logits(1)).bfloat16()
    got = Warper(temperature=0.5, top_p=0.9)(x)
    assert got.dtype == torch.float32
    assert torch.equal(got, Warper(temperature=0.5, top_p=0.9)(x.float()))
