"""Log-probabilities as engines return them, turned into one number per token."""

import json
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modicum.umpwatermark.integrations.logprobs import (
    token_logprobs_from_openai,
    token_logprobs_from_prompt_logprobs,
)


@dataclass
class Logprob:
    """Shaped like vLLM's."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


ENTRIES = [
    None,
    {7: Logprob(-0.5, 1), 9: Logprob(-1.25, 2)},
    {4: Logprob(-3.0, 5), 1: Logprob(-0.25, 1), 2: Logprob(-2.0, 2)},
    {8: Logprob(-0.125, 1)},
]
IDS = [5, 7, 4, 8]


def test_prompt_logprobs_in_every_form_they_come_in():
    wanted = [0.0, -0.5, -3.0, -0.125]
    plain = [None if e is None else {k: v.logprob for k, v in e.items()} for e in ENTRIES]
    decoded = json.loads(
        json.dumps([None if e is None else {k: vars(v) for k, v in e.items()} for e in ENTRIES])
    )
    flat = [e or {} for e in ENTRIES]
    for entries in (ENTRIES, plain, decoded, flat):
        got = token_logprobs_from_prompt_logprobs(entries, IDS)
        assert got.dtype == np.float64 and got.tolist() == wanted
        assert token_logprobs_from_prompt_logprobs(entries, IDS, 2).tolist() == wanted[2:]
    assert token_logprobs_from_prompt_logprobs(ENTRIES, np.array(IDS), 4).shape == (0,)


def test_another_temperature_is_exact_over_a_whole_law():
    """With every token among the alternatives, the law at the temperature comes out."""
    rng = np.random.default_rng(0)
    law_V = np.log(rng.dirichlet(np.full(6, 0.5)))
    entries = [None, dict(enumerate(law_V))]
    for temperature in (0.3, 1.0, 2.5):
        scaled_V = law_V / temperature
        wanted = scaled_V[3] - np.log(np.exp(scaled_V).sum())
        got = token_logprobs_from_prompt_logprobs(entries, [0, 3], 1, temperature=temperature)
        np.testing.assert_allclose(got, [wanted], rtol=1e-12)


@given(
    st.lists(st.floats(-30, -0.01), min_size=1, max_size=8),
    st.floats(0.1, 5.0),
)
def test_what_comes_out_is_a_log_probability(values, temperature):
    entries = [None, dict(enumerate(values))]
    got = token_logprobs_from_prompt_logprobs(entries, [0, 0], 1, temperature=temperature)
    assert got[0] <= 0
    top = token_logprobs_from_openai(
        {"content": [{"token": "a", "logprob": values[0], "top_logprobs": []}]}
    )
    assert top.tolist() == [values[0]]


@pytest.mark.parametrize(
    ("entries", "ids", "start", "error", "words"),
    [
        (None, [1], 0, TypeError, "ask for them with prompt_logprobs=0"),
        (ENTRIES, [5, 7], 0, ValueError, "4 entries of prompt_logprobs but 2 ids"),
        (ENTRIES, IDS, 5, ValueError, r"start must lie in \[0, 4\], got 5"),
        (ENTRIES, [5, 7, 3, 8], 0, ValueError, "entry 2 of prompt_logprobs has no token 3"),
        ([None, None], [5, 7], 0, TypeError, "entry 1 of prompt_logprobs must map"),
        ([None, {7: "x"}], [5, 7], 0, TypeError, "must be a number, got str"),
        ([None, {7: True}], [5, 7], 0, TypeError, "must be a number, got bool"),
    ],
)
def test_prompt_logprobs_that_cannot_be_read(entries, ids, start, error, words):
    with pytest.raises(error, match=words):
        token_logprobs_from_prompt_logprobs(entries, ids, start)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_temperatures_that_are_none(temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        token_logprobs_from_prompt_logprobs(ENTRIES, IDS, temperature=temperature)
    with pytest.raises(ValueError, match="temperature must be positive"):
        token_logprobs_from_openai({"token_logprobs": []}, temperature=temperature)


COMPLETION = {
    "tokens": ["The", " mill", "er"],
    "token_logprobs": [None, -2.0, -0.5],
    "top_logprobs": [None, {" mill": -2.0, " dog": -1.0}, {"s": -1.5}],
    "text_offset": [0, 3, 8],
}
CHAT = {
    "content": [
        {
            "token": " mill",
            "logprob": -2.0,
            "bytes": None,
            "top_logprobs": [
                {"token": " mill", "logprob": -2.0},
                {"token": " dog", "logprob": -1.0},
            ],
        },
        {"token": "er", "logprob": -0.5, "top_logprobs": [{"token": "s", "logprob": -1.5}]},
    ]
}


def as_object(value):
    """Decoded JSON as objects with attributes, the way clients hand it out."""
    return json.loads(json.dumps(value), object_hook=lambda d: SimpleNamespace(**d))


def test_completions_and_chat_completions():
    assert token_logprobs_from_openai(COMPLETION).tolist() == [0.0, -2.0, -0.5]
    assert token_logprobs_from_openai(COMPLETION, 1).tolist() == [-2.0, -0.5]
    assert token_logprobs_from_openai(SimpleNamespace(**COMPLETION), 3).shape == (0,)
    for payload in (CHAT, as_object(CHAT)):
        assert token_logprobs_from_openai(payload).tolist() == [-2.0, -0.5]


def test_temperature_over_the_alternatives_counts_the_token_once():
    half = np.array([-2.0, -1.0]) / 0.5
    first = half[0] - np.log(np.exp(half).sum())
    other = np.array([-0.5, -1.5]) / 0.5
    second = other[0] - np.log(np.exp(other).sum())
    for payload, start in ((COMPLETION, 1), (CHAT, 0), (as_object(CHAT), 0)):
        got = token_logprobs_from_openai(payload, start, temperature=0.5)
        np.testing.assert_allclose(got, [first, second], rtol=1e-12)
    with pytest.raises(ValueError, match=r"temperature 0.5 needs top_logprobs .* token 1 has none"):
        token_logprobs_from_openai({"token_logprobs": [None, -1.0]}, temperature=0.5)


def test_payloads_that_are_none():
    with pytest.raises(TypeError, match="got list"):
        token_logprobs_from_openai([-1.0])
    with pytest.raises(ValueError, match=r"start must lie in \[0, 3\], got -1"):
        token_logprobs_from_openai(COMPLETION, -1)


def test_reading_takes_no_engine_into_memory():
    code = (
        "import sys, modicum.umpwatermark.integrations.logprobs\n"
        "print([m for m in ('torch', 'vllm', 'transformers', 'scipy.stats') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
