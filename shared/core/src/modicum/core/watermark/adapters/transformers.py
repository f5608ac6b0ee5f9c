"""Run a watermark inside ``model.generate()`` of the transformers library.

Takes a step scheme (what the watermark does with one next-token law) and supplies what transformers
asks for: a logits processor, and a watermarking configuration that `generate` turns into one. The
adapter follows the response of every row, never lets a prompt or padding token into a context, and
refuses the decoding modes in which a row is not one growing response. Knows nothing of keys and
statistics, and leaves the model, its cache and the global random state alone.

Where it runs. ``generate(..., watermarking_config=config)`` appends the processor after
temperature, top-k, top-p and all other warpers: it sees the law that is sampled from. A processor
passed as ``logits_processor=[...]`` runs before them: then hand the warping to the processor
(``warper=Warper(...)``) and call `generate` with ``temperature=1.0, top_k=0, top_p=1.0``.

Shape suffixes: B rows of the batch, L tokens so far (prompt and response), V vocabulary.
"""

import copy
import json
import sys
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor
from transformers.generation import GenerationMode
from transformers.generation.configuration_utils import BaseWatermarkingConfig

from modicum.core.watermark.adapters import StepScheme
from modicum.core.watermark.contexts import ContextTracker

__all__ = ["WatermarkProcessor", "WatermarkingConfig"]

_SUPERSEDED_KEPT = 8  # earlier generations of a re-used processor that are still recognised


@dataclass
class _Generation:
    """The rows of one `generate` call: what was seen last and the tracker of each row."""

    ids_BL: Tensor
    prompt_length: int
    trackers: list[ContextTracker]
    finished: list[bool]


class WatermarkProcessor(LogitsProcessor):
    """Logits processor that marks each row of a batch with a step scheme.

    The tokens of the first call are the prompt; everything after them is response. Rows in warm-up
    or on a repeated context are returned bit for bit as they came. Ids at or beyond
    ``scheme.vocab_size`` (rows that pad an output layer to a round size) get probability zero at
    every step; a row that nevertheless receives one (a padding id after the end of its text) is
    finished and left alone from there on.

    Parameters
    ----------
    scheme
        The watermark.
    warper
        Applied to the float32 logits ``[B, V]`` before the scheme, and expected to return
        normalised log-probabilities ``[B, V]``: only for use through ``logits_processor=``, where
        transformers would warp after the mark.
    single_generation
        Serve one `generate` call only. Otherwise a call whose rows do not continue the last seen
        ones starts over with fresh responses, so the object may be used for one `generate` after
        another. A re-used processor cannot tell a prompt that repeats the last rows plus one token
        from a continuation; call `reset` in between.

    Notes
    -----
    Only the token ids are visible to a logits processor, so it recognises beam search, assisted
    decoding and interleaved `generate` calls when their rows stop growing one token at a time, not
    before. `WatermarkingConfig` refuses them at the start. A processor used through
    ``logits_processor=`` with ``do_sample=False`` changes the arg-max: it marks the text, at the
    price of text that greedy decoding would not have written.
    """

    def __init__(
        self,
        scheme: StepScheme,
        warper: Callable[[Tensor], Tensor] | None = None,
        *,
        single_generation: bool = False,
    ) -> None:
        self.scheme = scheme
        self.warper = warper
        self.single_generation = single_generation
        self._current: _Generation | None = None
        self._superseded: deque[Tensor] = deque(maxlen=_SUPERSEDED_KEPT)

    def reset(self) -> None:
        """Forget all rows: the next call starts new responses."""
        self._current = None
        self._superseded.clear()

    @property
    def trackers(self) -> tuple[ContextTracker, ...]:
        """The trackers of the running generation, one per row; empty before the first call."""
        return () if self._current is None else tuple(self._current.trackers)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores to sample the next token from.

        Parameters
        ----------
        input_ids
            All tokens so far, prompt first, int64 ``[B, L]``.
        scores
            Logits or log-probabilities of the next token, floating point ``[B, V]`` with
            ``V >= scheme.vocab_size``.

        Returns
        -------
        Tensor
            ``[B, V]`` in the dtype of ``scores``.

        Raises
        ------
        ValueError
            If shapes do not fit, or a row is NaN, ``+inf`` or ``-inf`` throughout.
        NotImplementedError
            If the rows are not one response each that grows by one token per call.
        """
        vocab_size = self.scheme.vocab_size
        self._check_shapes(input_ids, scores)
        logits_BV = scores[:, :vocab_size].to(torch.float32)
        norm_B = torch.logsumexp(logits_BV, dim=-1)
        generation = self._follow(input_ids, norm_B, logits_BV)

        if self.warper is None:
            logprobs_BV = logits_BV - norm_B[:, None]
            out_BV = scores.clone()
        else:
            logprobs_BV = self.warper(logits_BV)
            out_BV = torch.empty_like(scores)
            out_BV[:, :vocab_size] = logprobs_BV.to(scores.dtype)
        out_BV[:, vocab_size:] = -torch.inf

        trackers = generation.trackers
        marked = [
            row
            for row, tracker in enumerate(trackers)
            if not generation.finished[row] and tracker.context() is not None
        ]
        if len(marked) == len(trackers):
            out_BV[:, :vocab_size] = self.scheme.transform(logprobs_BV, trackers).to(scores.dtype)
        elif marked:
            rows = torch.tensor(marked, device=scores.device)
            transformed_RV = self.scheme.transform(logprobs_BV[rows], [trackers[r] for r in marked])
            out_BV[rows, :vocab_size] = transformed_RV.to(scores.dtype)
        return out_BV

    def _check_shapes(self, input_ids: Tensor, scores: Tensor) -> None:
        if input_ids.dim() == 1:
            raise NotImplementedError(
                "got token ids without a batch dimension: continuous batching shows a logits "
                "processor one token per request and not the text before it, so there is no "
                "context to mark with; use model.generate()"
            )
        if input_ids.dim() != 2 or scores.dim() != 2 or len(input_ids) != len(scores):
            raise ValueError(
                "expected input_ids [B, L] and scores [B, V], "
                f"got {list(input_ids.shape)} and {list(scores.shape)}"
            )
        if scores.shape[1] < self.scheme.vocab_size:
            raise ValueError(
                f"the model scores {scores.shape[1]} token ids but the watermark was made for a "
                f"vocabulary of {self.scheme.vocab_size}; make it for {scores.shape[1]} or fewer"
            )

    def _follow(self, ids_BL: Tensor, norm_B: Tensor, logits_BV: Tensor) -> _Generation:
        """Check the rows, push the newest token of each, return the running generation."""
        current = self._current
        finite_B = torch.isfinite(norm_B).to(ids_BL.device)
        if current is not None and _may_extend(current.ids_BL, ids_BL):
            extends_B = (ids_BL[:, :-1] == current.ids_BL).all(dim=1)
            newest_B = ids_BL[:, -1]
        else:
            extends_B = torch.zeros_like(finite_B)
            newest_B = torch.zeros_like(finite_B, dtype=torch.int64)
        # One transfer for everything the host must know about this step.
        facts = torch.stack([newest_B, extends_B.long(), finite_B.long()], dim=1).tolist()
        for row, (_, _, finite) in enumerate(facts):
            if not finite:
                raise ValueError(_bad_row(row, logits_BV[row]))

        if current is None or not all(extends for _, extends, _ in facts):
            if current is not None:
                self._check_new_generation(current, ids_BL)
                self._superseded.append(current.ids_BL)
            current = self._current = _Generation(
                ids_BL=ids_BL.clone(),
                prompt_length=ids_BL.shape[1],
                trackers=[self.scheme.new_tracker() for _ in range(len(ids_BL))],
                finished=[False] * len(ids_BL),
            )
            return current

        current.ids_BL = ids_BL.clone()
        for row, (token, _, _) in enumerate(facts):
            if token >= self.scheme.vocab_size:
                current.finished[row] = True
            else:
                current.trackers[row].push(token)
        return current

    def _check_new_generation(self, last: _Generation, ids_BL: Tensor) -> None:
        """Tell the first step of another generation from rows that were reordered or rewound."""
        rows = ids_BL.tolist()
        last_rows = last.ids_BL.tolist()
        last_length, length = last.ids_BL.shape[1], ids_BL.shape[1]
        if length == last_length + 1 and all(row[:-1] in last_rows for row in rows):
            if len(rows) != len(last_rows):
                _refuse(f"the number of rows changed from {len(last_rows)} to {len(rows)}")
            _refuse("rows changed their order")
        # The last token of a rewound row may differ: it replaces the candidate that was rejected.
        if last.prompt_length + 1 < length <= last_length and [row[:-1] for row in rows] == [
            row[: length - 1] for row in last_rows
        ]:
            _refuse(f"rows went back from {last_length} to {length} tokens")
        if self.single_generation:
            _refuse("the rows do not continue those of the step before")
        if any(_continues(other_BL, ids_BL) for other_BL in self._superseded):
            _refuse("the rows continue an earlier generation, so two of them are interleaved")


def _may_extend(last_BL: Tensor, ids_BL: Tensor) -> bool:
    return len(last_BL) == len(ids_BL) and ids_BL.shape[1] == last_BL.shape[1] + 1


def _continues(last_BL: Tensor, ids_BL: Tensor) -> bool:
    return _may_extend(last_BL, ids_BL) and torch.equal(ids_BL[:, :-1], last_BL)


def _refuse(what: str) -> NoReturn:
    raise NotImplementedError(
        f"{what}: a watermark needs rows that each grow by one token per step, which is not so in "
        "beam search, in assisted or speculative decoding, or when several generate() calls share "
        "one processor; use plain sampling (do_sample=True, num_beams=1) and one processor per "
        "call, or reset() between calls"
    )


def _bad_row(row: int, logits_V: Tensor) -> str:
    if torch.isnan(logits_V).any():
        return f"row {row} of the scores contains NaN; every entry must be a number or -inf"
    if (logits_V == torch.inf).any():
        return f"row {row} of the scores contains +inf; every entry must be finite or -inf"
    return (
        f"row {row} of the scores is -inf for all of the {len(logits_V)} token ids the watermark "
        "covers, so no token can be sampled; check the masks before it, and that vocab_size counts "
        "the added special tokens"
    )


class _Unmarked(LogitsProcessor):
    """Returns the scores as they are."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores


@dataclass(repr=False, eq=False)
class WatermarkingConfig(BaseWatermarkingConfig):
    """What ``model.generate(..., watermarking_config=config)`` takes, for any step scheme.

    Every `generate` call gets a fresh processor, so one configuration serves any number of calls,
    also at the same time; the copies transformers makes of it share the scheme. What transformers
    prints or saves names the key by ``key_id`` and never contains it; a generation config saved
    with it can therefore not be loaded back (transformers raises a ``TypeError``).

    Parameters
    ----------
    scheme
        The watermark.
    key_id
        Public name of the key.
    public
        Further JSON-able settings to show in `to_dict`.

    Notes
    -----
    Rows of one batch that meet the same context under the same key use the same keyed draw, so the
    sequences of ``num_return_sequences`` are less varied than unmarked ones; each alone has the
    model's law.
    """

    scheme: StepScheme
    key_id: str
    public: Mapping[str, Any] = field(default_factory=dict)

    def validate(self) -> None:
        """Check that the scheme is one.

        Raises
        ------
        TypeError
            If ``scheme`` lacks a part of the step-scheme protocol.
        """
        needed = ("vocab_size", "context_width", "warmup", "new_tracker", "transform")
        missing = [name for name in needed if not hasattr(self.scheme, name)]
        if missing:
            raise TypeError(
                f"scheme must be a watermark step scheme, but {type(self.scheme).__name__} has no "
                f"{', '.join(missing)}"
            )

    def construct_processor(
        self, vocab_size: int, device: "torch.device | str | None" = None
    ) -> LogitsProcessor:
        """Return the processor for one `generate` call; transformers calls this.

        Parameters
        ----------
        vocab_size
            Number of token ids the model scores.
        device
            Device of the inputs; ``None`` when called for continuous batching.

        Returns
        -------
        LogitsProcessor
            A fresh `WatermarkProcessor`, or one that changes nothing (with a warning) for greedy
            decoding, which leaves no randomness to carry a mark.

        Raises
        ------
        NotImplementedError
            In beam search, assisted decoding and continuous batching.
        ValueError
            If the watermark covers more ids than the model scores.
        """
        self.validate()
        if vocab_size < self.scheme.vocab_size:
            raise ValueError(
                f"the model scores {vocab_size} token ids but the watermark was made for a "
                f"vocabulary of {self.scheme.vocab_size}; make it for {vocab_size} or fewer"
            )
        mode = _calling_mode()
        if mode is not None and device is None:
            raise NotImplementedError(
                "continuous batching shows a logits processor one token per request and not the "
                "text before it, so it cannot be watermarked here; use model.generate() without "
                "cache_implementation='paged'"
            )
        if mode is GenerationMode.GREEDY_SEARCH:
            warnings.warn(
                "greedy decoding (do_sample=False) leaves no randomness to carry a watermark: "
                "this text will NOT be marked; pass do_sample=True",
                UserWarning,
                stacklevel=2,
            )
            return _Unmarked()
        if mode is not None and mode is not GenerationMode.SAMPLE:
            raise NotImplementedError(
                f"generation mode {mode.value!r} cannot be watermarked: its rows are reordered or "
                "rewound, so a context is not what was generated; use plain sampling "
                "(do_sample=True, num_beams=1, no assistant)"
            )
        return WatermarkProcessor(self.scheme, single_generation=True)

    def to_dict(self) -> dict[str, Any]:
        """Return the public settings as JSON-able values; the key is not among them."""
        return {
            "watermark": type(self).__name__,
            "key_id": self.key_id,
            "vocab_size": self.scheme.vocab_size,
            "context_width": self.scheme.context_width,
            "warmup": self.scheme.warmup,
            **self.public,
        }

    def to_json_string(self) -> str:
        """Return `to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> NoReturn:
        """Refuse: the dictionary does not contain the key.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError(
            f"a {cls.__name__} cannot be rebuilt from its dictionary, which names the key by its "
            f"id ({config_dict.get('key_id')!r}) and does not contain it; build it from the key"
        )

    def __iter__(self) -> Any:
        """Iterate over the items of `to_dict`."""
        yield from self.to_dict().items()

    def __repr__(self) -> str:
        """Name the class and show `to_json_string`."""
        return f"{type(self).__name__} {self.to_json_string()}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a shallow copy, so that an anchor model is never copied."""
        return copy.copy(self)


def _calling_mode() -> GenerationMode | None:
    """Return how the running `generate` decodes, or ``None`` outside of one.

    transformers does not hand its generation settings to ``construct_processor``, and a processor
    that learns of a beam search only from shuffled rows learns of it too late. So the arguments are
    read from the calling functions: ``generation_config`` of the method that builds the processors
    and ``assistant_model`` of `generate` above it.
    """
    builder = sys._getframe(2)
    config = builder.f_locals.get("generation_config")
    if not isinstance(config, GenerationConfig):
        return None
    if config.is_assistant:
        return GenerationMode.ASSISTED_GENERATION
    generate = builder.f_back
    assistant = None if generate is None else generate.f_locals.get("assistant_model")
    return config.get_generation_mode(assistant)
