"""Training of a hundred small networks at once beside a loop over them, and the errors of both.

Four targets of the majority process, five widths, five seeds. The loop is what one would write by
hand: an ``nn.Sequential`` and a ``torch.optim.Adam`` for each network. The other peer is torch's
own way to train networks of one shape together, ``torch.func``: seeds in one ``vmap``. All start
from the same weights and take the same batches, which are drawn before the clock starts, so that
they differ by rounding only. They take turns, width by width. One ensemble of all widths is timed
once, and so is ``measure``, as a whole: it trains an ensemble for each width on a CPU, draws the
batches itself, and has the errors in the end. On a CPU, where all runs in one thread, seconds are
those of the processor: what else the machine does counts little.

    python packages/repcomplexity/benchmarks/bench_ensemble.py [--device cuda]

rewrites its part of ``RESULTS.md`` in about three minutes; ``--quick`` takes a second or two and
only prints.

Shapes: N networks, S seeds, R rows, B rows of a batch, I inputs, O outputs.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from modicum.core.benchmark import preamble, seconds, table, write_section
from modicum.core.device import one_thread, resolve_device
from modicum.repcomplexity.collection import sample_bit_mdp
from modicum.repcomplexity.data import TARGETS
from modicum.repcomplexity.ensemble import MLPEnsemble, NetworkSpec, Problem, batches
from modicum.repcomplexity.families import MajorityMDP
from modicum.repcomplexity.measure import measure
from modicum.repcomplexity.metrics import ErrorSums, fvu

RESULTS = Path(__file__).with_name("RESULTS.md")
REPRESENTATION_BITS = 16
DEPTH, LR, BATCH_SIZE = 2, 1e-3, 256
AIMS = {"cpu": 3.0, "cuda": 30.0}
"""Least speed of the ensemble, in that of the loop."""
AGREEMENT = 0.05
"""Most relative difference of mean errors."""

LOOP = "loop of nn.Sequential, torch.optim.Adam"
VMAP = "torch.func.vmap over seeds, torch.optim.Adam"
EACH, ALL = "MLPEnsemble, one for each width", "MLPEnsemble, one for all"
MEASURE = "measure, errors included"


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    targets: tuple[str, ...]
    widths: tuple[int, ...]
    seeds: int
    rows: int
    steps: int
    repeats: int


FULL = Plan(("next_obs", "delta", "policy", "q"), (8, 16, 32, 64, 128), 5, 10_000, 60, 2)
QUICK = Plan(("next_obs", "q"), (4, 8), 2, 500, 20, 1)


class Work:
    """The networks' tasks: training and held-out rows, standardised as `measure` does it."""

    def __init__(self, plan: Plan, device: str):
        self.plan, self.device = plan, device
        self.data = sample_bit_mdp(MajorityMDP(REPRESENTATION_BITS), plan.rows, distinct=True)
        split = self.data.split()
        self.problems, self.held_out, self.units = [], [], []
        # Problems that share an array of inputs share a copy of it on the device.
        inputs = {uses: standardised(self.data.inputs(uses), split.train) for uses in (False, True)}
        train = {uses: rows[split.train] for uses, rows in inputs.items()}
        for name in plan.targets:
            uses = TARGETS[name].uses_action
            raw = TARGETS[name].values(self.data, self.data.q("exact"))
            values = standardised(raw, split.train)
            self.units.append(raw[split.train].std(0))
            self.problems.append(Problem(train[uses], values[split.train]))
            self.held_out.append(Problem(inputs[uses][split.test], values[split.test]))
        self.batches = {
            seed: [
                torch.from_numpy(rows).to(device)
                for rows in batches(len(split.train), BATCH_SIZE, plan.steps, seed)
            ]
            for seed in range(plan.seeds)
        }
        self.tensors = [
            (torch.from_numpy(p.inputs).to(device), torch.from_numpy(p.targets).to(device))
            for p in self.problems
        ]
        specs = self.specs(plan.widths)
        fresh = MLPEnsemble(self.problems, specs, depth=DEPTH, lr=LR, device=device)
        self.starts = {spec: fresh.network(index) for index, spec in enumerate(specs)}

    def specs(self, widths: Sequence[int]) -> list[NetworkSpec]:
        """List the networks of some widths."""
        grid = itertools.product(range(len(self.problems)), widths, range(self.plan.seeds))
        return [NetworkSpec(*numbers) for numbers in grid]

    def error(self, spec: NetworkSpec, network: nn.Module) -> float:
        """Return the fraction of variance that a network leaves unexplained on held-out rows."""
        held_out, units = self.held_out[spec.problem], self.units[spec.problem]
        with torch.no_grad():
            predicted = network(torch.from_numpy(held_out.inputs).to(self.device)).cpu().numpy()
        # Targets are standardised by the training rows, whose mean is 0 then.
        sums = ErrorSums.of(
            held_out.targets * units, predicted * units, center=np.zeros(predicted.shape[1])
        )
        return float(fvu(sums))


def standardised(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Give columns mean 0 and variance 1 over the training rows, float32; constants become 0."""
    values = np.asarray(values, np.float64)
    mean, scale = values[train].mean(0), values[train].std(0)
    return ((values - mean) / np.where(scale > 0, scale, 1)).astype(np.float32)


# Ways to train -----------------------------------------------------------------------------------

Networks = dict[NetworkSpec, nn.Module]


def loop(work: Work, specs: Sequence[NetworkSpec]) -> Networks:
    """Train one network after the other."""
    found: Networks = {}
    for spec in specs:
        network = copy.deepcopy(work.starts[spec])
        optimizer = torch.optim.Adam(network.parameters(), lr=LR)
        x, y = work.tensors[spec.problem]
        for rows in work.batches[spec.seed]:
            loss = nn.functional.mse_loss(network(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found[spec] = network
    return found


def vmapped(work: Work, specs: Sequence[NetworkSpec]) -> Networks:
    """Train the seeds of one problem and width together, by torch's tools for that."""
    found: Networks = {}
    for (problem, _), group in itertools.groupby(specs, lambda spec: (spec.problem, spec.width)):
        alike = list(group)
        networks = [copy.deepcopy(work.starts[spec]) for spec in alike]
        stacked, _ = torch.func.stack_module_state(networks)
        optimizer = torch.optim.Adam(stacked.values(), lr=LR)
        x, y = work.tensors[problem]
        base = networks[0]

        def call(parameters: dict, x_BI: torch.Tensor, base: nn.Module = base) -> torch.Tensor:
            return torch.func.functional_call(base, parameters, x_BI)

        for parts in zip(*(work.batches[spec.seed] for spec in alike), strict=True):
            rows_SB = torch.stack(parts)
            error_SBO = torch.vmap(call)(stacked, x[rows_SB]) - y[rows_SB]
            # The sum over seeds: each network gets the gradient of its own mean.
            loss = (error_SBO**2).mean((1, 2)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for index, (spec, network) in enumerate(zip(alike, networks, strict=True)):
            network.load_state_dict({name: rows[index] for name, rows in stacked.items()})
            found[spec] = network
    return found


def ensemble(work: Work, specs: Sequence[NetworkSpec]) -> Networks:
    """Train all by this package."""
    trained = MLPEnsemble(work.problems, specs, depth=DEPTH, lr=LR, device=work.device)
    trained.fit(work.plan.steps, BATCH_SIZE)
    return {spec: trained.network(index) for index, spec in enumerate(specs)}


def measured(work: Work) -> dict[NetworkSpec, float]:
    """Give the errors that `measure` finds for all, as means over seeds."""
    plan = work.plan
    found = measure(
        work.data,
        plan.targets,
        plan.widths,
        DEPTH,
        plan.seeds,
        ("fvu",),
        q="exact",
        steps=plan.steps,
        batch_size=BATCH_SIZE,
        lr=LR,
        device=work.device,
        resamples=100,
    )
    return {
        spec: found.estimate(plan.targets[spec.problem], spec.width, "fvu").value
        for spec in work.specs(plan.widths)
    }


# Tables ------------------------------------------------------------------------------------------


def medians_of(
    calls: dict[str, Callable[[], object]], repeats: int, device: str
) -> dict[str, float]:
    """Return each call's median seconds over turns: of the processor, or of a clock for a GPU."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            if device != "cpu":
                times[name].append(seconds(call, device))
                continue
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def sections(plan: Plan, device: str) -> list[str]:
    """Measure; gives the lines of the section after its preamble."""
    work = Work(plan, device)
    found: dict[str, dict[NetworkSpec, float]] = {}
    trained: dict[str, Networks] = {LOOP: {}, VMAP: {}, EACH: {}, ALL: {}}
    calls: dict[str, Callable[[], object]] = {}

    def keep(name: str, train: Callable, specs: list[NetworkSpec]) -> Callable[[], None]:
        return lambda: trained[name].update(train(work, specs))

    for width in plan.widths:
        for name, train in ((LOOP, loop), (VMAP, vmapped), (EACH, ensemble)):
            calls[f"{name} {width}"] = keep(name, train, work.specs([width]))
    once = {
        ALL: keep(ALL, ensemble, work.specs(plan.widths)),
        MEASURE: lambda: found.update({MEASURE: measured(work)}),
    }
    # The first calls load more of torch.
    for name in (LOOP, VMAP, EACH):
        calls[f"{name} {plan.widths[0]}"]()
    taken = medians_of(calls, plan.repeats, device) | medians_of(once, 1, device)
    for name, networks in trained.items():
        found[name] = {spec: work.error(spec, network) for spec, network in networks.items()}
    total = {
        name: sum(taken[f"{name} {width}"] for width in plan.widths) for name in (LOOP, VMAP, EACH)
    }
    total |= {ALL: taken[ALL], MEASURE: taken[MEASURE]}
    count = len(work.specs(plan.widths))
    return [
        f"**{count} networks** of {DEPTH} hidden layers: {len(plan.targets)} targets "
        f"({', '.join(plan.targets)}) × {len(plan.widths)} widths × {plan.seeds} seeds, "
        f"{plan.steps} steps of {BATCH_SIZE} of {len(work.problems[0].inputs):,} rows:",
        "",
        *table(
            ["way", "seconds", "times the loop's speed", "mean FVU, held out", "from the loop's"],
            [row_of(name, total, found) for name in total],
        ),
        "",
        "**By width**, seconds of all targets and seeds:",
        "",
        *table(
            ["width", "loop", "vmap", "MLPEnsemble", "times the loop's", "times vmap's"],
            [width_row(width, taken) for width in plan.widths],
        ),
        "",
        *remarks(device, total, taken, found, plan),
    ]


def row_of(
    name: str, total: dict[str, float], found: dict[str, dict[NetworkSpec, float]]
) -> list[str]:
    mean = float(np.mean(list(found[name].values())))
    speed = f"{total[LOOP] / total[name]:.1f}"
    return [name, f"{total[name]:.2f}", speed, f"{mean:.4f}", f"{difference(name, found):.2%}"]


def difference(name: str, found: dict[str, dict[NetworkSpec, float]]) -> float:
    """Return how far the mean error is from the loop's, relative to that."""
    mean, reference = (np.mean(list(found[way].values())) for way in (name, LOOP))
    return float(abs(mean - reference) / reference)


def width_row(width: int, taken: dict[str, float]) -> list[str]:
    by_loop, by_vmap, ours = (taken[f"{name} {width}"] for name in (LOOP, VMAP, EACH))
    cells = [f"{value:.2f}" for value in (by_loop, by_vmap, ours)]
    return [str(width), *cells, f"{by_loop / ours:.1f}", f"{by_vmap / ours:.1f}"]


def remarks(
    device: str,
    total: dict[str, float],
    taken: dict[str, float],
    found: dict[str, dict[NetworkSpec, float]],
    plan: Plan,
) -> list[str]:
    """Say what was aimed at and missed, and where this package is the slower one."""
    kind = device.partition(":")[0]
    ours = ALL if kind == "cuda" else EACH
    speed, aim = total[LOOP] / total[ours], AIMS[kind]
    apart = difference(ours, found)
    lines = [
        f"Aimed at: {aim:g} times the loop's speed, {'met' if speed >= aim else 'missed'} "
        f"({speed:.1f}, {ours}); mean errors within {AGREEMENT:.0%}, "
        f"{'met' if apart < AGREEMENT else 'missed'} ({apart:.2%}). All ways do the same "
        "arithmetic from the same weights, so errors differ by rounding only."
    ]
    slower = [
        f"{width} (than {name.split(',')[0]})"
        for width in plan.widths
        for name in (LOOP, VMAP)
        if taken[f"{EACH} {width}"] > taken[f"{name} {width}"]
    ]
    wide, narrow = plan.widths[-1], plan.widths[0]
    gains = [taken[f"{LOOP} {width}"] / taken[f"{EACH} {width}"] for width in (narrow, wide)]
    lines.append(
        f"Losses: the gain falls from {gains[0]:.1f} at width {narrow} to {gains[1]:.1f} at width "
        f"{wide}, where products take most of the time; slower at widths: "
        f"{', '.join(slower) or 'none'}."
    )
    if total[ALL] > total[EACH]:
        lines.append(
            f"One ensemble for all widths takes {total[ALL] / total[EACH]:.1f} times as long as "
            f"one for each: narrow networks are padded to {wide}."
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="where networks are trained")
    parser.add_argument("--quick", action="store_true", help="small sizes; only print")
    options = parser.parse_args()
    device = resolve_device(options.device)
    plan = QUICK if options.quick else FULL
    script = "packages/repcomplexity/benchmarks/bench_ensemble.py"
    command = shlex.join(["python", script, *sys.argv[1:]])
    how = f"medians of {plan.repeats} turns (the last two ways: once) on {device}, one CPU thread"
    if device == "cpu":
        how += ", seconds of the processor"
    with one_thread():
        lines = [*preamble(command, how), *sections(plan, device)]
    if options.quick:
        print("\n".join(lines))
    else:
        write_section(RESULTS, f"ensemble-{device.partition(':')[0]}", lines)


if __name__ == "__main__":
    main()
