"""The watermark of one key: seed symbols, groups and the step that a generator applies.

Takes contexts (windows of response tokens) and log-probabilities, NumPy or torch; knows no engine
and no tokenizer. Generator and detector both stand on `EWatermarkScheme`, so that they cannot
disagree on which positions count or how a seed is drawn.

Legend: ``B`` rows, ``V`` vocabulary, ``m`` seed symbols, ``c`` context width, ``L`` anchor window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modicum.core.prf import make_prf
from modicum.core.watermark.anchors import UniformAnchor, next_log_probs
from modicum.core.watermark.contexts import ContextTracker
from modicum.ewatermark.config import EWatermarkConfig
from modicum.ewatermark.coupling import group_bias, group_masses, namespace
from modicum.ewatermark.evalues import Evidence
from modicum.ewatermark.partition import balanced_groups, hash_group_of, hash_groups
from modicum.ewatermark.seed import inverse_cdf_seed, race_seed

Array = Any


@dataclass(frozen=True)
class Step:
    """What the key and the anchor fix at a batch of positions, before any token is seen.

    Attributes
    ----------
    masses_Bm
        float64; the anchor's group masses.
    seed_B
        int64; seed symbols.
    groups_BV
        int64; group of every token, or ``None`` for the identity.
    """

    masses_Bm: Array
    seed_B: Array
    groups_BV: Array | None


class EWatermarkScheme:
    """A configured watermark as functions of contexts; immutable and without hidden state.

    Parameters
    ----------
    config
        The configuration.

    Attributes
    ----------
    vocab_size, context_width, warmup
        From the configuration; what adapters need.
    """

    def __init__(self, config: EWatermarkConfig) -> None:
        assert config.anchor is not None and config.warmup is not None
        self.config = config
        self.anchor = config.anchor
        self.vocab_size = config.vocab_size
        self.context_width = config.context_width
        self.warmup = config.warmup
        self.uniform = isinstance(config.anchor, UniformAnchor)
        self._part = make_prf(config.prf, config.key, "part")
        two = config.num_groups == 2
        self._seed = make_prf(config.prf, config.key, "seed" if two else "race")
        self._draw = inverse_cdf_seed if two else race_seed

    def new_tracker(self, *, keep_all: bool = True) -> ContextTracker:
        """Return a tracker for a new response; ``keep_all=False`` keeps only what anchors read."""
        window = self.anchor.window
        keep = None if keep_all or window is None else max(window, self.context_width)
        return ContextTracker(
            self.context_width, self.warmup, deduplicate=self.config.deduplicate, keep=keep
        )

    def anchor_log_probs(self, windows: Sequence[Sequence[int]], like: Array) -> Array | None:
        """Ask the anchor for the next-token law after each window.

        Parameters
        ----------
        windows
            The tokens the anchor may read, one sequence per row.
        like
            Array that decides library and device of the result.

        Returns
        -------
        array[B, V] or None
            Log-probabilities; ``None`` for the uniform anchor, which needs no model.
        """
        if self.uniform:
            return None
        return next_log_probs(self.anchor, windows, like)

    def window_of(self, tokens: Sequence[int]) -> Sequence[int]:
        """Cut response tokens to what the anchor reads."""
        window = self.anchor.window
        return tokens if window is None else tokens[max(0, len(tokens) - window) :]

    def step(self, contexts_Bc: Array, anchor_log_probs_BV: Array | None) -> Step:
        """Draw groups, masses and seeds of positions.

        Parameters
        ----------
        contexts_Bc
            int64 contexts, left-padded with -1.
        anchor_log_probs_BV
            From `anchor_log_probs`.

        Returns
        -------
        Step
        """
        m = self.config.num_groups
        groups_BV = None
        if self.config.partition != "none":
            state_B4 = self._part.context_state(contexts_Bc)
            if self.config.partition == "balanced" and anchor_log_probs_BV is not None:
                groups_BV = balanced_groups(self._part, state_B4, anchor_log_probs_BV, m)
            else:
                groups_BV = hash_groups(self._part, state_B4, self.vocab_size, m)
        masses_Bm = self._masses(contexts_Bc, anchor_log_probs_BV, groups_BV)
        return Step(masses_Bm, self._seeds(contexts_Bc, masses_Bm), groups_BV)

    def _masses(
        self, contexts_Bc: Array, log_probs_BV: Array | None, groups: Array | None
    ) -> Array:
        m = self.config.num_groups
        if log_probs_BV is not None:
            return group_masses(namespace(log_probs_BV).exp(log_probs_BV), groups, m)
        xp = namespace(contexts_Bc)
        if xp is np:
            return np.full((len(contexts_Bc), m), 1.0 / m)
        return xp.full((len(contexts_Bc), m), 1.0 / m, dtype=xp.float64, device=contexts_Bc.device)

    def _seeds(self, contexts_Bc: Array, masses_Bm: Array) -> Array:
        return self._draw(self._seed, self._seed.context_state(contexts_Bc), masses_Bm)

    def transform(self, logprobs_BV: Array, trackers: Sequence[ContextTracker]) -> Array:
        """Bias next-token log-probabilities so that sampling from them carries the watermark.

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
        ValueError
            If a row holds NaN or no possible token, or the shapes do not fit.
        """
        if len(trackers) != len(logprobs_BV):
            raise ValueError(f"{len(logprobs_BV)} rows of logits but {len(trackers)} trackers")
        if logprobs_BV.shape[-1] < self.vocab_size:
            raise ValueError(
                f"logits cover {logprobs_BV.shape[-1]} tokens, the configuration's vocab_size is "
                f"{self.vocab_size}"
            )
        contexts = [tracker.context() for tracker in trackers]
        active = [row for row, context in enumerate(contexts) if context is not None]
        if not active:
            return logprobs_BV
        xp = namespace(logprobs_BV)
        if self.config.partition == "hash" and xp is not np and logprobs_BV.is_cuda:
            return self._transform_on_device(logprobs_BV, active, trackers)
        target_BV = logprobs_BV[active][:, : self.vocab_size]
        q_BV = xp.exp(target_BV)
        total_B = q_BV.sum(-1)
        bad = [r for r, t in zip(active, total_B.tolist(), strict=True) if not 0 < t < np.inf]
        if bad:
            raise ValueError(
                f"rows {bad} have no finite log-probability below vocab_size={self.vocab_size} "
                "(NaN, +inf or all -inf)"
            )
        ids_Bc: Array = np.array([contexts[row] for row in active], dtype=np.int64)
        if xp is not np:
            ids_Bc = xp.from_numpy(ids_Bc).to(logprobs_BV.device)
        windows = [self.window_of(trackers[row].tokens) for row in active]
        step = self.step(ids_Bc, self.anchor_log_probs(windows, logprobs_BV))
        masses_Bm = group_masses(q_BV, step.groups_BV, self.config.num_groups)
        bias_Bm = group_bias(masses_Bm, step.masses_Bm, step.seed_B, self.config.bias)
        if step.groups_BV is None:
            bias_BV = bias_Bm
        elif xp is np:
            bias_BV = np.take_along_axis(bias_Bm, step.groups_BV, axis=1)
        else:
            bias_BV = bias_Bm.gather(1, step.groups_BV)
        marked_BV = target_BV + (
            bias_BV.astype(target_BV.dtype) if xp is np else bias_BV.to(target_BV.dtype)
        )
        out_BV = logprobs_BV.copy() if xp is np else logprobs_BV.clone()
        out_BV[active] = -float("inf")
        if xp is np:
            out_BV[np.array(active)[:, None], np.arange(self.vocab_size)] = marked_BV
        else:
            out_BV[active, : self.vocab_size] = marked_BV
        return out_BV

    def _transform_on_device(
        self, logprobs_BV: Array, active: list[int], trackers: Sequence[ContextTracker]
    ) -> Array:
        # The same step in two fused passes, which store no group ids.
        import torch

        from modicum.ewatermark.kernels.group_bias import group_bias as fused_group_bias

        contexts = [trackers[row].context() for row in active]
        ids_Bc = torch.tensor(contexts, dtype=torch.int64, device=logprobs_BV.device)
        windows = [self.window_of(trackers[row].tokens) for row in active]
        return fused_group_bias(
            logprobs_BV,
            active,
            self.anchor_log_probs(windows, logprobs_BV),
            self._part,
            self._part.context_state(ids_Bc),
            lambda masses_Bm: self._seeds(ids_Bc, masses_Bm),
            vocab_size=self.vocab_size,
            num_groups=self.config.num_groups,
            strength=self.config.bias,
        )

    def evidence(
        self,
        contexts_Tc: NDArray[np.int64],
        tokens_T: NDArray[np.int64],
        anchor_log_probs_TV: Array | None,
    ) -> Evidence:
        """Read the evidence at scored positions of a text.

        Parameters
        ----------
        contexts_Tc, tokens_T
            Contexts and emitted tokens of the scored positions.
        anchor_log_probs_TV
            The anchor's laws at these positions (NumPy or torch), or ``None`` if uniform.

        Returns
        -------
        Evidence
        """
        m = self.config.num_groups
        rows = np.arange(len(tokens_T))
        contexts: Array = contexts_Tc
        if anchor_log_probs_TV is not None and not isinstance(anchor_log_probs_TV, np.ndarray):
            import torch

            contexts = torch.from_numpy(contexts_Tc).to(anchor_log_probs_TV.device)
        if anchor_log_probs_TV is None and self.config.partition != "none":
            # Equal masses need no group but the token's own: the work does not grow with V.
            state_T4 = self._part.context_state(contexts_Tc)
            group_T = hash_group_of(self._part, state_T4, tokens_T, m)
            masses_Tm = self._masses(contexts_Tc, None, None)
            seed_T = self._seeds(contexts_Tc, masses_Tm)
        else:
            step = self.step(contexts, anchor_log_probs_TV)
            masses_Tm, seed_T = _host(step.masses_Bm), _host(step.seed_B)
            group_T = tokens_T if step.groups_BV is None else _host(step.groups_BV)[rows, tokens_T]
        positive = masses_Tm > 0
        logs = np.log(np.where(positive, masses_Tm, 1.0))
        return Evidence(
            match_T=group_T == seed_T,
            seed_probability_T=masses_Tm[rows, seed_T],
            token_probability_T=masses_Tm[rows, group_T],
            entropy_T=-(masses_Tm * logs).sum(axis=1),
            support_T=positive.sum(axis=1),
        )


def _host(x: Array) -> NDArray[Any]:
    return x if isinstance(x, np.ndarray) else x.cpu().numpy()
