"""Transition, reward and Q-function of MuJoCo's robots: one order under each way to measure.

Experts act; small networks learn the next observation, its change, the reward, the policy and two
kinds of Q-function from the same rows; errors are taken by the metric of the paper, by that of its
successor, and by metrics that no unit changes, on the same held-out episodes. The protocols of both
papers run beside. The paper's order, reward < transition < Q, is looked for under each of them: Q
is in another unit than a state, so the paper's metric alone says little about which is harder.

Source of the protocols and of the published figures: Zhu, Huang, Russell, arXiv 2310.01706, and the
logs of its code; Feng, Zhong, arXiv 2312.17248, read off its figures.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from modicum.core.device import one_thread
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table, write_atomic
from modicum.repcomplexity import collection, experts, protocols
from modicum.repcomplexity.data import RolloutData
from modicum.repcomplexity.experiments._pooled import Figures, Pooled, mean_of, ratio_of
from modicum.repcomplexity.experiments._training import resumed, sac_expert
from modicum.repcomplexity.measure import FEW_TIMES, measure
from modicum.repcomplexity.measurement import Measurement
from modicum.repcomplexity.metrics import ZHU_BATCH_SIZE

__all__ = ["FULL", "QUICK", "Plan", "run"]

WIDTH = 32
"""Units of each of two hidden layers: the main table of the paper."""
METRICS = (
    "zhu2024",
    "zhu2024_heldout",
    "feng2023",
    "feng2023_fixed",
    "nrmse_uncentred",
    "fvu",
    "fvu_perdim",
)
"""What targets are compared by."""
OTHER_METRICS = ("skill", "rmse")
"""What is reported beside: the gain over doing nothing, and errors in the target's own unit."""
CRITIC, RETURNS = "q", "q_mc"
"""Q of the expert's critic, first head; discounted returns of the expert's own episodes."""
LQR_ENVIRONMENT = "InvertedPendulum-v5"
LQR_NOISE = 1.0
"""Of the regulator's force, whose bounds are ±3: the pole falls about every hundred steps."""


@dataclass(frozen=True)
class Published:
    """Figures of the papers for networks 2 × 32 by target: ``next_obs``, ``reward``, ``q``.

    Attributes
    ----------
    zhu2024
        Errors in the logs of the paper's code, means over 5 or 6 runs.
    scale_free
        The same errors as √(Σ‖ŷ − y‖² / Σ‖y‖²), recovered from the logged mean squared errors.
    feng2023
        Errors of the other paper, with ``policy``; read off its figures, so rough.
    """

    zhu2024: Mapping[str, float]
    scale_free: Mapping[str, float]
    feng2023: Mapping[str, float] = field(default_factory=dict)


PUBLISHED = {
    "InvertedPendulum-v5": Published(
        {"next_obs": 7.8e-6, "reward": 2.3e-6, "q": 0.0058},
        {"next_obs": 0.0026, "reward": 0.0005, "q": 0.0026},
        {"next_obs": 0.003, "reward": 0.0, "policy": 0.28, "q": 0.35},
    ),
    "Hopper-v5": Published(
        {"next_obs": 0.0054, "reward": 0.00018, "q": 0.1003},
        {"next_obs": 0.0318, "reward": 0.0024, "q": 0.0085},
    ),
    "HalfCheetah-v5": Published(
        {"next_obs": 0.129, "reward": 0.0216, "q": 0.536},
        {"next_obs": 0.0896, "reward": 0.0371, "q": 0.0350},
        {"next_obs": 0.035, "reward": 0.03, "policy": 0.09, "q": 0.155},
    ),
    "Walker2d-v5": Published(
        {"next_obs": 0.410, "reward": 0.0054, "q": 0.704},
        {"next_obs": 0.250, "reward": 0.0144, "q": 0.0235},
    ),
    "Ant-v5": Published(
        {"next_obs": 0.0495, "reward": 0.0204, "q": 0.0809},
        {"next_obs": 0.185, "reward": 0.050, "q": 0.0123},
        {"next_obs": 0.035, "reward": 0.11, "policy": 0.125, "q": 0.57},
    ),
}
"""By environment; those of the papers were of version 4."""
NOTES = {
    "InvertedPendulum-v5": "InvertedPendulum-v5 pays nothing at a fall. Version 4, that of the"
    " papers, paid 1 at every step: its reward is a constant, this one is not.",
}
"""What differs from the papers' environments."""


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes
    ----------
    train_steps
        Steps of the experts' training by environment, multiples of 5000; 0 for a linear-quadratic
        regulator, which needs none and has no critic.
    experts
        Experts of each environment, trained from seeds of their own.
    rows
        Transitions of each expert.
    widths, seeds, steps
        Of the networks whose errors are compared on held-out episodes.
    epochs
        Passes over the rows in the protocol of Zhu and others; theirs are 100.
    rows_seen
        Rows a network sees in the protocol of Feng and Zhong; theirs sees 9 million.
    q_bug
        Whether that protocol takes values as its published code does; see `protocols.feng2023`.
    """

    train_steps: Mapping[str, int]
    experts: int
    rows: int
    widths: tuple[int, ...]
    seeds: int
    steps: int
    epochs: int
    rows_seen: int
    q_bug: bool = False

    def __post_init__(self) -> None:
        """Check what the rest relies on."""
        if WIDTH not in self.widths:
            raise ValueError(f"widths must have {WIDTH} among them, not {self.widths}")
        if not self.train_steps or self.experts < 1:
            raise ValueError("a plan needs an environment and an expert")


FULL = Plan(
    train_steps={"InvertedPendulum-v5": 15_000, "Hopper-v5": 10_000, "HalfCheetah-v5": 10_000},
    experts=3,
    rows=20_000,
    widths=(16, 32, 64),
    seeds=3,
    steps=3000,
    epochs=30,
    rows_seen=1_000_000,
)
QUICK = Plan(
    train_steps={LQR_ENVIRONMENT: 0},
    experts=1,
    rows=3000,
    widths=(WIDTH,),
    seeds=3,
    steps=800,
    epochs=15,
    rows_seen=128_000,
)


@dataclass(frozen=True, eq=False)
class Case:
    """What one expert gave.

    Attributes
    ----------
    seed
        Of the expert, its rollouts and the networks.
    data
        The rows.
    measurement
        Networks on standardised rows, errors on training rows and on held-out episodes.
    zhu2024, feng2023
        Errors of the papers' protocols of each network seed, ``(seeds,)``, by target.
    """

    seed: int
    data: RolloutData
    measurement: Measurement
    zhu2024: Mapping[str, np.ndarray]
    feng2023: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Environment:
    """What the experts of one environment gave."""

    env_id: str
    cases: Sequence[Case]
    seed: int

    @property
    def name(self) -> str:
        """Without the version."""
        return self.env_id.rsplit("-v", 1)[0]

    @property
    def values(self) -> tuple[str, ...]:
        """Which Q-functions there are, the paper's first."""
        return tuple(name for name in (CRITIC, RETURNS) if name in self.cases[0].zhu2024)

    @property
    def measurements(self) -> list[Measurement]:
        """Of each expert."""
        return [case.measurement for case in self.cases]

    @property
    def published(self) -> Published | None:
        """What is known of this environment, None for one that the papers do not have."""
        return PUBLISHED.get(self.env_id)

    def error(self, target: str, width: int, metric: str) -> Pooled:
        """Return a metric of the networks that are trained alike."""
        return mean_of(Figures.measured(self.measurements, target, width, metric), self.seed)

    def ratio(self, over: str, under: str, width: int, metric: str) -> Pooled:
        """Return the ratio of two targets' errors, of networks that are trained alike."""
        above, below = (
            Figures.measured(self.measurements, target, width, metric) for target in (over, under)
        )
        return ratio_of(above, below, self.seed)

    def protocol(self, name: str, target: str) -> Figures:
        """Return the error of a protocol."""
        return Figures.of_seeds([getattr(case, name)[target] for case in self.cases], self.seed)

    def protocol_ratio(self, name: str, over: str, under: str) -> Pooled:
        """Return the ratio of two targets' errors of a protocol."""
        return ratio_of(self.protocol(name, over), self.protocol(name, under), self.seed)


def run(ctx: RunContext, plan: Plan | None = None) -> Result:
    """Measure every environment of a plan and say which order holds under which metric."""
    if plan is None:
        plan = QUICK if ctx.quick else FULL
    found = [
        Environment(
            env_id, [examine(ctx, env_id, plan, seed) for seed in seeds_of(ctx, plan)], ctx.seed
        )
        for env_id in plan.train_steps
    ]
    tables = [data_table(found)]
    for one in found:
        tables += [ratio_table(one), protocol_table(one, plan), error_table(one)]
    return ctx.result(
        claims=[claim for one in found for claim in claims_of(one)],
        tables=tables,
        figures=[figure for one in found for figure in figures_of(one)],
        files=written(ctx, found),
        text="\n\n".join([ABOUT, *(summary(one) for one in found), cautions(found)]),
    )


ABOUT = (
    "zhu2024, the metric of the paper, is the sum of batch errors over the norm of the targets. It"
    " has the unit of the target and grows with the root of the number of rows, so that Q, a sum of"
    " rewards, and an observation are compared in different units. feng2023 divides an error that"
    " is a mean over dimensions by a variance that is a sum over them. The others are pure"
    " numbers. All are of the same networks and rows, except where a protocol of a paper is named."
)


# What is measured -------------------------------------------------------------------------------


def seeds_of(ctx: RunContext, plan: Plan) -> range:
    """Return the experts' seeds; those of two runs with different seeds are different."""
    return range(ctx.seed * plan.experts, (ctx.seed + 1) * plan.experts)


def examine(ctx: RunContext, env_id: str, plan: Plan, seed: int) -> Case:
    """Get an expert, let it act, and train networks on what it did."""
    data = rollouts(ctx, env_id, plan, seed)
    with one_thread():
        measurement = measured(ctx, data, plan, seed)
        cells = {
            f"{env_id}-{seed}-{name}": partial(protocol, ctx, data, plan, seed)
            for name, protocol in (("zhu2024", zhu_errors), ("feng2023", feng_errors))
        }
        errors = resumed(ctx, cells, f"protocols of the papers, {env_id}")
    zhu, feng = ({name: np.array(row) for name, row in one.items()} for one in errors.values())
    return Case(seed, data, measurement, zhu, feng)


def rollouts(ctx: RunContext, env_id: str, plan: Plan, seed: int) -> RolloutData:
    """Let an expert act with its exploration, and keep what it did as ``rollouts-….npz``."""
    path, name = ctx.out / f"rollouts-{env_id}-{seed}.npz", f"{env_id}-{seed}-rollouts"
    kept = ctx.load_partial(name)
    wanted = {"rows": plan.rows, "train_steps": plan.train_steps[env_id]}
    if kept is not None and kept["plan"] == wanted and path.exists():
        data = RolloutData.from_npz(path)
        if data.fingerprint() == kept["fingerprint"]:
            return data
    expert = expert_of(ctx, env_id, plan.train_steps[env_id], seed)
    data = collection.collect(env_id, expert, plan.rows, seed=seed, progress=ctx.progress)
    if data.critic_q is None and data.n_episodes > 1:
        data = data.whole_episodes()
    data.save(path)
    ctx.save_partial(name, {"plan": wanted, "fingerprint": data.fingerprint()})
    return data


def expert_of(ctx: RunContext, env_id: str, train_steps: int, seed: int) -> experts.Expert:
    """Return a regulator, or a soft actor-critic that goes on from the folder's checkpoints."""
    if not train_steps:
        return experts.lqr(env_id, noise=LQR_NOISE)
    bar = ctx.progress(train_steps, f"training expert {seed} of {env_id}")
    folder: Path = ctx.out / "experts" / f"{env_id}-{seed}"
    return sac_expert(
        env_id, folder, train_steps, seed=seed, device=ctx.device, on_progress=bar.advance
    )


def returns_of(data: RolloutData) -> np.ndarray:
    """Return discounted returns; without a critic nothing is known beyond a time limit."""
    return data.returns(tail="zero" if data.critic_q is None else "bootstrap")


def measured(ctx: RunContext, data: RolloutData, plan: Plan, seed: int) -> Measurement:
    """Train networks on all targets alike, both kinds of Q among them."""
    train = partial(
        measure,
        data,
        widths=plan.widths,
        seeds=plan.seeds,
        metrics=(*METRICS, *OTHER_METRICS),
        steps=plan.steps,
        device=ctx.device,
        seed=seed,
        out=ctx.out / "networks",
        progress=ctx.progress,
    )
    targets = ["next_obs", "delta", "reward", "policy"]
    if data.critic_q is None:
        first = train(targets=targets)
    else:
        first = train(targets=[*targets, "q"], q=data.q("critic", head=0))
    second = train(targets=["q"], q=returns_of(data))
    cells = dict(first.cells)
    for (_, width, number), cell in second.cells.items():
        cells[RETURNS, width, number] = cell
    return Measurement(
        cells,
        first.metrics,
        first.settings | {"q": "first head of the critic", "q_mc": "returns"},
        q_cautions(data, first, cells) + first.cautions,
        seed=seed,
    )


def q_cautions(data: RolloutData, measurement: Measurement, cells: Mapping[Any, Any]) -> list[str]:
    """Return what to keep in mind about the two kinds of Q."""
    found = [
        f"{RETURNS} is single returns of an expert that explores: what chance adds to them counts"
        " as an error that no network could avoid."
    ]
    if data.critic_q is None:
        return found
    found.append(
        f"{CRITIC} is a critic, a smooth network itself, which counts the entropy of the policy as"
        f" reward and may be far from its values; {RETURNS} goes on with it at time limits."
    )
    correlation = np.corrcoef(data.q("critic", head=0), returns_of(data))[0, 1]
    found.append(f"The critic's correlation with returns is {correlation:.2f}.")
    largest = max(cell.parameters for cell in cells.values())
    size = data.info.get("critic_parameters")
    if size is not None and size <= FEW_TIMES * largest:
        found.append(
            f"The critic has {size} parameters, the largest network that learns it {largest}: it is"
            " easy to copy."
        )
    return found


def zhu_errors(ctx: RunContext, data: RolloutData, plan: Plan, seed: int) -> dict[str, list[float]]:
    """Train as the code of Zhu and others does: nothing standardised, nothing held out."""
    train = partial(protocols.zhu2024, epochs=plan.epochs)
    return protocol_errors(ctx, data, plan, seed, train, ["next_obs", "reward"])


def feng_errors(
    ctx: RunContext, data: RolloutData, plan: Plan, seed: int
) -> dict[str, list[float]]:
    """Train as the code of Feng and Zhong does."""
    train = partial(protocols.feng2023, rows_seen=plan.rows_seen)
    bug = plan.q_bug and data.critic_q is not None
    targets = ["next_obs", "reward", "policy"]
    return protocol_errors(ctx, data, plan, seed, train, targets, q_bug=bug)


def protocol_errors(
    ctx: RunContext,
    data: RolloutData,
    plan: Plan,
    seed: int,
    train: Callable[..., protocols.ProtocolResult],
    targets: list[str],
    **options: Any,
) -> dict[str, list[float]]:
    """Return a protocol's errors with a critic's values, where there are any, and with returns."""
    common: dict[str, Any] = {
        "widths": (WIDTH,),
        "seeds": plan.seeds,
        "device": ctx.device,
        "seed": seed,
        "progress": ctx.progress,
    }
    if data.critic_q is not None:
        targets = [*targets, "q"]
    result = train(data, targets=targets, **common, **options)
    errors = {name: result.errors[name, WIDTH].tolist() for name in targets}
    # A protocol takes a critic's first head; returns take its place.
    given = replace(data, critic_q=returns_of(data)[:, None])
    result = train(given, targets=["q"], **common)
    return errors | {RETURNS: result.errors["q", WIDTH].tolist()}


# What it says -----------------------------------------------------------------------------------

WORDS = {
    "zhu2024": "the paper's metric, networks trained alike",
    "nrmse_uncentred": "the paper's errors made pure numbers",
    "fvu": "the unexplained fraction of variance",
    "fvu_perdim": "the unexplained fraction of variance, a mean over dimensions",
}
TARGETS = {
    "next_obs": "the next observation",
    "delta": "the change of the observation",
    CRITIC: "the critic's Q",
    RETURNS: "Q as returns",
}
CRITERION = (
    "95 %; experts, network seeds and episodes are resampled. Holds if the whole interval is above"
    " 1, fails if it is below, is open otherwise."
)


def claims_of(found: Environment) -> list[Claim]:
    """Return the order under both papers' protocols, and under other metrics on the same rows."""
    claims = [zhu_claim(found), feng_claim(found)]
    main = found.values[0]
    compared = [(main, "next_obs", metric) for metric in WORDS] + [(main, "delta", "fvu")]
    if RETURNS != main:
        compared += [(RETURNS, "next_obs", metric) for metric in ("zhu2024", "fvu")]
    return claims + [metric_claim(found, *row) for row in compared]


def zhu_claim(found: Environment) -> Claim:
    """Return the paper's order under its own protocol."""
    main, published = found.values[0], found.published
    ratio = found.protocol_ratio("zhu2024", main, "next_obs")
    small = found.protocol_ratio("zhu2024", "next_obs", "reward")
    logged = published.zhu2024 if published else {}
    return Claim(
        f"{found.name}-zhu2024-protocol",
        f"{found.name}: reward < transition < Q under the paper's metric and protocol",
        ratio_from(logged, "q", "next_obs"),
        ratio.value,
        (ratio.low, ratio.high),
        all_above_one([ratio, small]),
        note=f"Measured: error of {TARGETS[main]} over that of the transition. Transition over"
        f" reward: {spelled(small)}{beside(ratio_from(logged, 'next_obs', 'reward'))}. 95 %;"
        " experts and network seeds are resampled. Holds if both intervals are above 1. Published:"
        f" logs of the paper's code. {each_expert(ratio)}{other_values(found)}",
    )


def feng_claim(found: Environment) -> Claim:
    """Return the order of the other paper under its own protocol."""
    main, published = found.values[0], found.published
    ratio = found.protocol_ratio("feng2023", main, "next_obs")
    steps = [("policy", "next_obs"), (main, "policy")]
    parts = [found.protocol_ratio("feng2023", *pair) for pair in steps]
    read = published.feng2023 if published else {}
    return Claim(
        f"{found.name}-feng2023-protocol",
        f"{found.name}: transition < policy < Q under the protocol of Feng and Zhong",
        ratio_from(read, "q", "next_obs"),
        ratio.value,
        (ratio.low, ratio.high),
        all_above_one(parts),
        note=f"Measured: error of {TARGETS[main]} over that of the transition. Policy over"
        f" transition: {spelled(parts[0])}{beside(ratio_from(read, 'policy', 'next_obs'))}; Q over"
        f" policy: {spelled(parts[1])}{beside(ratio_from(read, 'q', 'policy'))}. 95 %; experts"
        " and network seeds are resampled. Holds if both of these intervals are above 1. Published:"
        " read off figures, with experts trained by TD3. The error of a vector is √d times too"
        f" small in this metric. {each_expert(ratio)}{other_values(found)}",
    )


def metric_claim(found: Environment, q: str, model: str, metric: str) -> Claim:
    """Return whether Q is the harder one under a metric, networks trained alike."""
    row = found.ratio(q, model, WIDTH, metric)
    published, figure = found.published, None
    if published is not None and model == "next_obs" and q == found.values[0]:
        known = {"zhu2024": published.zhu2024, "nrmse_uncentred": published.scale_free}
        figure = ratio_from(known.get(metric, {}), "q", "next_obs")
    ending = "" if model == "next_obs" else f"-{model}"
    return Claim(
        f"{found.name}-{q}-{metric}{ending}",
        f"{found.name}: {TARGETS[q]} is harder to represent than {TARGETS[model]} by"
        f" {WORDS[metric]}",
        figure,
        row.value,
        (row.low, row.high) if np.isfinite([row.low, row.high]).all() else None,
        row.above_one,
        note=f"Error of Q over that of the transition, networks 2 × {WIDTH}. {CRITERION}"
        f" {each_expert(row)}{other_values(found)}",
    )


def ratio_from(errors: Mapping[str, float], over: str, under: str) -> float | None:
    """Return the ratio of two published errors, None where there are none."""
    if over not in errors or not errors.get(under):
        return None
    return errors[over] / errors[under]


def beside(published: float | None) -> str:
    """Write a published figure in brackets."""
    return "" if published is None else f" (published {published:.3g})"


def all_above_one(ratios: Sequence[Pooled]) -> bool | None:
    """Say whether all are above 1; one below decides, and one that is open leaves it open."""
    ends = [ratio.above_one for ratio in ratios]
    return False if False in ends else None if None in ends else True


def each_expert(ratio: Pooled) -> str:
    """Write a ratio of each expert; three are few, and a reader must see them all."""
    if len(ratio.each) == 1:
        return "One expert."
    values = ", ".join(number(value) for value in ratio.each)
    return (
        f"Single experts: {values}. They are few: the interval spans about from the least to the"
        " greatest of them."
    )


def other_values(found: Environment) -> str:
    """Say where Q is not what it was in the papers."""
    if CRITIC in found.values:
        return ""
    return (
        " Q is returns of a noisy regulator, whose chance no network can explain; published figures"
        " are of critics."
    )


def summary(found: Environment) -> str:
    """Return what the metrics say together: never one of them alone."""
    lines = []
    for q in found.values:
        for model in ("next_obs", "delta"):
            outcomes = {name: outcome(found.ratio(q, model, WIDTH, name)) for name in METRICS}
            words = "; ".join(f"{name}: {word}" for name, word in outcomes.items())
            head = agreed(list(outcomes.values()))
            lines.append(f"{TARGETS[q]} against {TARGETS[model]}: {head} ({words}).")
    alone = {
        case.seed: case.measurement.verdict(model="next_obs", q=found.values[0]).headline
        for case in found.cases
    }
    said = ", ".join(f"expert {seed}: {headline}" for seed, headline in alone.items())
    lines.append(f"By itself, at all widths, against the next observation: {said}.")
    head = f"{found.env_id}, on the states that these experts visit, networks 2 × {WIDTH}. "
    return head + " ".join(line[0].upper() + line[1:] for line in lines)


def outcome(ratio: Pooled) -> str:
    """Say which is represented better under one metric."""
    if np.isnan(ratio.value):
        return "undefined"
    return {True: "model easier", False: "Q easier", None: "inconclusive"}[ratio.above_one]


def agreed(outcomes: Sequence[str]) -> str:
    """Return the outcome all metrics share, or that they do not."""
    different = set(outcomes) - {"undefined"}
    return different.pop() if len(different) == 1 else "depends on metric"


def cautions(found: Sequence[Environment]) -> str:
    """Return every caution once, with the environments and experts it is about."""
    about: dict[str, list[str]] = {}
    for one in found:
        for case in one.cases:
            for sentence in case.measurement.verdict(model="next_obs", q=one.values[0]).cautions:
                about.setdefault(sentence, []).append(f"{one.name} {case.seed}")
    everywhere = sum(len(one.cases) for one in found)
    lines = [
        sentence if len(names) == everywhere else f"{', '.join(names)}: {sentence}"
        for sentence, names in about.items()
    ]
    general = [
        "Experts are trained for minutes: these are no statements about Q*, nor about states that"
        " they do not visit.",
        "Networks of one width have more outputs for a vector than for a number; their parameters"
        " are in the tables.",
    ]
    known = [NOTES[one.env_id] for one in found if one.env_id in NOTES]
    return "Cautions. " + " ".join([*general, *known, *lines])


# Tables -----------------------------------------------------------------------------------------


def data_table(found: Sequence[Environment]) -> Table:
    """Return a row for each expert: what was measured."""
    rows: list[list[Any]] = []
    for one in found:
        for case in one.cases:
            data = case.data
            earned = np.bincount(data.episodes, data.rewards)
            test = case.measurement.cells[one.values[0], WIDTH, case.measurement.seeds[0]].sums[
                "test"
            ]
            critic = None if data.critic_q is None else rms(data.q("critic", head=0))
            rows.append(
                [
                    one.env_id,
                    case.seed,
                    str(data.info["expert"]),
                    len(data),
                    data.n_episodes,
                    int((test.rows > 0).sum()),
                    float(earned.mean()),
                    data.observations.shape[1],
                    rms(data.next_observations),
                    critic,
                    rms(returns_of(data)),
                ]
            )
    columns = ["environment", "seed", "expert", "rows", "episodes", "held-out clusters"]
    columns += [
        "mean return",
        "dimensions",
        "rms of observations",
        "rms of critic",
        "rms of returns",
    ]
    return Table(
        "What was measured",
        columns,
        rows,
        "Returns are those of an expert that explores. Held-out episodes are resampled as wholes,"
        " in at most 64 clusters.",
    )


def rms(values: np.ndarray) -> float:
    """Return the root of the mean square."""
    return float(np.sqrt(np.mean(values**2)))


def ratio_table(found: Environment) -> Table:
    """Return a row for each comparison and metric: all experts together, and each by itself."""
    rows: list[list[Any]] = []
    for q in found.values:
        for model in ("next_obs", "delta"):
            for metric in METRICS:
                ratio = found.ratio(q, model, WIDTH, metric)
                rows.append([f"{q} / {model}", metric, spelled(ratio), outcome(ratio)])
                rows[-1] += [number(value) for value in ratio.each]
    columns = ["errors", "metric", "ratio", "outcome"]
    return Table(
        f"Error of Q over error of the transition on {found.env_id}, networks 2 × {WIDTH}",
        [*columns, *(f"expert {case.seed}" for case in found.cases)],
        rows,
        "In brackets: 95 %, experts, network seeds and episodes resampled. The ratio is the"
        " geometric mean over experts. zhu2024 and both of feng2023 are over training rows, as in"
        " their sources, the others over held-out episodes.",
    )


def protocol_table(found: Environment, plan: Plan) -> Table:
    """Return a row for each protocol and target, as its paper's code measures."""
    published = found.published
    known = {} if published is None else {name: getattr(published, name) for name in METHODS}
    rows: list[list[Any]] = []
    for name, target, figures in protocol_rows(found):
        error = mean_of(figures, found.seed)
        figure = known.get(name.removesuffix(" × √d"), {}).get(target)
        if figure is not None and name.endswith("√d"):
            figure *= np.sqrt(dimensions(found.cases[0].data, target))
        row = [name, target, spelled(error), None if figure is None else float(figure)]
        rows.append([*row, *(number(value) for value in error.each)])
    longer = np.sqrt(99_999 / len(found.cases[0].data))
    return Table(
        f"Protocols of the papers on {found.env_id}, networks 2 × {WIDTH}",
        ["error", "target", "mean", "published", *(f"expert {case.seed}" for case in found.cases)],
        rows,
        "In brackets: 95 %, experts and network seeds resampled. Nothing is held out or"
        f" standardised. zhu2024: {plan.epochs} passes, in place of 100; it grows as the root of"
        f" the number of rows, by {longer:.2g} up to the paper's 99,999. scale_free: the same"
        f" errors as √(Σ‖ŷ − y‖² / Σ‖y‖²). feng2023: {plan.rows_seen:,} rows seen, in place of 9"
        " million; × √d: with squared errors of dimensions added up as variances are.",
    )


METHODS = ("zhu2024", "scale_free", "feng2023")


def protocol_rows(found: Environment) -> Iterator[tuple[str, str, Figures]]:
    """Yield the name of an error, its target and its figures."""
    for target in found.cases[0].zhu2024:
        yield "zhu2024", target, found.protocol("zhu2024", target)
    for target in found.cases[0].zhu2024:
        errors = [scale_free(case, target) for case in found.cases]
        yield "scale_free", target, Figures.of_seeds(errors, found.seed)
    for factor in ("feng2023", "feng2023 × √d"):
        for target in found.cases[0].feng2023:
            figures = found.protocol("feng2023", target)
            size = 1.0 if factor == "feng2023" else dimensions(found.cases[0].data, target) ** 0.5
            yield factor, target, Figures(figures.points * size, figures.samples * size)


def scale_free(case: Case, target: str) -> np.ndarray:
    """Recover √(Σ‖ŷ − y‖² / Σ‖y‖²) from errors of the protocol, ``(seeds,)``.

    With B batches, n rows and d dimensions such an error is B / √(n d) · rms(Y) times its square.
    """
    values = values_of(case.data, target)
    batches = -(-len(values) // ZHU_BATCH_SIZE)
    scale = batches / np.sqrt(values.size) * rms(values)
    return np.sqrt(case.zhu2024[target] / scale)


def values_of(data: RolloutData, target: str) -> np.ndarray:
    """Return what a network of the protocols learns, ``(n, d)``."""
    if target == "next_obs":
        return data.next_observations
    if target == RETURNS:
        return returns_of(data)[:, None]
    return data.rewards[:, None] if target == "reward" else data.q("critic", head=0)[:, None]


def dimensions(data: RolloutData, target: str) -> int:
    """Return how many numbers a target has."""
    sizes = {"next_obs": data.observations.shape[1], "policy": data.actions.shape[1]}
    return sizes.get(target, 1)


def error_table(found: Environment) -> Table:
    """Return a row for each target and width, each metric with its interval."""
    names = (*METRICS, *OTHER_METRICS)
    rows: list[list[Any]] = []
    for target in found.measurements[0].targets:
        for width in found.measurements[0].widths:
            row: list[Any] = [target, width, parameters(found, target, width)]
            for metric in names:
                row.append(spelled(found.error(target, width, metric), degenerate(found, target)))
            rows.append(row)
    return Table(
        f"Errors of networks trained alike on {found.env_id}",
        ["target", "width", "parameters", *names],
        rows,
        "In brackets: 95 %, experts, network seeds and episodes resampled. zhu2024 and both of"
        " feng2023 are over training rows, as in their sources, the others over held-out episodes."
        " skill: 1 − MSE / MSE of the prediction that nothing changes. Degenerate: the target is"
        " constant, so that there is no variance to explain.",
    )


def parameters(found: Environment, target: str, width: int) -> int:
    """Return how many parameters a network has."""
    first = found.measurements[0]
    return first.cells[target, width, first.seeds[0]].parameters


def degenerate(found: Environment, target: str) -> bool:
    """Say whether a target is constant for every expert."""
    estimates = [one.estimate(target, WIDTH, "fvu") for one in found.measurements]
    return all(estimate.degenerate for estimate in estimates)


def spelled(figure: Pooled, is_degenerate: bool = False) -> str:
    """Write a value with its interval; what is not defined for some experts says so."""
    if np.isnan(figure.value):
        return "degenerate" if is_degenerate else "–"
    known = int((~np.isnan(figure.each)).sum())
    part = "" if known == len(figure.each) else f", {known} of {len(figure.each)} experts"
    return f"{figure.value:.3g} [{figure.low:.3g}, {figure.high:.3g}]{part}"


def number(value: float) -> str:
    """Write a number; a dash where it is not defined."""
    return "–" if np.isnan(value) else f"{value:.3g}"


# Files and figures ------------------------------------------------------------------------------

COLUMNS = ("environment", "expert", "networks", "target", "width", "parameters", "metric")


def written(ctx: RunContext, found: Sequence[Environment]) -> list[str]:
    """Write all errors as CSV and every expert's measurement as JSON; return the files' names."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*COLUMNS, "value", "low", "high"])
    for one in found:
        writer.writerows(csv_rows(one))
    write_atomic(ctx.out / "errors.csv", buffer.getvalue())
    files = ["errors.csv"]
    for one in found:
        for case in one.cases:
            files.append(f"{one.env_id}-{case.seed}.json")
            case.measurement.to_json(ctx.out / files[-1])
    return files


def csv_rows(found: Environment) -> Iterator[list[Any]]:
    """Yield a row for each error: of each expert, and of all together."""
    for case in found.cases:
        for row in case.measurement.estimates():
            head = [found.env_id, case.seed, "alike", row.target, row.width, row.parameters]
            yield [*head, row.metric, row.value, row.low, row.high]
    for target in found.measurements[0].targets:
        for width in found.measurements[0].widths:
            for metric in found.measurements[0].metrics:
                error = found.error(target, width, metric)
                size = parameters(found, target, width)
                head = [found.env_id, "all", "alike", target, width, size]
                yield [*head, metric, error.value, error.low, error.high]
    for name, target, figures in protocol_rows(found):
        error = mean_of(figures, found.seed)
        size = parameters(found, target, WIDTH)
        head = [found.env_id, "all", "protocol", target, WIDTH, size, name]
        yield [*head, error.value, error.low, error.high]
        for case, value in zip(found.cases, error.each, strict=True):
            yield [found.env_id, case.seed, *head[2:], value, None, None]


def figures_of(found: Environment) -> list[Figure]:
    """Draw ratios and errors; nothing without matplotlib, which is optional."""
    from modicum.repcomplexity import plots

    q, widths = found.values[0], list(found.measurements[0].widths)
    ratios = {
        metric: [found.ratio(q, "next_obs", width, metric).value for width in widths]
        for metric in METRICS
    }
    title = f"Error of {TARGETS[q]} over error of the next observation, {found.env_id}"
    try:
        figure = plots.metric_disagreement(ratios, widths, title=title)
    except ImportError:
        return []
    words = "; ".join(f"{name}: {', '.join(map(number, row))}" for name, row in ratios.items())
    drawn = [
        Figure.from_matplotlib(
            figure,
            title,
            "Above 1 the transition is represented better, below 1 Q is.",
            f"Ratios by metric for widths {', '.join(map(str, widths))}: {words}.",
        )
    ]
    return drawn + [curves_of(found, metric) for metric in ("zhu2024", "fvu")]


def curves_of(found: Environment, metric: str) -> Figure:
    """Draw a metric against parameters, a line for each target."""
    from modicum.repcomplexity import plots

    curves, words = {}, []
    for target in found.measurements[0].targets:
        widths = found.measurements[0].widths
        errors = [found.error(target, width, metric) for width in widths]
        sizes = [parameters(found, target, width) for width in widths]
        ends = [[getattr(error, end) for error in errors] for end in ("value", "low", "high")]
        curves[target] = [sizes, *ends]
        words.append(f"{target}: {', '.join(number(error.value) for error in errors)}")
    title = f"{metric} against parameters, {found.env_id}"
    return Figure.from_matplotlib(
        plots.error_against_parameters(curves, ylabel=metric),
        title,
        "Bands: 95 %, experts, network seeds and episodes resampled.",
        f"{title}. {'; '.join(words)}.",
    )
