"""Purchases by the features of a small network, beside raw ones, gradients and random features.

A network of two hidden layers is trained on some labelled rows of a table. Then every buyer, who
has one query, buys from other rows by one map of the features: the rows themselves, what the last
hidden layer gives, projected gradients of the output, or random Fourier features. Judged are a
linear model of the same features that knows the purchase only, and the network after fine-tuning
its last layer, or all of it, on the purchase. Nearest neighbours are in every table, since they
win on some data.

Shapes: n sellers' rows, d features, m buyers, b budgets, k rows bought, G networks.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from modicum.core.device import numpy_generator, one_thread
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.daved.batch import frank_wolfe_many
from modicum.daved.evaluation import Ratio, buyer_errors, error_ratio, random_orders
from modicum.daved.experiments._shared import (
    bought_orders,
    drawn_over,
    folds_of,
    mean_of,
    peer_orders,
    purchase_order,
    verdict,
)
from modicum.daved.features import RandomFourier, Standardize, append_intercept
from modicum.daved.features_torch import ENTKFeatures, HookFeatures
from modicum.daved.markets import Market, bundled_market
from modicum.daved.peers.nearest import Nearest
from modicum.daved.pool import ArrayPool
from modicum.daved.solvers.frank_wolfe import FrankWolfe
from modicum.daved.solvers.greedy import Greedy

TABLES, QUICK_TABLES = ("digits", "friedman1"), ("digits",)
SEEDS, QUICK_SEEDS = 3, 1
BUYERS, QUICK_BUYERS = 60, 40
TRAINING_ROWS = 500
BUDGETS = (10, 20, 40)
TUNED_ON = 50
"""Rows on which networks are fine-tuned."""
STEPS = 2 * TUNED_ON
"""Frank-Wolfe steps: twice the largest purchase."""
RIDGE = 1e-2
"""Of the linear model."""

HIDDEN = (64, 32)
RATE, EPOCHS = 1e-2, 200
TUNING_RATE, TUNING_EPOCHS, QUICK_TUNING_EPOCHS = 1e-3, 100, 40
GRADIENTS, QUICK_GRADIENTS = 512, 64
"""Features that gradients are projected to."""
WAVES, QUICK_WAVES = 256, 64
"""Random Fourier features."""

RAW, LEARNED, ENTK, FOURIER = "raw", "last hidden layer", "gradients", "random Fourier"
MAPS = (RAW, LEARNED, ENTK, FOURIER)
RANDOM, FRANK_WOLFE, GREEDY, NEAREST = "random", "Frank-Wolfe", "greedy design", "nearest"
METHODS = (RANDOM, FRANK_WOLFE, GREEDY, NEAREST)
LAST, WHOLE = "last layer", "whole network"
TUNED: dict[str, Callable[[str], bool]] = {
    LAST: lambda name: name.startswith(f"{2 * len(HIDDEN)}."),
    WHOLE: lambda name: True,
}
"""Which parameters are fine-tuned, by their names."""

BEFORE = "before fine-tuning"
GRADIENT_PURCHASE = f"{FRANK_WOLFE} by {ENTK}"

RANDOM_MOST = 0.55
SELECTION_HELPS = "selection helps linear probes and fine-tuned models"

Rows = np.ndarray
Errors = dict[str, np.ndarray]
Orders = Sequence[np.ndarray]


def as_inputs(rows_nd: Rows) -> torch.Tensor:
    """Give rows of mean norm 1 as inputs whose values have a size of about 1."""
    return torch.tensor(rows_nd * rows_nd.shape[1] ** 0.5, dtype=torch.float32)


def train(rows_nd: Rows, labels_n: np.ndarray, seed: int) -> nn.Sequential:
    """Train a network on labelled rows, from weights that depend on the seed only."""
    sizes = (rows_nd.shape[1], *HIDDEN)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for inner, outer in pairwise(sizes):
            layers += [nn.Linear(inner, outer), nn.ReLU()]
        network = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    inputs, labels = as_inputs(rows_nd), torch.tensor(labels_n, dtype=torch.float32)
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        (network(inputs)[:, 0] - labels).square().mean().backward()
        optimizer.step()
    return network


def prepared(market: Market, rows_nD: Rows, queries_mD: Rows) -> Market:
    """Give the market with other features: standardised, with a constant column, mean norm 1."""
    scale = Standardize().fit(rows_nD)
    rows, queries = (
        append_intercept(scale.transform(np.asarray(part, dtype=np.float64)))
        for part in (rows_nD, queries_mD)
    )
    norm = np.linalg.norm(rows, axis=1).mean()
    return replace(market, rows_nd=rows / norm, queries_md=queries / norm)


def mapped(market: Market, network: nn.Sequential, seed: int, *, quick: bool) -> dict[str, Market]:
    """Give the market in the features of every map."""
    last = str(2 * len(HIDDEN))
    waves = RandomFourier(QUICK_WAVES if quick else WAVES, seed=seed).fit(market.rows_nd)
    gradients = ENTKFeatures(network, QUICK_GRADIENTS if quick else GRADIENTS, seed=seed)
    maps: dict[str, Callable[[Rows], Rows]] = {
        LEARNED: lambda rows: HookFeatures(network, last, take="input").transform(as_inputs(rows)),
        ENTK: lambda rows: gradients.transform(as_inputs(rows)),
        FOURIER: waves.transform,
    }
    # The rows of a bundled market are prepared already.
    return {RAW: market} | {
        name: prepared(market, features(market.rows_nd), features(market.queries_md))
        for name, features in maps.items()
    }


def orders_of(market: Market, rng: np.random.Generator) -> dict[str, Orders]:
    """Give the first `TUNED_ON` rows that every buyer buys, by method."""
    solver = FrankWolfe(max_iter=STEPS, tol=0.0)
    queries = [query_d[None] for query_d in market.queries_md]
    designs = frank_wolfe_many(ArrayPool(market.rows_nd), queries, solver)
    found: dict[str, Orders] = {
        RANDOM: list(random_orders(market, rng)),
        FRANK_WOLFE: [purchase_order(design) for design in designs],
        GREEDY: bought_orders(market, Greedy(), float(TUNED_ON)),
        NEAREST: peer_orders(market, Nearest(), rng),
    }
    return {name: [order[:TUNED_ON] for order in orders] for name, orders in found.items()}


def fine_tuned(
    network: nn.Sequential,
    rows_Gkd: torch.Tensor,
    labels_Gk: torch.Tensor,
    asked_Gd: torch.Tensor,
    trained: Callable[[str], bool],
    epochs: int,
) -> torch.Tensor:
    """Fine-tune a copy of a network on each of many purchases and ask each copy, (G,).

    Parameters
    ----------
    network
        What all copies start from; it is left as it is.
    rows_Gkd, labels_Gk
        The purchases.
    asked_Gd
        What each copy is asked.
    trained
        Tells by a parameter's name whether it is trained.
    epochs
        Steps of Adam on the whole purchase.
    """
    start = {name: values.detach() for name, values in network.named_parameters()}
    fixed = {name: values for name, values in start.items() if not trained(name)}
    free = {
        name: values.expand(len(rows_Gkd), *values.shape).clone().requires_grad_()
        for name, values in start.items()
        if trained(name)
    }

    def answers(own: dict[str, torch.Tensor], rows_kd: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.func.functional_call(network, own | fixed, (rows_kd,))
        return found[:, 0]

    of_all = torch.func.vmap(answers)
    optimizer = torch.optim.Adam(free.values(), TUNING_RATE)
    for _ in range(epochs):
        optimizer.zero_grad()
        # Adam looks at every value by itself, so that copies in one sum are trained as if alone.
        (of_all(free, rows_Gkd) - labels_Gk).square().mean(dim=1).sum().backward()
        optimizer.step()
    with torch.no_grad():
        return of_all(free, asked_Gd[:, None])[:, 0]


def tuning_errors(
    market: Market, network: nn.Sequential, orders: dict[str, Orders], epochs: int
) -> Errors:
    """Give the errors of networks fine-tuned on the purchases, (m, 1), and before it."""
    asked = as_inputs(market.queries_md)
    with torch.no_grad():
        before_m = network(asked)[:, 0].numpy()
    found = {BEFORE: np.square(before_m - market.answers_m)[:, None]}
    for kind, trained in TUNED.items():
        for name, mine in orders.items():
            bought = np.array(mine)
            rows = as_inputs(market.rows_nd[bought].reshape(-1, market.rows_nd.shape[1]))
            labels = torch.tensor(market.labels_n[bought], dtype=torch.float32)
            purchases = rows.reshape(*bought.shape, -1)
            made = fine_tuned(network, purchases, labels, asked, trained, epochs)
            found[f"{kind}, {name}"] = np.square(made.numpy() - market.answers_m)[:, None]
    return found


def play(table: str, index: int, seed: int, *, quick: bool) -> dict[str, Errors]:
    """Let all buyers of a table buy by every map and method, probe, and fine-tune.

    Returns
    -------
    dict
        Under ``"probe"`` errors at `BUDGETS` and at `TUNED_ON` by map and method, (m, b), and under
        ``"tuned"`` errors by what is fine-tuned and how the purchase was made, (m, 1).
    """
    rng = numpy_generator(seed, "learned features", table, index)
    buyers = QUICK_BUYERS if quick else BUYERS
    market = bundled_market(table, buyers, validation=TRAINING_ROWS, rng=rng)
    weights_seed = int(rng.integers(2**31))
    with one_thread():
        network = train(market.validation_vd, market.validation_labels_v, weights_seed)
        maps = mapped(market, network, weights_seed, quick=quick)
        orders = {name: orders_of(one, rng) for name, one in maps.items()}
        bought = {**orders[LEARNED], GRADIENT_PURCHASE: orders[ENTK][FRANK_WOLFE]}
        epochs = QUICK_TUNING_EPOCHS if quick else TUNING_EPOCHS
        tuned = tuning_errors(market, network, bought, epochs)
    budgets = (*BUDGETS, TUNED_ON)
    probe = {
        probed(name, method): buyer_errors(maps[name], mine, budgets, ridge=RIDGE)
        for name, by_method in orders.items()
        for method, mine in by_method.items()
    }
    return {"probe": probe, "tuned": tuned}


def probed(features: str, method: str) -> str:
    """Give what a map and a method are called together."""
    return f"{features}, {method}"


# Results -----------------------------------------------------------------------------------------


def _folds(networks: int, errors: Errors) -> np.ndarray:
    """Give the number of every buyer's network, (m,)."""
    return folds_of(networks, len(next(iter(errors.values()))) // networks)


def _ratio(mine_mb: np.ndarray, theirs_mb: np.ndarray, folds_m: np.ndarray) -> Ratio:
    return error_ratio(mine_mb, theirs_mb, folds_m=folds_m, rng=np.random.default_rng(0))


def _small(errors: Errors, features: str, method: str) -> np.ndarray:
    """Give the errors at the budgets of the linear model."""
    return errors[probed(features, method)][:, : len(BUDGETS)]


def _gain(random_m1: np.ndarray, mine_m1: np.ndarray, folds_m: np.ndarray) -> Ratio:
    return mean_of((random_m1 - mine_m1)[:, 0], folds_m)


def _sign(gain: Ratio) -> int:
    """Give 1 or -1, and 0 where the interval has 0."""
    return 0 if gain.low <= 0 <= gain.high else int(np.sign(gain.value))


def claims(
    table: str, probe: Errors, tuned: Errors, networks: int = 1, *, quick: bool
) -> list[Claim]:
    """Judge learned against raw features, both against chance, and fine-tuning by its gain.

    Parameters
    ----------
    table
        Name of the table.
    probe, tuned
        As `play` gives them, of the buyers of all networks, network after network.
    networks
        How many networks there are, with equally many buyers each.
    quick
        As for `verdict`.
    """
    learned, raw = (_small(probe, name, FRANK_WOLFE) for name in (LEARNED, RAW))
    folds_m = _folds(networks, probe)
    note = f"{table}, budgets {', '.join(map(str, BUDGETS))}, ridge {RIDGE:g}"
    drawn = drawn_over(folds_m, "network")
    listed = [
        (
            "learned_beats_raw",
            "Bought and modelled in learned features, rows leave a smaller error than in raw ones.",
            _ratio(learned, raw, folds_m),
            1.0,
        ),
        (
            "learned_beats_random",
            "In learned features the design has a fraction of the error of random purchases.",
            _ratio(learned, _small(probe, LEARNED, RANDOM), folds_m),
            RANDOM_MOST,
        ),
        (
            "raw_beats_random",
            "In raw features the design has a fraction of the error of random purchases.",
            _ratio(raw, _small(probe, RAW, RANDOM), folds_m),
            RANDOM_MOST,
        ),
        (
            "learned_beats_nearest",
            "In learned features the design is better than nearest neighbours.",
            _ratio(learned, _small(probe, LEARNED, NEAREST), folds_m),
            1.0,
        ),
        (
            "raw_beats_nearest",
            "In raw features the design is better than nearest neighbours.",
            _ratio(raw, _small(probe, RAW, NEAREST), folds_m),
            1.0,
        ),
    ]
    made = [
        Claim(
            f"{name}_{table}",
            statement,
            None,
            ratio.value,
            (ratio.low, ratio.high),
            verdict(ratio, most, quick=quick),
            "ratio of errors",
            f"{note}; holds if at most {most:g}. {drawn}",
        )
        for name, statement, ratio, most in listed
    ]
    return [*made, *_tuning_claims(table, probe, tuned, folds_m)]


def _tuning_claims(table: str, probe: Errors, tuned: Errors, folds_m: np.ndarray) -> list[Claim]:
    at_tuned = slice(len(BUDGETS), None)
    by_probe = _gain(
        probe[probed(LEARNED, RANDOM)][:, at_tuned],
        probe[probed(LEARNED, FRANK_WOLFE)][:, at_tuned],
        folds_m,
    )
    made = []
    for kind, short in ((LAST, "last_layer"), (WHOLE, "whole_network")):
        gain = _gain(tuned[f"{kind}, {RANDOM}"], tuned[f"{kind}, {FRANK_WOLFE}"], folds_m)
        signs = _sign(gain) * _sign(by_probe)
        made.append(
            Claim(
                f"{short}_gains_{table}",
                f"Fine-tuned, {kind}, on the design's {TUNED_ON} rows instead of random ones, the"
                " network gains as the linear model does.",
                SELECTION_HELPS,
                gain.value,
                (gain.low, gain.high),
                signs > 0 if signs else None,
                "squared error",
                f"{table}. Error after random purchases less that after the design's in learned"
                f" features; that of the linear model is {by_probe.value:.3g} ({by_probe.low:.3g}"
                f" to {by_probe.high:.3g}). Holds if of the same sign, undecided where either"
                " interval has 0. Published for GPT-2 and BERT, not for this network."
                f" {drawn_over(folds_m, 'network')}",
            )
        )
    return made


def _probe_table(table: str, probe: Errors, networks: int) -> Table:
    rows: list[list[Any]] = []
    folds_m = _folds(networks, probe)
    for features in MAPS:
        random = _small(probe, features, RANDOM)
        for method in METHODS:
            mine = probe[probed(features, method)]
            ratio = _ratio(_small(probe, features, method), random, folds_m)
            row = [features, method, *(float(error) for error in mine.mean(axis=0))]
            rows.append([*row, ratio.value, ratio.low, ratio.high])
    columns = ["features", "method", *(f"error at {budget}" for budget in (*BUDGETS, TUNED_ON))]
    columns += ["ratio to random", "95 % low", "95 % high"]
    note = f"Linear model of the same features, ridge {RIDGE:g}; the ratio is over budgets"
    note += f" {', '.join(map(str, BUDGETS))}. Labels are standardised."
    return Table(f"Linear models of purchases, {table}", columns, rows, note)


def _tuned_table(table: str, tuned: Errors, networks: int) -> Table:
    rows: list[list[Any]] = []
    folds_m = _folds(networks, tuned)
    for name, mine in tuned.items():
        mean = mean_of(mine[:, 0], folds_m)
        rows.append([name, mean.value, mean.low, mean.high])
    columns = ["fine-tuned, purchase", "error", "95 % low", "95 % high"]
    note = f"{TUNED_ON} rows for every query, by learned features unless said otherwise."
    return Table(f"Fine-tuned networks, {table}", columns, rows, note)


def _figures(table: str, probe: Errors) -> list[Figure]:
    from modicum.daved import plots

    budgets = (*BUDGETS, TUNED_ON)
    names = [
        probed(features, method)
        for features in (RAW, LEARNED, ENTK)
        for method in (RANDOM, FRANK_WOLFE)
    ]
    curves = {
        name: (budgets, probe[name].mean(axis=0)) for name in (*names, probed(LEARNED, NEAREST))
    }
    try:
        figure = plots.acquisition_curve(curves)
    except ImportError:
        # matplotlib is optional; tables and claims stand without it.
        return []
    buyers = len(probe[names[0]])
    caption = f"{table}, {buyers} buyers, linear models of the purchase."
    title = f"Error against rows bought, {table}"
    return [Figure.from_matplotlib(figure, title, caption, "Errors by features and method")]


def _kept(ctx: RunContext, table: str, index: int) -> dict[str, Errors]:
    part = f"{table}_{index}"
    found = ctx.load_partial(part)
    if found is None:
        played = play(table, index, ctx.seed, quick=ctx.quick)
        ctx.save_partial(part, played)
        return played
    return {
        kind: {name: np.array(errors) for name, errors in by_name.items()}
        for kind, by_name in found.items()
    }


def _together(played: Sequence[dict[str, Errors]], kind: str) -> Errors:
    names = played[0][kind]
    return {name: np.concatenate([one[kind][name] for one in played]) for name in names}


def run(ctx: RunContext) -> Result:
    """Train, map, buy, probe and fine-tune on every table and seed."""
    chosen = QUICK_TABLES if ctx.quick else TABLES
    seeds = QUICK_SEEDS if ctx.quick else SEEDS
    task = ctx.progress(len(chosen) * seeds, "networks")
    found_claims: list[Claim] = []
    found_tables: list[Table] = []
    figures: list[Figure] = []
    for table in chosen:
        played = []
        for index in range(seeds):
            played.append(_kept(ctx, table, index))
            task.advance(1)
        probe, tuned = _together(played, "probe"), _together(played, "tuned")
        found_claims += claims(table, probe, tuned, seeds, quick=ctx.quick)
        found_tables += [_probe_table(table, probe, seeds), _tuned_table(table, tuned, seeds)]
        figures += _figures(table, probe)
    return ctx.result(claims=found_claims, tables=found_tables, figures=figures)
