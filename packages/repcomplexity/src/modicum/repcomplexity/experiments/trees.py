"""Regression trees on the Majority MDP: few leaves hold a bit of the next state, none hold Q*.

Trees with a given number of leaves are grown greedily, the best split first, on rows drawn
uniformly, and held to rows drawn after them. A bit of the next representation takes 2 (b + 2)
leaves, one for each term of its normal forms, so that a tree with few more can equal it. Q* of step
1 comes from its closed form, so that 32 bits need no table of states.

What is measured is what greedy growth finds. For the bits of the pointer the two differ: the lowest
bit of the next pointer is a parity of two inputs, which no first split improves.

Legend: ``S`` seeds, ``L`` numbers of leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from modicum.core.device import one_thread
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.core.stats import clopper_pearson, paired_difference
from modicum.repcomplexity.bits import bits_for
from modicum.repcomplexity.collection import sample_bit_mdp
from modicum.repcomplexity.experiments._training import resumed
from modicum.repcomplexity.families import MajorityMDP
from modicum.repcomplexity.metrics import ErrorSums, fvu

__all__ = ["FULL", "QUICK", "Plan", "run"]

LEAVES = (16, 64, 256, 1024, 4096)
"""Most leaves of the trees that are compared."""
FEW_LEAVES = 8
"""The largest power of two at which no n of 8 or more has room for a bit of the next state."""
MODEL_ERROR = 0.001
"""Unexplained fraction up to which a bit of the next state counts as learnt."""
Q_ERROR = 0.6
"""Unexplained fraction that Q* must not fall below at `LEAVES[0]` leaves."""
HOLDOUT = 0.2
"""Held-out share where every row exists once."""

EARLIER: dict[int, tuple[float, ...]] = {
    8: (0.631, 0.428, 0.281, 0.111, 0.0),
    16: (0.839, 0.726, 0.628, 0.583, 0.611),
    32: (0.912, 0.873, 0.847, 0.869, 1.03),
}
"""Q* at `LEAVES` in one run of 60,000 rows and one seed, before this experiment was written."""


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes
    ----------
    ns
        Representation bits, increasing.
    rows, held_out
        Rows that trees are grown on, and rows that they are held to.
    seeds
        How often rows are drawn.
    """

    ns: tuple[int, ...]
    rows: int
    held_out: int
    seeds: int


FULL = Plan((8, 16, 32), 60_000, 20_000, 5)
QUICK = Plan((8, 16), 5_000, 20_000, 5)


@dataclass(frozen=True, eq=False)
class Errors:
    """Unexplained fractions on held-out rows, by the most leaves of a tree.

    Attributes
    ----------
    n
        Representation bits.
    worst, mean
        Of the next representation the bit that is learnt worst, and the mean over its bits; for
        each number of leaves ``(S,)``.
    q
        Q*, likewise.
    pointer
        Of the next pointer the worst bit at `room_for_bit` leaves, ``(S,)``.
    seen
        Share of held-out rows whose state and action are among those that trees were grown on,
        ``(S,)``.
    """

    n: int
    worst: Mapping[int, np.ndarray]
    mean: Mapping[int, np.ndarray]
    q: Mapping[int, np.ndarray]
    pointer: np.ndarray
    seen: np.ndarray


def run(ctx: RunContext) -> Result:
    """Grow trees for every n of the plan, and for the smallest on rows that exist once."""
    plan = QUICK if ctx.quick else FULL
    cells: dict[str, Callable[[], Any]] = {}
    for number in range(plan.seeds):
        seed = ctx.seed + number
        for n in plan.ns:
            cells[f"{n}-{number}"] = partial(learn, n, plan.rows, plan.held_out, seed)
        cells[f"once-{number}"] = partial(learn_once, plan.ns[0], seed)
    with one_thread():
        rows = resumed(ctx, cells, "trees")
    seeds = range(plan.seeds)
    found = {n: collected(n, [rows[f"{n}-{number}"] for number in seeds]) for n in plan.ns}
    once = [rows[f"once-{number}"] for number in seeds]
    claims = [claim for n in plan.ns for claim in (model_claim(found[n]), q_claim(found[n]))]
    claims += [growth_claim(found), ratio_claim(found), pointer_claim(found)]
    return ctx.result(
        claims=claims,
        tables=[q_table(found, plan.ns[0], once, plan), model_table(found)],
        figures=figures_of(found),
        text=ABOUT,
    )


ABOUT = (
    "A leaf of a tree is a conjunction of literals, so that few leaves are few terms of depth 2. "
    "What trees miss here is a finding about conjunctions and greedy growth: the threshold circuit "
    "of Q* is small, and as a network it equals Q*. The reward is left out: of 16 and more bits it "
    "is 0 in nearly all or all rows, and nothing is left to explain."
)


# What is measured -------------------------------------------------------------------------------


def room_for_bit(n: int) -> int:
    """Return a little more leaves than a bit of the next representation takes: 2 (b + 2) + 4."""
    return 2 * (bits_for(n) + 2) + 4


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a Majority MDP, the first of which trees are grown on.

    Attributes
    ----------
    inputs
        Bits of the pointer, of the representation and of the action, ``(R, b + n + 1)``.
    pointer, representation
        Bits of the next state, ``(R, b)`` and ``(R, n)``.
    q
        Q*_1, ``(R,)``.
    grown_on
        How many of the R rows trees are grown on.
    """

    inputs: np.ndarray
    pointer: np.ndarray
    representation: np.ndarray
    q: np.ndarray
    grown_on: int


def draw(n: int, rows: int, held_out: int, seed: int, *, distinct: bool = False) -> Rows:
    """Draw rows uniformly; with `distinct` no state and action twice."""
    mdp = MajorityMDP(n)
    data = sample_bit_mdp(mdp, rows + held_out, seed=seed, distinct=distinct)
    # One column says what both columns of a one-hot action say.
    inputs = np.hstack([data.observations, data.actions[:, 1:]]).astype(np.float32)
    b = mdp.n_control_bits
    following = data.next_observations
    return Rows(inputs, following[:, :b], following[:, b:], data.q("exact"), rows)


def learn(n: int, rows: int, held_out: int, seed: int) -> dict[str, Any]:
    """Grow trees on rows drawn with one seed; return what `collected` puts side by side."""
    drawn = draw(n, rows, held_out, seed)
    room = room_for_bit(n)
    caps = sorted({FEW_LEAVES, room, *LEAVES})
    bits = np.array([errors_by_leaves(drawn, bit, caps, seed) for bit in drawn.representation.T])
    pointer = [errors_by_leaves(drawn, bit, [room], seed)[0] for bit in drawn.pointer.T]
    return {
        "leaves": caps,
        "worst": bits.max(0),
        "mean": bits.mean(0),
        "q": errors_by_leaves(drawn, drawn.q, caps, seed),
        "pointer": max(pointer),
        "seen": share_seen(drawn),
    }


def learn_once(n: int, seed: int) -> list[float]:
    """Grow trees for Q* on a share of all rows that there are, and hold them to the others."""
    mdp = MajorityMDP(n)
    total = 1 << (mdp.n_state_bits + mdp.n_action_bits)
    held_out = round(HOLDOUT * total)
    drawn = draw(n, total - held_out, held_out, seed, distinct=True)
    return errors_by_leaves(drawn, drawn.q, LEAVES, seed)


def errors_by_leaves(
    rows: Rows, targets: np.ndarray, caps: Sequence[int], seed: int
) -> list[float]:
    """Return the unexplained fraction of targets on held-out rows for each most number of leaves.

    Parameters
    ----------
    rows
        What the targets belong to.
    targets
        ``(R,)``, of all rows.
    caps
        Most leaves, increasing.
    seed
        Of the choice among equally good splits.
    """
    from sklearn.tree import DecisionTreeRegressor

    train, test = slice(0, rows.grown_on), slice(rows.grown_on, None)
    center = [float(np.mean(targets[train]))]
    found: list[float] = []
    complete = False
    for cap in caps:
        # A tree that stopped below its limit is the same tree under any higher one.
        if not complete:
            tree = DecisionTreeRegressor(max_leaf_nodes=cap, random_state=seed)
            tree.fit(rows.inputs[train], targets[train])
            complete = tree.get_n_leaves() < cap
            sums = ErrorSums.of(targets[test], tree.predict(rows.inputs[test]), center=center)
            error = float(fvu(sums))
        found.append(error)
    return found


def share_seen(rows: Rows) -> float:
    """Return which share of the held-out rows are also among those that trees are grown on."""
    packed = [row.tobytes() for row in np.packbits(rows.inputs.astype(bool), axis=1)]
    known = set(packed[: rows.grown_on])
    return float(np.mean([row in known for row in packed[rows.grown_on :]]))


def collected(n: int, found: Sequence[Mapping[str, Any]]) -> Errors:
    """Put what the seeds gave side by side."""

    def by_leaves(name: str) -> dict[int, np.ndarray]:
        values_SL = np.array([one[name] for one in found])
        return dict(zip(found[0]["leaves"], values_SL.T, strict=True))

    return Errors(
        n,
        worst=by_leaves("worst"),
        mean=by_leaves("mean"),
        q=by_leaves("q"),
        pointer=np.array([one["pointer"] for one in found]),
        seen=np.array([one["seen"] for one in found]),
    )


# What it says -----------------------------------------------------------------------------------


def with_interval(values: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Return the mean over seeds and Student's 95 % interval."""
    found = paired_difference(values, np.zeros_like(values))
    return found.mean, found.interval


def model_claim(errors: Errors) -> Claim:
    """Judge whether every bit of the next representation is learnt with few leaves."""
    leaves = room_for_bit(errors.n)
    worst = errors.worst[leaves]
    return Claim(
        f"model_n{errors.n}",
        f"n = {errors.n}: trees of {leaves} leaves hold every bit of the next representation",
        None,
        float(worst.max()),
        None,
        bool((worst <= MODEL_ERROR).all()),
        "FVU",
        f"The worst of {errors.n} bits and {len(worst)} seeds, held-out rows; 2 (b + 2) + 4 "
        f"leaves, of which 2 (b + 2) are needed. Criterion: at most {MODEL_ERROR:g}.",
    )


def q_claim(errors: Errors) -> Claim:
    """Judge whether Q* is far from learnt with few leaves."""
    value, interval = with_interval(errors.q[LEAVES[0]])
    return Claim(
        f"q_n{errors.n}",
        f"n = {errors.n}: trees of {LEAVES[0]} leaves leave most of Q* unexplained",
        None,
        value,
        interval,
        interval[0] >= Q_ERROR,
        "FVU",
        f"Held-out rows; mean and Student's 95 % interval of {len(errors.q[LEAVES[0]])} seeds. "
        f"Criterion: the whole interval at least {Q_ERROR:g}.",
    )


def growth_claim(found: Mapping[int, Errors]) -> Claim:
    """Judge whether Q* is learnt worse the larger n is, whatever the number of leaves."""
    steps = {
        (before.n, after.n, leaves): with_interval(after.q[leaves] - before.q[leaves])
        for before, after in pairwise(found.values())
        for leaves in LEAVES
    }
    (before_n, after_n, leaves), (value, interval) = min(steps.items(), key=lambda item: item[1])
    return Claim(
        "q_grows",
        "With any number of leaves more of Q* is left unexplained the larger n is",
        None,
        value,
        interval,
        all(low > 0 for _, (low, _) in steps.values()),
        "increase of FVU",
        f"The least increase from one n to the next, at {listed(LEAVES)} leaves: {leaves} leaves, "
        f"n = {before_n} to {after_n}. Student's 95 % intervals over seeds; holds if all are above "
        "0.",
    )


def ratio_claim(found: Mapping[int, Errors]) -> Claim:
    """Judge whether the gap between model and Q* widens with n, where it is finite."""
    logs = {
        n: np.log(errors.q[FEW_LEAVES] / errors.mean[FEW_LEAVES]) for n, errors in found.items()
    }
    steps = [with_interval(after - before) for before, after in pairwise(logs.values())]
    value, (low, high) = min(steps)
    ratios = [f"{math.exp(values.mean()):.3g} for n = {n}" for n, values in logs.items()]
    exact = all((errors.worst[LEAVES[0]] == 0).all() for errors in found.values())
    beyond = (
        f": with {LEAVES[0]} the bits are learnt without any error, and the ratio is infinite for "
        "every n"
        if exact
        else ""
    )
    return Claim(
        "ratio",
        "The error of Q* over that of a bit of the next representation grows with n",
        None,
        math.exp(value),
        (math.exp(low), math.exp(high)),
        all(low > 0 for _, (low, _) in steps),
        "factor from one n to the next",
        f"Trees of {FEW_LEAVES} leaves, too few for either{beyond}. Ratio of FVU: "
        f"{', '.join(ratios)}; geometric mean over {len(logs[max(logs)])} seeds, of the mean over "
        "bits. The least factor, Student's 95 % interval; holds if all are above 1.",
    )


def pointer_claim(found: Mapping[int, Errors]) -> Claim:
    """Report how often greedy growth misses what a small tree of the model holds."""
    missed = {n: int((errors.pointer > MODEL_ERROR).sum()) for n, errors in found.items()}
    trials = sum(len(errors.pointer) for errors in found.values())
    low, high = clopper_pearson(sum(missed.values()), trials)
    seeds = trials // len(found)
    return Claim(
        "pointer",
        "With as many leaves greedy trees miss a bit of the next pointer, of which every one has a "
        "smaller tree",
        None,
        sum(missed.values()) / trials,
        (float(low), float(high)),
        None,
        "share of seeds",
        f"Seeds with an FVU above {MODEL_ERROR:g} at the leaves of the bits above: "
        f"{', '.join(f'{count} of {seeds} for n = {n}' for n, count in missed.items())}; exact "
        "95 % interval. The lowest bit is the parity of itself and the action, of 4 leaves: no "
        "first split improves it, so that growth begins with an input that may not matter. No "
        "threshold.",
    )


# Tables and figures -----------------------------------------------------------------------------


def q_table(
    found: Mapping[int, Errors], once_n: int, once: Sequence[Sequence[float]], plan: Plan
) -> Table:
    """Return a row for each n and kind of rows: Q* by the number of leaves."""
    rows: list[list[Any]] = []
    for n, errors in found.items():
        cells = [spelled(errors.q[leaves]) for leaves in LEAVES]
        rows.append([n, "drawn uniformly", *cells, float(errors.seen.mean())])
        if n in EARLIER:
            rows.append([n, "an earlier run", *(f"{value:.3g}" for value in EARLIER[n]), None])
    cells = [spelled(values) for values in np.array(once).T]
    rows.append([once_n, "each row once", *cells, 0.0])
    return Table(
        "Unexplained fraction of Q*, by the most leaves of a tree",
        ["n", "rows", *map(str, LEAVES), "share of held-out rows seen before"],
        rows,
        f"{plan.rows:,} rows, {plan.held_out:,} held-out ones, {plan.seeds} seeds; in brackets "
        "Student's 95 %. Of few bits most held-out rows are among the others, and many leaves only "
        f"remember; each row once: {1 - HOLDOUT:.0%} of all rows, held to those left. The earlier "
        "run: one seed, 60,000 rows.",
    )


def model_table(found: Mapping[int, Errors]) -> Table:
    """Return a row for each n and number of leaves: bits of the next state."""
    rows: list[list[Any]] = []
    for n, errors in found.items():
        for leaves in errors.q:
            pointer = None
            if leaves == room_for_bit(n):
                pointer = f"{errors.pointer.min():.3g} to {errors.pointer.max():.3g}"
            arrays = (errors.mean[leaves], errors.worst[leaves], errors.q[leaves])
            rows.append([n, leaves, *map(spelled, arrays), pointer])
    return Table(
        "Unexplained fractions of the model and of Q*",
        ["n", "leaves", "next x, mean bit", "next x, worst bit", "Q*", "next pointer, worst bit"],
        rows,
        "Rows drawn uniformly; in brackets Student's 95 % over seeds; of the pointer the range.",
    )


def spelled(values: np.ndarray) -> str:
    """Write a mean over seeds with its interval; without one where all seeds agree."""
    value, (low, high) = with_interval(values)
    return f"{value:.3g}" if low == high else f"{value:.3g} [{low:.3g}, {high:.3g}]"


def listed(values: Any) -> str:
    """Write numbers in a row."""
    return ", ".join(f"{value:.3g}" if value % 1 else f"{value:.0f}" for value in values)


def figures_of(found: Mapping[int, Errors]) -> list[Figure]:
    """Draw unexplained fractions over leaves; nothing without matplotlib, which is optional."""
    from modicum.core.plots import look, new_axes

    try:
        figure, axes = new_axes("modicum-repcomplexity")
    except ImportError:
        return []
    words = []
    for index, (n, errors) in enumerate(found.items()):
        leaves = list(errors.q)
        for name, by_leaves, marker in (
            (f"Q*, n = {n}", errors.q, "o"),
            (f"next x, mean bit, n = {n}", errors.mean, "s"),
        ):
            points = [with_interval(by_leaves[cap]) for cap in leaves]
            values = [value for value, _ in points]
            reach = [high - value for value, (_, high) in points]
            style = look(index) | {"linestyle": "-" if marker == "o" else "--"}
            axes.errorbar(leaves, values, reach, marker=marker, markersize=3, label=name, **style)
            words.append(f"{name}: {listed(values)}")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("most leaves")
    axes.set_ylabel("FVU, held-out rows")
    axes.legend(frameon=False)
    counts = listed(next(iter(found.values())).q)
    return [
        Figure.from_matplotlib(
            figure,
            "What regression trees leave unexplained",
            "Majority MDP; Student's 95 % over seeds.",
            f"FVU for {counts} leaves (n = {next(iter(found))}). {'; '.join(words)}.",
        )
    ]
