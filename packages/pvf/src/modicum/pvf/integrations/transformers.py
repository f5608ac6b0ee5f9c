"""Models of transformers as mask predictors, and the decoder inside ``model.generate``.

Three kinds: decoders (Llama, Qwen2, Qwen3) whose attention is turned to both sides, encoders with a
masked language model's head, and models with attention by blocks that bring their own code. What is
committed when is not known here, neither is how a checkpoint is found: see `modicum.pvf.loading`.

Shapes: R rows of a call, L columns of a canvas, Q columns that go through the network, H columns
asked for, D width of the hidden states, V vocabulary.
"""

import copy
from collections.abc import Callable
from typing import Any, Literal

import torch

from modicum.pvf.cache import CachedForward, places
from modicum.pvf.generation import generate
from modicum.pvf.predictor import check_special_ids

try:
    import transformers
except ModuleNotFoundError as missing:
    if missing.name != "transformers":
        raise
    raise ImportError(
        'models of transformers need transformers: pip install "modicum-pvf[transformers]"'
    ) from missing

__all__ = [
    "BidirectionalPredictor",
    "BlockCausalPredictor",
    "EncoderPredictor",
    "hf_generate",
    "make_bidirectional",
]

DECODERS = ("llama", "qwen2", "qwen3")
"""Model types whose attention can be turned to both sides."""

_MOST_LOGITS = 1 << 30
"""Logits of one call of the head; kernels that count elements in 32 bits stay below twice that."""

_CACHEABLE = ("sdpa", "eager")


class _Predictor:
    """What the three kinds share: ids, limits, and the head on some columns only.

    Parameters
    ----------
    model
        A `transformers.PreTrainedModel` in evaluation mode.
    mask_id, eos_id, pad_id
        Ids of special tokens; those of the model's configuration by default.
    max_length
        Most tokens of a canvas; the model's positions by default.
    tokenizer
        Turns texts into ids and back; None for ids only.

    Raises
    ------
    ValueError
        If there is no mask token, a special id or the tokenizer does not fit the vocabulary, or the
        model is in training mode.
    """

    canvas: Literal["full", "prefix"] = "full"
    right_shift = False

    def __init__(
        self,
        model: Any,
        *,
        mask_id: int | None = None,
        eos_id: int | None = None,
        pad_id: int | None = None,
        max_length: int | None = None,
        tokenizer: Any = None,
    ) -> None:
        if model.training:
            raise ValueError("the model is in training mode, where it draws: call model.eval()")
        config = model.config
        self.model = model
        self.tokenizer = tokenizer
        self.vocab_size: int = config.vocab_size
        named = _first(getattr(config, "mask_token_id", None))
        spoken = getattr(tokenizer, "mask_token_id", None)
        found = named if named is not None else spoken
        self.mask_id: int = found if mask_id is None else mask_id  # type: ignore[assignment]
        self.eos_id = _first(getattr(config, "eos_token_id", None)) if eos_id is None else eos_id
        self.pad_id = _first(getattr(config, "pad_token_id", None)) if pad_id is None else pad_id
        self.max_length = _positions(model) if max_length is None else max_length
        check_special_ids(self.mask_id, self.eos_id, self.vocab_size)
        if self.pad_id is not None and not 0 <= self.pad_id < self.vocab_size:
            raise ValueError(f"pad_id must be in [0, {self.vocab_size}), not {self.pad_id}")
        if tokenizer is not None:
            _check_tokenizer(tokenizer, self.vocab_size, self.mask_id, mask_id is None)

    @property
    def device(self) -> torch.device:
        """Where ids go."""
        found: torch.device = self.model.get_input_embeddings().weight.device
        return found

    def check(self, ids_RL: torch.Tensor, attention_mask_RL: torch.Tensor | None) -> None:
        """Refuse canvases that the model cannot take.

        Raises
        ------
        ValueError
            If they are too long, or there is padding and it cannot be told from masks.
        """
        if self.max_length is not None and ids_RL.shape[1] > self.max_length:
            raise ValueError(
                f"canvases have {ids_RL.shape[1]} columns, the model takes {self.max_length}"
            )
        if attention_mask_RL is not None and self.pad_id == self.mask_id:
            raise ValueError(
                f"pad_id and mask_id are both {self.mask_id}: padding would be filled; give pad_id"
            )

    def head(self, hidden_RHD: torch.Tensor) -> torch.Tensor:
        """Give logits, (R, H, V), of hidden states, in several calls where there are very many."""
        head: Callable[[torch.Tensor], torch.Tensor] | None = _head_of(self.model)
        if head is None:
            raise ValueError(f"the head of a {type(self.model).__name__} is not known")
        rows, width, _ = hidden_RHD.shape
        at_once = max(1, _MOST_LOGITS // self.vocab_size)
        if rows * width <= at_once:
            return head(hidden_RHD).to(self.device)
        flat_KD = hidden_RHD.flatten(0, 1)
        logits_KV = torch.empty(
            (len(flat_KD), self.vocab_size), dtype=hidden_RHD.dtype, device=self.device
        )
        for begin in range(0, len(flat_KD), at_once):
            part = slice(begin, begin + at_once)
            logits_KV[part] = head(flat_KD[part])
        return logits_KV.view(rows, width, -1)


class BidirectionalPredictor(_Predictor):
    """A Llama, Qwen2 or Qwen3 that was trained to predict masks from both sides.

    LLaDA, Dream and models that were converted from decoders are of this kind. Its attention is
    turned to both sides in place, so that the model is no longer one that continues texts.

    Parameters
    ----------
    model
        A `transformers.LlamaForCausalLM` or its like. ``mask_token_id`` and ``right_shift_logits``
        of its configuration are the defaults of `mask_id` and `right_shift`.
    mask_id, eos_id, pad_id
        Ids of special tokens; those of the model's configuration by default.
    max_length
        Most tokens of a canvas; the model's positions by default.
    tokenizer
        Turns texts into ids and back; None for ids only.
    right_shift
        Whether the hidden state of column p predicts the token of column p + 1, as in Dream. What
        stands in column 0 is then predicted by column 0: begin prompts with a token.

    Raises
    ------
    ValueError
        If the model is of another kind, or has no mask token.
    """

    def __init__(
        self,
        model: Any,
        *,
        mask_id: int | None = None,
        eos_id: int | None = None,
        pad_id: int | None = None,
        max_length: int | None = None,
        tokenizer: Any = None,
        right_shift: bool | None = None,
    ) -> None:
        make_bidirectional(model)
        super().__init__(
            model,
            mask_id=mask_id,
            eos_id=eos_id,
            pad_id=pad_id,
            max_length=max_length,
            tokenizer=tokenizer,
        )
        configured = bool(getattr(model.config, "right_shift_logits", False))
        self.right_shift = configured if right_shift is None else right_shift
        # What saves the model saves what it takes to load it again.
        model.config.mask_token_id = self.mask_id
        model.config.right_shift_logits = self.right_shift
        model.generation_config.eos_token_id = self.eos_id
        model.generation_config.pad_token_id = self.pad_id
        # For `hf_generate`, which is given the model alone.
        model.mask_predictor = self

    def forward(
        self,
        ids_RL: torch.Tensor,
        attention_mask_RL: torch.Tensor | None,
        positions_RH: torch.Tensor,
    ) -> torch.Tensor:
        """Give logits, (R, H, V); the head runs on the columns asked for only."""
        self.check(ids_RL, attention_mask_RL)
        numbers = None
        if attention_mask_RL is not None:
            numbers = places(attention_mask_RL)
        hidden_RLD = self.hidden(ids_RL, numbers, attention_mask_RL)
        return self.head(_gathered(hidden_RLD, self.predicting(positions_RH)))

    def predicting(self, positions_RH: torch.Tensor) -> torch.Tensor:
        """Give the columns whose hidden states predict what stands at `positions_RH`."""
        return (positions_RH - int(self.right_shift)).clamp(min=0)

    def hidden(
        self,
        ids_RQ: torch.Tensor,
        numbers_RQ: torch.Tensor | None,
        attention: torch.Tensor | None,
        past_key_values: Any = None,
    ) -> torch.Tensor:
        """Give the last hidden states, (R, Q, D).

        Parameters
        ----------
        ids_RQ
            Token ids.
        numbers_RQ
            Place of each column in its sequence, from 0; None for 0, 1, …
        attention
            bool: keys that are not padding, (R, K), or keys that each query sees, (R, 1, Q, K).
            None where all queries see all keys.
        past_key_values
            What stands in for a cache of transformers.
        """
        if attention is not None and attention.ndim == 4 and self._attention() == "eager":
            dtype = self.model.dtype
            hidden_from = torch.finfo(dtype).min
            attention = torch.zeros_like(attention, dtype=dtype).masked_fill_(
                ~attention, hidden_from
            )
        out = self.model.base_model(
            input_ids=ids_RQ,
            attention_mask=attention,
            position_ids=numbers_RQ,
            past_key_values=past_key_values,
            use_cache=False,
        )
        found: torch.Tensor = out.last_hidden_state
        return found

    def cached(
        self, mode: Literal["prefix", "dual"], refresh_every: int | None = None
    ) -> CachedForward:
        """Give a forward that keeps keys and values of what is outside the window.

        Parameters
        ----------
        mode, refresh_every
            As in `modicum.pvf.cache.CachedForward`.

        Raises
        ------
        ValueError
            If the attention implementation takes no mask by queries.
        """
        if self._attention() not in _CACHEABLE:
            raise ValueError(
                f"cache={mode!r} needs attn_implementation {' or '.join(map(repr, _CACHEABLE))}, "
                f"not {self._attention()!r}"
            )
        return CachedForward(self, mode, refresh_every)

    def _attention(self) -> str:
        return str(self.model.config._attn_implementation)


class EncoderPredictor(_Predictor):
    """A BERT, RoBERTa, ModernBERT or another encoder with a masked language model's head.

    Parameters
    ----------
    model
        What `transformers.AutoModelForMaskedLM` gives. Of heads that are not known the logits of
        all columns are computed.
    mask_id, eos_id, pad_id
        Ids of special tokens; those of the configuration and the tokenizer by default.
    max_length
        Most tokens of a canvas; the model's positions by default.
    tokenizer
        Turns texts into ids and back; None for ids only.

    Raises
    ------
    ValueError
        If there is no mask token, or a special id or the tokenizer does not fit the vocabulary.
    """

    def forward(
        self,
        ids_RL: torch.Tensor,
        attention_mask_RL: torch.Tensor | None,
        positions_RH: torch.Tensor,
    ) -> torch.Tensor:
        """Give logits, (R, H, V).

        Raises
        ------
        ValueError
            If there is padding before a token: encoders number columns by themselves.
        """
        self.check(ids_RL, attention_mask_RL)
        if attention_mask_RL is not None:
            if bool((attention_mask_RL[:, 1:] & ~attention_mask_RL[:, :-1]).any()):
                raise ValueError("attention_mask has padding before tokens: pad behind them")
            attention_mask_RL = attention_mask_RL.long()
        inputs = {"input_ids": ids_RL, "attention_mask": attention_mask_RL}
        if _head_of(self.model) is None:
            return _gathered(self.model(**inputs).logits, positions_RH)
        hidden_RLD = self.model.base_model(**inputs).last_hidden_state
        return self.head(_gathered(hidden_RLD, positions_RH))


class BlockCausalPredictor(_Predictor):
    """A model with attention by blocks that brings its own code (LLaDA2, SDAR and their like).

    It is called with token ids, an attention mask of the padding and position ids, and masks by
    itself what later blocks hold. Its blocks begin at column 0: a prompt whose length is no
    multiple of the model's block length gives windows that cut across its blocks.

    Parameters
    ----------
    model
        What `transformers.AutoModelForCausalLM` gives for the checkpoint's code.
    mask_id, eos_id, pad_id, max_length, tokenizer
        As in `EncoderPredictor`.
    """

    canvas: Literal["full", "prefix"] = "prefix"

    def forward(
        self,
        ids_RL: torch.Tensor,
        attention_mask_RL: torch.Tensor | None,
        positions_RH: torch.Tensor,
    ) -> torch.Tensor:
        """Give logits, (R, H, V): those of all columns are computed."""
        self.check(ids_RL, attention_mask_RL)
        mask_RL = torch.ones_like(ids_RL) if attention_mask_RL is None else attention_mask_RL.long()
        out = self.model(input_ids=ids_RL, attention_mask=mask_RL, position_ids=places(mask_RL))
        return _gathered(out.logits, positions_RH)


def make_bidirectional(model: Any) -> None:
    """Turn the attention of a decoder to both sides, in place.

    Raises
    ------
    ValueError
        If the model is none of `DECODERS`, or has layers that see a sliding window only.
    """
    config = model.config
    if config.model_type not in DECODERS:
        raise ValueError(
            f"model_type must be one of {', '.join(DECODERS)}, not {config.model_type!r}"
        )
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise ValueError("use_sliding_window=True is not supported: every layer must see all")
    config.is_causal = False
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False


def hf_generate(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    generation_config: Any = None,
    *,
    strategy: Any = "pvf",
    block_length: int = 32,
    cache: str = "none",
    eos_early_stop: bool = True,
    seed: int = 0,
    **model_kwargs: Any,
) -> Any:
    """Decode inside ``model.generate(**inputs, custom_generate=hf_generate)``.

    Parameters
    ----------
    model
        The model of a `BidirectionalPredictor`; of its own ``generate``.
    input_ids
        Prompts, (N, P) int64, padded on the left.
    logits_processor, stopping_criteria
        Those of transformers look at one next token and have no meaning here; any is refused but
        for a `MaxLengthCriteria` and an `EosTokenCriteria`, which go before the configuration.
    generation_config
        Its ``max_new_tokens`` is the number of tokens to generate, its ``eos_token_id`` and
        ``pad_token_id`` are used, and with ``do_sample`` its ``temperature``.
    strategy, block_length, cache, eos_early_stop, seed
        As in `modicum.pvf.generate`.

    Returns
    -------
    torch.Tensor or transformers.generation.GenerateDecoderOnlyOutput
        Prompts and answers, (N, P + G) int64, on the prompts' device; the second with
        ``return_dict_in_generate``.

    Raises
    ------
    ValueError
        If the model was not made by a `BidirectionalPredictor`, or an argument has no meaning here.

    Notes
    -----
    A ``streamer`` of ``model.generate`` sees the prompt only, since tokens do not come from left to
    right; `modicum.pvf.stream` gives them as they are committed.
    """
    wrapped = getattr(model, "mask_predictor", None)
    if wrapped is None:
        raise ValueError(
            "model predicts the next token only: load it with modicum.pvf.load_mask_predictor and "
            "use its .model, or wrap it in a BidirectionalPredictor"
        )
    _check_processors(logits_processor, stopping_criteria, generation_config)
    predictor = copy.copy(wrapped)
    columns, predictor.eos_id = _limits(stopping_criteria, generation_config)
    predictor.pad_id = _first(generation_config.pad_token_id)
    out = generate(
        predictor,
        input_ids,
        strategy=strategy,
        gen_length=columns - input_ids.shape[1],
        block_length=block_length,
        attention_mask=model_kwargs.get("attention_mask"),
        temperature=float(generation_config.temperature) if generation_config.do_sample else 0.0,
        seed=seed,
        eos_early_stop=eos_early_stop,
        cache=cache,
        batch_size=len(input_ids),
    )
    sequences = torch.cat([input_ids, out.generated.to(input_ids.device)], dim=1)
    if generation_config.return_dict_in_generate:
        return transformers.generation.GenerateDecoderOnlyOutput(sequences=sequences)
    return sequences


def _limits(stopping_criteria: Any, config: Any) -> tuple[int, int | None]:
    """Give the columns of prompt and answer, and the end token."""
    ends = transformers.generation.stopping_criteria
    columns, eos_id = config.max_length, _first(config.eos_token_id)
    for criterion in stopping_criteria or ():
        if isinstance(criterion, ends.MaxLengthCriteria):
            columns = criterion.max_length
        if isinstance(criterion, ends.EosTokenCriteria):
            eos_id = _first(criterion.eos_token_id.flatten().tolist())
    return columns, eos_id


def _check_processors(logits_processor: Any, stopping_criteria: Any, config: Any) -> None:
    """Refuse what works on one next token; a temperature does not."""
    warpers = transformers.generation.logits_process
    if (config.num_beams or 1) > 1:
        raise ValueError(f"num_beams={config.num_beams} has no meaning here: there are no beams")
    for processor in logits_processor or ():
        if not (config.do_sample and isinstance(processor, warpers.TemperatureLogitsWarper)):
            raise ValueError(
                f"a {type(processor).__name__} works on one next token and has no meaning here"
            )
    ends = transformers.generation.stopping_criteria
    for criterion in stopping_criteria or ():
        if not isinstance(criterion, ends.MaxLengthCriteria | ends.EosTokenCriteria):
            raise ValueError(
                f"a {type(criterion).__name__} works on one next token and has no meaning here"
            )


def _head_of(model: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Give what turns last hidden states into logits; None if it is not known."""
    parts = dict(model.named_children())
    if "lm_head" in parts:
        return parts["lm_head"]  # type: ignore[no-any-return]
    if "cls" in parts:
        return parts["cls"]  # type: ignore[no-any-return]
    if "head" in parts and "decoder" in parts:
        return torch.nn.Sequential(parts["head"], parts["decoder"])
    return None


def _check_tokenizer(tokenizer: Any, vocab_size: int, mask_id: int, from_config: bool) -> None:
    if len(tokenizer) > vocab_size:
        raise ValueError(
            f"tokenizer has {len(tokenizer)} tokens, the model's vocabulary {vocab_size}: they do "
            "not belong together"
        )
    spoken = getattr(tokenizer, "mask_token_id", None)
    if from_config and spoken is not None and spoken != mask_id:
        raise ValueError(
            f"the tokenizer's mask token is {spoken}, the model's {mask_id}: give mask_id"
        )


def _positions(model: Any) -> int | None:
    """Give the most tokens of a sequence; None where there is no limit."""
    most = getattr(model.config, "max_position_embeddings", None)
    if most is None:
        return None
    embeddings = getattr(model.base_model, "embeddings", None)
    numbered = getattr(embeddings, "position_embeddings", None)
    # RoBERTa and its like number positions from the padding's id on.
    padding = getattr(numbered, "padding_idx", None)
    return int(most) if padding is None else int(most) - padding - 1


def _first(ids: Any) -> int | None:
    """Give the first of several ids, or the one there is."""
    if isinstance(ids, list | tuple):
        return int(ids[0]) if ids else None
    return None if ids is None else int(ids)


def _gathered(values_RLX: torch.Tensor, columns_RH: torch.Tensor) -> torch.Tensor:
    """Give the values of some columns, (R, H, X)."""
    rows_R1 = torch.arange(len(columns_RH), device=values_RLX.device)[:, None]
    return values_RLX[rows_R1, columns_RH.to(values_RLX.device)]
