"""Purchases at prices, and what designs cannot see: prices, label noise, sellers whose labels lie.

Three markets with Gaussian rows. In the first, records cost 1 to 5 and the dearer ones have less
label noise; everyone spends the same. In the second, a share of the sellers delivers labels that
are noise, or shifted: a design, which sees no labels, buys them as readily as others. The third is
made as the published code makes its priced market, where labels are multiplied by the quality and
features are not, so that dear records are wrong rather than good.

The buyers' model is a ridge regression; in the first market it weights labels by their known noise.
Coefficients have a mean square of 2, so that a ridge of half the noise variance is the one of
Bayes. Intervals are of the bootstrap over markets and over buyers within markets.

Shapes: n sellers' rows, m buyers, b budgets.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.daved.acquisition import automatic_iterations
from modicum.daved.evaluation import Ratio, buyer_errors, error_ratio, random_orders
from modicum.daved.experiments._purchases import (
    RANDOM,
    Outcome,
    Played,
    frank_wolfe_orders,
    random_errors,
    subject,
    together,
)
from modicum.daved.experiments._shared import (
    bought_orders,
    peer_orders,
    purchase_order,
    verdict,
)
from modicum.daved.markets import (
    CORRUPTIONS,
    PRICES,
    QUALITIES,
    Market,
    corrupt_labels,
    gaussian_market,
    mislabelled_market,
    priced_market,
)
from modicum.daved.peers.base import Peer
from modicum.daved.peers.cosine import AbsoluteCosine
from modicum.daved.peers.data_oob import DataOOB
from modicum.daved.peers.knn_shapley import KNNShapleyRegression
from modicum.daved.peers.lava import LAVA
from modicum.daved.peers.leverage import Leverage
from modicum.daved.peers.nearest import Nearest
from modicum.daved.pool import ArrayPool, Pool, ScaledPool
from modicum.daved.solvers.base import Problem
from modicum.daved.solvers.greedy import Greedy
from modicum.daved.solvers.one_step import OneStep

ROWS, FEATURES = 1000, 30
BUDGETS = (5, 10, 20, 30)
DRAWS = 5
"""Random purchases of every buyer, of whose errors the mean counts."""
RIDGE = 0.5
"""Where labels are weighted by their noise: one over the coefficients' mean square."""
SUSPICIOUS_RIDGE = 0.05
"""Where the noise is not known: as if its variance were .1."""

NOISY_BUDGETS = (5, 10, 20, 30, 60)
NOISY_STEPS = 60
SHARES = (0.0, 0.1, 0.3, 0.5)
JUDGED_SHARE = 0.3
MODELS, QUICK_MODELS = 200, 30
SCREENED = 0.5
"""Share of the records that a buyer keeps who has Data-OOB look at the labels first."""
OF_ONE_PRICE = 60
"""Records in the comparison of the dearest with the cheapest: twice the features."""

PUBLISHED = "multi-step lowest under every h"
"""What the paper says of its priced runs."""
BLIND_MOST, CHEAPEST_MOST = 0.7, 0.5
SIMILAR = 1.25
SCREENING_MOST = 0.5

CHEAPEST, SINGLE = "cheapest", "single step per price"
BLIND, PAPER = "Frank-Wolfe, blind to prices", "Frank-Wolfe, published rule"
EXACT, TOLD = "Frank-Wolfe, exact rule", "Frank-Wolfe, exact rule, told the noise"
GREEDY, GREEDY_TOLD = "greedy per price", "greedy per price, told the noise"
GREEDY_BAYES = "greedy per price, told the noise and the prior"
OOB = "Data-OOB"
KNN, LAVA_NAME = "KNN-Shapley, regression", "LAVA"
BASELINES = (RANDOM, SINGLE, OOB, KNN, LAVA_NAME)
"""Methods of the paper's own comparison that are run here."""
UNPRICED = f" Values of {', '.join(BASELINES[2:])} leave prices aside."
SIMPLE_RULES = (CHEAPEST, "nearest", "absolute cosine", "leverage")
"""Rules that need no method."""
FRANK_WOLFE, GREEDY_DESIGN = f"Frank-Wolfe, {NOISY_STEPS} steps", "greedy design"
SCREENED_FIRST = "Frank-Wolfe in the half that Data-OOB prefers"


@dataclass(frozen=True)
class Size:
    """Buyers of a market; markets of each kind; models of Data-OOB."""

    buyers: int
    priced: int
    noisy: int
    published: int
    models: int


FULL = Size(buyers=60, priced=12, noisy=6, published=6, models=MODELS)
QUICK = Size(buyers=10, priced=2, noisy=1, published=1, models=QUICK_MODELS)

Orders = Sequence[np.ndarray] | np.ndarray
ByBudget = list[Orders]
"""Orders of all buyers for every budget."""


# Purchases --------------------------------------------------------------------------------------


def _every(orders: Orders) -> ByBudget:
    return [orders] * len(BUDGETS)


def _errors(market: Market, orders: ByBudget, ridge: float) -> np.ndarray:
    columns = [
        buyer_errors(market, of_budget, [budget], ridge=ridge)
        for of_budget, budget in zip(orders, BUDGETS, strict=True)
    ]
    return np.concatenate(columns, axis=1)


def cheapest_orders(market: Market, rng: np.random.Generator) -> np.ndarray:
    """Order rows by price, those of one price anew at random for every buyer, (m, n)."""
    mixed_mn = random_orders(market, rng)
    by_price = np.argsort(market.prices_n[mixed_mn], axis=1, kind="stable")
    return np.take_along_axis(mixed_mn, by_price, axis=1)


def by_frank_wolfe(market: Market, rule: str, noise_var_n: np.ndarray | None = None) -> ByBudget:
    """Buy for every budget by Frank-Wolfe, with as many steps as `select` takes by default."""
    pool: Pool = ArrayPool(market.rows_nd)
    if noise_var_n is not None:
        pool = ScaledPool(pool, 1 / np.sqrt(noise_var_n))
    if rule == "exact":
        pool = ScaledPool(pool, 1 / np.sqrt(market.prices_n))
    # Blind means that prices count only when it is paid; the number of steps is no secret.
    found: dict[int, Orders] = {}
    steps = [automatic_iterations(budget, market.prices_n) for budget in BUDGETS]
    for count in steps:
        if count not in found:
            found[count] = frank_wolfe_orders(pool, market, count, rule=rule)
    return [found[count] for count in steps]


def by_greedy(
    market: Market, noise_var_n: np.ndarray | None = None, prior: float | None = None
) -> ByBudget:
    """Buy for every budget the largest gain per price, again and again."""
    pool: Pool = ArrayPool(market.rows_nd)
    if noise_var_n is not None:
        pool = ScaledPool(pool, 1 / np.sqrt(noise_var_n))
    listed: ByBudget = []
    for budget in BUDGETS:
        orders = []
        for query_d in market.queries_md:
            prices_n = market.prices_n
            problem = Problem(pool, query_d[None], prices_n, float(budget), prices_n)
            order = Greedy(prior).solve(problem).order
            assert order is not None
            orders.append(order)
        listed.append(orders)
    return listed


def _single(market: Market) -> list[np.ndarray]:
    pool, costs_n = ArrayPool(market.rows_nd), market.prices_n
    return [
        purchase_order(OneStep().solve(Problem(pool, query_d[None], costs_n)), costs_n)
        for query_d in market.queries_md
    ]


def without_labels(market: Market, rng: np.random.Generator) -> dict[str, ByBudget]:
    """Give the orders of all that look at features, queries and prices only."""
    found = {
        CHEAPEST: _every(cheapest_orders(market, rng)),
        SINGLE: _every(_single(market)),
        BLIND: by_frank_wolfe(market, "none"),
        PAPER: by_frank_wolfe(market, "paper"),
        EXACT: by_frank_wolfe(market, "exact"),
        GREEDY: by_greedy(market),
    }
    peers: dict[str, Peer] = {
        "nearest": Nearest(),
        "absolute cosine": AbsoluteCosine(),
        "leverage": Leverage(),
    }
    for name, peer in peers.items():
        found[name] = _every(peer_orders(market, peer, rng))
    return found


def with_labels(market: Market, models: int, rng: np.random.Generator) -> dict[str, ByBudget]:
    """Give the orders of peers that look at labels; they do not look at prices."""
    peers: dict[str, Peer] = {
        OOB: DataOOB(learner="least_squares", models=models),
        KNN: KNNShapleyRegression(),
        LAVA_NAME: LAVA(),
    }
    return {name: _every(peer_orders(market, peer, rng)) for name, peer in peers.items()}


# Markets ----------------------------------------------------------------------------------------

Errors = dict[str, np.ndarray]


def play_priced(size: Size, index: int, seed: int) -> dict[str, Errors]:
    """Let every method buy on one market with prices, under every quality.

    Rows, prices and buyers are the same under all qualities; only the labels' noise differs.
    """
    plain = gaussian_market(
        ROWS, FEATURES, size.buyers, rng=numpy_generator(seed, "prices", "priced", index)
    )
    orders: dict[str, ByBudget] = {}
    found = {}
    for quality in QUALITIES:
        market = priced_market(
            plain, quality, rng=numpy_generator(seed, "prices", "noise of labels", index)
        )
        rng = numpy_generator(seed, "prices", "priced", index, quality)
        orders = orders or without_labels(market, rng)
        noise_n = market.noise_var_n
        here = orders | {
            TOLD: by_frank_wolfe(market, "exact", noise_n),
            GREEDY_TOLD: by_greedy(market, noise_n),
            GREEDY_BAYES: by_greedy(market, noise_n, prior=RIDGE),
            **with_labels(market, size.models, rng),
        }
        errors = {RANDOM: random_errors(market, BUDGETS, RIDGE, DRAWS, rng)}
        found[quality] = (
            errors
            | {name: _errors(market, mine, RIDGE) for name, mine in here.items()}
            | of_one_price(market, RIDGE, rng)
        )
    return found


def play_published(size: Size, index: int, seed: int) -> dict[str, Errors]:
    """Let every method buy on one market as the published code makes it, under every quality."""
    plain = gaussian_market(
        ROWS, FEATURES, size.buyers, rng=numpy_generator(seed, "prices", "published", index)
    )
    orders: dict[str, ByBudget] = {}
    found = {}
    for quality in QUALITIES:
        market = mislabelled_market(
            plain, quality, rng=numpy_generator(seed, "prices", "price", index)
        )
        rng = numpy_generator(seed, "prices", "published", index, quality)
        orders = orders or without_labels(market, rng)
        here = orders | with_labels(market, size.models, rng)
        errors = {RANDOM: random_errors(market, BUDGETS, SUSPICIOUS_RIDGE, DRAWS, rng)}
        found[quality] = (
            errors
            | {name: _errors(market, mine, SUSPICIOUS_RIDGE) for name, mine in here.items()}
            | of_one_price(market, SUSPICIOUS_RIDGE, rng)
        )
    return found


def one_price(price: float) -> str:
    """Name a purchase of records of one price."""
    return f"{OF_ONE_PRICE} records of price {price:g}"


def of_one_price(market: Market, ridge: float, rng: np.random.Generator) -> Errors:
    """Give the errors after as many random records of the lowest and of the highest price.

    They are the same in every column: no budget limits this purchase.
    """
    same = replace(market, prices_n=np.ones(len(market.prices_n)))
    mixed_mn, found = random_orders(market, rng), {}
    for price in (min(PRICES), max(PRICES)):
        orders = [order[market.prices_n[order] == price] for order in mixed_mn]
        errors_m1 = buyer_errors(same, orders, [OF_ONE_PRICE], ridge=ridge)
        found[one_price(price)] = np.repeat(errors_m1, len(BUDGETS), axis=1)
    return found


def play_noisy(size: Size, index: int, seed: int) -> dict[str, Errors]:
    """Let methods buy on one market in which some sellers' labels are worthless.

    Returns
    -------
    dict
        By condition, see `condition`, errors by method; shares of worthless records among the
        purchases are under the condition followed by `BOUGHT`.
    """
    plain = gaussian_market(
        ROWS, FEATURES, size.buyers, rng=numpy_generator(seed, "prices", "noisy", index)
    )
    pool = ArrayPool(plain.rows_nd)
    designs: dict[str, Orders] = {
        FRANK_WOLFE: frank_wolfe_orders(pool, plain, NOISY_STEPS),
        GREEDY_DESIGN: bought_orders(plain, Greedy(), float(max(NOISY_BUDGETS))),
    }
    found = {}
    for kind, share in conditions():
        market, bad = corrupt_labels(
            plain, share, kind, numpy_generator(seed, "prices", "liars", index, str(share))
        )
        rng = numpy_generator(seed, "prices", "noisy", index, kind, str(share))
        by_labels = peer_orders(market, DataOOB("least_squares", models=size.models), rng)
        here = {
            RANDOM: random_orders(market, rng),
            **designs,
            OOB: by_labels,
            SCREENED_FIRST: _screened(plain, by_labels[0]),
        }
        name = condition(kind, share)
        found[name] = {
            method: buyer_errors(market, orders, NOISY_BUDGETS, ridge=SUSPICIOUS_RIDGE)
            for method, orders in here.items()
        }
        found[name][RANDOM] = random_errors(market, NOISY_BUDGETS, SUSPICIOUS_RIDGE, DRAWS, rng)
        found[name + BOUGHT] = {method: bought(orders, bad) for method, orders in here.items()}
    return found


def _screened(market: Market, preferred: np.ndarray) -> list[np.ndarray]:
    """Give orders by Frank-Wolfe among the first rows of an order that is one for all buyers."""
    kept = preferred[: round(SCREENED * len(preferred))]
    pool = ArrayPool(market.rows_nd[kept])
    part = replace(market, prices_n=market.prices_n[kept])
    return [kept[order] for order in frank_wolfe_orders(pool, part, NOISY_STEPS)]


def conditions() -> list[tuple[str, float]]:
    """List kinds and shares of worthless labels; without any there is one kind only."""
    return [
        (kind, share)
        for kind in CORRUPTIONS
        for share in SHARES
        if share > 0 or kind == CORRUPTIONS[0]
    ]


def condition(kind: str, share: float) -> str:
    """Name a condition."""
    return f"{kind}, {share:.0%}" if share else "honest"


BOUGHT = ", bought"


def bought(orders: Orders, marked: np.ndarray) -> np.ndarray:
    """Give the share of marked records in every buyer's purchases, (m, b)."""
    inside_mn = np.array([np.isin(order[: max(NOISY_BUDGETS)], marked) for order in orders])
    return np.stack([inside_mn[:, :budget].mean(axis=1) for budget in NOISY_BUDGETS], axis=1)


@dataclass(frozen=True)
class Found:
    """Outcomes on the priced market by quality, on the published one, and by condition."""

    priced: dict[str, Outcome]
    published: dict[str, Outcome]
    noisy: dict[str, Outcome]


def measure(ctx: RunContext, size: Size) -> Found:
    """Play all markets; those of an interrupted run are not repeated."""
    parts: list[tuple[str, int, tuple[int, ...], Callable[..., dict[str, Errors]]]] = [
        ("priced", size.priced, BUDGETS, play_priced),
        ("published", size.published, BUDGETS, play_published),
        ("noisy", size.noisy, NOISY_BUDGETS, play_noisy),
    ]
    task = ctx.progress(sum(count for _, count, _, _ in parts), "markets")
    found = {}
    for name, count, budgets, play in parts:
        played = []
        for index in range(count):
            kept = ctx.load_partial(f"{name}-{index}")
            if kept is None:
                kept = play(size, index, ctx.seed)
                ctx.save_partial(f"{name}-{index}", kept)
            played.append(kept)
            task.advance(1)
        found[name] = {
            key: together(budgets, [_played(one[key]) for one in played]) for key in played[0]
        }
    return Found(**found)


def _played(errors: Mapping[str, Any]) -> Played:
    return Played({name: np.array(errors_mb) for name, errors_mb in errors.items()}, {})


# Claims -----------------------------------------------------------------------------------------


def claims(found: Found, *, quick: bool) -> list[Claim]:
    """Judge prices, what is told of noise, sellers that lie, and the published market."""
    return [
        *_of_prices(found, quick),
        *_of_noise(found, quick),
        *_of_published(found, quick),
    ]


def extreme(ratios: Mapping[str, Ratio], *, smallest: bool = False) -> tuple[str, Ratio]:
    """Give the case with the largest ratio, or the smallest."""
    pick = min if smallest else max
    return pick(ratios.items(), key=lambda item: item[1].value)


def _claim(
    name: str,
    statement: str,
    ratio: Ratio,
    holds: bool | None,
    note: str,
    paper: str | None = None,
    unit: str = "ratio of errors",
) -> Claim:
    return Claim(name, statement, paper, ratio.value, (ratio.low, ratio.high), holds, unit, note)


def _of_prices(found: Found, quick: bool) -> list[Claim]:
    priced = found.priced
    note = "The worst quality, h = {}. " + subject(next(iter(priced.values())), "market")
    blind_at, blind = extreme({h: o.ratio(EXACT, BLIND, BUDGETS[0]) for h, o in priced.items()})
    cheap_at, cheap = extreme({h: o.ratio(EXACT, CHEAPEST, BUDGETS[1]) for h, o in priced.items()})
    rules = {h: o.ratio(EXACT, PAPER) for h, o in priced.items()}
    rule_at, rule = max(rules.items(), key=lambda item: abs(np.log(item[1].value)))
    greedy_at, greedy = extreme({h: o.ratio(EXACT, GREEDY) for h, o in priced.items()})
    told = {h: o.ratio(TOLD, EXACT) for h, o in priced.items()}
    told_at, least = extreme(told, smallest=True)
    others = ", ".join(
        f"{h} {ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})" for h, ratio in told.items()
    )
    first = next(iter(priced))
    published = priced[first].ratio(PAPER, BLIND, BUDGETS[0])
    return [
        _claim(
            "prices_beat_blind",
            f"At a budget of {BUDGETS[0]}, knowing prices lowers Frank-Wolfe's error by"
            f" {1 - BLIND_MOST:.0%} or more.",
            blind,
            verdict(blind, BLIND_MOST, quick=quick),
            f"{EXACT}, over {BLIND}; holds if at most {BLIND_MOST:g}. The published rule, h ="
            f" {first}: {published.value:.2f} ({published.low:.2f} to {published.high:.2f})."
            f" {note.format(blind_at)}",
        ),
        _claim(
            "prices_beat_cheapest",
            f"At a budget of {BUDGETS[1]}, priced Frank-Wolfe has half the error of buying the"
            " cheapest, or less.",
            cheap,
            verdict(cheap, CHEAPEST_MOST, quick=quick),
            f"{EXACT}, over {CHEAPEST}; holds if at most {CHEAPEST_MOST:g}."
            f" {note.format(cheap_at)}",
        ),
        *_lowest("", "Dearer records are less noisy", priced, quick),
        _claim(
            "rules_alike",
            "The published rule of prices and the exact one buy about equally well.",
            rule,
            _alike(rule, quick),
            f"{EXACT}, over {PAPER}, mean of the budgets; holds if between {1 / SIMILAR:g} and"
            f" {SIMILAR:g}. {note.format(rule_at)}",
        ),
        _claim(
            "not_beaten_by_greedy",
            "Under no quality has priced Frank-Wolfe a higher error than greedy per price.",
            greedy,
            verdict(greedy, 1.0, quick=quick),
            f"{EXACT}, over {GREEDY}, mean of the budgets; holds if at most 1. Greedy is better at"
            f" budgets of {_where(priced[greedy_at], EXACT, GREEDY)}. {note.format(greedy_at)}",
        ),
        _claim(
            "noise_misleads_weights",
            "Telling Frank-Wolfe the labels' noise makes purchases by weight worse.",
            least,
            verdict(least, 1.0, at_least=True, quick=quick),
            f"{TOLD}, over {EXACT}, mean of the budgets: {others}; holds if all are at least 1."
            f" The least, h = {told_at}. {subject(priced[told_at], 'market')}",
        ),
    ]


def _where(outcome: Outcome, mine: str, theirs: str) -> str:
    """List the budgets at which a method has a higher error than another."""
    listed = [str(b) for b in outcome.budgets if outcome.ratio(mine, theirs, b).value > 1]
    return ", ".join(listed) or "none"


def _alike(ratio: Ratio, quick: bool) -> bool | None:
    holds = 1 / SIMILAR <= ratio.value <= SIMILAR
    inside = 1 / SIMILAR <= ratio.low and ratio.high <= SIMILAR
    outside = ratio.high < 1 / SIMILAR or ratio.low > SIMILAR
    return None if quick and not inside and not outside else holds


def _lowest(ending: str, market: str, outcomes: Mapping[str, Outcome], quick: bool) -> list[Claim]:
    """Hold the published rule to the baselines of its paper, and to rules that need no method."""
    listed = []
    for name, statement, rivals, paper, note in (
        ("multi_step_lowest", "the methods of its paper", BASELINES, PUBLISHED, UNPRICED),
        ("multi_step_beats_simple_rules", "simple rules", SIMPLE_RULES, None, ""),
    ):
        best = {h: _best(outcome, rivals) for h, outcome in outcomes.items()}
        each = {h: o.ratio(PAPER, best[h]) for h, o in outcomes.items()}
        worst_at, worst = extreme(each)
        others = "; ".join(f"{h} {ratio.value:.2f} ({best[h]})" for h, ratio in each.items())
        claim = _claim(
            name + ending,
            f"{market}: multi-step Frank-Wolfe has a lower error than {statement} under every"
            " quality.",
            worst,
            verdict(worst, 1.0, quick=quick),
            f"{PAPER}, mean of the budgets, over the best of {'; '.join(rivals)}: {others}; holds"
            f" if at most 1.{note} {subject(outcomes[worst_at], 'market')}",
            paper,
        )
        listed.append(claim)
    return listed


def _best(outcome: Outcome, names: Sequence[str]) -> str:
    return min(names, key=lambda name: outcome.errors[name].mean())


def _of_noise(found: Found, quick: bool) -> list[Claim]:
    judged = {kind: found.noisy[condition(kind, JUDGED_SHARE)] for kind in CORRUPTIONS}
    shares = found.noisy[condition(CORRUPTIONS[0], JUDGED_SHARE) + BOUGHT]
    offered = np.full_like(shares.errors[FRANK_WOLFE], JUDGED_SHARE)
    taken = error_ratio(
        shares.errors[FRANK_WOLFE],
        offered,
        folds_m=shares.markets,
        rng=np.random.default_rng(0),
    )
    note = subject(shares, "market")
    below_at, below = extreme({k: o.ratio(FRANK_WOLFE, RANDOM) for k, o in judged.items()})
    harm_at, harm = extreme({k: _harm(found, k) for k in CORRUPTIONS})
    screen_at, screen = extreme(
        {k: o.ratio(SCREENED_FIRST, FRANK_WOLFE) for k, o in judged.items()}
    )
    factors = "; ".join(f"{k}: {_factors(found, k)}" for k in CORRUPTIONS)
    percent = f"{JUDGED_SHARE:.0%}"
    return [
        _claim(
            "worthless_labels_are_bought",
            "Frank-Wolfe, which sees no labels, buys worthless records as often as others.",
            taken,
            _alike(taken, quick),
            f"Share of its purchases over the {percent} that are offered, mean of the budgets;"
            f" holds if between {1 / SIMILAR:g} and {SIMILAR:g}. Of {OOB}'s purchases"
            f" {_mean_share(found, CORRUPTIONS[0]):.0%} are worthless if labels are noise, and"
            f" {_mean_share(found, CORRUPTIONS[1]):.0%} if they are shifted. {note}",
            unit="ratio of shares",
        ),
        _claim(
            "worthless_labels_leave_a_lead",
            f"With {percent} worthless labels Frank-Wolfe is still better than random purchases.",
            below,
            verdict(below, 1.0, quick=quick),
            f"{FRANK_WOLFE}, over {RANDOM}, mean of the budgets, the worse kind, {below_at}; holds"
            f" if at most 1. {note}",
        ),
        _claim(
            "worthless_labels_cost_no_more",
            f"{percent} worthless labels add no more error to Frank-Wolfe than to random choice.",
            harm,
            verdict(harm, 1.0, quick=quick),
            f"Error added, over error added, mean of the budgets, the worse kind, {harm_at}; holds"
            f" if at most 1. As factors of the errors with honest sellers: {factors}. {note}",
        ),
        *(_overtaken(judged[kind], kind, quick) for kind in CORRUPTIONS),
        _claim(
            "labels_would_tell",
            "A look at the labels before the purchase halves Frank-Wolfe's error, and a design has"
            " none.",
            screen,
            verdict(screen, SCREENING_MOST, quick=quick),
            f"{SCREENED_FIRST}, over {FRANK_WOLFE}, {percent} worthless, mean of the budgets, the"
            f" worse kind, {screen_at}; holds if at most {SCREENING_MOST:g}. No market shows labels"
            f" before they are paid for. {note}",
        ),
    ]


def _harm(found: Found, kind: str) -> Ratio:
    """Compare what worthless labels add to Frank-Wolfe's error and to that of random purchases."""
    honest = found.noisy[condition(kind, 0)]
    other = found.noisy[condition(kind, JUDGED_SHARE)]
    added = {name: other.errors[name] - honest.errors[name] for name in (FRANK_WOLFE, RANDOM)}
    return error_ratio(
        added[FRANK_WOLFE], added[RANDOM], folds_m=other.markets, rng=np.random.default_rng(0)
    )


def _factors(found: Found, kind: str) -> str:
    honest = found.noisy[condition(kind, 0)]
    other = found.noisy[condition(kind, JUDGED_SHARE)]
    listed = [
        f"{name} {other.errors[name].mean() / honest.errors[name].mean():.1f}"
        for name in (FRANK_WOLFE, RANDOM)
    ]
    return ", ".join(listed)


def _mean_share(found: Found, kind: str) -> float:
    return float(found.noisy[condition(kind, JUDGED_SHARE) + BOUGHT].errors[OOB].mean())


def _overtaken(outcome: Outcome, kind: str, quick: bool) -> Claim:
    last = NOISY_BUDGETS[-1]
    ratio = outcome.ratio(FRANK_WOLFE, OOB, last)
    small = outcome.ratio(FRANK_WOLFE, OOB, NOISY_BUDGETS[1])
    return _claim(
        f"labels_overtake_{kind}",
        f"{OOB}, which sees labels, overtakes Frank-Wolfe at {last} rows"
        f" ({condition(kind, JUDGED_SHARE)}).",
        ratio,
        verdict(ratio, 1.0, at_least=True, quick=quick),
        f"{FRANK_WOLFE}, over {OOB}, at {last} rows; holds if at least 1. At {NOISY_BUDGETS[1]}"
        f" rows {small.value:.2f}. {subject(outcome, 'market')}",
    )


def _of_published(found: Found, quick: bool) -> list[Claim]:
    low, high = one_price(min(PRICES)), one_price(max(PRICES))
    wrong_at, wrong = extreme(
        {h: o.ratio(high, low) for h, o in found.published.items()}, smallest=True
    )
    right_at, right = extreme({h: o.ratio(high, low) for h, o in found.priced.items()})
    what = f"{high}, over {low}, drawn at random, whatever they cost"
    return [
        _claim(
            "dear_records_are_better",
            "Where quality is less label noise, dear records train better models than cheap ones.",
            right,
            verdict(right, 1.0, quick=quick),
            f"{what}; holds if at most 1. The worst quality, h = {right_at}."
            f" {subject(found.priced[right_at], 'market')}",
        ),
        _claim(
            "published_market_mislabels",
            "In the market of the published code dear records train worse models than cheap ones.",
            wrong,
            verdict(wrong, 1.0, at_least=True, quick=quick),
            f"{what}; holds if at least 1. Labels are multiplied by the quality, features are not."
            f" The least quality, h = {wrong_at}."
            f" {subject(found.published[wrong_at], 'market')}",
        ),
        *_lowest("_published", "The published code's market", found.published, quick),
    ]


# Tables and figures -----------------------------------------------------------------------------


def _rows(outcome: Outcome) -> list[list[Any]]:
    left_out = {one_price(price) for price in PRICES}
    rows: list[list[Any]] = []
    for name in outcome.errors:
        if name in left_out:
            continue
        row: list[Any] = [name]
        for budget in outcome.budgets:
            ratio = outcome.to_random[name, budget]
            row += [outcome.mean(name, budget), ratio.value, ratio.low, ratio.high]
        rows.append(row)
    return rows


def _columns(budgets: Sequence[int]) -> list[str]:
    parts = ("error at", "ratio at", "low", "high")
    return ["method", *(f"{part} {budget}" for budget in budgets for part in parts)]


def _noisy_rows(found: Found) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for kind, share in conditions():
        name = condition(kind, share)
        outcome, shares = found.noisy[name], found.noisy[name + BOUGHT]
        for method in outcome.errors:
            errors = [outcome.mean(method, budget) for budget in NOISY_BUDGETS]
            ratio = outcome.ratio(method, RANDOM)
            taken = float(shares.errors[method].mean())
            rows.append([name, method, *errors, ratio.value, ratio.low, ratio.high, taken])
    return rows


def tables(found: Found) -> list[Table]:
    """Give a table for every quality of both markets, and one of worthless labels."""
    priced = [
        Table(
            f"Error at equal spending, noise of labels falls with h = {quality}",
            _columns(BUDGETS),
            _rows(outcome),
            f"Prices {PRICES[0]:g} to {PRICES[-1]:g}; ratios are to {RANDOM} purchases. "
            + subject(outcome, "market"),
        )
        for quality, outcome in found.priced.items()
    ]
    noisy = Table(
        "Error where some sellers' labels are worthless",
        [
            "labels",
            "method",
            *(f"error at {budget}" for budget in NOISY_BUDGETS),
            "ratio to random",
            "95 % low",
            "95 % high",
            "worthless among bought",
        ],
        _noisy_rows(found),
        f"Ratios and shares are means of the budgets. {OOB} and what follows it see labels."
        f" {subject(found.noisy['honest'], 'market')}",
    )
    published = [
        Table(
            f"Error in the market of the published code, h = {quality}",
            _columns(BUDGETS),
            _rows(outcome),
            "Labels are multiplied by h, features and the buyers' answers are not, so that records"
            " of price 1 are right. " + subject(outcome, "market"),
        )
        for quality, outcome in found.published.items()
    ]
    return [*priced, noisy, *published]


def figures(found: Found) -> list[Figure]:
    """Draw ratios to random purchases with their intervals."""
    names = (CHEAPEST, BLIND, PAPER, EXACT, TOLD, GREEDY)
    noisy_names = (FRANK_WOLFE, GREEDY_DESIGN, OOB, SCREENED_FIRST)
    drawn: list[tuple[str, Outcome, tuple[str, ...]]] = [
        (f"Purchases at prices, h = {quality}", outcome, names)
        for quality, outcome in found.priced.items()
    ]
    for kind in CORRUPTIONS:
        name = condition(kind, JUDGED_SHARE)
        drawn.append((f"Worthless labels: {name}", found.noisy[name], noisy_names))
    try:
        return [_figure(*item) for item in drawn]
    except ImportError:
        # matplotlib is optional; tables and claims stand without it.
        return []


def _figure(title: str, outcome: Outcome, names: Sequence[str]) -> Figure:
    from modicum.daved import plots

    curves = {}
    for name in names:
        ratios = [outcome.to_random[name, budget] for budget in outcome.budgets]
        values = np.array([[ratio.value, ratio.low, ratio.high] for ratio in ratios])
        curves[name] = (outcome.budgets, *values.T)
    figure = plots.error_against_budget(curves, ylabel="error over that of random purchases")
    # Ratios fall with the budget: this corner is free.
    figure.axes[0].legend(frameon=False, fontsize="small", loc="lower left")
    caption = f"Below 1 is better than random. {subject(outcome, 'market')}"
    return Figure.from_matplotlib(figure, title, caption, "Ratios of errors over the budget")


def run(ctx: RunContext) -> Result:
    """Play the three markets."""
    found = measure(ctx, QUICK if ctx.quick else FULL)
    return ctx.result(
        claims=claims(found, quick=ctx.quick), tables=tables(found), figures=figures(found)
    )
