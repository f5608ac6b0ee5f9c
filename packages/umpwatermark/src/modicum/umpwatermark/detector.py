"""The detector: a p-value for any text, with or without a model at hand.

Works on token ids of responses (never the prompt). With a configuration alone it reads the keyed
uniforms; with a surrogate (any law over next tokens that does not depend on the key) or with
log-probabilities of the observed tokens it weighs them by what the text could carry. The surrogate
decides the power and never the validity. What a small p-value says is "this text is not independent
of the key"; it does not say who wrote it.

Legend: ``T`` tokens, ``S`` scored tokens, ``B`` responses, ``V`` vocabulary, ``c`` context width.
"""

import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from modicum.core.watermark.anchors import (
    Anchor,
    iter_sequence_log_probs,
    validate_anchor_log_probs,
)
from modicum.core.watermark.contexts import distinct_contexts, token_ids
from modicum.core.watermark.responses import encode_text, responses
from modicum.core.watermark.warnings import PowerWarning, ValidityWarning
from modicum.core.watermark.warpers import Warper, is_torch
from modicum.umpwatermark.agnostic import AgnosticCoupling, greedy_pass
from modicum.umpwatermark.config import UMPWatermarkConfig
from modicum.umpwatermark.evidence import Evidence
from modicum.umpwatermark.samplers.base import probabilities
from modicum.umpwatermark.samplers.greenlist import TOP, in_region
from modicum.umpwatermark.samplers.gumbel import gumbel_match
from modicum.umpwatermark.samplers.hazard import hazard_choice
from modicum.umpwatermark.samplers.ump_aware import keyed_region
from modicum.umpwatermark.scheme import UMPWatermarkScheme
from modicum.umpwatermark.statistics import OracleStatistic, Statistic, Weights, make_statistic
from modicum.umpwatermark.theory import check_alpha
from modicum.umpwatermark.uniforms import KeyedUniforms

if TYPE_CHECKING:
    from modicum.umpwatermark.stream import DetectorStream

CHUNK_ELEMENTS = 1 << 22
"""Positions times vocabulary that are held in memory at once."""

SURROGATE_BATCH = 256
"""Positions a surrogate is asked for at once, at most."""

PIVOT_SAMPLERS = ("gumbel", "hazard")
COLDEST = 0.05
"""Temperature below which hardly any token is left to chance."""

# Log-probabilities of certain tokens may round to a hair above zero.
LOG_PROB_SLACK = 1e-4

Array = Any


@dataclass(frozen=True, eq=False)
class PerToken:
    """What each scored token of one response shows.

    Attributes
    ----------
    position
        int64[S]; index into the response.
    score
        float64[S]; what the token adds to the statistic (log e-value in nats, or a count).
    pivot
        float64[S] in (0, 1); keyed uniform Y of the token.
    prob
        float64[S] or None; surrogate probability of the token, floored.
    match
        bool[S] or None; whether the sampler would have taken it under the surrogate's law (M).
    hit
        bool[S] or None; whether it lies in the region of its position.
    """

    position: NDArray[np.int64]
    score: NDArray[np.float64]
    pivot: NDArray[np.float64]
    prob: NDArray[np.float64] | None
    match: NDArray[np.bool_] | None
    hit: NDArray[np.bool_] | None


@dataclass(frozen=True, eq=False)
class UMPWatermarkDetectorOutput:
    """Result of reading one or more responses; one entry per response.

    Attributes
    ----------
    num_tokens_scored
        int64[B]; positions that carried evidence.
    score
        float64[B]; the statistic.
    log_e_value
        float64[B]; natural log of a product of one-step e-values, each of null mean one. May be
        merged with others; its own p-value ``exp(-log_e_value)`` is weaker than ``p_value``.
    p_value
        float64[B]; exact or an upper bound, see ``p_value_method``. Of the text as it is: its
        length must not have been chosen by looking at the p-value (open a stream for that).
    prediction
        bool[B]; ``p_value <= alpha``. True means "not independent of the key".
    p_value_method
        list of str; ``"exact"``, ``"mc"`` (exactly valid), ``"bound"`` or ``"saddlepoint"`` (an
        approximation).
    ump_p_value
        float64[B]; product of the surrogate probabilities of the scored tokens if all of them
        match, else 1: the p-value of the uniformly most powerful test under the surrogate, and the
        least any test can print for a text of that probability. NaN where matches are not read.
    efficiency
        float64[B]; ``log_e_value / -sum(ln prob)``, the evidence as a share of the surprisal that
        the surrogate assigns to the scored tokens, which is what the most powerful test collects
        from a text that matches throughout. Below zero for text that speaks against the key; NaN
        without surrogate probabilities.
    num_green_tokens
        int64[B] or None; hits, for samplers with regions and for ``"binomial"``.
    z_score
        float64[B] or None; standardised score where it is a sum of equal terms (sum, counts); for
        orientation, the p-value does not use it.
    per_token
        list of `PerToken`.
    """

    num_tokens_scored: NDArray[np.int64]
    score: NDArray[np.float64]
    log_e_value: NDArray[np.float64]
    p_value: NDArray[np.float64]
    prediction: NDArray[np.bool_]
    p_value_method: list[str]
    ump_p_value: NDArray[np.float64]
    efficiency: NDArray[np.float64]
    num_green_tokens: NDArray[np.int64] | None
    z_score: NDArray[np.float64] | None
    per_token: list[PerToken]


@dataclass(frozen=True, eq=False)
class Reading:
    """One response as a detector reads it.

    Attributes
    ----------
    ids_T
        The response.
    evidence
        Of its scored tokens.
    position_S
        Their positions.
    contexts_Sc
        Their contexts.
    """

    ids_T: NDArray[np.int64]
    evidence: Evidence
    position_S: NDArray[np.int64]
    contexts_Sc: NDArray[np.int64]


def text_rng(seed: int, ids_T: NDArray[np.int64]) -> np.random.Generator:
    """Return the generator of a text's null draws: a function of seed and ids, not of the key."""
    digest = hashlib.blake2b(ids_T.astype("<i8").tobytes(), digest_size=16).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, dtype="<u4").tolist()])


def check_token_log_probs(
    token_logprobs: Any, num_tokens: int, *, first: int = 0
) -> NDArray[np.float64]:
    """Check log-probabilities of observed tokens at the door.

    Parameters
    ----------
    token_logprobs
        One natural logarithm per token, at most 0; NaN or None where the response begins and the
        engine had nothing to condition on.
    num_tokens
        T.
    first
        How many tokens came before, for messages and for where NaN is allowed.

    Returns
    -------
    float64[T]
        NaN where unknown.

    Raises
    ------
    TypeError
        If a value is no number.
    ValueError
        If the lengths differ, a value is above 0, or NaN after the first token.
    """
    if hasattr(token_logprobs, "detach"):
        token_logprobs = token_logprobs.detach().cpu().double().numpy()
    try:
        values_T = np.array([math.nan if x is None else float(x) for x in token_logprobs])
    except (TypeError, ValueError):
        raise TypeError(
            "token_logprobs must hold one number (or None) per token, the natural logarithm of "
            "its probability"
        ) from None
    if len(values_T) != num_tokens:
        raise ValueError(
            f"{len(values_T)} log-probabilities for {num_tokens} tokens; one per token is needed"
        )
    for at in np.flatnonzero(values_T > LOG_PROB_SLACK)[:1]:
        raise ValueError(
            f"log-probability {float(values_T[at])!r} of token {first + int(at)} is above 0; "
            "natural logarithms of probabilities are needed"
        )
    unknown = np.flatnonzero(np.isnan(values_T)) + first
    for at in unknown[unknown > 0][:1]:
        raise ValueError(
            f"log-probability of token {int(at)} is NaN or None; only the first may be unknown"
        )
    return np.minimum(values_T, 0.0)


class UMPWatermarkDetector:
    """Detector of one key.

    Every p-value is exact or an upper bound for any text and any surrogate that does not depend on
    the key: the probability, over keys, of a p-value of at most ``alpha`` is at most ``alpha``. One
    fixed key makes the errors of documents that share contexts depend on each other (see
    `modicum.umpwatermark.corpus`). Uniforms have 32 bits (24 with an engine's PRF); the laws are
    those of continuous ones, from which those of single uniforms differ by one part in 2**32
    (2**24). Matches are always decided by 32 bits and differ by about V parts in 2**33.

    Parameters
    ----------
    config
        The watermark's configuration.
    alpha
        Level in ``(0, 1)`` of ``prediction``.
    surrogate
        Any `Anchor` over the same vocabulary: the generator with its prompt, the generator without,
        a smaller model, an n-gram table. ``sampler="ump-aware"`` brings its own in ``config``.
    statistic
        ``"auto"``: ``"combined"`` with a surrogate, else ``"sum"``; for the hazard sampler without
        surrogate ``"learned"`` with a calibration, else ``"binomial"``; for samplers with regions
        ``"weighted-hits"`` where there is a surrogate, else ``"hits"``. Or any of
        `modicum.umpwatermark.statistics.STATISTICS`.
    weights
        Of the statistic; see `make_statistic`. (.3, .3) for ``"combined"``, .7 for
        ``"weighted-pivot"`` and ``"match"``.
    surrogate_warper
        Temperature, top-k, top-p and min-p of the generation, applied to the surrogate's law. A
        token that they cut is floored at probability 1e-6: a bounded loss.
    method, num_null_draws
        How p-values without closed form are computed; see `modicum.umpwatermark.nulls.tail`.
    seed
        Of the null draws, together with the token ids.
    calibration
        Of ``"learned"``: a `CalibrationTable`, the path of one, or pivots.
    truncate, mixture
        See `CombinedStatistic`.
    gamma
        Level of ``"binomial"``.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter and its value.

    Examples
    --------
    >>> cfg = UMPWatermarkConfig(key=b"0123456789abcdef", vocab_size=1000)
    >>> out = UMPWatermarkDetector(cfg)([5, 7, 11, 13, 17, 19, 23])
    >>> int(out.num_tokens_scored[0]), out.p_value_method[0]
    (3, 'exact')
    """

    def __init__(
        self,
        config: UMPWatermarkConfig,
        alpha: float = 1e-3,
        surrogate: Anchor | None = None,
        statistic: str = "auto",
        weights: Weights | None = None,
        *,
        surrogate_warper: Warper | None = None,
        method: str = "auto",
        num_null_draws: int = 9999,
        seed: int = 0,
        calibration: Any = None,
        truncate: bool = False,
        mixture: bool = False,
        gamma: float | None = None,
    ) -> None:
        if not isinstance(config, UMPWatermarkConfig):
            raise TypeError(f"config must be a UMPWatermarkConfig, got {type(config).__name__}")
        self.config = config
        self.alpha = check_alpha(alpha)
        self.scheme = UMPWatermarkScheme(config)
        self.surrogate = self._check_surrogate(surrogate)
        if surrogate_warper is not None and not callable(surrogate_warper):
            raise TypeError(
                f"surrogate_warper must be a Warper, got {type(surrogate_warper).__name__}"
            )
        self.surrogate_warper = surrogate_warper
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise ValueError(f"seed must be a non-negative int, got {seed!r}")
        self.seed = int(seed)
        self._options: dict[str, Any] = {"method": method, "num_null_draws": num_null_draws}
        name = self._auto(calibration) if statistic == "auto" else statistic
        self.statistic = make_statistic(
            name,
            weights=weights,
            gamma=gamma,
            calibration=calibration,
            truncate=truncate,
            mixture=mixture,
            **self._options,
        )
        # With log-probabilities in place of a surrogate: the same settings where they apply.
        same = self.statistic.name == "weighted-pivot"
        self._pivot_statistic = (
            self.statistic
            if same
            else make_statistic(
                "weighted-pivot", truncate=truncate, mixture=mixture, **self._options
            )
        )
        self._check_statistic()
        self._warn()

    def _check_surrogate(self, surrogate: Anchor | None) -> Anchor | None:
        own = self.config.surrogate
        if surrogate is None:
            return own
        if own is not None and surrogate is not own:
            raise ValueError(
                f"sampler={self.config.sampler!r} reads the configuration's own surrogate; leave "
                "out surrogate="
            )
        if not hasattr(surrogate, "log_probs"):
            raise TypeError(
                f"surrogate must be an Anchor such as NGramAnchor or CausalLMAnchor, got "
                f"{type(surrogate).__name__}"
            )
        if surrogate.vocab_size != self.config.vocab_size:
            raise ValueError(
                f"the surrogate's vocab_size {surrogate.vocab_size} differs from the "
                f"configuration's {self.config.vocab_size}"
            )
        return surrogate

    def _auto(self, calibration: Any) -> str:
        sampler = self.config.sampler
        if sampler not in PIVOT_SAMPLERS:
            return "hits" if self.surrogate is None else "weighted-hits"
        if self.surrogate is not None:
            return "combined"
        if sampler == "gumbel":
            return "sum"
        return "binomial" if calibration is None else "learned"

    def _check_statistic(self) -> None:
        name, sampler = self.statistic.name, self.config.sampler
        for_hits = name in ("hits", "weighted-hits")
        for_law = self.statistic.needs in ("probability", "law") and not for_hits
        if for_hits and sampler in PIVOT_SAMPLERS:
            raise ValueError(
                f"statistic={name!r} counts hits of regions, which sampler={sampler!r} does not "
                "have; choose 'combined', 'sum' or 'binomial'"
            )
        if for_law and sampler not in PIVOT_SAMPLERS:
            raise ValueError(
                f"statistic={name!r} is for the samplers {PIVOT_SAMPLERS}, not for {sampler!r}; "
                "choose 'weighted-hits' or 'hits'"
            )
        if self.surrogate is None and self.statistic.needs == "law":
            raise ValueError(
                f"statistic={name!r} needs surrogate=, a law over next tokens; without one choose "
                "'sum', or 'weighted-pivot' with detect_logprobs"
            )

    def _warn(self) -> None:
        if not self.config.deduplicate:
            warnings.warn(
                "deduplicate=False: repeated contexts count more than once, so the error "
                "probability on repetitive text is not bounded by alpha",
                ValidityWarning,
                stacklevel=3,
            )
        temperature = getattr(self.surrogate_warper, "temperature", 1.0)
        if temperature < COLDEST:
            warnings.warn(
                f"temperature {temperature} leaves hardly any token to chance: such text cannot "
                "carry a watermark that keeps its distribution",
                PowerWarning,
                stacklevel=3,
            )

    @property
    def reads_law(self) -> bool:
        """Whether the surrogate is asked for each text."""
        own = self.config.surrogate is not None
        return self.surrogate is not None and (
            own or self.statistic.needs in ("probability", "law")
        )

    def read(self, ids: Any) -> Reading:
        """Read the evidence of one response.

        Parameters
        ----------
        ids
            Response token ids, shape ``[T]``.

        Returns
        -------
        Reading
        """
        return self.read_with([self.scheme.uniforms], ids)[0]

    def read_with(self, keys: Sequence[KeyedUniforms], ids: Any) -> list[Reading]:
        """Read one response under several keys.

        The surrogate's laws do not depend on the key: they are computed once per chunk of positions
        and read by every key.

        Parameters
        ----------
        keys
            Keyed uniforms, of configurations that differ from this one only in their key.
        ids
            Response token ids, shape ``[T]``.

        Returns
        -------
        list of Reading
            One per key.
        """
        ids_T, contexts_Tc, scored_T = self.positions(ids)
        position_S = np.flatnonzero(scored_T)
        parts: list[list[Evidence]] = [[] for _ in keys]
        for rows, law in self._laws(ids_T, position_S):
            for uniforms, part in zip(keys, parts, strict=True):
                part.append(self.evidence(uniforms, contexts_Tc[rows], ids_T[rows], law))
        contexts_Sc = contexts_Tc[position_S]
        return [
            Reading(ids_T, Evidence.concatenate(part), position_S, contexts_Sc) for part in parts
        ]

    def positions(self, ids: Any) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Return ids, contexts ``[T, c]`` and which positions are scored, checked."""
        ids_T = token_ids(ids, self.config.vocab_size)
        rule = (self.config.context_width, self.config.warmup)
        return ids_T, *distinct_contexts(ids_T, *rule, deduplicate=self.config.deduplicate)

    def _laws(
        self, ids_T: NDArray[np.int64], position_S: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], Array]]:
        """Yield chunks of positions with the surrogate's laws there, or None for all at once."""
        if not self.reads_law:
            yield position_S, None
            return
        assert self.surrogate is not None
        size = max(1, min(SURROGATE_BATCH, CHUNK_ELEMENTS // self.config.vocab_size))
        for rows, law in iter_sequence_log_probs(
            self.surrogate, ids_T, position_S, batch_size=size
        ):
            for at in range(0, len(rows), size):
                yield rows[at : at + size], self.warp(law[at : at + size])

    def warp(self, log_probs_BV: Array) -> Array:
        """Check a surrogate's law and apply the warper to it."""
        log_probs_BV = validate_anchor_log_probs(log_probs_BV, self.config.vocab_size)
        return (
            log_probs_BV if self.surrogate_warper is None else self.surrogate_warper(log_probs_BV)
        )

    def evidence(
        self,
        uniforms: KeyedUniforms,
        contexts_Sc: NDArray[np.int64],
        tokens_S: NDArray[np.int64],
        log_law_SV: Array | None,
    ) -> Evidence:
        """Return the evidence of scored positions.

        Parameters
        ----------
        uniforms
            The keyed uniforms.
        contexts_Sc
            Contexts of the positions.
        tokens_S
            Observed tokens.
        log_law_SV
            Surrogate log-probabilities, NumPy or torch, after `warp`; None if none are read.

        Returns
        -------
        Evidence
        """
        config = self.config
        contexts: Array = contexts_Sc
        tokens: Array = tokens_S
        if log_law_SV is not None and is_torch(log_law_SV):
            import torch

            contexts = torch.from_numpy(contexts_Sc).to(log_law_SV.device)
            tokens = torch.from_numpy(tokens_S).to(log_law_SV.device)
        state = uniforms.context_state(contexts)
        y = uniforms.uniforms_at(state, tokens)
        found: dict[str, Array] = {"y_S": y}
        if config.sampler == "greenlist":
            assert config.gamma is not None
            found["hit_S"] = in_region(y, config.gamma)
            found["hit_prob_S"] = 0 * y + config.gamma
        if log_law_SV is not None:
            found |= self._law_evidence(uniforms, state, tokens, log_law_SV)
        return Evidence(**{name: _host(values) for name, values in found.items()})

    def _law_evidence(
        self, uniforms: KeyedUniforms, state: Array, tokens: Array, log_law_SV: Array
    ) -> dict[str, Array]:
        config = self.config
        q_SV = probabilities(log_law_SV)
        own_S1 = tokens[:, None]
        prob_S1 = q_SV.gather(-1, own_S1) if is_torch(q_SV) else _take(q_SV, own_S1)
        prob_S = prob_S1[:, 0]
        found: dict[str, Array] = {"prob_S": prob_S}
        V = config.vocab_size
        if config.sampler == "hazard":
            ids_V: Array = np.arange(V)
            if is_torch(q_SV):
                import torch

                ids_V = torch.arange(V, device=q_SV.device)
            # Asked after it (or the token itself), in the sampler's order.
            after_SV = (q_SV < prob_S1) | ((q_SV == prob_S1) & (ids_V >= own_S1))
            found["reach_S"] = (q_SV * after_SV).sum(-1)
        if config.sampler in PIVOT_SAMPLERS:
            if self.statistic.needs == "law":
                if config.sampler == "gumbel":
                    found["match_S"] = gumbel_match(log_law_SV, tokens, state, uniforms.full_width)
                else:
                    choice_S = hazard_choice(q_SV, uniforms.uniforms(state, V))
                    found["match_S"] = (choice_S == tokens) & (prob_S > 0)
            return found
        assert config.gamma is not None
        if config.sampler == "ump-aware":
            _, region_S = keyed_region(log_law_SV, config.gamma, state, uniforms)
            found["hit_S"] = region_S == tokens
            hit_prob_S = prob_S.clip(None, config.gamma)
            found["hit_prob_S"] = hit_prob_S
            found["hit_rate_S"] = hit_prob_S / prob_S.clip(1e-300, None)
        else:
            found["hit_rate_S"] = _greenlist_rate(q_SV, own_S1, prob_S, config)
        return found

    @overload
    def __call__(
        self, ids: Any, return_dict: Literal[True] = True, *, pad_token_id: int | None = None
    ) -> UMPWatermarkDetectorOutput: ...

    @overload
    def __call__(
        self, ids: Any, return_dict: bool, *, pad_token_id: int | None = None
    ) -> UMPWatermarkDetectorOutput | NDArray[np.bool_]: ...

    def __call__(
        self, ids: Any, return_dict: bool = True, *, pad_token_id: int | None = None
    ) -> UMPWatermarkDetectorOutput | NDArray[np.bool_]:
        """Read whole responses.

        Parameters
        ----------
        ids
            One response ``[T]``, a batch ``[B, T]``, or a list of responses of any lengths; NumPy,
            torch or lists. Response tokens only: of what ``generate`` returns, pass
            ``out[:, prompt_length:]``. Prompt tokens carry no evidence and shift the contexts.
        return_dict
            Return every field; otherwise only ``prediction``.
        pad_token_id
            Cut trailing tokens of this id off every response.

        Returns
        -------
        UMPWatermarkDetectorOutput or bool[B]

        Raises
        ------
        TypeError, ValueError
            If ids are not integers, have a wrong shape or lie outside the vocabulary, or the
            statistic needs log-probabilities that only `detect_logprobs` takes.
        """
        if self.statistic.needs == "probability" and self.surrogate is None:
            raise ValueError(
                f"statistic={self.statistic.name!r} needs probabilities of the tokens: give the "
                "detector a surrogate, or call detect_logprobs(ids, token_logprobs)"
            )
        readings = [self.read(_unpad(row, pad_token_id)) for row in responses(ids)]
        output = self.output(readings, self.statistic)
        return output if return_dict else output.prediction

    def detect_logprobs(
        self, ids: Any, token_logprobs: Any, *, pad_token_id: int | None = None
    ) -> UMPWatermarkDetectorOutput:
        """Read responses with log-probabilities of their own tokens: any engine is the surrogate.

        The statistic is ``"weighted-pivot"``; no law is needed and no second implementation of a
        model. Prompt log-probabilities of an engine will do, with any prompt or none.

        Parameters
        ----------
        ids
            As in `__call__`.
        token_logprobs
            For each token the natural logarithm of its probability given the tokens before it, at
            most 0. One flat sequence for one response, a list of sequences (or ``[B, T]``) for
            several. The first of a response may be NaN or None and is then not scored.
        pad_token_id
            Cut trailing tokens of this id, and their log-probabilities, off every response.

        Returns
        -------
        UMPWatermarkDetectorOutput

        Raises
        ------
        TypeError, ValueError
            If ids or log-probabilities are malformed (a value above 0, lengths that differ), or
            the sampler is not ``"gumbel"`` or ``"hazard"``.
        """
        self.check_log_prob_sampler()
        rows = responses(ids)
        columns = (
            [token_logprobs] if len(rows) == 1 and _is_flat(token_logprobs) else token_logprobs
        )
        if len(columns) != len(rows):
            raise ValueError(
                f"{len(columns)} sequences of log-probabilities for {len(rows)} responses"
            )
        readings = []
        for row, column in zip(rows, columns, strict=True):
            ids_T = token_ids(row) if pad_token_id is None else _unpad(row, pad_token_id)
            if pad_token_id is not None:
                column = column[: len(ids_T)]
            readings.append(self._read_log_probs(ids_T, column))
        return self.output(readings, self._pivot_statistic)

    def check_log_prob_sampler(self) -> None:
        """Raise a ValueError for samplers whose pivots log-probabilities say nothing about."""
        if self.config.sampler not in PIVOT_SAMPLERS:
            raise ValueError(
                f"log-probabilities alone are read for the samplers {PIVOT_SAMPLERS}; for "
                f"{self.config.sampler!r} call the detector itself"
            )

    def _read_log_probs(self, ids: Any, token_logprobs: Any) -> Reading:
        ids_T, contexts_Tc, scored_T = self.positions(ids)
        log_prob_T = check_token_log_probs(token_logprobs, len(ids_T))
        position_S = np.flatnonzero(scored_T & ~np.isnan(log_prob_T))
        evidence = self.log_prob_evidence(
            contexts_Tc[position_S], ids_T[position_S], log_prob_T[position_S]
        )
        return Reading(ids_T, evidence, position_S, contexts_Tc[position_S])

    def log_prob_evidence(
        self,
        contexts_Sc: NDArray[np.int64],
        tokens_S: NDArray[np.int64],
        log_prob_S: NDArray[np.float64],
    ) -> Evidence:
        """Return the evidence of scored positions whose log-probabilities are given."""
        uniforms = self.scheme.uniforms
        y_S = uniforms.uniforms_at(uniforms.context_state(contexts_Sc), tokens_S)
        # Of the hazard sampler only the share of what is left counts; without the law it is read
        # as the probability itself.
        reach_S = np.ones(len(y_S)) if self.config.sampler == "hazard" else None
        return Evidence(y_S, prob_S=np.exp(log_prob_S), reach_S=reach_S)

    def detect_text(self, text: str, tokenizer: Any) -> UMPWatermarkDetectorOutput:
        """Tokenise a text without special tokens and read it.

        A round trip through text may split it differently than it was generated; the positions
        this affects lose their evidence, nothing else.

        Parameters
        ----------
        text
            The text.
        tokenizer
            A transformers tokenizer, or a callable ``text -> ids``.
        """
        return self([encode_text(text, tokenizer)])

    def stream(self, *, log_probs: bool = False) -> "DetectorStream":
        """Open a stream that reads one response token by token.

        Parameters
        ----------
        log_probs
            Every token comes with its log-probability; the statistic is ``"weighted-pivot"``.
        """
        from modicum.umpwatermark.stream import DetectorStream

        return DetectorStream(self, log_probs=log_probs)

    @property
    def log_prob_statistic(self) -> Statistic:
        """The statistic of `detect_logprobs`."""
        return self._pivot_statistic

    def p_value(self, reading: Reading, statistic: Statistic | None = None) -> float:
        """Return the p-value of what was read."""
        statistic = self.statistic if statistic is None else statistic
        return statistic.p_value(reading.evidence, text_rng(self.seed, reading.ids_T))

    def output(
        self, readings: Sequence[Reading], statistic: Statistic
    ) -> UMPWatermarkDetectorOutput:
        """Turn readings into the detector's output."""
        tails = [statistic.tail(r.evidence, text_rng(self.seed, r.ids_T)) for r in readings]
        parts = [r.evidence for r in readings]
        p_value = np.array([t.p_value for t in tails])
        log_e = np.array([statistic.log_e(part) for part in parts])
        surprisal = np.array([_surprisal(part) for part in parts])
        with np.errstate(divide="ignore", invalid="ignore"):
            efficiency = np.where(surprisal > 0, log_e / surprisal, np.nan)
        score = np.array([statistic.total(part) for part in parts])
        counted = statistic.name in ("hits", "weighted-hits", "binomial")
        return UMPWatermarkDetectorOutput(
            num_tokens_scored=np.array([len(part) for part in parts], dtype=np.int64),
            score=score,
            log_e_value=log_e,
            p_value=p_value,
            prediction=p_value <= self.alpha,
            p_value_method=[t.method for t in tails],
            ump_p_value=np.array([_ump_p_value(part) for part in parts]),
            efficiency=efficiency,
            num_green_tokens=np.array([_greens(statistic, p) for p in parts], dtype=np.int64)
            if counted
            else None,
            z_score=_z_scores(statistic, parts, score),
            per_token=[
                PerToken(
                    position=r.position_S,
                    score=statistic.scores(r.evidence),
                    pivot=r.evidence.y_S,
                    prob=r.evidence.prob_S,
                    match=r.evidence.match_S,
                    hit=r.evidence.hit_S,
                )
                for r in readings
            ],
        )


def _host(values: Array) -> NDArray[Any]:
    return values.cpu().numpy() if is_torch(values) else values


def _take(q_SV: NDArray[np.float64], own_S1: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.take_along_axis(q_SV, own_S1, axis=-1)


def _greenlist_rate(q_SV: Array, own_S1: Array, prob_S: Array, config: UMPWatermarkConfig) -> Array:
    """Probability that the token is green given that it was generated from the law."""
    gamma = config.gamma
    assert gamma is not None
    if config.coupling == "exact":
        tokens_S = _host(own_S1)[:, 0]
        laws_SV = _host(q_SV)
        taken_S: Array = np.array(
            [AgnosticCoupling(q, gamma).accepted[x] for q, x in zip(laws_SV, tokens_S, strict=True)]
        )
        return taken_S / np.maximum(_host(prob_S), 1e-300)
    # What the pass leaves out is drawn by the residual, blind to the region.
    ids_SK, _, taken_SK = greedy_pass(q_SV, gamma, TOP)
    own_SK = ids_SK == own_S1
    taken_S = (taken_SK * own_SK).sum(-1) / prob_S.clip(1e-300, None)
    return taken_S + gamma * ~own_SK.any(-1)


def _unpad(ids: Any, pad_token_id: int | None) -> NDArray[np.int64]:
    ids_T = token_ids(ids)
    if pad_token_id is None:
        return ids_T
    content = np.flatnonzero(ids_T != pad_token_id)
    return ids_T[: content[-1] + 1] if len(content) else ids_T[:0]


def _is_flat(values: Any) -> bool:
    if hasattr(values, "ndim"):
        return bool(values.ndim == 1)
    return not hasattr(values, "__iter__") or not any(
        hasattr(x, "__len__") and not isinstance(x, str) for x in values
    )


def _surprisal(evidence: Evidence) -> float:
    return math.nan if evidence.prob_S is None else float(-np.log(evidence.prob_S).sum())


def _ump_p_value(evidence: Evidence) -> float:
    if evidence.match_S is None:
        return math.nan
    return OracleStatistic().p_value(evidence)


def _greens(statistic: Statistic, evidence: Evidence) -> int:
    if statistic.name == "binomial":
        return int(statistic.total(evidence))
    return 0 if evidence.hit_S is None else int(evidence.hit_S.sum())


def _z_scores(
    statistic: Statistic, parts: Sequence[Evidence], score_B: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    sizes_B = np.array([len(part) for part in parts], dtype=np.float64)
    if statistic.name == "sum":
        mean_B, variance_B = sizes_B, sizes_B
    elif statistic.name == "binomial":
        gamma = statistic.description()["gamma"]
        mean_B, variance_B = sizes_B * gamma, sizes_B * gamma * (1 - gamma)
    elif statistic.name == "hits":
        probs = [np.zeros(0) if p.hit_prob_S is None else p.hit_prob_S for p in parts]
        mean_B = np.array([p.sum() for p in probs])
        variance_B = np.array([(p * (1 - p)).sum() for p in probs])
    else:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance_B > 0, (score_B - mean_B) / np.sqrt(variance_B), np.nan)
