"""What a watermark is to a planner, and what all of them share.

A watermark is a coupling of the output with a rejection region. A planned scheme stands for one:
its text from a profile's laws, its test of exact level alpha at every length, and so its Type II
error at equal Type I error. Uniforms are ideal, not keyed. A new scheme is a new file with one
class and one line in the registry.

Legend: ``R`` texts, ``T`` tokens.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from modicum.umpwatermark._sums import Bracket
from modicum.umpwatermark.iid import MAX_TOKENS, check_tokens, least_tokens, normal_guess
from modicum.umpwatermark.profile import EntropyProfile
from modicum.umpwatermark.theory import check_alpha

Method = Literal["exact", "fft", "mc"]

TWO_SIDED = 1.96
"""Standard errors on either side in 95 % intervals of Monte-Carlo figures."""

CHUNK_ELEMENTS = 4_000_000
"""Array elements that simulations hold at once."""


class CannotPlanError(ValueError):
    """A profile does not tell what a scheme needs to know, or a scheme never reaches the errors."""


@dataclass(frozen=True)
class Type2:
    """A Type II error and how it was computed.

    Attributes
    ----------
    value
        P(text with the watermark is not called marked).
    low, high
        Equal to the value where it is exact; certain limits where it comes from an FFT; a 95 %
        interval where it was simulated.
    method
        ``"exact"``, ``"fft"`` or ``"mc"``.
    """

    value: float
    low: float
    high: float
    method: Method

    @classmethod
    def of(cls, bracket: Bracket, method: Method = "fft") -> "Type2":
        """Take a bracket; one without width is exact."""
        if method == "fft" and bracket.low == bracket.high:
            method = "exact"
        return cls(bracket.value, bracket.low, bracket.high, method)

    @classmethod
    def estimate(cls, value: float, stderr: float) -> "Type2":
        """Take a Monte-Carlo estimate and its standard error."""
        bracket = Bracket.of(value, value - TWO_SIDED * stderr, value + TWO_SIDED * stderr)
        return cls(*bracket, "mc")


@dataclass(frozen=True)
class Tokens:
    """The least number of tokens and its limits in the sense of `Type2`; ``inf`` if none."""

    value: float
    low: float
    high: float
    method: Method


class PlannedScheme(ABC):
    """A watermark with its test, seen by the planner.

    Attributes
    ----------
    name
        Key in the registry.
    label
        For tables.
    distortion_free
        Whether a text's law, over keys, is the model's.
    uses_model
        Whether the detector asks a language model.
    needs_laws
        Whether whole next-token laws are needed, not only the probabilities of emitted tokens.
    look_back
        For schemes whose Type II error may rise with the number of tokens: at how many lengths
        between half of the number found and that number to look for an earlier one.
    resolution
        Share of itself to which a number of tokens is searched.
    """

    name: ClassVar[str]
    label: str
    distortion_free: ClassVar[bool] = True
    uses_model: ClassVar[bool] = False
    needs_laws: ClassVar[bool] = False
    look_back: ClassVar[int] = 0
    resolution: ClassVar[float] = 0.0

    def check(self, profile: EntropyProfile) -> None:
        """Raise `CannotPlanError` if the profile does not tell what the scheme needs to know."""
        if self.needs_laws and profile.laws_BV is None:
            raise CannotPlanError("needs whole next-token laws, not only those of emitted tokens")

    def type2(self, profile: EntropyProfile, num_tokens: int, alpha: float) -> Type2:
        """Return the Type II error of the test of level alpha on texts of n scored tokens.

        Parameters
        ----------
        profile
            Laws that the text is sampled from.
        num_tokens
            n.
        alpha
            Type I error, in ``(0, 1)``.

        Raises
        ------
        CannotPlanError
            If the profile does not tell what the scheme needs to know.
        ValueError
            For a length or level out of range.
        """
        n, alpha = check_tokens(num_tokens), check_alpha(alpha)
        self.check(profile)
        return self._type2(profile, n, alpha)

    @abstractmethod
    def _type2(self, profile: EntropyProfile, num_tokens: int, alpha: float) -> Type2: ...

    def simulate(
        self,
        profile: EntropyProfile,
        num_texts: int,
        num_tokens: int,
        alpha: float,
        rng: np.random.Generator,
        *,
        null: bool = False,
    ) -> NDArray[np.bool_]:
        """Simulate texts and return which of them the test of level alpha calls marked.

        Parameters
        ----------
        profile, num_tokens, alpha
            As in `type2`.
        num_texts
            R.
        rng
            Source of all randomness.
        null
            Texts sampled from the same laws without the key, tested with it.

        Returns
        -------
        bool[R]
        """
        n, alpha = check_tokens(num_tokens), check_alpha(alpha)
        if num_texts < 1:
            raise ValueError(f"num_texts must be at least 1, got {num_texts}")
        self.check(profile)
        return self._simulate(profile, num_texts, n, alpha, rng, null)

    @abstractmethod
    def _simulate(
        self,
        profile: EntropyProfile,
        num_texts: int,
        num_tokens: int,
        alpha: float,
        rng: np.random.Generator,
        null: bool,
    ) -> NDArray[np.bool_]: ...

    def distortion(self, profile: EntropyProfile) -> float:
        """Return the mean total variation per token between the text's law over keys and q."""
        return 0.0

    def tokens_needed(
        self,
        profile: EntropyProfile,
        alpha: float,
        beta: float,
        *,
        max_tokens: int = MAX_TOKENS,
    ) -> Tokens:
        """Return the least number of scored tokens with errors at most alpha and beta.

        Parameters
        ----------
        profile, alpha
            As in `type2`.
        beta
            Type II error, in ``(0, 1)``.
        max_tokens
            Longest text considered.
        """
        check_alpha(alpha)
        check_alpha(beta, "beta")
        self.check(profile)
        if profile.entropy <= 0:
            return Tokens(math.inf, math.inf, math.inf, "exact")
        return self._tokens_needed(profile, alpha, beta, max_tokens)

    def _tokens_needed(
        self, profile: EntropyProfile, alpha: float, beta: float, max_tokens: int
    ) -> Tokens:
        known: dict[int, Type2] = {}

        def at(n: int) -> Type2:
            if n not in known:
                known[n] = self._type2(profile, n, alpha)
            return known[n]

        def search(attribute: str, start: int) -> float:
            return least_tokens(
                lambda n: getattr(at(n), attribute) <= beta,
                start=start,
                max_tokens=max_tokens,
                resolution=self.resolution,
            )

        value = search("value", normal_guess(profile, alpha, beta))
        if not math.isfinite(value):
            return Tokens(value, search("low", max_tokens), value, at(max_tokens).method)
        if self.look_back:
            # Lengths below the one found that suffice as well: a saw has more than one.
            earlier = np.unique(np.linspace(value / 2, value, self.look_back).astype(np.int64))
            first = next(int(n) for n in earlier if n >= 1 and at(int(n)).value <= beta)
            value = search("value", first)
        n = int(value)
        method = at(n).method
        if at(n).high <= beta and (n == 1 or at(n - 1).low > beta):
            return Tokens(value, value, value, method)
        low, high = search("low", n), search("high", n)
        return Tokens(value, min(low, value), max(high, value), method)


def chunks(total: int, elements_each: int) -> Iterable[int]:
    """Split a number of rows into sizes of at most `CHUNK_ELEMENTS` elements."""
    size = max(1, CHUNK_ELEMENTS // max(1, elements_each))
    while total > 0:
        yield min(size, total)
        total -= size
