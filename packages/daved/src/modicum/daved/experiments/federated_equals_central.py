"""Sellers who keep their rows sell what a central run would buy, and what that costs in bytes.

Sellers of unequal size, in this process, hold the rows of a market. With the revealing protocol the
buyer's Frank-Wolfe steps are compared with those on all rows in one table; with masked sums the
purchase is compared with that of central multiplicative updates. Every byte of every array that
goes over the wire is counted and held against a formula, and again as sellers, features and queries
grow.

Shapes: n rows, d features, m queries of one buyer, K sellers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, product
from typing import Any, cast

import numpy as np

from modicum.core.device import numpy_generator
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.daved.federated import (
    AggregateBuyer,
    Buyer,
    FederatedBuyer,
    LocalTransport,
    Purchase,
    Seller,
    Transport,
)
from modicum.daved.federated.messages import Aggregate
from modicum.daved.markets import PRICES, Market, gaussian_market
from modicum.daved.pool import ArrayPool
from modicum.daved.rounding import Rules, purchase, topk_ranking
from modicum.daved.solvers.base import Design, Problem
from modicum.daved.solvers.frank_wolfe import FrankWolfe
from modicum.daved.solvers.multiplicative import Multiplicative


@dataclass(frozen=True)
class Setting:
    """A market, who holds its rows, and what is asked."""

    n: int
    d: int
    queries: int
    sellers: int
    priced: bool = False

    @property
    def label(self) -> str:
        """What the setting is called in names of partial results."""
        priced = "priced" if self.priced else "equal"
        return f"n{self.n}_d{self.d}_m{self.queries}_k{self.sellers}_{priced}"


SIZES = ((400, 10, 3), (2000, 30, 1))
QUICK_SIZES = SIZES[:1]
"""Rows, features and queries."""
SELLERS = (1, 4, 16)
MASKED_SELLERS = (2, 4, 16)
"""A masked sum needs two sellers."""
MARKETS, QUICK_MARKETS = 5, 1
UNEQUAL = 1.5
"""Exponent by which sellers differ in size; the first of 16 has 1.6 % of the rows, the last 9 %."""

BUDGET, STEPS, UPDATES = 20.0, 40, 30
EXACT_BITS, DEFAULT_BITS = 44, 24
"""Fraction bits of the masked sums: what float64 nearly has, and the default."""

BASE = Setting(1000, 32, 1, 4)
GROWING = {"sellers": (1, 4, 16), "d": (8, 32, 128, 512), "queries": (1, 4, 8)}
QUICK_GROWING = {"sellers": (1, 4, 16), "d": (8, 32, 64), "queries": (1, 4)}
NAMES = {"sellers": "sellers", "d": "features", "queries": "queries"}
GROWTH_TOLERANCE = 1.0
"""Share of the objective that the certificate comes to; growth is measured up to there."""
MOST_STEPS = 1000
BATCHES = (1, 2, 4, 8)
"""Steps between two broadcasts."""

DOWN, UP = ("score", "reveal", "commit"), ("score_reply", "reveal_reply")
"""Messages of a round whose winner is a row that the buyer has not seen."""
REVEAL_MOST, MASKED_MOST = 1e-12, 1e-10
SINGLE, DOUBLE = 4, 8
"""Bytes of a number on the wire."""

Found = dict[str, Any]


def edges(n: int, sellers: int) -> np.ndarray:
    """Give where the rows of each seller begin, and n, (K + 1,)."""
    return np.round((np.arange(sellers + 1) / sellers) ** UNEQUAL * n).astype(np.int64)


def make_market(setting: Setting, index: int, seed: int) -> Market:
    """Make a market, the same one whatever the number of sellers."""
    rng = numpy_generator(seed, "federated", setting.n, setting.d, setting.queries, index)
    market = gaussian_market(setting.n, setting.d, setting.queries, validation=0, rng=rng)
    prices_n = rng.choice(np.array(PRICES), size=setting.n)
    return replace(market, prices_n=prices_n) if setting.priced else market


def sellers_of(market: Market, sellers: int) -> list[Seller]:
    """Split the rows among sellers of unequal size."""
    return [
        Seller(
            market.rows_nd[start:stop],
            market.labels_n[start:stop],
            market.prices_n[start:stop],
            secret=number.to_bytes(16, "little"),
        )
        for number, (start, stop) in enumerate(pairwise(edges(len(market.rows_nd), sellers)))
    ]


def _problem(market: Market) -> Problem:
    return Problem(ArrayPool(market.rows_nd, market.prices_n**-0.5), market.queries_md)


def _numbers(found: Purchase, sellers: int, n: int) -> tuple[list[int], list[int]]:
    """Give picks and purchase by the rows' numbers in the whole table."""
    first = edges(n, sellers)
    return (
        [int(first[seller]) + row for seller, row in found.picks],
        [int(first[seller]) + row for seller, row in found.bought],
    )


def _apart(found: Purchase, central: Design) -> float:
    """Give the largest relative difference of objectives, over all steps and the end."""
    mine = [step.objective for step in found.history] + [found.objective]
    theirs = [step.objective for step in central.history] + [central.objective]
    return float(np.abs(np.array(mine) / np.array(theirs) - 1).max())


# Bytes -------------------------------------------------------------------------------------------


def triangle(d: int) -> int:
    """Give the number of values of a symmetric matrix."""
    return d * (d + 1) // 2


def reveal_bytes(
    setting: Setting, width: int, rounds: int, steps: int, revealed: int
) -> dict[str, int]:
    """Give the bytes of all arrays of the revealing protocol, by kind of message.

    Parameters
    ----------
    setting
        Features, queries and sellers.
    width
        Bytes of a number in directions, Gram matrices and revealed rows.
    rounds
        Broadcasts of directions.
    steps
        Steps, one to a broadcast.
    revealed
        Different rows that won.
    """
    asked = width * setting.d * setting.queries
    return {
        "gram_reply": setting.sellers * width * triangle(setting.d),
        "score": rounds * setting.sellers * asked,
        "score_reply": rounds * setting.sellers * 16,
        "reveal": revealed * (asked + 8),
        "reveal_reply": revealed * (width * setting.d + 8),
        "commit": steps * setting.sellers * 16,
    }


def masked_bytes(setting: Setting, updates: int, thresholds: int) -> dict[str, int]:
    """Give the bytes of all arrays of the masked protocol until the delivery, by kind of message.

    Parameters
    ----------
    setting
        Features, queries and sellers.
    updates
        Multiplicative updates; one more sum comes before them.
    thresholds
        Sums of prices and numbers above a weight.
    """
    asked = DOUBLE * setting.d * setting.queries
    values = (updates + 1) * (1 + triangle(setting.d)) + 2 * thresholds
    return {
        "aggregate": setting.sellers * updates * asked,
        "aggregate_reply": setting.sellers * DOUBLE * values,
        "peak": setting.sellers * asked,
    }


def _excess(transport: LocalTransport, expected: dict[str, int]) -> float:
    """Give the largest relative difference of measured bytes from the expected ones."""
    measured = transport.bytes_by_kind(payload=True)
    return max(abs(measured[kind] / size - 1) for kind, size in expected.items())


# Runs --------------------------------------------------------------------------------------------


def _buy(buyer: FederatedBuyer, sellers: list[Seller]) -> tuple[Purchase, LocalTransport]:
    transport = LocalTransport(sellers)
    # To a type checker a list that can be assigned is no Sequence that can be assigned.
    return buyer.buy(cast(Transport, transport), BUDGET), transport


def play_revealing(setting: Setting, index: int, seed: int, dtype: str = "float64") -> Found:
    """Compare the revealing protocol with Frank-Wolfe on all rows in one table."""
    market = make_market(setting, index, seed)
    central = FrankWolfe(max_iter=STEPS, tol=0.0).solve(_problem(market))
    buyer = Buyer(market.queries_md, max_iter=STEPS, tol=0.0, dtype=dtype)
    found, transport = _buy(buyer, sellers_of(market, setting.sellers))
    picks, bought = _numbers(found, setting.sellers, setting.n)
    ranking = topk_ranking(central.weights / market.prices_n)
    # The buyer knows of rows that won only.
    won = ranking[np.isin(ranking, central.picks)]
    whole = purchase(won, market.prices_n, BUDGET)
    width = DOUBLE if dtype == "float64" else SINGLE
    expected = reveal_bytes(setting, width, found.rounds, len(picks), len(set(picks)))
    return {
        "same": picks == central.picks.tolist() and bought == whole.tolist(),
        "apart": _apart(found, central) if len(picks) == len(central.picks) else np.inf,
        "bytes": _excess(transport, expected),
    }


def play_masked(setting: Setting, index: int, seed: int, bits: int) -> Found:
    """Compare masked sums with multiplicative updates on all rows in one table."""
    market = make_market(setting, index, seed)
    central = Multiplicative(max_iter=UPDATES, tol=0.0).solve(_problem(market))
    buyer = AggregateBuyer(market.queries_md, max_iter=UPDATES, fraction_bits=bits)
    found, transport = _buy(buyer, sellers_of(market, setting.sellers))
    bought = _numbers(found, setting.sellers, setting.n)[1]
    ranking = topk_ranking(central.weights / market.prices_n)
    whole = purchase(ranking, market.prices_n, BUDGET, Rules(fill=False))
    sums = sum(exchange.kind == Aggregate.kind for exchange in found.traffic)
    # The first sum is of the start.
    thresholds = sums - 1 - UPDATES
    return {
        "same": sorted(bought) == sorted(whole.tolist()),
        "apart": _apart(found, central),
        "bytes": _excess(transport, masked_bytes(setting, UPDATES, thresholds)),
    }


def _grown(name: str, value: int) -> Setting:
    settings: dict[str, Any] = {name: value}
    return replace(BASE, **settings)


def play_growth(setting: Setting, seed: int) -> Found:
    """Count rounds and bytes until the certificate is a share of the objective."""
    market = make_market(setting, 0, seed)
    buyer = Buyer(market.queries_md, max_iter=MOST_STEPS, tol=GROWTH_TOLERANCE, dtype="float32")
    found, transport = _buy(buyer, sellers_of(market, setting.sellers))
    arrays, frames = transport.bytes_by_kind(payload=True), transport.bytes_by_kind()
    steps = len(found.picks)
    # Every round has scores, every step a commit, and not every winner is a new row.
    times = {"score": found.rounds, "commit": steps, "reveal": len(set(found.picks))}

    def of_a_round(sizes: dict[str, int], kinds: tuple[str, ...]) -> float:
        return sum(sizes[kind] / times[kind.removesuffix("_reply")] for kind in kinds)

    masked = masked_bytes(setting, UPDATES, 0)
    return {
        "rounds": found.rounds,
        "down": of_a_round(arrays, DOWN),
        "up": of_a_round(arrays, UP),
        "frames": of_a_round(frames, (*DOWN, *UP)) + frames["done"] / steps,
        "gram": arrays["gram_reply"],
        "masked": (masked["aggregate"] + masked["aggregate_reply"]) / (UPDATES + 1),
    }


def play_batches(steps: int, seed: int) -> Found:
    """Take several steps between two broadcasts."""
    market = make_market(BASE, 0, seed)
    sellers = sellers_of(market, BASE.sellers)
    buyer = Buyer(market.queries_md, max_iter=STEPS, tol=0.0, batch_rounds=steps)
    found, transport = _buy(buyer, sellers)
    central = FrankWolfe(max_iter=STEPS, tol=0.0).solve(_problem(market))
    return {
        "rounds": found.rounds,
        "objective": found.objective / central.objective,
        "revealed": sum(len(seller.revealed) for seller in sellers),
        "bytes": sum(len(entry.frame) for entry in transport.log),
    }


@dataclass(frozen=True)
class Protocol:
    """A way to buy from sellers, and how it is compared with a central run.

    Attributes
    ----------
    label
        What it is called in names of partial results.
    sellers
        Numbers of sellers.
    play
        Gives, for a setting, a market's number and a seed, whether the purchase was the ``same``,
        how far objectives are ``apart``, and how far ``bytes`` are from the formula.
    """

    label: str
    sellers: tuple[int, ...]
    play: Callable[[Setting, int, int], Found]


REVEALING, MASKED = "revealing", f"masked, {EXACT_BITS} bits"
PROTOCOLS = {
    REVEALING: Protocol("revealing", SELLERS, play_revealing),
    "revealing, single precision": Protocol(
        "single", SELLERS, partial(play_revealing, dtype="float32")
    ),
    MASKED: Protocol("masked", MASKED_SELLERS, partial(play_masked, bits=EXACT_BITS)),
    f"masked, {DEFAULT_BITS} bits": Protocol(
        "coarse", MASKED_SELLERS, partial(play_masked, bits=DEFAULT_BITS)
    ),
}
QUICK_PROTOCOLS = (REVEALING, MASKED)


# Results -----------------------------------------------------------------------------------------

Runs = dict[Setting, list[Found]]


def _all(runs: Runs, key: str) -> list[Any]:
    return [one[key] for played in runs.values() for one in played]


def growth_exponent(bytes_by_d: dict[int, float]) -> float:
    """Give the exponent by which bytes grow between the two largest numbers of features."""
    (small, few), (large, many) = sorted(bytes_by_d.items())[-2:]
    return float(np.log(many / few) / np.log(large / small))


def claims(revealing: Runs, masked: Runs, bytes_by_d: dict[int, float]) -> list[Claim]:
    """Judge equality with central runs, and bytes against formulas and the published order."""
    listed = []
    for name, played, sellers, most, statement in (
        ("revealing", revealing, SELLERS, REVEAL_MOST, REVEAL_STATEMENT),
        ("masked", masked, MASKED_SELLERS, MASKED_MOST, MASKED_STATEMENT),
    ):
        same, apart = _all(played, "same"), max(_all(played, "apart"))
        excess = max(_all(played, "bytes"))
        runs = f"{len(same)} runs, {', '.join(map(str, sellers))} sellers, with and without prices"
        listed += [
            _claim(
                f"{name}_same_purchase",
                statement,
                (float(np.mean(same)), all(same), "share of runs"),
                f"{runs}. Holds if all.",
            ),
            _claim(
                f"{name}_same_objective",
                "At every step the objective is that of the central run.",
                (apart, apart <= most, "relative difference"),
                f"{runs}; the largest over all steps. Criterion: at most {most:g}.",
            ),
            _claim(
                f"{name}_bytes",
                "Every kind of message has as many bytes as the formula says.",
                (excess, excess == 0, "relative difference"),
                f"{runs}; bytes of arrays, the largest over messages. Criterion: 0.",
            ),
        ]
    exponent = growth_exponent(bytes_by_d)
    small, large = sorted(bytes_by_d)[-2:]
    note = (
        f"Exponent from {small} to {large} features, {BASE.sellers} sellers, 1 query, arrays both"
        " ways, a round that reveals a row. Criterion: at most 1. The Gram matrices, sent once, and"
        " every round of the masked protocol grow with the square, and a fixed certificate needs"
        " more rounds with more features."
    )
    measured = (exponent, exponent <= 1, "exponent of d")
    statement = "Bytes of a round grow at most linearly with the number of features."
    return [*listed, _claim("bytes_linear_in_d", statement, measured, note, paper="O(d)")]


REVEAL_STATEMENT = "Picks, purchase and its order are those of central Frank-Wolfe steps."
MASKED_STATEMENT = "Masked sums buy what central multiplicative updates weigh most."


def _claim(
    name: str,
    statement: str,
    measured: tuple[float, bool, str],
    note: str,
    paper: str | None = None,
) -> Claim:
    value, holds, unit = measured
    return Claim(name, statement, paper, value, None, holds, unit, note)


def _equality_table(by_protocol: dict[str, Runs]) -> Table:
    rows: list[list[Any]] = [
        [protocol, s.n, s.d, s.queries, s.sellers, "1 to 5" if s.priced else "1", len(played)]
        + [float(np.mean([one["same"] for one in played]))]
        + [max(one[key] for one in played) for key in ("apart", "bytes")]
        for protocol, runs in by_protocol.items()
        for s, played in runs.items()
    ]
    columns = ["protocol", "n", "d", "m", "sellers", "prices", "runs", "same purchase"]
    columns += ["objective, largest difference", "bytes, largest difference"]
    note = f"Relative differences. Budget {BUDGET:g}, {STEPS} steps or {UPDATES} updates."
    return Table("Beside a central run", columns, rows, note)


def _growth_table(growth: dict[str, dict[int, Found]]) -> Table:
    rows: list[list[Any]] = []
    for name, by_value in growth.items():
        for value, found in by_value.items():
            s = _grown(name, value)
            rows.append([NAMES[name], s.sellers, s.d, s.queries, *found.values()])
    columns = ["growing", "sellers", "d", "m", "rounds", "down per round", "up per round"]
    columns += ["frames per round", "Gram matrices, once", "masked protocol, per round"]
    note = (
        "Bytes of all sellers in a round that reveals a row. Single precision, of arrays, except"
        " for frames, which have their headers; the masked protocol has 8 bytes a number, from the"
        f" formula. n = {BASE.n:,}; rounds until the certificate is {GROWTH_TOLERANCE:g} of the"
        " objective."
    )
    return Table("Rounds and bytes of the revealing protocol", columns, rows, note)


def _batch_table(batches: dict[int, Found]) -> Table:
    rows: list[list[Any]] = [[steps, *found.values()] for steps, found in batches.items()]
    columns = ["steps per broadcast", "rounds", "objective / central", "rows revealed", "bytes"]
    note = f"{BASE.sellers} sellers, n = {BASE.n:,}, d = {BASE.d}; {STEPS} steps, all bytes."
    return Table("Several steps between two broadcasts", columns, rows, note)


def _figures(by_d: dict[int, Found]) -> list[Figure]:
    from modicum.daved import plots

    sizes = list(by_d)
    curves = {
        "revealing, arrays per round": [one["down"] + one["up"] for one in by_d.values()],
        "revealing, frames per round": [one["frames"] for one in by_d.values()],
        "revealing, Gram matrices once": [one["gram"] for one in by_d.values()],
        "masked, arrays per round": [one["masked"] for one in by_d.values()],
    }
    try:
        figure = plots.error_against_budget(
            {name: (sizes, values) for name, values in curves.items()}, ylabel="bytes"
        )
    except ImportError:
        # matplotlib is optional; tables and claims stand without it.
        return []
    figure.axes[0].set_xlabel("features")
    caption = f"{BASE.sellers} sellers, {BASE.queries} query, all sellers together."
    title = "Bytes against features"
    return [Figure.from_matplotlib(figure, title, caption, "Rising lines, two of them steeper")]


def _kept(ctx: RunContext, name: str, play: Callable[[], Found]) -> Found:
    found: Found | None = ctx.load_partial(name)
    if found is None:
        found = play()
        ctx.save_partial(name, found)
    return found


def _run_protocol(
    ctx: RunContext, name: str, sizes: Sequence[tuple[int, int, int]], markets: int
) -> Runs:
    protocol = PROTOCOLS[name]
    runs: Runs = {}
    for (n, d, queries), sellers, priced in product(sizes, protocol.sellers, (False, True)):
        setting = Setting(n, d, queries, sellers, priced)
        runs[setting] = [
            _kept(
                ctx,
                f"{protocol.label}_{setting.label}_{index}",
                partial(protocol.play, setting, index, ctx.seed),
            )
            for index in range(markets)
        ]
    return runs


def run(ctx: RunContext) -> Result:
    """Compare both protocols with central runs, then let sellers, features and queries grow."""
    sizes = QUICK_SIZES if ctx.quick else SIZES
    markets = QUICK_MARKETS if ctx.quick else MARKETS
    growing = QUICK_GROWING if ctx.quick else GROWING
    protocols = QUICK_PROTOCOLS if ctx.quick else tuple(PROTOCOLS)
    task = ctx.progress(len(protocols) + len(growing) + 1, "parts")
    found = {}
    for name in protocols:
        found[name] = _run_protocol(ctx, name, sizes, markets)
        task.advance(1)
    growth: dict[str, dict[int, Found]] = {}
    for name, values in growing.items():
        growth[name] = {}
        for value in values:
            setting = _grown(name, value)
            play = partial(play_growth, setting, ctx.seed)
            growth[name][value] = _kept(ctx, f"growth_{setting.label}", play)
        task.advance(1)
    batches = {
        steps: _kept(ctx, f"batches_{steps}", partial(play_batches, steps, ctx.seed))
        for steps in BATCHES
    }
    task.advance(1)
    by_d = growth["d"]
    return ctx.result(
        claims=claims(
            found[REVEALING],
            found[MASKED],
            {d: one["down"] + one["up"] for d, one in by_d.items()},
        ),
        tables=[_equality_table(found), _growth_table(growth), _batch_table(batches)],
        figures=_figures(by_d),
    )
