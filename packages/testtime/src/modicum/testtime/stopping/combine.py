"""Several rules as one: stop when all of them say so, or when any does."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from modicum.testtime.samples import Guarantee
from modicum.testtime.stopping.base import GO_ON, Decision, StoppingRule

__all__ = ["All", "Any"]


class _Combined(StoppingRule):
    """Rules that see the same samples."""

    def __init__(self, *rules: StoppingRule) -> None:
        if not rules:
            raise ValueError(f"{type(self).__name__} needs at least one rule")
        for rule in rules:
            if not isinstance(rule, StoppingRule):
                raise TypeError(f"{type(self).__name__} takes stopping rules, not {rule!r}")
        self.rules = rules
        self.guarantee = self._guarantee()
        self.needs_exchangeable = any(rule.needs_exchangeable for rule in rules)
        self.takes_weights = all(rule.takes_weights for rule in rules)
        self.reset()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.rules))})"

    def _guarantee(self) -> Guarantee:
        raise NotImplementedError

    def _deltas(self) -> list[float]:
        return [rule.delta for rule in self.rules if rule.delta is not None]

    def reset(self) -> None:
        """Forget every sample."""
        self.rules = tuple(rule.fresh() for rule in self.rules)

    def _update(
        self, key: Hashable | None, reward: float | None, weight: float
    ) -> list[tuple[StoppingRule, Decision]]:
        return [(rule, rule.update(key, reward, weight)) for rule in self.rules]


class Any(_Combined):
    """Stop as soon as any of several rules does, with that rule's answer.

    A decision carries the guarantee of the rule that made it; of several at once, the first with a
    guarantee decides. The combination as a whole has a guarantee only if all rules have the same
    kind: a lossless or exact rule may well declare an answer that an anytime rule would not.

    Parameters
    ----------
    *rules
        The rules; they are copied.

    Attributes
    ----------
    delta
        Sum of the deltas of the anytime rules: bound on the probability that a decision with the
        guarantee "anytime" is wrong. None without such rules.

    Raises
    ------
    ValueError
        Without any rule.
    """

    def __init__(self, *rules: StoppingRule) -> None:
        super().__init__(*rules)
        self.delta = sum(self._deltas()) or None

    def _guarantee(self) -> Guarantee:
        kinds = {rule.guarantee for rule in self.rules}
        return kinds.pop() if len(kinds) == 1 else "heuristic"

    def update(
        self, key: Hashable | None, reward: float | None = None, weight: float = 1.0
    ) -> Decision:
        """Take one sample and say whether to stop."""
        stopped = [pair for pair in self._update(key, reward, weight) if pair[1].stop]
        if not stopped:
            return GO_ON
        rule, decision = next(
            (pair for pair in stopped if pair[1].guarantee != "heuristic"), stopped[0]
        )
        if decision.guarantee != "anytime" or rule.delta is None:
            return decision
        # What the other rules may declare wrongly comes on top of this rule's error.
        others = sum(self._deltas()) - rule.delta
        return decision._replace(confidence=max(0.0, decision.confidence - others))

    def min_to_stop(self) -> int:
        """Return the least number of further samples after which any rule could stop."""
        return min(rule.min_to_stop() for rule in self.rules)

    def table(self, size: int) -> np.ndarray:
        """Return the boundary ``n1_min[n2]``, int64, shape ``[size]``."""
        return np.min([rule.table(size) for rule in self.rules], axis=0)


class All(_Combined):
    """Stop when all of several rules stop at the same sample and agree on the answer.

    The declaration is that of each rule, so one guarantee suffices: "anytime" if any rule has it
    (with the least delta), else "lossless" if any rule is lossless. Formulas for single "exact"
    rules do not cover their combination. `FixedN` among the rules sets a least number of samples.

    Parameters
    ----------
    *rules
        The rules; they are copied.

    Attributes
    ----------
    delta
        Least delta of the anytime rules, None without such rules.

    Raises
    ------
    ValueError
        Without any rule.
    """

    def __init__(self, *rules: StoppingRule) -> None:
        super().__init__(*rules)
        self.delta = min(self._deltas(), default=None)

    def _guarantee(self) -> Guarantee:
        kinds = {rule.guarantee for rule in self.rules}
        if "anytime" in kinds:
            return "anytime"
        return "lossless" if "lossless" in kinds else "heuristic"

    def update(
        self, key: Hashable | None, reward: float | None = None, weight: float = 1.0
    ) -> Decision:
        """Take one sample and say whether to stop."""
        decisions = [decision for _, decision in self._update(key, reward, weight)]
        answer = decisions[0].answer
        if not all(decision.stop and decision.answer == answer for decision in decisions):
            return GO_ON
        leading = next((d for d in decisions if d.guarantee == self.guarantee), decisions[0])
        confidence = max(
            (d.confidence for d in decisions if d.guarantee == leading.guarantee),
            key=lambda value: (value == value, value),
        )
        return leading._replace(guarantee=self.guarantee, confidence=confidence)

    def min_to_stop(self) -> int:
        """Return a number of further samples before which some rule cannot stop."""
        return max(rule.min_to_stop() for rule in self.rules)

    def table(self, size: int) -> np.ndarray:
        """Return the boundary ``n1_min[n2]``, int64, shape ``[size]``."""
        return np.max([rule.table(size) for rule in self.rules], axis=0)
