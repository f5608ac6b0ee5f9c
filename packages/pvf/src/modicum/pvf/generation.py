"""Prompts in, answers out: batches and results around the decoder.

`generate` continues prompts, `infill` fills masks anywhere in given canvases, `stream` gives the
commits of one prompt as they happen. What is committed when is the strategy's business, what a call
of the model costs is the decoder's.

Shapes: N sequences, P columns of a prompt, G columns to generate, L columns of a canvas.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from modicum.pvf.canvases import (
    Canvases,
    Prompts,
    of_canvases,
    of_prompts,
    padding_id,
    text_of,
    tokenizer_of,
)
from modicum.pvf.decoder import Decoder, Forward, LogitsHook, Rows, Sampler
from modicum.pvf.events import Commit
from modicum.pvf.predictor import MaskPredictor, as_predictor
from modicum.pvf.stats import DecodeStats
from modicum.pvf.strategies.base import Strategy
from modicum.pvf.strategies.registry import as_strategy
from modicum.pvf.validation import check_choice, check_count

__all__ = ["GenerateOutput", "StreamEvent", "generate", "infill", "stream"]


@dataclass(frozen=True)
class GenerateOutput:
    """What was decoded, and what it cost.

    Attributes
    ----------
    sequences
        Canvases, (N, L) int64 on the CPU: prompt, what was generated, padding.
    generated
        What was generated, (N, G) int64; shorter spans end with padding.
    stats
        Cost of each sequence.
    texts
        What was generated up to the first end token, as text; None without a tokenizer.
    trace
        Commits of each sequence in order; None unless they were asked for.
    """

    sequences: torch.Tensor
    generated: torch.Tensor
    stats: list[DecodeStats]
    texts: list[str] | None = None
    trace: list[list[Commit]] | None = None


@dataclass(frozen=True)
class StreamEvent:
    """One commit of a stream.

    Attributes
    ----------
    commit
        What was committed.
    canvas
        The canvas after it, (L,) int64.
    stable_text
        Text of all that stands before the first open column; None without a tokenizer.
    """

    commit: Commit
    canvas: torch.Tensor
    stable_text: str | None


@dataclass(frozen=True)
class _Options:
    """How to decode, as the three functions share it."""

    strategy: Strategy
    block_length: int
    decoder: dict[str, Any] = field(default_factory=dict)
    cfg_scale: float = 0.0
    cache: str = "none"
    refresh_every: int | None = None
    temperature: float = 0.0
    seed: int = 0
    first_prompt: int = 0

    def decoder_for(
        self, model: MaskPredictor, canvases: Canvases, first: int, traced: bool
    ) -> Decoder:
        forward = _forward(model, canvases, self.cache, self.refresh_every, self.cfg_scale)
        return Decoder(
            model,
            self.strategy,
            canvases.ids_NL,
            canvases.start_N,
            canvases.length_N,
            self.block_length,
            attention_mask=canvases.mask_NL,
            sampler=_sampler(
                model, self.temperature, self.seed, first, self.decoder.get("suppress", ())
            ),
            forward=forward,
            traced=traced,
            seed=self.seed,
            first_sequence=first,
            **self.decoder,
        )


def generate(
    model: MaskPredictor,
    prompts: Prompts,
    *,
    strategy: Strategy | str = "pvf",
    gen_length: int = 128,
    block_length: int = 32,
    attention_mask: torch.Tensor | None = None,
    temperature: float = 0.0,
    cfg_scale: float = 0.0,
    seed: int = 0,
    eos_early_stop: bool = True,
    suppress_eos: bool = False,
    eos_confidence_inf: bool = False,
    cache: str = "none",
    refresh_every: int | None = None,
    batch_size: int = 8,
    max_rows: int | None = None,
    first_prompt: int = 0,
    logits_hook: LogitsHook | None = None,
    on_step: Callable[[list[Commit]], None] | None = None,
    return_trace: bool = False,
    deterministic: bool = False,
    progress: bool = False,
) -> GenerateOutput:
    """Continue prompts.

    Parameters
    ----------
    model
        A `MaskPredictor`; see `modicum.pvf.CallablePredictor` and `load_mask_predictor`.
    prompts
        A text or a list of texts (with a tokenizer), a conversation as a list of messages such as
        ``{"role": "user", "content": "…"}`` or a list of conversations (with a chat template),
        token ids of one prompt, a list of such lists of any lengths, or an (N, P) tensor.
    strategy
        What is committed when: a name of `modicum.pvf.strategies`, or a strategy such as
        `modicum.pvf.PVF`.
    gen_length
        G, tokens to generate for each prompt.
    block_length
        Tokens of a block; blocks are decoded from left to right.
    attention_mask
        (N, P), 0 for the padding on the left of a tensor of prompts.
    temperature
        0 takes the most likely token. Above it tokens are drawn, which a fill's drafts rarely
        survive: the test is whether the model's most likely token is the draft.
    cfg_scale
        Strength w of classifier-free guidance, u + (w + 1) (c - u); it doubles the rows. 0 is off.
    seed
        Of everything that is drawn. Draws depend on the number of a prompt and not on its batch.
    eos_early_stop
        Whether a sequence ends with its first end token that has nothing open before it.
    suppress_eos
        Whether the end token is never predicted.
    eos_confidence_inf
        Whether end tokens are committed last.
    cache
        ``"none"``, or ``"prefix"`` or ``"dual"`` for models that can keep keys and values of what
        is before the window, or of all that is outside it; both change what is decoded.
    refresh_every
        Calls after which a cache is computed anew within a block; by default only when a block is
        entered.
    batch_size
        Prompts that share the model's calls.
    max_rows
        Rows that go through the model together at most; a call with more is made in parts.
    first_prompt
        Number of the first prompt: where prompts are a share of a longer list, what is drawn and
        the numbers of commits are then those of the list.
    logits_hook
        Changes the logits of every call.
    on_step
        Called with the commits of every call; their sequences are numbers of prompts.
    return_trace
        Whether all commits are kept.
    deterministic
        Whether every call has the same number of rows.
    progress
        Whether a bar is shown where standard error is a terminal.

    Returns
    -------
    GenerateOutput
        In the order of the prompts.

    Raises
    ------
    ValueError
        If an argument is not valid; the message names it.

    Notes
    -----
    Source of plan-verify-fill: Li et al., arXiv 2601.12247.
    """
    model = as_predictor(model)
    check_count("gen_length", gen_length)
    canvases = of_prompts(model, prompts, gen_length, attention_mask)
    options = _options(
        model,
        strategy,
        block_length,
        cfg_scale=cfg_scale,
        cache=cache,
        refresh_every=refresh_every,
        temperature=temperature,
        seed=seed,
        first_prompt=check_count("first_prompt", first_prompt, 0),
        decoder={
            "eos_early_stop": eos_early_stop,
            "suppress": _ids(model.eos_id) if suppress_eos else (),
            "doubtful": _ids(model.eos_id) if eos_confidence_inf else (),
            "logits_hook": logits_hook,
            "deterministic": deterministic,
            "max_rows": max_rows,
        },
    )
    return _decode(model, canvases, options, batch_size, on_step, return_trace, progress)


def infill(
    model: MaskPredictor,
    canvas: Any,
    *,
    strategy: Strategy | str = "pvf",
    block_length: int | None = None,
    attention_mask: torch.Tensor | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    cache: str = "none",
    refresh_every: int | None = None,
    batch_size: int = 8,
    max_rows: int | None = None,
    logits_hook: LogitsHook | None = None,
    on_step: Callable[[list[Commit]], None] | None = None,
    return_trace: bool = False,
    deterministic: bool = False,
    progress: bool = False,
) -> GenerateOutput:
    """Fill the masks of canvases, wherever they are.

    Parameters
    ----------
    canvas
        Token ids with mask ids where tokens are wanted, (N, L) or (L,), or lists of them of any
        lengths.
    block_length
        Columns of a block of the span from the first mask to the last; all of it by default.
    model, strategy, attention_mask, temperature, seed, cache, refresh_every, batch_size, max_rows
        As in `generate`.
    logits_hook, on_step, return_trace, deterministic, progress
        As in `generate`.

    Returns
    -------
    GenerateOutput
        `GenerateOutput.generated` has the spans, with the tokens that were given inside them.

    Raises
    ------
    ValueError
        If a canvas has no mask, or an argument is not valid.
    """
    model = as_predictor(model)
    canvases = of_canvases(model, canvas, attention_mask)
    longest = int(canvases.length_N.max())
    options = _options(
        model,
        strategy,
        longest if block_length is None else block_length,
        cache=cache,
        refresh_every=refresh_every,
        temperature=temperature,
        seed=seed,
        decoder={
            "eos_early_stop": False,
            "logits_hook": logits_hook,
            "deterministic": deterministic,
            "max_rows": max_rows,
        },
    )
    return _decode(model, canvases, options, batch_size, on_step, return_trace, progress)


def stream(
    model: MaskPredictor,
    prompt: Prompts,
    *,
    strategy: Strategy | str = "pvf",
    gen_length: int = 128,
    block_length: int = 32,
    temperature: float = 0.0,
    cfg_scale: float = 0.0,
    seed: int = 0,
    eos_early_stop: bool = True,
    cache: str = "none",
    refresh_every: int | None = None,
) -> Iterator[StreamEvent]:
    """Continue one prompt and give every commit as it happens.

    Parameters
    ----------
    model, strategy, gen_length, block_length, temperature, cfg_scale, seed, eos_early_stop
        As in `generate`.
    cache, refresh_every
        As in `generate`.
    prompt
        A text, or token ids.

    Yields
    ------
    StreamEvent
        With all routes and rejected drafts.
    """
    model = as_predictor(model)
    check_count("gen_length", gen_length)
    canvases = of_prompts(model, prompt, gen_length, None)
    if len(canvases.ids_NL) != 1:
        raise ValueError(f"stream takes one prompt, not {len(canvases.ids_NL)}")
    options = _options(
        model,
        strategy,
        block_length,
        cfg_scale=cfg_scale,
        cache=cache,
        refresh_every=refresh_every,
        temperature=temperature,
        seed=seed,
        decoder={"eos_early_stop": eos_early_stop},
    )
    decoder = options.decoder_for(model, canvases, 0, True)
    start = int(canvases.start_N[0])
    # The decoder's own canvas has all commits of a step already.
    canvas = canvases.ids_NL[0].cpu().clone()
    for commits in decoder.steps():
        for commit in commits:
            canvas[list(commit.positions)] = torch.tensor(commit.tokens)
            yield StreamEvent(commit, canvas.clone(), _stable_text(model, canvas[start:]))


def _options(
    model: MaskPredictor, strategy: Strategy | str, block_length: int, **rest: Any
) -> _Options:
    check_count("block_length", block_length)
    check_choice("cache", rest["cache"], ("none", "prefix", "dual"))
    if rest["refresh_every"] is not None:
        check_count("refresh_every", rest["refresh_every"])
        if rest["cache"] == "none":
            raise ValueError(f"refresh_every={rest['refresh_every']} needs a cache")
    for name in ("temperature", "cfg_scale"):
        if not 0 <= rest.get(name, 0.0) < math.inf:
            raise ValueError(f"{name} must not be negative, and finite, not {rest[name]}")
    bound = as_strategy(strategy)
    bind = getattr(bound, "bind", None)
    return _Options(bind(model) if bind is not None else bound, block_length, **rest)


def _decode(
    model: MaskPredictor,
    canvases: Canvases,
    options: _Options,
    batch_size: int,
    on_step: Callable[[list[Commit]], None] | None,
    return_trace: bool,
    progress: bool,
) -> GenerateOutput:
    check_count("batch_size", batch_size)
    from modicum.pvf.progress import bar

    traced = return_trace or on_step is not None
    stats: list[DecodeStats] = []
    count = len(canvases.ids_NL)
    trace: list[list[Commit]] = [[] for _ in range(count)]
    total = int((canvases.ids_NL == model.mask_id).sum())
    with bar(progress, total) as advance:
        for begin in range(0, count, batch_size):
            part = canvases.part(slice(begin, begin + batch_size))
            first = options.first_prompt + begin
            decoder = options.decoder_for(model, part, first, traced)
            for commits in decoder.steps():
                advance(decoder.stats)
                if traced:
                    numbered = [_renumbered(commit, first) for commit in commits]
                    for commit in numbered:
                        trace[commit.sequence - options.first_prompt].append(commit)
                    if on_step is not None:
                        on_step(numbered)
            stats += decoder.stats
    return _output(model, canvases, stats, trace if return_trace else None)


def _renumbered(commit: Commit, first: int) -> Commit:
    return replace(commit, sequence=commit.sequence + first)


def _output(
    model: MaskPredictor,
    canvases: Canvases,
    stats: list[DecodeStats],
    trace: list[list[Commit]] | None,
) -> GenerateOutput:
    sequences = canvases.ids_NL.cpu()
    starts, lengths = canvases.start_N.tolist(), canvases.length_N.tolist()
    spans = [
        row[start : start + length]
        for row, start, length in zip(sequences, starts, lengths, strict=True)
    ]
    texts = None
    if tokenizer_of(model) is not None:
        texts = [text_of(model, span) for span in spans]
    generated = torch.nn.utils.rnn.pad_sequence(spans, True, padding_id(model))
    return GenerateOutput(sequences, generated, stats, texts, trace)


def _ids(token: int | None) -> tuple[int, ...]:
    return () if token is None else (token,)


def _stable_text(model: MaskPredictor, span: torch.Tensor) -> str | None:
    if tokenizer_of(model) is None:
        return None
    open_ = (span == model.mask_id).nonzero()
    end = int(open_[0]) if len(open_) else len(span)
    return text_of(model, span[:end])


def _forward(
    model: MaskPredictor,
    canvases: Canvases,
    cache: str,
    refresh_every: int | None,
    cfg_scale: float,
) -> Forward | None:
    """Give how rows get their logits: None is the model's own way."""
    if cache != "none" and cfg_scale:
        raise ValueError(f"cfg_scale={cfg_scale} needs cache='none', not {cache!r}")
    if cache != "none":
        cached = getattr(model, "cached", None)
        if cached is None:
            raise ValueError(f"cache={cache!r}: a {type(model).__name__} keeps no keys and values")
        found: Forward = cached(cache, refresh_every)
        return found
    if not cfg_scale:
        return None
    columns_L = torch.arange(canvases.ids_NL.shape[1], device=model.device)
    return GuidedForward(model, columns_L < canvases.start_N[:, None], cfg_scale)


class GuidedForward:
    """Classifier-free guidance: away from what the model says without the prompt.

    Logits are u + (w + 1) (c - u), with u those for a prompt of masks (LLaDA, arXiv 2502.09992).

    Parameters
    ----------
    predictor
        The model.
    prompt_NL
        Columns of the prompts, (N, L) bool.
    scale
        w.
    """

    rows_per_row = 2

    def __init__(self, predictor: MaskPredictor, prompt_NL: torch.Tensor, scale: float) -> None:
        self.predictor = predictor
        self.prompt_NL = prompt_NL
        self.scale = scale

    def __call__(self, rows: Rows) -> tuple[torch.Tensor, int, torch.Tensor]:
        """Give logits (T, H, V), the columns processed in each row, and which rows were whole."""
        bare_TL = rows.ids.masked_fill(self.prompt_NL[rows.sequence], self.predictor.mask_id)
        mask = rows.attention_mask
        logits = self.predictor.forward(
            torch.cat([rows.ids, bare_TL]),
            None if mask is None else torch.cat([mask, mask]),
            torch.cat([rows.positions, rows.positions]),
        ).float()
        with_prompt, without = logits.chunk(2)
        guided = without + (self.scale + 1) * (with_prompt - without)
        return guided, rows.ids.shape[1], torch.ones_like(rows.sequence, dtype=torch.bool)


def _sampler(
    model: MaskPredictor, temperature: float, seed: int, first: int, suppress: tuple[int, ...]
) -> Sampler | None:
    if not temperature:
        return None
    from modicum.pvf.sampling import GumbelSampler

    return GumbelSampler(temperature, seed, first, (model.mask_id, *suppress))
