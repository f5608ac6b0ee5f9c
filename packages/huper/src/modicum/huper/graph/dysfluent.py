"""The reference graph of Dysfluent WFST, to compare with.

CTC composed with a graph over the canonical phones: one arc per phone, arcs back for repetitions,
arcs ahead for deletions, and substitution arcs that write another phone but still read the
canonical one. Reading the canonical one is what the published code does, and it means that the
acoustics of the phone that was really said never count: a different phone in the same place cannot
be recognised. `fused_decode` has the substituted phone on its input side.

Shape suffixes: T frames, C classes, A arcs, S states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modicum.huper.graph.viterbi import Alignment, Edit, Problem

if TYPE_CHECKING:
    from modicum.huper.phones import PhoneSet

__all__ = ["Arc", "decode", "reference_graph"]


@dataclass(frozen=True)
class Arc:
    """One arc of the reference graph.

    Parameters
    ----------
    source, target
        States: how many canonical phones are behind.
    reads
        Id of the phone whose emissions it takes, None for none.
    says
        Id of the phone that is reported; −1 when the arc reads none.
    weight
        Log-weight.
    kind
        ``"advance"``, ``"loop"``, ``"sub"``, ``"back"`` or ``"skip"``.
    """

    source: int
    target: int
    reads: int | None
    says: int
    weight: float
    kind: Literal["advance", "loop", "sub", "back", "skip"]


def reference_graph(
    canonical: Sequence[int] | np.ndarray,
    similar: Callable[[int], Sequence[int]] | None = None,
    *,
    back: float = -1.0,
    skip: Literal["linear", "published"] | None = "linear",
    kappa: float = 1.0,
    substitution: float = -1.0,
) -> list[Arc]:
    """Build the reference graph of a canonical sequence.

    Parameters
    ----------
    canonical
        L phone ids.
    similar
        Gives the phones most similar to one, for the substitution arcs; None for no such arcs.
        They read what the advance arc beside them reads and cost more, so that no best path takes
        them as long as `substitution` is negative.
    back
        Log-weight of going back one phone and of saying the same phone again.
    skip
        Log-weight of the arcs that pass 2 or 3 states ahead, i → j: ``"linear"`` is
        −kappa · (j − i); ``"published"`` is −exp(−(i − j)² / 2), which makes the longer skip the
        cheaper one. None for no skips.
    kappa
        See `skip`.
    substitution
        Log-weight of a substitution arc.

    Returns
    -------
    list of Arc
        From state 0 to state L.

    Raises
    ------
    ValueError
        If `skip` is unknown.

    References
    ----------
    "Dysfluent WFST: A Framework for Zero-Shot Speech Dysfluency Transcription and Detection"
    (arXiv 2505.16351).
    """
    if skip not in ("linear", "published", None):
        raise ValueError(f'skip must be "linear", "published" or None, got {skip!r}')
    phones = [int(phone) for phone in canonical]
    arcs: list[Arc] = []
    for i, phone in enumerate(phones):
        arcs.append(Arc(i, i + 1, phone, phone, 0.0, "advance"))
        arcs.append(Arc(i, i, phone, phone, back, "loop"))
        if similar is not None:
            arcs += [
                Arc(i, i + 1, phone, int(other), substitution, "sub")
                for other in similar(phone)
                if int(other) != phone
            ]
        arcs.append(Arc(i + 1, i, None, -1, back, "back"))
        for j in (i + 2, i + 3):
            if skip is not None and j <= len(phones):
                ahead = float(j - i)
                weight = -kappa * ahead if skip == "linear" else -float(np.exp(-(ahead**2) / 2))
                arcs.append(Arc(i, j, None, -1, weight, "skip"))
    return arcs


def decode(
    logprobs_TC: np.ndarray,
    canonical: Sequence[int] | np.ndarray,
    blank: int = 0,
    phones: PhoneSet | None = None,
    frame_shift: float | None = None,
    *,
    similar: Callable[[int], Sequence[int]] | None = None,
    **options: Any,
) -> Alignment:
    """Find the best path through CTC composed with the reference graph, exactly.

    Parameters
    ----------
    logprobs_TC
        (T, C) log-probabilities of one utterance.
    canonical
        L phone ids.
    blank
        Column of the blank.
    phones, frame_shift
        For the names and times in the result.
    similar, options
        As for `reference_graph`.

    Returns
    -------
    Alignment
        ``reason="no_path"`` and no phones when the graph does not fit into the frames. A phone at
        a position that was visited before is ``"rep"``; one at a position before all that were
        visited is ``"ins"``.

    Notes
    -----
    The published code composes with a beam in k2; this search is exhaustive, so that a difference
    to `fused_decode` is one of the graphs.
    """
    logprobs_TC = np.asarray(logprobs_TC, np.float64)
    ids_L = np.asarray(canonical, np.int64).reshape(-1)
    problem = Problem((), (), blank, phones, frame_shift, True)
    arcs = reference_graph(ids_L, similar, **options)
    # A phone that is said takes frames; what takes none is closed over beforehand.
    spoken = [arc for arc in arcs if arc.reads is not None]
    jump_SS = _closure([arc for arc in arcs if arc.reads is None], len(ids_L) + 1)
    found = _search(logprobs_TC, spoken, jump_SS, blank)
    names = problem.symbols(ids_L)
    if found is None:
        return Alignment(
            (), (), (), (), -np.inf, names, (), reason="no_path", frame_shift=frame_shift
        )
    steps, score = found
    return _label(steps, score, names, problem)


def _closure(arcs: list[Arc], states: int) -> np.ndarray:
    """Best log-weight from state to state over arcs that take no frame."""
    best_SS = np.full((states, states), -np.inf)
    np.fill_diagonal(best_SS, 0.0)
    for arc in arcs:
        best_SS[arc.source, arc.target] = max(best_SS[arc.source, arc.target], arc.weight)
    for middle in range(states):
        best_SS = np.maximum(best_SS, best_SS[:, middle, None] + best_SS[None, middle])
    return best_SS


def _search(
    logprobs_TC: np.ndarray, arcs: list[Arc], jump_SS: np.ndarray, blank: int
) -> tuple[list[tuple[Arc, int, int]], float] | None:
    frames, states = len(logprobs_TC), len(jump_SS)
    reads_A = np.array([arc.reads for arc in arcs], np.int64)
    source_A = np.array([arc.source for arc in arcs], np.int64)
    target_A = np.array([arc.target for arc in arcs], np.int64)
    weight_A = np.array([arc.weight for arc in arcs], np.float64)
    # From having said one arc to saying another; equal phones need a blank between them.
    follow_AA = jump_SS[np.ix_(target_A, source_A)] + weight_A
    follow_AA[reads_A[:, None] == reads_A[None]] = -np.inf
    after_SA = jump_SS[:, source_A] + weight_A
    arc_A = np.full(len(arcs), -np.inf)
    rest_S = np.full(states, -np.inf)
    rest_S[0] = 0.0
    stay, from_rest = -1, len(arcs)
    origins: list[tuple[np.ndarray, np.ndarray]] = []
    for frame_C in logprobs_TC:
        origin_A = np.full(len(arcs), stay)
        best_A = arc_A.copy()
        rest_origin_S = np.full(states, stay)
        best_rest_S = rest_S.copy()
        if len(arcs):
            touch_AA = arc_A[:, None] + follow_AA
            leave_SA = rest_S[:, None] + after_SA
            for table, offset in ((touch_AA, 0), (leave_SA, from_rest)):
                value_A = table.max(0)
                better_A = value_A > best_A
                best_A = np.where(better_A, value_A, best_A)
                origin_A = np.where(better_A, table.argmax(0) + offset, origin_A)
            best_A = best_A + frame_C[reads_A]
            for a, state in enumerate(target_A):
                if arc_A[a] > best_rest_S[state]:
                    best_rest_S[state], rest_origin_S[state] = arc_A[a], a
        origins.append((origin_A, rest_origin_S))
        arc_A, rest_S = best_A, best_rest_S + frame_C[blank]
    ends = np.concatenate([arc_A + jump_SS[target_A, -1], rest_S + jump_SS[:, -1]])
    score = float(ends.max())
    if score == -np.inf:
        return None
    now, end = int(ends.argmax()), frames
    steps: list[tuple[Arc, int, int]] = []
    for t in range(frames - 1, -1, -1):
        origin_A, rest_origin_S = origins[t]
        if now >= from_rest:
            origin = int(rest_origin_S[now - from_rest])
            if origin != stay:
                now, end = origin, t
        elif (origin := int(origin_A[now])) != stay:
            steps.append((arcs[now], t, end))
            now, end = origin, t
    return steps[::-1], score


def _label(
    steps: list[tuple[Arc, int, int]], score: float, names: tuple[str, ...], problem: Problem
) -> Alignment:
    """Read dysfluencies off the states that were visited."""
    visited: set[int] = set()
    following = 0
    edits: list[Edit] = []
    for arc, start, end in steps:
        i, span = arc.source, (start, end)
        phone = problem.symbols([arc.says])[0]
        if i in visited:
            edits.append(Edit("rep", i, names[i], phone, span))
        elif visited and i < min(visited):
            edits.append(Edit("ins", i, None, phone, span))
        else:
            edits += [
                Edit("del", j, names[j], None, None)
                for j in range(following, i)
                if j not in visited
            ]
            op: Literal["keep", "sub"] = "sub" if arc.kind == "sub" else "keep"
            edits.append(Edit(op, i, names[i], phone, span))
        visited.add(i)
        following = max(following, arc.target)
    edits += [Edit("del", j, names[j], None, None) for j in range(following, len(names))]
    said = [edit for edit in edits if edit.span is not None]
    return Alignment(
        tuple(str(edit.phone) for edit in said),
        tuple(arc.says for arc, _, _ in steps),
        tuple(edit.op for edit in said),
        tuple((start, end) for _, start, end in steps),
        score,
        names,
        tuple(edits),
        frame_shift=problem.frame_shift,
    )
