"""Best-of-n and its_hub's at equal samples, with verifiers that err.

All see the same recorded answers and rewards. its_hub's BestOfN runs through ``ainfer`` with a
language model and a reward model that play the recording; ours runs through the engine on replayed
samples.

    python packages/testtime/benchmarks/bench_best_of_n.py

rewrites its part of ``RESULTS.md`` in about a minute; ``--dry-run`` uses few prompts and only
prints.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from its_hub import BestOfN as PeerBestOfN
from its_hub.api import AbstractLanguageModel, AbstractOutcomeRewardModel

import modicum.testtime as tt
from modicum.core.benchmark import preamble, table, write_section
from modicum.core.device import numpy_generator
from modicum.core.stats import clopper_pearson

RESULTS = Path(__file__).with_name("RESULTS.md")
SEED = 0
CAP = 16
P_CORRECT = 0.3
WRONG = (0.35, 0.2, 0.15)
"""The most frequent answer is a wrong one."""

VERIFIERS: dict[str, tt.VerifierModel | tt.GaussianVerifier] = {
    "perfect": tt.VerifierModel(1, 0),
    "s = .9, f = .1": tt.VerifierModel(0.9, 0.1),
    "d' = 1": tt.GaussianVerifier(1.0),
    "d' = 2": tt.GaussianVerifier(2.0),
}


@dataclass(frozen=True)
class Recording:
    """Recorded answers ``[B, T]`` (0 is the correct one) and rewards ``[B, T]``."""

    keys_BT: np.ndarray
    rewards_BT: np.ndarray


def record(name: str, num_prompts: int) -> Recording:
    rng = numpy_generator(SEED, "best of n", name)
    keys_BT = rng.choice(1 + len(WRONG), (num_prompts, CAP), p=[P_CORRECT, *WRONG])
    right_BT = keys_BT == 0
    verifier = VERIFIERS[name]
    if isinstance(verifier, tt.GaussianVerifier):
        rewards_BT = rng.normal(size=keys_BT.shape) + verifier.d_prime * right_BT
    else:
        accept_BT = np.where(right_BT, verifier.s, verifier.f)
        rewards_BT = (rng.random(keys_BT.shape) < accept_BT).astype(float)
    return Recording(keys_BT, rewards_BT)


class Played(AbstractLanguageModel, AbstractOutcomeRewardModel):
    """A language model and a reward model of its_hub that play one prompt of a recording."""

    def __init__(self, keys: np.ndarray, rewards: np.ndarray) -> None:
        self.texts = [f"{key} #{place}" for place, key in enumerate(keys)]
        self.rewards = dict(zip(self.texts, rewards.tolist(), strict=True))
        self.asked = 0

    async def agenerate(self, messages: object, stop: object = None, **kwargs: object) -> dict:
        """Nobody calls it."""
        raise NotImplementedError

    async def agenerate_single(
        self, messages: object, stop: object = None, **kwargs: object
    ) -> dict:
        """Give the next recorded answer."""
        place, self.asked = self.asked, self.asked + 1
        return {"role": "assistant", "content": self.texts[place]}

    async def ascore(self, messages: Any, **kwargs: object) -> Any:
        """Give the recorded reward of the last message of each conversation."""
        return [self.rewards[conversation[-1].content] for conversation in messages]

    def score(self, messages: Any, **kwargs: object) -> Any:
        """Give the recorded rewards."""
        return asyncio.run(self.ascore(messages, **kwargs))


def peer(recording: Recording) -> np.ndarray:
    """Return the answers that its_hub picks."""

    async def everything() -> list[int]:
        picked = []
        for keys, rewards in zip(recording.keys_BT, recording.rewards_BT, strict=True):
            played = Played(keys, rewards)
            result = await PeerBestOfN(played).ainfer(
                played, "prompt", CAP, return_response_only=False
            )
            picked.append(int(result.the_one["content"].split()[0]))
        return picked

    return np.array(asyncio.run(everything()))


def ours(recording: Recording, **settings: Any) -> tuple[np.ndarray, float]:
    """Return the answers that our strategy picks and the mean number of samples used."""
    texts = {
        str(row): [f"{key} #{place}" for place, key in enumerate(keys)]
        for row, keys in enumerate(recording.keys_BT)
    }
    samples = [
        tt.Sample(name, place, place, text)
        for name, row in texts.items()
        for place, text in enumerate(row)
    ]
    rewards = {
        (name, text): float(recording.rewards_BT[int(name), place])
        for name, row in texts.items()
        for place, text in enumerate(row)
    }
    strategy = tt.BestOfN(
        tt.backends.replay(samples),
        lambda prompt, found: [rewards[prompt, text] for text in found],
        n=CAP,
        extract=tt.extract.regex(r"^(\d)"),
        wave=1 if "threshold" in settings else CAP,
        **settings,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tt.DegenerateSampling)
        results = strategy.run([(name, name) for name in texts])
    answers = [-1 if result.answer is None else int(result.answer) for result in results]
    return np.array(answers), results.usage.used / len(results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=2000, help="recorded prompts")
    parser.add_argument("--dry-run", action="store_true", help="few prompts; the page stays")
    options = parser.parse_args()
    num_prompts = 50 if options.dry_run else options.prompts
    command = "python packages/testtime/benchmarks/bench_best_of_n.py " + shlex.join(
        ["--prompts", str(options.prompts)]
    )
    how = (
        f"{num_prompts} prompts, {CAP} samples each, correct with probability {P_CORRECT}, wrong "
        f"answers {WRONG}; its-hub {version('its-hub')}; seed {SEED}"
    )
    rows = []
    for name, verifier in VERIFIERS.items():
        recording = record(name, num_prompts)
        theirs = peer(recording)
        binary = isinstance(verifier, tt.VerifierModel)
        settings: dict[str, dict[str, Any]] = {"max": {}}
        if binary:
            settings |= {
                "max, threshold 1": {"threshold": 1.0},
                "verified_majority": {"select": "verified_majority"},
            }
        else:
            settings |= {"bom, 2 votes": {"select": "bom", "min_votes": 2}}
        exact = tt.best_of_n_success(P_CORRECT, CAP, verifier)
        rows.append([name, "its_hub BestOfN", str(CAP), *_share(theirs == 0), f"{exact:.4f}", ""])
        for kind, setting in settings.items():
            picked, used = ours(recording, **setting)
            if binary and kind != "max, threshold 1":
                law = [P_CORRECT, *WRONG]
                expected = tt.verified_majority_success(law, CAP, verifier, fallback="majority")
            elif kind.startswith("max"):
                expected = exact
            else:
                expected = None
            told = "" if expected is None else f"{expected:.4f}"
            same = f"{(picked == theirs).mean():.1%}"
            rows.append([name, kind, f"{used:.2f}", *_share(picked == 0), told, same])
    header = ["verifier", "strategy", "samples", "accuracy", "95 %", "exact", "picks as its_hub"]
    lines = [
        *preamble(command, how),
        *table(header, rows),
        "",
        "Exact: success probability without simulation. its_hub takes the first of equal rewards, "
        "ours the answer that has them in more samples; of a verifier that only accepts and "
        "rejects that makes a vote among the accepted.",
    ]
    print("\n".join(lines))
    if not options.dry_run:
        write_section(RESULTS, "best-of-n", lines)


def _share(right_B: np.ndarray) -> tuple[str, str]:
    low, high = clopper_pearson(int(right_B.sum()), len(right_B))
    return f"{right_B.mean():.4f}", f"{low:.3f}-{high:.3f}"


if __name__ == "__main__":
    main()
