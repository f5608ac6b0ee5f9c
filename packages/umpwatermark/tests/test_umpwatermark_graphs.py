"""Perturbation graphs against pairwise distances by their definitions, and every bad input."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from modicum.umpwatermark import graphs
from modicum.umpwatermark.graphs import (
    MAX_ELEMENTS,
    PerturbationGraph,
    Strings,
    ball_size,
    edit_graph,
    hamming_graph,
)


def levenshtein(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


@pytest.mark.parametrize(
    ("n", "m", "d"), [(1, 2, 0), (1, 5, 1), (4, 2, 1), (6, 2, 3), (3, 3, 2), (2, 4, 2), (3, 2, 7)]
)
def test_hamming_graph_equals_pairwise_distances(n, m, d):
    graph = hamming_graph(n, m, d)
    strings = np.array(list(itertools.product(range(m), repeat=n)))
    distance = (strings[:, None] != strings[None]).sum(axis=2)
    np.testing.assert_array_equal(graph.adjacency_NN.toarray(), distance <= d)
    assert graph.num_edges == m**n * ball_size(n, m, d)
    assert [tuple(s) for s in strings] == list(graph.elements)
    assert graph.name == f"hamming:{n}:{m}:{d}"


@pytest.mark.parametrize(
    ("n", "m", "d"),
    [(3, 2, 1), (4, 2, 2), (2, 3, 1), (1, 2, 1), (2, 2, 3), (5, 2, 0), (3, 3, 2), (3, 2, 4)],
)
def test_edit_graph_equals_levenshtein_distance(n, m, d):
    graph = edit_graph(n, m, d)
    lengths = range(max(0, n - d), n + d + 1)
    strings = [s for k in lengths for s in itertools.product(range(m), repeat=k)]
    assert strings == list(graph.elements)
    expected = [[levenshtein(a, b) <= d for b in strings] for a in strings]
    np.testing.assert_array_equal(graph.adjacency_NN.toarray(), expected)
    assert [strings[i] for i in graph.support] == list(itertools.product(range(m), repeat=n))


def test_edit_graph_larger_sample_equals_levenshtein_distance():
    graph = edit_graph(8, 2, 2)
    rng = np.random.default_rng(3)
    for x in rng.choice(graph.num_elements, 6, replace=False):
        near = [levenshtein(graph.elements[x], s) <= 2 for s in graph.elements]
        np.testing.assert_array_equal(graph.out(x), np.flatnonzero(near))


@settings(max_examples=50, deadline=None)
@given(m=st.integers(2, 5), low=st.integers(0, 3), high=st.integers(0, 2), seed=st.integers(0, 999))
def test_strings_index_inverts_lookup(m, low, high, seed):
    strings = Strings(range(low, low + high + 1), m)
    i = seed % len(strings)
    assert strings.index(strings[i]) == i
    assert strings[i - len(strings)] == strings[i]


def test_strings_refuse_what_they_do_not_hold():
    strings = Strings(range(2, 4), 3)
    assert strings[1:3] == [(0, 1), (0, 2)]
    with pytest.raises(IndexError, match="36"):
        strings[36]
    for wrong in [(0,), (0, 3), (0, -1), (0, 0, 0, 0)]:
        with pytest.raises(ValueError, match="no string of lengths"):
            strings.index(wrong)


def test_graph_lookups():
    graph = edit_graph(2, 2, 1)
    x, y = graph.index((0, 1)), graph.index((1,))
    assert y in graph.out(x)
    assert graph.has_edges(x, y)
    np.testing.assert_array_equal(graph.has_edges([[x], [y]], [x, y]), [[True, True], [True, True]])
    assert graph.has_edges([], []).shape == (0,)
    plain = PerturbationGraph(np.eye(3))
    assert plain.index(2) == 2
    with pytest.raises(ValueError, match="no element 3"):
        plain.index(3)


def test_missing_self_loops_are_added_with_a_warning():
    with pytest.warns(UserWarning, match="2 of 3 elements have no edge to themselves"):
        graph = PerturbationGraph.from_edges(3, [(0, 1), (1, 1), (1, 2), (1, 2)])
    np.testing.assert_array_equal(
        graph.adjacency_NN.toarray(),
        [[True, True, False], [False, True, True], [False] * 2 + [True]],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PerturbationGraph(sparse.coo_array(np.eye(4)))


@pytest.mark.filterwarnings("ignore:.*no edge to themselves")
def test_from_edges_and_dense_matrices_agree():
    rng = np.random.default_rng(0)
    matrix = rng.random((7, 7)) < 0.3
    edges = PerturbationGraph.from_edges(7, np.argwhere(matrix))
    dense = PerturbationGraph(matrix * 2.5)
    expected = matrix | np.eye(7, dtype=bool)
    np.testing.assert_array_equal(edges.adjacency_NN.toarray(), expected)
    np.testing.assert_array_equal(dense.adjacency_NN.toarray(), expected)
    np.testing.assert_array_equal(
        PerturbationGraph.from_edges(2, []).adjacency_NN.toarray(), np.eye(2)
    )


def test_from_callable_builds_the_hamming_graph():
    def out(word):
        yield word
        for i in range(len(word)):
            for c in "ab":
                yield word[:i] + c + word[i + 1 :]

    words = ["".join(w) for w in itertools.product("ab", repeat=4)]
    graph = PerturbationGraph.from_callable(out, iter(words), name="words")
    assert graph.index("abba") == 6
    expected = hamming_graph(4, 2, 1).adjacency_NN
    assert (graph.adjacency_NN != expected).nnz == 0


def test_from_networkx_follows_directions():
    networkx = pytest.importorskip("networkx")
    path = networkx.path_graph(["a", "b", "c"])
    path.add_edges_from((v, v) for v in "abc")
    undirected = PerturbationGraph.from_networkx(path, name="path")
    np.testing.assert_array_equal(
        undirected.adjacency_NN.toarray(), [[1, 1, 0], [1, 1, 1], [0, 1, 1]]
    )
    assert undirected.index("c") == 2
    directed = networkx.DiGraph([("a", "b"), ("a", "a"), ("b", "b")])
    graph = PerturbationGraph.from_networkx(directed)
    np.testing.assert_array_equal(graph.adjacency_NN.toarray(), [[1, 1], [0, 1]])


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: hamming_graph(16, 2, 1), r"2\*\*16 elements, more than 32768.*robust_type2_orbit"),
        (lambda: hamming_graph(10**9, 3, 1), r"3\*\*1000000000 elements.*orbit reduction"),
        (lambda: edit_graph(14, 2, 1), "57344 elements.*robust_type2_orbit"),
        (lambda: edit_graph(100, 2, 1), r"2\*\*100 elements"),
        (lambda: hamming_graph(15, 2, 7), "edges or more.*fewer edits"),
        (lambda: PerturbationGraph.from_edges(MAX_ELEMENTS + 1, []), "32769 elements"),
        (lambda: PerturbationGraph.from_callable(lambda x: [x], itertools.count()), "32769"),
        (lambda: hamming_graph(0, 2, 1), "n of at least 1, got 0"),
        (lambda: hamming_graph(3, 1, 1), "m >= 2 symbols, got 1"),
        (lambda: edit_graph(3, 2, -1), "at least 0, got -1"),
        (lambda: PerturbationGraph(np.ones((2, 3))), r"square, got shape \(2, 3\)"),
        (lambda: PerturbationGraph(np.zeros((0, 0))), "at least one element, got 0"),
        (lambda: PerturbationGraph(np.eye(3), elements="ab"), "2 elements do not name 3"),
        (lambda: PerturbationGraph(np.eye(3), support=[3]), r"indices in \[0, 3\)"),
        (lambda: PerturbationGraph(np.eye(3), support=[]), r"indices in \[0, 3\)"),
        (lambda: PerturbationGraph.from_edges(3, [(0, 3)]), r"edge \[0, 3\] leaves"),
        (lambda: PerturbationGraph.from_edges(3, [(0.5, 1)]), "whole numbers"),
        (lambda: PerturbationGraph.from_edges(3, [0, 1]), r"shape \[E, 2\]"),
        (lambda: PerturbationGraph.from_callable(lambda x: [x], "aba"), "1 of 3 elements repeat"),
        (lambda: PerturbationGraph.from_callable(lambda x: "z", "ab"), "'a' may become 'z'"),
    ],
)
def test_bad_graphs(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()


def test_growing_balls_of_edits_stop_at_the_edge_limit(monkeypatch):
    monkeypatch.setattr(graphs, "MAX_EDGES", 50_000)
    with pytest.raises(ValueError, match="edges or more, over 50,000; take fewer edits"):
        edit_graph(9, 2, 2)
