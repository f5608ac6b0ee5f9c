"""E-processes: evidence against a null hypothesis that may be read after every step.

Takes one-step e-values as natural logarithms and keeps the log-wealth, its mixture over components
and over starting points, the running maximum and the first crossing of 1/alpha. It knows nothing
about where the e-values come from: that each one has conditional mean at most one under the null
hypothesis, given everything before it, is the caller's promise.

Shape suffixes: T steps, J components, X any leading batch dimensions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["EProcess", "beta_bernoulli_log_marginal", "log_e_process"]

Start = Literal["beginning", "mixture"]

_FORMAT = "modicum.core.stats.EProcess"
_FORMAT_VERSION = 1
# exp() of anything above this leaves float64.
_LOG_FLOAT_MAX = math.log(np.finfo(np.float64).max)


def _log_weights(num_components: int, weights: npt.ArrayLike | None) -> np.ndarray:
    """Log of the normalised component weights [J]."""
    if isinstance(num_components, bool) or not isinstance(num_components, int | np.integer):
        raise TypeError(f"num_components must be an int, got {num_components!r}")
    if num_components < 1:
        raise ValueError(f"num_components must be at least 1, got {num_components}")
    if weights is None:
        return np.full(num_components, -math.log(num_components))
    weights_J = np.asarray(weights, dtype=np.float64)
    if weights_J.shape != (num_components,):
        raise ValueError(
            f"weights must have shape ({num_components},), one per component, got {weights_J.shape}"
        )
    if not np.all(np.isfinite(weights_J)) or np.any(weights_J < 0) or weights_J.sum() <= 0:
        raise ValueError(
            f"weights must be finite, non-negative and not all zero, got {weights_J.tolist()}"
        )
    with np.errstate(divide="ignore"):
        return np.log(weights_J / weights_J.sum())


def _check_start(start: str) -> None:
    if start not in ("beginning", "mixture"):
        raise ValueError(f"start must be 'beginning' or 'mixture', got {start!r}")


def _check_steps(log_e: np.ndarray) -> None:
    if np.isnan(log_e).any():
        raise ValueError("log_e holds NaN; every step needs the log of an e-value")
    if np.isposinf(log_e).any():
        raise ValueError("log_e holds +inf; cap a one-step e-value at a finite number")


def _check_wealth(log_wealth: np.ndarray) -> None:
    if np.isposinf(log_wealth).any():
        raise ValueError("the log-wealth left the float64 range; log_e must be in natural logs")


def _log_start_prior(step: int) -> float:
    """Log of pi_j = 1/(j(j+1)), the prior mass of a start at step j (1-based)."""
    return -math.log(step) - math.log(step + 1)


def _combine(log_wealth_XJ: np.ndarray, log_weights_J: np.ndarray) -> np.ndarray:
    """Log of the weighted mean over the last axis; exact for one component."""
    if log_weights_J.size == 1:
        return log_wealth_XJ[..., 0]
    terms_XJ = log_wealth_XJ + log_weights_J
    peak_X1 = terms_XJ.max(axis=-1, keepdims=True)
    peak_X1 = np.where(np.isneginf(peak_X1), 0.0, peak_X1)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(terms_XJ - peak_X1).sum(axis=-1)) + peak_X1[..., 0]


def log_e_process(
    log_e: npt.ArrayLike,
    num_components: int = 1,
    weights: npt.ArrayLike | None = None,
    start: Start = "beginning",
) -> np.ndarray:
    """Log of the e-process after every step, for a whole batch of sequences at once.

    The values are those of one :class:`EProcess` per sequence; use this for simulations, where
    thousands of complete sequences are at hand.

    Parameters
    ----------
    log_e : array_like, float, shape ``[..., T]`` or, with several components, ``[..., T, J]``
        Natural logarithms of the one-step e-values. ``-inf`` (wealth gone) is allowed.
    num_components : int
        J, the number of component processes.
    weights : array_like, shape ``[J]``, optional
        Non-negative component weights, normalised to sum to one. Default: equal.
    start : {"beginning", "mixture"}
        See :class:`EProcess`.

    Returns
    -------
    ndarray, float64, shape ``[..., T]``
        Natural logarithm of E_1, ..., E_T. E_0 = 1 is not included.

    Raises
    ------
    ValueError
        For NaN or +inf steps, a wrong shape, wrong weights or an unknown ``start``.
    """
    _check_start(start)
    log_weights_J = _log_weights(num_components, weights)
    log_e_XTJ = np.asarray(log_e, dtype=np.float64)
    if num_components == 1:
        log_e_XTJ = log_e_XTJ[..., None]
    if log_e_XTJ.ndim < 2 or log_e_XTJ.shape[-1] != num_components:
        expected = "[..., T]" if num_components == 1 else f"[..., T, {num_components}]"
        raise ValueError(f"log_e must have shape {expected}, got {np.shape(log_e)}")
    _check_steps(log_e_XTJ)
    if start == "beginning":
        log_wealth_XTJ = np.cumsum(log_e_XTJ, axis=-2)
        _check_wealth(log_wealth_XTJ)
        return _combine(log_wealth_XTJ, log_weights_J)
    log_wealth_XJ = np.full((*log_e_XTJ.shape[:-2], num_components), -np.inf)
    trajectory_XT = np.empty(log_e_XTJ.shape[:-1])
    for step in range(1, log_e_XTJ.shape[-2] + 1):
        log_wealth_XJ = np.logaddexp(log_wealth_XJ, _log_start_prior(step))
        log_wealth_XJ = log_wealth_XJ + log_e_XTJ[..., step - 1, :]
        combined_X = _combine(log_wealth_XJ, log_weights_J)
        trajectory_XT[..., step - 1] = np.logaddexp(combined_X, -math.log(step + 1))
    _check_wealth(trajectory_XT)
    return trajectory_XT


class EProcess:
    """Running product of one-step e-values, mixed over components and over starting points.

    Under the null hypothesis E_t is a non-negative martingale with E_0 = 1 (a supermartingale when
    the one-step means are below one), so the probability that it ever reaches 1/alpha is at most
    alpha, however long it is watched (Ville's inequality). ``log_e_value`` at a stopping time may
    be merged with other e-values; the running maximum may not, it only gives the p-value.

    Parameters
    ----------
    num_components : int
        J component processes with their own wealth, for example one per value of a bet. Their
        weighted mean is the e-process: log E_t = logsumexp_j(log w_j + W_t[j]).
    weights : array_like, shape ``[J]``, optional
        Non-negative component weights, normalised to sum to one. Default: equal.
    start : {"beginning", "mixture"}
        ``"beginning"`` bets from the first step on. ``"mixture"`` spreads the starting point over
        all steps with mass pi_j = 1/(j(j+1)), so that a long stretch without evidence at the front
        does not drain the wealth: per component A_t = (A_{t-1} + pi_t) e_t with A_0 = 0, and
        E_t = A_t + 1/(t+1), averaged over components. A start at step j costs log(j(j+1)) nats.
    alpha : float in (0, 1), optional
        Level at which :attr:`stopped` and :attr:`stopping_time` are reported.

    Attributes
    ----------
    num_steps : int
        Steps taken so far.
    log_wealth : ndarray, float64, shape ``[J]``
        Per component W_t or, with ``start="mixture"``, log A_t.
    log_e_value : float
        log E_t now, natural logarithm; 0 before the first step.
    max_log_e_value : float
        Largest log E_s over 0 <= s <= t; at least 0.
    stopping_time : int or None
        First step (1-based) with E_t >= 1/alpha.

    Notes
    -----
    Ville (1939); Ramdas, Grünwald, Vovk, Shafer, "Game-theoretic statistics and safe anytime-valid
    inference", arXiv 2210.01948. The state is a handful of numbers: it pickles, and
    :meth:`to_json` / :meth:`from_json` keep every float exactly, so that a service can resume.
    """

    __hash__ = None  # type: ignore[assignment]  # mutable and compared by value

    def __init__(
        self,
        num_components: int = 1,
        weights: npt.ArrayLike | None = None,
        start: Start = "beginning",
        alpha: float | None = None,
    ) -> None:
        _check_start(start)
        if alpha is not None and not 0 < alpha < 1:
            raise ValueError(f"alpha must lie strictly between 0 and 1, got {alpha!r}")
        self._log_weights_J = _log_weights(num_components, weights)
        self.num_components = int(num_components)
        self.start: Start = start
        self.alpha = None if alpha is None else float(alpha)
        self.num_steps = 0
        self.log_wealth = np.full(self.num_components, 0.0 if start == "beginning" else -np.inf)
        self.log_e_value = 0.0
        self.max_log_e_value = 0.0
        self.stopping_time: int | None = None
        # Largest single term pi_j * prod(e_j..e_t) of the start mixture per component, in logs,
        # and its j; what start_estimate is read from.
        self._best_term_J = np.full(self.num_components, -np.inf)
        self._best_start_J = np.zeros(self.num_components, dtype=np.int64)
        self._peak_start: int | None = None

    def update(self, log_e: npt.ArrayLike) -> float:
        """Take one step and return log E_t.

        Parameters
        ----------
        log_e : float or array_like, shape ``[J]``
            Natural logarithm of the one-step e-value, one per component. ``-inf`` means that the
            component has lost everything.

        Returns
        -------
        float
            log E_t, natural logarithm.

        Raises
        ------
        ValueError
            For NaN, +inf or a wrong shape; the process is left as it was.
        """
        log_e_J = np.asarray(log_e, dtype=np.float64)
        if log_e_J.ndim == 0 and self.num_components == 1:
            log_e_J = log_e_J[None]
        if log_e_J.shape != (self.num_components,):
            raise ValueError(
                f"log_e of one step must have shape ({self.num_components},), got {log_e_J.shape}"
            )
        return float(self.update_many(log_e_J[None])[0])

    def update_many(self, log_e: npt.ArrayLike) -> np.ndarray:
        """Take T steps and return log E after each of them.

        Equal to T calls of :meth:`update` (the wealth bit for bit).

        Parameters
        ----------
        log_e : array_like, float, shape ``[T]`` for one component, else ``[T, J]``
            Natural logarithms of the one-step e-values; T may be 0.

        Returns
        -------
        ndarray, float64, shape ``[T]``
            log E after each of these steps.

        Raises
        ------
        ValueError
            For NaN, +inf or a wrong shape; the process is left as it was.
        """
        log_e_TJ = np.asarray(log_e, dtype=np.float64)
        if log_e_TJ.ndim == 1 and self.num_components == 1:
            log_e_TJ = log_e_TJ[:, None]
        if log_e_TJ.ndim != 2 or log_e_TJ.shape[1] != self.num_components:
            expected = "[T]" if self.num_components == 1 else f"[T, {self.num_components}]"
            raise ValueError(f"log_e must have shape {expected}, got {np.shape(log_e)}")
        _check_steps(log_e_TJ)
        if log_e_TJ.shape[0] == 0:
            return np.empty(0)
        if self.start == "beginning":
            return self._advance_beginning(log_e_TJ)
        return self._advance_mixture(log_e_TJ)

    def _advance_beginning(self, log_e_TJ: np.ndarray) -> np.ndarray:
        log_wealth_TJ = np.cumsum(np.concatenate([self.log_wealth[None], log_e_TJ]), axis=0)[1:]
        _check_wealth(log_wealth_TJ)
        trajectory_T = _combine(log_wealth_TJ, self._log_weights_J)
        self.log_wealth = log_wealth_TJ[-1].copy()
        self._record(trajectory_T)
        return trajectory_T.copy()

    def _advance_mixture(self, log_e_TJ: np.ndarray) -> np.ndarray:
        num_new = log_e_TJ.shape[0]
        log_wealth_TJ = np.empty_like(log_e_TJ)
        start_T = np.empty(num_new, dtype=np.int64)
        log_wealth_J, term_J, start_J = self.log_wealth, self._best_term_J, self._best_start_J
        for row in range(num_new):
            step = self.num_steps + row + 1
            log_prior = _log_start_prior(step)
            log_wealth_J = np.logaddexp(log_wealth_J, log_prior) + log_e_TJ[row]
            start_J = np.where(term_J < log_prior, step, start_J)
            term_J = np.maximum(term_J, log_prior) + log_e_TJ[row]
            log_wealth_TJ[row] = log_wealth_J
            start_T[row] = start_J[np.argmax(term_J + self._log_weights_J)]
        _check_wealth(log_wealth_TJ)
        steps_T = np.arange(self.num_steps + 1, self.num_steps + num_new + 1)
        not_started_T = -np.log(steps_T + 1)
        trajectory_T = np.logaddexp(_combine(log_wealth_TJ, self._log_weights_J), not_started_T)
        peak = int(np.argmax(trajectory_T))
        if trajectory_T[peak] > self.max_log_e_value:
            self._peak_start = int(start_T[peak])
        self.log_wealth, self._best_term_J, self._best_start_J = log_wealth_J, term_J, start_J
        self._record(trajectory_T)
        return trajectory_T

    def _record(self, trajectory_T: np.ndarray) -> None:
        """Bring the summaries up to date with the newest steps."""
        if self.alpha is not None and self.stopping_time is None:
            crossed_T = trajectory_T >= -math.log(self.alpha)
            if crossed_T.any():
                self.stopping_time = self.num_steps + int(np.argmax(crossed_T)) + 1
        self.num_steps += trajectory_T.size
        self.log_e_value = float(trajectory_T[-1])
        self.max_log_e_value = max(self.max_log_e_value, float(trajectory_T.max()))

    @property
    def weights(self) -> np.ndarray:
        """Normalised component weights, float64 [J]."""
        return np.exp(self._log_weights_J)

    @property
    def e_value(self) -> float:
        """E_t now; ``math.inf`` where it exceeds the largest float64 (then read the log forms)."""
        return math.exp(self.log_e_value) if self.log_e_value <= _LOG_FLOAT_MAX else math.inf

    @property
    def log10_e_value(self) -> float:
        """log10 of E_t now; finite long after :attr:`e_value` has become ``inf``."""
        return self.log_e_value / math.log(10)

    @property
    def p_value(self) -> float:
        """Anytime-valid p-value min(1, 1 / max_{s <= t} E_s); 0.0 below the smallest float64."""
        return math.exp(-self.max_log_e_value)

    @property
    def stopped(self) -> bool:
        """Whether E has ever reached 1/alpha; always False without an ``alpha``."""
        return self.stopping_time is not None

    @property
    def start_estimate(self) -> int | None:
        """Most likely start (1-based step) of the evidence, for ``start="mixture"``.

        The start j whose term pi_j * e_j ... e_s contributes most to E_s at the step s where E
        peaked, over all components. A point estimate without any guarantee. None with
        ``start="beginning"`` and while E has never exceeded 1.
        """
        return self._peak_start

    def to_dict(self) -> dict[str, Any]:
        """State as plain JSON types; ``-inf`` is written as the string ``"-inf"``."""
        return {
            "format": _FORMAT,
            "version": _FORMAT_VERSION,
            "num_components": self.num_components,
            "log_weights": _encode(self._log_weights_J),
            "start": self.start,
            "alpha": self.alpha,
            "num_steps": self.num_steps,
            "log_wealth": _encode(self.log_wealth),
            "log_e_value": _encode_float(self.log_e_value),
            "max_log_e_value": self.max_log_e_value,
            "stopping_time": self.stopping_time,
            "best_term": _encode(self._best_term_J),
            "best_start": self._best_start_J.tolist(),
            "peak_start": self._peak_start,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> EProcess:
        """Restore a process from :meth:`to_dict`.

        Raises
        ------
        ValueError
            If the mapping is not an e-process of a known format version, lacks a field, or holds
            values that no e-process can have.
        """
        if state.get("format") != _FORMAT or state.get("version") != _FORMAT_VERSION:
            raise ValueError(
                f"expected format {_FORMAT!r} version {_FORMAT_VERSION}, got "
                f"{state.get('format')!r} version {state.get('version')!r}"
            )
        try:
            process = cls(state["num_components"], start=state["start"], alpha=state["alpha"])
            num_components = process.num_components
            process._log_weights_J = _decode(state["log_weights"], num_components, "log_weights")
            process.log_wealth = _decode(state["log_wealth"], num_components, "log_wealth")
            process._best_term_J = _decode(state["best_term"], num_components, "best_term")
            process._best_start_J = np.asarray(state["best_start"], dtype=np.int64)
            process.num_steps = int(state["num_steps"])
            process.log_e_value = float(state["log_e_value"])
            process.max_log_e_value = float(state["max_log_e_value"])
            process.stopping_time = _decode_step(state["stopping_time"], process.num_steps)
            process._peak_start = _decode_step(state["peak_start"], process.num_steps)
        except KeyError as missing:
            raise ValueError(f"the saved e-process lacks the field {missing}") from None
        except TypeError as error:
            raise ValueError(f"a field of the saved e-process has a wrong type: {error}") from None
        if process._best_start_J.shape != (num_components,):
            raise ValueError(f"best_start must hold {num_components} integers")
        if process.num_steps < 0:
            raise ValueError(f"num_steps must not be negative, got {process.num_steps}")
        if not process.log_e_value <= process.max_log_e_value < math.inf:
            raise ValueError(
                f"log_e_value {process.log_e_value} and max_log_e_value "
                f"{process.max_log_e_value} do not belong to one e-process"
            )
        return process

    def to_json(self) -> str:
        """State as one line of JSON; every float survives exactly."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> EProcess:
        """Restore a process from :meth:`to_json`; raises as :meth:`from_dict` does."""
        state = json.loads(text)
        if not isinstance(state, dict):
            raise ValueError(f"expected a JSON object, got {type(state).__name__}")
        return cls.from_dict(state)

    def __eq__(self, other: object) -> bool:
        """Equal when configuration and state agree exactly."""
        if not isinstance(other, EProcess):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def __repr__(self) -> str:
        """One line with the evidence so far."""
        return (
            f"EProcess(num_components={self.num_components}, start={self.start!r}, "
            f"alpha={self.alpha}, num_steps={self.num_steps}, log_e_value={self.log_e_value:.6g}, "
            f"p_value={self.p_value:.3g})"
        )


def _encode_float(value: float) -> float | str:
    # JSON has no infinity; float() reads the string back.
    return "-inf" if value == -math.inf else float(value)


def _encode(values_J: np.ndarray) -> list[float | str]:
    return [_encode_float(value) for value in values_J.tolist()]


def _decode_step(step: int | None, num_steps: int) -> int | None:
    if step is not None and not 1 <= step <= num_steps:
        raise ValueError(f"a step must lie in 1..{num_steps} or be null, got {step!r}")
    return step


def _decode(values: Any, num_components: int, name: str) -> np.ndarray:
    decoded_J = np.array([float(value) for value in values], dtype=np.float64)
    if decoded_J.shape != (num_components,):
        raise ValueError(f"{name} must hold {num_components} numbers, got {decoded_J.size}")
    if np.isnan(decoded_J).any() or np.isposinf(decoded_J).any():
        raise ValueError(f"{name} must not hold NaN or +inf, got {values}")
    return decoded_J


def beta_bernoulli_log_marginal(
    matches: npt.ArrayLike, n: npt.ArrayLike, a: float = 0.5, b: float = 0.5
) -> np.ndarray:
    """Log-probability of one particular 0/1 sequence when its success rate is Beta(a, b).

    log B(a + matches, b + n - matches) - log B(a, b); with a = b = 1/2 the Krichevsky-Trofimov
    mixture, at most log(n)/2 + log(2) nats below the best fixed rate in hindsight for n >= 1.

    Parameters
    ----------
    matches : array_like, int
        Number of ones; broadcasts with ``n``.
    n : array_like, int
        Length of the sequence, ``0 <= matches <= n``.
    a, b : float > 0
        Parameters of the Beta prior.

    Returns
    -------
    ndarray or float, float64
        Natural logarithm of the marginal probability.

    Raises
    ------
    ValueError
        For ``matches`` outside [0, n] or a non-positive ``a`` or ``b``.
    """
    from scipy.special import betaln

    if not (a > 0 and b > 0):
        raise ValueError(f"a and b must be positive, got a={a!r}, b={b!r}")
    ones, length = np.asarray(matches), np.asarray(n)
    if not np.all((ones >= 0) & (ones <= length)):
        raise ValueError("matches must satisfy 0 <= matches <= n everywhere")
    return betaln(a + ones, b + (length - ones)) - betaln(a, b)
