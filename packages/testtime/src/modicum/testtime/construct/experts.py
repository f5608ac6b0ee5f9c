"""Reads the weights of an expert and nothing else of it.

Takes a GPT-2: a ``GPT2LMHeadModel`` of transformers, a `modicum.testtime.tinygpt.TinyGPT`, or any
module with the same parameters under the same names; or one whose blocks have attention only
(`AttentionOnlyLM`), the setting of the paper. Gives `ExpertWeights` in double precision, with each
layer norm's affine part folded into the maps that read it, so that the norms themselves map zero to
zero. The expert is never run. Other architectures are refused by name.

Legend: ``D`` width, ``H`` heads, ``E`` width of a head, ``F`` hidden width of the feed-forward
branch, ``V`` words, ``P`` positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

__all__ = ["ACTIVATIONS", "AttentionOnlyLM", "BlockWeights", "ExpertWeights", "read_expert"]

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu": functional.gelu,
    "relu": functional.relu,
}
"""Activations by transformers' names. All map 0 to 0 and large numbers to themselves, exactly."""


@dataclass(frozen=True)
class BlockWeights:
    """One block: maps of attention and feed-forward branch, rows for inputs, float64.

    Queries are scaled by ``1 / sqrt(E)``. ``up_DF`` has 0 columns where there is no feed-forward
    branch.
    """

    query_DHE: torch.Tensor
    query_bias_HE: torch.Tensor
    key_DHE: torch.Tensor
    key_bias_HE: torch.Tensor
    value_DHE: torch.Tensor
    value_bias_HE: torch.Tensor
    out_HED: torch.Tensor
    out_bias_D: torch.Tensor
    up_DF: torch.Tensor
    up_bias_F: torch.Tensor
    down_FD: torch.Tensor
    down_bias_D: torch.Tensor


@dataclass(frozen=True)
class ExpertWeights:
    """All weights of an expert.

    Attributes
    ----------
    token_VD, position_PD
        Embeddings.
    blocks
        From first to last.
    final_scale_D, final_bias_D
        Affine part of the last norm (ones and zeros where there is none).
    unembed_VD
        Output head.
    norm_epsilon
        Added to the variance in layer norms, None where there are no norms.
    activation
        Key of `ACTIVATIONS`, None where there is no feed-forward branch.
    dtype
        Of the expert's own weights.
    """

    token_VD: torch.Tensor
    position_PD: torch.Tensor
    blocks: tuple[BlockWeights, ...]
    final_scale_D: torch.Tensor
    final_bias_D: torch.Tensor
    unembed_VD: torch.Tensor
    norm_epsilon: float | None
    activation: str | None
    dtype: torch.dtype

    @property
    def width(self) -> int:
        """D."""
        return self.token_VD.shape[1]

    @property
    def num_heads(self) -> int:
        """H."""
        return self.blocks[0].query_DHE.shape[1]

    @property
    def head_width(self) -> int:
        """E."""
        return self.blocks[0].query_DHE.shape[2]

    @property
    def hidden_width(self) -> int:
        """F."""
        return self.blocks[0].up_DF.shape[1]

    def radii(self) -> list[float]:
        """Return bounds on the norm of what each block's attention reads, and of the last state.

        Behind a layer norm that is ``sqrt(D)``; without norms it grows from block to block by what
        the block can add.
        """
        if self.norm_epsilon is not None:
            return [math.sqrt(self.width)] * (len(self.blocks) + 1)
        radius = float(self.token_VD.norm(dim=1).max() + self.position_PD.norm(dim=1).max())
        found = [radius]
        for block in self.blocks:
            through_HDD = torch.einsum("dhe,hef->hdf", block.value_DHE, block.out_HED)
            shift_D = torch.einsum("he,hed->d", block.value_bias_HE, block.out_HED)
            radius += radius * float(torch.linalg.matrix_norm(through_HDD, 2).sum())
            radius += float((shift_D + block.out_bias_D).norm())
            found.append(radius)
        return found

    def score_bound(self) -> float:
        """Return a bound on every attention score, from the weights alone."""
        largest = 0.0
        for radius, block in zip(self.radii(), self.blocks, strict=False):
            query_HDE, key_HDE = block.query_DHE.transpose(0, 1), block.key_DHE.transpose(0, 1)
            if self.norm_epsilon is not None:
                # What a layer norm gives has mean zero.
                query_HDE = query_HDE - query_HDE.mean(dim=1, keepdim=True)
                key_HDE = key_HDE - key_HDE.mean(dim=1, keepdim=True)
            both_H = torch.linalg.matrix_norm(query_HDE @ key_HDE.transpose(1, 2), 2)
            query_H = (query_HDE @ block.key_bias_HE[..., None]).norm(dim=(1, 2))
            key_H = (key_HDE @ block.query_bias_HE[..., None]).norm(dim=(1, 2))
            constant_H = (block.query_bias_HE * block.key_bias_HE).sum(dim=1).abs()
            bound_H = radius**2 * both_H + radius * (query_H + key_H) + constant_H
            largest = max(largest, float(bound_H.max()))
        return largest

    def output_bound(self) -> float:
        """Return a bound on every coordinate that the output head reads."""
        radius = self.radii()[-1]
        return float((radius * self.final_scale_D.abs() + self.final_bias_D.abs()).max())

    def logit_bound(self) -> float:
        """Return a bound on every logit."""
        radius = self.radii()[-1]
        scaled_V = (self.unembed_VD * self.final_scale_D).norm(dim=1)
        return float((radius * scaled_V + (self.unembed_VD @ self.final_bias_D).abs()).max())


class AttentionOnlyLM(nn.Module):
    """Transformer of attention blocks only: no layer norm, no feed-forward branch, no biases.

    The kind of expert that the paper's statements are about, under GPT-2's parameter names.

    Parameters
    ----------
    vocab_size, n_positions
        V, P.
    n_embd, n_layer, n_head
        D (a multiple of H), number of blocks, H.
    generator
        Of the weights: normal, embeddings with standard deviation 1, the maps scaled so that
        scores and states stay of order 1.
    """

    def __init__(
        self,
        vocab_size: int,
        n_positions: int,
        *,
        n_embd: int,
        n_layer: int,
        n_head: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if n_embd % n_head:
            raise ValueError(
                f"n_embd must be a multiple of n_head, not {n_embd} with {n_head} heads"
            )
        self.n_head = n_head

        def drawn(*shape: int, std: float) -> nn.Parameter:
            return nn.Parameter(std * torch.randn(*shape, generator=generator))

        self.transformer: Any = nn.Module()
        self.transformer.wte = nn.Embedding(vocab_size, n_embd)
        self.transformer.wte.weight = drawn(vocab_size, n_embd, std=1.0)
        self.transformer.wpe = nn.Embedding(n_positions, n_embd)
        self.transformer.wpe.weight = drawn(n_positions, n_embd, std=1.0)
        self.transformer.h = nn.ModuleList()
        for _ in range(n_layer):
            block: Any = nn.Module()
            block.attn = nn.Module()
            for name, width in (("c_attn", 3 * n_embd), ("c_proj", n_embd)):
                linear = nn.Linear(n_embd, width, bias=False)
                linear.weight = drawn(width, n_embd, std=0.5 / math.sqrt(n_embd))
                setattr(block.attn, name, linear)
            self.transformer.h.append(block)
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        self.lm_head.weight = drawn(vocab_size, n_embd, std=1 / math.sqrt(n_embd))

    def forward(self, ids_BN: torch.Tensor) -> torch.Tensor:
        """Return the logits of the token after each position, ``[B, N, V]``."""
        num_streams, num_tokens = ids_BN.shape
        positions_N = torch.arange(num_tokens, device=ids_BN.device)
        x_BND = self.transformer.wte(ids_BN) + self.transformer.wpe(positions_N)
        for block in self.transformer.h:
            query, key, value = (
                part.view(num_streams, num_tokens, self.n_head, -1).transpose(1, 2)
                for part in block.attn.c_attn(x_BND).chunk(3, dim=-1)
            )
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            x_BND = x_BND + block.attn.c_proj(mixed.transpose(1, 2).flatten(2))
        return self.lm_head(x_BND)


def read_expert(model: Any, strict: bool = False) -> ExpertWeights:
    """Read an expert's weights.

    Parameters
    ----------
    model
        GPT-2 or attention-only transformer, see the module's description. Its output head may be
        tied to its token embedding or not.
    strict
        Take attention-only experts only.

    Raises
    ------
    TypeError
        If the model has another architecture.
    ValueError
        If it is of this architecture with something the construction does not have: dropout
        switched on, cross-attention, an activation that is not in `ACTIVATIONS`, or, with `strict`,
        norms and feed-forward branches.
    """
    name = type(model).__name__
    _refuse_other_architectures(model, name)
    trunk: Any = model.transformer
    config: Any = getattr(model, "config", None)
    _refuse_settings(model, config, name)
    num_heads = getattr(config, "n_head", None) or getattr(model, "n_head", None)
    if not num_heads:
        raise TypeError(f"{name} does not say how many heads it has: config.n_head is missing")
    norms = [_norm(block, part) for block in trunk.h for part in ("ln_1", "ln_2")]
    norms.append(_norm(trunk, "ln_f"))
    branches = [getattr(block, "mlp", None) for block in trunk.h]
    plain = all(norm is None for norm in norms) and all(branch is None for branch in branches)
    if strict and not plain:
        raise ValueError(
            f"strict=True takes experts whose blocks are attention only, and {name} has layer "
            "norms or feed-forward branches; strict=False takes it"
        )
    if not plain and (None in norms or None in branches):
        raise ValueError(
            f"{name} has layer norms and feed-forward branches in some places only; the "
            "construction takes GPT-2 blocks, which have both, or attention only"
        )
    final = norms[-1]
    token_VD = _double(trunk.wte.weight)
    width = token_VD.shape[1]
    return ExpertWeights(
        token_VD=token_VD,
        position_PD=_double(trunk.wpe.weight),
        blocks=tuple(
            _read_block(block, num_heads, _attention_scale(config, layer, width // num_heads))
            for layer, block in enumerate(trunk.h)
        ),
        final_scale_D=torch.ones(width).double() if final is None else _double(final.weight),
        final_bias_D=torch.zeros(width).double() if final is None else _double(final.bias),
        unembed_VD=_double(model.lm_head.weight),
        norm_epsilon=None if final is None else float(final.eps),
        activation=None if plain else config.activation_function,
        dtype=trunk.wte.weight.dtype,
    )


def _refuse_other_architectures(model: Any, name: str) -> None:
    config = getattr(model, "config", None)
    reasons = []
    if any(getattr(config, key, None) for key in ("rope_theta", "rope_parameters", "rotary_dim")):
        reasons.append("rotary positions")
    heads = getattr(config, "num_attention_heads", None)
    if getattr(config, "num_key_value_heads", heads) != heads or getattr(
        config, "multi_query", False
    ):
        reasons.append("grouped-query attention")
    trunk: Any = getattr(model, "transformer", None)
    missing = [f"transformer.{part}" for part in ("wte", "wpe", "h") if not hasattr(trunk, part)]
    missing += [] if hasattr(model, "lm_head") else ["lm_head"]
    if reasons or missing:
        reasons += [f"no {part}" for part in missing]
        raise TypeError(
            f"{name} is not a GPT-2 ({', '.join(reasons)}): the construction needs learned "
            "absolute positions and as many keys as queries, as in GPT2LMHeadModel or TinyGPT"
        )
    for layer, block in enumerate(trunk.h):
        attention: Any = getattr(block, "attn", None)
        if not (hasattr(attention, "c_attn") and hasattr(attention, "c_proj")):
            raise TypeError(
                f"{name} is not a GPT-2: block {layer} has no attn.c_attn and attn.c_proj"
            )
        width = trunk.wte.weight.shape[1]
        shape = tuple(_matrix(attention.c_attn).shape)
        if shape != (width, 3 * width):
            raise TypeError(
                f"{name} is not a GPT-2: attn.c_attn of block {layer} maps {shape[0]} to "
                f"{shape[1]} numbers, not {width} to {3 * width}"
            )


def _refuse_settings(model: Any, config: Any, name: str) -> None:
    if getattr(config, "add_cross_attention", False):
        raise ValueError(f"{name} has cross-attention, which the construction has no stream for")
    if getattr(model.lm_head, "bias", None) is not None:
        raise ValueError(f"{name} has a bias in its output head, which GPT-2 does not")
    activation = getattr(config, "activation_function", None)
    if activation is not None and activation not in ACTIVATIONS:
        raise ValueError(
            f"{name} has the activation {activation!r}; the construction needs one of "
            f"{', '.join(ACTIVATIONS)}"
        )
    dropping = any(isinstance(part, nn.Dropout) and part.p > 0 for part in model.modules())
    if model.training and dropping:
        raise ValueError(f"{name} drops out: call expert.eval() before it is glued")


def _attention_scale(config: Any, layer: int, head_width: int) -> float:
    scale = 1 / math.sqrt(head_width) if getattr(config, "scale_attn_weights", True) else 1.0
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        scale /= layer + 1
    return scale


def _norm(block: Any, part: str) -> nn.LayerNorm | None:
    norm = getattr(block, part, None)
    return None if norm is None or isinstance(norm, nn.Identity) else norm


def _double(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().to("cpu", torch.float64)


def _matrix(linear: Any) -> torch.Tensor:
    """Return a map's weights with rows for inputs, as GPT-2's Conv1D stores them."""
    weight = _double(linear.weight)
    return weight.T if isinstance(linear, nn.Linear) else weight


def _bias(linear: Any) -> torch.Tensor:
    if linear.bias is None:
        return torch.zeros(_matrix(linear).shape[1], dtype=torch.float64)
    return _double(linear.bias)


def _folded(norm: nn.LayerNorm | None, linear: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights and biases of a map behind a norm's affine part."""
    weight, bias = _matrix(linear), _bias(linear)
    if norm is None:
        return weight, bias
    return _double(norm.weight)[:, None] * weight, _double(norm.bias) @ weight + bias


def _read_block(block: Any, num_heads: int, scale: float) -> BlockWeights:
    weight, bias = _folded(_norm(block, "ln_1"), block.attn.c_attn)
    width = len(weight)
    query, key, value = (part.reshape(width, num_heads, -1) for part in weight.chunk(3, dim=1))
    query_bias, key_bias, value_bias = (part.reshape(num_heads, -1) for part in bias.chunk(3))
    if getattr(block, "mlp", None) is None:
        up, up_bias = torch.zeros(width, 0).double(), torch.zeros(0).double()
        down, down_bias = torch.zeros(0, width).double(), torch.zeros(width).double()
    else:
        up, up_bias = _folded(_norm(block, "ln_2"), block.mlp.c_fc)
        down, down_bias = _matrix(block.mlp.c_proj), _bias(block.mlp.c_proj)
    return BlockWeights(
        query_DHE=query * scale,
        query_bias_HE=query_bias * scale,
        key_DHE=key,
        key_bias_HE=key_bias,
        value_DHE=value,
        value_bias_HE=value_bias,
        out_HED=_matrix(block.attn.c_proj).reshape(num_heads, -1, width),
        out_bias_D=_bias(block.attn.c_proj),
        up_DF=up,
        up_bias_F=up_bias,
        down_FD=down,
        down_bias_D=down_bias,
    )
