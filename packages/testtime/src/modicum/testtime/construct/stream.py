"""The token stream of a glued transformer, and the position code of its tokens.

``SINK, q_1 … q_m, ACT_a, u_1 …, FB(r), ACT_a', u'_1 …, FB(r'), …``: one prompt, then turns in which
expert a answers and a verifier says what the answer is worth. `TokenLayout` numbers the tokens and
`read_stream` gives each token its generalised position code: a causal function of which *sets* the
tokens so far belong to (sink, words of an expert, actions, feedback), never of which word it is.
Knows no weights and no rewards' meaning.

Source: "Sample Complexity and Representation Ability of Test-time Scaling Paradigms", Huang et al.,
arXiv 2506.05295. One vocabulary for all experts, with the action tokens as the indicators that
separate the tasks, is the setting of Proposition 4.4; disjoint vocabularies that of Proposition
4.2.

Legend: ``B`` streams, ``N`` tokens, ``K`` experts, ``W`` words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

__all__ = ["FEEDBACK", "PROMPT", "SINK", "TURN", "StreamCode", "TokenLayout", "read_stream"]

SINK, PROMPT, TURN, FEEDBACK = range(4)
"""Kinds of tokens; an action and the response after it are one kind, the turn."""


@dataclass(frozen=True)
class TokenLayout:
    """Numbers of the tokens: words first, then the sink, the actions and two feedback tokens.

    Parameters
    ----------
    vocab_sizes
        Words per expert, K of them.
    disjoint
        False: the experts share their words, word v of one is word v of all (Proposition 4.4).
        True: each expert has words of its own, one block after another (Proposition 4.2); the
        prompt is then written once for each expert, in its words.
    """

    vocab_sizes: tuple[int, ...]
    disjoint: bool = False

    @property
    def num_experts(self) -> int:
        """K."""
        return len(self.vocab_sizes)

    @property
    def num_words(self) -> int:
        """W, words of all experts together."""
        return sum(self.vocab_sizes) if self.disjoint else max(self.vocab_sizes)

    @property
    def size(self) -> int:
        """Number of all tokens."""
        return self.num_words + 1 + self.num_experts + 2

    @property
    def sink(self) -> int:
        """First token of every stream."""
        return self.num_words

    def action(self, expert: int) -> int:
        """Return the token that gives the turn to an expert (and ends its input)."""
        if not 0 <= expert < self.num_experts:
            raise ValueError(f"expert must be in 0 … {self.num_experts - 1}, not {expert!r}")
        return self.num_words + 1 + expert

    def feedback(self, accepted: bool | int) -> int:
        """Return the feedback token FB(0) or FB(1)."""
        return self.num_words + 1 + self.num_experts + int(bool(accepted))

    def first_word(self, expert: int) -> int:
        """Return the number of an expert's word 0."""
        return sum(self.vocab_sizes[:expert]) if self.disjoint else 0

    def readable_WK(self) -> torch.Tensor:
        """Return which words each expert has, bool ``[W, K]``."""
        words_W = torch.arange(self.num_words)
        return torch.stack(
            [
                (words_W >= self.first_word(expert)) & (words_W < self.first_word(expert) + size)
                for expert, size in enumerate(self.vocab_sizes)
            ],
            dim=1,
        )


class StreamCode(NamedTuple):
    """Position code of a batch of streams.

    Attributes
    ----------
    kind_BN
        `SINK`, `PROMPT`, `TURN` or `FEEDBACK`, int64.
    turn_BN
        Number of actions so far, this token included, int64.
    action_BN
        Expert of the latest action, -1 before the first, int64.
    position_BNK
        Position of the token in the sequence that expert k would see alone, int64; 0 where it sees
        nothing.
    inactive_BNK
        Flags, bool: at a turn those of all experts but the one that answers, at a prompt token
        those of experts that do not have the word, at feedback all, at the sink none.
    accepted_BN
        True at FB(1).
    """

    kind_BN: torch.Tensor
    turn_BN: torch.Tensor
    action_BN: torch.Tensor
    position_BNK: torch.Tensor
    inactive_BNK: torch.Tensor
    accepted_BN: torch.Tensor


def read_stream(
    layout: TokenLayout, ids_BN: torch.Tensor, readable_WK: torch.Tensor | None = None
) -> StreamCode:
    """Return the position code of streams.

    Parameters
    ----------
    layout
        Numbers of the tokens.
    ids_BN
        Token ids, int64 ``[B, N]``.
    readable_WK
        ``layout.readable_WK()`` on the device of the ids, for who has it at hand.

    Raises
    ------
    ValueError
        If a stream does not have the form that the module's description gives, with its row and
        column.
    """
    readable_WK = layout.readable_WK().to(ids_BN.device) if readable_WK is None else readable_WK
    _check_ids(layout, ids_BN)
    num_words, num_experts = layout.num_words, layout.num_experts
    is_word_BN = ids_BN < num_words
    is_action_BN = (ids_BN > num_words) & (ids_BN <= num_words + num_experts)
    turn_BN = is_action_BN.cumsum(dim=1)
    kind_BN = torch.full_like(ids_BN, FEEDBACK)
    kind_BN[ids_BN == layout.sink] = SINK
    kind_BN[is_word_BN & (turn_BN == 0)] = PROMPT
    kind_BN[is_action_BN | (is_word_BN & (turn_BN > 0))] = TURN

    columns_N = torch.arange(ids_BN.shape[1], device=ids_BN.device)
    latest_BN = torch.where(is_action_BN, columns_N, -1).cummax(dim=1).values
    action_BN = torch.where(
        latest_BN < 0, -1, ids_BN.gather(1, latest_BN.clamp(min=0)) - num_words - 1
    )
    has_word_BNK = readable_WK[ids_BN.clamp(max=num_words - 1)] & is_word_BN[..., None]
    reads_BNK = has_word_BNK & (kind_BN == PROMPT)[..., None]
    num_read_BNK = reads_BNK.cumsum(dim=1)
    in_turn_BN = kind_BN == TURN
    position_BNK = torch.where(
        in_turn_BN[..., None],
        num_read_BNK + (columns_N - latest_BN)[..., None],
        torch.where(reads_BNK, num_read_BNK - 1, 0),
    )
    experts_K = torch.arange(num_experts, device=ids_BN.device)
    inactive_BNK = (kind_BN == FEEDBACK)[..., None].expand_as(reads_BNK).clone()
    inactive_BNK |= in_turn_BN[..., None] & (experts_K != action_BN[..., None])
    inactive_BNK |= (kind_BN == PROMPT)[..., None] & ~reads_BNK
    code = StreamCode(
        kind_BN,
        turn_BN,
        action_BN,
        position_BNK,
        inactive_BNK,
        ids_BN == layout.feedback(1),
    )
    _check_form(ids_BN, code, is_action_BN, has_word_BNK)
    if not layout.disjoint:
        _check_shared_prompt(code)
    return code


def _check_ids(layout: TokenLayout, ids_BN: torch.Tensor) -> None:
    if ids_BN.ndim != 2 or ids_BN.dtype != torch.int64 or not ids_BN.numel():
        raise ValueError(
            f"token ids must be int64 [B, N] and not empty, not {ids_BN.dtype} {list(ids_BN.shape)}"
        )
    low, high = (int(end) for end in torch.aminmax(ids_BN))
    if low < 0 or high >= layout.size:
        raise ValueError(
            f"token ids must be in 0 … {layout.size - 1}, not {low if low < 0 else high}"
        )


def _refuse(wrong_BN: torch.Tensor, ids_BN: torch.Tensor, what: str) -> None:
    if wrong_BN.any():
        row, column = (int(index) for index in wrong_BN.nonzero()[0])
        raise ValueError(f"token {int(ids_BN[row, column])} at [{row}, {column}] {what}")


def _check_form(
    ids_BN: torch.Tensor,
    code: StreamCode,
    is_action_BN: torch.Tensor,
    has_word_BNK: torch.Tensor,
) -> None:
    kind_BN = code.kind_BN
    first_BN = torch.zeros_like(is_action_BN)
    first_BN[:, 0] = True
    _refuse((kind_BN == SINK) != first_BN, ids_BN, "is wrong: the sink is the first token only")
    before_BN = torch.cat([kind_BN.new_full((len(ids_BN), 1), SINK), kind_BN[:, :-1]], dim=1)
    _refuse((kind_BN == FEEDBACK) & (before_BN != TURN), ids_BN, "is feedback that follows no turn")
    _refuse(
        is_action_BN & (before_BN == TURN), ids_BN, "is an action before the last turn's feedback"
    )
    _refuse(
        (kind_BN == TURN) & ~is_action_BN & (before_BN == FEEDBACK),
        ids_BN,
        "follows feedback, where only an action may",
    )
    acting_BN1 = code.action_BN.clamp(min=0)[..., None]
    has_it_BN = has_word_BNK.gather(2, acting_BN1)[..., 0]
    _refuse(
        (kind_BN == TURN) & ~is_action_BN & ~has_it_BN,
        ids_BN,
        "is not a word of the expert whose turn it is",
    )


def _check_shared_prompt(code: StreamCode) -> None:
    """Refuse a turn of an expert that lacks a word of the shared prompt."""
    lacks_BK = (code.inactive_BNK & (code.kind_BN == PROMPT)[..., None]).any(dim=1)
    in_turn_BN = code.kind_BN == TURN
    acts_BN = lacks_BK.gather(1, code.action_BN.clamp(min=0)) & in_turn_BN
    if acts_BN.any():
        row, column = (int(index) for index in acts_BN.nonzero()[0])
        raise ValueError(
            f"expert {int(code.action_BN[row, column])}, whose turn it is at [{row}, {column}], "
            "does not have every word of the prompt"
        )
