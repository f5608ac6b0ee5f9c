"""Strings under hidden rules: how a model is taught to try one rule after another, and is asked.

A prompt is a string of bits; one of several rules is in force, and the prompt does not say which.
Conversations go ``BOS string (ACT_k attempt YES/NO) …``: the model names a rule, writes what it
makes of the string, and reads the verdict. Here are the training streams, the recipes, and the ways
of asking a trained model: with its own memory, without, with a controller that names the rule, and
many times independently. `self_correcting_transformer` compares them.

Legend: ``K`` rules, ``S`` strings, ``L`` bits, ``B`` rows or prompts, ``R`` rounds, ``N`` samples,
``T`` positions, ``U`` different prompts, ``X`` sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from modicum.core.device import numpy_generator, torch_generator
from modicum.testtime.controllers.base import VectorController
from modicum.testtime.experiments.training import Recipe, Rows
from modicum.testtime.recorded import maj_curve, pass_at_k, vote_counts

if TYPE_CHECKING:
    import torch

    from modicum.testtime.tinygpt import KeyValueCache, TinyGPT

NUM_BITS = 6
NUM_STRINGS = 2**NUM_BITS

BITS_SL: NDArray[np.int64] = (np.arange(NUM_STRINGS)[:, None] >> np.arange(NUM_BITS)[::-1]) & 1
"""All strings, the first bit most significant."""

_RULES: dict[str, Callable[[NDArray[np.int64]], NDArray[np.int64]]] = {
    "copy": lambda bits_SL: bits_SL,
    "reverse": lambda bits_SL: bits_SL[:, ::-1],
    "complement": lambda bits_SL: 1 - bits_SL,
    "reverse complement": lambda bits_SL: 1 - bits_SL[:, ::-1],
    "rotate": lambda bits_SL: np.roll(bits_SL, -1, axis=1),
    "sort": lambda bits_SL: np.sort(bits_SL, axis=1),
}

# Tokens: the bits, then these, then one per rule that names it.
BOS, YES, NO, NEUTRAL, FIRST_ACT = 2, 3, 4, 5, 6


def codes(bits_BL: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each string of bits as a number, or -1 where a token is no bit."""
    weights = 2 ** np.arange(bits_BL.shape[-1])[::-1]
    return np.where(((bits_BL == 0) | (bits_BL == 1)).all(axis=-1), bits_BL @ weights, -1)


ANSWERS_KS: NDArray[np.int64] = np.stack([codes(rule(BITS_SL)) for rule in _RULES.values()])
"""What each rule makes of each string, as numbers, ``[K, S]``."""

NUM_RULES = len(ANSWERS_KS)
ROUNDS = NUM_RULES


@dataclass(frozen=True)
class Stream:
    """How a conversation is written.

    Parameters
    ----------
    named
        The model writes which rule it tries (ACT token) before each attempt.
    remembers
        Rules are tried in random order without repetition, and verdicts are YES and NO. Otherwise
        each round draws its rule afresh and the verdict is a neutral token: there is nothing to
        learn from earlier rounds.
    """

    named: bool = True
    remembers: bool = True

    @property
    def attempt_length(self) -> int:
        """Tokens that the model writes per round."""
        return NUM_BITS + self.named

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of the network that the stream needs."""
        return {
            "vocab_size": FIRST_ACT + NUM_RULES,
            "n_positions": 1 + NUM_BITS + ROUNDS * (self.attempt_length + 1),
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 4,
        }

    def verdicts(self, right_X: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return the token that follows a right or a wrong attempt."""
        return np.where(right_X, YES, NO) if self.remembers else np.full(right_X.shape, NEUTRAL)

    def draw_rows(self, rng: np.random.Generator, num: int) -> Rows:
        """Draw training rows: strings, rules and orders uniformly at random.

        The model's own tokens are learned up to and including the first right attempt, verdicts
        never.
        """
        strings_B = rng.integers(NUM_STRINGS, size=num)
        rules_B = rng.integers(NUM_RULES, size=num)
        if self.remembers:
            tried_BR = rng.permuted(np.tile(np.arange(NUM_RULES), (num, 1)), axis=1)
        else:
            tried_BR = rng.integers(NUM_RULES, size=(num, ROUNDS))
        attempts_BR = ANSWERS_KS[tried_BR, strings_B[:, None]]
        right_BR = attempts_BR == ANSWERS_KS[rules_B, strings_B][:, None]
        parts = [
            BITS_SL[attempts_BR],
            self.verdicts(right_BR)[:, :, None],
        ]
        if self.named:
            parts.insert(0, FIRST_ACT + tried_BR[:, :, None])
        rounds_BRT = np.concatenate(parts, axis=2)
        unsolved_BR = np.cumsum(right_BR, axis=1) - right_BR == 0
        learned_BRT = np.repeat(unsolved_BR[:, :, None], rounds_BRT.shape[2], axis=2)
        learned_BRT[:, :, -1] = False
        prompt_BT = prompts(strings_B)
        return Rows(
            np.concatenate([prompt_BT, rounds_BRT.reshape(num, -1)], axis=1),
            np.concatenate(
                [np.zeros(prompt_BT.shape, dtype=bool), learned_BRT.reshape(num, -1)], axis=1
            ),
        )


def prompts(strings_B: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the prompts of strings: BOS and the bits, int64 ``[B, 7]``."""
    return np.concatenate([np.full((len(strings_B), 1), BOS), BITS_SL[strings_B]], axis=1)


NAMED, SILENT, BLIND = Stream(), Stream(named=False), Stream(remembers=False)

RECIPES = (
    Recipe(
        "self-correcting",
        "Tries hidden rules one after another and learns from the verdicts.",
        NAMED.sizes,
        NAMED.draw_rows,
        1200,
    ),
    Recipe(
        "self-correcting-silent",
        "The same without tokens that name the rule.",
        SILENT.sizes,
        SILENT.draw_rows,
        1600,
    ),
    Recipe(
        "self-correcting-blind",
        "The same with neutral verdicts and rules drawn afresh each round.",
        BLIND.sizes,
        BLIND.draw_rows,
        1200,
    ),
)


@dataclass(frozen=True)
class Items:
    """Prompts under hidden rules: numbers of strings and rules, int64 ``[B]``."""

    strings_B: NDArray[np.int64]
    rules_B: NDArray[np.int64]

    @classmethod
    def draw(cls, num: int, rng: np.random.Generator) -> Items:
        """Draw strings and rules uniformly."""
        return cls(rng.integers(NUM_STRINGS, size=num), rng.integers(NUM_RULES, size=num))

    @cached_property
    def answers_B(self) -> NDArray[np.int64]:
        """Right answers as numbers."""
        return ANSWERS_KS[self.rules_B, self.strings_B]

    def random_order(self, rounds: int) -> NDArray[np.float64]:
        """Return the chance of trying the rules in random order, ``[B]``.

        It is what perfect imitation of the training streams would solve: less than ideal search,
        since two rules may make the same of a string.
        """
        equal_B = (ANSWERS_KS[:, self.strings_B] == self.answers_B).sum(axis=0)
        missed_K = np.array(
            [
                math.comb(NUM_RULES - equal, rounds) / math.comb(NUM_RULES, rounds)
                for equal in range(NUM_RULES + 1)
            ]
        )
        return 1 - missed_K[equal_B]

    def ideal(self, rounds: int) -> NDArray[np.float64]:
        """Return the chance of search without replacement among the distinct outputs, ``[B]``."""
        distinct_S = np.array([len(set(column)) for column in ANSWERS_KS.T.tolist()])
        return np.minimum(rounds / distinct_S[self.strings_B], 1.0)


def _read_prompt(
    model: TinyGPT, ids_BT: NDArray[np.int64], length: int
) -> tuple[KeyValueCache, torch.Tensor]:
    """Return a cache for `length` tokens that has read all but the last, and that, ``[B, 1]``.

    Equal prompts are read once.
    """
    import torch

    device = model.lm_head.weight.device
    different_UT, index_B = np.unique(ids_BT, axis=0, return_inverse=True)
    cache = model.new_cache(len(different_UT), length)
    with torch.no_grad():
        model(torch.from_numpy(different_UT[:, :-1]).to(device), cache)
    index = torch.from_numpy(index_B.reshape(-1)).to(device)
    return cache.select(index), torch.from_numpy(ids_BT[:, -1:]).to(device)


def correct_itself(
    model: TinyGPT, stream: Stream, items: Items, seed: int, *, rounds: int = ROUNDS
) -> NDArray[np.bool_]:
    """Let the model run the whole conversation.

    Returns
    -------
    ndarray
        Whether a prompt was solved in or before each round, bool ``[B, R]``.
    """
    import torch

    from modicum.testtime.tinygpt import sample

    generator = torch_generator(seed, "cpu", "self-correction")
    ids_BT = prompts(items.strings_B)
    length = ids_BT.shape[1] + rounds * (stream.attempt_length + 1)
    cache, next_BT = _read_prompt(model, ids_BT, length)
    right_BR = np.zeros((len(items.strings_B), rounds), dtype=bool)
    for number in range(rounds):
        written_BT = sample(model, next_BT, stream.attempt_length, generator=generator, cache=cache)
        attempts_B = codes(written_BT[:, -NUM_BITS:].cpu().numpy())
        right_BR[:, number] = attempts_B == items.answers_B
        verdict_B = torch.from_numpy(stream.verdicts(right_BR[:, number])).to(written_BT.device)
        next_BT = torch.cat([written_BT[:, -1:], verdict_B[:, None]], dim=1)
    return np.logical_or.accumulate(right_BR, axis=1)


def forget_and_retry(
    model: TinyGPT, stream: Stream, items: Items, seed: int, *, rounds: int = ROUNDS
) -> NDArray[np.bool_]:
    """Let the model answer in each round as if it were the first: no verdict, no earlier round.

    Returns
    -------
    ndarray
        Whether a prompt was solved in or before each round, bool ``[B, R]``.
    """
    right_RB = [
        first_attempts(model, stream, items.strings_B, numpy_seed(seed, number)) == items.answers_B
        for number in range(rounds)
    ]
    return np.logical_or.accumulate(np.stack(right_RB, axis=1), axis=1)


def numpy_seed(seed: int, number: int) -> int:
    """Return a seed of its own for one round."""
    return int(numpy_generator(seed, "round", number).integers(2**62))


def first_attempts(
    model: TinyGPT,
    stream: Stream,
    strings_B: NDArray[np.int64],
    seed: int,
    *,
    rules_B: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Draw one first attempt per string, as numbers, int64 ``[B]`` (-1: not six bits).

    `rules_B` makes the model try these rules, where the stream names them.
    """
    from modicum.testtime.tinygpt import sample

    ids_BT = prompts(strings_B)
    num_tokens = stream.attempt_length
    if rules_B is not None:
        ids_BT = np.concatenate([ids_BT, FIRST_ACT + rules_B[:, None]], axis=1)
        num_tokens = NUM_BITS
    generator = torch_generator(seed, "cpu", "first attempts")
    cache, last_B1 = _read_prompt(model, ids_BT, ids_BT.shape[1] + num_tokens)
    written_BT = sample(model, last_B1, num_tokens, generator=generator, cache=cache)
    return codes(written_BT[:, -NUM_BITS:].cpu().numpy())


def with_controller(
    model: TinyGPT,
    controller: VectorController,
    items: Items,
    seed: int,
    *,
    rounds: int = ROUNDS,
) -> NDArray[np.bool_]:
    """Let a controller outside the model choose the rule; the model answers from the prompt alone.

    Returns
    -------
    ndarray
        Whether a prompt was solved in or before each round, bool ``[B, R]``.
    """
    games = controller.start(NUM_RULES, rounds, seed).side_by_side(len(items.strings_B))
    right_BR = np.zeros((len(items.strings_B), rounds), dtype=bool)
    for number in range(rounds):
        rules_B = games.select()
        attempts_B = first_attempts(
            model, NAMED, items.strings_B, numpy_seed(seed, number), rules_B=rules_B
        )
        right_BR[:, number] = attempts_B == items.answers_B
        games.learn(rules_B, right_BR[:, number].astype(np.float64))
    return np.logical_or.accumulate(right_BR, axis=1)


@dataclass(frozen=True)
class Recorded:
    """Independent first attempts at every string, recorded once: ``[S, N]`` numbers (-1: null)."""

    attempts_SN: NDArray[np.int64]

    @classmethod
    def draw(cls, model: TinyGPT, stream: Stream, num_samples: int, seed: int) -> Recorded:
        """Draw `num_samples` attempts per string."""
        strings_X = np.repeat(np.arange(NUM_STRINGS), num_samples)
        attempts_X = first_attempts(model, stream, strings_X, seed)
        return cls(attempts_X.reshape(NUM_STRINGS, num_samples))

    def best_of(self, items: Items, size: int) -> NDArray[np.float64]:
        """Return unbiased estimates of the chance that one of `size` attempts is right, ``[B]``."""
        num_samples = self.attempts_SN.shape[1]
        right_B = (self.attempts_SN[items.strings_B] == items.answers_B[:, None]).sum(axis=1)
        chance = {right: pass_at_k(num_samples, right, size) for right in set(right_B.tolist())}
        return np.array([chance[right] for right in right_B.tolist()])

    def vote(self, items: Items, sizes: Sequence[int]) -> NDArray[np.float64]:
        """Return unbiased estimates of the chance that votes of X sizes are right, ``[B, X]``."""
        recorded = [[None if a < 0 else a for a in row] for row in self.attempts_SN.tolist()]
        pairs = list(zip(items.strings_B.tolist(), items.answers_B.tolist(), strict=True))
        chance: dict[tuple[int, int], NDArray[np.float64]] = {}
        for string, answer in set(pairs):
            counts, null = vote_counts(recorded[string], answer)
            chance[string, answer] = maj_curve(counts, sizes, null=null)
        return np.stack([chance[pair] for pair in pairs])
