"""A small GPT-2 in plain torch whose weights are interchangeable with those of transformers.

`TinyGPT` has the parameter names, shapes and arithmetic of ``GPT2LMHeadModel`` (learned positions,
layer norm before each branch, ``gelu_new``, weights stored input by output, output head tied to the
token embedding) without its dropout, its padding masks and its generation machinery. It maps token
ids to logits and can remember keys and values; `sample` draws continuations. It knows nothing of
text, tasks or training.

Legend: ``B`` sequences, ``T`` new positions, ``S`` all positions up to now, ``V`` vocabulary,
``D`` width, ``H`` heads, ``C`` width of a head.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from modicum.core.device import torch_generator

try:
    import torch
    from torch import nn
    from torch.nn import functional
except ImportError as error:
    raise ImportError('TinyGPT needs torch: pip install "modicum-testtime[torch]"') from error

__all__ = ["KeyValueCache", "TinyGPT", "TinyGPTConfig", "load_checkpoint", "sample"]

_CONFIG_KEY = "config"


@dataclass(frozen=True)
class TinyGPTConfig:
    """Sizes of a `TinyGPT`; the names are those of transformers' ``GPT2Config``.

    Parameters
    ----------
    vocab_size
        V, number of tokens.
    n_positions
        Most positions of a sequence.
    n_embd
        D, width of the residual stream; a multiple of `n_head`.
    n_layer
        Number of blocks.
    n_head
        H, heads per block.
    n_inner
        Hidden width of the feed-forward branch, None for ``4 * n_embd``.
    layer_norm_epsilon
        Added to the variance in layer norms.
    """

    vocab_size: int
    n_positions: int
    n_embd: int = 64
    n_layer: int = 2
    n_head: int = 4
    n_inner: int | None = None
    layer_norm_epsilon: float = 1e-5

    activation_function: ClassVar[str] = "gelu_new"

    def __post_init__(self) -> None:
        """Refuse sizes that make no network."""
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)!r}")
        if self.n_inner is not None and self.n_inner < 1:
            raise ValueError(f"n_inner must be at least 1 or None, not {self.n_inner!r}")
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd must be a multiple of n_head, not {self.n_embd} with {self.n_head} heads"
            )

    @property
    def inner_width(self) -> int:
        """Hidden width of the feed-forward branch."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    @classmethod
    def from_gpt2(cls, config: object) -> Self:
        """Take the sizes from a ``GPT2Config`` (or anything with its attributes).

        Raises
        ------
        ValueError
            If the configuration asks for another activation, untied embeddings, or a scaling of the
            attention that GPT-2 does not have by default.
        """
        expected = {
            "activation_function": cls.activation_function,
            "tie_word_embeddings": True,
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
        }
        for name, value in expected.items():
            if getattr(config, name, value) != value:
                raise ValueError(f"{name} must be {value!r}, not {getattr(config, name)!r}")
        return cls(**{field.name: getattr(config, field.name) for field in dataclasses.fields(cls)})


class KeyValueCache:
    """Keys and values of the positions read so far, for a fixed number of sequences.

    Parameters
    ----------
    config
        Of the model that fills it.
    num_sequences
        B.
    max_length
        Most positions that will be stored, None for ``config.n_positions``.
    device, dtype
        Of the model.

    Attributes
    ----------
    length
        Positions read so far.
    """

    def __init__(
        self,
        config: TinyGPTConfig,
        num_sequences: int,
        *,
        max_length: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        size = config.n_positions if max_length is None else max_length
        shape = (num_sequences, config.n_head, size, config.n_embd // config.n_head)
        self.keys_BHSC = [
            torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.n_layer)
        ]
        self.values_BHSC = [torch.zeros_like(keys_BHSC) for keys_BHSC in self.keys_BHSC]
        self.length = 0

    def extend(
        self, layer: int, key_BHTC: torch.Tensor, value_BHTC: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new keys and values of one layer and return all of it, ``[B, H, S, C]``."""
        end = self.length + key_BHTC.shape[2]
        self.keys_BHSC[layer][:, :, self.length : end] = key_BHTC
        self.values_BHSC[layer][:, :, self.length : end] = value_BHTC
        return self.keys_BHSC[layer][:, :, :end], self.values_BHSC[layer][:, :, :end]

    def select(self, index_B: torch.Tensor) -> KeyValueCache:
        """Return a copy with the sequences `index_B` (int64; repeats copy a sequence)."""
        chosen = object.__new__(KeyValueCache)
        chosen.keys_BHSC = [keys_BHSC[index_B] for keys_BHSC in self.keys_BHSC]
        chosen.values_BHSC = [values_BHSC[index_B] for values_BHSC in self.values_BHSC]
        chosen.length = self.length
        return chosen


class _Conv1D(nn.Module):
    """Affine map with its weight stored input by output, ``[D_in, D_out]``, as GPT-2 has it."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width_in, width_out))
        self.bias = nn.Parameter(torch.zeros(width_out))

    def forward(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        return functional.linear(hidden_BTD, self.weight.T, self.bias)


class _Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, config: TinyGPTConfig, layer: int) -> None:
        super().__init__()
        self.num_heads = config.n_head
        self.layer = layer
        self.c_attn = _Conv1D(config.n_embd, 3 * config.n_embd)
        self.c_proj = _Conv1D(config.n_embd, config.n_embd)

    def forward(self, hidden_BTD: torch.Tensor, cache: KeyValueCache | None) -> torch.Tensor:
        num_sequences, num_new, width = hidden_BTD.shape
        query_BHTC, key_BHSC, value_BHSC = (
            part.view(num_sequences, num_new, self.num_heads, -1).transpose(1, 2)
            for part in self.c_attn(hidden_BTD).split(width, dim=2)
        )
        if cache is not None:
            key_BHSC, value_BHSC = cache.extend(self.layer, key_BHSC, value_BHSC)
        num_before = key_BHSC.shape[2] - num_new
        mask_TS = None
        if num_before and num_new > 1:
            mask_TS = torch.ones(
                num_new, num_before + num_new, dtype=torch.bool, device=hidden_BTD.device
            ).tril(num_before)
        mixed_BHTC = functional.scaled_dot_product_attention(
            query_BHTC, key_BHSC, value_BHSC, attn_mask=mask_TS, is_causal=num_before == 0
        )
        return self.c_proj(mixed_BHTC.transpose(1, 2).reshape(num_sequences, num_new, width))


class _FeedForward(nn.Module):
    """Two layers with the tanh form of GELU between them."""

    def __init__(self, config: TinyGPTConfig) -> None:
        super().__init__()
        self.c_fc = _Conv1D(config.n_embd, config.inner_width)
        self.c_proj = _Conv1D(config.inner_width, config.n_embd)

    def forward(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        return self.c_proj(functional.gelu(self.c_fc(hidden_BTD), approximate="tanh"))


class _Block(nn.Module):
    """One block: attention and feed-forward, each behind a layer norm and added to the stream."""

    def __init__(self, config: TinyGPTConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = _Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = _FeedForward(config)

    def forward(self, hidden_BTD: torch.Tensor, cache: KeyValueCache | None) -> torch.Tensor:
        hidden_BTD = hidden_BTD + self.attn(self.ln_1(hidden_BTD), cache)
        return hidden_BTD + self.mlp(self.ln_2(hidden_BTD))


class _Trunk(nn.Module):
    """Embeddings, blocks and the last layer norm."""

    def __init__(self, config: TinyGPTConfig) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(_Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)

    def forward(self, ids_BT: torch.Tensor, cache: KeyValueCache | None) -> torch.Tensor:
        start = 0 if cache is None else cache.length
        positions_T = torch.arange(start, start + ids_BT.shape[1], device=ids_BT.device)
        hidden_BTD = self.wte(ids_BT) + self.wpe(positions_T)
        for block in self.h:
            hidden_BTD = block(hidden_BTD, cache)
        if cache is not None:
            cache.length += ids_BT.shape[1]
        return self.ln_f(hidden_BTD)


class TinyGPT(nn.Module):
    """GPT-2 without dropout: token ids to logits.

    Use it where a small model is trained or glued and transformers is too heavy; load its
    ``state_dict()`` into ``GPT2LMHeadModel``, or that model's into this one, where an engine wants
    the other class. Both give the same logits.

    Parameters
    ----------
    config
        Sizes.
    seed
        Of the initial weights: normal with standard deviation 0.02, that of the maps back into the
        residual stream divided by ``sqrt(2 n_layer)``; biases zero. Drawn on the CPU.
    """

    def __init__(self, config: TinyGPTConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.transformer = _Trunk(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight
        self._initialise(seed)

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        generator = torch_generator(seed, "cpu", "tinygpt")
        for name, parameter in self.named_parameters():
            if ".ln_" in name or name.endswith(".bias"):
                continue
            depth = 2 * self.config.n_layer if name.endswith("c_proj.weight") else 1
            parameter.normal_(0, 0.02 / math.sqrt(depth), generator=generator)

    def forward(self, ids_BT: torch.Tensor, cache: KeyValueCache | None = None) -> torch.Tensor:
        """Return the logits of the token after each position.

        Parameters
        ----------
        ids_BT
            Token ids, int64 ``[B, T]``; all sequences have the same length, there is no padding.
        cache
            Holds the earlier positions of the same sequences, and is extended by these.

        Returns
        -------
        torch.Tensor
            ``[B, T, V]`` in the dtype of the weights.

        Raises
        ------
        ValueError
            If a sequence becomes longer than ``config.n_positions``.
        """
        length = ids_BT.shape[1] + (0 if cache is None else cache.length)
        if length > self.config.n_positions:
            raise ValueError(
                f"a sequence has at most {self.config.n_positions} positions here, not {length}"
            )
        return self.lm_head(self.transformer(ids_BT, cache))

    def new_cache(self, num_sequences: int, max_length: int | None = None) -> KeyValueCache:
        """Return an empty cache for `num_sequences` sequences on the model's device."""
        weight = self.transformer.wte.weight
        return KeyValueCache(
            self.config,
            num_sequences,
            max_length=max_length,
            device=weight.device,
            dtype=weight.dtype,
        )

    def checkpoint(
        self, metadata: Mapping[str, str] | None = None, dtype: torch.dtype | None = None
    ) -> bytes:
        """Return the weights as the bytes of a safetensors file, with the sizes in its header.

        The tied head is stored once, under the embedding's name, as transformers does.

        Parameters
        ----------
        metadata
            More strings for the header.
        dtype
            Of the stored weights, None for the model's own.
        """
        from safetensors.torch import save

        weights = {
            name: tensor.detach().to("cpu", dtype or tensor.dtype).contiguous()
            for name, tensor in self.state_dict().items()
            if name != "lm_head.weight"
        }
        header = {
            _CONFIG_KEY: json.dumps(dataclasses.asdict(self.config)),
            "format": "pt",
            **(metadata or {}),
        }
        return save(weights, header)


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[TinyGPT, dict[str, str]]:
    """Read what `TinyGPT.checkpoint` gave.

    Parameters
    ----------
    path
        A safetensors file.
    device, dtype
        Of the model.

    Returns
    -------
    model, metadata
        The model in evaluation mode, and the strings of the file's header.

    Raises
    ------
    ValueError
        If the header has no sizes, or they do not fit the weights.
    OSError
        If the file cannot be read.
    """
    from safetensors import safe_open

    with safe_open(os.fspath(path), framework="pt") as file:
        metadata = dict(file.metadata() or {})
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if _CONFIG_KEY not in metadata:
        raise ValueError(f"{os.fspath(path)} has no {_CONFIG_KEY!r} in its header: not a TinyGPT")
    model = TinyGPT(TinyGPTConfig(**json.loads(metadata[_CONFIG_KEY])))
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{os.fspath(path)}: weights and sizes disagree: {error}") from error
    return model.to(device, dtype).eval(), metadata


@torch.no_grad()
def sample(
    model: TinyGPT,
    prompt_BT: torch.Tensor,
    num_tokens: int,
    *,
    generator: torch.Generator,
    temperature: float = 1.0,
    cache: KeyValueCache | None = None,
    allowed_V: torch.Tensor | None = None,
) -> torch.Tensor:
    """Draw a continuation of each sequence.

    Parameters
    ----------
    model
        In evaluation mode or not: there is no dropout.
    prompt_BT
        Token ids, int64 ``[B, T]``, T at least 1: with a cache only what it has not seen yet.
    num_tokens
        New tokens per sequence, at least 1.
    generator
        On the CPU, so that the same seed draws the same tokens on every device that computes the
        same logits.
    temperature
        Divides the logits; 0 takes the most probable token.
    cache
        Earlier positions. Afterwards it holds all but the last new token.
    allowed_V
        Tokens that may be drawn, bool ``[V]``; None for all.

    Returns
    -------
    torch.Tensor
        New token ids, int64 ``[B, num_tokens]``.

    Raises
    ------
    ValueError
        If `num_tokens` or `temperature` is out of range, or the sequence becomes too long.
    """
    if num_tokens < 1:
        raise ValueError(f"num_tokens must be at least 1, not {num_tokens!r}")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature must be finite and >= 0, not {temperature!r}")
    cache = model.new_cache(len(prompt_BT)) if cache is None else cache
    ids_BT, drawn = prompt_BT, []
    for _ in range(num_tokens):
        logits_BV = model(ids_BT, cache)[:, -1].double()
        if allowed_V is not None:
            logits_BV = logits_BV.masked_fill(~allowed_V, -math.inf)
        ids_BT = _draw(logits_BV, temperature, generator)[:, None]
        drawn.append(ids_BT)
    return torch.cat(drawn, dim=1)


def _draw(logits_BV: torch.Tensor, temperature: float, generator: torch.Generator) -> torch.Tensor:
    """Draw one token per row by inverting the cumulative law at a uniform number."""
    if temperature == 0:
        return logits_BV.argmax(dim=1)
    cumulative_BV = (logits_BV / temperature).softmax(dim=1).cumsum(dim=1)
    uniform_B1 = torch.rand(len(logits_BV), 1, generator=generator, dtype=torch.float64)
    # Scaled by the last sum, which rounding may leave below 1; strictly less, so that a token of
    # probability 0 is never drawn.
    threshold_B1 = uniform_B1.to(logits_BV.device) * cumulative_BV[:, -1:]
    return torch.searchsorted(cumulative_BV, threshold_B1, right=True)[:, 0]
