"""Reading one response while it is written: evidence that may be looked at after every token.

Takes tokens (and, without a surrogate, their log-probabilities) and a detector. The p-value that
holds at every moment comes from the e-process; the detector's own, sharper p-value is there too and
holds for a length fixed in advance.

Legend: ``T`` tokens, ``S`` scored tokens, ``J`` components of the e-process.
"""

import copy
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modicum.core.stats import EProcess
from modicum.core.watermark.anchors import anchor_windows
from modicum.core.watermark.contexts import ContextTracker, token_ids
from modicum.core.watermark.record import WatermarkRecord
from modicum.umpwatermark.config import KNOWN_PRFS
from modicum.umpwatermark.detector import (
    CHUNK_ELEMENTS,
    SURROGATE_BATCH,
    UMPWatermarkDetector,
    check_token_log_probs,
    text_rng,
)
from modicum.umpwatermark.evidence import Evidence

STREAM_FORMAT = 1


@dataclass(frozen=True)
class StreamState:
    """What a stream knows after a token.

    Attributes
    ----------
    num_tokens
        Response tokens read.
    num_tokens_scored
        Of these, positions that carried evidence.
    scored
        Whether this token did.
    log_e_value
        Natural log of the e-value now.
    p_value
        Anytime-valid p-value, ``min(1, 1 / max_t E_t)``.
    stopped
        Whether the e-value has ever reached ``1/alpha``.
    stopping_time
        Tokens read when it first did, or ``None``.
    """

    num_tokens: int
    num_tokens_scored: int
    scored: bool
    log_e_value: float
    p_value: float
    stopped: bool
    stopping_time: int | None
    stream: "DetectorStream" = field(repr=False, compare=False)

    @property
    def fixed_length_p_value(self) -> float:
        """The detector's p-value of the tokens up to here, computed when it is asked for.

        Valid if this length was fixed in advance, not for the smallest of many looks.
        """
        return self.stream.fixed_length_p_value(self.num_tokens, self.num_tokens_scored)


class DetectorStream:
    """One response read token by token; can be pickled, and saved as JSON without the key.

    Opened by `UMPWatermarkDetector.stream`. A pickle carries the whole detector, key and surrogate
    included, and is meant for handing work between processes. `to_json` leaves both out; it holds
    the tokens and what the key said about them, as the detector's output does.

    Parameters
    ----------
    detector
        The detector.
    log_probs
        Every token comes with its log-probability; the surrogate, if any, is not asked.
    """

    def __init__(self, detector: UMPWatermarkDetector, *, log_probs: bool = False) -> None:
        self.detector = detector
        self.log_probs = bool(log_probs)
        self.statistic = detector.statistic
        if self.log_probs:
            detector.check_log_prob_sampler()
            self.statistic = detector.log_prob_statistic
        elif self.statistic.needs == "probability" and detector.surrogate is None:
            raise ValueError(
                f"statistic={self.statistic.name!r} without a surrogate reads log-probabilities; "
                "open the stream with log_probs=True"
            )
        self._tracker = ContextTracker(
            detector.config.context_width,
            detector.config.warmup,
            deduplicate=detector.config.deduplicate,
        )
        self._process = self.statistic.new_eprocess(detector.alpha)
        self._parts: list[Evidence] = []
        self._stopping_time: int | None = None

    @property
    def evidence(self) -> Evidence:
        """Evidence of all scored tokens so far."""
        if len(self._parts) > 1:
            self._parts = [Evidence.concatenate(self._parts)]
        return self._parts[0] if self._parts else Evidence.empty()

    @property
    def state(self) -> StreamState:
        """The state now, without reading a token."""
        return self._state(self._tracker.length, False)

    def _state(self, num_tokens: int, scored: bool) -> StreamState:
        return StreamState(
            num_tokens=num_tokens,
            num_tokens_scored=self._process.num_steps,
            scored=scored,
            log_e_value=self._process.log_e_value,
            p_value=self._process.p_value,
            stopped=self._process.stopped,
            stopping_time=self._stopping_time,
            stream=self,
        )

    def fixed_length_p_value(
        self, num_tokens: int | None = None, num_scored: int | None = None
    ) -> float:
        """Return the detector's p-value of the first tokens; of all by default."""
        ids_T = np.array(self._tracker.tokens[:num_tokens], dtype=np.int64)
        evidence = self.evidence.take(slice(num_scored))
        return self.statistic.p_value(evidence, text_rng(self.detector.seed, ids_T))

    def push(self, token: int, log_prob: float | None = None) -> StreamState:
        """Read one token, with its log-probability if the stream reads those."""
        return self.push_many([token], [log_prob] if self._given(log_prob) else None)[-1]

    def _given(self, log_prob: float | None) -> bool:
        return self.log_probs or log_prob is not None

    def push_many(self, tokens: Iterable[int], log_probs: Any = None) -> list[StreamState]:
        """Read several tokens; one state per token.

        A surrogate is asked for up to 256 positions at once. If it fails, the stream stands where
        the last whole block left it.

        Parameters
        ----------
        tokens
            Token ids.
        log_probs
            Natural logarithms of their probabilities, for a stream opened with ``log_probs=True``;
            the first of the response may be None.

        Returns
        -------
        list of StreamState

        Raises
        ------
        TypeError, ValueError
            If an id is not an integer or lies outside the vocabulary, log-probabilities are
            malformed, or given to a stream that does not read them; the stream is unchanged.
        """
        ids_T = token_ids(list(tokens), self.detector.config.vocab_size)
        if self.log_probs != (log_probs is not None):
            need = "reads a log-probability with" if self.log_probs else "takes none with"
            raise ValueError(f"this stream {need} every token; see stream(log_probs=...)")
        log_prob_T = None
        if log_probs is not None:
            log_prob_T = check_token_log_probs(log_probs, len(ids_T), first=self._tracker.length)
        size = max(1, min(SURROGATE_BATCH, CHUNK_ELEMENTS // self.detector.config.vocab_size))
        states: list[StreamState] = []
        for at in range(0, len(ids_T), size):
            part = None if log_prob_T is None else log_prob_T[at : at + size]
            states += self._push_block(ids_T[at : at + size], part)
        return states

    def _push_block(
        self, ids_T: NDArray[np.int64], log_prob_T: NDArray[np.float64] | None
    ) -> list[StreamState]:
        # A single token, the usual case, needs no copy: it is pushed when its evidence is known.
        tracker = self._tracker if len(ids_T) == 1 else copy.deepcopy(self._tracker)
        before = tracker.length
        contexts: list[tuple[int, ...] | None] = []
        for i, token in enumerate(ids_T.tolist()):
            context = tracker.context()
            if log_prob_T is not None and math.isnan(log_prob_T[i]):
                context = None
            contexts.append(context)
            if i < len(ids_T) - 1:
                tracker.push(token)
        scored_T = np.array([c is not None for c in contexts], dtype=bool)
        evidence = Evidence.empty()
        if scored_T.any():
            contexts_Sc = np.array([c for c in contexts if c is not None], dtype=np.int64)
            tokens_S = ids_T[scored_T]
            if log_prob_T is None:
                law = self._law(tracker.tokens, before + np.flatnonzero(scored_T))
                uniforms = self.detector.scheme.uniforms
                evidence = self.detector.evidence(uniforms, contexts_Sc, tokens_S, law)
            else:
                evidence = self.detector.log_prob_evidence(
                    contexts_Sc, tokens_S, log_prob_T[scored_T]
                )
        log_e_SJ = self.statistic.log_e_steps(evidence)
        # Nothing of the stream has changed up to here, so that a surrogate that fails loses
        # nothing.
        tracker.push(int(ids_T[-1]))
        self._tracker = tracker
        if len(evidence):
            self._parts.append(evidence)
        at_T = np.cumsum(scored_T) - 1
        states = []
        for i, (at, scored) in enumerate(zip(at_T.tolist(), scored_T.tolist(), strict=True)):
            if scored:
                self._process.update(log_e_SJ[at])
                if self._process.stopped and self._stopping_time is None:
                    self._stopping_time = before + i + 1
            states.append(self._state(before + i + 1, scored))
        return states

    def _law(self, tokens: list[int], position_S: NDArray[np.int64]) -> Any:
        detector = self.detector
        if not detector.reads_law:
            return None
        surrogate = detector.surrogate
        assert surrogate is not None
        # Only what the surrogate can read: a stream's cost per token does not grow with it.
        first = 0
        if surrogate.window is not None:
            first = max(0, int(position_S[0]) - surrogate.window)
        seen_L = np.array(tokens[first:], dtype=np.int64)
        windows = anchor_windows(seen_L, surrogate.window, position_S - first)
        return detector.warp(surrogate.log_probs(*windows))

    def to_json(self) -> str:
        """Return the whole state as JSON, without key and surrogate."""
        return json.dumps(
            {
                "format": STREAM_FORMAT,
                "record": json.loads(self.detector.config.record().to_json()),
                "alpha": self.detector.alpha,
                "seed": self.detector.seed,
                "statistic": self.statistic.description(),
                "log_probs": self.log_probs,
                "tracker": self._tracker.to_dict(),
                "process": self._process.to_dict(),
                "evidence": self.evidence.to_dict(),
                "stopping_time": self._stopping_time,
            }
        )

    @classmethod
    def from_json(cls, text: str, detector: UMPWatermarkDetector) -> "DetectorStream":
        """Resume a stream with a detector of the same configuration.

        Raises
        ------
        ValueError
            If the state was written by another format, or by a detector whose record, level, seed
            or statistic differ from this one's.
        """
        try:
            state = json.loads(text)
            if state["format"] != STREAM_FORMAT:
                raise ValueError(
                    f"stream state has format {state['format']!r}, expected {STREAM_FORMAT}"
                )
            saved = WatermarkRecord.from_json(json.dumps(state["record"]), known_prfs=KNOWN_PRFS)
            saved.check_compatible(detector.config.record())
            stream = cls(detector, log_probs=state["log_probs"])
            present = {
                "alpha": detector.alpha,
                "seed": detector.seed,
                "statistic": stream.statistic.description(),
            }
            for name, value in present.items():
                if state[name] != value:
                    raise ValueError(
                        f"stream state was written with {name}={state[name]!r}, the detector has "
                        f"{value!r}"
                    )
            stream._tracker = ContextTracker.from_dict(state["tracker"])
            stream._process = EProcess.from_dict(state["process"])
            evidence = Evidence.from_dict(state["evidence"])
            stream._parts = [evidence] if len(evidence) else []
            stopping_time = state["stopping_time"]
            stream._stopping_time = None if stopping_time is None else int(stopping_time)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the state of a stream: {error!r}") from error
        return stream
