"""The usual decoders: one look at the canvas, and a rule that says which tokens are committed.

Each takes a view of predictions and marks the open columns to commit. Sources stand with each.

Shapes: N sequences, H columns of the horizon.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, Self

import torch

from modicum.pvf.predictor import MaskPredictor
from modicum.pvf.strategies.base import (
    OneRow,
    Predictions,
    Proposal,
    View,
    commit,
    most,
    ranked,
)
from modicum.pvf.validation import check_choice, check_count, check_probability
from modicum.pvf.vocabulary import as_plan_vocabulary, bound_vocabulary, vocabulary_to_dict

__all__ = [
    "KLASS",
    "EarlyCommit",
    "EntropyBound",
    "ExtraToken",
    "Factor",
    "Threshold",
    "TopK",
]


def certainty(seen: Predictions, rank: str) -> torch.Tensor:
    """Give what columns are ranked by, ``"confidence"``, ``"margin"`` or ``"entropy"``.

    Tokens that are to be committed last are behind all others by every rank.
    """
    if rank == "confidence":
        return seen.confidence
    values = seen.margin if rank == "margin" else -seen.entropy
    return put_last(values, seen)


def put_last(values: torch.Tensor, seen: Predictions) -> torch.Tensor:
    """Give the least finite value to tokens that are to be committed last."""
    return values.masked_fill(seen.confidence < 0, torch.finfo(values.dtype).min)


@dataclass(frozen=True)
class TopK(OneRow):
    """A fixed number of tokens for each call, the best first.

    Parameters
    ----------
    steps
        Calls for all blocks together, shared out evenly; None makes one for each token. The first
        calls of a block commit one token more where the masks do not divide.
    rank
        ``"confidence"`` (LLaDA's low-confidence remasking), ``"random"``, ``"margin"`` between the
        two most likely tokens, or ``"entropy"`` (Dream's ``topk_margin`` and ``entropy``).

    Notes
    -----
    Sources: LLaDA (arXiv 2502.09992), Dream (arXiv 2508.15487).
    """

    steps: int | None = None
    rank: Literal["confidence", "random", "margin", "entropy"] = "confidence"
    name: str = field(default="topk", init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None:
            check_count("steps", self.steps)
        check_choice("rank", self.rank, ("confidence", "random", "margin", "entropy"))

    def values(self, view: View) -> torch.Tensor:
        """Give what columns are ranked by, (N, H)."""
        if self.rank == "random":
            return put_last(view.uniform(0), view.seen)
        return certainty(view.seen, self.rank)

    def choose(self, view: View) -> torch.Tensor:
        """Mark as many columns as this call has to commit, (N, H) bool."""
        order_NH = ranked(self.values(view), view.open)
        number_H = torch.arange(order_NH.shape[1], device=order_NH.device)
        first_NH = number_H < self._count(view)[:, None]
        return torch.zeros_like(view.open).scatter(-1, order_NH, first_NH)

    def fallback(self, view: View) -> torch.Tensor:
        """Give what columns are ranked by, (N, H)."""
        return self.values(view)

    def _count(self, view: View) -> torch.Tensor:
        if self.steps is None:
            return torch.ones_like(view.block)
        calls_N = torch.div(self.steps, view.blocks, rounding_mode="floor").clamp(min=1)
        each_N = torch.div(view.masks_in_block, calls_N, rounding_mode="floor")
        # The call that gave these predictions is counted already.
        return each_N + (view.calls_in_block - 1 < view.masks_in_block % calls_N)


@dataclass(frozen=True)
class Threshold(OneRow):
    """All tokens of at least a probability, else the most confident one.

    Notes
    -----
    Source: Fast-dLLM (arXiv 2505.22618).
    """

    threshold: float = 0.9
    name: str = field(default="threshold", init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_probability("threshold", self.threshold)

    def choose(self, view: View) -> torch.Tensor:
        """Mark what is confident, (N, H) bool."""
        return view.seen.confidence >= self.threshold


@dataclass(frozen=True)
class Factor(OneRow):
    """As many of the most confident tokens as their least confident one allows.

    The largest n with (n + 1) (1 - c) < f, where c is the confidence of the n-th.

    Notes
    -----
    Source: Fast-dLLM (arXiv 2505.22618), factor-based parallel decoding.
    """

    factor: float = 1.0
    name: str = field(default="factor", init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.factor > 0:
            raise ValueError(f"factor must be positive, not {self.factor}")

    def choose(self, view: View) -> torch.Tensor:
        """Mark the longest run of the most confident that is allowed, (N, H) bool."""
        order_NH = ranked(view.seen.confidence, view.open)
        confidence_NH = view.seen.confidence.gather(-1, order_NH)
        n_H = torch.arange(1, order_NH.shape[1] + 1, device=order_NH.device)
        allowed_NH = (n_H + 1) * (1 - confidence_NH) < self.factor
        return _up_to_last(order_NH, allowed_NH & view.open.gather(-1, order_NH))


@dataclass(frozen=True)
class EntropyBound(OneRow):
    """As many of the most certain tokens as keep the error of independence below a bound.

    Columns by rising entropy; the largest n whose entropies without the largest one sum to at most
    γ nats.

    Notes
    -----
    Source: "Accelerated Sampling from Masked Diffusion Models via Entropy Bounded Unmasking"
    (arXiv 2505.24857).
    """

    gamma: float = 0.1
    name: str = field(default="entropy_bound", init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.gamma >= 0:
            raise ValueError(f"gamma must not be negative, not {self.gamma}")

    def choose(self, view: View) -> torch.Tensor:
        """Mark the longest run of the most certain that is allowed, (N, H) bool."""
        order_NH = ranked(self.fallback(view), view.open)
        entropy_NH = view.seen.entropy.gather(-1, order_NH)
        before_NH = entropy_NH.cumsum(-1) - entropy_NH
        allowed_NH = (view.open & (view.seen.confidence >= 0)).gather(-1, order_NH)
        return _up_to_last(order_NH, (before_NH <= self.gamma) & allowed_NH)

    def fallback(self, view: View) -> torch.Tensor:
        """Give what columns are ranked by, (N, H)."""
        return certainty(view.seen, "entropy")


@dataclass(frozen=True)
class KLASS(OneRow):
    """All tokens that are confident and whose distribution has settled.

    Parameters
    ----------
    threshold
        Least probability.
    divergence
        ε: the KL divergence between one call and the next, in nats, has to be below this
    history
        in so many calls on end.

    Notes
    -----
    Source: KLASS (arXiv 2511.05664). In the first calls nothing can have settled, so that the most
    confident token is committed. Keeps the distributions of all columns of the canvas.
    """

    threshold: float = 0.9
    divergence: float = 0.01
    history: int = 2
    name: str = field(default="klass", init=False)
    needs_divergence: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_probability("threshold", self.threshold)
        check_count("history", self.history)
        if not self.divergence > 0:
            raise ValueError(f"divergence must be positive, not {self.divergence}")

    def start(self, sequences: int, length: int, device: torch.device) -> dict[str, torch.Tensor]:
        """Give the memory of new sequences: for how many calls each column has been settled."""
        return {"settled": torch.zeros((sequences, length), dtype=torch.int64, device=device)}

    def choose(self, view: View) -> torch.Tensor:
        """Mark what is confident and settled, (N, H) bool."""
        assert view.seen.divergence is not None
        before_NH = view.memory["settled"].gather(-1, view.columns)
        now_NH = torch.where(view.seen.divergence < self.divergence, before_NH + 1, 0)
        now_NH = torch.where(view.known[:, None], now_NH, before_NH)
        view.memory["settled"].scatter_(-1, view.columns, now_NH)
        return (view.seen.confidence >= self.threshold) & (now_NH >= self.history)


@dataclass(frozen=True)
class EarlyCommit(OneRow):
    """One token for each call until the answer looks settled, and then all that is left at once.

    Parameters
    ----------
    gaps
        Least mean difference of the two largest logits over what is open, for the first, second
        and last third of the decoding.

    Notes
    -----
    Source: Prophet, "Diffusion Language Models Know the Answer Before Decoding" (arXiv 2508.19982).
    """

    gaps: tuple[float, float, float] = (7.5, 5.0, 2.5)
    name: str = field(default="early_commit", init=False)
    whole_span: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.gaps) != 3 or not min(self.gaps) > 0:
            raise ValueError(f"gaps must be three positive numbers, not {self.gaps!r}")

    def choose(self, view: View) -> torch.Tensor:
        """Mark everything where the gap is wide enough, else the most confident, (N, H) bool."""
        open_NH = view.open
        count_N = open_NH.sum(-1).clamp(min=1)
        gap_N = view.seen.logit_margin.masked_fill(~open_NH, 0.0).sum(-1) / count_N
        third_N = (view.progress * 3).long().clamp(max=2)
        least_N = torch.tensor(self.gaps, device=gap_N.device)[third_N]
        # The horizon is the whole span here, from its first column.
        number_H = torch.arange(open_NH.shape[1], device=gap_N.device) // view.block_length
        one_NH = most(view.seen.confidence, open_NH & (number_H == view.block[:, None]), 1)
        return torch.where((gap_N >= least_N)[:, None], open_NH, one_NH)


@dataclass(frozen=True)
class ExtraToken(OneRow):
    """Threshold decoding with one less certain token in every call, for comparison.

    The most confident token is forced only where there is neither a token of at least the threshold
    nor one of the band.

    Parameters
    ----------
    threshold
        Of what is committed without question.
    low, high
        Half-open band of probabilities of the extra token.
    plan_vocab
        Planning tokens, of which the extra one is taken where there are any; given as in
        `modicum.pvf.PVF`. None takes any token.
    planning_only
        Whether a call without a planning token in the band has no extra token; by default it has
        any token of the band, as in the published comparison.

    Notes
    -----
    Source: the comparison of planning and random tokens in section 3 of arXiv 2601.12247, in the
    form of its published code. The extra token is drawn, every one with equal probability.
    """

    threshold: float = 0.9
    low: float = 0.1
    high: float = 0.6
    plan_vocab: object = None
    planning_only: bool = False
    name: str = field(default="extra_token", init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_probability("threshold", self.threshold)
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"0 <= low < high <= 1 must hold, not {self.low} and {self.high}")
        object.__setattr__(self, "plan_vocab", as_plan_vocabulary(self.plan_vocab))

    def propose(self, view: View) -> Proposal:
        """Commit what threshold decoding commits, and one token of the band."""
        seen = view.seen
        base_NH = view.open & (seen.confidence >= self.threshold)
        in_band_NH = (seen.confidence >= self.low) & (seen.confidence < self.high)
        band_NH = view.open & ~base_NH & in_band_NH
        assert callable(self.plan_vocab)
        pool_NH = band_NH & self.plan_vocab(view)
        if not self.planning_only:
            pool_NH = torch.where(pool_NH.any(-1, keepdim=True), pool_NH, band_NH)
        chosen_NH = base_NH | most(view.uniform(1), pool_NH, 1)
        forced_N = ~chosen_NH.any(-1)
        one_NH = most(seen.confidence, view.open, 1)
        return commit(torch.where(forced_N[:, None], one_NH, chosen_NH), forced_N)

    def bind(self, model: MaskPredictor) -> Self:
        """Give the same strategy with words as ids of the model's tokenizer, as `PVF.bind`."""
        assert callable(self.plan_vocab)
        return replace(self, plan_vocab=bound_vocabulary(self.plan_vocab, model))

    def to_dict(self) -> dict[str, object]:
        """Give its settings as plain values; of a vocabulary that is a function, its name only."""
        assert callable(self.plan_vocab)
        return {**super().to_dict(), "plan_vocab": vocabulary_to_dict(self.plan_vocab)}


def _up_to_last(order_NH: torch.Tensor, allowed_NH: torch.Tensor) -> torch.Tensor:
    """Mark the columns of an order up to the last one that is allowed, (N, H) bool."""
    reached_NH = allowed_NH.flip(-1).long().cummax(-1).values.flip(-1).bool()
    return torch.zeros_like(reached_NH).scatter(-1, order_NH, reached_NH)
