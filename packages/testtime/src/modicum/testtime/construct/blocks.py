"""Blocks of a glued transformer: all experts side by side in dense matrices.

Says which columns of the residual stream hold what (`GlueConfig`, `Channels`) and computes one
block, for all experts (`GluedBlock.forward`) or for one (`GluedBlock.one`). The weights come from
`glue`; token ids, position codes and logits are the business of `transformer`.

Legend: ``B`` streams, ``N`` tokens, ``K`` experts, ``D`` width of the stream, ``d`` width of a
slice, ``H`` heads of all experts, ``E`` width of a head, ``I`` H times E, ``F`` hidden width.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from modicum.testtime.construct.codes import TurnCodes, turn_codes
from modicum.testtime.construct.experts import ACTIVATIONS
from modicum.testtime.construct.stream import TokenLayout

__all__ = ["PRESENCE", "Channels", "GlueConfig", "GluedBlock", "SliceNorm", "weight"]

PRESENCE = 64.0
"""Pre-activation of the hidden unit that carries a branch's bias: every activation keeps it as it
is, and the division by it is exact."""


@dataclass(frozen=True)
class GlueConfig:
    """Sizes of a glued transformer; everything that is not a weight. One entry per expert.

    Attributes
    ----------
    vocab_sizes, n_positions, widths, heads, layers, hidden
        Of the experts.
    end_of_input
        The expert's word that the action token stands for, which ends its input.
    norm_epsilons
        Of the layer norms, None for an expert without.
    activation
        Of the feed-forward branches, None if no expert has one.
    turns
        Most turns of a stream, T.
    policy
        Kind of controller.
    disjoint
        Whether every expert has words of its own.
    codes, epsilon, code_seed
        Family of turn codes and its parameters.
    """

    vocab_sizes: tuple[int, ...]
    n_positions: tuple[int, ...]
    widths: tuple[int, ...]
    heads: tuple[int, ...]
    layers: tuple[int, ...]
    hidden: tuple[int, ...]
    end_of_input: tuple[int, ...]
    norm_epsilons: tuple[float | None, ...]
    activation: str | None
    turns: int
    policy: dict[str, Any] = field(default_factory=dict)
    disjoint: bool = False
    codes: str = "onehot"
    epsilon: float = 0.5
    code_seed: int = 0

    @property
    def num_experts(self) -> int:
        """K."""
        return len(self.widths)

    @property
    def head_width(self) -> int:
        """Width of the expert heads; narrower ones are padded with zeros."""
        return max(width // heads for width, heads in zip(self.widths, self.heads, strict=True))

    def layout(self) -> TokenLayout:
        """Return the numbers of the tokens."""
        return TokenLayout(self.vocab_sizes, self.disjoint)

    def turn_codes(self) -> TurnCodes:
        """Return the codes of the turns."""
        return turn_codes(self.codes, self.turns, self.epsilon, self.code_seed)

    def to_json(self) -> str:
        """Return the configuration as JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> GlueConfig:
        """Read what `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        tuples: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**tuples)


class Channels:
    """Which columns of the residual stream hold what.

    Attributes
    ----------
    query_code, key_code, sink, inactive
        Columns of the position code, after the experts' slices.
    width
        D = sum of the experts' widths + 2C + 1 + K.
    """

    def __init__(self, config: GlueConfig, num_coordinates: int) -> None:
        self.starts = [sum(config.widths[:expert]) for expert in range(config.num_experts + 1)]
        first = self.starts[-1]
        self.query_code = slice(first, first + num_coordinates)
        self.key_code = slice(first + num_coordinates, first + 2 * num_coordinates)
        self.sink = first + 2 * num_coordinates
        self.inactive = slice(self.sink + 1, self.sink + 1 + config.num_experts)
        self.width = self.inactive.stop

    def expert(self, expert: int) -> slice:
        """Return the columns of an expert's slice."""
        return slice(self.starts[expert], self.starts[expert + 1])


class SliceNorm(nn.Module):
    """Layer norm of each expert's slice by itself, without affine part; other channels pass."""

    def __init__(self, config: GlueConfig) -> None:
        super().__init__()
        self.widths, self.epsilons = config.widths, config.norm_epsilons

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        """Return the normed stream."""
        total = sum(self.widths)
        slices = x_BND[..., :total].split(self.widths, dim=-1)
        normed = [self.one(part_BNd, expert) for expert, part_BNd in enumerate(slices)]
        return torch.cat([*normed, x_BND[..., total:]], dim=-1)

    def one(self, part_BNd: torch.Tensor, expert: int) -> torch.Tensor:
        """Return one expert's slice, normed if that expert has norms."""
        epsilon = self.epsilons[expert]
        if epsilon is None:
            return part_BNd
        return functional.layer_norm(part_BNd, part_BNd.shape[-1:], eps=epsilon)


def weight(*shape: int) -> nn.Parameter:
    """Return a parameter of zeros that no optimiser sees unless it is asked to."""
    return nn.Parameter(torch.zeros(*shape), requires_grad=False)


def _attention(query_BHNE: torch.Tensor, key_BHNE: torch.Tensor) -> torch.Tensor:
    """Return causal softmax weights ``[B, H, N, N]``; the scores are not scaled."""
    scores_BHNN = query_BHNE @ key_BHNE.transpose(-1, -2)
    num_tokens = scores_BHNN.shape[-1]
    future_NN = torch.ones(
        num_tokens, num_tokens, dtype=torch.bool, device=scores_BHNN.device
    ).triu(1)
    return scores_BHNN.masked_fill(future_NN, -math.inf).softmax(dim=-1)


class GluedBlock(nn.Module):
    """One block of all experts side by side.

    All maps are dense matrices over the whole stream. A head has the coordinates of its expert's
    head, then C coordinates for the turn codes, then one for the sink. The first of the code
    coordinates of a slice's first head carries, in the values, the constant 1 of every token but
    the sink: by it the output bias reaches the slice exactly when something other than the sink is
    looked at. A hidden unit does the same for the feed-forward branch.
    """

    def __init__(self, config: GlueConfig, channels: Channels, num_coordinates: int) -> None:
        super().__init__()
        self.config, self.channels = config, channels
        self.norm = SliceNorm(config)
        self.first_heads = [sum(config.heads[:k]) for k in range(config.num_experts + 1)]
        # A unit more than the experts have, for the bias.
        self.hidden = [size + 1 if size else 0 for size in config.hidden]
        self.first_units = [sum(self.hidden[:k]) for k in range(config.num_experts + 1)]
        self.num_heads = self.first_heads[-1]
        self.head_width = config.head_width + num_coordinates + 1
        width, inner = channels.width, self.num_heads * self.head_width
        for name in ("query", "key", "value"):
            setattr(self, f"{name}_DI", weight(width, inner))
            setattr(self, f"{name}_bias_I", weight(inner))
        self.out_ID = weight(inner, width)
        self.up_DF = weight(width, self.first_units[-1])
        self.up_bias_F = weight(self.first_units[-1])
        self.down_FD = weight(self.first_units[-1], width)

    query_DI: nn.Parameter
    query_bias_I: nn.Parameter
    key_DI: nn.Parameter
    key_bias_I: nn.Parameter
    value_DI: nn.Parameter
    value_bias_I: nn.Parameter

    def _heads(self, flat_BNI: torch.Tensor) -> torch.Tensor:
        return flat_BNI.unflatten(-1, (self.num_heads, self.head_width)).transpose(1, 2)

    def attention_weights(self, normed_BND: torch.Tensor) -> torch.Tensor:
        """Return what each token looks at, ``[B, H, N, N]``."""
        return _attention(
            self._heads(normed_BND @ self.query_DI + self.query_bias_I),
            self._heads(normed_BND @ self.key_DI + self.key_bias_I),
        )

    def values(self, normed_BND: torch.Tensor) -> torch.Tensor:
        """Return the values, ``[B, H, N, E]``."""
        return self._heads(normed_BND @ self.value_DI + self.value_bias_I)

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        """Return the stream after the block."""
        normed_BND = self.norm(x_BND)
        mixed_BHNE = self.attention_weights(normed_BND) @ self.values(normed_BND)
        x_BND = x_BND + mixed_BHNE.transpose(1, 2).flatten(2) @ self.out_ID
        if not self.config.activation:
            return x_BND
        hidden_BNF = self.norm(x_BND) @ self.up_DF + self.up_bias_F
        return x_BND + ACTIVATIONS[self.config.activation](hidden_BNF) @ self.down_FD

    def _part(self, part: torch.Tensor, expert: int, width: int) -> torch.Tensor:
        """Return an expert's heads of a map into heads, ``[…, H_k * width]``."""
        heads = slice(self.first_heads[expert], self.first_heads[expert + 1])
        by_head = part.unflatten(-1, (self.num_heads, self.head_width))
        return by_head[..., heads, :width].flatten(-2)

    def one(self, x_BNd: torch.Tensor, expert: int) -> torch.Tensor:
        """Return one expert's slice after the block, for a sequence that is its business alone."""
        rows = self.channels.expert(expert)
        first, last = self.first_heads[expert], self.first_heads[expert + 1]
        width = self.config.widths[expert] // self.config.heads[expert]
        normed_BNd = self.norm.one(x_BNd, expert)
        query, key, value = (
            (
                normed_BNd @ self._part(map_DI[rows], expert, width)
                + self._part(bias_I, expert, width)
            )
            .unflatten(-1, (last - first, width))
            .transpose(1, 2)
            for map_DI, bias_I in (
                (self.query_DI, self.query_bias_I),
                (self.key_DI, self.key_bias_I),
                (self.value_DI, self.value_bias_I),
            )
        )
        out_HED = self.out_ID[:, rows].unflatten(0, (self.num_heads, self.head_width))
        mixed = (_attention(query, key) @ value).transpose(1, 2).flatten(2)
        x_BNd = x_BNd + mixed @ out_HED[first:last, :width].flatten(0, 1)
        x_BNd = x_BNd + out_HED[first, self.config.head_width]
        if not self.hidden[expert]:
            return x_BNd
        units = slice(self.first_units[expert], self.first_units[expert + 1])
        hidden = self.norm.one(x_BNd, expert) @ self.up_DF[rows, units] + self.up_bias_F[units]
        activation = ACTIVATIONS[self.config.activation or "relu"]
        return x_BNd + activation(hidden) @ self.down_FD[units, rows]
