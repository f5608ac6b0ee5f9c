"""Small networks on the Majority MDP: the bits of the next state are learnt, Q* is not.

Networks of two hidden layers learn the next state, its change, the reward and Q* of step 1 from
rows drawn uniformly, and are held to rows that they have not seen. A network that equals Q* is
known as well: the circuit of thresholds, compiled to ReLUs. So what small networks miss is not out
of reach of networks as such. Networks with the very layers of the compiled one are trained from
random weights too, to see whether gradient descent finds what is there.

The next state mostly equals the state, and predicting "nothing changes" scores well; the change
shows what is learnt beyond that. Both are compared with Q*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from modicum.core.device import one_thread, torch_generator
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.core.stats import bootstrap_interval
from modicum.repcomplexity.circuits.builders import q_circuit
from modicum.repcomplexity.circuits.torch_net import CircuitNet, to_torch
from modicum.repcomplexity.collection import sample_bit_mdp
from modicum.repcomplexity.data import RolloutData
from modicum.repcomplexity.ensemble import batches
from modicum.repcomplexity.experiments._training import resumed
from modicum.repcomplexity.families import MajorityMDP
from modicum.repcomplexity.measure import measure
from modicum.repcomplexity.measurement import Measurement
from modicum.repcomplexity.metrics import ErrorSums, fvu

WIDTH = 32
"""Units of each of two hidden layers: the paper's main table."""
BATCH_SIZE = 256
LR = 1e-3
HOLDOUT = 0.2
TARGETS = ("next_obs", "delta", "reward", "q")
METRICS = ("fvu", "fvu_perdim", "skill", "zhu2024", "action_regret")
DISTINCT_BITS = 24
"""Most bits of a state and an action at which rows are drawn without repetition."""


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes
    ----------
    ns
        Representation bits; the first decides about networks with the layers of the compiled one.
    rows
        Rows drawn; all pairs of state and action where there are fewer.
    seeds, steps
        Of the networks.
    trained
        How many networks with the layers of the compiled one are trained.
    unit_ns
        Of which n the units of the compiled network are counted.
    """

    ns: tuple[int, ...]
    rows: int
    seeds: int
    steps: int
    trained: int
    unit_ns: tuple[int, ...]


FULL = Plan((16, 8, 32), 30_000, 5, 3000, 5, (4, 8, 16, 32, 64))
QUICK = Plan((16,), 10_000, 3, 1000, 0, (4, 8, 16))


@dataclass(frozen=True, eq=False)
class Found:
    """What one n gave.

    Attributes
    ----------
    measurement
        Networks 2 × `WIDTH`.
    compiled
        Unexplained fraction of Q* on all rows by the compiled network, and its largest error.
    widths
        Units of each hidden layer of the compiled network.
    """

    measurement: Measurement
    compiled: tuple[float, float]
    widths: list[int]


@dataclass(frozen=True, eq=False)
class Trained:
    """Networks with the layers of a compiled one, trained from random weights.

    Attributes
    ----------
    n
        Representation bits.
    fvu, wrong
        Of each seed, ``(seeds,)``: unexplained fraction of Q* on held-out rows, and share of them
        at which the nearest integer is not Q*.
    """

    n: int
    fvu: np.ndarray
    wrong: np.ndarray


def run(ctx: RunContext) -> Result:
    """Train networks for every n of the plan and compile the one that is known."""
    plan = QUICK if ctx.quick else FULL
    found, trained = {}, None
    with one_thread():
        for n in plan.ns:
            data = rows_of(n, plan.rows, ctx.seed)
            found[n] = examine(ctx, data, n, plan)
            if plan.trained and n == plan.ns[0]:
                trained = train_alike(ctx, data, n, found[n].widths, plan)
    units = {n: compiled(n).n_units for n in plan.unit_ns}
    claims = [claim for n in found for claim in claims_of(n, found[n], plan)]
    claims.append(units_claim(units))
    if trained is not None:
        claims.append(trained_claim(trained, plan))
    tables = [error_table(found, plan), unit_table(units)]
    if trained is not None:
        tables.append(trained_table(trained, found[trained.n].widths))
    verdicts = [f"n = {n}. {one.measurement.verdict(model='delta')}" for n, one in found.items()]
    return ctx.result(
        claims=claims,
        tables=tables,
        figures=figures_of(found),
        text="\n\n".join([ABOUT, *verdicts]),
    )


ABOUT = (
    "Q* of the Majority MDP is in TC0: a network of constant depth and O(N²) units equals it, and "
    "is built here. That small networks miss more of it than of the model is a finding about them "
    "and about gradient descent, not about what networks can represent."
)


# What is measured -------------------------------------------------------------------------------


def rows_of(n: int, rows: int, seed: int) -> RolloutData:
    """Draw rows uniformly, each of them once where all of them can be listed."""
    mdp = MajorityMDP(n)
    bits = mdp.n_state_bits + mdp.n_action_bits
    distinct = bits <= DISTINCT_BITS
    count = min(rows, 1 << bits) if distinct else rows
    return sample_bit_mdp(mdp, count, seed=seed, distinct=distinct)


def examine(ctx: RunContext, data: RolloutData, n: int, plan: Plan) -> Found:
    """Train small networks, and hold the compiled one to all rows."""
    measurement = measure(
        data,
        TARGETS,
        (WIDTH,),
        seeds=plan.seeds,
        metrics=METRICS,
        steps=plan.steps,
        batch_size=BATCH_SIZE,
        lr=LR,
        holdout_fraction=HOLDOUT,
        device=ctx.device,
        seed=ctx.seed,
        out=ctx.out / "networks",
        progress=ctx.progress,
    )
    network = compiled(n)
    return Found(measurement, compiled_error(network, data, n), network.widths)


def compiled(n: int) -> CircuitNet:
    """Return the network that equals Q*_1 of n bits."""
    circuit = q_circuit(n)
    return to_torch(circuit, [1.0] * circuit.n_outputs)


def compiled_error(network: CircuitNet, data: RolloutData, n: int) -> tuple[float, float]:
    """Return the unexplained fraction of Q* on all rows, and the largest error."""
    import torch

    with torch.no_grad():
        predicted = network(torch.from_numpy(wires(data, n))).double().numpy()
    exact = data.q("exact")[:, None]
    return float(fvu(ErrorSums.of(exact, predicted))), float(np.abs(predicted - exact).max())


def wires(data: RolloutData, n: int) -> np.ndarray:
    """Return rows as the circuit reads them, ``(R, n + b + 1)``: x, the pointer, the action.

    Observations have the pointer first, and actions are one-hot.
    """
    b = data.observations.shape[1] - n
    pointer, x = data.observations[:, :b], data.observations[:, b:]
    return np.hstack([x, pointer, data.actions[:, 1:]]).astype(np.float32)


def train_alike(
    ctx: RunContext, data: RolloutData, n: int, widths: Sequence[int], plan: Plan
) -> Trained:
    """Train networks with given hidden layers from random weights, one cell for each seed."""
    cells = {
        f"alike-{n}-{number}": partial(
            train_one, data, widths, plan.steps, ctx.seed, number, ctx.device
        )
        for number in range(plan.trained)
    }
    rows = list(resumed(ctx, cells, "networks with the layers of the compiled one").values())
    return Trained(n, *(np.array([row[key] for row in rows]) for key in ("fvu", "wrong")))


def train_one(
    data: RolloutData, widths: Sequence[int], steps: int, seed: int, number: int, device: str
) -> dict[str, float]:
    """Train one network on Q* as the small ones are trained: same rows, batches and step size."""
    import torch
    from torch import nn

    split = data.split("episodes", HOLDOUT, seed)
    inputs, exact = data.inputs(True).astype(np.float64), data.q("exact")
    mean, scale = inputs[split.train].mean(0), inputs[split.train].std(0)
    inputs = (inputs - mean) / np.where(scale > 0, scale, 1.0)
    center, spread = exact[split.train].mean(), exact[split.train].std()
    x = torch.from_numpy(inputs[split.train].astype(np.float32)).to(device)
    y = torch.from_numpy(((exact[split.train] - center) / spread).astype(np.float32)).to(device)
    sizes = [inputs.shape[1], *widths, 1]
    modules: list[nn.Module] = []
    generator = torch_generator(seed, "cpu", "alike", number)
    for fan_in, fan_out in pairwise(sizes):
        linear = nn.Linear(fan_in, fan_out)
        with torch.no_grad():
            for parameter in linear.parameters():
                bound = fan_in**-0.5
                parameter.copy_(torch.rand(parameter.shape, generator=generator) * 2 - 1)
                parameter.mul_(bound)
        modules += [linear, nn.ReLU()]
    network = nn.Sequential(*modules[:-1]).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=LR)
    for rows in batches(len(x), BATCH_SIZE, steps, seed + number):
        index = torch.from_numpy(rows).to(device)
        loss = nn.functional.mse_loss(network(x[index])[:, 0], y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    held = torch.from_numpy(inputs[split.test].astype(np.float32)).to(device)
    with torch.no_grad():
        predicted = network(held)[:, 0].double().cpu().numpy() * spread + center
    truth = exact[split.test]
    error = float(fvu(ErrorSums.of(truth, predicted, center=[center])))
    return {"fvu": error, "wrong": float(np.mean(np.rint(predicted) != truth))}


# What it says -----------------------------------------------------------------------------------


def claims_of(n: int, found: Found, plan: Plan) -> list[Claim]:
    """Judge the next state and its change against Q*, and the compiled network."""
    q = found.measurement.estimate("q", WIDTH, "fvu")
    made = []
    for target, short, words in (
        ("next_obs", "transition", "the bits of the next state"),
        ("delta", "change", "the change of the bits of the state"),
    ):
        model = found.measurement.estimate(target, WIDTH, "fvu")
        verdict = found.measurement.verdict(model=target)
        row = next(row for row in verdict.comparisons if row.metric == "fvu")
        made.append(
            Claim(
                f"{short}_n{n}",
                f"n = {n}: small networks leave less of {words} unexplained than of Q*",
                None,
                row.ratio,
                (row.low, row.high) if np.isfinite([row.low, row.high]).all() else None,
                bool(model.high < q.low),
                "FVU of Q* / FVU of the model",
                f"FVU {model.value:.3g} [{model.low:.3g}, {model.high:.3g}] against {q.value:.3g} "
                f"[{q.low:.3g}, {q.high:.3g}] on held-out rows; {plan.seeds} networks 2 × {WIDTH}, "
                f"{plan.steps} steps; 95 %, seeds and rows resampled. Holds if the interval of the "
                "model ends below that of Q*.",
            )
        )
    error, largest = found.compiled
    made.append(
        Claim(
            f"compiled_n{n}",
            f"n = {n}: the compiled circuit of thresholds is a ReLU network that equals Q*",
            None,
            error,
            None,
            error == 0 and largest == 0,
            "FVU",
            f"{sum(found.widths)} units in {len(found.widths)} hidden layers; largest error on all "
            f"rows {largest:g}. Holds if both are exactly 0.",
        )
    )
    return made


def units_claim(units: Mapping[int, int]) -> Claim:
    """Judge whether the compiled network has O(N²) units, as far as they were counted."""
    shares = [count / n**2 for n, count in units.items()]
    falls = all(after <= before for before, after in pairwise(shares))
    counted = ", ".join(f"{count} for n = {n}" for n, count in units.items())
    return Claim(
        "units",
        "The compiled network of Q* has O(N²) units",
        None,
        shares[-1],
        None,
        falls,
        "units / N²",
        f"Units: {counted}. Holds if units / N² never grows from one n to the next.",
    )


def trained_claim(trained: Trained, plan: Plan) -> Claim:
    """Judge whether gradient descent finds the network that is there."""
    low, high = bootstrap_interval(trained.wrong)
    return Claim(
        f"not_found_n{trained.n}",
        f"n = {trained.n}: gradient descent from random weights does not find Q* in networks with "
        "the layers of the compiled one",
        None,
        float(trained.wrong.mean()),
        (low, high),
        bool((trained.wrong > 0).all()),
        "share of held-out rows",
        f"Rows at which the nearest integer is not Q*; {len(trained.wrong)} seeds, resampled, 95 "
        f"%; {plan.steps} steps of Adam. Holds if there are such rows for every seed. FVU "
        f"{trained.fvu.mean():.3g}, from {trained.fvu.min():.3g} to {trained.fvu.max():.3g}.",
    )


# Tables and figures -----------------------------------------------------------------------------


def error_table(found: Mapping[int, Found], plan: Plan) -> Table:
    """Return a row for each n and target with every metric and its interval."""
    rows: list[list[Any]] = []
    for n, one in found.items():
        for target in TARGETS:
            estimates = [one.measurement.estimate(target, WIDTH, name) for name in METRICS]
            cells = [spelled(e.value, e.low, e.high) for e in estimates]
            rows.append([n, target, estimates[0].parameters, *cells])
    return Table(
        f"Errors of networks 2 × {WIDTH} on the Majority MDP",
        ["n", "target", "parameters", *METRICS],
        rows,
        f"{plan.seeds} seeds, {plan.steps} steps of Adam on batches of {BATCH_SIZE}; in brackets "
        "95 %, seeds and rows resampled. zhu2024 is over training rows, the others over held-out "
        'ones. skill: 1 − MSE / MSE of "nothing changes". action_regret: what one greedy step '
        "loses of V*.",
    )


def unit_table(units: Mapping[int, int]) -> Table:
    """Return a row for each n: units of the compiled network."""
    rows: list[list[Any]] = [[n, count, count / n**2] for n, count in units.items()]
    return Table("Units of the compiled network of Q*", ["n", "units", "units / N²"], rows)


def trained_table(trained: Trained, widths: Sequence[int]) -> Table:
    """Return a row for each seed of the networks with the layers of the compiled one."""
    pairs = zip(trained.fvu, trained.wrong, strict=True)
    rows: list[list[Any]] = [[number, *pair] for number, pair in enumerate(pairs)]
    return Table(
        f"Networks with the layers of the compiled one, n = {trained.n}",
        ["seed", "FVU", "share of rows that round to another integer"],
        rows,
        f"Hidden layers of {', '.join(map(str, widths))} units; held-out rows.",
    )


def spelled(value: float, low: float, high: float) -> str:
    """Write a value with its interval; a dash where it is not defined."""
    return "–" if np.isnan(value) else f"{value:.3g} [{low:.3g}, {high:.3g}]"


def figures_of(found: Mapping[int, Found]) -> list[Figure]:
    """Draw unexplained fractions over n; nothing without matplotlib, which is optional."""
    from modicum.core.plots import look, new_axes

    try:
        figure, axes = new_axes("modicum-repcomplexity")
    except ImportError:
        return []
    ns = sorted(found)
    words = []
    for index, target in enumerate(TARGETS):
        estimates = [found[n].measurement.estimate(target, WIDTH, "fvu") for n in ns]
        values = [estimate.value for estimate in estimates]
        below = [max(0.0, estimate.value - estimate.low) for estimate in estimates]
        above = [max(0.0, estimate.high - estimate.value) for estimate in estimates]
        axes.errorbar(ns, values, (below, above), marker="o", markersize=3, **look(index))
        axes.lines[-1].set_label(target)
        words.append(f"{target}: {', '.join(f'{value:.3g}' for value in values)}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(ns, [str(n) for n in ns])
    axes.set_xlabel("n")
    axes.set_ylabel("FVU, held-out rows")
    axes.legend(frameon=False)
    return [
        Figure.from_matplotlib(
            figure,
            "What small networks leave unexplained",
            f"Networks 2 × {WIDTH}; 95 % intervals.",
            f"FVU for n = {', '.join(map(str, ns))}: {'; '.join(words)}.",
        )
    ]
