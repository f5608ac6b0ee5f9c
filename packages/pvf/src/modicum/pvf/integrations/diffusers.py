"""A pipeline of diffusers around the decoder, called as diffusers' own for text is called.

`PVFPipeline` has the call signature of `diffusers.LLaDA2Pipeline` without what its strategies have
no use for: a schedule of steps, editing, and filters of the distribution. It encodes prompts, lays
out canvases and decodes texts; which tokens are committed when is the strategy's business.

Shapes: N sequences, P columns of a prompt, G columns to generate, L columns of a canvas.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from modicum.pvf.canvases import of_prompts
from modicum.pvf.decoder import Decoder
from modicum.pvf.integrations.transformers import (
    DECODERS,
    BidirectionalPredictor,
    BlockCausalPredictor,
    EncoderPredictor,
)
from modicum.pvf.predictor import MaskPredictor, check_special_ids
from modicum.pvf.sampling import GumbelSampler
from modicum.pvf.stats import DecodeStats
from modicum.pvf.strategies.base import Strategy
from modicum.pvf.strategies.registry import as_strategy
from modicum.pvf.validation import check_choice, check_count

try:
    from diffusers import DiffusionPipeline
    from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
    from diffusers.utils import BaseOutput
except ModuleNotFoundError as missing:
    if missing.name != "diffusers":
        raise
    raise ImportError(
        'the pipeline needs diffusers: pip install "modicum-pvf[diffusers]"'
    ) from missing

__all__ = ["PVFPipeline", "PVFPipelineOutput"]

_TENSORS = ("block_x", "transfer_index", "active_block")


@dataclass
class PVFPipelineOutput(BaseOutput):
    """What a pipeline generated.

    Attributes
    ----------
    sequences
        What follows the prompts, (N, G) int64, on the model's device.
    texts
        The same up to the first end token, without special tokens; None without a tokenizer or
        with ``output_type="seq"``.
    stats
        Cost of each sequence.
    """

    sequences: torch.Tensor
    texts: list[str] | None
    stats: list[DecodeStats]


@dataclass(frozen=True)
class _Layout:
    """Canvases and their spans; spans of models with attention by blocks begin with a block."""

    ids_NL: torch.Tensor
    start_N: torch.Tensor
    length_N: torch.Tensor
    mask_NL: torch.Tensor | None
    prompts: tuple[int, ...]
    has_end_token: bool


class PVFPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Generate text by plan-verify-fill, or by any other strategy.

    Parameters
    ----------
    model
        A model of transformers that predicts masks (a LLaDA read as a Llama, a Dream as a Qwen2, an
        encoder with a masked language model's head, a model with attention by blocks), or a
        `MaskPredictor`, such as `modicum.pvf.loading.load_mask_predictor` gives. A decoder's
        attention is turned to both sides in place.
    tokenizer
        Turns texts into ids and back; a predictor's own by default.
    mask_token_id, eos_token_id
        Ids of special tokens; those of the model or of its tokenizer by default. They are saved.

    Raises
    ------
    ValueError
        If there is no mask token, or special ids do not fit the vocabulary.

    Notes
    -----
    With ``strategy="threshold"`` and a model with attention by blocks, tokens are those of
    `diffusers.LLaDA2Pipeline` with ``sampling_method="greedy"``, ``editing_threshold=None`` and
    ``num_inference_steps=block_length``, with these differences: a probability that equals the
    threshold is enough here; the mask token is never predicted; and behind the first end token
    there are end tokens where that pipeline may leave masks. That pipeline calls the model once
    more at the end of a block that took fewer than ``block_length`` calls.

    Source of plan-verify-fill: Li et al., arXiv 2601.12247.
    """

    _callback_tensor_inputs = list(_TENSORS)  # noqa: RUF012
    _optional_components = ["tokenizer"]  # noqa: RUF012

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        mask_token_id: int | None = None,
        eos_token_id: int | None = None,
    ) -> None:
        super().__init__()
        if isinstance(model, MaskPredictor):
            self.predictor = _with_ids(model, mask_token_id, eos_token_id)
            tokenizer = tokenizer if tokenizer is not None else getattr(model, "tokenizer", None)
        else:
            self.predictor = _predictor(
                model, tokenizer=tokenizer, mask_id=mask_token_id, eos_id=eos_token_id
            )
        is_network = isinstance(self.predictor, torch.nn.Module)
        network = model if is_network else getattr(self.predictor, "model", model)
        self.register_modules(model=network, tokenizer=tokenizer)
        self.register_to_config(
            mask_token_id=self.predictor.mask_id, eos_token_id=self.predictor.eos_id
        )

    def __call__(
        self,
        prompt: str | list[str] | None = None,
        messages: list[Any] | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        use_chat_template: bool = True,
        add_generation_prompt: bool = True,
        gen_length: int = 2048,
        block_length: int = 32,
        *,
        strategy: Strategy | str = "pvf",
        threshold: float | None = None,
        temperature: float = 0.0,
        eos_early_stop: bool = True,
        eos_token_id: int | None = None,
        mask_token_id: int | None = None,
        generator: torch.Generator | None = None,
        output_type: str = "text",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] | None = None,
    ) -> PVFPipelineOutput | tuple[torch.Tensor, list[str] | None]:
        """Continue prompts.

        Parameters
        ----------
        prompt, messages, input_ids
            One of them: texts, chats, or ids, (N, P) or (P,) int64.
        attention_mask
            (N, P), 0 for padding in `input_ids`; padding is taken away.
        use_chat_template
            Whether a text is the message of a user, if the tokenizer has a template of chats.
        add_generation_prompt
            Whether a chat is followed by the beginning of an answer.
        gen_length
            G, tokens to generate.
        block_length
            Tokens of a block. Blocks begin at the end of the prompt; with attention by blocks they
            begin in column 0, so that the first one may hold the end of the prompt.
        strategy
            A name of `modicum.pvf.strategies`, or a strategy.
        threshold
            Of a strategy given by its name; the strategy's own by default.
        temperature
            0 takes the most likely token.
        eos_early_stop
            Whether a sequence ends with its first end token that has nothing open before it. Not
            done where a prompt's end shares a block with the answer and holds an end token.
        eos_token_id, mask_token_id
            Instead of the pipeline's.
        generator
            Where the seed of everything that is drawn is drawn from; seed 0 without one.
        output_type
            ``"text"`` or ``"seq"``, which makes no texts.
        return_dict
            Whether the result is a `PVFPipelineOutput` and not the tuple (sequences, texts).
        callback_on_step_end
            Called after every step as ``callback(pipeline, step, open, tensors)``: steps count from
            0, `open` is the number of tokens that are still masks. It gives its tensors back.
        callback_on_step_end_tensor_inputs
            What it is called with, by default the first: ``"block_x"``, canvases, (N, L) int64;
            ``"transfer_index"``, what the step committed, and ``"active_block"``, what was open
            before it, (N, L) bool.

        Returns
        -------
        PVFPipelineOutput or tuple

        Raises
        ------
        ValueError
            If an argument is not valid, or the callback gives other canvases back.
        """
        check_count("gen_length", gen_length)
        check_count("block_length", block_length)
        check_choice("output_type", output_type, ("seq", "text"))
        if not 0 <= temperature < torch.inf:
            raise ValueError(f"temperature must be finite and not negative, not {temperature}")
        names = _tensor_names(callback_on_step_end, callback_on_step_end_tensor_inputs)
        predictor = _with_ids(self.predictor, mask_token_id, eos_token_id)
        rows = self._rows(
            prompt, messages, input_ids, attention_mask, use_chat_template, add_generation_prompt
        )
        layout = _laid_out(predictor, rows, gen_length, block_length)
        decoder = Decoder(
            predictor,
            _bound(strategy, threshold, predictor),
            layout.ids_NL,
            layout.start_N,
            layout.length_N,
            block_length,
            attention_mask=layout.mask_NL,
            eos_early_stop=eos_early_stop and not layout.has_end_token,
            **_drawing(predictor, temperature, generator),
        )
        self._run(decoder, len(rows) * gen_length, callback_on_step_end, names)
        sequences = torch.stack(
            [
                canvas[start : start + gen_length]
                for canvas, start in zip(decoder.canvas, layout.prompts, strict=True)
            ]
        )
        texts = self._texts(predictor, sequences) if output_type == "text" else None
        if not return_dict:
            return sequences, texts
        return PVFPipelineOutput(sequences=sequences, texts=texts, stats=decoder.stats)

    def _rows(
        self,
        prompt: str | list[str] | None,
        messages: list[Any] | None,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        use_chat_template: bool,
        add_generation_prompt: bool,
    ) -> list[list[int]]:
        """Give the token ids of each prompt, without padding."""
        given = {"prompt": prompt, "messages": messages, "input_ids": input_ids}
        names = [name for name, value in given.items() if value is not None]
        if len(names) != 1:
            found = " and ".join(names) or "none"
            raise ValueError(f"give one of prompt, messages and input_ids, not {found}")
        value = given[names[0]]
        # A text or one prompt's ids may be empty, a batch may not.
        if not isinstance(value, str) and getattr(value, "ndim", 2) == 2 and len(value) == 0:  # type: ignore[arg-type]
            raise ValueError(f"{names[0]} is empty: there is nothing to continue")
        if input_ids is not None:
            return _unpadded(input_ids, attention_mask)
        if attention_mask is not None:
            raise ValueError(f"attention_mask goes with input_ids, not with {names[0]}")
        if self.tokenizer is None:
            raise ValueError(f"{names[0]} needs a tokenizer, and the pipeline has none")
        if messages is not None:
            chats = [messages] if isinstance(messages[0], dict) else messages
            return [self._chat(chat, add_generation_prompt) for chat in chats]
        texts = [prompt] if isinstance(prompt, str) else list(prompt or ())
        if use_chat_template and getattr(self.tokenizer, "chat_template", None):
            chats = [[{"role": "user", "content": text}] for text in texts]
            return [self._chat(chat, add_generation_prompt) for chat in chats]
        return [list(self.tokenizer(text)["input_ids"]) for text in texts]

    def _chat(self, chat: list[dict[str, str]], add_generation_prompt: bool) -> list[int]:
        text = self.tokenizer.apply_chat_template(
            chat, add_generation_prompt=add_generation_prompt, tokenize=False
        )
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _run(
        self,
        decoder: Decoder,
        total: int,
        callback: Callable[..., dict[str, Any]] | None,
        names: Sequence[str],
    ) -> None:
        """Decode to the end; the bar shows tokens."""
        with self.progress_bar(total=total) as bar:
            for step, tensors in enumerate(_changes(decoder)):
                bar.update(int(tensors["transfer_index"].sum()))
                if callback is None:
                    continue
                left = int(
                    ((tensors["block_x"] == decoder.predictor.mask_id) & _span(decoder)).sum()
                )
                back = callback(self, step, left, {name: tensors[name] for name in names})
                edited = back.get("block_x", decoder.canvas)
                if not torch.equal(edited, decoder.canvas):
                    raise ValueError(
                        "callback_on_step_end gave a changed block_x back: canvases are not to be "
                        "edited while they are decoded"
                    )

    def _texts(self, predictor: MaskPredictor, sequences: torch.Tensor) -> list[str] | None:
        if self.tokenizer is None:
            return None
        special = set(self.tokenizer.all_special_ids)
        return [
            self.tokenizer.decode([token for token in row if token not in special])
            for row in _ended(sequences.tolist(), predictor.eos_id)
        ]


def _predictor(model: Any, **options: Any) -> Any:
    """Make a predictor of a model of transformers, by what it is."""
    if model.config.model_type in DECODERS:
        return BidirectionalPredictor(model, **options)
    if type(model).__name__.endswith("ForMaskedLM"):
        return EncoderPredictor(model, **options)
    return BlockCausalPredictor(model, **options)


def _with_ids(predictor: Any, mask_id: int | None, eos_id: int | None) -> Any:
    """Give the predictor with other special tokens, where there are any."""
    if mask_id is None and eos_id is None:
        return predictor
    changed = copy.copy(predictor)
    changed.mask_id = predictor.mask_id if mask_id is None else mask_id
    changed.eos_id = predictor.eos_id if eos_id is None else eos_id
    check_special_ids(changed.mask_id, changed.eos_id, predictor.vocab_size)
    return changed


def _bound(strategy: Strategy | str, threshold: float | None, predictor: MaskPredictor) -> Strategy:
    settings = {} if threshold is None else {"threshold": threshold}
    found = as_strategy(strategy, **settings)
    bind = getattr(found, "bind", None)
    return found if bind is None else bind(predictor)


def _drawing(
    predictor: MaskPredictor, temperature: float, generator: torch.Generator | None
) -> dict[str, Any]:
    """Give the decoder's seed and sampler."""
    seed = 0
    if generator is not None:
        words = torch.empty((), dtype=torch.int64, device=generator.device)
        seed = int(words.random_(generator=generator))
    if not temperature:
        return {"seed": seed}
    return {"seed": seed, "sampler": GumbelSampler(temperature, seed, 0, (predictor.mask_id,))}


def _unpadded(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> list[list[int]]:
    """Give the rows of a tensor without padding."""
    if input_ids.dtype != torch.int64 or input_ids.ndim not in (1, 2):
        raise ValueError(
            f"input_ids must be (N, P) or (P,) int64, not {tuple(input_ids.shape)} "
            f"{input_ids.dtype}"
        )
    ids_NP = (input_ids if input_ids.ndim == 2 else input_ids[None]).cpu()
    if attention_mask is None:
        return ids_NP.tolist()  # type: ignore[no-any-return]
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask must have the shape of input_ids, {tuple(input_ids.shape)}, not "
            f"{tuple(attention_mask.shape)}"
        )
    keep_NP = attention_mask.reshape(ids_NP.shape).bool().cpu()
    return [ids[keep].tolist() for ids, keep in zip(ids_NP, keep_NP, strict=True)]


def _laid_out(predictor: Any, rows: list[list[int]], gen_length: int, block_length: int) -> _Layout:
    """Put masks behind prompts; with attention by blocks a span begins where a block does."""
    canvases = of_prompts(predictor, rows, gen_length, None)
    prompts = canvases.start_N.tolist()
    shared = prompts
    if predictor.canvas == "prefix":
        shared = [prompt - prompt % block_length for prompt in prompts]
    start_N = torch.tensor(shared, device=canvases.start_N.device)
    return _Layout(
        canvases.ids_NL,
        start_N,
        canvases.start_N + gen_length - start_N,
        canvases.mask_NL,
        tuple(prompts),
        any(predictor.eos_id in row[start:] for row, start in zip(rows, shared, strict=True)),
    )


def _ended(rows: list[list[int]], eos_id: int | None) -> list[list[int]]:
    """Give what stands before the first end token of each row."""
    return [row[: row.index(eos_id)] if eos_id in row else row for row in rows]


def _tensor_names(callback: Any, names: Sequence[str] | None) -> Sequence[str]:
    """Give what a callback is called with."""
    if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
        names = callback.tensor_inputs
    names = _TENSORS[:1] if names is None else names
    for name in names:
        check_choice("callback_on_step_end_tensor_inputs", name, _TENSORS)
    return names


def _span(decoder: Decoder) -> torch.Tensor:
    """Mark the columns that are to be filled or were, (N, L) bool."""
    return decoder.board.span_NL


def _changes(decoder: Decoder) -> Iterator[dict[str, torch.Tensor]]:
    """Decode step by step, and give what each did."""
    before_NL = decoder.canvas.clone()
    for _ in decoder.steps():
        after_NL = decoder.canvas.clone()
        open_NL = _span(decoder) & (before_NL == decoder.predictor.mask_id)
        yield {
            "block_x": after_NL,
            "transfer_index": after_NL != before_NL,
            "active_block": open_NL,
        }
        before_NL = after_NL
