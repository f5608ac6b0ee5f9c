"""A masked diffusion language model of a third of a million parameters, in plain torch.

`TinyMDLM` is a small LLaDA: a Llama without a causal mask, with RMSNorm, rotary positions and a
gated feed-forward branch. Its parameters have the names and shapes of transformers'
``LlamaForCausalLM``. It is a `modicum.pvf.MaskPredictor`; how it is trained stands in
`modicum.pvf.tiny.train`, for what in `modicum.pvf.tiny.task`.

Shapes: R rows, L columns, H columns asked for, V vocabulary, D width, A heads, C width of a head.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from modicum.core.device import resolve_device, torch_generator
from modicum.pvf.tiny.task import (
    ANSWER_LENGTH,
    EOS_ID,
    MASK_ID,
    PROMPT_LENGTH,
    VOCABULARY,
    TinyTokenizer,
)
from modicum.pvf.validation import check_choice, check_count

__all__ = ["CHECKPOINTS", "TinyConfig", "TinyMDLM", "load_checkpoint", "load_tiny"]

_DATA = Path(__file__).parent / "data"
CHECKPOINTS = ("trained", "undertrained")
"""The weights that the package brings."""

ROPE_THETA = 10000.0
NORM_EPS = 1e-5
INITIAL_STD = 0.02


@dataclass(frozen=True)
class TinyConfig:
    """Sizes of a `TinyMDLM`.

    Parameters
    ----------
    layers
        Blocks.
    width
        D, a multiple of twice the number of heads.
    heads
        A.
    inner
        Hidden width of the feed-forward branch.

    Raises
    ------
    ValueError
        If a size is not positive, or the width does not divide.
    """

    layers: int = 3
    width: int = 96
    heads: int = 4
    inner: int = 256

    def __post_init__(self) -> None:
        """Refuse sizes that make no network."""
        for name, value in asdict(self).items():
            check_count(name, value)
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width must be a multiple of {2 * self.heads} with {self.heads} heads, "
                f"not {self.width}"
            )


class _Attention(nn.Module):
    """Attention of every column to all columns that are no padding."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_proj = nn.Linear(config.width, config.width, bias=False)
        self.k_proj = nn.Linear(config.width, config.width, bias=False)
        self.v_proj = nn.Linear(config.width, config.width, bias=False)
        self.o_proj = nn.Linear(config.width, config.width, bias=False)

    def forward(
        self,
        hidden_RLD: torch.Tensor,
        turn: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        rows, columns, width = hidden_RLD.shape
        query, key, value = (
            project(hidden_RLD).view(rows, columns, self.heads, -1).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed_RALC = functional.scaled_dot_product_attention(
            _turned(query, *turn), _turned(key, *turn), value, attn_mask=mask
        )
        return self.o_proj(mixed_RALC.transpose(1, 2).reshape(rows, columns, width))


class _FeedForward(nn.Module):
    """Two layers with a gate by SiLU between them."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.inner, bias=False)
        self.up_proj = nn.Linear(config.width, config.inner, bias=False)
        self.down_proj = nn.Linear(config.inner, config.width, bias=False)

    def forward(self, hidden_RLD: torch.Tensor) -> torch.Tensor:
        gate = functional.silu(self.gate_proj(hidden_RLD))
        return self.down_proj(gate * self.up_proj(hidden_RLD))


class _Block(nn.Module):
    """Attention and feed-forward, each behind a norm and added to the stream."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.width, NORM_EPS)
        self.self_attn = _Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.width, NORM_EPS)
        self.mlp = _FeedForward(config)

    def forward(
        self,
        hidden_RLD: torch.Tensor,
        turn: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        hidden_RLD = hidden_RLD + self.self_attn(self.input_layernorm(hidden_RLD), turn, mask)
        return hidden_RLD + self.mlp(self.post_attention_layernorm(hidden_RLD))


class _Trunk(nn.Module):
    """Embedding, blocks and the last norm."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(len(VOCABULARY), config.width)
        self.layers = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, NORM_EPS)


class TinyMDLM(nn.Module):
    """A small masked diffusion language model for the task of `modicum.pvf.tiny.task`.

    Parameters
    ----------
    config
        Sizes.
    seed
        Of the initial weights: normal with standard deviation 0.02, that of the maps back into the
        residual stream divided by ``sqrt(2 layers)``; norms 1. Drawn on the CPU.

    Attributes
    ----------
    mask_id, eos_id, vocab_size, device, canvas
        As in `modicum.pvf.MaskPredictor`.
    tokenizer
        A `modicum.pvf.tiny.TinyTokenizer`, so that prompts may be texts.
    max_length
        Columns of prompt and answer, which the model is trained on; `modicum.pvf.generate` refuses
        longer ones.
    """

    mask_id = MASK_ID
    eos_id: int | None = EOS_ID
    vocab_size = len(VOCABULARY)
    canvas: Literal["full", "prefix"] = "full"
    max_length = PROMPT_LENGTH + ANSWER_LENGTH

    def __init__(self, config: TinyConfig | None = None, seed: int = 0) -> None:
        super().__init__()
        self.config = TinyConfig() if config is None else config
        self.tokenizer = TinyTokenizer()
        self.model = _Trunk(self.config)
        self.lm_head = nn.Linear(self.config.width, self.vocab_size, bias=False)
        self._initialise(seed)

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        generator = torch_generator(seed, "cpu", "tiny weights")
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                is_out = name.endswith(("o_proj.weight", "down_proj.weight"))
                depth = 2 * self.config.layers if is_out else 1
                parameter.normal_(0, INITIAL_STD / math.sqrt(depth), generator=generator)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.lm_head.weight.device

    def forward(
        self,
        ids_RL: torch.Tensor,
        attention_mask_RL: torch.Tensor | None = None,
        positions_RH: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Give logits, (R, H, V) in the dtype of the weights.

        Parameters
        ----------
        ids_RL
            Token ids, int64.
        attention_mask_RL
            bool, False for padding; None without padding.
        positions_RH
            Columns whose tokens are asked for, int64 in [0, L); None for all.
        """
        hidden_RLD = self.model.embed_tokens(ids_RL)
        turn = self._turn(ids_RL, attention_mask_RL, hidden_RLD.dtype)
        mask = None if attention_mask_RL is None else attention_mask_RL[:, None, None]
        for block in self.model.layers:
            hidden_RLD = block(hidden_RLD, turn, mask)
        if positions_RH is not None:
            row_R1 = torch.arange(len(ids_RL), device=ids_RL.device)[:, None]
            hidden_RLD = hidden_RLD[row_R1, positions_RH]
        return self.lm_head(self.model.norm(hidden_RLD))

    def _turn(
        self, ids_RL: torch.Tensor, mask_RL: torch.Tensor | None, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Give cosines and sines of the rotary positions, (R or 1, 1, L, C) each."""
        if mask_RL is None:
            number_RL = torch.arange(ids_RL.shape[1], device=ids_RL.device)[None]
        else:
            number_RL = (mask_RL.long().cumsum(-1) - 1).clamp(min=0)
        half = self.config.width // self.config.heads // 2
        power_C = torch.arange(half, device=ids_RL.device) / half
        angle_RLC = number_RL[..., None] * ROPE_THETA**-power_C
        angle = torch.cat([angle_RLC, angle_RLC], -1)[:, None]
        return angle.cos().to(dtype), angle.sin().to(dtype)

    def checkpoint(
        self, metadata: Mapping[str, str] | None = None, dtype: torch.dtype | None = None
    ) -> bytes:
        """Give the weights as the bytes of a safetensors file, with the sizes in its header.

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
        }
        header = {"config": json.dumps(asdict(self.config)), "format": "pt", **(metadata or {})}
        return save(weights, header)


def _turned(x_RALC: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn pairs of components, those of the first and of the second half, by their angles."""
    first, second = x_RALC.chunk(2, -1)
    return x_RALC * cos + torch.cat([-second, first], -1) * sin


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[TinyMDLM, dict[str, str]]:
    """Read what `TinyMDLM.checkpoint` gave.

    Parameters
    ----------
    path
        A safetensors file.
    device, dtype
        Of the model; ``"auto"`` takes a GPU where there is one.

    Returns
    -------
    model, metadata
        The model, for inference, and the strings of the file's header.

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
    if "config" not in metadata:
        raise ValueError(f"{os.fspath(path)} has no sizes in its header: not a TinyMDLM")
    model = TinyMDLM(TinyConfig(**json.loads(metadata["config"])))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{os.fspath(path)}: weights and sizes disagree: {error}") from error
    return model.to(resolve_device(device), dtype).eval().requires_grad_(False), metadata


def load_tiny(name: str = "trained", device: str | torch.device = "cpu") -> TinyMDLM:
    """Give a trained model that the package brings; nothing is downloaded.

    Parameters
    ----------
    name
        ``"trained"``, which solves its task, or ``"undertrained"``, which was stopped early.
    device
        ``"cpu"``, ``"cuda"``, ``"auto"`` …

    Raises
    ------
    ValueError
        If there is no such model or device.

    Examples
    --------
    >>> from modicum.pvf import PVF, generate
    >>> from modicum.pvf.tiny import STYLE_IDS, load_tiny
    >>> out = generate(
    ...     load_tiny(),
    ...     "a 3 , k 7 , m 1 , t 5 ,",
    ...     strategy=PVF(plan_vocab=STYLE_IDS),
    ...     gen_length=32,
    ...     block_length=16,
    ... )
    """
    check_choice("name", name, CHECKPOINTS)
    return load_checkpoint(_DATA / f"{name}.safetensors", device=device)[0]
