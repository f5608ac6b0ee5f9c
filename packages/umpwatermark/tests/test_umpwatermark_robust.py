"""Robust optimum against programs over all joint laws, exact certificates, orbits, couplings."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats
from scipy.optimize import linprog

from modicum.umpwatermark import _packing
from modicum.umpwatermark.graphs import PerturbationGraph, edit_graph, hamming_graph
from modicum.umpwatermark.robust import (
    RobustLP,
    RobustOrbitLP,
    hamming_ball_type2,
    robust_curve,
    robust_type2,
    robust_type2_orbit,
)
from modicum.umpwatermark.theory import ump_type2

EXACT = 1e-11
"""Agreement of values that HiGHS solves to a vertex."""

FIRST_ORDER = 2e-7
"""Agreement of values of the first-order method, whose gap is 1e-7."""


def digraph(rng, size, density):
    return PerturbationGraph((rng.random((size, size)) < density) | np.eye(size, dtype=bool))


def path(size):
    i = np.arange(size)
    return PerturbationGraph(abs(i[:, None] - i) <= 1)


def type2_over_all_joint_laws(graph, rho, alpha, epsilon=0.0):
    """Program over every joint law of (X, R), R any subset, and every law of X within epsilon."""
    N = len(rho)
    regions = list(itertools.product([False, True], repeat=N))
    cells = [(x, region) for x in range(N) for region in regions]
    safe = np.array([all(region[y] for y in graph.out(x)) for x, region in cells], float)
    hits = np.array([[region[y] for _, region in cells] for y in range(N)], float)
    marginal = np.array([[x == z for x, _ in cells] for z in range(N)], float)
    # The law of X is rho + gain - loss.
    pad, eye = np.zeros((N, N)), np.eye(N)
    budget = np.concatenate([np.zeros(len(cells)), np.ones(N), np.zeros(N)])[None]
    result = linprog(
        -np.concatenate([safe, np.zeros(2 * N)]),
        A_ub=np.vstack([np.hstack([hits, pad, pad]), budget]),
        b_ub=np.append(np.full(N, alpha), epsilon),
        A_eq=np.vstack([np.hstack([marginal, -eye, eye]), budget - np.roll(budget, N)]),
        b_eq=np.append(rho, 0.0),
        method="highs-ds",
    )
    return 1 + result.fun


@pytest.mark.parametrize("method", ["simplex", "ipm", "first-order"])
@pytest.mark.parametrize("epsilon", [0.0, 0.07, 0.4])
@pytest.mark.parametrize("size", [4, 5])
def test_value_equals_the_program_over_all_joint_laws(size, epsilon, method):
    rng = np.random.default_rng([size, int(100 * epsilon)])
    for density in (0.15, 0.4, 0.8):
        graph = digraph(rng, size, density)
        rho = rng.dirichlet(np.full(size, 0.7))
        alpha = float(rng.uniform(0.03, 0.6))
        solution = RobustLP(graph, rho, alpha, epsilon).solve(method)
        expected = type2_over_all_joint_laws(graph, rho, alpha, epsilon)
        tolerance = FIRST_ORDER if method == "first-order" else EXACT
        assert solution.type2 == pytest.approx(expected, abs=tolerance)
        low, high = solution.interval
        assert low - EXACT <= expected <= high + EXACT
        assert 0 <= solution.gap <= tolerance


@pytest.mark.parametrize(("alpha", "value"), [(0.1, 0.8), (0.2, 0.7), (0.3, 0.6), (0.5, 0.4)])
@pytest.mark.parametrize("method", ["auto", "simplex", "ipm"])
def test_path_graph_reference_values(alpha, value, method):
    solution = RobustLP(path(4), (0.4, 0.3, 0.2, 0.1), alpha).solve(method)
    assert solution.type2 == pytest.approx(value, abs=1e-13)
    assert solution.interval[0] <= value + 1e-15
    assert solution.gap < 1e-13


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 12),
    alpha=st.floats(0.01, 0.9),
    epsilon=st.sampled_from([0.0, 0.02, 0.3]),
)
def test_graph_without_edges_gives_the_ump_error(seed, size, alpha, epsilon):
    rho = np.random.default_rng(seed).dirichlet(np.full(size, 0.6))
    graph = PerturbationGraph(np.eye(size))
    assert robust_type2(rho, alpha, graph, epsilon=epsilon) == pytest.approx(
        ump_type2(rho, alpha, epsilon), abs=EXACT
    )


def dual_value(graph, rho, alpha, u):
    """Dual value in rational numbers."""
    total = Fraction(alpha) * sum(map(Fraction, u))
    for x in range(len(rho)):
        worth = 1 - sum(Fraction(u[y]) for y in graph.out(x))
        total += Fraction(rho[x]) * max(worth, Fraction(0))
    return total


@pytest.mark.parametrize("method", ["simplex", "ipm", "first-order"])
@pytest.mark.parametrize("seed", range(4))
def test_certificates_hold_in_rational_arithmetic(seed, method):
    rng = np.random.default_rng(seed)
    graph = [hamming_graph(6, 2, 1), hamming_graph(3, 3, 2), edit_graph(5, 2, 1)][seed % 3]
    if seed == 3:
        graph = digraph(rng, 40, 0.1)
    size = graph.num_elements if graph.support is None else graph.support.size
    lp = RobustLP(graph, rng.dirichlet(np.ones(size)), float(rng.uniform(0.02, 0.3)))
    solution = lp.solve(method, tolerance=1e-4)
    z = [Fraction(v) for v in solution.z_K]
    load = [Fraction(0)] * graph.num_elements
    for x in range(graph.num_elements):
        assert 0 <= z[x] <= Fraction(lp.law_N[x])
        for y in graph.out(x):
            load[y] += z[x]
    assert max(load) <= Fraction(lp.alpha)
    assert Fraction(solution.primal) <= sum(z)
    assert min(solution.u_J) >= 0
    assert dual_value(graph, lp.law_N, lp.alpha, solution.u_J) <= Fraction(solution.dual)
    low, high = map(Fraction, solution.interval)
    assert low <= 1 - Fraction(solution.dual) <= 1 - Fraction(solution.primal) <= high


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 100), epsilon=st.sampled_from([0, 0.1]))
def test_repairs_bound_the_optimum_from_any_pair(seed, scale, epsilon):
    """Whatever z and u a solver returns, the repaired ones enclose the optimum."""
    rng = np.random.default_rng(seed)
    graph = digraph(rng, 8, 0.3)
    lp = RobustLP(graph, rng.dirichlet(np.ones(8)), 0.15, epsilon)
    packing, best = lp.packing(), lp.solve("simplex")
    z, primal = packing.primal(rng.normal(size=8) * scale)
    _, dual = packing.dual(rng.normal(size=8) * scale)
    assert primal <= best.dual + 1e-15
    assert dual >= best.primal - 1e-15
    law = packing.law(z)
    assert np.all(law >= z)
    assert law.sum() == pytest.approx(1, abs=1e-14)
    assert 0.5 * abs(law - lp.law_N).sum() <= epsilon + 1e-15
    spoiled = np.full(8, np.nan)
    assert packing.primal(spoiled)[1] == 0
    assert packing.dual(spoiled)[1] == 1


def distorted_dual(graph, rho, alpha, epsilon, u):
    """Dual value with the worst law within epsilon: mass goes from the least to the most worth."""
    worth = np.maximum(1 - graph.adjacency_NN.astype(float) @ u, 0)
    value, left = alpha * u.sum() + worth @ rho, epsilon
    for x in np.argsort(worth):
        moved = min(left, rho[x])
        value += moved * (worth.max() - worth[x])
        left -= moved
    return value


@pytest.mark.parametrize("epsilon", [0.01, 0.2, 0.9])
@pytest.mark.parametrize("method", ["simplex", "first-order"])
def test_distorted_certificates(epsilon, method):
    rng = np.random.default_rng(int(100 * epsilon))
    for _ in range(5):
        graph = digraph(rng, 12, 0.2)
        lp = RobustLP(graph, rng.dirichlet(np.full(12, 0.5)), 0.1, epsilon)
        solution = lp.solve(method)
        assert 0.5 * abs(solution.law_K - lp.law_N).sum() <= epsilon + 1e-14
        assert np.all(solution.z_K <= solution.law_K)
        assert solution.type1().max() <= lp.alpha
        expected = min(1, distorted_dual(graph, lp.law_N, 0.1, epsilon, solution.u_J))
        assert solution.dual == pytest.approx(expected, abs=1e-13)
        assert solution.gap <= FIRST_ORDER


def test_distortion_of_strings_stays_on_their_length():
    rng = np.random.default_rng(8)
    graph = edit_graph(4, 2, 1)
    solution = RobustLP(graph, rng.dirichlet(np.full(16, 0.3)), 0.1, 0.2).solve()
    outside = np.setdiff1d(np.arange(graph.num_elements), graph.support)
    assert np.all(solution.law_K[outside] == 0)
    assert np.all(solution.z_K[outside] == 0)
    plain = RobustLP(graph, solution.law_K, 0.1).solve()
    assert plain.type2 == pytest.approx(solution.type2, abs=EXACT)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_error_is_monotone_in_alpha_edits_and_distortion(seed):
    rng = np.random.default_rng(seed)
    rho = rng.dirichlet(np.full(16, rng.uniform(0.2, 3)))
    alpha, epsilon = rng.uniform(0.01, 0.4), rng.uniform(0, 0.5)
    base = robust_type2(rho, alpha, epsilon=epsilon)
    assert robust_type2(rho, alpha * 1.3, epsilon=epsilon) <= base + EXACT
    assert robust_type2(rho, alpha, epsilon=min(0.99, epsilon * 1.5 + 0.01)) <= base + EXACT
    assert robust_type2(rho, alpha, epsilon=epsilon, num_edits=2) >= base - EXACT
    # Insertions and deletions are further edits.
    assert robust_type2(rho, alpha, "edit", epsilon=epsilon) >= base - EXACT
    # A unit of distortion buys at most a unit of error.
    assert base >= robust_type2(rho, alpha) - epsilon - EXACT


@pytest.mark.parametrize("epsilon", [0.0, 0.15])
@pytest.mark.parametrize(
    ("n", "probs", "d"),
    [
        (6, 0.3, 1), (7, 0.05, 2), (8, 0.1, 1), (7, 0.4, 3), (10, 0.1, 1), (6, 1.0, 1), (6, 0.5, 6),
        (4, (0.6, 0.3, 0.1), 1), (5, (0.5, 0.25, 0.25), 2), (6, (0.8, 0.0, 0.2), 1),
        (3, (0.4, 0.3, 0.2, 0.1), 2),
    ],
)  # fmt: skip
def test_orbit_program_equals_the_whole_program(n, probs, d, epsilon):
    law = np.array([1 - probs, probs] if isinstance(probs, float) else probs)
    rho = law
    for _ in range(n - 1):
        rho = np.multiply.outer(rho, law)
    for alpha in (0.004, 0.05, 0.3):
        orbit = RobustOrbitLP(n, probs, alpha, d, epsilon).solve()
        whole = robust_type2(
            rho, alpha, epsilon=epsilon, num_edits=d, num_symbols=law.size, method="simplex"
        )
        assert orbit.type2 == pytest.approx(whole, abs=3 * EXACT)
        assert orbit.interval[0] - EXACT <= whole <= orbit.interval[1] + EXACT
        assert orbit.gap < 3 * EXACT


def test_orbit_reference_values():
    assert robust_type2_orbit(8, 0.1, 0.05, 1) == pytest.approx(0.76310473, abs=5e-9)
    curve = robust_curve(100, 0.1, 1e-4, [0, 1, 2, 4, 8])
    np.testing.assert_allclose(curve, [0, 0.0002, 0.0045, 0.0835, 0.6020], atol=5e-5)
    assert robust_type2_orbit(100, 0.1, 1e-2, 8) == pytest.approx(0.3391, abs=5e-5)


def test_orbit_program_of_long_strings_is_certified():
    for n, probs, alpha, d in [(200, 0.1, 1e-4, 16), (2000, 0.02, 1e-6, 40), (200, 0.01, 1e-9, 3)]:
        solution = RobustOrbitLP(n, probs, alpha, d).solve()
        assert 0 < solution.type2 < 1
        assert solution.gap < 1e-9
        # The first-order method knows nothing of HiGHS.
        other = RobustOrbitLP(n, probs, alpha, d).solve("first-order")
        assert max(other.interval[0], solution.interval[0]) <= min(
            other.interval[1], solution.interval[1]
        )


def test_orbit_counts_equal_enumeration():
    lp = RobustOrbitLP(5, (0.5, 0.3, 0.2), 0.1, 2)
    strings = np.array(list(itertools.product(range(3), repeat=5)))
    counts = (strings[:, :, None] == np.arange(3)).sum(axis=1)
    kind = (counts[:, None] == lp.types_Tm).all(axis=2).argmax(axis=1)
    near = (strings[:, None] != strings[None]).sum(axis=2) <= 2
    packing = lp.packing()
    share = packing.matrix_JK.toarray() / packing.unit_K * lp.alpha
    for j in range(len(lp.types_Tm)):
        first = np.flatnonzero(kind == j)[0]
        expected = np.bincount(kind[near[first]], minlength=len(lp.types_Tm)) / np.bincount(kind)
        np.testing.assert_allclose(share[j], expected, rtol=1e-12)
    np.testing.assert_allclose(
        lp.mass_T, np.bincount(kind, np.array([0.5, 0.3, 0.2])[strings].prod(axis=1)), rtol=1e-12
    )


def test_orbit_with_type_masses_takes_exchangeable_laws():
    # A mixture of two sources of independent tokens is exchangeable, not independent.
    n, alpha = 8, 0.02
    k = np.arange(n + 1)
    masses = 0.5 * stats.binom.pmf(k, n, 0.05) + 0.5 * stats.binom.pmf(k, n, 0.6)
    ones = np.array([bin(i).count("1") for i in range(2**n)])
    rho = (masses / stats.binom.pmf(k, n, 0.5) / 2**n)[ones]
    value = robust_type2_orbit(n, None, alpha, 1, type_masses=masses)
    assert value == pytest.approx(robust_type2(rho, alpha), abs=EXACT)


@pytest.mark.parametrize(("n", "m", "d"), [(8, 2, 1), (6, 2, 2), (4, 3, 1), (3, 4, 2), (5, 2, 9)])
def test_uniform_law_has_the_closed_form_of_the_hamming_ball(n, m, d):
    uniform = np.full(m**n, 1.0 / m**n)
    for alpha in (0.003, 0.02, 0.2):
        value = hamming_ball_type2(n, d, alpha, m)
        for epsilon in (0.0, 0.1):
            found = robust_type2(uniform, alpha, num_edits=d, num_symbols=m, epsilon=epsilon)
            assert found == pytest.approx(value, abs=EXACT)
        assert robust_type2_orbit(n, [1 / m] * m, alpha, d) == pytest.approx(value, abs=EXACT)


def test_hamming_ball_reference_and_long_strings():
    assert hamming_ball_type2(8, 1, 0.02) == pytest.approx(0.43111, abs=5e-6)
    for d in (40, 60, 80):
        expected = max(0.0, 1 - 1e-4 / stats.binom.cdf(d, 150, 0.5))
        assert hamming_ball_type2(150, d, 1e-4) == pytest.approx(expected, rel=1e-9)
    assert hamming_ball_type2(5000, 2500, 0.3) == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_coupling_attains_both_errors_by_enumeration(epsilon):
    rng = np.random.default_rng(17)
    for size, density in [(6, 0.2), (9, 0.3), (5, 0.0)]:
        graph = digraph(rng, size, density)
        rho = rng.dirichlet(np.full(size, 0.6))
        solution = RobustLP(graph, rho, 0.12, epsilon).solve()
        coupling = solution.coupling()
        # Joint law of (output, region): rows x, columns regions, the last one empty.
        joint = np.diag(np.append(coupling.region_probs[:-1], 0.0))[:size]
        joint[:, -1] = coupling.residual * coupling.region_probs[-1]
        np.testing.assert_allclose(joint.sum(axis=1), solution.law_K, atol=1e-14)
        if not epsilon:
            np.testing.assert_allclose(joint.sum(axis=1), rho, atol=1e-14)
        inside = np.zeros((size, size + 1), bool)
        for y, region in itertools.product(range(size), range(size + 1)):
            inside[y, region] = region < size and y in graph.out(region)
        type1 = inside @ joint.sum(axis=0)
        np.testing.assert_allclose(coupling.type1(), type1, atol=1e-15)
        assert type1.max() <= 0.12 + 1e-15
        lost = sum(
            joint[x, region]
            for x, region in itertools.product(range(size), range(size + 1))
            if not inside[graph.out(x), region].all()
        )
        assert lost == pytest.approx(solution.type2, abs=1e-14)
        assert coupling.type2() == pytest.approx(solution.type2, abs=1e-15)


def test_samples_follow_the_coupling():
    """Chi-square tests at 1e-6 of pairs drawn from a generator and from keyed uniforms."""
    rng = np.random.default_rng(23)
    graph = path(5)
    coupling = RobustLP(graph, (0.35, 0.1, 0.3, 0.05, 0.2), 0.15).solve().coupling()
    n = 40_000
    keyed = coupling.draw_region(rng.random((n, 6)))
    for x, region in [coupling.sample(rng, n), (coupling.draw_output(keyed, rng), keyed)]:
        for drawn, law in [(x, coupling.law), (region, coupling.region_probs)]:
            counts = np.bincount(drawn, minlength=law.size)
            assert counts[law == 0].sum() == 0
            assert stats.chisquare(counts[law > 0], n * law[law > 0]).pvalue > 1e-6
        known = region < coupling.empty
        np.testing.assert_array_equal(x[known], region[known])
        # The adversary may take any neighbour; marked texts stay marked, the others never are.
        attacked = np.array([rng.choice(graph.out(v)) for v in x[:2000]])
        np.testing.assert_array_equal(coupling.is_marked(region[:2000], attacked), known[:2000])


def test_sampling_is_reproducible_and_covers_the_certain_case():
    coupling = RobustLP(path(3), (0.3, 0.4, 0.3), 0.99).solve().coupling()
    first, again = (coupling.sample(np.random.default_rng(4), 50) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    everywhere = RobustLP(PerturbationGraph(np.eye(4)), [0.25] * 4, 0.5).solve()
    assert everywhere.type2 <= 1e-14
    x, region = everywhere.coupling().sample(np.random.default_rng(0), 100)
    np.testing.assert_array_equal(x, region)
    with pytest.raises(ValueError, match="4 values on the last axis"):
        coupling.draw_region([0.5, 0.5])


def test_small_levels_are_solved_in_their_own_scale():
    rng = np.random.default_rng(2)
    rho = rng.dirichlet(np.ones(64))
    for alpha in (1e-6, 1e-10, 1e-13):
        solution = RobustLP(hamming_graph(6, 2, 1), rho, alpha).solve()
        # No absolute tolerance of a solver stands in the value: 64/7 alpha is an upper bound.
        assert 0.5 * 64 / 7 * alpha < solution.primal <= solution.dual < 64 / 7 * alpha * 1.0001
        assert solution.gap < 1e-6 * alpha


def test_first_order_returns_its_best_pair_at_the_time_limit():
    rng = np.random.default_rng(6)
    lp = RobustLP(hamming_graph(9, 2, 2), rng.dirichlet(np.full(512, 5.0)), 0.02)
    best = lp.solve("simplex")
    cut = lp.solve("first-order", tolerance=1e-14, time_limit=0.05)
    assert cut.status == "time limit"
    assert cut.interval[0] <= best.interval[1]
    assert best.interval[0] <= cut.interval[1]
    assert cut.gap < 0.2
    assert cut.type1().max() <= lp.alpha


def test_highs_without_an_answer(monkeypatch):
    lp = RobustLP(hamming_graph(7, 2, 1), np.full(128, 1 / 128), 0.01)
    monkeypatch.setattr(_packing, "_highs", lambda *_: None)
    with pytest.raises(TimeoutError, match=r"within 2.0 s.*first-order"):
        lp.solve("ipm", time_limit=2.0)
    fallback = lp.solve(time_limit=60.0)
    assert fallback.method == "first-order"
    assert fallback.type2 == pytest.approx(hamming_ball_type2(7, 1, 0.01), abs=FIRST_ORDER)


def test_highs_stopped_by_its_limit_raises():
    rng = np.random.default_rng(6)
    lp = RobustLP(hamming_graph(10, 2, 2), rng.dirichlet(np.full(1024, 5.0)), 0.02)
    with pytest.raises(TimeoutError, match="found no solution"):
        lp.solve("simplex", time_limit=1e-3)


def test_large_programs_take_the_first_order_method():
    rng = np.random.default_rng(1)
    lp = RobustLP(hamming_graph(11, 2, 2), rng.dirichlet(np.full(2048, 8.0)), 0.02)
    solution = lp.solve(tolerance=1e-3)
    assert solution.method == "first-order"
    assert solution.iterations > 0
    assert solution.gap <= 1e-3


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: RobustLP(path(2), (0.5, 0.6), 0.1), "rho must sum to 1"),
        (lambda: RobustLP(path(2), (1.5, -0.5), 0.1), "negative"),
        (lambda: RobustLP(path(2), (math.nan, 1), 0.1), "non-finite"),
        (lambda: RobustLP(path(2), (0.5, 0.5), 1.0), r"alpha must lie in \(0, 1\), got 1.0"),
        (lambda: RobustLP(path(2), (0.5, 0.5), 0.1, 1.0), "epsilon must lie in"),
        (lambda: RobustLP(path(3), (0.5, 0.5), 0.1), "rho has 2 entries, but the graph has 3"),
        (lambda: RobustLP(edit_graph(2, 2, 1), [1], 0.1), "14 or, on its support, 4 elements"),
        (lambda: RobustLP(edit_graph(2, 2, 1), np.eye(14)[0], 0.1), "outside of the graph's"),
        (lambda: RobustLP(path(2), (0.5, 0.5), 0.1).solve("newton"), "method must be one of"),
        (lambda: RobustLP(path(2), (0.5, 0.5), 0.1).solve(time_limit=0), "positive number of sec"),
        (lambda: RobustLP(path(2), (0.5, 0.5), 0.1).solve(tolerance=0), "tolerance must be pos"),
        (lambda: robust_type2([0.2] * 5, 0.1), "5 entries, which is no positive power.* 2 symbols"),
        (lambda: robust_type2([1], 0.1), "1 entries"),
        (lambda: robust_type2([0.5] * 2, 0.1, "swap"), "graph must be a graph or one of"),
        (lambda: robust_type2([0.5] * 2, 0.1, num_symbols=1), "num_symbols must be at least 2"),
        (lambda: robust_type2([2**-16] * 2**16, 0.1), "robust_type2_orbit"),
        (lambda: hamming_ball_type2(0, 1, 0.1), "n >= 1"),
        (lambda: hamming_ball_type2(5, 1, 0.0), "alpha must lie"),
        (lambda: robust_type2_orbit(5, 1.5, 0.1, 1), r"must lie in \[0, 1\], got 1.5"),
        (lambda: robust_type2_orbit(5, [1.0], 0.1, 1), r"m from 2 to 4, got \(1,\)"),
        (lambda: robust_type2_orbit(5, [0.2] * 5, 0.1, 1), "m from 2 to 4"),
        (lambda: robust_type2_orbit(5, [0.5, 0.4], 0.1, 1), "probs must sum to 1"),
        (lambda: robust_type2_orbit(0, 0.1, 0.1, 1), "n >= 1 and edits d >= 0 are needed, got 0"),
        (lambda: robust_type2_orbit(5, 0.1, 0.1, -1), "got 5 and -1"),
        (lambda: robust_type2_orbit(5, 0.1, 2, 1), "alpha must lie"),
        (lambda: robust_type2_orbit(5, None, 0.1, 1), "give probs, or type_masses"),
        (lambda: robust_type2_orbit(5, 0.1, 0.1, 1, type_masses=[1]), r"shape \(6,\), got \(1,\)"),
        (lambda: robust_type2_orbit(300, [0.5, 0.3, 0.2], 0.1, 1), "45451 types"),
        (lambda: robust_type2_orbit(40, [0.25] * 4, 0.1, 8), "125970 ways"),
    ],
)
def test_bad_inputs(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_graph_must_be_a_graph():
    with pytest.raises(TypeError, match="must be a PerturbationGraph, got csr_array"):
        RobustLP(sparse.csr_array(np.eye(2)), (0.5, 0.5), 0.1)
