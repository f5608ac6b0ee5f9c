"""The loop around a glued transformer: environment and verifier of the paper's Algorithm 1.

The network names an expert, answers as it, token by token, and reads the reward as its next token.
Here stands what is outside of the network: the verifier is called, its feedback is written into the
stream, and turns are counted.

Legend: ``B`` streams, ``N`` tokens, ``m`` words of a prompt, ``V`` tokens of the layout, ``K``
experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from modicum.testtime.construct.transformer import GluedTransformer

__all__ = ["Run", "Trajectory", "Turn", "Verifier", "choose"]

Verifier = Callable[[torch.Tensor, torch.Tensor], float]
"""Words of a query and of a response to a reward in [0, 1]."""


class Turn(NamedTuple):
    """One turn of a trajectory: who answered, what, its reward, and the reward of all others.

    ``rewards_K`` is given under full information only.
    """

    expert: int
    response: tuple[int, ...]
    reward: float
    rewards_K: tuple[float, ...] = ()


@dataclass(frozen=True)
class Trajectory:
    """What the network did with one query.

    Attributes
    ----------
    query
        Words of the prompt.
    turns
        In order. Under full information one per round: the turn that counted.
    token_ids
        The whole stream, int64 ``[N]``.
    """

    query: tuple[int, ...]
    turns: tuple[Turn, ...]
    token_ids: torch.Tensor

    @property
    def actions(self) -> list[int]:
        """Experts in order of their turns."""
        return [turn.expert for turn in self.turns]

    @property
    def rewards(self) -> list[float]:
        """Rewards in order."""
        return [turn.reward for turn in self.turns]

    @property
    def last(self) -> tuple[int, ...]:
        """Response of the last turn, which the paper's Algorithm 1 returns."""
        return self.turns[-1].response

    @property
    def best(self) -> tuple[int, ...]:
        """Response with the highest reward, the earliest of equals."""
        return max(self.turns, key=lambda turn: turn.reward).response


def choose(logits_BV: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Return the largest of each row, the first of equals, or a draw from its softmax.

    Drawn as Gumbel-max in double precision on the CPU, so that the same seed draws the same on
    every device that computes the same logits.
    """
    if generator is None:
        return logits_BV.argmax(dim=-1)
    noise_BV = torch.empty(logits_BV.shape, dtype=torch.float64).exponential_(generator=generator)
    return (logits_BV.double() - noise_BV.log().to(logits_BV.device)).argmax(dim=-1)


@dataclass(eq=False)
class _Streams:
    """Streams of one length that are still going, and what has happened in them.

    Attributes
    ----------
    rows
        Which query each stream is of.
    ids_BN
        Tokens so far.
    values_BN
        What their feedback tokens carry.
    """

    rows: list[int]
    ids_BN: torch.Tensor
    values_BN: torch.Tensor

    def append(self, ids_B: torch.Tensor, values_B: torch.Tensor | None = None) -> None:
        """Add one token to every stream."""
        if values_B is None:
            values_B = self.values_BN.new_zeros(len(ids_B))
        self.ids_BN = torch.cat([self.ids_BN, ids_B[:, None]], dim=1)
        self.values_BN = torch.cat([self.values_BN, values_B[:, None]], dim=1)

    def keep(self, kept_B: torch.Tensor) -> None:
        """Drop the streams that are done."""
        self.rows = [row for row, kept in zip(self.rows, kept_B.tolist(), strict=True) if kept]
        self.ids_BN, self.values_BN = self.ids_BN[kept_B], self.values_BN[kept_B]


@dataclass(eq=False)
class Run:
    """One call of `GluedTransformer.generate`; its parameters are explained there.

    ``stop_at`` is the reward from which a query ends, infinity for never.
    """

    model: GluedTransformer
    verifier: Verifier
    max_new_tokens: int
    end_of_response: int | None
    stop_at: float
    temperature: float
    generator: torch.Generator | None

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {self.max_new_tokens!r}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature must be finite and >= 0, not {self.temperature!r}")
        if self.temperature > 0 and self.generator is None:
            raise ValueError(f"temperature={self.temperature!r} draws words: give a generator")

    def play(self, query_BM: torch.Tensor, rounds: int) -> list[Trajectory]:
        """Play queries of one length side by side."""
        sink_B1 = query_BM.new_full((len(query_BM), 1), self.model.layout.sink)
        ids_BN = torch.cat([sink_B1, query_BM], dim=1)
        values_BN = torch.zeros(
            ids_BN.shape, dtype=self.model.token_VD.dtype, device=query_BM.device
        )
        streams = _Streams(list(range(len(query_BM))), ids_BN, values_BN)
        turns: list[list[Turn]] = [[] for _ in range(len(query_BM))]
        ended: dict[int, torch.Tensor] = {}
        for _ in range(rounds):
            played = self._round(streams, query_BM)
            for row, turn in zip(streams.rows, played, strict=True):
                turns[row].append(turn)
            ended |= dict(zip(streams.rows, streams.ids_BN.cpu(), strict=True))
            going_B = torch.tensor([turn.reward < self.stop_at for turn in played])
            streams.keep(going_B.to(query_BM.device))
            if not streams.rows:
                break
        return [
            Trajectory(tuple(query_BM[row].tolist()), tuple(turns[row]), ended[row])
            for row in range(len(query_BM))
        ]

    def _round(self, streams: _Streams, query_BM: torch.Tensor) -> list[Turn]:
        """Play one round: a turn, or under full information one turn of each expert."""
        layout = self.model.layout
        logits_BV = self._logits(streams)
        token_B = choose(logits_BV, self.generator)
        first = layout.action(0)
        if not self.model.full_information:
            probability_B = logits_BV.double().softmax(dim=-1).gather(1, token_B[:, None])[:, 0]
            return self._turn(streams, query_BM, token_B, probability_B)
        by_expert = []
        for expert in range(layout.num_experts):
            forced_B = torch.full_like(token_B, layout.action(expert))
            by_expert.append(
                self._turn(streams, query_BM, forced_B, torch.ones_like(token_B).double())
            )
        return [
            by_expert[int(token) - first][index]._replace(
                rewards_K=tuple(turns[index].reward for turns in by_expert)
            )
            for index, token in enumerate(token_B)
        ]

    def _turn(
        self,
        streams: _Streams,
        query_BM: torch.Tensor,
        action_B: torch.Tensor,
        probability_B: torch.Tensor,
    ) -> list[Turn]:
        """Let the experts of the action tokens answer and tell the streams their rewards."""
        model, first = self.model, self.model.layout.action(0)
        streams.append(action_B)
        start = streams.ids_BN.shape[1]
        for _ in range(self.max_new_tokens):
            logits_BV = self._logits(streams)
            if self.temperature > 0:
                logits_BV = logits_BV / self.temperature
            word_B = choose(logits_BV, self.generator if self.temperature > 0 else None)
            streams.append(word_B)
            if self.end_of_response is not None and int(word_B[0]) == self.end_of_response:
                break
        turns, values = [], []
        for index, row in enumerate(streams.rows):
            response_n = streams.ids_BN[index, start:].cpu()
            reward = float(self.verifier(query_BM[row].cpu(), response_n))
            turns.append(Turn(int(action_B[index]) - first, tuple(response_n.tolist()), reward))
            values.append(model.feedback_of(reward, float(probability_B[index])))
        tokens_B = torch.tensor([token for token, _ in values], device=query_BM.device)
        values_B = streams.values_BN.new_tensor([value for _, value in values])
        streams.append(tokens_B, values_B)
        return turns

    def _logits(self, streams: _Streams) -> torch.Tensor:
        """Return the logits of the next token of each stream, ``[B, V]``."""
        feedback_BN = None if self.model.controller.is_index else streams.values_BN
        return self.model.next_logits(streams.ids_BN, feedback_BN)
