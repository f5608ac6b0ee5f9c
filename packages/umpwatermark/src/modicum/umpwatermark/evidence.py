"""Evidence: what a detector reads at the scored positions of a text, and nothing else.

Takes arrays; knows no key, no model and no statistic. Every field but ``y_S``, ``match_S`` and
``hit_S`` is a function of the text and the surrogate alone, which is why the null laws of these
three given the text are known exactly.

Legend: ``S`` scored tokens.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROB_FLOOR = 1e-6
"""Smallest surrogate probability that is used. Raising a probability can only raise the null law of
a match, so a token that the surrogate excludes costs power and never validity."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Evidence of ``S`` scored tokens of one text.

    For a text that does not depend on the key, and contexts that are distinct, the tokens are
    independent given the text, with

    - ``y_S`` uniform on (0, 1);
    - ``P(match | Y) = Y^(1/prob - 1)`` without ``reach_S`` (Gumbel-max), and
      ``reach * 1[Y > 1 - prob/reach]`` with it (hazard); both give ``P(match) = prob``;
    - ``P(hit) = hit_prob``.

    Attributes
    ----------
    y_S
        float64 in (0, 1); keyed uniform of the observed token, the pivot.
    prob_S
        float64 in (0, 1] or None; surrogate probability of the observed token. Values below
        ``PROB_FLOOR`` are raised to it.
    match_S
        bool or None; whether the sampler under the surrogate's law would have picked the token.
    reach_S
        float64 in (0, 1] or None; hazard sampler only: surrogate mass of the observed token and of
        all tokens that it is asked after, which is the probability that the sampler gets to the
        token. At least ``prob_S``.
    hit_S
        bool or None; whether the token lies in the region of its position.
    hit_prob_S
        float64 in [0, 1] or None; probability of a hit if the text does not depend on the key.
    hit_rate_S
        float64 in [0, 1] or None; probability of a hit given the token if the text was generated
        from the surrogate's law.
    """

    y_S: NDArray[np.float64]
    prob_S: NDArray[np.float64] | None = None
    match_S: NDArray[np.bool_] | None = None
    reach_S: NDArray[np.float64] | None = None
    hit_S: NDArray[np.bool_] | None = None
    hit_prob_S: NDArray[np.float64] | None = None
    hit_rate_S: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        size = np.shape(self.y_S)
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            dtype = np.bool_ if field.name in ("match_S", "hit_S") else np.float64
            array: NDArray[Any] = np.asarray(value, dtype=dtype)
            if array.ndim != 1 or array.shape != size:
                raise ValueError(
                    f"{field.name} must have shape [S] like y_S, got {array.shape} and {size}"
                )
            object.__setattr__(self, field.name, array)
        if not np.all((self.y_S > 0) & (self.y_S < 1)):
            raise ValueError("pivots y_S must lie strictly between 0 and 1")
        for name in ("prob_S", "reach_S", "hit_prob_S", "hit_rate_S"):
            value = getattr(self, name)
            # Totals of float32 laws may pass 1 by rounding.
            if value is not None and not np.all((value >= 0) & (value <= 1 + 1e-4)):
                raise ValueError(f"{name} must lie in [0, 1]")
        for name in ("hit_prob_S", "hit_rate_S"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, np.clip(getattr(self, name), 0.0, 1.0))
        if self.prob_S is not None:
            object.__setattr__(self, "prob_S", np.clip(self.prob_S, PROB_FLOOR, 1.0))
        if self.reach_S is not None:
            if self.prob_S is None:
                raise ValueError("reach_S needs prob_S")
            object.__setattr__(self, "reach_S", np.clip(self.reach_S, self.prob_S, 1.0))

    def __len__(self) -> int:
        return len(self.y_S)

    @classmethod
    def empty(cls) -> "Evidence":
        """Evidence of no token."""
        return cls(np.zeros(0))

    def take(self, which: Any) -> "Evidence":
        """Return the tokens picked by a mask, a slice or indices."""
        return self._map(lambda x: x[which])

    def _map(self, fn: Callable[[Any], Any]) -> "Evidence":
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {k: None if v is None else fn(v) for k, v in parts.items()}
        return Evidence(**changed)

    @classmethod
    def concatenate(cls, parts: Iterable["Evidence"]) -> "Evidence":
        """Join evidence in order; a field is kept if every non-empty part has it."""
        full = [part for part in parts if len(part)]
        if not full:
            return cls.empty()
        joined: dict[str, Any] = {}
        for f in fields(cls):
            values = [getattr(part, f.name) for part in full]
            joined[f.name] = None if any(v is None for v in values) else np.concatenate(values)
        return cls(**joined)

    def require(self, *names: str) -> None:
        """Raise a ValueError unless these fields are there (or there is no token at all)."""
        missing = [name for name in names if getattr(self, name) is None]
        if missing and len(self):
            raise ValueError(
                f"this statistic needs {', '.join(missing)}, which the evidence does not hold; "
                "give the detector a surrogate or choose another statistic"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able values; every float survives exactly."""
        return {
            f.name: None if getattr(self, f.name) is None else getattr(self, f.name).tolist()
            for f in fields(self)
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "Evidence":
        """Rebuild evidence from `to_dict`."""
        known = {f.name for f in fields(cls)}
        if set(state) != known:
            raise ValueError(f"evidence has the fields {sorted(state)}, expected {sorted(known)}")
        return cls(**state)
