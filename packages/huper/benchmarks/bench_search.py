"""Words and phones without a reference, beside the decoders of flashlight-text and torchaudio.

Utterances of the synthetic fixture, heard by the tiny model. The Perceiver looks for the words of
the fixture among a thousand others, with all words equally likely; flashlight-text has the same
lexicon, beam and threshold. The prefix beam search has no words; flashlight-text has the same
phones as a lexicon-free token set. Word error rates are of the best readings; seconds are those of
the processor.

    python packages/huper/benchmarks/bench_search.py

rewrites its part of ``RESULTS.md``; ``--quick`` takes a few seconds and only prints.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein

from modicum.core.benchmark import preamble, table, write_section
from modicum.core.device import one_thread
from modicum.huper.beam import prefix_beam_search
from modicum.huper.perceiver import Lexicon, Perceiver
from modicum.huper.recognizer import Recognizer
from modicum.huper.simulate import EspeakWorld, rule_words

RESULTS = Path(__file__).with_name("RESULTS.md")
WORLD = Path(__file__).parents[1] / "tests" / "data" / "huper_world"
BEAMS = (16, 200)
"""Of the search for phones, and of the one for words."""


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    utterances: int
    words: int
    repeats: int


FULL = Plan(24, 1000, 3)
QUICK = Plan(2, 20, 1)


def fixture(count: int) -> list[dict[str, Any]]:
    """Read utterances of the fixture."""
    lines = (WORLD / "labelled.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:count]]


def lexicon(words: int, phones: Any) -> Lexicon:
    """Return the words of the fixture and others."""
    known = EspeakWorld("rules", seed=20, words=80, heldout=20, length=(2, 3)).g2p.entries
    others = rule_words(words, seed=1).entries
    return Lexicon({**others, **known}, phones)


def by_flashlight(rows: Sequence[np.ndarray], phones: Any) -> Callable[[], list[tuple[int, ...]]]:
    """Return a beam search of flashlight-text over phones, without a lexicon."""
    from torchaudio.models.decoder import ctc_decoder

    tokens = [f"<{at}>" if name in phones.specials else name for at, name in
              enumerate(phones.symbols)]  # fmt: skip
    tokens[phones.blank] = "-"
    decoder = ctc_decoder(
        lexicon=None,
        tokens=[*tokens, "|||"],
        blank_token="-",
        sil_token="|||",
        beam_size=BEAMS[0],
        beam_threshold=1e9,
        log_add=True,
    )
    silent = {phones.id(symbol) for symbol in phones.specials} | {phones.blank, len(tokens)}
    # The decoder wants a separator, which is never heard.
    padded = [
        torch.from_numpy(np.pad(row, ((0, 0), (0, 1)), constant_values=-1e4)[None].astype("f4"))
        for row in rows
    ]

    def call() -> list[tuple[int, ...]]:
        found = [decoder(one)[0][0].tokens.tolist() for one in padded]
        return [tuple(q for q in one if q not in silent) for one in found]

    return call


def processor_medians(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return each call's median seconds of the processor over turns, after one not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if turn:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def error_rate(found: Sequence[Sequence[Any]], wanted: Sequence[Sequence[Any]]) -> float:
    """Return edits over the length of what is wanted."""
    wrong = sum(Levenshtein.distance(a, b) for a, b in zip(found, wanted, strict=True))
    return wrong / sum(map(len, wanted))


def sections(plan: Plan) -> list[str]:
    """Measure; gives the lines of the section after its preamble."""
    rows = fixture(plan.utterances)
    recognizer = Recognizer.from_pretrained("tiny", device="cpu")
    phones = recognizer.phones
    emissions = recognizer.emissions([str(WORLD / row["audio_path"]) for row in rows])
    heard = [emissions.utterance(b) for b in range(len(emissions))]
    words = lexicon(plan.words, phones)
    seconds = float(emissions.lengths.sum()) * emissions.frame_shift
    ours = Perceiver(words, beam=BEAMS[1])
    theirs = Perceiver(words, beam=BEAMS[1], backend="flashlight")
    spelled = [row["text"].split() for row in rows]
    said = [tuple(phones.encode(phones.canonicalise(row["real_phonemes"]))) for row in rows]

    def texts(perceiver: Perceiver) -> list[list[str]]:
        found = perceiver(emissions)
        return [one[0].text.split() if one else [] for one in found]

    flashlight = by_flashlight(heard, phones)

    def phones_alone() -> list[tuple[int, ...]]:
        return [prefix_beam_search(row, phones, beam=BEAMS[0])[0].ids for row in heard]

    by_words = {"Perceiver": lambda: texts(ours), "flashlight-text": lambda: texts(theirs)}
    by_phones = {"prefix_beam_search": phones_alone, "flashlight-text, no lexicon": flashlight}
    lines: list[str] = []
    losses: list[str] = []
    for title, calls, wanted, rate in (
        (f"**Words**, {len(words)} in the lexicon, beam {BEAMS[1]}", by_words, spelled, "WER"),
        (f"**Phones**, beam {BEAMS[0]}", by_phones, said, "PER"),
    ):
        errors = {name: error_rate(call(), wanted) for name, call in calls.items()}
        taken = processor_medians(calls, plan.repeats)
        cells = [
            [name, f"{taken[name]:.3g}", f"{taken[name] / seconds:.2g}", f"{errors[name]:.2%}"]
            for name in calls
        ]
        lines += [f"{title}:", "", *table(["way", "seconds", "real-time factor", rate], cells), ""]
        mine, peer = calls
        if taken[mine] > taken[peer]:
            losses.append(f"{mine} takes {taken[mine] / taken[peer]:.1f} times as long as {peer}")
        if errors[mine] > errors[peer]:
            losses.append(f"{mine} has the higher {rate}")
    return [
        f"{len(rows)} utterances, {seconds:.0f} seconds.",
        "",
        *lines,
        f"Losses: {'; '.join(losses) or 'none'}. The search of flashlight-text is C++; the "
        "Perceiver rescores what it proposes, which is in its time.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes; only print")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    script = "packages/huper/benchmarks/bench_search.py"
    command = shlex.join(["python", script, *sys.argv[1:]])
    how = f"medians of {plan.repeats} turns, one CPU thread, seconds of the processor"
    with one_thread():
        lines = [*preamble(command, how), *sections(plan)]
    if options.quick:
        print("\n".join(lines))
    else:
        write_section(RESULTS, "search", lines)


if __name__ == "__main__":
    main()
