"""Exact sizes of the model and of the optimal Q-function, and what they do not say.

For the Majority and the Parity MDP, every bit of the next state, the reward and Q* get their
smallest disjunctive and conjunctive forms, proved by integer programming where that ends. What is
proved for every n, the explicit forms of the model and the majority that is left of Q* when inputs
are fixed, carries the comparison on to n = 64. The same functions are then measured by rulers that
do not separate them: circuits with threshold gates, two-input gates, and decision diagrams that
ask for the pointer first.

Source: Zhu, Huang, Russell, "On Representation Complexity of Model-based and Model-free
Reinforcement Learning" (arXiv 2310.01706), whose theorem is about circuits of constant depth with
AND, OR and NOT.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from modicum.core.device import one_thread
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.repcomplexity.bits import bits_for
from modicum.repcomplexity.boolean.bounds import majority_mdp_dnf_terms
from modicum.repcomplexity.boolean.fourier import fvu_by_degree, spectrum
from modicum.repcomplexity.boolean.truth_table import TruthTable
from modicum.repcomplexity.circuits.arithmetic import expand_thresholds
from modicum.repcomplexity.circuits.builders import model_circuit, model_terms, q_circuit
from modicum.repcomplexity.circuits.circuit import Circuit, Gate
from modicum.repcomplexity.experiments._training import resumed
from modicum.repcomplexity.families import MajorityMDP, ParityMDP
from modicum.repcomplexity.functions import target_of
from modicum.repcomplexity.mdp import BitMDP
from modicum.repcomplexity.solver import solve

__all__ = ["FULL", "QUICK", "Plan", "run"]

POSITIVE = "Q* >= 1"
"""The indicator that the theorem is about: whether anything can still be earned."""
TAIL = 4
"""Weight of the spectrum above this degree is reported."""


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes
    ----------
    exact_ns
        Majority MDPs whose functions are minimised.
    bit_ns
        Of which of them the bits of Q* are minimised as well, not only whether it is positive.
    spectral_ns
        Majority MDPs of which spectra are taken.
    growth_ns
        Powers of two over which proved sizes are followed.
    diagram_ns
        Majority MDPs whose Q* gets decision diagrams.
    parity_ns, parity_model_ns
        Parity MDPs whose values, and whose model, are minimised.
    seconds
        Most time for one minimisation.
    """

    exact_ns: tuple[int, ...]
    bit_ns: tuple[int, ...]
    spectral_ns: tuple[int, ...]
    growth_ns: tuple[int, ...]
    diagram_ns: tuple[int, ...]
    parity_ns: tuple[int, ...]
    parity_model_ns: tuple[int, ...]
    seconds: float


GROWTH = (4, 8, 16, 32, 64)
FULL = Plan(
    exact_ns=(4, 6, 8),
    bit_ns=(4, 6, 8),
    spectral_ns=(4, 8, 16),
    growth_ns=GROWTH,
    diagram_ns=(4, 8, 16),
    parity_ns=(4, 6, 8, 10),
    parity_model_ns=(4, 6, 8),
    seconds=300.0,
)
QUICK = Plan((4, 6), (4,), (4, 8), GROWTH, (4, 8, 16), (4, 6), (4, 6), 20.0)

Sizes = dict[str, dict[str, list[int]]]
"""Of each function the fewest terms of its DNF and clauses of its CNF, as [lower, upper]."""


def run(ctx: RunContext) -> Result:
    """Minimise what the plan names and compare model with Q*."""
    plan = QUICK if ctx.quick else FULL
    with one_thread():
        cells = {
            f"{name}-{n}": partial(sizes_of, process(n), targets, plan.seconds, n in plan.bit_ns)
            for name, process, ns, targets in (
                ("majority", MajorityMDP, plan.exact_ns, ("transition", "reward", "q")),
                ("parity-model", ParityMDP, plan.parity_model_ns, ("transition", "reward")),
                ("parity-value", ParityMDP, plan.parity_ns, ("value",)),
            )
            for n in ns
        }
        found = resumed(ctx, cells, "smallest normal forms")
        spectra = {n: spectra_of(n) for n in plan.spectral_ns}
        diagrams = {n: diagrams_of(n) for n in plan.diagram_ns}
        circuits = {n: gates_of(n) for n in plan.growth_ns}
    majority = {n: found[f"majority-{n}"] for n in plan.exact_ns}
    values = {n: found[f"parity-value-{n}"] for n in plan.parity_ns}
    models = {n: found[f"parity-model-{n}"] for n in plan.parity_model_ns}
    claims = [claim for n in plan.exact_ns for claim in exact_claims(n, majority[n])]
    claims += [
        growth_claim(plan.growth_ns),
        share_claim(plan.growth_ns),
        influence_claim(spectra),
        parity_claim(values),
        parity_model_claim(models),
        threshold_claim(circuits),
        two_input_claim(circuits),
        diagram_claim(diagrams),
    ]
    return ctx.result(
        claims=claims,
        tables=[
            size_table("Majority MDP", majority),
            growth_table(plan.growth_ns, majority),
            ruler_table(circuits, diagrams),
            spectrum_table(spectra),
            size_table("Parity MDP", {n: models.get(n, {}) | values[n] for n in plan.parity_ns}),
            parity_table(plan.parity_ns),
        ],
        figures=figures_of(plan.growth_ns, circuits),
        text=ABOUT,
    )


ABOUT = (
    "What separates model and Q* here are circuits of constant depth with AND, OR and NOT, and "
    "their depth-2 case, normal forms, is exact. It is no statement about other representations: "
    "with threshold gates, with two-input gates of growing depth, or as a decision diagram that "
    "asks for the pointer first, Q* has polynomial size. A diagram that asks for the bits first is "
    "as large as the normal forms suggest."
)


# What is measured -------------------------------------------------------------------------------


def sizes_of(mdp: BitMDP, targets: Sequence[str], seconds: float, bits: bool) -> Sizes:
    """Minimise the functions of some targets of a process; the bits of Q* only if asked for."""
    solution = solve(mdp)
    found: Sizes = {}
    for target in targets:
        for function in target_of(mdp, solution, target).functions:
            if target == "q" and function.name != POSITIVE and not bits:
                continue
            found[function.name] = {}
            for form, minimise in (("dnf", TruthTable.min_dnf), ("cnf", TruthTable.min_cnf)):
                least = minimise(function.table, seconds)
                found[function.name][form] = [least.lower, least.upper]
    return found


def positive_q(mdp: MajorityMDP) -> TruthTable:
    """Return whether Q*_1 is positive, of bits of the state and the action."""
    (table,) = (
        function.table
        for function in target_of(mdp, solve(mdp), "q").functions
        if function.name == POSITIVE
    )
    return table


def diagrams_of(n: int) -> tuple[int, int]:
    """Return the nodes of diagrams of positive Q*: action and pointer first, and bits first."""
    table = positive_q(MajorityMDP(n))
    first = range(n, table.n_inputs)
    return table.obdd_size([*reversed(first), *range(n)]), table.obdd_size()


@dataclass(frozen=True)
class Gates:
    """Sizes of explicit circuits of the Majority MDP.

    Attributes
    ----------
    thresholds, depth
        Gates and depth of all values of Q*, in unary, with threshold gates.
    two_input, model_two_input
        Gates of Q* and of the whole model where every gate has two inputs.
    """

    thresholds: int
    depth: int
    two_input: int
    model_two_input: int


def gates_of(n: int) -> Gates:
    """Build and count the circuits of one Majority MDP."""
    q = q_circuit(n)
    return Gates(
        q.size,
        q.depth,
        two_input_gates(expand_thresholds(q).simplify()),
        two_input_gates(model_circuit(n)),
    )


def two_input_gates(circuit: Circuit) -> int:
    """Count gates after every AND, OR and XOR is split into gates of two inputs; NOT is free."""
    gates = [circuit.gates[index] for index in circuit.live()]
    return sum(len(gate.fan_in) - 1 for gate in gates if gate.kind in (Gate.AND, Gate.OR, Gate.XOR))


def spectra_of(n: int) -> dict[str, Any]:
    """Return influence and tail of a bit of the next state and of positive Q*, and errors of Q*."""
    mdp = MajorityMDP(n)
    solution = solve(mdp)
    q = target_of(mdp, solution, "q")
    tables = {
        "next bit 0": target_of(mdp, solution, "transition").functions[0].table,
        POSITIVE: next(one.table for one in q.functions if one.name == POSITIVE),
    }
    found: dict[str, Any] = {}
    for name, table in tables.items():
        transformed = spectrum(table)
        found[name] = (transformed.total_influence, transformed.tail(TAIL))
    found["errors"] = [float(error) for error in fvu_by_degree(q.columns[0])[1 : TAIL + 1]]
    return found


# What it says -----------------------------------------------------------------------------------


def is_proved(interval: Sequence[int]) -> bool:
    """Say whether a size is known exactly."""
    return interval[0] == interval[1]


def spelled(interval: Sequence[int]) -> str:
    """Write a size, or between what it lies."""
    return str(interval[0]) if is_proved(interval) else f"{interval[0]} to {interval[1]}"


def is_model(name: str) -> bool:
    """Say whether a function belongs to the model."""
    return name.startswith(("next bit", "reward"))


def exact_claims(n: int, sizes: Sizes) -> list[Claim]:
    """Judge the sizes of one Majority MDP."""
    b = bits_for(n)
    expected = {f"next bit {i}": b + 2 for i in range(n)}
    expected |= {f"next bit {n + k}": k + 2 for k in range(b)}
    bits = {name: sizes[name]["dnf"] for name in expected}
    largest = max(upper for _, upper in bits.values())
    model = [forms for name, forms in sizes.items() if is_model(name)]
    (reward,) = (forms for name, forms in sizes.items() if name.startswith("reward"))
    q = sizes[POSITIVE]
    smaller = min(q["dnf"][0], q["cnf"][0])
    hardest, whole = (
        {form: measure(sizes[form][1] for sizes in model) for form in q} for measure in (max, sum)
    )
    written = (
        f"DNF {spelled(q['dnf'])} terms, CNF {spelled(q['cnf'])} clauses; "
        f"{'both proved' if is_proved(q['dnf']) and is_proved(q['cnf']) else 'bounds'}."
    )
    return [
        Claim(
            f"model_terms_n{n}",
            f"n = {n}: b + 2 terms are the least of every bit of the representation, k + 2 of bit "
            "k of the pointer, 1 of the reward",
            "polynomial size, depth 2",
            largest,
            None,
            all(bits[name] == [terms, terms] for name, terms in expected.items())
            and reward["dnf"] == [1, 1],
            "terms of the largest",
            f"b = {b}. Least DNF, proved. Holds if all {len(expected) + 1} are exactly that.",
        ),
        Claim(
            f"q_terms_n{n}",
            f"n = {n}: Q* > 0 needs more terms, and more clauses, than any function of the model",
            "super-polynomial at any constant depth",
            smaller,
            (smaller, max(smaller, min(q["dnf"][1], q["cnf"][1]))),
            all(q[form][0] > hardest[form] for form in q),
            "terms or clauses",
            f"{written} Hardest of the model: {hardest['dnf']} terms, {hardest['cnf']} clauses. "
            "Holds if Q* needs more of each.",
        ),
        Claim(
            f"q_total_n{n}",
            f"n = {n}: Q* > 0 needs more terms, and more clauses, than the whole model together",
            None,
            min(q[form][0] / whole[form] for form in q),
            None,
            all(q[form][0] > whole[form] for form in q),
            "Q* > 0 over the whole model, the smaller ratio",
            f"{written} Whole model: {whole['dnf']} terms, {whole['cnf']} clauses. Holds if Q* "
            "needs more of each.",
        ),
    ]


def lower_bound(n: int) -> float:
    """Return log2 of the fewest terms that Q* > 0 needs, by the majority that it contains."""
    return math.log2(majority_mdp_dnf_terms(n))


def growth_claim(ns: Sequence[int]) -> Claim:
    """Judge whether what Q* needs outgrows every power of n that the model needs."""
    model = np.log2([model_terms(n) for n in ns])
    degrees = np.diff(model) / np.diff(np.log2(ns))
    q_degrees = np.diff([lower_bound(n) for n in ns]) / np.diff(np.log2(ns))
    rises = all(after > before for before, after in pairwise(q_degrees))
    return Claim(
        "growth",
        "The model's terms grow like a power of n, the terms that Q* > 0 needs faster than any",
        "polynomial against super-polynomial",
        float(q_degrees[-1] / degrees[-1]),
        None,
        bool(rises and degrees.max() < 2),
        "local exponent of Q* over that of the model",
        "Exponents of n between one n and the next, n = "
        f"{', '.join(map(str, ns))}: model {listed(degrees)}, Q* at least {listed(q_degrees)}. "
        "Proved sizes, nothing random. Holds if every exponent of the model is below 2 and those "
        "of Q* rise from one n to the next.",
    )


def share_claim(ns: Sequence[int]) -> Claim:
    """Judge whether the bound is exponential in n: bits of the size per bit of the state."""
    bounds = np.array([lower_bound(n) for n in ns])
    shares = bounds / ns
    slope, power = growth_fit(ns, bounds)
    return Claim(
        "exponential",
        "log2 of the terms that Q* > 0 needs, over n, rises towards 1",
        None,
        float(shares[-1]),
        None,
        all(before < after < 1 for before, after in pairwise(shares)),
        "doublings per n",
        f"At least {listed(shares)} for n = {', '.join(map(str, ns))}: the terms of a majority of "
        f"n − 1 bits, for which least squares gives 2^({slope:.3f} n) n^({power:.2f}). Holds if "
        "the share rises at every step. The least sizes themselves are larger, as Q* has more "
        "inputs than these n.",
    )


def growth_fit(ns: Sequence[int], logs: np.ndarray) -> tuple[float, float]:
    """Fit ``log2(size) = α n + β log2 n + γ`` by least squares and return α and β."""
    design = np.stack([np.array(ns, float), np.log2(ns), np.ones(len(ns))], axis=1)
    slope, power, _ = np.linalg.lstsq(design, logs, rcond=None)[0]
    return float(slope), float(power)


def influence_claim(spectra: Mapping[int, Mapping[str, Any]]) -> Claim:
    """Judge whether influence falls with n for the model and rises for Q*."""
    model = [found["next bit 0"][0] for found in spectra.values()]
    q = [found[POSITIVE][0] for found in spectra.values()]
    return Claim(
        "influence",
        "Total influence falls with n for a bit of the next state, and rises for Q* > 0",
        None,
        q[-1] / model[-1],
        None,
        all(a > b for a, b in pairwise(model)) and all(a < b for a, b in pairwise(q)),
        "ratio at the largest n",
        f"n = {', '.join(map(str, spectra))}: next bit 0 {listed(model)}, Q* > 0 {listed(q)}. "
        "Exact. Holds if every step goes that way.",
    )


def parity_claim(values: Mapping[int, Sizes]) -> Claim:
    """Judge whether the values of the Parity MDP are as large as a function can be."""
    terms = {n: sizes["V* >= 1"] for n, sizes in values.items()}
    largest = max(terms)
    return Claim(
        "parity_terms",
        "Parity MDP: V* > 0 needs 2**(n-1) terms and as many clauses, more than any other function "
        "of n bits",
        "super-polynomial at any constant depth",
        terms[largest]["dnf"][0],
        None,
        all(
            forms[form] == [1 << n - 1] * 2 for n, forms in terms.items() for form in ("dnf", "cnf")
        ),
        f"terms at n = {largest}",
        f"n = {', '.join(map(str, terms))}: DNF "
        f"{', '.join(spelled(forms['dnf']) for forms in terms.values())}. Proved. Holds if all are "
        "exactly that.",
    )


def parity_model_claim(models: Mapping[int, Sizes]) -> Claim:
    """Judge whether the model of the Parity MDP stays small."""
    largest = {
        n: max(forms["dnf"][1] for name, forms in sizes.items() if is_model(name))
        for n, sizes in models.items()
    }
    n = max(largest)
    return Claim(
        "parity_model",
        "Parity MDP: every bit of the next state and the reward have a short DNF",
        "polynomial size, depth 2",
        largest[n],
        None,
        all(terms <= 4 * n * n for n, terms in largest.items()),
        f"terms of the largest at n = {n}",
        f"{', '.join(f'{terms} for n = {size}' for size, terms in largest.items())}; codes of no "
        "action stand for the first. Holds if none is above 4 n².",
    )


def threshold_claim(circuits: Mapping[int, Gates]) -> Claim:
    """Judge whether threshold gates make Q* small: what the theorem does not exclude."""
    shares = [gates.thresholds / n**2 for n, gates in circuits.items()]
    depths = {gates.depth for gates in circuits.values()}
    sizes = ", ".join(f"{gates.thresholds} for n = {n}" for n, gates in circuits.items())
    return Claim(
        "not_separated",
        "With threshold gates Q* has a circuit of constant depth and O(n²) gates: the separation "
        "is one by AND and OR",
        None,
        shares[-1],
        None,
        len(depths) == 1 and all(after <= before for before, after in pairwise(shares)),
        "gates / n²",
        f"All values of Q*, in unary; gates: {sizes}; depth {max(depths)}. Holds if the "
        "depth is the same for every n and gates / n² never grows.",
    )


def two_input_claim(circuits: Mapping[int, Gates]) -> Claim:
    """Judge whether gates of two inputs make Q* small."""
    exponents = local_exponents({n: gates.two_input for n, gates in circuits.items()})
    sizes = ", ".join(f"{gates.two_input} for n = {n}" for n, gates in circuits.items())
    return Claim(
        "two_inputs",
        "With two-input gates and a depth that may grow, Q* has O(n² log n) gates",
        None,
        float(exponents[-1]),
        None,
        bool(exponents.max() < 3),
        "local exponent at the largest n",
        f"Thresholds as adders; all values of Q*, in unary; gates: {sizes}. Exponents of n between "
        f"one n and the next: {listed(exponents)}. Holds if all are below 3, a limit that was set "
        "when these sizes were known.",
    )


def diagram_claim(diagrams: Mapping[int, tuple[int, int]]) -> Claim:
    """Judge whether a diagram of Q* is small in the order that suits it."""
    pointer_first = {n: nodes for n, (nodes, _) in diagrams.items()}
    bits_first = {n: nodes for n, (_, nodes) in diagrams.items()}
    exponents = local_exponents(pointer_first)
    return Claim(
        "diagrams",
        "A decision diagram of Q* > 0 that asks for action and pointer first has O(n⁴) nodes",
        None,
        float(exponents[-1]),
        None,
        bool(exponents.max() <= 4),
        "local exponent at the largest n",
        f"n = {', '.join(map(str, diagrams))}: {numbers(pointer_first.values())} nodes, exponents "
        f"{listed(exponents)}. It has to know how many bits are wrong and which of them comes "
        "last: at most O(n²) nodes for each bit and each of 2 N pointers and actions. Holds if no "
        "exponent is above 4, a limit that was set when these sizes were known. With the "
        f"bits first: {numbers(bits_first.values())} nodes, "
        f"exponents {listed(local_exponents(bits_first))}.",
    )


def local_exponents(sizes: Mapping[int, int]) -> np.ndarray:
    """Return the power of n by which sizes grow from each n to the next."""
    return np.diff(np.log2(list(sizes.values()))) / np.diff(np.log2(list(sizes)))


def numbers(values: Iterable[int]) -> str:
    """Write sizes."""
    return ", ".join(f"{value:,}" for value in values)


def listed(values: Sequence[float] | np.ndarray) -> str:
    """Write numbers with three digits."""
    return ", ".join(f"{value:.3g}" for value in values)


# Tables and figures -----------------------------------------------------------------------------


def size_table(family: str, found: Mapping[int, Sizes]) -> Table:
    """Return a row for each function that differs from others, with its least forms."""
    rows: list[list[Any]] = []
    for n, sizes in found.items():
        for name, forms in sizes.items():
            rows.append([n, name, spelled(forms["dnf"]), spelled(forms["cnf"])])
    return Table(
        f"Least normal forms, {family}",
        ["n", "function", "terms of the DNF", "clauses of the CNF"],
        rows,
        "Inputs are the bits of the state's code and of the action; one number is proved to be the "
        "least, two are bounds of it.",
    )


def growth_table(ns: Sequence[int], majority: Mapping[int, Sizes]) -> Table:
    """Return a row for each n: terms of the model and of Q*."""
    rows: list[list[Any]] = []
    for n in sorted({*ns, *majority}):
        # The bound is for powers of two.
        bound = lower_bound(n) if n in ns else None
        written = None
        if bound is not None:
            written = f"{majority_mdp_dnf_terms(n):,}" if bound < 50 else f"2^{bound:.1f}"
        exact = spelled(majority[n][POSITIVE]["dnf"]) if n in majority else None
        rows.append([n, model_terms(n), exact, written])
    return Table(
        "Majority MDP over n",
        ["n", "terms of the whole model", "Q* > 0: least terms", "Q* > 0: terms at least"],
        rows,
        "Terms of a DNF; the last column is the bound for every n, by the majority in Q*.",
    )


def ruler_table(circuits: Mapping[int, Gates], diagrams: Mapping[int, tuple[int, int]]) -> Table:
    """Return a row for each n: sizes of Q* by rulers that do not separate it from the model."""
    rows: list[list[Any]] = [
        [
            n,
            gates.thresholds,
            gates.depth,
            gates.two_input,
            gates.model_two_input,
            *diagrams.get(n, (None, None)),
        ]
        for n, gates in circuits.items()
    ]
    return Table(
        "Majority MDP by other rulers",
        [
            "n",
            "Q*: gates with thresholds",
            "depth",
            "Q*: two-input gates",
            "model: two-input gates",
            "Q* > 0: nodes, pointer first",
            "Q* > 0: nodes, bits first",
        ],
        rows,
        "Explicit circuits of all values of Q* in unary, upper bounds; diagrams (OBDDs) are the "
        "reduced ones of their order, exact.",
    )


def parity_table(ns: Sequence[int]) -> Table:
    """Return a row for each n: the parity in the values of the Parity MDP by other rulers."""
    rows: list[list[Any]] = []
    for n in ns:
        mdp = ParityMDP(n)
        (table,) = (
            function.table
            for function in target_of(mdp, solve(mdp), "value").functions
            if function.name == "V* >= 1"
        )
        circuit = Circuit(n)
        circuit.output(~circuit.xor(*circuit.inputs()))
        rows.append([n, two_input_gates(circuit), table.obdd_size()])
    return Table(
        "Parity MDP by other rulers",
        ["n", "V* > 0: two-input gates", "V* > 0: nodes of a diagram"],
        rows,
        "XOR included, NOT free. No circuit has fewer gates, since all inputs matter.",
    )


def spectrum_table(spectra: Mapping[int, Mapping[str, Any]]) -> Table:
    """Return a row for each n and function: influence and weight of high degrees."""
    rows: list[list[Any]] = []
    for n, found in spectra.items():
        for name in ("next bit 0", POSITIVE):
            rows.append([n, name, *found[name], *([None] * TAIL)])
        rows.append([n, "Q*", None, None, *found["errors"]])
    degrees = [f"variance beyond degree {k}" for k in range(1, TAIL + 1)]
    return Table(
        "Spectra, Majority MDP",
        ["n", "function", "total influence", f"weight above degree {TAIL}", *degrees],
        rows,
        "Uniform inputs, exact. Variance of Q* that no polynomial of that degree explains.",
    )


def figures_of(ns: Sequence[int], circuits: Mapping[int, Gates]) -> list[Figure]:
    """Draw sizes over n; nothing without matplotlib, which is optional."""
    from modicum.core.plots import look, new_axes

    try:
        figure, axes = new_axes("modicum-repcomplexity")
    except ImportError:
        return []
    series = {
        "model, terms (AND, OR)": [math.log2(model_terms(n)) for n in ns],
        "Q* > 0, terms at least (AND, OR)": [lower_bound(n) for n in ns],
        "Q*, gates with thresholds": [math.log2(circuits[n].thresholds) for n in ns],
        "Q*, two-input gates": [math.log2(circuits[n].two_input) for n in ns],
    }
    words = []
    for index, (name, values) in enumerate(series.items()):
        axes.plot(ns, values, marker="o", markersize=3, label=name, **look(index))
        words.append(f"{name}: {listed(values)}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(ns, [str(n) for n in ns])
    axes.set_xlabel("n")
    axes.set_ylabel("log2 of the size")
    axes.legend(frameon=False)
    return [
        Figure.from_matplotlib(
            figure,
            "Sizes of model and Q* of the Majority MDP",
            "Proved: explicit forms of the model, a lower bound and two circuits of Q*.",
            f"log2 for n = {', '.join(map(str, ns))}. {'; '.join(words)}.",
        )
    ]
