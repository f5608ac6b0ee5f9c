"""Codes of turns: channels by which a token attends to the prompt and to its own turn only.

A query code and a key code stand in the residual stream beside the experts' slices. Their inner
product is 0 where query and key belong together (same turn, or a key of the prompt) and at most
``-margin`` where they do not, so that B times the product added to an attention score leaves the
relevant keys as they are and sinks the others. Three families: one coordinate per turn, random
almost orthogonal signs, and the binary digits of the turn's number. Knows no experts.

Softmax cannot tell B added to the scores of relevant keys from B taken off all others. In floating
point the latter is better: every term of a relevant pair's product is exactly 0, and the expert's
own scores keep all their digits, however large B is.

Legend: ``T`` turns, ``C`` coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from modicum.core.device import torch_generator

__all__ = ["CODES", "TurnCodes", "binary_codes", "one_hot_codes", "orthogonal_codes", "turn_codes"]

CODES = ("onehot", "orthogonal", "binary")

_ATTEMPTS_PER_CODE = 64
"""Draws of one random code before more coordinates are taken."""


@dataclass(frozen=True)
class TurnCodes:
    """Query and key codes; all float64.

    Attributes
    ----------
    name
        Family.
    query_TC
        Query codes of the turns: row 0 for tokens outside of turns, row t for turn t;
        ``[T + 1, C]``.
    key_TC
        Key codes: row 0 for the prompt (zeros), row t for turn t.
    outside_C
        Key code of sink and feedback: its product with every query code is -1.
    margin
        Products of what does not belong together are at most minus this.
    coherence
        Largest absolute inner product of two different codes (0 but for "orthogonal").
    """

    name: str
    query_TC: torch.Tensor
    key_TC: torch.Tensor
    outside_C: torch.Tensor
    margin: float
    coherence: float = 0.0

    @property
    def num_coordinates(self) -> int:
        """C."""
        return self.query_TC.shape[1]


def one_hot_codes(turns: int) -> TurnCodes:
    """Return codes with one coordinate per turn and one for everything else: C = T + 1.

    Query e_t, key e_t - 1.
    """
    query_TC = torch.eye(turns + 1, dtype=torch.float64)
    key_TC = query_TC - 1
    key_TC[0] = 0
    return TurnCodes("onehot", query_TC, key_TC, -torch.ones(turns + 1).double(), 1.0)


def binary_codes(turns: int) -> TurnCodes:
    """Return codes from the digits of the turn's number: C = 2 ceil(log2(T + 1)).

    The digits b of t and their complement: query (b, 1 - b), key -(1 - b, b), so that the product
    is minus the number of digits in which two turns differ, and exactly 0 digit by digit where they
    do not. As narrow as the width O(log N) asks, without interference.
    """
    digits = max(1, math.ceil(math.log2(turns + 1)))
    bits_TC = ((torch.arange(turns + 1)[:, None] >> torch.arange(digits)) & 1).double()
    query_TC = torch.cat([bits_TC, 1 - bits_TC], dim=1)
    key_TC = -torch.cat([1 - bits_TC, bits_TC], dim=1)
    key_TC[0] = 0
    outside_C = torch.zeros(2 * digits, dtype=torch.float64)
    # Every query has exactly one of the two coordinates of the first digit.
    outside_C[[0, digits]] = -1
    return TurnCodes("binary", query_TC, key_TC, outside_C, 1.0)


def orthogonal_codes(turns: int, epsilon: float = 0.5, seed: int = 0) -> TurnCodes:
    """Return random signs with small inner products: C = 2c, c = 2 ln(2T + 2) / epsilon².

    Codes c_t with entries ±1/sqrt(c) and ``|<c_s, c_t>| <= epsilon``, drawn one after another and
    kept if they fit all earlier ones; should one not be found, c grows. Positive and negative parts
    stand side by side, query (c+, c-) and key -2 (c-, c+), so that the product is
    ``<c_s, c_t> - 1`` and each of its terms is 0 for one turn with itself.

    Parameters
    ----------
    turns
        T.
    epsilon
        Largest absolute inner product, in (0, 1).
    seed
        Of the signs.

    Raises
    ------
    ValueError
        If epsilon is out of range.
    """
    if not 0 < epsilon < 1:
        raise ValueError(f"epsilon must be in (0, 1), not {epsilon!r}")
    # Where a draw fits all others with probability about 1/e, by Hoeffding's inequality.
    width = math.ceil(2 * math.log(2 * (turns + 1)) / epsilon**2)
    signs_TC = _fitting_signs(turns + 1, width, epsilon, seed)
    while signs_TC is None:
        width += max(1, width // 8)
        signs_TC = _fitting_signs(turns + 1, width, epsilon, seed)
    codes_TC = signs_TC.double() / math.sqrt(width)
    products_TT = (signs_TC @ signs_TC.T).double() / width
    coherence = float((products_TT - products_TT.diag().diag()).abs().max())
    positive_TC, negative_TC = codes_TC.clamp(min=0), (-codes_TC).clamp(min=0)
    key_TC = -2 * torch.cat([negative_TC, positive_TC], dim=1)
    key_TC[0] = 0
    query_TC = torch.cat([positive_TC, negative_TC], dim=1)
    outside_C = torch.zeros(2 * width, dtype=torch.float64)
    # Every query has exactly one of the two parts of the first entry.
    outside_C[[0, width]] = -math.sqrt(width)
    return TurnCodes("orthogonal", query_TC, key_TC, outside_C, 1 - coherence, coherence)


def _fitting_signs(turns: int, width: int, epsilon: float, seed: int) -> torch.Tensor | None:
    """Return signs ``[turns, width]`` with inner products within epsilon; None: none found."""
    generator = torch_generator(seed, "cpu", "turn codes", width)
    signs_TC = torch.empty(turns, width)
    for turn in range(turns):
        drawn_AC = torch.randint(0, 2, (_ATTEMPTS_PER_CODE, width), generator=generator) * 2.0 - 1
        worst_A = (drawn_AC @ signs_TC[:turn].T).abs().amax(dim=1) if turn else torch.zeros(1)
        fits_A = (worst_A <= epsilon * width).nonzero()
        if not len(fits_A):
            return None
        signs_TC[turn] = drawn_AC[int(fits_A[0, 0])]
    return signs_TC


def turn_codes(name: str, turns: int, epsilon: float = 0.5, seed: int = 0) -> TurnCodes:
    """Return the codes of a family: "onehot", "orthogonal" or "binary".

    Raises
    ------
    ValueError
        If there is no such family, or T is below 1.
    """
    if turns < 1:
        raise ValueError(f"turns must be at least 1, not {turns!r}")
    if name == "onehot":
        return one_hot_codes(turns)
    if name == "binary":
        return binary_codes(turns)
    if name == "orthogonal":
        return orthogonal_codes(turns, epsilon, seed)
    raise ValueError(f"codes must be one of {', '.join(CODES)}, not {name!r}")
