"""What a strategy sees and what it answers.

The decoder shows a strategy a `View`: predictions for a window of every sequence. The strategy
proposes canvases, the decoder asks the model for predictions on them where there are several to
compare, and the strategy decides which one is committed. All of it is tensors over the batch:
a strategy has no loop over sequences and does not call the model.

Shapes: N sequences, R rows of a proposal (row 0 is the base), H columns of the horizon.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch

from modicum.pvf.validation import check_count

__all__ = [
    "Decision",
    "OneRow",
    "Predictions",
    "Proposal",
    "Strategy",
    "View",
    "first_columns",
    "most",
]


@dataclass(frozen=True)
class Predictions:
    """What the model says of every column of some canvases.

    Attributes
    ----------
    token
        Token to commit, int64: the most likely one, at a temperature a sample.
    confidence
        Its probability, float32, under the untempered softmax; negative for tokens that are to be
        committed last.
    top
        Most likely token, int64, whatever the temperature.
    top_confidence
        Its probability, float32.
    entropy
        Entropy in nats, float32.
    margin
        Probability of the most likely token less that of the second, float32.
    logit_margin
        The same difference in logits, float32.
    divergence
        KL divergence in nats from the distribution of the call before, float32; inf where there is
        none. None unless the strategy asks for it.
    """

    token: torch.Tensor
    confidence: torch.Tensor
    top: torch.Tensor
    top_confidence: torch.Tensor
    entropy: torch.Tensor
    margin: torch.Tensor
    logit_margin: torch.Tensor
    divergence: torch.Tensor | None = None


@dataclass
class View:
    """Every sequence as a strategy sees it before it proposes.

    Attributes
    ----------
    columns
        Columns of the canvas that the horizon is made of, (N, H) int64.
    tokens
        Canvas in these columns, (N, H) int64.
    open
        Columns of the window whose token is still a mask, (N, H) bool.
    window
        Columns that may be committed now, (N, H) bool.
    seen
        Predictions for these canvases, (N, H) each. Where `known` is False they mean nothing.
    known
        Sequences with predictions for all open columns of the window, (N,) bool.
    block
        Number of the block, (N,) int64, from 0.
    calls_in_block
        Forward calls since the block was entered, (N,) int64.
    masks_in_block
        Masks that the block had when it was entered, (N,) int64.
    block_length, blocks
        Columns of a block, and number of blocks of every sequence, (N,) int64.
    progress
        Share of a sequence's tokens that are committed, (N,) float32.
    memory
        What the strategy keeps of every sequence, tensors with first dimension N; it may write.
    uniform
        Numbers for strategies that draw: a function of a salt that gives (N, H) float32 in [0, 1),
        which depend on seed, sequence, column and call and not on the batch.
    """

    columns: torch.Tensor
    tokens: torch.Tensor
    open: torch.Tensor
    window: torch.Tensor
    seen: Predictions
    known: torch.Tensor
    block: torch.Tensor
    calls_in_block: torch.Tensor
    masks_in_block: torch.Tensor
    block_length: int
    blocks: torch.Tensor
    progress: torch.Tensor
    memory: dict[str, torch.Tensor]
    uniform: Callable[[int], torch.Tensor]


@dataclass(frozen=True)
class Proposal:
    """Canvases to compare, as what is filled in.

    Attributes
    ----------
    fill
        Columns of each row that get the predicted token, (N, R, H) bool; row 0 is the base.
    rows
        Rows to ask the model about, (N,) int64; 0 where row 0 is committed without asking.
    forced
        Sequences whose row 0 is a token that nothing justified, (N,) bool.
    route
        1 for plan, 2 for fill, 0 where nothing is asked, (N,) int64.
    drafts
        Columns of the drafts of rows 1 to R - 1, (N, R - 1) int64; those of rows beyond `rows`
        mean nothing.
    """

    fill: torch.Tensor
    rows: torch.Tensor
    forced: torch.Tensor
    route: torch.Tensor
    drafts: torch.Tensor


@dataclass(frozen=True)
class Decision:
    """Which row is committed.

    Attributes
    ----------
    row
        Row of each sequence, (N,) int64.
    keep
        Whether the row's predictions are kept for the next proposal, (N,) bool.
    passed
        Drafts that passed, (N, R - 1) bool.
    unexpected
        Drafts that should have passed for a coherent model and did not, (N, R - 1) bool.
    """

    row: torch.Tensor
    keep: torch.Tensor
    passed: torch.Tensor
    unexpected: torch.Tensor


@runtime_checkable
class Strategy(Protocol):
    """A rule that says what is committed.

    Attributes
    ----------
    name
        As in reports.
    unlock_threshold
        The next block opens when at most so many masks are left; 0 keeps blocks apart.
    most_rows
        R, the most rows of a proposal.
    whole_span
        Whether its window is everything that is open, whatever the blocks.
    needs_divergence
        Whether it looks at `Predictions.divergence`.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def unlock_threshold(self) -> int: ...  # noqa: D102

    @property
    def most_rows(self) -> int: ...  # noqa: D102

    @property
    def whole_span(self) -> bool: ...  # noqa: D102

    @property
    def needs_divergence(self) -> bool: ...  # noqa: D102

    def start(self, sequences: int, length: int, device: torch.device) -> dict[str, torch.Tensor]:
        """Give the memory of new sequences on canvases of a length."""

    def propose(self, view: View) -> Proposal:
        """Say what to compare; sequences without predictions are not looked at."""

    def accept(self, view: View, proposal: Proposal, rows: Predictions) -> Decision:
        """Choose a row of each sequence by its predictions, (N, R, H) each."""

    def to_dict(self) -> Mapping[str, object]:
        """Give its settings as plain values."""


@dataclass(frozen=True)
class OneRow:
    """A strategy that commits by one look: what `choose` gives, and at least one token.

    Subclasses write `choose`, and `fallback` where the most confident token is not the one that is
    forced.
    """

    name: str = field(default="", init=False)
    unlock_threshold: int = field(default=0, kw_only=True)
    most_rows: int = field(default=1, init=False)
    whole_span: bool = field(default=False, init=False)
    needs_divergence: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        check_count("unlock_threshold", self.unlock_threshold, 0)

    def start(self, sequences: int, length: int, device: torch.device) -> dict[str, torch.Tensor]:
        """Give the memory of new sequences: none."""
        return {}

    def choose(self, view: View) -> torch.Tensor:
        """Give the open columns to commit, (N, H) bool; none at all is an answer too."""
        raise NotImplementedError

    def fallback(self, view: View) -> torch.Tensor:
        """Give what to rank by where nothing was chosen, (N, H): the largest is committed."""
        return view.seen.confidence

    def propose(self, view: View) -> Proposal:
        """Commit what is chosen; where nothing is, the first by `fallback`."""
        chosen_NH = self.choose(view) & view.open
        forced_N = ~chosen_NH.any(-1)
        one_NH = most(self.fallback(view), view.open, 1)
        fill_NH = torch.where(forced_N[:, None], one_NH, chosen_NH)
        return commit(fill_NH, forced_N)

    def accept(self, view: View, proposal: Proposal, rows: Predictions) -> Decision:
        """Never called: there are no rows to choose from."""
        raise RuntimeError(f"{self.name!r} compares no rows")

    def to_dict(self) -> dict[str, object]:
        """Give its settings as plain values."""
        return {"strategy": self.name, **vars(self)}


def commit(fill_NH: torch.Tensor, forced_N: torch.Tensor) -> Proposal:
    """Make the proposal that commits without asking the model."""
    count = len(fill_NH)
    nothing_N = torch.zeros(count, dtype=torch.int64, device=fill_NH.device)
    return Proposal(
        fill=fill_NH[:, None],
        rows=nothing_N,
        forced=forced_N,
        route=nothing_N,
        drafts=nothing_N[:, None][:, :0],
    )


def ranked(values_NH: torch.Tensor, allowed_NH: torch.Tensor) -> torch.Tensor:
    """Give the columns by value, the largest first, equal ones by position, not allowed ones last.

    Returns
    -------
    torch.Tensor
        (N, H) int64.
    """
    held_NH = values_NH.masked_fill(~allowed_NH, -torch.inf)
    return torch.sort(held_NH, dim=-1, descending=True, stable=True).indices


def most(values_NH: torch.Tensor, allowed_NH: torch.Tensor, count: int) -> torch.Tensor:
    """Mark the allowed columns with the largest values, equal ones from the left, (N, H) bool."""
    order_NC = ranked(values_NH, allowed_NH)[:, :count]
    marked_NH = torch.zeros_like(allowed_NH).scatter(-1, order_NC, True)
    return marked_NH & allowed_NH


def first_columns(allowed_NH: torch.Tensor, count: int) -> torch.Tensor:
    """Give the leftmost allowed columns, (N, count) int64; where there are fewer, others."""
    return torch.sort((~allowed_NH).to(torch.int8), dim=-1, stable=True).indices[:, :count]
