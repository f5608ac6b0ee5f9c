"""Perturbation graphs: which text a user may turn into which.

A directed graph on a finite output space; an edge from x to y says that x may be edited into y.
Kept as a sparse matrix of its edges. Builders for strings under substitutions (Hamming) and under
substitutions, insertions and deletions (Levenshtein), for networkx graphs, for a function that
lists neighbours and for plain lists of edges. Knows nothing of probabilities; `RobustLP` puts a
law on the elements.

Legend: ``N`` elements of the output space, ``E`` edges.
"""

import itertools
import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_ELEMENTS = 2**15
"""Largest output space."""

MAX_EDGES = 2**25
"""Most edges; their linear program then takes about a GiB."""

ROW_BLOCK = 1024
"""Rows multiplied at a time when balls of edits grow, so that too many edges are seen early."""


def check_size(num_elements: int, written: str = "") -> int:
    """Validate the size of an output space and return it; ``written`` is how an error puts it.

    Raises
    ------
    ValueError
        If it is below 1 or above ``MAX_ELEMENTS``.
    """
    if num_elements < 1:
        raise ValueError(f"a graph needs at least one element, got {num_elements}")
    if num_elements > MAX_ELEMENTS:
        raise ValueError(
            f"the output space has {written or num_elements} elements, more than {MAX_ELEMENTS}; "
            "where the law only depends on how often each symbol occurs, robust_type2_orbit solves "
            "the same program over these counts (orbit reduction)"
        )
    return num_elements


def _check_edges(num_edges: int) -> None:
    if num_edges > MAX_EDGES:
        raise ValueError(
            f"the graph has {num_edges:,} edges or more, over {MAX_EDGES:,}; take fewer edits or "
            "shorter strings, or robust_type2_orbit where the law only depends on symbol counts"
        )


def _check_strings(n: int, m: int, d: int) -> None:
    if n < 1:
        raise ValueError(f"strings need a length n of at least 1, got {n}")
    if m < 2:
        raise ValueError(f"strings need an alphabet of m >= 2 symbols, got {m}")
    if d < 0:
        raise ValueError(f"the number of edits d must be at least 0, got {d}")
    # The powers themselves may not fit into memory.
    if n * math.log2(m) > MAX_ELEMENTS.bit_length():
        check_size(MAX_ELEMENTS + 1, f"{m}**{n}")


class Strings(Sequence[tuple[int, ...]]):
    """Strings over the symbols ``0 … m-1``, by length and then lexicographically.

    Parameters
    ----------
    lengths
        Consecutive rising lengths.
    m
        Size of the alphabet.
    """

    def __init__(self, lengths: range, m: int) -> None:
        self.lengths = lengths
        self.m = m
        self.offsets = list(itertools.accumulate((m**k for k in lengths), initial=0))

    def __len__(self) -> int:
        return self.offsets[-1]

    def __getitem__(self, index: Any) -> Any:
        """Return the string at an index, or the list of them for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside of {len(self)} strings")
        level = int(np.searchsorted(self.offsets, index, side="right")) - 1
        value, digits = int(index) - self.offsets[level], []
        for _ in range(self.lengths[level]):
            value, digit = divmod(value, self.m)
            digits.append(digit)
        return tuple(reversed(digits))

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """Return where a string stands.

        Raises
        ------
        ValueError
            If it is not one of the strings.
        """
        value = tuple(value)
        if len(value) not in self.lengths or not all(0 <= s < self.m for s in value):
            raise ValueError(
                f"{value} is no string of lengths {self.lengths} over {self.m} symbols"
            )
        number = 0
        for symbol in value:
            number = number * self.m + int(symbol)
        return self.offsets[self.lengths.index(len(value))] + number


@dataclass(frozen=True, eq=False)
class PerturbationGraph:
    """A directed graph on the output space: x -> y if a user may turn x into y.

    Every element has an edge to itself, since a text may be left as it is; where such edges are
    missing they are added with a warning.

    Parameters
    ----------
    adjacency_NN
        Edges as a sparse or dense matrix ``[N, N]``, nonzero where x -> y; kept as a boolean
        ``scipy.sparse.csr_array`` with sorted rows.
    elements
        What the indices stand for, a sequence of N different hashable things; ``None`` for the
        indices themselves.
    support
        Indices of the elements whose neighbours are all in the graph, int64 rising; only there may
        a law have mass. ``None`` is all of them.
    name
        What to call the graph in a table.

    Raises
    ------
    ValueError
        If the matrix is not square, N is 0 or above 32,768, there are more than 2**25 edges, or
        ``elements`` or ``support`` do not fit.
    """

    adjacency_NN: Any
    elements: Sequence[Any] | None = None
    support: NDArray[np.int64] | None = None
    name: str = "graph"

    def __post_init__(self) -> None:
        from scipy import sparse

        matrix = self.adjacency_NN
        if not sparse.issparse(matrix):
            matrix = np.asarray(matrix)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"an adjacency matrix must be square, got shape {matrix.shape}")
        N = check_size(matrix.shape[0])
        edges_NN = sparse.csr_array(matrix).astype(bool)
        edges_NN.sum_duplicates()
        edges_NN.eliminate_zeros()
        missing = N - int(np.count_nonzero(edges_NN.diagonal()))
        if missing:
            warnings.warn(
                f"{missing} of {N} elements have no edge to themselves; added, because a user may "
                "leave a text as it is",
                UserWarning,
                stacklevel=3,
            )
            edges_NN = sparse.csr_array(edges_NN + sparse.eye_array(N, dtype=bool, format="csr"))
        _check_edges(edges_NN.nnz)
        edges_NN.sort_indices()
        object.__setattr__(self, "adjacency_NN", edges_NN)
        if self.elements is not None and len(self.elements) != N:
            raise ValueError(f"{len(self.elements)} elements do not name {N} vertices")
        if self.support is not None:
            support = np.unique(np.asarray(self.support, dtype=np.int64))
            if not support.size or support[0] < 0 or support[-1] >= N:
                raise ValueError(f"support must hold indices in [0, {N}), got {self.support}")
            object.__setattr__(self, "support", support)

    @property
    def num_elements(self) -> int:
        """Size N of the output space."""
        return self.adjacency_NN.shape[0]

    @property
    def num_edges(self) -> int:
        """Number E of edges, those to oneself included."""
        return self.adjacency_NN.nnz

    def out(self, x: int) -> NDArray[np.int64]:
        """Return the indices that x may be turned into, rising, x itself among them."""
        start, stop = self.adjacency_NN.indptr[x : x + 2]
        return self.adjacency_NN.indices[start:stop].astype(np.int64)

    def has_edges(self, x_B: ArrayLike, y_B: ArrayLike) -> NDArray[np.bool_]:
        """Return whether each ``x_B`` may be turned into the ``y_B`` beside it."""
        x_B, y_B = np.broadcast_arrays(np.asarray(x_B), np.asarray(y_B))
        if not x_B.size:
            return np.zeros(x_B.shape, dtype=bool)
        return np.asarray(self.adjacency_NN[x_B.ravel(), y_B.ravel()]).reshape(x_B.shape)

    def index(self, element: Any) -> int:
        """Return the index of an element.

        Raises
        ------
        ValueError
            If it is not in the output space.
        """
        if self.elements is None:
            if not 0 <= element < self.num_elements:
                raise ValueError(f"there is no element {element!r} in [0, {self.num_elements})")
            return int(element)
        return self.elements.index(element)

    @classmethod
    def from_edges(
        cls,
        num_elements: int,
        edges: ArrayLike,
        elements: Sequence[Any] | None = None,
        name: str = "graph",
    ) -> "PerturbationGraph":
        """Build a graph from pairs of indices.

        Parameters
        ----------
        num_elements
            Size N of the output space.
        edges
            Directed edges (x, y), whole numbers ``[E, 2]`` in ``[0, N)``; repetitions are one edge.
        elements, name
            As in the class.

        Raises
        ------
        ValueError
            If an edge leaves the output space, or as the class.
        """
        from scipy import sparse

        N = check_size(num_elements)
        pairs_E2 = np.asarray(edges)
        if not pairs_E2.size:
            pairs_E2 = np.zeros((0, 2), dtype=np.int64)
        if pairs_E2.ndim != 2 or pairs_E2.shape[1] != 2 or pairs_E2.dtype.kind not in "iu":
            raise ValueError(
                f"edges must be whole numbers of shape [E, 2], got {pairs_E2.dtype} of shape "
                f"{pairs_E2.shape}"
            )
        outside = (pairs_E2 < 0) | (pairs_E2 >= N)
        if outside.any():
            first = pairs_E2[outside.any(axis=1).argmax()].tolist()
            raise ValueError(f"edge {first} leaves the output space of {N} elements")
        ones = np.ones(len(pairs_E2), dtype=bool)
        matrix = sparse.coo_array((ones, (pairs_E2[:, 0], pairs_E2[:, 1])), shape=(N, N))
        return cls(matrix, elements, name=name)

    @classmethod
    def from_callable(
        cls,
        out: Callable[[Any], Iterable[Hashable]],
        elements: Iterable[Hashable],
        name: str = "graph",
    ) -> "PerturbationGraph":
        """Build a graph from a function that lists what an element may be turned into.

        Parameters
        ----------
        out
            Called once per element; every result must be one of ``elements``.
        elements
            The output space, in the order of the indices, without repetition.
        name
            As in the class.

        Raises
        ------
        ValueError
            If an element repeats, a neighbour is not an element, or as the class.
        """
        # One more than the limit is enough to know; an endless iterable must not hang.
        listed = list(itertools.islice(elements, MAX_ELEMENTS + 1))
        check_size(len(listed))
        index = {element: i for i, element in enumerate(listed)}
        if len(index) < len(listed):
            raise ValueError(f"{len(listed) - len(index)} of {len(listed)} elements repeat another")
        pairs = []
        for x, element in enumerate(listed):
            for neighbour in out(element):
                if neighbour not in index:
                    raise ValueError(
                        f"{element!r} may become {neighbour!r}, which is not an element; the "
                        "output space must hold everything a text may be turned into"
                    )
                pairs.append((x, index[neighbour]))
            _check_edges(len(pairs))
        return cls.from_edges(len(listed), pairs, listed, name)

    @classmethod
    def from_networkx(cls, graph: Any, name: str | None = None) -> "PerturbationGraph":
        """Build a graph from a networkx graph; an undirected edge may be taken both ways.

        Parameters
        ----------
        graph
            ``networkx.Graph`` or ``DiGraph``; nodes become elements in the graph's order, and
            weights are not read.
        name
            As in the class; default the graph's own name.
        """
        nodes = list(graph.nodes)
        index = {node: i for i, node in enumerate(nodes)}
        pairs = [(index[x], index[y]) for x, y in graph.edges()]
        if not graph.is_directed():
            pairs += [(y, x) for x, y in pairs]
        return cls.from_edges(len(nodes), pairs, nodes, name or graph.name or "networkx graph")


def ball_size(n: int, m: int, d: int) -> int:
    """Return how many strings of length n over m symbols differ in at most d places from one."""
    return sum(math.comb(n, k) * (m - 1) ** k for k in range(min(d, n) + 1))


def hamming_graph(n: int, m: int, d: int) -> PerturbationGraph:
    """Build the graph of all strings of length n in which up to d symbols may be replaced.

    Parameters
    ----------
    n
        Length.
    m
        Size of the alphabet; the strings are those over ``0 … m-1`` in lexicographic order, so
        that a law of shape ``[m] * n`` flattens to the order of the elements.
    d
        Number of substitutions.

    Returns
    -------
    PerturbationGraph
        ``m**n`` elements, each with the ``sum_k C(n,k) (m-1)**k`` neighbours of its ball.

    Raises
    ------
    ValueError
        If ``n < 1``, ``m < 2``, ``d < 0`` or the graph is too large.
    """
    from scipy import sparse

    _check_strings(n, m, d)
    N = check_size(m**n, f"{m}**{n}")
    ball = ball_size(n, m, d)
    _check_edges(N * ball)
    ids_N = np.arange(N, dtype=np.int32)
    place_n = m ** np.arange(n - 1, -1, -1, dtype=np.int32)
    digits_nN = ids_N // place_n[:, None] % m
    # step[i, s]: what adding s to symbol i, modulo m, does to the index.
    step_nsN = [
        [((digits_nN[i] + s) % m - digits_nN[i]) * place_n[i] for s in range(1, m)]
        for i in range(n)
    ]
    neighbours_NB = np.empty((N, ball), dtype=np.int32)
    column = 0
    for edits in range(min(d, n) + 1):
        for places in itertools.combinations(range(n), edits):
            for steps_N in itertools.product(*(step_nsN[i] for i in places)):
                neighbours_NB[:, column] = ids_N + sum(steps_N)
                column += 1
    neighbours_NB.sort(axis=1)
    matrix = sparse.csr_array(
        (
            np.ones(N * ball, dtype=bool),
            neighbours_NB.ravel(),
            np.arange(N + 1, dtype=np.int32) * np.int32(ball),
        ),
        shape=(N, N),
    )
    return PerturbationGraph(matrix, Strings(range(n, n + 1), m), name=f"hamming:{n}:{m}:{d}")


def edit_graph(n: int, m: int, d: int) -> PerturbationGraph:
    """Build the graph of strings that up to d substitutions, insertions and deletions connect.

    The output space holds all strings of lengths ``n-d`` (at least 0) to ``n+d``, and x -> y if
    their Levenshtein distance is at most d. Laws live on the strings of length n, the graph's
    `support`: edits of other lengths would leave the space.

    Parameters
    ----------
    n
        Length of the watermarked strings.
    m
        Size of the alphabet; strings stand by length and then lexicographically.
    d
        Number of edits.

    Raises
    ------
    ValueError
        If ``n < 1``, ``m < 2``, ``d < 0`` or the graph is too large.
    """
    from scipy import sparse

    _check_strings(n, m, d)
    lengths = range(max(0, n - d), n + d + 1)
    N = check_size(sum(m**k for k in lengths))
    strings = Strings(lengths, m)
    sources, targets = [np.arange(N, dtype=np.int32)], [np.arange(N, dtype=np.int32)]
    for level, k in enumerate(lengths if d else ()):
        value = np.arange(m**k, dtype=np.int32)
        x = value + strings.offsets[level]
        for i in range(k):
            place = m**i
            high, digit, low = value // (place * m), value // place % m, value % place
            for shift in range(1, m):
                sources.append(x)
                targets.append(x + ((digit + shift) % m - digit) * place)
            if level:
                shorter = high * place + low + strings.offsets[level - 1]
                sources += [x, shorter]
                targets += [shorter, x]
    source, target = np.concatenate(sources), np.concatenate(targets)
    one_NN = sparse.csr_array((np.ones(source.size, dtype=bool), (source, target)), shape=(N, N))
    # Edits of an alignment may be made in any order. As there are at least two lengths, insertions
    # and deletions can take turns so that no step leaves them: walks of d edits inside the space
    # reach everything within distance d.
    ball_NN = one_NN
    for _ in range(d - 1):
        blocks, edges = [], 0
        for start in range(0, N, ROW_BLOCK):
            blocks.append(ball_NN[start : start + ROW_BLOCK] @ one_NN)
            edges += blocks[-1].nnz
            _check_edges(edges)
        ball_NN = sparse.csr_array(sparse.vstack(blocks, format="csr"))
    first = strings.offsets[lengths.index(n)]
    support = np.arange(first, first + m**n)
    return PerturbationGraph(ball_NN, strings, support, name=f"edit:{n}:{m}:{d}")
