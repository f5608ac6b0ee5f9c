"""The optimum under edits: certified values, size and time, and an actual scheme beside it.

Solves the linear programs of the best robust watermark and holds them to the program over all
joint laws of output and region; then edits texts of an actual token-level scheme, at random and
with the key in hand, and compares what is still detected with what any scheme could.

Legend: ``R`` texts, ``T`` tokens, ``K`` null draws, ``N`` elements, ``S`` subsets of the elements.
"""

import itertools
import math
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modicum.core.experiment import Claim, Figure, Result, RunContext, Table, write_atomic
from modicum.core.stats import clopper_pearson
from modicum.umpwatermark.graphs import (
    MAX_ELEMENTS,
    PerturbationGraph,
    edit_graph,
    hamming_graph,
)
from modicum.umpwatermark.nulls import TIE, PivotMatchLaw
from modicum.umpwatermark.robust import RobustLP, RobustOrbitLP, hamming_ball_type2

Floats = NDArray[np.float64]

ALPHA = 0.01
RARE = 0.1
"""Probability of the rarer of two tokens; 0.325 nats per token."""

CURVE_EDITS = (0, 1, 2, 4, 8, 16)
CURVE_LENGTHS = (50, 100, 150, 200)
SIMULATED_LENGTH = 100
WEIGHTS = (0.3, 0.3)
NUM_DRAWS = 399
"""Least multiple of 100, less one, at which a p-value can be well below alpha."""

FAMILIES: dict[str, tuple[str, int, tuple[int, ...], int]] = {
    "substitution, d = 1": ("hamming", 1, tuple(range(8, 16)), 15),
    "substitution, d = 2": ("hamming", 2, tuple(range(8, 16)), 14),
    "insertion, deletion, substitution, d = 1": ("edit", 1, tuple(range(6, 14)), 13),
    "insertion, deletion, substitution, d = 2": ("edit", 2, tuple(range(5, 13)), 8),
}
"""By name: graph, edits, lengths of binary strings, and the last length of a quick run."""

TIME_LIMIT = 60.0
QUICK_LIMIT = 5.0


def rough_law(n: int, rng: np.random.Generator) -> Floats:
    """Return a law on binary strings without any symmetry: unequal tokens, roughened."""
    ones_N = np.array([bin(x).count("1") for x in range(2**n)])
    law_N = RARE**ones_N * (1 - RARE) ** (n - ones_N) * rng.gamma(0.5, size=2**n)
    return np.asarray(law_N / law_N.sum(), dtype=np.float64)


def exhaustive_type2(rho_N: Floats, out: list[set[int]], alpha: float) -> float:
    """Return the robust optimum by the program over all joint laws of output and region.

    One variable for every output and every one of the ``2**N`` regions: for tiny N only.
    """
    from scipy.optimize import linprog

    N = len(rho_N)
    regions = [set(chosen) for k in range(N + 1) for chosen in itertools.combinations(range(N), k)]
    pairs = [(x, s) for x in range(N) for s in range(len(regions))]
    gain = np.array([out[x] <= regions[s] for x, s in pairs], dtype=np.float64)
    inside = np.array([[y in regions[s] for _, s in pairs] for y in range(N)], dtype=np.float64)
    is_x = np.array([[x == y for x, _ in pairs] for y in range(N)], dtype=np.float64)
    found = linprog(
        -gain, A_ub=inside, b_ub=np.full(N, alpha), A_eq=is_x, b_eq=rho_N, method="highs"
    )
    return float(1 + found.fun)


def agreement(num_graphs: int, rng: np.random.Generator) -> dict[str, float]:
    """Return the largest differences between the program and what it must equal."""
    worst = {"all joint laws, 5 elements": 0.0, "gap of certificates": 0.0}
    for _ in range(num_graphs):
        rho_N = rng.dirichlet(np.ones(5))
        alpha = float(rng.uniform(0.05, 0.6))
        edges = [(x, y) for x in range(5) for y in range(5) if x == y or rng.random() < 0.35]
        out = [{y for a, y in edges if a == x} for x in range(5)]
        solved = RobustLP(PerturbationGraph.from_edges(5, edges), rho_N, alpha).solve()
        exact = exhaustive_type2(rho_N, out, alpha)
        for name, error in (
            ("all joint laws, 5 elements", abs(solved.type2 - exact)),
            ("gap of certificates", solved.gap),
        ):
            worst[name] = max(worst[name], error)
    orbit = []
    for n, p, d, alpha in ((6, 0.2, 1, 0.05), (8, 0.1, 1, 0.05), (8, 0.3, 2, 0.1)):
        ones_N = np.array([bin(x).count("1") for x in range(2**n)])
        rho_N = p**ones_N * (1 - p) ** (n - ones_N)
        whole = RobustLP(hamming_graph(n, 2, d), rho_N, alpha).solve().type2
        orbit.append(abs(whole - RobustOrbitLP(n, p, alpha, d).solve().type2))
    worst["counts against whole strings"] = max(orbit)
    uniform = RobustLP(hamming_graph(8, 2, 1), np.full(256, 1 / 256), 0.02).solve().type2
    worst["closed form of uniform strings"] = abs(uniform - hamming_ball_type2(8, 1, 0.02))
    return worst


def sizes(
    quick: bool, limit: float, rng: np.random.Generator, task: Any = None
) -> dict[str, list[list[Any]]]:
    """Solve rising sizes of each family until one needs more than the limit.

    Returns rows of length, elements, edges, seconds, method, status, gap and Type II error.
    """
    found: dict[str, list[list[Any]]] = {}
    for name, (kind, d, lengths, last) in FAMILIES.items():
        rows: list[list[Any]] = []
        for n in lengths:
            size = 2**n if kind == "hamming" else sum(2**k for k in range(n - d, n + d + 1))
            if (quick and n > last) or size > MAX_ELEMENTS:
                break
            graph = (hamming_graph if kind == "hamming" else edit_graph)(n, 2, d)
            program = RobustLP(graph, rough_law(n, rng), ALPHA)
            start = time.perf_counter()
            solved = program.solve(time_limit=limit)
            seconds = time.perf_counter() - start
            rows.append(
                [
                    n,
                    graph.num_elements,
                    graph.num_edges,
                    seconds,
                    solved.method,
                    solved.status,
                    solved.gap,
                    solved.type2,
                ]
            )
            if task is not None:
                task.advance(1)
            if solved.status != "optimal" or seconds > limit:
                break
        found[name] = rows
    return found


class TokenScheme:
    """Gumbel-max over two tokens and the combined test with the exact model, with its edits.

    Uniforms are ideal: contexts are taken never to repeat, as with a real vocabulary. An edited
    token changes the context of the ``width`` tokens behind it, whose uniforms are drawn anew;
    ``width = 0`` keys by position.

    Parameters
    ----------
    num_tokens
        T.
    width
        Tokens of context, c.
    """

    def __init__(self, num_tokens: int, width: int) -> None:
        self.num_tokens, self.width = num_tokens, width
        self.law = np.array([1 - RARE, RARE])

    def evidence(self, x_T: NDArray[np.int64], u_T2: Floats) -> tuple[Floats, Floats, Any]:
        """Return probabilities, pivots and matches of a text under its uniforms."""
        prob_T = self.law[x_T]
        y_T = u_T2[np.arange(len(x_T)), x_T]
        match_T = (np.log(u_T2) / self.law).argmax(axis=1) == x_T
        return prob_T, y_T, match_T

    def scores(self, x_T: NDArray[np.int64], u_T2: Floats) -> Floats:
        """Return the score of each token, nats."""
        prob_T, y_T, match_T = self.evidence(x_T, u_T2)
        tail_T = np.exp((1 / prob_T - 1) * np.log(y_T))
        return np.log(PivotMatchLaw(prob_T, (WEIGHTS,)).e_values(tail_T, match_T))

    def attack(self, x_T: NDArray[np.int64], u_T2: Floats, d: int) -> NDArray[np.int64]:
        """Choose d places with the key in hand.

        Again and again the token is replaced that takes most away from the total: its own score,
        less that of its replacement, and the scores of the tokens whose context it changes.
        """
        score_T = self.scores(x_T, u_T2)
        other_T = self.scores(1 - x_T, u_T2)
        chosen: list[int] = []
        lost = np.zeros(self.num_tokens, dtype=bool)
        for _ in range(d):
            kept_T = np.where(lost, 0.0, score_T)
            behind_T = np.concatenate([np.cumsum(kept_T), np.full(self.width, kept_T.sum())])
            window_T = behind_T[self.width :] - behind_T[: self.num_tokens]
            own_T = np.where(lost, 0.0, score_T - other_T)
            gain_T = own_T + window_T
            gain_T[chosen] = -np.inf
            best = int(gain_T.argmax())
            chosen.append(best)
            lost[best : best + self.width + 1] = True
        return np.array(chosen, dtype=np.int64)

    def detected(self, num_texts: int, edits: int, chosen: bool, rng: np.random.Generator) -> int:
        """Count texts that are still detected after edits at random or chosen places."""
        count = 0
        for _ in range(num_texts):
            u_T2 = rng.random((self.num_tokens, 2))
            x_T = (np.log(u_T2) / self.law).argmax(axis=1)
            if edits:
                places = (
                    self.attack(x_T, u_T2, edits)
                    if chosen
                    else rng.choice(self.num_tokens, size=edits, replace=False)
                )
                x_T[places] = 1 - x_T[places]
                behind = (places[:, None] + np.arange(1, self.width + 1)).ravel()
                behind = np.unique(behind[behind < self.num_tokens])
                u_T2[behind] = rng.random((len(behind), 2))
            prob_T, y_T, match_T = self.evidence(x_T, u_T2)
            law = PivotMatchLaw(prob_T, (WEIGHTS,))
            tail_T = np.exp((1 / prob_T - 1) * np.log(y_T))
            observed = float(np.log(law.e_values(tail_T, match_T)).sum())
            reached = int((law.draw_totals(NUM_DRAWS, rng) >= observed - TIE).sum())
            count += (1 + reached) / (NUM_DRAWS + 1) <= ALPHA
        return count


def _lp_claims(
    found: dict[str, list[list[Any]]], worst: dict[str, float], num_graphs: int, limit: float
) -> list[Claim]:
    claims = [
        Claim(
            "agrees_with_brute_force",
            "The program over the graph has the value of the program over all joint laws of output "
            f"and region ({num_graphs} random graphs on 5 elements), of the program over counts, "
            "and of the closed form.",
            "LP characterisation",
            max(worst.values()),
            None,
            max(worst.values()) <= 1e-7,
            "largest difference",
            "; ".join(f"{name}: {error:.1e}" for name, error in worst.items())
            + ". Holds up to 1e-7, the solver's tolerance.",
        )
    ]
    for name, rows in found.items():
        inside = [row for row in rows if row[5] == "optimal" and row[3] <= limit]
        largest = inside[-1]
        short = "substitutions" if name.startswith("sub") else "edits"
        claims.append(
            Claim(
                f"lp_size_{short}_{name[-1]}",
                f"Largest program of the kind {name!r} solved in {limit:g} s to a certified gap.",
                None,
                largest[1],
                None,
                bool(largest[6] <= 1e-6),
                "elements",
                f"{largest[2]} edges in {largest[3]:.2f} s ({largest[4]}), certified gap "
                f"{largest[6]:.1e}. "
                + (
                    "The next size exceeds the limit of 32768 elements, or of a quick run."
                    if len(inside) == len(rows)
                    else "The next size did not finish in time."
                )
                + " Holds if the gap is at most 1e-6.",
            )
        )
    return claims


def _scheme_claims(rows: list[list[Any]], num_texts: int) -> list[Claim]:
    chosen = [row for row in rows if row[1] == "chosen"]
    # Smallest first: how far the upper end of the interval is above the bound.
    closest = min(chosen, key=lambda row: row[5] - row[6])
    random = [row for row in rows if row[1] == "random"]
    below = min(random, key=lambda row: row[3] - row[6])
    deepest = max(row[2] for row in random)
    context = next(row for row in random if row[0] == 4 and row[2] == deepest)
    position = next(row for row in random if row[0] == 0 and row[2] == deepest)
    return [
        Claim(
            "no_scheme_below_the_bound",
            "Against edits chosen with the key, the scheme's miss rate is above the optimum of any "
            "scheme at every number of edits; the smallest difference is shown.",
            "robust optimum = value of the LP",
            closest[3] - closest[6],
            (closest[4] - closest[6], closest[5] - closest[6]),
            all(row[5] >= row[6] for row in chosen),
            "miss rate minus bound",
            f"At {closest[2]} edits, context width {closest[0]}, {num_texts} texts; 95 % "
            "Clopper-Pearson. Holds if no interval lies below the bound. The attacker is greedy, "
            "so the scheme's worst case is no better than this.",
        ),
        Claim(
            "random_edits_are_weaker",
            "The bound is about the worst edits: under random ones a scheme can miss less than it "
            "says; the largest difference is shown.",
            None,
            below[3] - below[6],
            (below[4] - below[6], below[5] - below[6]),
            True if below[5] < below[6] else None,
            "miss rate minus bound",
            f"At {below[2]} random edits, context width {below[0]}, {num_texts} texts. Holds if an "
            "interval lies below the bound.",
        ),
        Claim(
            "loss_context",
            "A loss: an edit also destroys the evidence of the four tokens behind it, so the "
            "scheme misses more texts than one keyed by position.",
            None,
            context[3] - position[3],
            (context[4] - position[5], context[5] - position[4]),
            True if context[4] > position[5] else None,
            "difference of miss rates",
            f"At {deepest} random edits: {context[3]:.3f} against {position[3]:.3f}, {num_texts} "
            "texts each. Holds if the 95 % intervals do not meet.",
        ),
    ]


def run(ctx: RunContext) -> Result:
    """Solve the programs, draw the curves and simulate the edits."""
    limit = QUICK_LIMIT if ctx.quick else TIME_LIMIT
    num_graphs = 20 if ctx.quick else 200
    num_texts = 120 if ctx.quick else 1000
    edits = (0, 2, 4, 8) if ctx.quick else CURVE_EDITS
    cells = [(c, chosen, d) for c in (0, 4) for chosen in (False, True) for d in edits]
    programs = sum(len(lengths) for _, _, lengths, _ in FAMILIES.values())
    task = ctx.progress(programs + len(cells) + 1, "robust optimum")
    worst = agreement(num_graphs, np.random.default_rng([ctx.seed, 1]))
    task.advance(1)
    found = ctx.load_partial("sizes")
    if found is None:
        found = sizes(ctx.quick, limit, np.random.default_rng([ctx.seed, 2]), task)
        ctx.save_partial("sizes", found)
    task.advance(programs - sum(map(len, found.values())))

    every = range(CURVE_EDITS[-1] + 1)
    curves = {
        n: np.array([RobustOrbitLP(n, RARE, ALPHA, d).solve().type2 for d in every])
        for n in CURVE_LENGTHS
    }
    rows: list[list[Any]] = []
    for number, (width, chosen, d) in enumerate(cells):
        part = f"edits-{width}-{int(chosen)}-{d}"
        count = ctx.load_partial(part)
        if count is None:
            rng = np.random.default_rng([ctx.seed, 3, number])
            count = TokenScheme(SIMULATED_LENGTH, width).detected(num_texts, d, chosen, rng)
            ctx.save_partial(part, count)
        low, high = clopper_pearson(num_texts - count, num_texts)
        bound = float(curves[SIMULATED_LENGTH][d])
        rows.append(
            [
                width,
                "chosen" if chosen else "random",
                d,
                1 - count / num_texts,
                float(low),
                float(high),
                bound,
            ]
        )
        task.advance(1)
    size_columns = ["length", "elements", "edges", "seconds", "method", "status", "gap", "type2"]
    lines = ["graph," + ",".join(size_columns)]
    lines += [
        f'"{name}",' + ",".join(map(str, row)) for name, part in found.items() for row in part
    ]
    write_atomic(ctx.out / "lp_sizes.csv", "\n".join(lines) + "\n")
    columns = ["context width", "edits", "d", "miss rate", "95 % low", "95 % high", "optimum"]
    write_atomic(
        ctx.out / "edits.csv",
        "\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n",
    )
    nats = -(RARE * math.log(RARE) + (1 - RARE) * math.log1p(-RARE))
    return ctx.result(
        claims=[*_lp_claims(found, worst, num_graphs, limit), *_scheme_claims(rows, num_texts)],
        tables=[
            Table(
                f"Misses after d substitutions, {SIMULATED_LENGTH} tokens, α = {ALPHA}",
                columns,
                rows,
                f"Independent tokens of two kinds, {nats:.3f} nats each; Gumbel-max read by the "
                f"combined test with the exact model, {num_texts} texts. The optimum is that of "
                "any scheme against the worst substitutions; chosen ones come from an attacker who "
                "has the key, the text and the model.",
            ),
            Table(
                f"Optimal robust Type II error, α = {ALPHA}, two tokens with probability {RARE}",
                ["d", *(f"n = {n}" for n in CURVE_LENGTHS)],
                [[d, *(float(curves[n][d]) for n in CURVE_LENGTHS)] for d in every],
                "Programs over counts, certified to 1e-6 or better.",
            ),
            Table(
                f"Programs on strings, at most {limit:g} s each",
                ["graph", *size_columns],
                [[name, *row] for name, part in found.items() for row in part],
                "Laws without symmetry. The gap between primal and dual value is proved by the "
                "pair itself.",
            ),
        ],
        figures=_figures(curves, rows),
        files=["lp_sizes.csv", "edits.csv"],
        text=(
            "A watermark that must survive any d edits has to spend its false-alarm budget on "
            "whole neighbourhoods of texts. How much that costs is the value of a linear program, "
            "which is computed here with a certificate and set beside what an actual token-level "
            "scheme loses."
        ),
    )


def _figures(curves: dict[int, Floats], rows: list[list[Any]]) -> list[Figure]:
    from modicum.umpwatermark import plots

    simulated = {}
    for width, kind in itertools.product((0, 4), ("random", "chosen")):
        part = np.array([row[2:6] for row in rows if row[0] == width and row[1] == kind])
        half = (part[:, 3] - part[:, 2]) / 2
        where = "by position" if width == 0 else f"{width} tokens of context"
        simulated[f"scheme, {kind} edits, {where}"] = (part[:, 0], part[:, 1], half)
    lines = {f"optimum, n = {n}": (np.arange(len(beta)), beta) for n, beta in curves.items()}
    try:
        return [
            Figure.from_matplotlib(
                plots.robust(lines, simulated=simulated),
                "Misses against the number of substitutions",
                f"α = {ALPHA}; the scheme has {SIMULATED_LENGTH} tokens.",
            )
        ]
    except ImportError:
        # matplotlib is optional; tables and claims stand without it.
        return []
