"""Emissions are checked at the door and collapse as CTC collapses."""

import numpy as np
import pytest
import torch

from modicum.huper.emissions import Emissions, collapse
from modicum.huper.phones import PhoneSet

PHONES = PhoneSet(("<PAD>", "AA", "T", "|", "V"), 0, frozenset({"<PAD>", "|"}))


def one_hot(labels, certainty=0.9):
    logprobs = torch.full((len(labels), 5), np.log((1 - certainty) / 4))
    logprobs[torch.arange(len(labels)), torch.tensor(labels)] = np.log(certainty)
    return logprobs


def test_greedy_collapses_repeats_and_drops_blank_and_specials():
    logprobs = torch.stack([one_hot([1, 1, 0, 1, 3, 3, 2, 4]), one_hot([0, 2, 2, 2, 1, 1, 1, 1])])
    emissions = Emissions(logprobs, [8, 4], 0.02, PHONES)
    first, second = emissions.greedy()
    assert first[0] == (1, 1, 2, 4)
    assert first[1] == ((0, 2), (3, 4), (6, 7), (7, 8))
    np.testing.assert_allclose(first[2], 0.9, atol=1e-6)
    assert second[:2] == ((2,), ((1, 4),))  # frames beyond the length are padding


def test_specials_separate_equal_phones():
    ids, spans, _ = collapse(one_hot([1, 3, 1, 1]).numpy(), 0, {3})
    assert (ids, spans) == ((1, 1), ((0, 1), (2, 4)))


def test_collapse_equals_a_loop():
    rng = np.random.default_rng(1)
    for frames in (0, 1, 2, 9, 40):
        logprobs = np.log(rng.dirichlet(np.ones(4) * 0.3, size=frames).reshape(frames, 4) + 1e-12)
        ids, spans, confidences = collapse(logprobs, 2)
        expected, previous = [], 2
        for t, q in enumerate(logprobs.argmax(1) if frames else []):
            if q not in (previous, 2):
                expected.append([q, t, t + 1])
            elif q == previous != 2:
                expected[-1][2] = t + 1
            previous = q
        assert [(q, *span) for q, span in zip(ids, spans, strict=True)] == [*map(tuple, expected)]
        for q, (start, end), confidence in zip(ids, spans, confidences, strict=True):
            assert confidence == pytest.approx(np.exp(logprobs[start:end, q]).mean())


def test_log_softmax_upcasts_and_normalises():
    logits = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(4)).half() * 8
    emissions = Emissions.log_softmax(logits, [6, 3], 0.02, PHONES)
    assert emissions.logprobs.dtype == torch.float32
    torch.testing.assert_close(emissions.logprobs, logits.float().log_softmax(-1))
    assert emissions.utterance(1).shape == (3, 5) and len(emissions) == 2
    single = Emissions.log_softmax(logits[0].numpy(), None, 0.02, PHONES)
    assert single.lengths.tolist() == [6] and single.logprobs.shape == (1, 6, 5)


def test_padding_is_not_looked_at():
    logprobs = one_hot([1, 2, 0])[None].clone()
    logprobs[0, 2] = float("nan")
    assert Emissions(logprobs, [2], 0.02, PHONES).greedy()[0][0] == (1, 2)


def test_bad_inputs_are_named():
    good = one_hot([1, 2])[None]
    with pytest.raises(ValueError, match=r"row 1 sum to 2\.71828.*log_softmax"):
        Emissions(good + torch.tensor([0.0, 1.0])[None, :, None], [2], 0.02, PHONES)
    with pytest.raises(ValueError, match="NaN"):
        Emissions(good * float("nan"), [2], 0.02, PHONES)
    with pytest.raises(ValueError, match="blank is 3"):
        Emissions(good, [2], 0.02, PHONES, blank=3)
    with pytest.raises(ValueError, match="4 columns"):
        Emissions(good[..., :4], [2], 0.02, PHONES)
    with pytest.raises(ValueError, match=r"\[0, 2\]"):
        Emissions(good, [3], 0.02, PHONES)
    with pytest.raises(ValueError, match="1 utterances need 1 lengths, got 2"):
        Emissions(good, [2, 2], 0.02, PHONES)
    with pytest.raises(ValueError, match="frame_shift"):
        Emissions(good, [2], 0.0, PHONES)
    with pytest.raises(ValueError, match=r"\(B, T, C\)"):
        Emissions(good[0, 0], [1], 0.02, PHONES)
