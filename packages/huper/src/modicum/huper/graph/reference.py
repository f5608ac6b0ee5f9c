"""References made of words that have several pronunciations each, decoded as one graph.

Pronunciations are parallel arcs between two word boundaries, so that the work grows with the sum of
their phones, not with the product of their numbers. The best path is the one that the decoder of
`graph.viterbi` finds over all sequences of pronunciations. NumPy, float64, one utterance at a time.

Shape suffixes: T frames, C classes, N nodes, A arcs, W word boundaries, F frames of a pause.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modicum.huper.graph.viterbi import (
    MEMORY_WARNING,
    Alignment,
    Path,
    Pause,
    SpokenWord,
    align,
    encode,
    pose,
    scaled,
)

if TYPE_CHECKING:
    from modicum.huper.g2p import Word
    from modicum.huper.phones import PhoneSet

__all__ = ["Arcs", "ReferenceGraph", "arcs_of", "decode_words", "references"]


@dataclass(frozen=True)
class ReferenceGraph:
    """The words that should be said, with every pronunciation as a parallel arc.

    Parameters
    ----------
    words
        For each word its spelling and its pronunciations: anything with the attributes ``text`` and
        ``pronunciations``, such as the `Word` of a g2p.
    log_weights
        For each word the log-weight of each of its pronunciations, at most finite; not scaled by λ.
        None for 0 everywhere.
    optional
        Symbols or ids that may be said between words, at the beginning and at the end, with their
        log-weights, such as a silence phone or ``"|"``; not scaled by λ. They are reported as
        insertions.

    Raises
    ------
    ValueError
        If a word has no pronunciation, one is empty, or the log-weights do not fit.
    """

    words: tuple[Word, ...]
    log_weights: tuple[tuple[float, ...], ...] | None = None
    optional: Mapping[Any, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        words = tuple(self.words)
        for word in words:
            if not word.pronunciations:
                raise ValueError(f"the word {word.text!r} has no pronunciation")
            if not all(len(phones) for phones in word.pronunciations):
                raise ValueError(f"the word {word.text!r} has an empty pronunciation")
        given = self.log_weights
        if given is None:
            given = tuple((0.0,) * len(word.pronunciations) for word in words)
        given = tuple(tuple(float(value) for value in item) for item in given)
        if [len(item) for item in given] != [len(word.pronunciations) for word in words]:
            raise ValueError(
                f"pronunciations per word are {[len(word.pronunciations) for word in words]}, "
                f"log-weights {[len(item) for item in given]}"
            )
        for value in [*itertools.chain(*given), *self.optional.values()]:
            if not value < np.inf:
                raise ValueError(f"log-weights are finite or −inf, got {value}")
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "log_weights", given)

    def __len__(self) -> int:
        return len(self.words)

    def sequences(self) -> Iterator[tuple[tuple[Any, ...], float]]:
        """Go through every sequence of pronunciations, with its log-weight; there may be many."""
        assert self.log_weights is not None
        choices = [
            list(zip(word.pronunciations, weights, strict=True))
            for word, weights in zip(self.words, self.log_weights, strict=True)
        ]
        for picked in itertools.product(*choices):
            phones = tuple(phone for phones, _ in picked for phone in phones)
            yield phones, float(sum(weight for _, weight in picked))


def references(canonical: Any) -> list[ReferenceGraph] | None:
    """Read words off the argument of `fused_decode`; None when it holds phones.

    Takes a `ReferenceGraph`, a sequence of words, or a sequence of either for a batch.
    """
    if isinstance(canonical, ReferenceGraph):
        return [canonical]
    items = list(canonical)
    if items and all(hasattr(item, "pronunciations") for item in items):
        return [ReferenceGraph(tuple(items))]
    if not items or isinstance(items[0], str | int | np.integer):
        return None
    found = [
        item
        if isinstance(item, ReferenceGraph)
        else ReferenceGraph(tuple(item))
        if all(hasattr(word, "pronunciations") for word in item)
        else None
        for item in items
    ]
    known = [item for item in found if item is not None]
    named = [item for item in known if len(item)]
    if not named:
        return None
    if len(known) < len(found):
        raise ValueError("a batch holds words or phones for its utterances, not both")
    return known


def decode_words(
    emissions: Any,
    canonical: Any,
    channel: Any,
    lam: float | np.ndarray = 1.0,
    maxdel: int = 2,
    silence: Pause | None = None,
    phones: PhoneSet | None = None,
    blank: int | None = None,
) -> Any:
    """Decode near words; `fused_decode` says what the arguments mean.

    Returns
    -------
    Alignment or list of Alignment
        With `Alignment.words`. Without a path it is that of the first pronunciations.

    Raises
    ------
    ValueError
        As `fused_decode`.
    """
    graphs = references(canonical)
    if graphs is None:
        raise ValueError("there are no words in the reference")
    if not hasattr(channel, "weights"):
        raise ValueError(
            "words with several pronunciations need an EditChannel, which can weigh each of them"
        )
    single = isinstance(canonical, ReferenceGraph) or hasattr(canonical[0], "pronunciations")
    plain = [[p for word in graph.words for p in word.pronunciations[0]] for graph in graphs]
    problem = pose(emissions, plain[0] if single else plain, channel, phones, blank)
    found = []
    for logprobs_TC, weights, graph in zip(problem.logprobs, problem.weights, graphs, strict=True):
        arcs = arcs_of(graph, channel, problem.phones)
        picked = _Search(logprobs_TC, arcs, problem.blank, lam, maxdel, silence).run()
        if picked is None:
            alignment = align(None, weights, logprobs_TC, problem)
            taken = [0] * len(graph)
        else:
            path, taken = picked
            sequence = [q for k, j in enumerate(taken) for q in arcs.pronunciations[k][j]]
            alignment = align(path, channel.weights(sequence), logprobs_TC, problem)
        found.append(replace(alignment, words=_words(graph, arcs, taken, alignment)))
    return found[0] if problem.single else found


def _words(
    graph: ReferenceGraph, arcs: Arcs, taken: Sequence[int], alignment: Alignment
) -> tuple[SpokenWord, ...]:
    """Give each word its canonical phones, and the frames of what was said of them."""
    spans: dict[int, list[tuple[int, int]]] = {}
    for edit in alignment.edits:
        if edit.span is not None and edit.op in ("keep", "sub"):
            spans.setdefault(edit.index, []).append(edit.span)
    words, first = [], 0
    for k, (word, choice) in enumerate(zip(graph.words, taken, strict=True)):
        last = first + len(arcs.pronunciations[k][choice])
        said = [span for i in range(first, last) for span in spans.get(i, [])]
        span = (min(a for a, _ in said), max(b for _, b in said)) if said else None
        words.append(
            SpokenWord(word.text, choice, alignment.canonical[first:last], (first, last), span)
        )
        first = last
    return tuple(words)


# From words to arcs -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Arcs:
    """Nodes in topological order; every arc is one canonical phone, whose id is `phone_A`.

    Several nodes stand for one word boundary when the channel looks at neighbours: one for each
    pair of the phones on its two sides.
    """

    pronunciations: list[list[tuple[int, ...]]]
    source_A: np.ndarray
    target_A: np.ndarray
    word_A: np.ndarray
    choice_A: np.ndarray
    phone_A: np.ndarray
    sub_AC: np.ndarray
    dele_A: np.ndarray
    prior_A: np.ndarray
    ins_NC: np.ndarray
    optional_NC: np.ndarray
    boundaries_W: np.ndarray
    starts: list[int]
    ends: list[int]


def arcs_of(graph: ReferenceGraph, channel: Any, phones: PhoneSet | None) -> Arcs:
    """Weigh the pronunciations of all words by a channel that looks at neighbours at most.

    Raises
    ------
    ValueError
        If a phone is not in the phone set; the message names the word.
    """
    pronunciations: list[list[tuple[int, ...]]] = []
    for word in graph.words:
        try:
            encoded = [tuple(encode(item, phones).tolist()) for item in word.pronunciations]
        except ValueError as error:
            raise ValueError(f"{error} (in the word {word.text!r})") from error
        if not all(encoded):
            raise ValueError(f"a pronunciation of {word.text!r} holds no phone of the phone set")
        pronunciations.append(encoded)
    # The phones beside a word matter to a channel that looks at them.
    looks = getattr(channel, "context", "unknown") is not None
    lasts: list[list[int | None]] = [[None]]
    firsts: list[list[int | None]] = []
    for encoded in pronunciations:
        lasts.append(list(dict.fromkeys(item[-1] if looks else None for item in encoded)))
        firsts.append(list(dict.fromkeys(item[0] if looks else None for item in encoded)))
    firsts.append([None])

    ins: list[np.ndarray | None] = []
    boundary: dict[tuple[int, int | None, int | None], int] = {}

    def open_boundary(k: int) -> None:
        for key in itertools.product([k], lasts[k], firsts[k]):
            boundary[key] = len(ins)
            ins.append(None)

    arcs: dict[tuple[int, int, int, int], tuple[int, np.ndarray, float, float]] = {}
    open_boundary(0)
    if not pronunciations:
        ins[0] = channel.weights([]).ins[0]
    assert graph.log_weights is not None
    for k, encoded in enumerate(pronunciations):
        inner = []
        for item in encoded:
            inner.append(list(range(len(ins), len(ins) + len(item) - 1)))
            ins += [None] * (len(item) - 1)
        open_boundary(k + 1)
        for j, item in enumerate(encoded):
            prior = graph.log_weights[k][j]
            for left, right in itertools.product(lasts[k], firsts[k + 1]):
                before = [] if left is None else [left]
                after = [] if right is None else [right]
                weights = channel.weights([*before, *item, *after])
                first = len(before)
                nodes = [
                    boundary[k, left, item[0] if looks else None],
                    *inner[j],
                    boundary[k + 1, item[-1] if looks else None, right],
                ]
                for i, node in enumerate(nodes):
                    ins[node] = weights.ins[first + i]
                for i, (source, target) in enumerate(itertools.pairwise(nodes)):
                    arcs[source, target, k, j] = (
                        item[i],
                        weights.sub[first + i],
                        float(weights.dele[first + i]),
                        prior if i == 0 else 0.0,
                    )
    ins_NC = np.stack([row for row in ins if row is not None])
    boundaries_W = np.array(list(boundary.values()), np.int64)
    optional_NC = np.full(ins_NC.shape, -np.inf)
    for symbol, weight in graph.optional.items():
        q = int(symbol) if phones is None or not isinstance(symbol, str) else int(phones.id(symbol))
        if not 0 <= q < ins_NC.shape[1]:
            raise ValueError(f"optional id {q} is no column in [0, {ins_NC.shape[1]})")
        optional_NC[boundaries_W, q] = weight
    keys = np.array(list(arcs), np.int64).reshape(-1, 4)
    values = list(arcs.values())
    return Arcs(
        pronunciations,
        keys[:, 0],
        keys[:, 1],
        keys[:, 2],
        keys[:, 3],
        np.array([phone for phone, _, _, _ in values], np.int64),
        np.array([sub for _, sub, _, _ in values]).reshape(-1, ins_NC.shape[1]),
        np.array([dele for _, _, dele, _ in values]),
        np.array([prior for _, _, _, prior in values]),
        ins_NC,
        optional_NC,
        boundaries_W,
        [node for (k, _, _), node in boundary.items() if k == 0],
        [node for (k, _, _), node in boundary.items() if k == len(pronunciations)],
    )


# The search -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ranked:
    """Incoming links of every node, as one group per rank: the r-th link of each node that has it.

    Maxima over links of different number are then a loop over few groups.
    """

    by_node: list[list[int]]
    groups: list[tuple[np.ndarray, np.ndarray]]

    @classmethod
    def of(cls, targets: Sequence[int], nodes: int) -> _Ranked:
        by_node: list[list[int]] = [[] for _ in range(nodes)]
        for link, target in enumerate(targets):
            by_node[target].append(link)
        groups = []
        for rank in range(max(map(len, by_node), default=0)):
            rows = [v for v in range(nodes) if len(by_node[v]) > rank]
            links = [by_node[v][rank] for v in rows]
            groups.append((np.array(rows, np.int64), np.array(links, np.int64)))
        return cls(by_node, groups)


@dataclass(frozen=True)
class _Tables:
    """What depends on λ: log-weights, and the ways of passing over canonical phones."""

    take_AC: np.ndarray
    add_NC: np.ndarray
    # Passing from one node to another, over at most maxdel arcs: nodes, log-weight, arcs.
    origin_P: np.ndarray
    weight_P: np.ndarray
    passes: list[tuple[int, ...]]
    ranked: _Ranked


@dataclass
class _Step:
    code_NC: np.ndarray
    begin_NC: np.ndarray
    top_N: np.ndarray
    second_N: np.ndarray
    rest_beats_top_N: np.ndarray
    rest_beats_second_N: np.ndarray
    from_phone_N: np.ndarray
    from_pause_W: np.ndarray | None
    pause_stays_W: np.ndarray | None
    pause_pass_W: np.ndarray | None


_STAY, _ADD, _TAKE = 0, 1, 2


class _Search:
    """The recursion of `graph.viterbi` over nodes instead of positions."""

    def __init__(
        self,
        logprobs_TC: np.ndarray,
        arcs: Arcs,
        blank: int,
        lam: float | np.ndarray,
        maxdel: int,
        silence: Pause | None,
    ) -> None:
        self.logprobs_TC, self.arcs, self.blank = logprobs_TC, arcs, blank
        self.maxdel, self.silence = maxdel, silence
        self.frames, self.classes = logprobs_TC.shape
        if maxdel < 0:
            raise ValueError(f"maxdel must be at least 0, got {maxdel}")
        if np.ndim(lam) and np.shape(lam) != (self.frames,):
            raise ValueError(
                f"lam is a number or has the shape (T,) = ({self.frames},), got {np.shape(lam)}"
            )
        last = float(np.ravel(lam)[-1]) if np.size(lam) else 1.0
        self.lam_T = np.append(np.broadcast_to(np.asarray(lam, np.float64), (self.frames,)), last)
        if not ((self.lam_T >= 0) & (self.lam_T < np.inf)).all():
            raise ValueError(f"lam must be finite and at least 0, got {lam}")
        self.nodes = len(arcs.ins_NC)
        self.outgoing: list[list[int]] = [[] for _ in range(self.nodes)]
        for arc, source in enumerate(arcs.source_A.tolist()):
            self.outgoing[source].append(arc)
        self.incoming = _Ranked.of(arcs.target_A.tolist(), self.nodes)
        self.cache: dict[float, _Tables] = {}
        needed = 2 * 2 * self.frames * self.nodes * self.classes
        if needed > MEMORY_WARNING:
            warnings.warn(
                f"back-pointers of {self.frames} frames and {self.nodes} positions take "
                f"{needed / 2**30:.1f} GiB; shorter utterances would take less",
                stacklevel=5,
            )

    def tables(self, lam: float) -> _Tables:
        if lam not in self.cache:
            # A λ that changes with every frame would otherwise keep as many tables.
            if len(self.cache) > 8:
                self.cache.clear()
            self.cache[lam] = self._tables(lam)
        return self.cache[lam]

    def _passing(self, lam: float, origin: int, most: int) -> dict[int, tuple[float, tuple]]:
        """Best way from a node to others over at most so many arcs that are not said."""
        dele_A = scaled(lam, self.arcs.dele_A) + self.arcs.prior_A
        best: dict[int, tuple[float, tuple]] = {origin: (0.0, ())}
        level = dict(best)
        for _ in range(most):
            following: dict[int, tuple[float, tuple]] = {}
            for node, (weight, passed) in level.items():
                for arc in self.outgoing[node]:
                    value, target = weight + dele_A[arc], int(self.arcs.target_A[arc])
                    if value > following.get(target, (-np.inf,))[0]:
                        following[target] = (value, (*passed, arc))
            for node, found in following.items():
                if found[0] > best.get(node, (-np.inf,))[0]:
                    best[node] = found
            level = following
        return best

    def _tables(self, lam: float) -> _Tables:
        take_AC = scaled(lam, self.arcs.sub_AC) + self.arcs.prior_A[:, None]
        add_NC = np.maximum(scaled(lam, self.arcs.ins_NC), self.arcs.optional_NC)
        take_AC[:, self.blank] = add_NC[:, self.blank] = -np.inf
        links = [
            (origin, target, weight, passed)
            for origin in range(self.nodes)
            for target, (weight, passed) in self._passing(lam, origin, self.maxdel).items()
        ]
        # The nearest first, so that of equal ways the one with the fewest deletions is taken.
        links.sort(key=lambda link: len(link[3]))
        return _Tables(
            take_AC,
            add_NC,
            np.array([origin for origin, _, _, _ in links], np.int64),
            np.array([weight for _, _, weight, _ in links]),
            [passed for _, _, _, passed in links],
            _Ranked.of([target for _, target, _, _ in links], self.nodes),
        )

    def run(self) -> tuple[Path, list[int]] | None:
        self.phone_NC = np.full((self.nodes, self.classes), -np.inf)
        self.rest_N = np.full(self.nodes, -np.inf)
        self.rest_N[self.arcs.starts] = 0.0
        self.pause_WF: np.ndarray | None = None
        if self.silence is not None:
            shape = (len(self.arcs.boundaries_W), self.silence.min_frames)
            self.pause_WF = np.full(shape, -np.inf)
        return self._trace([self._step(t) for t in range(self.frames)])

    def _step(self, t: int) -> _Step:
        tables = self.tables(float(self.lam_T[t]))
        frame_C = self.logprobs_TC[t]
        boundaries_W = self.arcs.boundaries_W
        phone_NC, rest_N = self.phone_NC, self.rest_N
        leave_N, from_pause_W = rest_N, None
        if self.pause_WF is not None:
            done_W = self.pause_WF[:, -1]
            from_pause_W = (done_W >= rest_N[boundaries_W]) & (done_W > -np.inf)
            leave_N = rest_N.copy()
            leave_N[boundaries_W] = np.maximum(done_W, rest_N[boundaries_W])

        index_N = np.arange(self.nodes)
        top_N = phone_NC.argmax(1)
        top_value_N = phone_NC[index_N, top_N]
        others_NC = phone_NC.copy()
        others_NC[index_N, top_N] = -np.inf
        second_N = others_NC.argmax(1)
        second_value_N = others_NC[index_N, second_N]
        enter_NC = np.repeat(np.maximum(leave_N, top_value_N)[:, None], self.classes, axis=1)
        enter_NC[index_N, top_N] = np.maximum(leave_N, second_value_N)

        begin_NC, by_NC = self._pass(enter_NC, tables)
        new_NC = phone_NC.copy()
        code_NC = np.full(phone_NC.shape, _STAY, np.int16)
        for rank, (rows, links) in enumerate(self.incoming.groups):
            take_NC = begin_NC[self.arcs.source_A[links]] + tables.take_AC[links]
            better_NC = take_NC > new_NC[rows]
            new_NC[rows] = np.where(better_NC, take_NC, new_NC[rows])
            code_NC[rows] = np.where(better_NC, _TAKE + rank, code_NC[rows])
        add_NC = begin_NC + tables.add_NC
        better_NC = add_NC > new_NC
        new_NC[better_NC] = add_NC[better_NC]
        code_NC[better_NC] = _ADD

        from_phone_N = top_value_N > rest_N
        pause_stays_W = pause_pass_W = None
        if self.pause_WF is not None and self.silence is not None:
            heard_N = top_value_N.copy()
            if t == 0:
                heard_N[self.arcs.starts] = 0.0
            # A pause at a boundary may follow the deletion of the last phones of a word.
            reached_N1, pass_N1 = self._pass(heard_N[:, None], tables)
            pause_pass_W = pass_N1[boundaries_W, 0]
            enter_W = reached_N1[boundaries_W, 0] + self.silence.weight
            before_WF = np.concatenate([enter_W[:, None], self.pause_WF[:, :-1]], axis=1)
            pause_stays_W = self.pause_WF[:, -1] > before_WF[:, -1]
            before_WF[:, -1] = np.maximum(before_WF[:, -1], self.pause_WF[:, -1])
            self.pause_WF = before_WF + frame_C[self.blank]

        self.phone_NC = new_NC + frame_C
        self.rest_N = np.maximum(rest_N, top_value_N) + frame_C[self.blank]
        return _Step(
            code_NC,
            by_NC,
            top_N.astype(np.int16),
            second_N.astype(np.int16),
            leave_N >= top_value_N,
            leave_N >= second_value_N,
            from_phone_N,
            from_pause_W,
            pause_stays_W,
            pause_pass_W,
        )

    def _pass(self, enter_NK: np.ndarray, tables: _Tables) -> tuple[np.ndarray, np.ndarray]:
        """Pass over canonical phones, which takes no frame; also which way was best."""
        begin_NK = np.full(enter_NK.shape, -np.inf)
        by_NK = np.zeros(enter_NK.shape, np.int16)
        for rank, (rows, links) in enumerate(tables.ranked.groups):
            value_NK = enter_NK[tables.origin_P[links]] + tables.weight_P[links, None]
            better_NK = value_NK > begin_NK[rows]
            begin_NK[rows] = np.where(better_NK, value_NK, begin_NK[rows])
            by_NK[rows] = np.where(better_NK, rank, by_NK[rows])
        return begin_NK, by_NK

    def _trace(self, steps: list[_Step]) -> tuple[Path, list[int]] | None:
        arcs, boundaries = self.arcs, self.arcs.boundaries_W
        tail_N = np.full(self.nodes, -np.inf)
        tails: list[tuple[int, ...]] = [()] * self.nodes
        lam = float(self.lam_T[-1])
        for node in range(self.nodes):
            reached = self._passing(lam, node, self.maxdel + 1)
            for end in arcs.ends:
                if end in reached and reached[end][0] > tail_N[node]:
                    tail_N[node], tails[node] = reached[end]
        finals = [
            (self.phone_NC + tail_N[:, None], "phone"),
            (self.rest_N[:, None] + tail_N[:, None], "rest"),
        ]
        if self.pause_WF is not None:
            finals.insert(0, (self.pause_WF[:, -1:] + tail_N[boundaries, None], "pause"))
        table, state = max(finals, key=lambda item: float(item[0].max()))
        score = float(table.max())
        if score == -np.inf:
            return None
        v, q = (int(value) for value in np.unravel_index(table.argmax(), table.shape))
        w = -1
        if state == "pause":
            w, v = v, int(boundaries[v])
        where = {int(node): place for place, node in enumerate(boundaries)}
        trailing = tails[v]

        # From the last to the first: arcs in reverse, and what was said with the arcs before it.
        walked: list[int] = list(trailing[::-1])
        said: list[tuple[int, int, int, int, int]] = []
        pauses: list[tuple[int, int]] = []
        end = self.frames
        last_frame = 0 if self.silence is None else self.silence.min_frames - 1
        pause_frame, pause_end = last_frame, self.frames
        # Deletions on the way to a pause belong to the phone after it, or to the end.
        carried = last_carried = len(trailing)
        for t in range(self.frames - 1, -1, -1):
            step, tables = steps[t], self.tables(float(self.lam_T[t]))
            if state == "rest":
                if step.from_phone_N[v]:
                    state, q, end = "phone", int(step.top_N[v]), t
                continue
            if state == "pause":
                assert step.pause_stays_W is not None and step.pause_pass_W is not None
                if pause_frame == last_frame and step.pause_stays_W[w]:
                    continue
                if pause_frame:
                    pause_frame -= 1
                    continue
                pauses.append((t, pause_end))
                link = tables.ranked.by_node[v][int(step.pause_pass_W[w])]
                walked += tables.passes[link][::-1]
                carried += len(tables.passes[link])
                v = int(tables.origin_P[link])
                state, q, end = "phone", int(steps[t].top_N[v]), t
                continue
            code = int(step.code_NC[v, q])
            if code == _STAY:
                continue
            if said:
                said[-1] = (*said[-1][:4], carried)
            else:
                last_carried = carried
            said.append((q, int(code == _ADD), t, end, 0))
            if code >= _TAKE:
                arc = self.incoming.by_node[v][code - _TAKE]
                walked.append(arc)
                v = int(arcs.source_A[arc])
            link = tables.ranked.by_node[v][int(step.begin_NC[v, q])]
            walked += tables.passes[link][::-1]
            carried = len(tables.passes[link])
            v = int(tables.origin_P[link])
            if q == step.top_N[v]:
                rests, other = step.rest_beats_second_N[v], int(step.second_N[v])
            else:
                rests, other = step.rest_beats_top_N[v], int(step.top_N[v])
            if not rests:
                state, q, end = "phone", other, t
            elif step.from_pause_W is not None and v in where and step.from_pause_W[where[v]]:
                state, w, pause_end, pause_frame = "pause", where[v], t, last_frame
            else:
                state = "rest"
        if said:
            said[-1] = (*said[-1][:4], carried)
        else:
            last_carried = carried
        return self._path(walked[::-1], said[::-1], last_carried, score, pauses[::-1])

    def _path(
        self,
        walked: list[int],
        said: list[tuple[int, int, int, int, int]],
        trailing: int,
        score: float,
        pauses: list[tuple[int, int]],
    ) -> tuple[Path, list[int]]:
        """Count positions along the pronunciations that were taken."""
        taken: dict[int, int] = {}
        for arc in walked:
            taken[int(self.arcs.word_A[arc])] = int(self.arcs.choice_A[arc])
        positions, i = [], 0
        for _, kind, _, _, passed in said:
            i += passed
            positions.append(i)
            i += 1 - kind
        path = Path(
            tuple(item[0] for item in said),
            tuple(item[1] for item in said),
            tuple(positions),
            tuple(item[4] for item in said),
            tuple(item[2] for item in said),
            tuple(item[3] for item in said),
            trailing,
            score,
            tuple(pauses),
        )
        return path, [taken[k] for k in range(len(self.arcs.pronunciations))]
