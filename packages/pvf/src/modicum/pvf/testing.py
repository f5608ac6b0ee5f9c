"""Mask predictors whose answers are known exactly, for tests of decoders and strategies.

`EnumerationOracle` holds a finite set of sequences with weights and answers with the posterior of
every column given what a canvas shows: the ideal mask predictor of that distribution. `ledger` is
a task made for it: records with a running sum, in words whose choice is tied together, so that
which words are used is uncertain, what they say is not, and independent choices are wrong.
`PromptedOracle` holds several tasks, each told by its prompt, so that they share a batch.
`TablePredictor` answers what a table says, coherent or not; `NoisyPredictor` disturbs another
predictor in a way that depends on the canvas, so that its answers contradict each other.

Shapes: R canvases, L columns, H columns asked for, S sequences, P columns of a prompt, V
vocabulary.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from modicum.core.prf import philox4x32, uniform32
from modicum.pvf.predictor import MaskPredictor

__all__ = [
    "EnumerationOracle",
    "Ledger",
    "NoisyPredictor",
    "PromptedOracle",
    "TablePredictor",
    "ledger",
]


class EnumerationOracle:
    """The exact posterior of every column under a finite distribution.

    p(v at i | y) is proportional to the sum over sequences s with s_i = v of w_s eps^(k(s) - k),
    where k(s) counts the filled columns in which s differs from the canvas and k is the least such
    count: with a canvas that no sequence agrees with, those that differ least decide.

    Parameters
    ----------
    sequences
        (S, L) int64.
    weights
        (S,), positive.
    mask_id, eos_id, vocab_size
        As in `modicum.pvf.MaskPredictor`.
    eps
        Weight of a difference, in (0, 1).

    Raises
    ------
    ValueError
        If shapes do not fit or a weight is not positive.
    """

    canvas: Literal["full", "prefix"] = "full"

    def __init__(
        self,
        sequences: torch.Tensor,
        weights: torch.Tensor,
        mask_id: int,
        vocab_size: int,
        *,
        eos_id: int | None = None,
        eps: float = 1e-3,
    ) -> None:
        sequences_SL = torch.as_tensor(sequences)
        weights_S = torch.as_tensor(weights, dtype=torch.float64)
        if sequences_SL.ndim != 2 or weights_S.shape != sequences_SL.shape[:1]:
            raise ValueError(
                f"sequences must be (S, L) and weights (S,), not {tuple(sequences_SL.shape)} and "
                f"{tuple(weights_S.shape)}"
            )
        if not bool((weights_S > 0).all()):
            raise ValueError("weights must be positive")
        if not 0 < eps < 1:
            raise ValueError(f"eps must be in (0, 1), not {eps}")
        self.sequences_SL = sequences_SL
        self.weights_S = weights_S / weights_S.sum()
        self.mask_id, self.eos_id, self.vocab_size = mask_id, eos_id, vocab_size
        self.device = sequences_SL.device
        self.eps = eps

    def forward(
        self,
        ids_RL: torch.Tensor,
        attention_mask_RL: torch.Tensor | None,
        positions_RH: torch.Tensor,
    ) -> torch.Tensor:
        """Give log-probabilities, (R, H, V) float32; -inf for tokens that no sequence has."""
        if ids_RL.shape[1] != self.sequences_SL.shape[1]:
            raise ValueError(
                f"canvases have {ids_RL.shape[1]} columns, the sequences "
                f"{self.sequences_SL.shape[1]}"
            )
        filled_RL = ids_RL != self.mask_id
        differs_RSL = (ids_RL[:, None] != self.sequences_SL) & filled_RL[:, None]
        count_RS = differs_RSL.sum(-1)
        excess_RS = count_RS - count_RS.amin(-1, keepdim=True)
        weight_RS = self.weights_S * self.eps ** excess_RS.double()
        weight_RS = weight_RS / weight_RS.sum(-1, keepdim=True)
        rows, width = positions_RH.shape
        said_RSH = self.sequences_SL.T[positions_RH].transpose(1, 2)
        found_RHV = torch.zeros((rows, width, self.vocab_size), dtype=torch.float64)
        found_RHV.scatter_add_(
            -1, said_RSH.transpose(1, 2), weight_RS[:, None].expand(-1, width, -1)
        )
        return found_RHV.log().float()

    def supports(self, canvas_L: torch.Tensor) -> bool:
        """Say whether a canvas without masks is one of the sequences."""
        return bool((self.sequences_SL == canvas_L).all(-1).any())


class TablePredictor:
    """What a table says: for some canvases other tokens and probabilities than by default.

    Parameters
    ----------
    default
        (token, probability) of each column, where the table has no entry.
    table
        From a canvas, as a tuple of ids, to (token, probability) of some columns.
    mask_id, vocab_size, eos_id
        As in `modicum.pvf.MaskPredictor`. The rest of the probability goes to all other tokens.

    Raises
    ------
    ValueError
        If a probability is not between that of one of many equal tokens and 1.
    """

    canvas: Literal["full", "prefix"] = "full"

    def __init__(
        self,
        default: Sequence[tuple[int, float]],
        table: Mapping[tuple[int, ...], Mapping[int, tuple[int, float]]],
        mask_id: int,
        vocab_size: int,
        *,
        eos_id: int | None = None,
    ) -> None:
        entries = [*default, *(entry for row in table.values() for entry in row.values())]
        for token, probability in entries:
            if not 1 / (vocab_size - 1) < probability < 1:
                raise ValueError(f"token {token} cannot lead with probability {probability}")
        self.default, self.table = list(default), dict(table)
        self.mask_id, self.eos_id, self.vocab_size = mask_id, eos_id, vocab_size
        self.device = torch.device("cpu")

    def forward(
        self,
        ids_RL: torch.Tensor,
        attention_mask_RL: torch.Tensor | None,
        positions_RH: torch.Tensor,
    ) -> torch.Tensor:
        """Give log-probabilities, (R, H, V) float32."""
        rows = []
        for canvas, columns in zip(ids_RL.tolist(), positions_RH.tolist(), strict=True):
            said = self.table.get(tuple(canvas), {})
            rows.append(torch.stack([self._row(*said.get(i, self.default[i])) for i in columns]))
        return torch.stack(rows)

    def _row(self, token: int, probability: float) -> torch.Tensor:
        # The mask token is never predicted, so that it has no share.
        row_V = torch.full((self.vocab_size,), (1 - probability) / (self.vocab_size - 2))
        row_V[token] = probability
        row_V[self.mask_id] = 0.0
        return row_V.log()


class PromptedOracle:
    """Several oracles as one predictor: the prompt of a canvas says which one answers.

    Parameters
    ----------
    oracles
        By prompt the oracle of what follows it. No prompt may be the beginning of another one that
        goes on with a token of the first one's sequences: the longest that fits is taken.

    Raises
    ------
    ValueError
        If there is none, or special tokens or vocabularies differ.
    """

    canvas: Literal["full", "prefix"] = "full"

    def __init__(self, oracles: Mapping[tuple[int, ...], EnumerationOracle]) -> None:
        if not oracles:
            raise ValueError("oracles must hold at least one")
        first = next(iter(oracles.values()))
        for oracle in oracles.values():
            theirs = (oracle.mask_id, oracle.eos_id, oracle.vocab_size)
            if theirs != (first.mask_id, first.eos_id, first.vocab_size):
                raise ValueError("oracles must have one vocabulary and the same special tokens")
        self.oracles = dict(oracles)
        self._lengths = sorted({len(prompt) for prompt in oracles}, reverse=True)
        self.mask_id, self.eos_id, self.vocab_size = first.mask_id, first.eos_id, first.vocab_size
        self.device = first.device

    def forward(
        self,
        ids_RL: torch.Tensor,
        attention_mask_RL: torch.Tensor | None,
        positions_RH: torch.Tensor,
    ) -> torch.Tensor:
        """Give log-probabilities, (R, H, V) float32."""
        rows_of: dict[tuple[int, ...], list[int]] = {}
        for row, canvas in enumerate(ids_RL.tolist()):
            rows_of.setdefault(self._prompt(canvas), []).append(row)
        found_RHV = torch.empty((*positions_RH.shape, self.vocab_size))
        for prompt, rows in rows_of.items():
            oracle, begin = self.oracles[prompt], len(prompt)
            end = begin + oracle.sequences_SL.shape[1]
            answer = oracle.forward(ids_RL[rows, begin:end], None, positions_RH[rows] - begin)
            found_RHV[rows] = answer
        return found_RHV

    def _prompt(self, canvas: list[int]) -> tuple[int, ...]:
        for length in self._lengths:
            prompt = tuple(canvas[:length])
            if prompt in self.oracles:
                return prompt
        raise ValueError(f"no oracle has a prompt that begins the canvas {canvas}")


_NOTHING = 0xFFFFFFFF
"""Stands for padding; no token has this id."""


class NoisyPredictor:
    """Another predictor with normal noise in its logits, the same whenever the canvas is the same.

    The noise of one canvas has nothing to do with that of another, so that the conditionals of a
    coherent predictor no longer belong to one joint distribution.

    Parameters
    ----------
    predictor
        What is disturbed.
    sigma
        Standard deviation of the noise, in nats.
    seed
        Of the noise.

    Raises
    ------
    ValueError
        If `sigma` is negative.
    """

    def __init__(self, predictor: MaskPredictor, sigma: float, seed: int = 0) -> None:
        if sigma < 0:
            raise ValueError(f"sigma must not be negative, not {sigma}")
        self.predictor, self.sigma, self.seed = predictor, sigma, seed
        self.mask_id, self.eos_id = predictor.mask_id, predictor.eos_id
        self.vocab_size, self.device = predictor.vocab_size, predictor.device
        self.canvas = predictor.canvas

    def forward(
        self,
        ids_RL: torch.Tensor,
        attention_mask_RL: torch.Tensor | None,
        positions_RH: torch.Tensor,
    ) -> torch.Tensor:
        """Give the disturbed logits, (R, H, V) float32."""
        logits_RHV = self.predictor.forward(ids_RL, attention_mask_RL, positions_RH).float()
        state_R4 = self._state(ids_RL, attention_mask_RL)
        column_RH1 = positions_RH[..., None]
        token_V = torch.arange(self.vocab_size, device=ids_RL.device)
        state = [state_R4[:, word, None, None] for word in range(4)]
        counter = (state[0], state[1], state[2] ^ column_RH1, state[3] ^ token_V)
        shape = logits_RHV.shape
        words = philox4x32(tuple(part.expand(shape) for part in counter), self._key)  # type: ignore[arg-type]
        # Box and Muller's transform.
        radius = (-2 * uniform32(words[0]).log()).sqrt()
        normal_RHV = radius * (2 * torch.pi * uniform32(words[1])).cos()
        return logits_RHV + self.sigma * normal_RHV.float()

    @property
    def _key(self) -> tuple[int, int]:
        return self.seed & 0xFFFFFFFF, (self.seed >> 32) & 0xFFFFFFFF

    def _state(self, ids_RL: torch.Tensor, mask_RL: torch.Tensor | None) -> torch.Tensor:
        """Digest each canvas, whatever its padding, (R, 4) words of 32 bits."""
        if mask_RL is not None:
            ids_RL = ids_RL.masked_fill(~mask_RL, _NOTHING)
        ids_RL = torch.nn.functional.pad(ids_RL, (0, -ids_RL.shape[1] % 4), value=_NOTHING)
        state_R4 = torch.zeros_like(ids_RL[:, :4])
        for given_R4 in ids_RL.split(4, dim=1):
            words = (state_R4 ^ given_R4).unbind(-1)
            after_R4 = torch.stack(philox4x32(words, self._key), -1)  # type: ignore[arg-type]
            # Padding is behind a canvas: words of nothing else are not absorbed.
            empty_R1 = (given_R4 == _NOTHING).all(-1, keepdim=True)
            state_R4 = torch.where(empty_R1, state_R4, after_R4)
        return state_R4


@dataclass(frozen=True)
class Ledger:
    """One task: an oracle, and how to judge an answer.

    Attributes
    ----------
    oracle
        The ideal predictor of this task's sequences.
    prompt
        Names and amounts in order, which tell one task from another; for `PromptedOracle`. The
        oracle itself has no prompt.
    length
        L, columns of a sequence.
    style_ids
        Words whose choice is free but tied together, and the end token: planning tokens.
    digit_ids
        Tokens of the digits 0 to 9.
    error_free
        Which of the oracle's sequences have no error in a sum, (S,) bool.
    """

    oracle: EnumerationOracle
    prompt: tuple[int, ...]
    length: int
    style_ids: tuple[int, ...]
    digit_ids: tuple[int, ...]
    error_free: torch.Tensor

    def is_valid(self, canvas_L: torch.Tensor) -> bool:
        """Say whether an answer is one of the sequences, with whatever errors."""
        return self.oracle.supports(canvas_L)

    def is_correct(self, canvas_L: torch.Tensor) -> bool:
        """Say whether an answer is one of the sequences without an error."""
        same_S = (self.oracle.sequences_SL == canvas_L).all(-1)
        return bool((same_S & self.error_free).any())


STYLES, WORDS = 3, 5
_MASK, _EOS, _OK = 0, 1, 2
_DIGITS = tuple(range(3, 13))
_STYLE = tuple(range(13, 13 + STYLES * WORDS))
_LETTERS = tuple(range(13 + STYLES * WORDS, 13 + STYLES * WORDS + 26))
LEDGER_VOCABULARY = _LETTERS[-1] + 1


def ledger(seed: int, right: float = 0.8, length: int = 48, eps: float = 1e-3) -> Ledger:
    """Make a task: two to four records, each with a name, an amount and the sum so far.

    A sequence reads ``HEAD name MID amount RUN sum [ok] SEP`` for each record and ``FIN sum SEP``
    at the end, then end tokens. HEAD, MID, RUN, SEP and FIN are five words of one of three styles,
    equally likely; ``ok`` is there or not, equally likely, for each record; the sum is modulo 10
    and one too large from a record on with probability 1 - ``right`` for each record.

    Parameters
    ----------
    seed
        Of names and amounts.
    right
        Probability that a record's sum has no new error, in (.5, 1).
    length
        Columns; at least 48 for four records of three-letter names.
    eps
        As in `EnumerationOracle`.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, count: int = 1) -> list[int]:
        return torch.randint(low, high, (count,), generator=generator).tolist()

    items = [
        ([_LETTERS[i] for i in draw(0, 26, draw(1, 4)[0])], draw(0, 10)[0])
        for _ in range(draw(2, 5)[0])
    ]
    sequences, weights, right_S = [], [], []
    choices = itertools.product(
        range(STYLES),
        itertools.product((False, True), repeat=len(items)),
        itertools.product((False, True), repeat=len(items)),
    )
    for style, fillers, errors in choices:
        head, mid, run, sep, fin = _STYLE[style * WORDS : (style + 1) * WORDS]
        tokens, total, weight = [], 0, 1.0
        for (name, amount), filler, error in zip(items, fillers, errors, strict=True):
            total = (total + amount + error) % 10
            weight *= 1 - right if error else right
            tokens += [head, *name, mid, _DIGITS[amount], run, _DIGITS[total]]
            tokens += [_OK, sep] if filler else [sep]
        tokens += [fin, _DIGITS[total], sep]
        if len(tokens) > length:
            raise ValueError(f"length must be at least {len(tokens)} for this task, not {length}")
        sequences.append(tokens + [_EOS] * (length - len(tokens)))
        weights.append(weight)
        right_S.append(not any(errors))
    oracle = EnumerationOracle(
        torch.tensor(sequences),
        torch.tensor(weights, dtype=torch.float64),
        _MASK,
        LEDGER_VOCABULARY,
        eos_id=_EOS,
        eps=eps,
    )
    prompt = tuple(token for name, amount in items for token in (*name, _DIGITS[amount]))
    return Ledger(oracle, prompt, length, (*_STYLE, _EOS), _DIGITS, torch.tensor(right_S))
