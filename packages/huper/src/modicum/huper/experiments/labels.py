"""Labels of ear and dictionary together, beside either alone, and what is learnt from them.

Trains the same network on dictionary phones, on what a first network hears, on both put together by
`EditChannel` and by the neural corrector, and on realized phones, which no one has. Judges labels
and networks by the realized phones of a synthetic world; see `modicum.huper.experiments._world` for
its sizes.

Legend: ``S`` seeds, ``N`` utterances, ``R`` resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator, one_thread
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.huper.experiments._world import (
    CORRECTORS,
    FULL,
    SMALL,
    Sizes,
    World,
    errors,
    heard,
    world,
)
from modicum.huper.selftrain import make_labels

__all__ = ["ARMS", "QUICK_ARMS", "Plan", "measure", "ratio", "run"]

ARMS: Mapping[str, str] = {
    "seed": "realized phones of the labelled utterances alone",
    "canonical": "dictionary phones",
    "pseudo": "what the seed net hears, and the labelled ones",
    "neural": "neural corrector, and the labelled ones",
    "corrected": "EditChannel, and the labelled ones",
    "ceiling": "realized phones of all, which no one has",
}
"""What each network learns from."""

SHIPPED = "the network that comes with the package"
QUICK_ARMS = ("seed", "canonical", "corrected", "ceiling")
LAMBDAS = (0.5, 1.0, 2.0)
RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes
    ----------
    seeds
        Worlds, each with its own networks.
    sizes
        Of each world.
    arms
        Networks that are trained.
    lambdas
        Utterances that are labelled with each λ.
    second
        Whether there is a second round.
    most
        Largest ratios of the criteria, in their order.
    """

    seeds: int
    sizes: Sizes
    arms: tuple[str, ...]
    lambdas: int
    second: bool
    most: tuple[float, float, float, float]


PLAN = Plan(3, FULL, tuple(ARMS), 100, True, (0.4, 0.5, 0.6, 1.5))
QUICK = Plan(1, SMALL, QUICK_ARMS, 24, False, (1.0, 1.0, 1.0, 1.5))


def run(ctx: RunContext) -> Result:
    """Train and judge all networks."""
    plan = QUICK if ctx.quick else PLAN
    cells: dict[str, Callable[[], Any]] = {}
    for seed in range(plan.seeds):
        made = world(ctx, ctx.seed + seed, plan.sizes)
        for arm in plan.arms:
            cells[f"{arm}-{seed}"] = partial(measure, made, arm, ctx)
        cells[f"lambda-{seed}"] = partial(sensitivity, made, plan.lambdas)
        if plan.second:
            cells[f"second-{seed}"] = partial(second_round, made)
    task = ctx.progress(len(cells), "labels")
    found: dict[str, Any] = {}
    with one_thread():
        for name, cell in cells.items():
            found[name] = ctx.load_partial(name)
            if found[name] is None:
                found[name] = cell()
                ctx.save_partial(name, found[name])
            task.advance(1)
    arms = {arm: [found[f"{arm}-{seed}"] for seed in range(plan.seeds)] for arm in plan.arms}
    lambdas = [found[f"lambda-{seed}"] for seed in range(plan.seeds)]
    second = [found[f"second-{seed}"] for seed in range(plan.seeds)] if plan.second else []
    return ctx.result(
        claims=claims_of(arms, lambdas, second, plan.most, ctx.seed),
        tables=[
            arms_table(arms, plan, ctx.seed),
            lambda_table(lambdas, ctx.seed),
            *([second_table(arms["corrected"], second, ctx.seed)] if second else []),
        ],
        figures=figures_of(arms, ctx.seed),
        text=QUICK_ABOUT if ctx.quick else ABOUT,
    )


ABOUT = (
    "The paper trains WavLM-Large, which has heard 94,000 hours of speech, with TIMIT as the"
    " labelled and 100 hours of LibriSpeech as the transcribed corpus, and reports what comes out"
    " on five corpora of people. Here a network of a quarter of a million weights learns from"
    " nothing, in a world of synthetic speech in which sixteen phonological rules change a fifth of"
    " the dictionary's phones. What carries over is the comparison of labels, not the figures."
)
QUICK_ABOUT = (
    "The short form asks the same of an easier thing: the network that comes with the package knows"
    " clean synthetic speech, hears it in noise, and goes on learning from 48 utterances for a few"
    " steps. It is judged by who is better alone; by how much is the matter of the full form, which"
    " trains from nothing, in three worlds of 580 utterances."
)


# What is measured -------------------------------------------------------------------------------


def measure(made: World, arm: str, ctx: RunContext) -> dict[str, Any]:
    """Train the network of an arm.

    Returns
    -------
    dict
        ``test``: see `errors`; ``labels``: the same of what it learnt from besides the labelled
        utterances, None for the seed net; ``kept`` of them.
    """
    bar = ctx.progress(made.steps(arm), f"world {made.seed}: {arm}")
    net = made.net(arm, bar)
    said = [item.phones("realized") for item in made.items["unlabelled"]]
    labels, kept = None, len(said)
    if arm in CORRECTORS:
        round_one = made.trained(arm).rounds[1].labels
        assert round_one is not None
        labels = errors([item.phones("label") for item in round_one.items], said)
        kept = len(round_one.kept)
    elif arm != "seed":
        which = "canonical" if arm == "canonical" else "realized"
        labels = errors([item.phones(which) for item in made.items["unlabelled"]], said)
    return {
        "test": test_errors(net, made),
        "labels": labels,
        "kept": kept if arm != "seed" else 0,
    }


def test_errors(net: Any, made: World) -> dict[str, list[int]]:
    """Return the errors of what a network hears in the test utterances."""
    items = made.items["test"]
    return errors(heard(net, items), [item.phones("realized") for item in items])


def sensitivity(made: World, count: int) -> dict[str, Any]:
    """Return the errors of labels by λ, of the first transcribed utterances."""
    items = made.items["unlabelled"][:count]
    net, found = made.net("seed"), {}
    for lam in LAMBDAS:
        labels = make_labels(net, made.items["labelled"], items, lam=lam, channel=made.channel)
        found[f"{lam:g}"] = errors(
            [item.phones("label") for item in labels.items],
            [item.phones("realized") for item in items],
        )
    return found


def second_round(made: World) -> dict[str, Any]:
    """Go on for a round, guarded by the dev set.

    Returns
    -------
    dict
        ``dev``: phone error rates of the rounds; ``labels`` and ``test`` of the second one, whether
        it was kept or not; and ``kept``.
    """
    found = made.trained("corrected", 2)
    last = found.rounds[-1]
    labels = last.labels
    assert labels is not None
    said = [item.phones("realized") for item in made.items["unlabelled"]]
    return {
        "dev": [one.dev_per for one in found.rounds],
        "labels": errors([item.phones("label") for item in labels.items], said),
        "test": test_errors(found.last, made),
        "round": last.number,
        "kept": found.best == last.number,
    }


# Statistics -------------------------------------------------------------------------------------


def rates(found: Sequence[Mapping[str, Any]], key: str, seed: int) -> tuple[float, np.ndarray]:
    """Return the error rate over all worlds, and its resamples.

    Utterances are drawn within their world; what is compared is drawn alike.

    Returns
    -------
    value, samples_R
        Of Σ wrong / Σ total.
    """
    wrong_R, total_R = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    wrong = total = 0
    for number, one in enumerate(found):
        wrong_N, total_N = np.array(one[key]["wrong"]), np.array(one[key]["total"])
        rng = numpy_generator(seed, "resamples", number, len(wrong_N))
        for start in range(0, RESAMPLES, 1000):
            drawn_RN = rng.integers(0, len(wrong_N), (1000, len(wrong_N)))
            wrong_R[start : start + 1000] += wrong_N[drawn_RN].sum(1)
            total_R[start : start + 1000] += total_N[drawn_RN].sum(1)
        wrong, total = wrong + int(wrong_N.sum()), total + int(total_N.sum())
    return wrong / total, wrong_R / total_R


def interval(samples_R: np.ndarray) -> tuple[float, float]:
    """Return the percentile interval of resamples."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(samples_R, [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class Ratio:
    """A ratio of error rates: over all worlds, its interval, and in each world."""

    value: float
    interval: tuple[float, float]
    each: tuple[float, ...]


def ratio(
    over: Sequence[Mapping[str, Any]],
    under: Sequence[Sequence[Mapping[str, Any]]],
    key: str,
    seed: int,
) -> Ratio:
    """Return the ratio of an error rate and the least of others.

    Parameters
    ----------
    over
        Of one arm, S worlds.
    under
        Of other arms, S worlds each.
    key
        ``"test"`` or ``"labels"``.
    seed
        Of the resamples.
    """
    top, top_R = rates(over, key, seed)
    pairs = [rates(one, key, seed) for one in under]
    with np.errstate(divide="ignore", invalid="ignore"):
        samples_R = top_R / np.min([samples for _, samples in pairs], axis=0)
        value = top / np.float64(min(value for value, _ in pairs))
        each = [
            _rate(one[key]) / np.float64(min(_rate(arm[number][key]) for arm in under))
            for number, one in enumerate(over)
        ]
    return Ratio(float(value), interval(samples_R), tuple(float(one) for one in each))


def _rate(found: Mapping[str, Sequence[int]]) -> float:
    return float(np.sum(found["wrong"]) / np.sum(found["total"]))


# What it says -----------------------------------------------------------------------------------

CRITERIA: tuple[tuple[str, str, str, tuple[str, ...], str], ...] = (
    (
        "labels",
        "Labels of ear and dictionary together are better than either alone",
        "corrected",
        ("canonical", "pseudo"),
        "labels",
    ),
    (
        "dictionary",
        "A network that learns from them beats the one that learns from the dictionary",
        "corrected",
        ("canonical",),
        "test",
    ),
    (
        "seed",
        "It beats the seed net, which helped to make the labels",
        "corrected",
        ("seed",),
        "test",
    ),
    (
        "ceiling",
        "It comes near the one that learns from realized phones",
        "corrected",
        ("ceiling",),
        "test",
    ),
)
"""Name, statement, arm, arms it is compared with, and what of them."""

PUBLISHED = "PFER 8.82 % on five corpora of people, by labels of a neural corrector"


def claims_of(
    arms: Mapping[str, Sequence[Mapping[str, Any]]],
    lambdas: Sequence[Mapping[str, Any]],
    second: Sequence[Mapping[str, Any]],
    limits: Sequence[float],
    seed: int,
) -> list[Claim]:
    """Judge labels and networks; `limits` are the largest ratios of `CRITERIA`."""
    claims = []
    for (name, statement, arm, others, key), most in zip(CRITERIA, limits, strict=True):
        there = [arms[one] for one in others if one in arms]
        found = ratio(arms[arm], there, key, seed)
        what = "label" if key == "labels" else "phone"
        claims.append(
            Claim(
                name,
                statement,
                PUBLISHED if name == "dictionary" else None,
                found.value,
                found.interval,
                all(one <= most for one in found.each),
                "",
                f"Ratio of {what} error rates, {arm} over the best of "
                f"{' and '.join(one for one in others if one in arms)}; bootstrap over utterances "
                f"within their world, {LEVEL:.0%}. By world: {_listed(found.each)}. Criterion: at "
                f"most {most:g} in each world.",
            )
        )
    claims.append(lambda_claim(lambdas, seed))
    if "neural" in arms and "pseudo" in arms:
        found = ratio(arms["neural"], [arms["pseudo"]], "labels", seed)
        beside = ratio(arms["neural"], [arms["corrected"]], "labels", seed)
        claims.append(
            Claim(
                "neural",
                "Labels of the neural corrector are better than what the seed net hears",
                None,
                found.value,
                found.interval,
                all(one < 1 for one in found.each),
                "",
                "Ratio of label error rates; bootstrap over utterances within their world, "
                f"{LEVEL:.0%}. By world: {_listed(found.each)}. Beside EditChannel their error is "
                f"{beside.value:.2f} times as large. It learns from hundreds of utterances what "
                "phones sound like, where EditChannel counts edits and leaves the sound to the "
                "recognizer.",
            )
        )
    if second:
        found = ratio(second, [arms["corrected"]], "test", seed)
        claims.append(
            Claim(
                "second round",
                "A second round, which listens with the first one's result, gains again",
                None,
                found.value,
                found.interval,
                all(one < 1 for one in found.each),
                "",
                "Ratio of phone error rates, second over first round; bootstrap over utterances "
                f"within their world, {LEVEL:.0%}. By world: {_listed(found.each)}. Criterion: "
                "below 1 in each world.",
            )
        )
    return claims


def lambda_claim(lambdas: Sequence[Mapping[str, Any]], seed: int) -> Claim:
    """Report how much the weight of the edits matters."""
    by_lam = {lam: rates(lambdas, lam, seed)[0] for lam in lambdas[0]}
    least = min(by_lam.values())
    return Claim(
        "lambda",
        "Error of the labels with λ = 1, in that of the best λ",
        None,
        by_lam["1"] / least if least else float("nan"),
        None,
        None,
        "",
        f"{', '.join(f'λ = {lam}: {100 * rate:.1f} %' for lam, rate in by_lam.items())}; "
        f"{sum(len(one['1']['wrong']) for one in lambdas)} utterances. No threshold.",
    )


def _listed(each: Sequence[float]) -> str:
    return ", ".join(f"{one:.2f}" for one in each)


def _cell(found: Sequence[Mapping[str, Any]], key: str, seed: int) -> str:
    value, samples_R = rates(found, key, seed)
    low, high = interval(samples_R)
    return f"{100 * value:.1f} ({100 * low:.1f} … {100 * high:.1f})"


def arms_table(arms: Mapping[str, Sequence[Mapping[str, Any]]], plan: Plan, seed: int) -> Table:
    """Return a row for each arm."""
    rows: list[list[Any]] = []
    for arm, found in arms.items():
        labelled = found[0]["labels"] is not None
        rows.append(
            [
                arm,
                SHIPPED if arm == "seed" and plan.sizes.shipped else ARMS[arm],
                _cell(found, "labels", seed) if labelled else None,
                _cell(found, "test", seed),
                " ".join(f"{100 * _rate(one['test']):.1f}" for one in found),
            ]
        )
    sizes = plan.sizes
    return Table(
        "What is learnt from, and how well",
        ["arm", "learns from", "label error, %", "PER, %", "by world"],
        rows,
        f"{plan.seeds} worlds of {sizes.labelled} labelled, {sizes.unlabelled} transcribed and "
        f"{sizes.test} test utterances. Error of all labels that were made, of which the worst "
        f"twentieth is dropped; bootstrap over utterances within their world, {LEVEL:.0%}.",
    )


def lambda_table(lambdas: Sequence[Mapping[str, Any]], seed: int) -> Table:
    """Return a row for each λ."""
    rows = [
        [
            lam,
            _cell(lambdas, lam, seed),
            " ".join(f"{100 * _rate(one[lam]):.1f}" for one in lambdas),
        ]
        for lam in lambdas[0]
    ]
    return Table(
        "Weight of the edits",
        ["λ", "label error, %", "by world"],
        rows,
        f"The first {len(lambdas[0]['1']['wrong'])} transcribed utterances of each world, labelled "
        "by the seed net and EditChannel.",
    )


def second_table(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], seed: int
) -> Table:
    """Return both rounds."""
    rows: list[list[Any]] = [
        [
            number,
            _cell(found, "labels", seed),
            _cell(found, "test", seed),
            " ".join(f"{100 * _rate(one['test']):.1f}" for one in found),
            " ".join(f"{100 * one['dev'][number]:.1f}" for one in second),
        ]
        for number, found in ((1, first), (2, second))
    ]
    turned_down = sum(not one["kept"] for one in second)
    return Table(
        "A second round",
        ["round", "label error, %", "PER, %", "by world", "dev PER by world, %"],
        rows,
        f"The dev set turned the second round down in {turned_down} of {len(second)} worlds.",
    )


def figures_of(arms: Mapping[str, Sequence[Mapping[str, Any]]], seed: int) -> list[Figure]:
    """Draw the phone error rates; nothing without matplotlib, which is optional."""
    from modicum.core.plots import look, new_axes

    try:
        figure, axes = new_axes("modicum-huper")
    except ImportError:
        return []
    words = []
    for number, (arm, found) in enumerate(arms.items()):
        value, samples_R = rates(found, "test", seed)
        low, high = interval(samples_R)
        axes.errorbar(
            [100 * value],
            [number],
            xerr=[[100 * (value - low)], [100 * (high - value)]],
            marker="o",
            capsize=3,
            color=look(number)["color"],
        )
        axes.plot(
            [100 * _rate(one["test"]) for one in found],
            [number] * len(found),
            linestyle="none",
            marker="|",
            color=look(number)["color"],
        )
        words.append(f"{arm} {100 * value:.1f}")
    axes.set_yticks(range(len(arms)), list(arms))
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("phone error rate on realized phones, %")
    return [
        Figure.from_matplotlib(
            figure,
            "What is learnt from, and how well",
            "Over all worlds with a bootstrap interval, and each world as a tick.",
            f"Phone error rates in per cent: {', '.join(words)}.",
        )
    ]
