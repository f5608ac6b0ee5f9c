"""The doubly robust risk: two ways to be right, and what it is worth when labelling is biased.

First draws losses whose mean is known, with a proxy loss and a propensity that are right or wrong,
and holds the estimates to exact values. Then trains recognizers in a synthetic world in which
mostly speakers with few phonological rules were labelled: from the labelled alone, from proxy
labels alone, from both as they come, and from both with the weights of the doubly robust risk.

Legend: ``N`` draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator, one_thread
from modicum.core.experiment import Claim, ProgressTask, Result, RunContext, Table
from modicum.huper import drrc
from modicum.huper.corpus import Item
from modicum.huper.experiments._world import FULL, World, errors, heard, rate, world
from modicum.huper.experiments.labels import interval, rates, ratio
from modicum.huper.selftrain import SelfTraining, self_train
from modicum.huper.training import TrainingConfig, train

__all__ = ["ARMS", "Plan", "chosen", "draw", "estimates", "expected", "run"]

INTERCEPT, SLOPE = -1.5, 2.0
"""Of the log-odds of a true label, over a covariate that is uniform on (0, 1)."""

WRONG = 0.25
"""A propensity that is the same for all, and wrong."""

BEYOND = 3.0
"""Standard errors: a normal variable is beyond them with probability 0.0027."""

ARMS: Mapping[str, str] = {
    "labelled only": "realized phones of the labelled utterances",
    "proxy only": "EditChannel labels of all utterances",
    "both": "realized phones of the labelled, EditChannel labels of the others",
    "doubly robust": "the same with the weights of the doubly robust risk",
}
"""What each network learns from."""

FEW = 12
"""Rules of a speaker who is likely to be labelled, at most; a fifth of the speakers."""

LIKELY, UNLIKELY = 0.5, 0.04
"""Probability of a label for speakers with few rules and for others: about 80 utterances of 580,
three quarters of them from the fifth with few rules."""


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes
    ----------
    seeds
        Repetitions of the draws.
    draws
        Of each.
    worlds
        In which recognizers are trained.
    """

    seeds: int
    draws: int
    worlds: int


PLAN = Plan(50, 200_000, 2)
QUICK = Plan(5, 50_000, 0)


def run(ctx: RunContext) -> Result:
    """Draw, train and judge."""
    plan = QUICK if ctx.quick else PLAN
    cells: dict[str, Callable[[], Any]] = {"draws": partial(repeated, plan, ctx.seed)}
    for number in range(plan.worlds):
        made = world(ctx, ctx.seed + number, FULL)
        for arm in ARMS:
            cells[f"{arm.replace(' ', '-')}-{number}"] = partial(measure, made, arm, ctx)
    task = ctx.progress(len(cells), "doubly robust")
    found: dict[str, Any] = {}
    with one_thread():
        for name, cell in cells.items():
            found[name] = ctx.load_partial(name)
            if found[name] is None:
                found[name] = cell()
                ctx.save_partial(name, found[name])
            task.advance(1)
    draws = found["draws"]
    claims, tables = draws_claims(draws, plan), [draws_table(draws, plan)]
    if plan.worlds:
        arms = {
            arm: [found[f"{arm.replace(' ', '-')}-{number}"] for number in range(plan.worlds)]
            for arm in ARMS
        }
        claims.append(training_claim(arms, ctx.seed))
        tables.append(training_table(arms, ctx.seed))
    return ctx.result(claims=claims, tables=tables, text=QUICK_ABOUT if ctx.quick else ABOUT)


ABOUT = (
    "The paper derives the doubly robust risk and reports no experiment on it; the released"
    " training does not weight. Draws have losses of 0 and 1 whose mean grows with a covariate that"
    " also decides who is labelled. The recognizers are those of the experiment on labels."
)
QUICK_ABOUT = f"{ABOUT} The short form draws only and trains nothing."


# Draws ------------------------------------------------------------------------------------------


def propensity(x_N: np.ndarray) -> np.ndarray:
    """Return how likely a true label is."""
    return np.asarray(1 / (1 + np.exp(-(INTERCEPT + SLOPE * x_N))))


def draw(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw covariates, losses with mean x², and whether the true label is known.

    Returns
    -------
    x_N, loss_N, known_N
    """
    x_N = rng.random(count)
    loss_N = (rng.random(count) < x_N**2).astype(float)
    known_N = (rng.random(count) < propensity(x_N)).astype(float)
    return x_N, loss_N, known_N


def estimates(count: int, seed: int) -> dict[str, tuple[float, float]]:
    """Return estimates of the mean loss and their standard errors, by what they are made of."""
    x_N, loss_N, known_N = draw(count, numpy_generator(seed, "draws"))
    good_N, bad_N = x_N**2, 1 - x_N
    right_N, wrong_N = propensity(x_N), np.full(count, WRONG)
    fitted_N = drrc.propensities(known_N, x_N, seed=seed)
    found = {}
    for name, proxy_N, g_N in (
        ("both right", good_N, right_N),
        ("good proxy, wrong propensity", good_N, wrong_N),
        ("bad proxy, right propensity", bad_N, right_N),
        ("bad proxy, fitted propensity", bad_N, fitted_N),
        ("both wrong", bad_N, wrong_N),
    ):
        risk = drrc.doubly_robust_risk(loss_N, proxy_N, known_N, g_N)
        found[name] = (risk.value, risk.standard_error)
    mine_N = loss_N[known_N > 0]
    found["labelled only"] = (
        float(mine_N.mean()),
        float(mine_N.std(ddof=1) / math.sqrt(len(mine_N))),
    )
    found["proxy only"] = (
        float(bad_N.mean()),
        float(bad_N.std(ddof=1) / math.sqrt(count)),
    )
    return found


def expected() -> dict[str, float]:
    """Return the exact means of the estimates, by integration over the covariate."""
    nodes, weight_N = np.polynomial.legendre.leggauss(60)
    x_N, weight_N = (nodes + 1) / 2, weight_N / 2
    pi_N, truth = propensity(x_N), 1 / 3
    # The mean of `drrc.bias` would weigh all nodes alike.
    off = float(weight_N @ ((1 - pi_N / WRONG) * (1 - x_N - x_N**2)))
    return {
        "both right": truth,
        "good proxy, wrong propensity": truth,
        "bad proxy, right propensity": truth,
        "bad proxy, fitted propensity": truth,
        "both wrong": truth + off,
        "labelled only": float(weight_N @ (pi_N * x_N**2) / (weight_N @ pi_N)),
        "proxy only": 0.5,
    }


def repeated(plan: Plan, seed: int) -> dict[str, list[list[float]]]:
    """Return estimates and standard errors of all repetitions."""
    found: dict[str, list[list[float]]] = {}
    for number in range(plan.seeds):
        for name, pair in estimates(plan.draws, seed + number).items():
            found.setdefault(name, []).append(list(pair))
    return found


def pooled(pairs: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the mean of independent estimates, and its standard error."""
    value_S, error_S = np.array(pairs).T
    return float(value_S.mean()), float(np.sqrt((error_S**2).sum()) / len(error_S))


def draws_claims(draws: Mapping[str, Sequence[Sequence[float]]], plan: Plan) -> list[Claim]:
    """Judge the estimates."""
    exact, truth = expected(), 1 / 3
    robust = [name for name, value in exact.items() if value == truth]
    beyond = {}
    for name, value in exact.items():
        mean, error = pooled(draws[name])
        beyond[name] = (mean - value) / error
    largest = max(abs(beyond[name]) for name in robust)
    mean, error = pooled(draws["both wrong"])
    off = {
        name: (pooled(draws[name])[0] - truth) / pooled(draws[name])[1]
        for name in ("labelled only", "proxy only")
    }
    chance = 1 - (1 - 0.0027) ** len(robust)
    return [
        Claim(
            "twice",
            "The estimate is right if the proxy or the propensity is",
            None,
            largest,
            None,
            largest <= BEYOND,
            "standard errors",
            f"Largest distance to the true mean of {len(robust)} estimates, each from "
            f"{plan.seeds} times {plan.draws:,} draws. Criterion: at most {BEYOND:g}, which fails "
            f"by chance with probability {chance:.3f} at most.",
        ),
        Claim(
            "bias",
            "With both wrong the bias is the mean of (1 − π/g) · (m − E[ℓ|V])",
            None,
            mean - truth,
            (mean - truth - 1.96 * error, mean - truth + 1.96 * error),
            abs(beyond["both wrong"]) <= BEYOND,
            "",
            f"Observed, 95 %; the formula gives {exact['both wrong'] - truth:.4f}, "
            f"{abs(beyond['both wrong']):.1f} standard errors away. Criterion: at most {BEYOND:g}, "
            "which fails by chance with probability 0.003.",
        ),
        Claim(
            "alone",
            "Labelled utterances alone are off, and so is a bad proxy alone",
            None,
            min(abs(one) for one in off.values()),
            None,
            all(abs(one) > 10 for one in off.values()),
            "standard errors",
            f"Distances to the true mean: {', '.join(f'{k} {v:+.0f}' for k, v in off.items())}. "
            "Criterion: more than 10, so that the other claims compare with something.",
        ),
    ]


def draws_table(draws: Mapping[str, Sequence[Sequence[float]]], plan: Plan) -> Table:
    """Return a row for each estimate."""
    rows: list[list[Any]] = []
    for name, value in expected().items():
        mean, error = pooled(draws[name])
        rows.append([name, round(value, 4), round(mean, 4), f"{error:.1e}",
                     round((mean - value) / error, 2)])  # fmt: skip
    return Table(
        "Estimates of a mean loss of 1/3",
        ["made of", "exact mean", "found", "standard error", "standard errors between"],
        rows,
        f"{plan.seeds} times {plan.draws:,} draws. A bad proxy is 1 − x where the mean loss is x², "
        f"a wrong propensity {WRONG:g} for all; the fitted one is a logistic regression, "
        "cross-fitted.",
    )


# Training ---------------------------------------------------------------------------------------


def few_rules(item: Item) -> list[float]:
    """Return whether the speaker has few rules: what the choice depends on."""
    return [float(len(item.extra["rules"]) <= FEW)]


def chosen(items: Sequence[Item], seed: int) -> np.ndarray:
    """Draw who is labelled, (N,) bool."""
    few_N = np.array([few_rules(item)[0] for item in items])
    rng = numpy_generator(seed, "labelled")
    return np.asarray(rng.random(len(items)) < np.where(few_N > 0, LIKELY, UNLIKELY))


def measure(made: World, arm: str, ctx: RunContext) -> dict[str, Any]:
    """Train the network of an arm and judge it.

    Returns
    -------
    dict
        ``test``: see `errors`; ``labelled`` utterances; ``few`` of them with few rules; ``size``,
        the effective one, for the doubly robust risk.
    """
    items = [*made.items["labelled"], *made.items["unlabelled"]]
    known_N = chosen(items, made.seed)
    known = [item for item, one in zip(items, known_N, strict=True) if one]
    others = [replace(item, real_phonemes=None) for item, one in zip(items, known_N, strict=True)
              if not one]  # fmt: skip
    bar = ctx.progress(None, f"world {made.seed}: {arm}")
    first = made.fresh()
    train(
        first,
        [item.labelled() for item in known],
        TrainingConfig(epochs=made.sizes.first, seed=made.seed),
        folder=made.folder / "biased" / "labelled-only",
        device=made.device,
        progress=bar,
    )
    net: Any = first
    size = None
    if arm != "labelled only":
        trained = corrected(made, arm, known, others, first, bar)
        net, size = trained.last, trained.rounds[1].effective_sample_size
    said = [item.phones("realized") for item in made.items["test"]]
    return {
        "test": errors(heard(net, made.items["test"]), said),
        "labelled": len(known),
        "few": sum(few_rules(item)[0] > 0 for item in known),
        "size": size,
    }


def corrected(
    made: World,
    arm: str,
    known: Sequence[Item],
    others: Sequence[Item],
    first: Any,
    bar: ProgressTask | None,
) -> SelfTraining:
    """Train with labels of the channel."""
    given: dict[str, Any] = {"labelled": known, "unlabelled": others}
    if arm == "proxy only":
        # The channel is counted on realized phones; the network learns none of them.
        real = {item.id for item in known}

        def learn(model: Any, utterances: Sequence[Any], *rest: Any, **more: Any) -> Any:
            return train(model, [one for one in utterances if one.id not in real], *rest, **more)

        copies = [replace(item, id=f"proxy-{item.id}", real_phonemes=None) for item in known]
        given = {"labelled": known, "unlabelled": [*copies, *others], "learn": learn}
    if arm == "doubly robust":
        given |= {"drrc": "aipw", "covariates": few_rules}
    return self_train(
        made.fresh,
        **given,
        first=first,
        first_config=TrainingConfig(epochs=made.sizes.first),
        config=TrainingConfig(epochs=made.sizes.later),
        folds=2,
        folder=made.folder / "biased" / arm.replace(" ", "-"),
        device=made.device,
        seed=made.seed,
        progress=bar,
    )


def training_claim(arms: Mapping[str, Sequence[Mapping[str, Any]]], seed: int) -> Claim:
    """Judge whether the weights are worth it."""
    others = [arms["labelled only"], arms["proxy only"]]
    found = ratio(arms["doubly robust"], others, "test", seed)
    beside = ratio(arms["doubly robust"], [arms["both"]], "test", seed)
    return Claim(
        "training",
        "Where labelling is biased, doubly robust weights beat labelled and proxy labels alone",
        None,
        found.value,
        found.interval,
        all(one < 1 for one in found.each),
        "",
        "Ratio of phone error rates, over the better of the two; bootstrap over utterances within "
        f"their world, 95 %. By world: {', '.join(f'{one:.2f}' for one in found.each)}. Criterion: "
        f"below 1 in each world. Over both kinds of labels without weights: {beside.value:.2f} "
        f"({beside.interval[0]:.2f} … {beside.interval[1]:.2f}).",
    )


def training_table(arms: Mapping[str, Sequence[Mapping[str, Any]]], seed: int) -> Table:
    """Return a row for each arm."""
    rows: list[list[Any]] = []
    for arm, found in arms.items():
        value, samples_R = rates(found, "test", seed)
        low, high = interval(samples_R)
        rows.append(
            [
                arm,
                ARMS[arm],
                f"{100 * value:.1f} ({100 * low:.1f} … {100 * high:.1f})",
                " ".join(f"{100 * rate(one['test']):.1f}" for one in found),
            ]
        )
    first = arms["labelled only"]
    sizes = [one["size"] for one in arms["doubly robust"]]
    return Table(
        "Recognizers where labelling is biased",
        ["arm", "learns from", "PER, %", "by world"],
        rows,
        f"Labelled: {', '.join(str(one['labelled']) for one in first)} of 580 utterances, "
        f"{', '.join(str(one['few']) for one in first)} of them from the fifth of the speakers "
        f"with at most {FEW} of 16 rules. Effective sample sizes of the weights: "
        f"{', '.join(f'{one:.0f}' for one in sizes)}. Propensities are fitted on whether the "
        "speaker has few rules; proxies of labelled utterances are cross-fitted in two folds.",
    )
