"""Samples from a transformers model in this process, each independent of its batch.

Takes a causal language model and its tokenizer and gives one completion per request. ``generate``
of transformers draws a whole batch from one random stream, so that a sample changes with its
neighbours; here every row has a generator of its own, seeded by its request, and one uniform number
per token. A sample thus depends on its seed and prompt only, up to the rounding by which matrix
products differ between batches, and the uniforms are the same on every device. Leaves the model's
weights alone; puts it into evaluation mode.

Prompts are padded on the left, attention masks and positions are given explicitly, and keys and
values are cached. Logits pass through transformers' own warpers (temperature, top-k, top-p, min-p,
in the order of its ``generate``) before a token is drawn by inverting the distribution function in
double precision.

Shapes: B rows of a batch, T prompt positions, V vocabulary.
"""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modicum.core.device import resolve_device
from modicum.testtime.integrations._prompts import PromptEncoder
from modicum.testtime.samples import Completion, Request, Sampling

try:
    import torch
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )
except ImportError as error:
    raise ImportError(
        "sampling with transformers needs torch and transformers: "
        'pip install "modicum-testtime[transformers]"'
    ) from error

__all__ = ["TransformersBackend"]


class TransformersBackend:
    """A transformers model as a `Generator`: a list of requests in, completions out as they finish.

    For serious volumes take vLLM; this one is for models that vLLM does not run and for small ones.

    Parameters
    ----------
    model
        A causal language model (``forward(input_ids, attention_mask, past_key_values)``).
    tokenizer
        Its tokenizer.
    batch_size
        Most rows at once.
    device
        ``"auto"``: where the model is if that is an accelerator, else the best one there is. Or a
        device to move the model to. A model spread over devices stays where it is.
    chat
        Whether a text prompt is the user's message of a chat (True), or continued as it is. Chat
        messages always go through the chat template.
    chat_template, chat_template_kwargs
        A template in place of the tokenizer's own, and further variables for it.
    logits_processor
        transformers' logits processors, applied before the warpers.

    Raises
    ------
    ValueError
        If the batch size is not positive or the device is not here.

    Notes
    -----
    ``logprob_sum`` is of the model's own law, before processors, temperature and truncation, as
    vLLM's is. A prompt that leaves no room in the model's context gives a completion with
    ``finish_reason="error"``. ``Sampling.extra`` must be empty.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        batch_size: int = 32,
        device: str | torch.device = "auto",
        chat: bool = False,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        logits_processor: Sequence[Any] = (),
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size!r}")
        self.model = _placed(model, device).eval()
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.encode = PromptEncoder(
            tokenizer,
            chat=chat,
            chat_template=chat_template,
            chat_template_kwargs=chat_template_kwargs,
        )
        self.logits_processor = LogitsProcessorList(logits_processor)
        self.context = getattr(model.config, "max_position_embeddings", None)
        self.end_ids = _end_ids(model, tokenizer)
        self._takes = set(inspect.signature(model.forward).parameters)

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Completion]]:
        """Yield every request with its completion, batch by batch, in the order of finishing.

        Raises
        ------
        ValueError
            If `Sampling.extra` is not empty, or a chat has no template.
        """
        for request in requests:
            if request.params.extra:
                raise ValueError(
                    f"extra={dict(request.params.extra)!r}: this backend takes no further "
                    "parameters; give logits_processor=[...] to the backend instead"
                )
        rows = [_Row(request, self.encode(request.prompt)) for request in requests]
        for group in _by_params(rows):
            for start in range(0, len(group), self.batch_size):
                yield from self._sample(group[start : start + self.batch_size])

    def _sample(self, rows: list[_Row]) -> Iterator[tuple[Request, Completion]]:
        started = time.perf_counter()
        fitting: list[_Row] = []
        for row in rows:
            if refusal := self._refusal(row):
                yield row.request, Completion("", "error", error=refusal)
            else:
                fitting.append(row)
        if not fitting:
            return
        batch = _Batch(self, fitting)
        while not all(row.finish_reason for row in fitting):
            for row in batch.step():
                yield row.request, row.completion(self.tokenizer, time.perf_counter() - started)

    def _refusal(self, row: _Row) -> str:
        if not row.prompt_ids:
            return "the prompt has no tokens"
        if self.context is not None and len(row.prompt_ids) >= self.context:
            return (
                f"the prompt has {len(row.prompt_ids)} tokens, the model's context {self.context}: "
                "there is no room for a completion"
            )
        return ""

    def __repr__(self) -> str:
        return f"TransformersBackend({type(self.model).__name__}, batch_size={self.batch_size})"


@dataclass(slots=True)
class _Row:
    """One sample in the making."""

    request: Request
    prompt_ids: list[int]
    new_ids: list[int] = field(default_factory=list)
    logprob_sum: float = 0.0
    text: str = ""
    finish_reason: str = ""

    def push(self, token: int, logprob: float, backend: TransformersBackend) -> None:
        """Take the next token and see whether the completion ends with it."""
        params = self.request.params
        self.new_ids.append(token)
        self.logprob_sum += logprob
        if token in backend.end_ids:
            self.finish_reason = "stop"
        elif params.stop and self._at_stop(backend.tokenizer, params.stop):
            self.finish_reason = "stop"
            return
        elif len(self.new_ids) >= params.max_tokens or self._context_is_full(backend.context):
            self.finish_reason = "length"
        if self.finish_reason:
            self.text = self._decoded(backend.tokenizer)

    def _decoded(self, tokenizer: Any) -> str:
        return tokenizer.decode(self.new_ids, skip_special_tokens=True)

    def _at_stop(self, tokenizer: Any, stops: tuple[str, ...]) -> bool:
        """See whether the text holds a stop string, and keep what stands before the first one."""
        text = self._decoded(tokenizer)
        found = [text.index(stop) for stop in stops if stop in text]
        if found:
            self.text = text[: min(found)]
        return bool(found)

    def _context_is_full(self, context: int | None) -> bool:
        return context is not None and len(self.prompt_ids) + len(self.new_ids) >= context

    def completion(self, tokenizer: Any, latency_s: float) -> Completion:
        """Return the finished completion."""
        return Completion(
            text=self.text,
            finish_reason=self.finish_reason,
            token_ids=tuple(self.new_ids),
            logprob_sum=self.logprob_sum if self.request.params.logprobs else None,
            n_prompt_tokens=len(self.prompt_ids),
            n_tokens=len(self.new_ids),
            latency_s=latency_s,
        )


class _Batch:
    """Rows that are computed together, all with the same sampling parameters.

    A prompt is computed once for all its rows. Rows that are finished leave when they are half of
    the batch; till then what they compute is dropped.
    """

    ids_BT: torch.Tensor
    mask_BT: torch.Tensor

    def __init__(self, backend: TransformersBackend, rows: list[_Row]) -> None:
        self.backend = backend
        self.rows = rows
        self.params = rows[0].request.params
        self.processors = LogitsProcessorList([*backend.logits_processor, *_warpers(self.params)])
        self.device = next(backend.model.parameters()).device
        self.cache: Any = None
        # One uniform per token, drawn on the CPU so that it is the same on every device.
        self.uniforms = [torch.Generator().manual_seed(row.request.seed) for row in rows]

    @torch.inference_mode()
    def step(self) -> list[_Row]:
        """Compute and draw one token of every row; return the rows that it finished."""
        logits_BV = self._prefill() if self.cache is None else self._forward()
        tokens_B = self._draw(logits_BV)
        logprobs_B = logits_BV.log_softmax(-1).gather(1, tokens_B[:, None])[:, 0]
        self.ids_BT = torch.cat([self.ids_BT, tokens_B[:, None]], dim=1)
        self.mask_BT = torch.cat([self.mask_BT, torch.ones_like(tokens_B)[:, None]], dim=1)
        finished: list[_Row] = []
        for row, token, logprob in zip(
            self.rows, tokens_B.tolist(), logprobs_B.tolist(), strict=True
        ):
            if not row.finish_reason:
                row.push(token, logprob, self.backend)
                if row.finish_reason:
                    finished.append(row)
        self._shrink()
        return finished

    def _shrink(self) -> None:
        running = [index for index, row in enumerate(self.rows) if not row.finish_reason]
        if running and 2 * len(running) <= len(self.rows) and self._can_select():
            self._select(torch.tensor(running, device=self.device))
            self.rows = [self.rows[index] for index in running]
            self.uniforms = [self.uniforms[index] for index in running]

    def _can_select(self) -> bool:
        return hasattr(self.cache, "batch_select_indices")

    def _select(self, indices_B: torch.Tensor) -> None:
        """Make the batch of these lines, which may occur several times."""
        self.cache.batch_select_indices(indices_B)
        self.ids_BT, self.mask_BT = self.ids_BT[indices_B], self.mask_BT[indices_B]

    def _prefill(self) -> torch.Tensor:
        """Compute the prompts; return the logits of the first new token, float32 ``[B, V]``."""
        prompts = [tuple(row.prompt_ids) for row in self.rows]
        line_of = {prompt: line for line, prompt in enumerate(dict.fromkeys(prompts))}
        self._load(list(line_of))
        logits_BV = self._forward()
        if self._can_select():
            lines_B = torch.tensor([line_of[prompt] for prompt in prompts], device=self.device)
            self._select(lines_B)
            return logits_BV[lines_B]
        if len(line_of) < len(prompts):  # a cache of the model's own kind
            self.cache = None
            self._load(prompts)
            return self._forward()
        return logits_BV

    def _load(self, prompts: Sequence[tuple[int, ...]]) -> None:
        """Put prompts into the batch, padded on the left."""
        longest = max(len(prompt) for prompt in prompts)
        pads = [longest - len(prompt) for prompt in prompts]
        lines = [[0] * pad + list(prompt) for pad, prompt in zip(pads, prompts, strict=True)]
        self.ids_BT = torch.tensor(lines, device=self.device)
        marks = [[0] * pad + [1] * (longest - pad) for pad in pads]
        self.mask_BT = torch.tensor(marks, device=self.device)

    def _forward(self) -> torch.Tensor:
        """Return the next-token logits of every line, float32 ``[B, V]``."""
        new = self.ids_BT.shape[1] if self.cache is None else 1
        inputs: dict[str, Any] = {
            "input_ids": self.ids_BT[:, -new:],
            "attention_mask": self.mask_BT,
            "past_key_values": self.cache,
            "use_cache": True,
        }
        if "position_ids" in self.backend._takes:
            # Rows that are finished may have run to the end of the context.
            last = None if self.backend.context is None else self.backend.context - 1
            positions_BT = (self.mask_BT.cumsum(1) - 1).clamp(min=0, max=last)
            inputs["position_ids"] = positions_BT[:, -new:]
        if "logits_to_keep" in self.backend._takes:
            inputs["logits_to_keep"] = 1
        output = self.backend.model(**inputs)
        self.cache = output.past_key_values
        return output.logits[:, -1].float()

    def _draw(self, logits_BV: torch.Tensor) -> torch.Tensor:
        """Draw a token per row, int64 ``[B]``: the inverse distribution function at a uniform."""
        scores_BV = self.processors(self.ids_BT, logits_BV)
        if self.params.temperature == 0:
            return scores_BV.argmax(-1)
        cdf_BV = scores_BV.double().softmax(-1).cumsum(-1)
        uniforms_B = torch.cat(
            [torch.rand(1, dtype=torch.float64, generator=g) for g in self.uniforms]
        ).to(self.device)
        # Rounding leaves the total beside 1: the point is scaled by it and kept below it, so that
        # the last token with mass is the last that can be drawn; "right" steps over the others.
        total_B = cdf_BV[:, -1]
        points_B = torch.minimum(uniforms_B * total_B, total_B.nextafter(torch.zeros_like(total_B)))
        return torch.searchsorted(cdf_BV, points_B[:, None], right=True)[:, 0]


def _warpers(params: Sampling) -> list[Any]:
    """Return transformers' warpers in the order of its ``generate``."""
    if params.temperature == 0:
        return []
    warpers: list[Any] = []
    if params.temperature != 1:
        warpers.append(TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        warpers.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        warpers.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        warpers.append(MinPLogitsWarper(params.min_p))
    return warpers


def _by_params(rows: list[_Row]) -> list[list[_Row]]:
    groups: dict[str, list[_Row]] = {}
    for row in rows:
        groups.setdefault(json.dumps(row.request.params.to_dict()), []).append(row)
    return list(groups.values())


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end a completion: the model's own, else the tokenizer's."""
    end = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if end is None:
        end = tokenizer.eos_token_id
    if end is None:
        return frozenset()
    return frozenset([end] if isinstance(end, int) else end)


def _placed(model: Any, device: str | torch.device) -> Any:
    """Move a model to where it is to compute."""
    if len(getattr(model, "hf_device_map", None) or ()) > 1:
        return model
    here = next(model.parameters()).device
    if device == "auto" and here.type != "cpu":
        return model
    return model.to(resolve_device(device))
