"""The watermark of one key: the step that a generator applies to its next-token laws.

Takes the trackers of responses and log-probabilities, NumPy or torch; knows no engine and no
tokenizer. Implements `modicum.core.watermark.adapters.StepScheme`.

Legend: ``B`` rows, ``A`` watermarked rows, ``V`` vocabulary, ``W >= V`` columns of logits, ``c``
context width, ``L`` surrogate window, ``s`` words of a PRF state.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from modicum.core.watermark.anchors import next_log_probs
from modicum.core.watermark.contexts import ContextTracker
from modicum.core.watermark.warpers import is_torch
from modicum.umpwatermark.config import UMPWatermarkConfig
from modicum.umpwatermark.distortion import distort
from modicum.umpwatermark.samplers import make_sampler
from modicum.umpwatermark.samplers.base import log_of, probabilities
from modicum.umpwatermark.uniforms import make_uniforms

Array = Any


class UMPWatermarkScheme:
    """A configured watermark as a function of responses; immutable and without hidden state.

    Parameters
    ----------
    config
        The configuration.

    Attributes
    ----------
    vocab_size, context_width, warmup
        From the configuration; what adapters need.
    sampler, uniforms
        What the configuration builds; what detectors need.
    """

    def __init__(self, config: UMPWatermarkConfig) -> None:
        assert config.warmup is not None
        self.config = config
        self.vocab_size = config.vocab_size
        self.context_width = config.context_width
        self.warmup = config.warmup
        self.sampler = make_sampler(config)
        self.uniforms = make_uniforms(config)

    def new_tracker(self, *, keep_all: bool = True) -> ContextTracker:
        """Return a tracker for a new response.

        ``keep_all=False`` keeps only the tokens that context and surrogate read.
        """
        surrogate = self.config.surrogate
        window = 0 if surrogate is None else surrogate.window
        keep = None if keep_all or window is None else max(window, self.context_width)
        return ContextTracker(
            self.context_width, self.warmup, deduplicate=self.config.deduplicate, keep=keep
        )

    def surrogate_log_probs(self, trackers: Sequence[ContextTracker], like: Array) -> Array | None:
        """Ask the configuration's surrogate for the next-token law of responses.

        Parameters
        ----------
        trackers
            Responses so far.
        like
            Array that decides library and device of the result.

        Returns
        -------
        array[B, V] or None
            Log-probabilities; ``None`` for samplers that use no surrogate.
        """
        surrogate = self.config.surrogate
        if surrogate is None:
            return None
        return next_log_probs(surrogate, [tracker.tokens for tracker in trackers], like)

    def transform(self, logprobs_BV: Array, trackers: Sequence[ContextTracker]) -> Array:
        """Condition next-token log-probabilities on the key.

        A pure function of key, context and law (for ``"ump-aware"`` also of the response that the
        surrogate reads): what chance remains is left to whoever samples from the result.

        Parameters
        ----------
        logprobs_BV
            Log-probabilities that would be sampled from, after temperature, truncation and
            grammar; float32 or float64, NumPy or torch. May be wider than ``vocab_size``: the
            excess gets probability 0 in watermarked rows.
        trackers
            One per row, holding the response so far.

        Returns
        -------
        array[B, V]
            Log-probabilities; rows that are not watermarked (warm-up, repeated context) unchanged.

        Raises
        ------
        TypeError
            If the result would be rounded to half precision: then it is no longer the model's law
            over keys. The choice of a single token survives it.
        ValueError
            If a watermarked row holds NaN or no possible token, or the shapes do not fit.
        """
        if len(trackers) != len(logprobs_BV):
            raise ValueError(f"{len(logprobs_BV)} rows of logits but {len(trackers)} trackers")
        if logprobs_BV.shape[-1] < self.vocab_size:
            raise ValueError(
                f"logits cover {logprobs_BV.shape[-1]} tokens, the configuration's vocab_size is "
                f"{self.vocab_size}"
            )
        self._check_precision(logprobs_BV)
        contexts = [tracker.context() for tracker in trackers]
        active = [row for row, context in enumerate(contexts) if context is not None]
        if not active:
            return logprobs_BV
        ids_Ac: Array = np.array([contexts[row] for row in active], dtype=np.int64)
        if is_torch(logprobs_BV):
            import torch

            ids_Ac = torch.from_numpy(ids_Ac).to(logprobs_BV.device)
        state_As = self.uniforms.context_state(ids_Ac)
        if (
            self.sampler.name == "gumbel"
            and self.config.epsilon == 0
            and is_torch(logprobs_BV)
            and logprobs_BV.is_cuda
        ):
            fused = self._race_on_device(logprobs_BV, active, state_As)
            if fused is not None:
                return fused
        log_q_AV = self._law(logprobs_BV, active)
        surrogate_AV = self.surrogate_log_probs([trackers[row] for row in active], logprobs_BV)
        marked_AV = self.sampler.conditional_log_probs(
            log_q_AV, state_As, self.uniforms, surrogate_AV
        )
        out_BV = logprobs_BV.clone() if is_torch(logprobs_BV) else logprobs_BV.copy()
        out_BV[active] = -float("inf")
        if is_torch(out_BV):
            out_BV[active, : self.vocab_size] = marked_AV
        else:
            out_BV[np.array(active)[:, None], np.arange(self.vocab_size)] = marked_AV
        return out_BV

    def _check_precision(self, logprobs_BV: Array) -> None:
        certain = self.sampler.deterministic and not self.config.epsilon
        size = logprobs_BV.element_size() if is_torch(logprobs_BV) else logprobs_BV.itemsize
        if size < 4 and not certain:
            raise TypeError(
                f"sampler={self.sampler.name!r} with epsilon={self.config.epsilon} needs float32 "
                f"or float64 log-probabilities, got {logprobs_BV.dtype}; convert them first"
            )

    def _law(self, logprobs_BV: Array, active: list[int]) -> Array:
        log_q_AV = logprobs_BV[active][:, : self.vocab_size]
        # NaN and +inf carry over to the highest value, and a row of -inf has no other.
        high_A = log_q_AV.amax(-1) if is_torch(log_q_AV) else log_q_AV.max(axis=-1)
        bad = [r for r, h in zip(active, high_A.tolist(), strict=True) if not -np.inf < h < np.inf]
        if bad:
            raise ValueError(
                f"rows {bad} have no finite log-probability below vocab_size={self.vocab_size} "
                "(NaN, +inf or all -inf)"
            )
        if self.config.epsilon:
            flat_AV, _ = distort(probabilities(log_q_AV), self.config.epsilon)
            return log_of(flat_AV, like=log_q_AV)
        return log_q_AV

    def _race_on_device(self, logprobs_BV: Array, active: list[int], state_As: Array) -> Array:
        # The same choice in one fused pass over the law, or None where the PRF is no Philox.
        if self.uniforms.philox is None:
            return None
        from modicum.umpwatermark.kernels.gumbel_race import gumbel_race

        winner_A = gumbel_race(
            logprobs_BV,
            self.uniforms.philox,
            state_As,
            rows=active,
            vocab_size=self.vocab_size,
            bits=self.uniforms.bits,
        )
        out_BV = logprobs_BV.clone()
        out_BV[active] = -float("inf")
        out_BV[active, winner_A] = 0.0
        return out_BV

    def realised_distortion(self, logprobs_BV: Array) -> Array:
        """Return the total variation that ``epsilon`` costs at each step, float64 ``[B]``.

        Parameters
        ----------
        logprobs_BV
            Log-probabilities as for `transform`.

        Returns
        -------
        float64[B]
            ``epsilon``, or less where the flattened law has become uniform; averaged over keys,
            the distance between the law of the watermarked token and the model's.
        """
        return distort(probabilities(logprobs_BV[:, : self.vocab_size]), self.config.epsilon)[1]
