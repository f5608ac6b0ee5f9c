"""From weights, or an order, to a purchase: which records are bought for a budget.

A ranking of the records comes from design weights (`topk_ranking`, `sample_ranking`) or from a
solver that buys one by one; `purchase` walks down a ranking and buys what is affordable and
allowed. Nothing is bought twice. Knows nothing of features and designs.

Shapes: n records, k bought, g groups.
"""

from dataclasses import dataclass

import numpy as np

from modicum.daved.errors import InfeasibleBudgetError

__all__ = [
    "BUDGET_TOLERANCE",
    "Rules",
    "at_floor",
    "duplicate_codes",
    "extend",
    "pick_ranking",
    "purchase",
    "sample_ranking",
    "topk_ranking",
]

BUDGET_TOLERANCE = 1e-9
"""Share of the budget by which sums of prices may exceed it through rounding."""

_FLOOR_TOLERANCE = 1e-9

_DIGITS = 12
"""Decimals of the largest value to which values are told apart."""


@dataclass(frozen=True)
class Rules:
    """What a purchase must keep to besides its budget.

    Attributes
    ----------
    fill
        Whether records that do not fit any more are skipped; else the first one ends the purchase.
    strict
        Whether the spending must stay below the budget, as in the published code; else it may be
        all of it.
    groups
        Number of each record's group, (n,), from 0.
    max_per_group, min_per_group
        Most and fewest records of every group.
    copies
        Number of each record's kind, (n,), of which one is bought; see `duplicate_codes`.
    """

    fill: bool = True
    strict: bool = False
    groups: np.ndarray | None = None
    max_per_group: int | None = None
    min_per_group: int | None = None
    copies: np.ndarray | None = None

    @property
    def restrict(self) -> bool:
        """Whether something besides the budget can keep a record from being bought."""
        quotas = self.max_per_group is not None or self.min_per_group is not None
        return quotas or self.copies is not None


def topk_ranking(weights_n: np.ndarray, values_n: np.ndarray | None = None) -> np.ndarray:
    """Rank records by weight, the largest first, (n,).

    Parameters
    ----------
    weights_n
        (n,).
    values_n
        What decides between equal weights, (n,), the largest first. Values count as equal where
        they agree to 12 digits of the largest, as those of equal rows do. Ties that are left, and
        all ties without values, go to the smallest index.
    """
    if values_n is None:
        return np.argsort(-np.asarray(weights_n), kind="stable")
    largest = float(np.abs(values_n).max(initial=0.0)) or 1.0
    return np.lexsort((-np.round(values_n / largest, _DIGITS), -np.asarray(weights_n)))


def sample_ranking(
    weights_n: np.ndarray, rng: np.random.Generator, last_n: np.ndarray | None = None
) -> np.ndarray:
    """Draw a ranking in which the next record is drawn in proportion to the weights left, (n,).

    Parameters
    ----------
    weights_n
        Nonnegative weights, (n,), of any sum.
    rng
        Source of the draws.
    last_n
        Which records come after all others, (n,): those that a solver never picked, which together
        may have most of the weight. Records of weight 0 come last of all.

    Notes
    -----
    The order of log w + Gumbel noise is that of draws without replacement.
    """
    weights_n = np.asarray(weights_n, dtype=np.float64)
    positive = weights_n > 0
    logs_n = np.log(np.where(positive, weights_n, 1.0))
    keys_n = np.where(positive, logs_n, 0.0) + rng.gumbel(size=len(weights_n))
    late_n = np.zeros(len(weights_n), dtype=bool) if last_n is None else last_n
    return np.lexsort((-keys_n, late_n, ~positive))


def at_floor(shares_n: np.ndarray, floor: float) -> np.ndarray:
    """Say which records still have the weight that all had at the start, shrunk, (n,) bool."""
    return shares_n <= floor * (1 + _FLOOR_TOLERANCE)


def pick_ranking(
    picks: np.ndarray, weights_n: np.ndarray, values_n: np.ndarray | None = None
) -> np.ndarray:
    """Rank records by when they were picked first, (n,); the others follow as in `extend`."""
    _, first = np.unique(picks, return_index=True)
    return extend(np.asarray(picks)[np.sort(first)], weights_n, values_n)


def extend(
    order_k: np.ndarray, weights_n: np.ndarray, values_n: np.ndarray | None = None
) -> np.ndarray:
    """Append to an order all other records, ranked as by `topk_ranking`, (n,)."""
    others = np.ones(len(weights_n), dtype=bool)
    others[order_k] = False
    by_weight = topk_ranking(weights_n, values_n)
    found: np.ndarray = np.concatenate([order_k, by_weight[others[by_weight]]])
    return found.astype(np.int64)


def duplicate_codes(rows_nd: np.ndarray) -> np.ndarray:
    """Give every row a number, (n,), the same to rows that are equal in every feature."""
    _, codes_n = np.unique(np.asarray(rows_nd), axis=0, return_inverse=True)
    return codes_n.reshape(-1)


def purchase(
    ranking: np.ndarray,
    prices_n: np.ndarray,
    budget: float,
    rules: Rules | None = None,
) -> np.ndarray:
    """Walk down a ranking and buy.

    Parameters
    ----------
    ranking
        Records, each once, the best first; those that are not in it are not bought.
    prices_n
        Price of every record, (n,), in currency.
    budget
        What may be spent, in currency.
    rules
        What else counts; `Rules()` by default.

    Returns
    -------
    numpy.ndarray
        Records in the order of the ranking, (k,). With ``fill`` it has all that can be afforded:
        nothing that is left and allowed costs at most what is left of the budget.

    Raises
    ------
    InfeasibleBudgetError
        If the budget does not buy the fewest records of every group.
    ValueError
        If a group has fewer records than must be bought.
    """
    rules = rules or Rules()
    walk = _Walk(np.asarray(ranking, dtype=np.int64), prices_n, budget, rules)
    if rules.min_per_group:
        walk.buy_minimum(rules.min_per_group)
    walk.buy()
    return walk.bought()


class _Walk:
    """What was bought so far and what is left."""

    def __init__(
        self, ranking: np.ndarray, prices_n: np.ndarray, budget: float, rules: Rules
    ) -> None:
        self.ranking = ranking
        self.prices_k = np.asarray(prices_n, dtype=np.float64)[ranking]
        self.rules = rules
        self.limit = budget if rules.strict else budget * (1 + BUDGET_TOLERANCE)
        self.budget = budget
        self.spent = 0.0
        self.taken_k = np.zeros(len(ranking), dtype=bool)
        self.groups_k = None if rules.groups is None else rules.groups[ranking]
        self.copies_k = None if rules.copies is None else rules.copies[ranking]
        self.per_group: dict[int, int] = {}
        self.kinds: set[int] = set()

    def buy(self) -> None:
        """Buy from the first to the last what fits."""
        cheapest_k = np.minimum.accumulate(self.prices_k[::-1])[::-1]
        for place, (price, cheapest) in enumerate(
            zip(self.prices_k.tolist(), cheapest_k.tolist(), strict=True)
        ):
            if not self._fits(cheapest):
                break
            if self.taken_k[place] or not self._allowed(place):
                continue
            if self._fits(price):
                self._take(place)
            elif not self.rules.fill:
                break

    def buy_minimum(self, fewest: int) -> None:
        """Buy the best of every group while the cheapest rest of all minimums stays affordable."""
        if self.groups_k is None:
            raise ValueError("min_per_group needs groups")
        names = np.unique(np.asarray(self.rules.groups))
        places = {int(g): np.flatnonzero(self.groups_k == g) for g in names}
        needs = {g: _Need(self, places[g], fewest, g) for g in places}
        reserve = sum(need.cheapest() for need in needs.values())
        if not self._fits(reserve):
            raise InfeasibleBudgetError(
                f"budget {self.budget} does not buy {fewest} records of each of {len(needs)} "
                f"groups: the cheapest cost {reserve}"
            )
        for place in range(len(self.ranking)):
            need = needs[int(self.groups_k[place])]
            if need.left == 0 or not self._allowed(place):
                continue
            others = reserve - need.cheapest()
            with_it = self.prices_k[place] + need.cheapest(instead=place)
            if self._fits(others + with_it):
                self._take(place)
                need.left -= 1
                reserve = others + need.cheapest()
        if any(need.left for need in needs.values()):
            raise InfeasibleBudgetError(
                f"budget {self.budget} does not buy {fewest} different records of each group"
            )

    def bought(self) -> np.ndarray:
        """Give what was bought in the order of the ranking."""
        return self.ranking[self.taken_k]

    def _fits(self, price: float) -> bool:
        total = self.spent + price
        return total < self.limit if self.rules.strict else total <= self.limit

    def _allowed(self, place: int) -> bool:
        if self.copies_k is not None and int(self.copies_k[place]) in self.kinds:
            return False
        most = self.rules.max_per_group
        if self.groups_k is None or most is None:
            return True
        return self.per_group.get(int(self.groups_k[place]), 0) < most

    def _take(self, place: int) -> None:
        self.taken_k[place] = True
        self.spent += float(self.prices_k[place])
        if self.groups_k is not None:
            group = int(self.groups_k[place])
            self.per_group[group] = self.per_group.get(group, 0) + 1
        if self.copies_k is not None:
            self.kinds.add(int(self.copies_k[place]))


class _Need:
    """What a group still has to sell, and what the cheapest of that costs."""

    def __init__(self, walk: _Walk, places: np.ndarray, left: int, group: int) -> None:
        self.walk = walk
        # Cheapest first; ties in the order of the ranking.
        self.places = places[np.argsort(walk.prices_k[places], kind="stable")]
        self.left = left
        if self._count() < left:
            raise ValueError(
                f"group {group} has {self._count()} records that can be bought, fewer than "
                f"min_per_group={left}"
            )

    def _count(self) -> int:
        if self.walk.copies_k is None:
            return len(self.places)
        return len(np.unique(self.walk.copies_k[self.places]))

    def cheapest(self, instead: int | None = None) -> float:
        """Give the price of the cheapest records that meet the need, after one given more."""
        left = self.left - (instead is not None)
        walk, total = self.walk, 0.0
        kinds = set(walk.kinds)
        if instead is not None and walk.copies_k is not None:
            kinds.add(int(walk.copies_k[instead]))
        for place in self.places:
            if left == 0:
                return total
            if walk.taken_k[place] or place == instead:
                continue
            if walk.copies_k is not None:
                if int(walk.copies_k[place]) in kinds:
                    continue
                kinds.add(int(walk.copies_k[place]))
            total += float(walk.prices_k[place])
            left -= 1
        return total if left == 0 else float("inf")
