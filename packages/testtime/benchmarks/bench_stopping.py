"""Stopping rules and those of other libraries on one set of recorded samples.

Every rule sees the same recorded answers in the same order, at most `CAP` per prompt; what is
undecided there is answered by votes. AdaptiveConsistency is asked through ``AC.should_stop``,
its_hub through ``ainfer`` with a language model that plays the recorded answers one by one.

    python packages/testtime/benchmarks/bench_stopping.py

rewrites its part of ``RESULTS.md`` in about three minutes; ``--dry-run`` uses few prompts and only
prints.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import shlex
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from adaptive_consistency import (
    AC,
    BetaStoppingCriteria,
    DirichletStoppingCriteria,
    EntropyStoppingCriteria,
    MajorityStoppingCriteria,
)
from its_hub.api import AbstractLanguageModel, AbstractScalingAlgorithm
from its_hub.core.algorithms.adaptive_self_consistency import AdaptiveSelfConsistency
from its_hub.core.algorithms.beta_self_consistency import BetaSelfConsistency
from its_hub.core.orchestrator import LMOrchestrator

from modicum.core.benchmark import medians, preamble, table, write_section
from modicum.core.device import numpy_generator
from modicum.testtime.recorded import maj_at_k
from modicum.testtime.stopping import (
    ESC,
    GO_ON,
    PPR,
    Any,
    BetaStop,
    Curtailed,
    Decision,
    FixedN,
    ModeCertificate,
    StoppingRule,
    StopTable,
    Supermajority,
    beta_confidence,
)

RESULTS = Path(__file__).with_name("RESULTS.md")
SEED = 0
CAP = 40
MOST_ANSWERS = 8
TURNS_TIMED = 3
SLOW = 20
"""Prompts that are put to AdaptiveConsistency's Dirichlet criterion, tens of ms per look."""

TURNS = 4
"""Turns of the event loop between two played answers; its_hub needs fewer to look at one."""


@dataclass(frozen=True)
class Recording:
    """Recorded answers of prompts, ``[B, T]``, and the likeliest answer of each, ``[B]``."""

    keys_BT: np.ndarray
    mode_B: np.ndarray


def record(num_prompts: int) -> Recording:
    """Draw prompts from easy to hard."""
    rng = numpy_generator(SEED, "recorded samples")
    keys, mode = [], []
    for _ in range(num_prompts):
        size = int(rng.integers(2, MOST_ANSWERS + 1))
        p = rng.dirichlet(np.full(size, rng.choice([0.1, 0.3, 1.0, 3.0])))
        keys.append(rng.choice(size, CAP, p=p))
        mode.append(p.argmax())
    return Recording(np.array(keys), np.array(mode))


class Ends(NamedTuple):
    """Samples used, whether the rule stopped, answer; seconds per look, NaN where not told."""

    used_B: np.ndarray
    stopped_B: np.ndarray
    answer_B: np.ndarray
    seconds: float = float("nan")
    errors: int = 0


def vote(keys: list[int]) -> int:
    return Counter(keys).most_common(1)[0][0]


def replay(rule: StoppingRule, streams: list[list[int]]) -> list[tuple[int, Decision]]:
    ends = []
    for keys in streams:
        fresh, taken, decision = rule.fresh(), 0, GO_ON
        while taken < CAP and not decision.stop:
            decision = fresh.update(keys[taken])
            taken += 1
        ends.append((taken, decision))
    return ends


def ours(rule: StoppingRule, recording: Recording) -> Ends:
    streams = recording.keys_BT.tolist()
    ends = replay(rule, streams)
    used = np.array([taken for taken, _ in ends])
    # The first turn above has made the tables, which all prompts of a process share.
    seconds = medians({"rule": lambda: replay(rule, streams)}, TURNS_TIMED)["rule"] / used.sum()
    answers = [
        decision.answer if decision.stop else vote(keys[:taken])
        for keys, (taken, decision) in zip(streams, ends, strict=True)
    ]
    stopped = np.array([decision.stop for _, decision in ends])
    return Ends(used, stopped, np.array(answers), seconds)


def adaptive_consistency(criterion: object, recording: Recording) -> Ends:
    peer = AC(max_gens=CAP, stop_criteria=criterion)
    used, stopped, answers = [], [], []
    np.random.seed(SEED)  # the Dirichlet criterion draws from NumPy's global state
    said = io.StringIO()
    start = time.perf_counter()
    with contextlib.redirect_stdout(said):
        for keys in recording.keys_BT.tolist():
            taken, stop = 0, False
            while taken < CAP and not stop:
                taken += 1
                stop = bool(peer.should_stop(keys[:taken]))
            used.append(taken)
            stopped.append(stop)
            answers.append(vote(keys[:taken]))
    seconds = (time.perf_counter() - start) / sum(used)
    errors = said.getvalue().count("Error")
    return Ends(np.array(used), np.array(stopped), np.array(answers), seconds, errors)


class Played(AbstractLanguageModel):
    """A language model of its_hub that plays recorded answers in the order of the requests."""

    def __init__(self, keys: list[int]) -> None:
        self.keys = keys
        self.asked = 0

    async def agenerate(self, messages: object, stop: object = None, **kwargs: object) -> dict:
        """Nobody calls it."""
        raise NotImplementedError

    async def agenerate_single(
        self, messages: object, stop: object = None, **kwargs: object
    ) -> dict:
        """Give the next recorded answer, after those before it."""
        place, self.asked = self.asked, self.asked + 1
        for _ in range(TURNS * place):
            await asyncio.sleep(0)
        return {"role": "assistant", "content": str(self.keys[place])}


def its_hub(algorithm: AbstractScalingAlgorithm, recording: Recording) -> Ends:
    used, answers = [], []
    streams = recording.keys_BT.tolist()

    async def everything() -> None:
        for keys in streams:
            result = await algorithm.ainfer(Played(keys), "prompt", CAP, return_response_only=False)
            used.append(len(result.responses))
            # Its own choice among tied answers is random; the earliest stands for it here.
            answers.append(vote(keys[: used[-1]]))

    asyncio.run(everything())
    return Ends(np.array(used), np.array(used) < CAP, np.array(answers))


def unlimited() -> LMOrchestrator:
    return LMOrchestrator(max_concurrency=-1)


RULES: dict[str, Callable[[Recording], Ends]] = {
    "FixedN(40)": lambda r: ours(FixedN(CAP), r),
    "Curtailed(40)": lambda r: ours(Curtailed(CAP), r),
    "ModeCertificate(.05)": lambda r: ours(ModeCertificate(0.05), r),
    "ModeCertificate(.2)": lambda r: ours(ModeCertificate(0.2), r),
    "Any(Curtailed, Certificate .05)": lambda r: ours(
        Any(Curtailed(CAP), ModeCertificate(0.05)), r
    ),
    "PPR(.05, 8)": lambda r: ours(PPR(0.05, MOST_ANSWERS), r),
    "BetaStop(.95)": lambda r: ours(BetaStop(0.95), r),
    "BetaStop(.99)": lambda r: ours(BetaStop(0.99), r),
    "ESC(5)": lambda r: ours(ESC(5), r),
    'ESC(5, "votes")': lambda r: ours(ESC(5, "votes"), r),
    "Supermajority(.75)": lambda r: ours(Supermajority(), r),
    "Supermajority(.8), each": lambda r: ours(Supermajority(0.8, double=False), r),
    "AC beta .95": lambda r: adaptive_consistency(BetaStoppingCriteria(0.95), r),
    "AC majority .8": lambda r: adaptive_consistency(MajorityStoppingCriteria(0.8), r),
    "AC entropy .75": lambda r: adaptive_consistency(EntropyStoppingCriteria(0.75), r),
    "its_hub Beta .95": lambda r: its_hub(BetaSelfConsistency(0.95, orchestrator=unlimited()), r),
    "its_hub adaptive .75": lambda r: its_hub(
        AdaptiveSelfConsistency(0.75, orchestrator=unlimited()), r
    ),
}
SAME = {
    "BetaStop(.95)": ("AC beta .95", "its_hub Beta .95"),
    "Supermajority(.75)": ("its_hub adaptive .75",),
    "Supermajority(.8), each": ("AC majority .8",),
}


def accuracy_by_number(recording: Recording) -> np.ndarray:
    """Return the accuracy of a vote of 1 … CAP of the recorded samples, without sampling."""
    accuracy = np.zeros(CAP)
    for keys, mode in zip(recording.keys_BT, recording.mode_B, strict=True):
        counts = np.bincount(keys, minlength=mode + 1)
        accuracy += [maj_at_k(counts, k, int(mode)) for k in range(1, CAP + 1)]
    return accuracy / len(recording.mode_B)


def equal_number(accuracy: float, whole: float, by_number: np.ndarray) -> int:
    """Return the least fixed number of samples as accurate as that, CAP if all of them are not."""
    if accuracy >= whole:
        return CAP
    # Without the ups and downs of a finite set of prompts.
    rising = np.maximum.accumulate(by_number)
    return min(CAP, int(np.searchsorted(rising, accuracy)) + 1)


def row(name: str, ends: Ends, whole: Ends, recording: Recording, by_number: np.ndarray) -> list:
    right, by_all = ends.answer_B == recording.mode_B, whole.answer_B == recording.mode_B
    change = right.astype(float) - by_all
    error = change.std(ddof=1) / len(change) ** 0.5
    mean = ends.used_B.mean()
    number = equal_number(right.mean(), by_all.mean(), by_number)
    return [
        name,
        f"{mean:.2f}",
        f"{ends.stopped_B.mean():.3f}",
        f"{(ends.stopped_B & ~right).mean():.4f}",
        f"{(ends.answer_B == whole.answer_B).mean():.4f}",
        f"{right.mean():.4f}",
        f"{change.mean():+.4f} ± {error:.4f}",
        str(number),
        f"{1 - mean / number:.0%}",
        "" if np.isnan(ends.seconds) else f"{ends.seconds * 1e6:.2f}",
    ]


def comparison(recording: Recording) -> list[str]:
    by_number = accuracy_by_number(recording)
    found = {name: rule(recording) for name, rule in RULES.items()}
    whole = found["FixedN(40)"]
    header = ["rule", "samples", "decided", "declared wrong", "as all 40", "accuracy"]
    header += ["accuracy - all 40", "fixed number as accurate", "saved", "µs per look"]
    rows = [row(name, ends, whole, recording, by_number) for name, ends in found.items()]
    few = Recording(recording.keys_BT[:SLOW], recording.mode_B[:SLOW])
    dirichlet = adaptive_consistency(DirichletStoppingCriteria(0.95), few)
    beta = ours(BetaStop(0.95), few)
    lines = [*table(header, rows), "", "Decision for decision:", ""]
    for name, peers in SAME.items():
        for peer in peers:
            same = (found[name].used_B == found[peer].used_B).mean()
            lines.append(f"- {name} and {peer} stop at the same sample on {same:.1%} of prompts.")
    looks = int(dirichlet.used_B.sum())
    lines += [
        f"- AC dirichlet .95, first {len(few.mode_B)} prompts: {dirichlet.used_B.mean():.1f} "
        f"samples (BetaStop {beta.used_B.mean():.1f}), {dirichlet.seconds * 1e3:.1f} ms per look; "
        f"{dirichlet.errors} of {looks} looks print an integration error and go on.",
        *_large_counts(),
        "",
        "Samples: mean per prompt that the decision rests on. Decided: the rule itself stopped. "
        "Declared wrong: with an answer that is not the likeliest of the prompt's law. As all 40: "
        "prompts with the answer of the vote of all 40. Accuracy: prompts answered with the "
        "likeliest answer, undecided ones by votes; ± is a standard error of the paired "
        "difference. Fixed number: least number of recorded samples whose vote is as accurate, "
        "over all subsets, exactly (40 where no smaller one is). Saved: samples against that "
        "number; below 0 % a smaller fixed number does as well. µs per look: one call of the rule, "
        f"ours the median of {TURNS_TIMED} turns; its_hub's rules cannot be called apart from "
        "their requests. its_hub's Beta rule sends all 40 requests at once and cancels what is "
        "left.",
    ]
    return lines


def _large_counts() -> list[str]:
    lines = []
    for first, second in ((579, 21), (1400, 100), (1100, 900)):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            found = BetaStoppingCriteria(0.95).should_stop([0] * first + [1] * second)
        exact = float(beta_confidence(first, second))
        lines.append(
            f"- AC beta at {first:,} votes to {second:,}: {found['prob']:.3f} (exact {exact:.3f}), "
            f"{'stops' if found['stop'] else 'goes on'}. {said.getvalue().strip()}".rstrip()
        )
    return lines


def look_up(repeats: int) -> list[str]:
    """Time a boundary look-up for many prompts at once."""
    rng = numpy_generator(SEED, "counts")
    num = 100_000
    second_B = rng.integers(0, 40, num)
    first_B = second_B + rng.integers(0, 20, num)
    lookup = StopTable(PPR(0.05, MOST_ANSWERS))
    times = medians(
        {
            "table": lambda: lookup.stop(first_B, second_B),
            "formula": lambda: beta_confidence(first_B, second_B),
        },
        repeats,
    )
    return [
        "",
        f"`StopTable` for {num:,} prompts at once: {times['table'] * 1e3:.2f} ms; one evaluation "
        f"of the incomplete beta function for each: {times['formula'] * 1e3:.1f} ms "
        f"(median of {repeats}).",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=1000, help="recorded prompts")
    parser.add_argument("--repeats", type=int, default=7, help="timed look-ups")
    parser.add_argument("--dry-run", action="store_true", help="few prompts; the page stays")
    options = parser.parse_args()
    num_prompts = 50 if options.dry_run else options.prompts
    command = "python packages/testtime/benchmarks/bench_stopping.py " + shlex.join(
        ["--prompts", str(options.prompts), "--repeats", str(options.repeats)]
    )
    peers = ", ".join(f"{name} {version(name)}" for name in ("adaptiveconsistency", "its-hub"))
    how = (
        f"{num_prompts} prompts with 2 to {MOST_ANSWERS} answers, {CAP} samples each, drawn from "
        f"Dirichlet laws from easy to hard; {peers}; seed {SEED}"
    )
    lines = [*preamble(command, how), *comparison(record(num_prompts)), *look_up(options.repeats)]
    print("\n".join(lines))
    if not options.dry_run:
        write_section(RESULTS, "stopping", lines)


if __name__ == "__main__":
    main()
