"""Does what is easy to represent take fewer samples to learn? Models against Q-functions.

In the Majority MDP a random policy gathers transitions. From the same transitions, with
networks of the same hidden layers and the same total of updates, one learner fits the bits of the
model, rounds them and plans in what it has learnt by backward induction; the other fits the
Q-function of each step, the last step first, from the values of the next (fitted Q-iteration). Both
act greedily, from every state, and earn a fraction of what is optimal.

A Q-network goes on from the one of the next step, so that it is trained the more often the earlier
its step. Values that are fitted may be rounded: all rewards are integers, and the other learner
rounds as well. Both ways are run, and the better one counts.

Shapes: S states, A actions, H steps, R transitions, N networks, m bits of a state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator, one_thread
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.core.stats import bootstrap_interval
from modicum.repcomplexity.ensemble import MLPEnsemble, NetworkSpec, Problem
from modicum.repcomplexity.experiments._training import resumed
from modicum.repcomplexity.families import MajorityMDP
from modicum.repcomplexity.solver import solve

WIDTH = 32
"""Units of each of two hidden layers."""
BATCH_SIZE = 256
LR = 3e-3
"""Adam's step size of both learners: of 1e-3, 3e-3 and 1e-2, the one at which fitted Q earned most
from 64,000 samples; planning earned all there is at each."""
ENOUGH = 0.95
"""Fraction of the optimal return that counts as having learnt."""
LEAST_RATIO = 4.0
"""How many times as many samples the Q-function must take."""

MODEL = "model, planning"
Q_REAL, Q_ROUNDED = "fitted Q", "fitted Q, rounded"
LEARNERS = (MODEL, Q_REAL, Q_ROUNDED)


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes
    ----------
    n
        Representation bits.
    sizes
        Numbers of transitions.
    seeds
        Independent samples and networks.
    updates
        Updates of a learner, all its networks together.
    longer
        How many times as many updates fitted Q-iteration gets in a run of its own with the most
        transitions, which tells whether updates are what it lacks; 0 for no such run.
    """

    n: int
    sizes: tuple[int, ...]
    seeds: int
    updates: int
    longer: int


FULL = Plan(
    n=8, sizes=(1000, 2000, 4000, 8000, 16_000, 32_000, 64_000), seeds=10, updates=12_000, longer=4
)
QUICK = Plan(n=4, sizes=(256, 1024), seeds=3, updates=1200, longer=0)


@dataclass(frozen=True, eq=False)
class Samples:
    """Transitions of a process: codes, actions, next codes and rewards, int64 ``(R,)`` each."""

    codes: np.ndarray
    actions: np.ndarray
    following: np.ndarray
    rewards: np.ndarray


Curves = Mapping[str, np.ndarray]
"""For each learner its fraction of the optimal return, ``(sizes, seeds)``."""


def run(ctx: RunContext) -> Result:
    """Train both learners on every number of transitions and compare what they earn."""
    plan = QUICK if ctx.quick else FULL
    mdp = MajorityMDP(plan.n)
    with one_thread():
        found = resumed(ctx, cells(mdp, plan, ctx.seed, ctx.device), "learning from samples")
    curves = {
        name: np.array([found[f"{kind_of(name)}-{size}"][name] for size in plan.sizes])
        for name in LEARNERS
    }
    longer = found.get("longer")
    return ctx.result(
        claims=[claim(plan, curves, longer)],
        tables=[table(plan, curves, longer)],
        figures=figures(plan, curves),
        text=ABOUT.format(updates=plan.updates, each=plan.updates // steps_of(mdp)),
    )


ABOUT = (
    "Both learners get the same transitions of a uniformly random policy and {updates} updates of "
    "Adam in all, on batches of the same size and by networks with the same hidden layers: the "
    "model has all of them, each of the Q-functions of the 12 steps has {each} and starts from the "
    "network of the step after it. Inputs are ±1, targets are standardised. Nobody published these "
    "curves."
)


def cells(
    mdp: MajorityMDP, plan: Plan, seed: int, device: str
) -> dict[str, Callable[[], dict[str, list[float]]]]:
    """Return what is trained at once: one learner with one number of transitions, all seeds."""
    made: dict[str, Callable[[], dict[str, list[float]]]] = {}
    for size in plan.sizes:
        made[f"model-{size}"] = partial(by_model, mdp, size, plan.seeds, plan.updates, seed, device)
        made[f"q-{size}"] = partial(by_q, mdp, size, plan.seeds, plan.updates, seed, device)
    if plan.longer:
        updates = plan.longer * plan.updates
        made["longer"] = partial(by_q, mdp, plan.sizes[-1], plan.seeds, updates, seed, device)
    return made


def kind_of(learner: str) -> str:
    """Return the beginning of the names of a learner's cells."""
    return "model" if learner == MODEL else "q"


def steps_of(mdp: MajorityMDP) -> int:
    """Return H."""
    assert mdp.horizon is not None
    return mdp.horizon


# Learning ---------------------------------------------------------------------------------------


def samples(mdp: MajorityMDP, count: int, rng: np.random.Generator) -> Samples:
    """Gather transitions of a uniformly random policy, episode after episode."""
    horizon = steps_of(mdp)
    episodes = math.ceil(count / horizon)
    codes = mdp.sample_states(episodes, rng)
    columns = []
    for _ in range(horizon):
        actions = rng.integers(mdp.n_actions, size=episodes)
        following = mdp.next_codes(codes, actions)
        columns.append((codes, actions, following, mdp.rewards(codes, actions)))
        codes = following
    parts = [np.stack(part, axis=1).reshape(-1)[:count] for part in zip(*columns, strict=True)]
    return Samples(*parts)


def drawn(mdp: MajorityMDP, size: int, seeds: int, seed: int) -> list[Samples]:
    """Give the transitions of each seed: both learners get the same."""
    return [
        samples(mdp, size, numpy_generator(seed, "sample efficiency", size, number))
        for number in range(seeds)
    ]


def inputs(mdp: MajorityMDP, codes: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Return bits of states and actions as ±1, ``(R, m + 1)``."""
    signs_Rm = mdp.observe(codes, "sign")
    return np.column_stack([signs_Rm, 1 - 2 * actions]).astype(np.float32)


def all_pairs(mdp: MajorityMDP) -> tuple[np.ndarray, np.ndarray]:
    """Return every state with every action, ``(A·S,)`` each, action after action."""
    codes, actions = np.arange(mdp.n_states), np.arange(mdp.n_actions)
    return np.tile(codes, mdp.n_actions), np.repeat(actions, mdp.n_states)


def by_model(
    mdp: MajorityMDP, size: int, seeds: int, updates: int, seed: int, device: str
) -> dict[str, list[float]]:
    """Fit next states and rewards, plan in the rounded model, and return what that earns."""
    scaled, problems = [], []
    for one in drawn(mdp, size, seeds, seed):
        bits_Rm = mdp.observe(one.following, "bool")
        target = Scaled.of(np.column_stack([bits_Rm, one.rewards]))
        scaled.append(target)
        problems.append(Problem(inputs(mdp, one.codes, one.actions), target.values))
    networks = [NetworkSpec(number, WIDTH, seed + number) for number in range(seeds)]
    ensemble = MLPEnsemble(problems, networks, lr=LR, device=device)
    ensemble.fit(updates, BATCH_SIZE)
    everything = inputs(mdp, *all_pairs(mdp))
    fractions = []
    for number in range(seeds):
        outputs = scaled[number].back(ensemble.predict(number, everything)) > 0.5
        following = codes_of(mdp, outputs[:, :-1])
        shape = (mdp.n_actions, mdp.n_states)
        policy = plan_in(following.reshape(shape), outputs[:, -1].reshape(shape), steps_of(mdp))
        fractions.append(earned(mdp, policy))
    return {MODEL: fractions}


def by_q(
    mdp: MajorityMDP, size: int, seeds: int, updates: int, seed: int, device: str
) -> dict[str, list[float]]:
    """Fit the Q-function of every step, the last first, and return what greedy actions earn."""
    data = drawn(mdp, size, seeds, seed)
    rounds = [name == Q_ROUNDED for _ in data for name in (Q_REAL, Q_ROUNDED)]
    sample_N = [one for one in data for _ in range(2)]
    # One array of inputs for both networks of a seed, which the ensemble then holds once.
    inputs_of = [inputs(mdp, one.codes, one.actions) for one in data]
    nothing = np.zeros((size, 1), np.float32)
    problems = [Problem(inputs_of[row // 2], nothing) for row in range(len(rounds))]
    networks = [NetworkSpec(row, WIDTH, seed + row // 2) for row in range(len(rounds))]
    ensemble = MLPEnsemble(problems, networks, lr=LR, device=device)
    horizon, everything = steps_of(mdp), inputs(mdp, *all_pairs(mdp))
    values_NS = np.zeros((len(rounds), mdp.n_states))
    policies = np.zeros((len(rounds), horizon, mdp.n_states), dtype=np.int64)
    for step in reversed(range(horizon)):
        targets = []
        for row, one in enumerate(sample_N):
            returns_R = one.rewards + values_NS[row, one.following]
            targets.append(Scaled.of(returns_R[:, None]))
            ensemble.retarget(row, targets[-1].values)
        ensemble.fit(max(1, updates // horizon), BATCH_SIZE)
        for row, rounded in enumerate(rounds):
            q_AS = targets[row].back(ensemble.predict(row, everything))
            q_AS = q_AS.reshape(mdp.n_actions, mdp.n_states)
            policies[row, step] = q_AS.argmax(0)
            # As both learners know, a reward is 0 or 1.
            values_NS[row] = q_AS.max(0).clip(0, horizon - step)
            if rounded:
                values_NS[row] = values_NS[row].round()
    found: dict[str, list[float]] = {Q_REAL: [], Q_ROUNDED: []}
    for rounded, policy in zip(rounds, policies, strict=True):
        found[Q_ROUNDED if rounded else Q_REAL].append(earned(mdp, policy))
    return found


@dataclass(frozen=True, eq=False)
class Scaled:
    """Targets with mean 0 and variance 1, float32 ``(R, d)``, and how to come back."""

    values: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, targets_Rd: np.ndarray) -> Scaled:
        """Standardise; a column that does not vary becomes zero."""
        numbers = np.asarray(targets_Rd, np.float64)
        mean, scale = numbers.mean(0), numbers.std(0)
        scale = np.where(scale > 0, scale, 1.0)
        return cls(((numbers - mean) / scale).astype(np.float32), mean, scale)

    def back(self, predictions: np.ndarray) -> np.ndarray:
        """Return predictions in the targets' own unit."""
        return predictions * self.scale + self.mean


def codes_of(mdp: MajorityMDP, bits_Rm: np.ndarray) -> np.ndarray:
    """Return the codes of states that are seen as bits; inverse of `MajorityMDP.observe`."""
    powers = np.int64(1) << np.array(mdp.observation_order, dtype=np.int64)
    return bits_Rm.astype(np.int64) @ powers


# Acting -----------------------------------------------------------------------------------------


def plan_in(following_AS: np.ndarray, rewards_AS: np.ndarray, horizon: int) -> np.ndarray:
    """Return an optimal policy ``(H, S)`` of a model by backward induction; ties go to action 0."""
    values_S = np.zeros(following_AS.shape[1])
    policy = np.zeros((horizon, len(values_S)), dtype=np.int64)
    for step in reversed(range(horizon)):
        q_AS = rewards_AS + values_S[following_AS]
        policy[step], values_S = q_AS.argmax(0), q_AS.max(0)
    return policy


def earned(mdp: MajorityMDP, policy_HS: np.ndarray) -> float:
    """Return the return of a policy over the optimal one, both from all states, exactly."""
    codes, total = np.arange(mdp.n_states), 0
    for actions_S in policy_HS:
        actions = actions_S[codes]
        total += int(mdp.rewards(codes, actions).sum())
        codes = mdp.next_codes(codes, actions)
    return total / float(solve(mdp).V.sum())


# What it says -----------------------------------------------------------------------------------


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of the middle half along the last axis, as the package rliable takes it."""
    from scipy.stats import trim_mean

    return np.asarray(trim_mean(values, 0.25, axis=-1))


def first_size(sizes: Sequence[int], means: np.ndarray) -> np.ndarray:
    """Return the fewest samples from which means ``(sizes, …)`` are enough; inf where none is."""
    enough = means >= ENOUGH
    first = np.array(sizes, float)[enough.argmax(0)]
    return np.where(enough.any(0), first, np.inf)


def samples_needed(sizes: Sequence[int], curves: Curves) -> dict[str, np.ndarray]:
    """Return how many samples each learner needs; ``curves`` may have resamples in the middle."""
    return {name: first_size(sizes, interquartile_mean(curve)) for name, curve in curves.items()}


def ratio(sizes: Sequence[int], curves: Curves) -> np.ndarray:
    """Return how many times as many samples the better fitted Q needs.

    Where it never learns, the most samples tried count, so that the ratio is a lower bound. NaN
    where the model does not learn either, 0 where only the Q-function does.
    """
    needed = samples_needed(sizes, curves)
    by_values = np.minimum(needed[Q_REAL], needed[Q_ROUNDED])
    known = np.minimum(by_values, sizes[-1]) / needed[MODEL]
    return np.where(np.isinf(by_values) & np.isinf(needed[MODEL]), np.nan, known)


def ratio_interval(sizes: Sequence[int], curves: Curves) -> tuple[float, float] | None:
    """Return the bootstrap interval of `ratio` over seeds, the same draws for all learners.

    None where a resample leaves the ratio open.
    """
    count = curves[MODEL].shape[1]

    def statistic(index_Bn: np.ndarray) -> np.ndarray:
        at = index_Bn.astype(np.int64)
        return ratio(sizes, {name: curve[:, at] for name, curve in curves.items()})

    try:
        return bootstrap_interval(np.arange(count, dtype=float), statistic)
    except ValueError:
        return None


def claim(plan: Plan, curves: Curves, longer: Mapping[str, Sequence[float]] | None = None) -> Claim:
    """Judge whether the model is learnt from so many times fewer samples."""
    needed = {name: float(value) for name, value in samples_needed(plan.sizes, curves).items()}
    measured = float(ratio(plan.sizes, curves))
    interval = ratio_interval(plan.sizes, curves)
    by_values = min(needed[Q_REAL], needed[Q_ROUNDED])
    holds: bool | None
    if math.isinf(needed[MODEL]):
        # Nothing is known where no learner came so far; the claim is that the model does.
        holds = False
    elif measured >= LEAST_RATIO:
        holds = True if interval is not None and interval[0] >= LEAST_RATIO else None
    else:
        # With more samples than were tried, a Q-function that never learns may still need as many.
        holds = None if math.isinf(by_values) else False
    told = "; ".join(f"{name}: {spelled_size(needed[name], plan)}" for name in LEARNERS)
    bound = " The ratio is a lower bound." if math.isinf(by_values) else ""
    if longer is not None:
        best = max(float(interquartile_mean(np.array(one))) for one in longer.values())
        bound += (
            f" With {plan.longer} times the updates and {plan.sizes[-1]} samples, the better fitted"
            f" Q earns {best:.1%} of the optimal return."
        )
    return Claim(
        "fewer_samples",
        f"Planning in a learnt model reaches {ENOUGH:.0%} of the optimal return with at least "
        f"{LEAST_RATIO:g} times fewer samples than fitted Q-iteration",
        None,
        0.0 if math.isnan(measured) else measured,
        interval,
        holds,
        "times as many samples",
        f"Samples to {ENOUGH:.0%}, interquartile mean of {plan.seeds} seeds: {told}. The better of "
        f"both fitted Q counts.{bound} 95 %, seeds resampled. Majority MDP, n = {plan.n}, networks "
        f"2 × {WIDTH}, {plan.updates} updates of each learner.",
    )


def spelled_size(size: float, plan: Plan) -> str:
    """Write a number of samples, or that it was not enough."""
    return f"{size:.0f}" if math.isfinite(size) else f"more than {plan.sizes[-1]}"


def table(plan: Plan, curves: Curves, longer: Mapping[str, Sequence[float]] | None) -> Table:
    """Return a row for each number of samples and learner."""
    rows: list[list[Any]] = []
    for index, size in enumerate(plan.sizes):
        for name in LEARNERS:
            rows.append(row_of(size, name, plan.updates, curves[name][index]))
    if longer is not None:
        for name in (Q_REAL, Q_ROUNDED):
            updates = plan.longer * plan.updates
            rows.append(row_of(plan.sizes[-1], name, updates, np.array(longer[name])))
    columns = ["samples", "learner", "updates", "IQM", "low", "high", "least", "most"]
    return Table(
        "Greedy return over the optimal return",
        columns,
        rows,
        f"Mean over all states as the first; interquartile mean of {plan.seeds} seeds, 95 % by "
        "resampling them. Rounded: values of the next step are rounded before they are fitted.",
    )


def row_of(size: int, name: str, updates: int, fractions: np.ndarray) -> list[Any]:
    """Return a row of the table."""
    low, high = bootstrap_interval(fractions, interquartile_mean)
    middle = float(interquartile_mean(fractions))
    return [size, name, updates, middle, low, high, float(fractions.min()), float(fractions.max())]


def figures(plan: Plan, curves: Curves) -> list[Figure]:
    """Draw returns over samples; nothing without matplotlib, which is optional."""
    from modicum.core.plots import GREY, look, new_axes

    try:
        figure, axes = new_axes("modicum-repcomplexity")
    except ImportError:
        return []
    for index, name in enumerate(LEARNERS):
        ends = [bootstrap_interval(one, interquartile_mean) for one in curves[name]]
        low, high = zip(*ends, strict=True)
        style = look(index)
        middle = interquartile_mean(curves[name])
        axes.plot(plan.sizes, middle, marker="o", markersize=3, label=name, **style)
        axes.fill_between(plan.sizes, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.axhline(ENOUGH, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.set_xlabel("samples")
    axes.set_ylabel("greedy return / optimal return")
    axes.legend(frameon=False)
    words = "; ".join(
        f"{name}: {', '.join(f'{value:.2f}' for value in interquartile_mean(curves[name]))}"
        for name in LEARNERS
    )
    return [
        Figure.from_matplotlib(
            figure,
            "What is earned after so many samples",
            f"Interquartile mean of {plan.seeds} seeds with 95 % intervals; dotted: {ENOUGH:.0%}.",
            f"Fraction of the optimal return with {', '.join(map(str, plan.sizes))} samples: "
            f"{words}.",
        )
    ]
