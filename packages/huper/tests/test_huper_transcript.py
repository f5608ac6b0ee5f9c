"""Transcripts: what they check, what they derive, and that files give them back."""

import json
import math
import pickle
import random

import numpy as np
import pytest
import torch

from modicum.huper.channel import EditChannel
from modicum.huper.edits import apply
from modicum.huper.emissions import Emissions
from modicum.huper.graph import fused_decode
from modicum.huper.phones import PhoneSet
from modicum.huper.transcript import Edit, Hypothesis, Span, TimedWord, Transcript, to_ipa


def sample() -> Transcript:
    return Transcript(
        phones=("K", "AE", "T", "AH"),
        spans=(Span(0.1, 0.14), Span(0.14, 0.3), Span(0.32, 0.34), Span(0.5, 0.6)),
        confidences=(0.9, 0.8, 1.0, 0.5),
        ipa=("k", "æ", "t", "ʌ"),
        edits=(
            Edit("keep", 0, "K", "K", Span(0.1, 0.14)),
            Edit("sub", 1, "AA", "AE", Span(0.14, 0.3)),
            Edit("keep", 2, "T", "T", Span(0.32, 0.34)),
            Edit("del", 3, "S", None, None),
            Edit("ins", 4, None, "AH", Span(0.5, 0.6)),
        ),
        canonical=("K", "AA", "T", "S"),
        words=(TimedWord('cat"s', ("K", "AA", "T", "S"), ("K", "AE", "T"), Span(0.1, 0.34)),),
        score=-3.25,
        hypotheses=(Hypothesis("reference", ("K",), -math.inf, None),),
        trace={
            "path": "reference",
            "s": 0.04,
            "lam": None,
            "scores": {"bottom-up": -2.5, "hypothesis": -math.inf, "kept": [math.inf, 1]},
        },
    )


def test_json_and_pickle_give_it_back_with_infinite_scores() -> None:
    one = sample()
    text = one.to_json()
    assert Transcript.from_json(text) == one
    assert pickle.loads(pickle.dumps(one)) == one
    # Strict readers of JSON know no Infinity.
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert json.loads(text)["trace"]["scores"]["hypothesis"] == "-inf"


def test_numbers_of_arrays_become_plain() -> None:
    one = Transcript(
        ["K"],
        [Span(np.float32(0.5), np.float64(0.75))],
        np.array([0.5], dtype=np.float32),
        trace={"s": np.float32(0.25), "n": np.int64(3), "nan": float("nan")},
    )
    assert type(one.spans[0].start) is float
    assert type(one.confidences[0]) is float
    back = Transcript.from_json(one.to_json())
    assert back.trace == {"s": 0.25, "n": 3, "nan": None}
    assert (back.phones, back.spans, back.confidences) == (one.phones, one.spans, one.confidences)


def test_confidence_is_the_mean_and_none_without_phones() -> None:
    assert sample().confidence == pytest.approx(0.8)
    empty = Transcript((), (), ())
    assert empty.confidence is None
    assert Transcript.from_json(empty.to_json()) == empty


def test_program_comes_from_the_edits() -> None:
    program = sample().program
    assert program is not None
    assert program.ops == ("KEEP", "SUB:AE", "KEEP", "DEL")
    assert program.insertions == ((), (), (), (), ("AH",))
    assert Transcript((), (), ()).program is None
    # Canonical phones alone: the shortest edits.
    bare = Transcript(("B",), (Span(0, 1),), (1.0,), canonical=("A", "B"))
    assert bare.program is not None
    assert bare.program.ops == ("DEL", "KEEP")


@pytest.mark.parametrize("seed", range(20))
def test_program_of_a_decoded_utterance_rebuilds_its_phones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    phones = PhoneSet.ipa(["a", "b", "c", "d"])
    emissions = Emissions(
        torch.log_softmax(torch.from_numpy(3 * rng.standard_normal((12, 5))), -1),
        torch.tensor([12]),
        0.02,
        phones,
    )
    pick = random.Random(seed)
    canonical = [pick.choice("abcd") for _ in range(4)]
    channel = EditChannel.fit([(tuple("abcd"), tuple("abdd"))], phones=phones)
    found = fused_decode(emissions, canonical, channel, repeat=-1.0)
    one = Transcript.from_alignment(found, [0.5] * len(found.phones))
    assert one.program == found.program
    assert apply(one.program) == one.phones == found.phones
    assert [(span.start, span.end) for span in one.spans] == list(found.seconds())
    assert one.ipa == one.phones
    assert Transcript.from_json(one.to_json()) == one


def test_an_alignment_without_frame_shift_is_refused() -> None:
    logprobs_TC = torch.log_softmax(torch.zeros(6, 3), -1).numpy()
    channel = EditChannel.fit([(("a",), ("a",))], phones=PhoneSet.ipa(["a", "b"]))
    found = fused_decode(logprobs_TC, ["a"], channel)
    with pytest.raises(ValueError, match="no frame shift"):
        Transcript.from_alignment(found, [1.0] * len(found.phones))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Span(-0.1, 1), "-0.1"),
        (lambda: Span(1, 0.5), "0.5"),
        (lambda: Span(0, math.nan), "nan"),
        (lambda: Edit("swap", 0, "A", "B", None), "'swap'"),
        (lambda: Transcript(("A",), (), ()), "1 phones"),
        (lambda: Transcript(("A",), (Span(0, 1),), (math.nan,)), "finite"),
    ],
)
def test_bad_values_are_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_string_is_no_sequence_of_phones() -> None:
    with pytest.raises(TypeError, match="'AA'"):
        Transcript("AA", (Span(0, 1), Span(1, 2)), (1.0, 1.0))
    data = sample().to_dict()
    with pytest.raises(TypeError, match="'K AE'"):
        Transcript.from_dict({**data, "phones": "K AE"})
    with pytest.raises(ValueError, match="'spans'"):
        Transcript.from_dict({name: value for name, value in data.items() if name != "spans"})


def test_ipa_of_arpabet_and_of_ipa() -> None:
    assert to_ipa(["AY", "DX", "ER"]) == ("a", "ɪ", "ɾ", "ɜ˞")
    assert to_ipa(["a", "t͡ʃ"]) == ("a", "t͡ʃ")
    assert to_ipa([]) == ()
    # Phones that look alike in both: the phone set decides.
    assert to_ipa(["N"], PhoneSet.ipa(["N", "ɴ"])) == ("N",)
    assert to_ipa(["ax-h", "h#", "r"], PhoneSet.timit61()) == ("ə̥", "ɹ")
    assert to_ipa(["r"], PhoneSet.ipa(["r", "t"])) == ("r",)
