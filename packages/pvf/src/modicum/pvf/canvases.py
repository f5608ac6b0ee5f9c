"""Canvases of prompts: texts and token ids side by side, with masks where tokens are wanted.

Prompts of any lengths begin in the first column; padding stands behind the canvases. What fills the
masks is not decided here.

Shapes: N sequences, P columns of a prompt, L columns of a canvas.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from modicum.pvf.predictor import MaskPredictor

__all__ = [
    "Canvases",
    "Prompts",
    "each_prompt",
    "of_canvases",
    "of_prompts",
    "padding_id",
    "text_of",
    "tokenizer_of",
]

Prompts = Any
"""A text, a conversation (a list of messages), token ids of one prompt, a list of any of these, or
an (N, P) tensor.
"""


@dataclass(frozen=True)
class Canvases:
    """Canvases of all prompts.

    Attributes
    ----------
    ids_NL
        Token ids, (N, L) int64.
    start_N, length_N
        First column and number of columns of the span that is decoded, (N,) int64.
    mask_NL
        (N, L) bool, False for padding; None without padding.
    """

    ids_NL: torch.Tensor
    start_N: torch.Tensor
    length_N: torch.Tensor
    mask_NL: torch.Tensor | None

    def part(self, rows: slice) -> "Canvases":
        """Give some of the sequences."""
        mask = None if self.mask_NL is None else self.mask_NL[rows]
        return Canvases(self.ids_NL[rows], self.start_N[rows], self.length_N[rows], mask)


def of_prompts(
    model: MaskPredictor, prompts: Prompts, length: int, attention_mask: torch.Tensor | None
) -> Canvases:
    """Put masks behind prompts, ``length`` of them; an attention mask says what padding is.

    Raises
    ------
    ValueError
        If a prompt is none, holds the mask token, is too long, or is padded on the right.
    """
    rows = _token_rows(model, prompts)
    for number, row in enumerate(rows):
        if model.mask_id in row:
            raise ValueError(f"prompt {number} holds the mask token {model.mask_id}; see infill")
    if attention_mask is not None:
        mask = _checked(attention_mask, rows)
        if bool((mask[:, :-1] & ~mask[:, 1:]).any()):
            raise ValueError("attention_mask has padding behind tokens: pad prompts on the left")
        rows = _without_padding(rows, mask)
    open_ = [model.mask_id] * length
    return _laid_out(
        model, [[*row, *open_] for row in rows], [len(row) for row in rows], [length] * len(rows)
    )


def _checked(attention_mask: torch.Tensor, rows: list[list[int]]) -> torch.Tensor:
    """Give an attention mask as bool, if it belongs to prompts of one length."""
    mask = torch.as_tensor(attention_mask).bool().cpu()
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise ValueError(f"attention_mask needs prompts of one length, not of {lengths}")
    shape = (len(rows), lengths[0])
    if tuple(mask.shape) != shape:
        raise ValueError(
            f"attention_mask must have the prompts' shape {shape}, not {tuple(mask.shape)}"
        )
    return mask


def _without_padding(rows: list[list[int]], mask: torch.Tensor) -> list[list[int]]:
    """Take padding away: what is left of all rows begins in the first column."""
    return [
        [token for token, real in zip(row, keep, strict=True) if real]
        for row, keep in zip(rows, mask.tolist(), strict=True)
    ]


def of_canvases(model: MaskPredictor, canvas: Any, attention_mask: torch.Tensor | None) -> Canvases:
    """Take canvases that hold masks; their spans are from the first mask to the last.

    Raises
    ------
    ValueError
        If a canvas is none, has no mask, or is too long.
    """
    rows = _token_rows(model, canvas)
    if attention_mask is not None:
        rows = _without_padding(rows, _checked(attention_mask, rows))
    starts, lengths = [], []
    for number, row in enumerate(rows):
        masks = [column for column, token in enumerate(row) if token == model.mask_id]
        if not masks:
            raise ValueError(f"canvas {number} has no mask token {model.mask_id}")
        starts.append(masks[0])
        lengths.append(masks[-1] - masks[0] + 1)
    return _laid_out(model, rows, starts, lengths)


def _laid_out(
    model: MaskPredictor, rows: list[list[int]], starts: list[int], lengths: list[int]
) -> Canvases:
    """Put rows of any lengths side by side, from the first column, padded behind their ends."""
    longest = max(len(row) for row in rows)
    limit = getattr(model, "max_length", None)
    if limit is not None and longest > limit:
        raise ValueError(f"prompt and answer have {longest} tokens, the model takes {limit}")
    is_ragged = any(len(row) < longest for row in rows)
    if is_ragged and padding_id(model) == model.mask_id:
        raise ValueError(
            f"pad_id and mask_id are both {model.mask_id}: prompts of different lengths need "
            "padding that is no mask"
        )
    ids = torch.full((len(rows), longest), padding_id(model), dtype=torch.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row, dtype=torch.int64)
    mask = None
    if is_ragged:
        sizes = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(longest) < sizes[:, None]).to(model.device)
    return Canvases(
        ids.to(model.device),
        torch.tensor(starts, device=model.device),
        torch.tensor(lengths, device=model.device),
        mask,
    )


def each_prompt(prompts: Prompts) -> list[Any]:
    """Give a list with an entry for each prompt: a text, a conversation, or token ids.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    prompts = _plain(prompts)
    if not isinstance(prompts, Iterable):
        raise ValueError(f"prompts must be texts or token ids, not {prompts!r}")
    if _is_text(prompts):
        return [prompts]
    given = list(prompts)
    return [given] if given and isinstance(given[0], int) else given


def _token_rows(model: MaskPredictor, prompts: Prompts) -> list[list[int]]:
    """Give the token ids of each prompt, checked."""
    given = each_prompt(prompts)
    if not given:
        raise ValueError("prompts is empty")
    rows = [_encoded(model, item) if _is_text(item) else list(_plain(item)) for item in given]
    for number, row in enumerate(rows):
        for token in row:
            if isinstance(token, bool) or not isinstance(token, int):
                raise ValueError(f"prompt {number} holds {token!r}, which is no token id")
            if not 0 <= token < model.vocab_size:
                raise ValueError(f"prompt {number} holds {token}, not in [0, {model.vocab_size})")
    return rows


def _plain(ids: Any) -> Any:
    """Give the numbers of a tensor or array as lists."""
    return ids.tolist() if hasattr(ids, "tolist") else ids


def _is_text(item: Any) -> bool:
    return isinstance(item, str) or _is_chat(item)


def _is_chat(item: Any) -> bool:
    """Whether it is a message, or a list of messages."""
    is_list = isinstance(item, Sequence) and bool(item) and isinstance(item[0], dict)
    return isinstance(item, dict) or is_list


def _encoded(model: MaskPredictor, item: Any) -> list[int]:
    tokenizer = tokenizer_of(model)
    if tokenizer is None:
        raise ValueError("prompts are texts, and the model has no tokenizer: give token ids")
    if isinstance(item, str):
        return list(tokenizer(item)["input_ids"])
    messages = [item] if isinstance(item, dict) else list(item)
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def tokenizer_of(model: MaskPredictor) -> Any:
    """Give the model's tokenizer; None without one."""
    return getattr(model, "tokenizer", None)


def padding_id(model: MaskPredictor) -> int:
    """Give the id that padding has: the model's own, its end token, or another."""
    pad = getattr(model, "pad_id", None)
    if pad is None:
        pad = model.eos_id
    # Any token will do but the mask.
    return pad if pad is not None else int(model.mask_id == 0)


def text_of(model: MaskPredictor, span: torch.Tensor) -> str:
    """Give the text of a span, (G,), up to its first end token, without special tokens."""
    tokens = span.tolist()
    if model.eos_id in tokens:
        tokens = tokens[: tokens.index(model.eos_id)]
    tokenizer = tokenizer_of(model)
    special = getattr(tokenizer, "all_special_ids", ())
    found: str = tokenizer.decode([token for token in tokens if token not in special])
    return found
