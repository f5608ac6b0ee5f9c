"""The detector: push tokens, read one number, stop whenever you like.

Works on token ids of responses (never the prompt), with a configuration and nothing else: no
target model, no prompt. Reports log-wealth, e-value, anytime-valid p-value and the stopping time.
What a small p-value says is "this text is not independent of the key"; it does not say who wrote
it.

Legend: ``T`` tokens, ``S`` scored tokens, ``J`` parallel bets of a score.
"""

import copy
import json
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from modicum.core.stats import EProcess
from modicum.core.stats.eprocess import Start
from modicum.core.watermark.anchors import iter_sequence_log_probs
from modicum.core.watermark.contexts import ContextTracker, distinct_contexts, token_ids
from modicum.core.watermark.record import WatermarkRecord
from modicum.core.watermark.responses import encode_text, responses
from modicum.core.watermark.warnings import ValidityWarning
from modicum.ewatermark.config import EWatermarkConfig
from modicum.ewatermark.evalues import Evidence, Score
from modicum.ewatermark.scheme import EWatermarkScheme
from modicum.ewatermark.theory import check_alpha

STREAM_FORMAT = 1
CHUNK_ELEMENTS = 1 << 22
"""Positions times vocabulary that are held in memory at once."""

ANCHOR_BATCH = 256
"""Positions an anchor is asked for at once."""


@dataclass(frozen=True)
class EWatermarkDetectorOutput:
    """Result of reading one or more responses; one entry per response.

    Attributes
    ----------
    num_tokens_scored
        int64[B]; positions that carried evidence.
    num_matches
        int64[B]; positions whose token group equals the seed symbol.
    log_e_value
        float64[B]; natural log of the e-value at the end of the text.
    e_value
        float64[B]; ``inf`` beyond the range of float64 (use ``log_e_value``).
    p_value
        float64[B]; ``min(1, 1 / max_t E_t)``, valid at any stopping time.
    prediction
        bool[B]; ``max_t E_t >= 1/alpha``. True means "not independent of the key".
    stopping_time
        int64[B]; number of response tokens read when the threshold was first reached (tokens that
        are not scored count), -1 if it was not.
    start_estimate
        int64[B] or None; for ``start="mixture"`` the token after which the evidence most likely
        begins; an estimate without guarantee.
    trajectory
        list of float64[T]; log e-value after each token.
    """

    num_tokens_scored: NDArray[np.int64]
    num_matches: NDArray[np.int64]
    log_e_value: NDArray[np.float64]
    e_value: NDArray[np.float64]
    p_value: NDArray[np.float64]
    prediction: NDArray[np.bool_]
    stopping_time: NDArray[np.int64]
    trajectory: list[NDArray[np.float64]]
    start_estimate: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class StreamState:
    """What a stream knows after a token.

    Attributes
    ----------
    num_tokens
        Response tokens read.
    num_tokens_scored
        Of these, positions that carried evidence.
    num_matches
        Of these, positions that matched the seed.
    log_e_value
        Natural log of the e-value now.
    p_value
        Anytime-valid p-value, ``min(1, 1 / max_t E_t)``.
    match
        Whether this token matched; ``None`` if it was not scored.
    stopped
        Whether the threshold has ever been reached.
    stopping_time
        Tokens read when it was first reached, or ``None``.
    """

    num_tokens: int
    num_tokens_scored: int
    num_matches: int
    log_e_value: float
    p_value: float
    match: bool | None
    stopped: bool
    stopping_time: int | None

    @property
    def e_value(self) -> float:
        """The e-value now; ``inf`` beyond the range of float64."""
        return exp_or_inf(self.log_e_value)

    @property
    def log10_e_value(self) -> float:
        """Decimal logarithm of the e-value."""
        return self.log_e_value / math.log(10)


@dataclass(frozen=True)
class RekeyCheck:
    """Outcome of reading the same text with random other keys.

    Attributes
    ----------
    log_e_value
        Natural log of the e-value under the real key.
    log_e_values
        float64[n_keys] under the random keys.
    p_value
        ``(1 + #{E_b >= E}) / (n_keys + 1)``: exact because all keys are exchangeable for a text
        that does not depend on the key, whatever the pseudo-random function, if the real key was
        drawn at random as these are (see `modicum.core.watermark.record.generate_key`).
    mean_capped
        Mean of ``min(E_b, 100)``; its expectation is at most 1.
    mean_capped_stderr
        Standard error of that mean.
    """

    log_e_value: float
    log_e_values: NDArray[np.float64]
    p_value: float
    mean_capped: float
    mean_capped_stderr: float


def exp_or_inf(x: float) -> float:
    """Return ``exp(x)``, ``inf`` above the range of float64."""
    return math.exp(x) if x < 709 else math.inf


class EWatermarkDetector:
    """Anytime-valid detector of one key.

    If a text does not depend on the key, the probability that the e-value *ever* reaches
    ``1/alpha`` is at most ``alpha``, for any text, any anchor and any stopping rule.

    Parameters
    ----------
    config
        The watermark's configuration.
    alpha
        Level in ``(0, 1)``.
    start
        ``"beginning"`` bets from the first token; ``"mixture"`` averages over all starting points
        and finds a watermark that begins late, at a price of ``log(j (j + 1))`` nats for a start
        at the j-th scored token.

    Examples
    --------
    >>> cfg = EWatermarkConfig(key=b"0123456789abcdef", vocab_size=1000)
    >>> out = EWatermarkDetector(cfg, alpha=0.01)([5, 7, 11, 13, 17, 19, 23])
    >>> int(out.num_tokens_scored[0])
    3
    """

    def __init__(
        self, config: EWatermarkConfig, alpha: float = 0.01, *, start: Start = "beginning"
    ) -> None:
        if not isinstance(config, EWatermarkConfig):
            raise TypeError(f"config must be an EWatermarkConfig, got {type(config).__name__}")
        self.config = config
        self.alpha = check_alpha(alpha)
        self.start = start
        self.scheme = EWatermarkScheme(config)
        self.score: Score = config.make_score()
        self.new_eprocess()
        if not config.deduplicate:
            warnings.warn(
                "deduplicate=False: repeated contexts count more than once, so the error "
                "probability on repetitive text is not bounded by alpha",
                ValidityWarning,
                stacklevel=2,
            )

    def new_eprocess(self) -> EProcess:
        """Return an e-process with no evidence in it."""
        return EProcess(
            len(self.score.weights), weights=self.score.weights, start=self.start, alpha=self.alpha
        )

    def read(self, ids: Any) -> tuple[Evidence, NDArray[np.bool_], NDArray[np.int64]]:
        """Read the evidence of one response.

        Parameters
        ----------
        ids
            Response token ids, shape ``[T]``.

        Returns
        -------
        evidence : Evidence
            Of the S scored positions.
        scored_T : ndarray of bool
            Which positions these are.
        contexts_Sc : ndarray of int64
            Their contexts.
        """
        ids_T, contexts_Tc, scored_T = self._positions(ids)
        positions = np.flatnonzero(scored_T)
        parts = [
            self.scheme.evidence(contexts_Tc[rows], ids_T[rows], log_probs)
            for rows, log_probs in self._anchored(ids_T, positions)
        ]
        return Evidence.concatenate(parts), scored_T, contexts_Tc[positions]

    def read_with(self, schemes: Sequence[EWatermarkScheme], ids: Any) -> list[Evidence]:
        """Read one response under several keys.

        The anchor's laws do not depend on the key: they are computed once per chunk of positions
        and read by every scheme.

        Parameters
        ----------
        schemes
            Schemes that differ from this detector's only in their key.
        ids
            Response token ids, shape ``[T]``.

        Returns
        -------
        list of Evidence
            One per scheme.
        """
        ids_T, contexts_Tc, scored_T = self._positions(ids)
        parts: list[list[Evidence]] = [[] for _ in schemes]
        for rows, log_probs in self._anchored(ids_T, np.flatnonzero(scored_T)):
            for scheme, part in zip(schemes, parts, strict=True):
                part.append(scheme.evidence(contexts_Tc[rows], ids_T[rows], log_probs))
        return [Evidence.concatenate(part) for part in parts]

    def _positions(
        self, ids: Any
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        ids_T = token_ids(ids, self.config.vocab_size)
        rule = (self.config.context_width, self.config.warmup)
        deduplicate = self.config.deduplicate
        return ids_T, *distinct_contexts(ids_T, *rule, deduplicate=deduplicate)

    def _anchored(
        self, ids_T: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], Any]]:
        """Yield chunks of positions with the anchor's laws there."""
        scheme = self.scheme
        width = self.config.vocab_size
        if scheme.uniform and self.config.partition != "none":
            width = self.config.num_groups
        size = max(1, CHUNK_ELEMENTS // width)
        if not scheme.uniform:
            yield from iter_sequence_log_probs(
                scheme.anchor, ids_T, positions, batch_size=min(size, ANCHOR_BATCH)
            )
            return
        for at in range(0, len(positions), size):
            yield positions[at : at + size], None

    @overload
    def __call__(
        self, ids: Any, return_dict: Literal[True] = True, *, pad_token_id: int | None = None
    ) -> EWatermarkDetectorOutput: ...

    @overload
    def __call__(
        self, ids: Any, return_dict: bool, *, pad_token_id: int | None = None
    ) -> EWatermarkDetectorOutput | NDArray[np.bool_]: ...

    def __call__(
        self, ids: Any, return_dict: bool = True, *, pad_token_id: int | None = None
    ) -> EWatermarkDetectorOutput | NDArray[np.bool_]:
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
        EWatermarkDetectorOutput or bool[B]

        Raises
        ------
        TypeError, ValueError
            If ids are not integers, have a wrong shape or lie outside the vocabulary.
        """
        rows = [self._detect_one(r, pad_token_id) for r in responses(ids)]
        starts = [row[4] for row in rows]
        log_e = np.array([row[1].log_e_value for row in rows])
        output = EWatermarkDetectorOutput(
            num_tokens_scored=np.array([len(row[0]) for row in rows], dtype=np.int64),
            num_matches=np.array([row[0].match_T.sum() for row in rows], dtype=np.int64),
            log_e_value=log_e,
            e_value=np.array([exp_or_inf(x) for x in log_e]),
            p_value=np.array([row[1].p_value for row in rows]),
            prediction=np.array([row[1].stopped for row in rows], dtype=bool),
            stopping_time=np.array([row[3] for row in rows], dtype=np.int64),
            trajectory=[row[2] for row in rows],
            start_estimate=np.array(starts, np.int64) if self.start == "mixture" else None,
        )
        return output if return_dict else output.prediction

    def _detect_one(
        self, ids: Any, pad_token_id: int | None
    ) -> tuple[Evidence, EProcess, NDArray[np.float64], int, int]:
        ids_T = token_ids(ids)
        if pad_token_id is not None:
            content = np.flatnonzero(ids_T != pad_token_id)
            ids_T = ids_T[: content[-1] + 1] if len(content) else ids_T[:0]
        evidence, scored_T, _ = self.read(ids_T)
        process = self.new_eprocess()
        log_e_S = process.update_many(self.score.log_e(evidence))
        seen_T = np.cumsum(scored_T)
        trajectory_T = np.concatenate([[0.0], log_e_S])[seen_T]
        positions = np.flatnonzero(scored_T)
        step = process.stopping_time
        stopped_at = -1 if step is None else int(positions[step - 1]) + 1
        start = process.start_estimate
        begin = -1 if start is None else int(positions[start - 1])
        return evidence, process, trajectory_T, stopped_at, begin

    def detect_text(self, text: str, tokenizer: Any) -> EWatermarkDetectorOutput:
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
        return self(encode_text(text, tokenizer))

    def stream(self) -> "DetectorStream":
        """Open a stream that reads one response token by token."""
        return DetectorStream(self)

    def poisson_binomial(self, ids: Any) -> float:
        """Return a p-value for the number of matches at a horizon fixed in advance.

        Under the null the match indicators are independent with success probability equal to the
        anchor's mass of the token's own group, ``p(G_t)``. Valid when the text's length was not
        chosen by looking at this p-value.

        Parameters
        ----------
        ids
            Response token ids, shape ``[T]``.

        Returns
        -------
        float
            Exact upper-tail probability; 1 if no position was scored.
        """
        from modicum.core.stats import poisson_binomial_sf

        evidence, _, _ = self.read(ids)
        if not len(evidence):
            return 1.0
        return float(poisson_binomial_sf(int(evidence.match_T.sum()), evidence.token_probability_T))

    def rekey_check(self, ids: Any, n_keys: int = 999, *, seed: int = 0) -> RekeyCheck:
        """Read the same text with random keys.

        Parameters
        ----------
        ids
            Response token ids, shape ``[T]``.
        n_keys
            Number of random keys B.
        seed
            Seed of the keys.

        Returns
        -------
        RekeyCheck
        """
        if n_keys < 1:
            raise ValueError(f"n_keys must be at least 1, got {n_keys}")
        rng = np.random.default_rng(seed)
        keys = [self.config.key, *(rng.bytes(32) for _ in range(n_keys))]
        schemes = [EWatermarkScheme(self.config.replace(key=key)) for key in keys]
        log_e = []
        for evidence in self.read_with(schemes, ids):
            process = self.new_eprocess()
            process.update_many(self.score.log_e(evidence))
            log_e.append(process.log_e_value)
        real, others = log_e[0], np.array(log_e[1:])
        capped = np.exp(np.minimum(others, math.log(100.0)))
        spread = float(capped.std(ddof=1)) if n_keys > 1 else math.nan
        return RekeyCheck(
            log_e_value=real,
            log_e_values=others,
            p_value=(1 + int((others >= real).sum())) / (n_keys + 1),
            mean_capped=float(capped.mean()),
            mean_capped_stderr=spread / math.sqrt(n_keys),
        )


class DetectorStream:
    """One response read token by token; can be pickled, and saved as JSON without the key.

    Opened by `EWatermarkDetector.stream`. A pickle carries the whole detector, key and anchor
    included, and is meant for handing work between processes; `to_json` leaves both out.
    """

    def __init__(self, detector: EWatermarkDetector) -> None:
        self.detector = detector
        self._tracker = detector.scheme.new_tracker(keep_all=False)
        self._process = detector.new_eprocess()
        self._num_matches = 0
        self._stopping_time: int | None = None

    @property
    def state(self) -> StreamState:
        """The state now, without reading a token."""
        return self._state(self._tracker.length, None)

    def _state(self, num_tokens: int, match: bool | None) -> StreamState:
        return StreamState(
            num_tokens=num_tokens,
            num_tokens_scored=self._process.num_steps,
            num_matches=self._num_matches,
            log_e_value=self._process.log_e_value,
            p_value=self._process.p_value,
            match=match,
            stopped=self._process.stopped,
            stopping_time=self._stopping_time,
        )

    def push(self, token: int) -> StreamState:
        """Read one token."""
        return self.push_many([token])[-1]

    def push_many(self, tokens: Iterable[int]) -> list[StreamState]:
        """Read several tokens; one state per token.

        The anchor is asked for up to 256 positions at once. If it fails, the stream stands where
        the last whole block left it.

        Raises
        ------
        TypeError, ValueError
            If an id is not an integer or lies outside the vocabulary; the stream is unchanged.
        """
        ids_T = token_ids(list(tokens), self.detector.config.vocab_size)
        states: list[StreamState] = []
        for at in range(0, len(ids_T), ANCHOR_BATCH):
            states += self._push_block(ids_T[at : at + ANCHOR_BATCH])
        return states

    def _push_block(self, ids_T: NDArray[np.int64]) -> list[StreamState]:
        scheme, score = self.detector.scheme, self.detector.score
        contexts: list[tuple[int, ...] | None] = []
        windows: list[Sequence[int]] = []
        # A single token, the usual case, needs no copy: it is pushed when its evidence is known.
        tracker = self._tracker if len(ids_T) == 1 else copy.deepcopy(self._tracker)
        last = len(ids_T) - 1
        for i, token in enumerate(ids_T.tolist()):
            context = tracker.context()
            contexts.append(context)
            if context is not None:
                windows.append(list(scheme.window_of(tracker.tokens)))
            if i < last:
                tracker.push(token)
        scored_T = np.array([c is not None for c in contexts], dtype=bool)
        evidence = Evidence.empty()
        if windows:
            contexts_Sc = np.array([c for c in contexts if c is not None], dtype=np.int64)
            law = scheme.anchor_log_probs(windows, np.zeros(0))
            evidence = scheme.evidence(contexts_Sc, ids_T[scored_T], law)
        log_e_SJ = score.log_e(evidence, self._num_matches, self._process.num_steps)
        # Nothing of the stream has changed up to here, so that an anchor that fails loses nothing.
        tracker.push(int(ids_T[-1]))
        self._tracker = tracker
        before = tracker.length - len(ids_T)
        at_T = np.cumsum(scored_T) - 1
        return [
            self._read_one(before + i + 1, evidence, log_e_SJ, int(at) if scored else None)
            for i, (at, scored) in enumerate(zip(at_T, scored_T, strict=True))
        ]

    def _read_one(
        self, num_tokens: int, evidence: Evidence, log_e_SJ: NDArray[np.float64], at: int | None
    ) -> StreamState:
        if at is None:
            return self._state(num_tokens, None)
        match = bool(evidence.match_T[at])
        self._num_matches += match
        self._process.update(log_e_SJ[at])
        if self._process.stopped and self._stopping_time is None:
            self._stopping_time = num_tokens
        return self._state(num_tokens, match)

    def to_json(self) -> str:
        """Return the whole state as JSON, without key and anchor."""
        return json.dumps(
            {
                "format": STREAM_FORMAT,
                "record": json.loads(self.detector.config.record().to_json()),
                "alpha": self.detector.alpha,
                "start": self.detector.start,
                "tracker": self._tracker.to_dict(),
                "process": self._process.to_dict(),
                "num_matches": self._num_matches,
                "stopping_time": self._stopping_time,
            }
        )

    @classmethod
    def from_json(cls, text: str, detector: EWatermarkDetector) -> "DetectorStream":
        """Resume a stream with a detector of the same configuration.

        Raises
        ------
        ValueError
            If the state was written by another format, or by a detector whose record, level or
            start differ from this one's.
        """
        try:
            state = json.loads(text)
            if state["format"] != STREAM_FORMAT:
                raise ValueError(
                    f"stream state has format {state['format']!r}, expected {STREAM_FORMAT}"
                )
            saved = WatermarkRecord.from_json(json.dumps(state["record"]))
            saved.check_compatible(detector.config.record())
            for name in ("alpha", "start"):
                if state[name] != getattr(detector, name):
                    raise ValueError(
                        f"stream state was written with {name}={state[name]!r}, the detector has "
                        f"{getattr(detector, name)!r}"
                    )
            stream = cls(detector)
            stream._tracker = ContextTracker.from_dict(state["tracker"])
            stream._process = EProcess.from_dict(state["process"])
            stream._num_matches = int(state["num_matches"])
            stopping_time = state["stopping_time"]
            stream._stopping_time = None if stopping_time is None else int(stopping_time)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the state of a stream: {error!r}") from error
        return stream
