"""Optimal values by formula and by dynamic programming, compared on every state.

For the Majority MDP with random control cycles and reward states, and for the Parity MDP with and
without the action that stays. Dynamic programming knows nothing of the formulas; an error of either
shows. From the values of dynamic programming it is read as well that Q* contains a majority and a
parity, the reason why it is hard for constant-depth circuits.

Source: Zhu, Huang, Russell, "On Representation Complexity of Model-based and Model-free
Reinforcement Learning" (arXiv 2310.01706).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator, one_thread
from modicum.core.experiment import Claim, Result, RunContext, Table
from modicum.repcomplexity.bits import bits_for, popcount
from modicum.repcomplexity.families import MajorityMDP, ParityMDP
from modicum.repcomplexity.mdp import BitMDP
from modicum.repcomplexity.solver import solve

__all__ = ["FULL", "QUICK", "Plan", "run"]

DP = "dynamic_programming"


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes
    ----------
    majority_ns, cycles, targets
        Majority MDPs: bits, random control cycles of each n (the increment beside them), and random
        reward states of each cycle.
    parity_ns
        Parity MDPs.
    core_ns
        Of which n, powers of two, it is checked that the values contain a majority.
    timed_ns
        Of which n dynamic programming is timed.
    """

    majority_ns: tuple[int, ...]
    cycles: int
    targets: int
    parity_ns: tuple[int, ...]
    core_ns: tuple[int, ...]
    timed_ns: tuple[int, ...]


FULL = Plan(tuple(range(2, 11)), 5, 5, (2, 4, 6, 8, 10, 12), (4, 8, 16), (8, 12, 16, 20))
QUICK = Plan((3, 4, 5, 6), 2, 2, (4, 6), (4, 8), (8, 12))


def run(ctx: RunContext) -> Result:
    """Compare formulas with dynamic programming and read majority and parity off the values."""
    plan = QUICK if ctx.quick else FULL
    with one_thread():
        majority = compared(ctx, majority_processes(plan, ctx.seed), "Majority MDPs")
        parity = compared(ctx, parity_processes(plan, ctx.seed), "Parity MDPs")
        short = {n: odd_ones(n, n // 2) for n in plan.parity_ns}
        enough = {n: odd_ones(n, n // 2 + 1) for n in plan.parity_ns}
        core = {n: majority_errors(n) for n in plan.core_ns}
        seconds = [timed(n) for n in plan.timed_ns]
    return ctx.result(
        claims=[
            equal_claim("majority", "Majority MDP", plan.majority_ns, majority),
            equal_claim("parity", "Parity MDP", plan.parity_ns, parity),
            parity_claim(enough),
            short_claim(short),
            majority_claim(core),
        ],
        tables=[value_table(plan), seconds_table(seconds)],
    )


# What is compared ---------------------------------------------------------------------------------


def majority_processes(plan: Plan, seed: int) -> list[MajorityMDP]:
    """Return processes with the increment and random cycles, each with random reward states."""
    made = []
    for n in plan.majority_ns:
        rng = numpy_generator(seed, "majority", n)
        values = 1 << bits_for(n)
        controls: list[str | list[int]] = ["increment"]
        controls += [random_cycle(values, rng) for _ in range(plan.cycles)]
        for control in controls:
            for target in rng.integers(1 << n, size=plan.targets):
                made.append(MajorityMDP(n, control, int(target)))
    return made


def random_cycle(values: int, rng: np.random.Generator) -> list[int]:
    """Draw a permutation of ``0 … values − 1`` that is one cycle, uniformly."""
    order = rng.permutation(values)
    images = np.empty(values, dtype=np.int64)
    images[order] = np.roll(order, -1)
    return [int(image) for image in images]


def parity_processes(plan: Plan, seed: int) -> list[ParityMDP]:
    """Return processes with and without the action that stays, of several horizons."""
    made = []
    for n in plan.parity_ns:
        target = int(numpy_generator(seed, "parity", n).integers(1 << n))
        for noop in (True, False):
            for horizon in (n // 2, n // 2 + 1, n + 3):
                made.append(ParityMDP(n, target_state=target, allow_noop=noop, horizon=horizon))
    return made


def compared(ctx: RunContext, processes: Sequence[BitMDP], what: str) -> list[tuple[int, int]]:
    """Return what `differences` says of each process."""
    task = ctx.progress(len(processes), what)
    found = []
    for mdp in processes:
        found.append(differences(mdp))
        task.advance(1)
    return found


def differences(mdp: BitMDP) -> tuple[int, int]:
    """Return how many values Q* of step 1 there are, and how many differ by formula."""
    by_induction, by_formula = solve(mdp, method=DP), solve(mdp, method="closed_form")
    return by_induction.Q.size, int((by_induction.Q != by_formula.Q).sum())


def odd_ones(n: int, horizon: int) -> int:
    """Return at how many states of the Parity MDP ``V*_1 > 0`` is not "an even number of ones"."""
    positive = solve(ParityMDP(n, horizon=horizon), method=DP).V > 0
    even = popcount(np.arange(1 << n)) % 2 == 0
    return int((positive != even).sum())


def majority_errors(n: int) -> tuple[int, int]:
    """Count where ``V*_1 > 0`` is not "most of the other bits are right".

    For every position of the pointer, over the states whose bit that is visited last is wrong.

    Returns
    -------
    int, int
        How many states were looked at, and at how many it fails.
    """
    mdp = MajorityMDP(n)
    positive = solve(mdp, method=DP).V > 0
    wrong = np.arange(1 << n) ^ mdp.reward_state
    count = failed = 0
    for pointer in range(n):
        last = (pointer + n - 1) % n
        chosen = wrong >> last & 1 == 1
        others = popcount(wrong[chosen]) - 1
        states = mdp.encode(np.int64(pointer), np.arange(1 << n)[chosen])
        # A majority of the n - 1 other bits is at least n / 2 of them.
        failed += int((positive[states] != (others < n // 2)).sum())
        count += len(states)
    return count, failed


def timed(n: int) -> tuple[int, int, int, float, float]:
    """Return n, states, steps, and seconds of dynamic programming and of the formula."""
    mdp = MajorityMDP(n)
    seconds = []
    for method in (DP, "closed_form"):
        start = time.perf_counter()
        solve(mdp, method=method)
        seconds.append(time.perf_counter() - start)
    assert mdp.horizon is not None
    return n, mdp.n_states, mdp.horizon, seconds[0], seconds[1]


# What it says -------------------------------------------------------------------------------------


def equal_claim(
    name: str, family: str, ns: Sequence[int], found: Sequence[tuple[int, int]]
) -> Claim:
    """Judge whether no value differs."""
    values, different = (sum(column) for column in zip(*found, strict=True))
    return Claim(
        name,
        f"{family}: the closed form of Q* equals dynamic programming on all states and actions",
        None,
        different,
        None,
        different == 0,
        "values that differ",
        f"{values:,} values of {len(found)} processes, n = {', '.join(map(str, ns))}. Holds if "
        "none differs.",
    )


def parity_claim(found: dict[int, int]) -> Claim:
    """Judge whether the values contain parity."""
    return Claim(
        "even_parity",
        'Parity MDP with H = n/2 + 1: V* > 0 says exactly "the number of ones is even"',
        None,
        sum(found.values()),
        None,
        not any(found.values()),
        "states at which it fails",
        f"All states, n = {', '.join(map(str, found))}. Holds if there is none.",
    )


def short_claim(found: dict[int, int]) -> Claim:
    """Judge whether one step less spoils exactly one state."""
    return Claim(
        "short_horizon",
        "With H = n/2 that fails at a single state, the one farthest away",
        None,
        max(found.values()),
        None,
        all(count == 1 for count in found.values()),
        "states at which it fails",
        f"By n: {', '.join(f'{n}: {count}' for n, count in found.items())}. Holds if it is one "
        "for every n.",
    )


def majority_claim(found: dict[int, tuple[int, int]]) -> Claim:
    """Judge whether the values contain a majority."""
    states, failed = (sum(column) for column in zip(*found.values(), strict=True))
    return Claim(
        "majority_core",
        "Majority MDP: with the bit visited last wrong, V* > 0 is NOT MAJORITY of the other bits",
        None,
        failed,
        None,
        failed == 0,
        "states at which it fails",
        f"{states:,} states: all pointers, n = {', '.join(map(str, found))}. Holds if there is "
        "none. So Q* is at least as hard for AND and OR as a majority of n − 1 bits.",
    )


def value_table(plan: Plan) -> Table:
    """Return sums and shares of the default processes, by dynamic programming."""
    rows: list[list[Any]] = []
    for n in sorted({*plan.core_ns, *(n for n in plan.majority_ns if n <= 8)}):
        V = solve(MajorityMDP(n), method=DP).V
        rows.append([n, len(V), int(V.sum()), float((V > 0).mean()), float(V.mean())])
    return Table(
        "V* of the Majority MDP",
        ["n", "states", "sum of V*", "share with V* > 0", "mean V*"],
        rows,
        "Default control, reward state and horizon; by dynamic programming.",
    )


def seconds_table(found: Sequence[tuple[int, int, int, float, float]]) -> Table:
    """Return seconds of both ways on one thread."""
    return Table(
        "Seconds of an exact solution",
        ["n", "states", "steps", "dynamic programming", "closed form"],
        [list(row) for row in found],
        "Majority MDP, NumPy, one thread; Q of all states at step 1.",
    )
