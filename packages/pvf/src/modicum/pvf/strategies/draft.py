"""One token for each call, several calls at once: what is committed does not change.

Takes the order in which one look at the canvas would commit the open tokens, one after another,
asks for predictions after each of the first steps in one call, and goes along as far as these
predictions choose the same next token. Source: "Free Draft-and-Verification: Toward Lossless
Parallel Decoding for Diffusion Large Language Models", Wu and Zhang, arXiv 2510.00294.

Shapes: N sequences, R rows (row j has the first j + 1 tokens of the order), K = R - 1 drafts, H
columns of the horizon.
"""

from dataclasses import dataclass, field, fields
from typing import Literal

import torch

from modicum.pvf.strategies.base import Decision, Predictions, Proposal, View, ranked
from modicum.pvf.strategies.one_row import certainty
from modicum.pvf.strategies.plan_verify_fill import COMMIT, FILL
from modicum.pvf.validation import check_choice, check_count

__all__ = ["DraftVerify"]


@dataclass(frozen=True)
class DraftVerify:
    """Decoding of one token for each call, in fewer calls, without a change of a single token.

    Parameters
    ----------
    num_drafts
        Steps beyond the first that a call tries, at most. 0 is one token for each call.
    rank
        What the next token is chosen by: ``"confidence"``, ``"margin"`` or ``"entropy"``, as in
        `modicum.pvf.TopK`, whose tokens with ``steps=None`` these are. Blocks are kept apart.

    Raises
    ------
    ValueError
        If a value is out of range.

    Notes
    -----
    Source: FreeDave, arXiv 2510.00294. With a temperature the tokens are drawn by other numbers
    than those that `modicum.pvf.TopK` draws by. With a stop at the end token the answers are equal
    up to it: a call that commits it may commit tokens behind it too.
    """

    num_drafts: int = 3
    rank: Literal["confidence", "margin", "entropy"] = "confidence"
    unlock_threshold: int = field(default=0, init=False)
    name: str = field(default="draft", init=False)
    whole_span: bool = field(default=False, init=False)
    needs_divergence: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        check_count("num_drafts", self.num_drafts, 0)
        check_choice("rank", self.rank, ("confidence", "margin", "entropy"))

    @property
    def most_rows(self) -> int:
        """R, the most rows of a proposal."""
        return self.num_drafts + 1

    def start(self, sequences: int, length: int, device: torch.device) -> dict[str, torch.Tensor]:
        """Give the memory of new sequences: none."""
        return {}

    def propose(self, view: View) -> Proposal:
        """Say what the canvas would look like after one step, after two, and so on."""
        order_NR = ranked(certainty(view.seen, self.rank), view.open)[:, : self.most_rows]
        rows_N = view.open.sum(-1).clamp(max=order_NR.shape[1])
        number_R = torch.arange(order_NR.shape[1], device=order_NR.device)
        column_H = torch.arange(view.open.shape[1], device=order_NR.device)
        step_NRH = order_NR[..., None] == column_H
        step_NRH &= (number_R < rows_N[:, None])[..., None]
        # The first step needs no test: where nothing else is left, no predictions follow it.
        asks_N = rows_N > 1
        return Proposal(
            fill=step_NRH.long().cumsum(1).bool(),
            rows=torch.where(asks_N, rows_N, 0),
            forced=torch.zeros_like(asks_N),
            route=torch.where(asks_N, FILL, COMMIT),
            drafts=order_NR[:, 1:],
        )

    def accept(self, view: View, proposal: Proposal, rows: Predictions) -> Decision:
        """Go along with the order as far as each row's predictions choose the next step of it."""
        drafts_NK = proposal.drafts
        number_K = torch.arange(drafts_NK.shape[1], device=drafts_NK.device)
        values_NKH = certainty(rows, self.rank)[:, : len(number_K)]
        open_NKH = view.open[:, None] & ~proposal.fill[:, :-1]
        chosen_NK = ranked(values_NKH, open_NKH)[..., 0]
        drafted_NK = view.seen.token.gather(-1, drafts_NK)
        token_NK = rows.token[:, : len(number_K)].gather(-1, drafts_NK[..., None])[..., 0]
        held_NK = (chosen_NK == drafts_NK) & (token_NK == drafted_NK)
        held_NK &= number_K < (proposal.rows - 1)[:, None]
        passed_NK = held_NK.long().cumprod(-1).bool()
        return Decision(
            row=passed_NK.sum(-1),
            keep=torch.ones_like(proposal.forced),
            passed=passed_NK,
            unexpected=torch.zeros_like(passed_NK),
        )

    def to_dict(self) -> dict[str, object]:
        """Give its settings as plain values."""
        settings = {item.name: getattr(self, item.name) for item in fields(self) if item.init}
        return {"strategy": self.name, **settings}
