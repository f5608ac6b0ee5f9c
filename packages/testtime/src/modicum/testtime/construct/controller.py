"""The controller as a transformer with explicit weights: counts by attention, a look-up by ReLUs.

Takes the position code of a stream and gives logits of the action tokens. Every layer is one that a
transformer has, with weights written down rather than learned:

1. `CountingHead`, softmax attention that sums over feedback tokens;
2. `Rounding`, a ReLU staircase that makes the counts integers (index policies);
3. `LookUp`, two ReLU layers that return any table of two integers, exactly in any precision;
4. `ArgmaxHead`, ReLU layers that compare all pairs of experts.

Softmax policies need the first only: their logits are the sums. Knows no experts, no words and no
prompts. The controller is the slice of the residual stream that no expert reads.

Legend: ``B`` streams, ``N`` tokens, ``K`` experts, ``I`` input channels, ``T`` turns, ``M``
entries of a table, ``X`` any leading shape.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from modicum.testtime.construct.policies import IndexPolicy, SoftmaxPolicy
from modicum.testtime.construct.stream import FEEDBACK, SINK, StreamCode

__all__ = [
    "ArgmaxHead",
    "ControllerHead",
    "CountingHead",
    "LookUp",
    "Rounding",
    "check_table_size",
    "order_gap",
]

SINK_SCORE = 40 * math.log(2)
"""Attention score of the sink above that of a feedback token: sums are exact to T * 2^-40."""
OTHER_SCORE = -60.0
"""Score of prompt and response tokens, which carry nothing: they leave the normaliser alone."""
GREEDY_SCALE = 1000.0
"""Logit of the chosen action; the others have 0."""
UNITS_AT_ONCE = 2**20
"""Hidden units computed at once; tables are wide, and tokens do not need each other here."""
QUARTER_LIMIT = {torch.float32: 2**22, torch.float64: 2**51}
"""Integers below which quarters are exact."""
NOISE = 1e-13
"""Two indices of a table closer than this, in units of the largest, differ by rounding only."""


class CountingHead(nn.Module):
    """One attention head that returns, at each token, sums over the feedback tokens up to it.

    Every query is the constant 1. The sink's key scores `SINK_SCORE` above a feedback token's and
    its value is 0, so a feedback token has weight ``w / (1 + t w)``, ``w = exp(-SINK_SCORE)``;
    multiplied by 1/w the output is the sum of the t values up to a relative error of ``t w``.

    Parameters
    ----------
    num_experts
        K; input channels are sink, feedback, and 2K values.
    """

    def __init__(self, num_experts: int) -> None:
        super().__init__()
        channels = 2 + 2 * num_experts
        key_I = torch.zeros(channels)
        key_I[0], key_I[1] = SINK_SCORE - OTHER_SCORE, -OTHER_SCORE
        self.register_buffer("key_I", key_I)
        self.register_buffer("key_bias", torch.tensor(OTHER_SCORE))
        value_IO = torch.zeros(channels, 2 * num_experts)
        value_IO[2:] = torch.eye(2 * num_experts)
        self.register_buffer("value_IO", value_IO)

    key_I: torch.Tensor
    key_bias: torch.Tensor
    value_IO: torch.Tensor

    def forward(self, channels_BNI: torch.Tensor, last: bool = False) -> torch.Tensor:
        """Return sums of the 2K values, ``[B, N, 2K]``; with `last` at the last token, N = 1."""
        key_BN = channels_BNI @ self.key_I + self.key_bias
        num_tokens = key_BN.shape[1]
        scores_BNN = key_BN[:, None, :]
        if not last:
            future_NN = torch.ones(
                num_tokens, num_tokens, dtype=torch.bool, device=key_BN.device
            ).triu(1)
            scores_BNN = scores_BNN.masked_fill(future_NN, -math.inf)
        weights_BNN = scores_BNN.softmax(dim=-1)
        # What the sink's key scores above feedback in this precision, so that 1/w undoes it.
        above = self.key_I[0] - self.key_I[1]
        return (weights_BNN @ (channels_BNI @ self.value_IO)) * above.exp()


def _steps(x_X: torch.Tensor, count: int) -> torch.Tensor:
    """Return ``s_i = 2 [relu(x - i - 1/4) - relu(x - i - 3/4)]`` for i < count, ``[X, count]``.

    Exactly 1 where x is within 1/4 of an integer above i and exactly 0 where of one not above i:
    the arguments of the ReLUs are exact, as quarters are multiples of the spacing of x.
    """
    edges_M = torch.arange(count, dtype=x_X.dtype, device=x_X.device)
    beyond_XM = x_X[..., None] - edges_M
    first_XM = (beyond_XM - 0.25).relu_()
    return first_XM.sub_((beyond_XM - 0.75).relu_()).mul_(2)


class Rounding(nn.Module):
    """ReLU staircase that maps what is within 1/4 of an integer in 0 … T to that integer."""

    def __init__(self, turns: int) -> None:
        super().__init__()
        self.turns = turns

    def forward(self, x_X: torch.Tensor) -> torch.Tensor:
        """Return the integers, of the shape of `x_X`."""
        return _steps(x_X, self.turns).sum(dim=-1)


class LookUp(nn.Module):
    """Two ReLU layers that return ``table[m]`` for integers m, exactly.

    The first layer has the 2 (M - 1) units of a staircase with steps s_i. The second has M units
    ``relu(s_(i-1) - s_i)``, of which exactly one, that of m, is 1 and the others 0; the output
    weights are the table. Nothing is summed but one entry and zeros, so the result is the entry to
    the last bit in every precision (a single layer, whose output sums steps up to m, rounds at
    every step).

    Parameters
    ----------
    size
        M.
    columns
        Values per entry.
    """

    def __init__(self, size: int, columns: int) -> None:
        super().__init__()
        self.register_buffer("table_MO", torch.zeros(size, columns))

    table_MO: torch.Tensor

    def forward(self, m_X: torch.Tensor) -> torch.Tensor:
        """Return the entries, ``[X, columns]``."""
        size, columns = self.table_MO.shape
        flat_Y = m_X.reshape(-1)
        rows = max(1, UNITS_AT_ONCE // (2 * size))
        found = [self._entries(part_Y) for part_Y in flat_Y.split(rows)]
        return torch.cat(found).reshape(*m_X.shape, columns)

    def _entries(self, m_Y: torch.Tensor) -> torch.Tensor:
        steps_YM = _steps(m_Y, len(self.table_MO) - 1)
        before_YM = functional.pad(steps_YM, (1, 0), value=1.0)
        one_hot_YM = before_YM.sub_(functional.pad(steps_YM, (0, 1))).relu_()
        return one_hot_YM @ self.table_MO


class ArgmaxHead(nn.Module):
    """ReLU layers that mark the largest of K indices, each given as a coarse and a fine part.

    The coarse parts lie on a grid on which their differences are exact; the fine parts are smaller
    than the grid, so the differences keep the digits that a sum in one number would lose. Pair
    (a, b) is won by a if ``1 - relu(1 - relu(x))`` is 1, with ``x = difference / delta`` (plus 1
    where a tie is a win); it is exactly 0 or 1 because no difference lies strictly between 0 and
    delta. The expert that wins all its pairs is the largest.

    Parameters
    ----------
    num_experts
        K.
    ties
        "lowest": the first of the largest is marked; "random": all of them are.
    """

    def __init__(self, num_experts: int, ties: str) -> None:
        super().__init__()
        rank_K = torch.arange(num_experts)
        wins_tie_KK = rank_K[:, None] < rank_K if ties == "lowest" else torch.ones(1, 1)
        self.register_buffer(
            "tie_KK", wins_tie_KK.expand(num_experts, num_experts).to(torch.get_default_dtype())
        )
        self.register_buffer("delta", torch.tensor(1.0))
        self.register_buffer("others_KK", 1 - torch.eye(num_experts))

    tie_KK: torch.Tensor
    delta: torch.Tensor
    others_KK: torch.Tensor

    def forward(self, coarse_XK: torch.Tensor, fine_XK: torch.Tensor) -> torch.Tensor:
        """Return 1 at the largest and 0 elsewhere, ``[X, K]``."""
        coarse_XKK = coarse_XK[..., :, None] - coarse_XK[..., None, :]
        fine_XKK = fine_XK[..., :, None] - fine_XK[..., None, :]
        x_XKK = (coarse_XKK + fine_XKK) / self.delta + self.tie_KK
        won_XKK = 1 - functional.relu(1 - functional.relu(x_XKK))
        wins_XK = (won_XKK * self.others_KK).sum(dim=-1)
        return functional.relu(wins_XK - (coarse_XK.shape[-1] - 2))


def check_table_size(turns: int, dtype: torch.dtype, max_table: int) -> None:
    """Refuse look-up tables that are too large to build or to compute in a precision.

    Raises
    ------
    ValueError
        If ``(T + 1)²`` exceeds `max_table`, or integers up to it do not have exact quarters.
    """
    size = (turns + 1) ** 2
    if size > max_table:
        most = math.isqrt(max_table) - 1
        raise ValueError(
            f"turns={turns} needs tables of {size:,} entries, more than max_table={max_table:,}: "
            f"give at most {most} turns, a larger max_table, or a softmax policy"
        )
    if size >= QUARTER_LIMIT[dtype]:
        raise ValueError(
            f"turns={turns} needs integers up to {size:,}, whose quarters {dtype} does not have "
            "exactly: use torch.float64"
        )


def order_gap(index_TT: np.ndarray, bonus_TT: np.ndarray) -> float:
    """Return the least positive difference of two indices at the same turn.

    Parameters
    ----------
    index_TT, bonus_TT
        As `IndexPolicy.tables` gives them.

    Returns
    -------
    float
        Infinity if all indices are equal.
    """
    turns = len(index_TT) - 1
    gap = math.inf
    pulls_Y, wins_Y = np.tril_indices(turns + 1)
    # Without a bonus all turns see the same indices.
    for total in range(turns + 1) if bonus_TT.any() else [turns]:
        seen_Y = pulls_Y <= total
        values_Y = index_TT[pulls_Y[seen_Y], wins_Y[seen_Y]] + bonus_TT[total, pulls_Y[seen_Y]]
        steps_Y = np.diff(np.sort(values_Y))
        if (steps_Y > 0).any():
            gap = min(gap, float(steps_Y[steps_Y > 0].min()))
    return gap


class ControllerHead(nn.Module):
    """Position code in, logits of the K actions out.

    Parameters
    ----------
    num_experts, turns
        K, T.
    policy
        Index or softmax policy; its numbers are filled in by `set_policy`, a new module has zeros.
    """

    def __init__(self, num_experts: int, turns: int, policy: IndexPolicy | SoftmaxPolicy) -> None:
        super().__init__()
        self.num_experts, self.turns, self.policy = num_experts, turns, policy
        self.counting = CountingHead(num_experts)
        self.is_index = isinstance(policy, IndexPolicy)
        if isinstance(policy, IndexPolicy):
            size = (turns + 1) ** 2
            self.rounding = Rounding(turns)
            self.look_up_index = LookUp(size, 2)
            self.look_up_bonus = LookUp(size, 2)
            self.argmax = ArgmaxHead(num_experts, policy.ties)
        else:
            self.register_buffer("eta", torch.tensor(0.0))

    eta: torch.Tensor

    @property
    def width(self) -> int:
        """Channels of the residual stream that the controller reads and writes.

        Inputs (sink, feedback, in turn, out of turn, 2K values) and 2K sums; for index policies 2K
        integers, their total, 2K parts of the indices and K marks as well.
        """
        return 4 + 4 * self.num_experts + (5 * self.num_experts + 1 if self.is_index else 0)

    def set_policy(self, policy: IndexPolicy | SoftmaxPolicy) -> None:
        """Write a policy's numbers into the weights, in the precision that the module is in.

        Raises
        ------
        ValueError
            If two indices that differ are closer than the precision shows.
        """
        self.policy = policy
        if isinstance(policy, SoftmaxPolicy):
            self.eta.fill_(policy.rate(self.num_experts, self.turns))
            return
        index_TT, bonus_TT = policy.tables(self.turns)
        dtype = self.look_up_index.table_MO.dtype
        largest = float(np.abs(index_TT).max() + np.abs(bonus_TT).max()) or 1.0
        digits = 1 - round(math.log2(torch.finfo(dtype).eps))
        # Coarse parts: sums and differences of four of them have to be exact.
        grid = 2.0 ** (math.ceil(math.log2(largest)) + 3 - digits)
        gap = order_gap(index_TT, bonus_TT)
        finest = max(16 * grid * torch.finfo(dtype).eps, NOISE * largest)
        if gap < finest:
            raise ValueError(
                f"policy {policy.name!r} has indices that differ by {gap:.2g}, which {dtype} does "
                f"not tell apart here (it needs {finest:.2g}): round the table, or give fewer turns"
                + ("" if dtype == torch.float64 else " or dtype=torch.float64")
            )
        for module, values_TT in (
            (self.look_up_index, index_TT),
            (self.look_up_bonus, bonus_TT),
        ):
            coarse_M = np.round(values_TT.ravel() / grid) * grid
            parts_MO = np.stack([coarse_M, values_TT.ravel() - coarse_M], axis=1)
            module.table_MO.copy_(torch.from_numpy(parts_MO))
        self.argmax.delta.fill_(gap / 2 if math.isfinite(gap) else 1.0)

    def channels(self, code: StreamCode, feedback_BN: torch.Tensor | None = None) -> torch.Tensor:
        """Return the input channels ``[B, N, 2 + 2K]``: sink, feedback, one-hot action, values."""
        dtype = self.counting.key_I.dtype
        is_feedback_BN = code.kind_BN == FEEDBACK
        experts_K = torch.arange(self.num_experts, device=code.kind_BN.device)
        action_BNK = (code.action_BN[..., None] == experts_K) & is_feedback_BN[..., None]
        value_BN = code.accepted_BN if feedback_BN is None else feedback_BN
        # A value, not a product with an infinite or undefined one, away from feedback.
        value_BNK = torch.where(action_BNK, value_BN[..., None].to(dtype), 0.0)
        flags_BN2 = torch.stack([code.kind_BN == SINK, is_feedback_BN], dim=-1)
        return torch.cat([flags_BN2.to(dtype), action_BNK.to(dtype), value_BNK.to(dtype)], dim=-1)

    def counts(
        self, code: StreamCode, feedback_BN: torch.Tensor | None = None, last: bool = False
    ) -> torch.Tensor:
        """Return answers per expert and sums of their values so far, ``[B, N, 2K]``.

        With `last` at the last token only, N = 1.
        """
        return self.counting(self.channels(code, feedback_BN), last)

    def logits(self, counts_X: torch.Tensor) -> torch.Tensor:
        """Return logits of the actions ``[X, K]`` from counts ``[X, 2K]``."""
        if not self.is_index:
            return self.eta * counts_X[..., self.num_experts :]
        coarse_XK, fine_XK = self.indices(counts_X)
        return GREEDY_SCALE * self.argmax(coarse_XK, fine_XK)

    def indices(self, counts_X: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return coarse and fine parts of the indices, each ``[X, K]``, from counts ``[X, 2K]``."""
        pulls_XK, wins_XK = self.rounding(counts_X).chunk(2, dim=-1)
        total_X1 = pulls_XK.sum(dim=-1, keepdim=True)
        side = self.turns + 1
        parts_XKO = self.look_up_index(pulls_XK * side + wins_XK)
        parts_XKO = parts_XKO + self.look_up_bonus(total_X1 * side + pulls_XK)
        return parts_XKO[..., 0], parts_XKO[..., 1]

    def forward(self, code: StreamCode, feedback_BN: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits of the actions at every token, ``[B, N, K]``."""
        return self.logits(self.counts(code, feedback_BN))


def stand_in(description: dict[str, Any]) -> IndexPolicy | SoftmaxPolicy:
    """Return a policy of the described kind, its table left out: it is in the weights."""
    if description["kind"] == "softmax":
        return SoftmaxPolicy(**{key: value for key, value in description.items() if key != "kind"})
    return IndexPolicy(description["name"], _in_the_weights, ties=description["ties"])


def _in_the_weights(pulls: int, wins: int) -> float:
    raise RuntimeError(f"the table of this policy is in the weights: no ({pulls}, {wins}) here")


def describe(policy: IndexPolicy | SoftmaxPolicy) -> dict[str, Any]:
    """Return what of a policy is not in the weights, ready for JSON."""
    if isinstance(policy, IndexPolicy):
        return {"kind": "index", "name": policy.name, "ties": policy.ties}
    return {
        "kind": "softmax",
        "name": policy.name,
        "eta": policy.eta,
        "estimator": policy.estimator,
        "full_information": policy.full_information,
    }
