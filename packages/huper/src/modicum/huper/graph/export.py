"""Graphs as OpenFst text, for k2, kaldifst, OpenFst and Pynini.

Writes lines ``source destination input output cost`` in the tropical semiring (costs are negative
log-weights). Label 0 is ε, so that label q + 1 stands for id q. Needs no FST library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modicum.huper.channel import Weights
from modicum.huper.graph.reference import ReferenceGraph, arcs_of
from modicum.huper.graph.viterbi import scaled

if TYPE_CHECKING:
    from modicum.huper.channel import EditChannel
    from modicum.huper.phones import PhoneSet

__all__ = [
    "channel_text",
    "ctc_text",
    "edit_graph_text",
    "emissions_text",
    "reference_text",
    "symbols_text",
]

_EPSILON = 0


def symbols_text(phones: PhoneSet) -> str:
    """Return the symbol table of all graphs: ``<eps>`` and the ids of the phone set plus one."""
    rows = ["<eps> 0", *(f"{symbol} {q + 1}" for q, symbol in enumerate(phones.symbols))]
    return "\n".join(rows) + "\n"


def emissions_text(logprobs_TC: np.ndarray) -> str:
    """Return the acceptor of all labellings of T frames, (T, C) log-probabilities on its arcs."""
    logprobs_TC = np.asarray(logprobs_TC, np.float64)
    lines = [
        _arc(t, t + 1, q + 1, q + 1, value)
        for t, row in enumerate(logprobs_TC)
        for q, value in enumerate(row)
        if value > -np.inf
    ]
    return _text(lines, [(len(logprobs_TC), 0.0)])


def ctc_text(classes: int, blank: int = 0) -> str:
    """Return the CTC topology: frames on the input side, phones on the output side."""
    state = {q: q + 1 for q in range(classes)}
    state[blank] = 0
    lines = []
    for p in range(classes):
        for q in range(classes):
            says = _EPSILON if q in (p, blank) else q + 1
            lines.append(_arc(state[p], state[q], q + 1, says, 0.0))
    # OpenFst starts in the state of the first line, which must be the blank's.
    lines.sort(key=lambda line: line.split()[0] != "0")
    return _text(lines, [(number, 0.0) for number in sorted(state.values())])


def edit_graph_text(weights: Weights, lam: float = 1.0) -> str:
    """Return the graph of one canonical sequence: said phones in, canonical phones out.

    State i has i canonical phones behind it; the number of deletions in a row is not limited.

    Parameters
    ----------
    weights
        The edits of the canonical sequence.
    lam
        λ, which multiplies the log-weights.
    """
    sub_LC, dele_L = scaled(lam, weights.sub), scaled(lam, weights.dele)
    ins_SC = scaled(lam, weights.ins)
    lines = []
    for i in range(len(weights) + 1):
        for q in np.flatnonzero(ins_SC[i] > -np.inf):
            lines.append(_arc(i, i, q + 1, _EPSILON, ins_SC[i, q]))
        if i == len(weights):
            break
        says = int(weights.canonical[i]) + 1
        for q in np.flatnonzero(sub_LC[i] > -np.inf):
            lines.append(_arc(i, i + 1, q + 1, says, sub_LC[i, q]))
        if dele_L[i] > -np.inf:
            lines.append(_arc(i, i + 1, _EPSILON, says, dele_L[i]))
    return _text(lines, [(len(weights), 0.0)])


def reference_text(reference: ReferenceGraph, channel: EditChannel, lam: float = 1.0) -> str:
    """Return the graph of words with several pronunciations: said phones in, canonical phones out.

    The number of deletions in a row is not limited. Where the channel looks at neighbouring phones,
    several states stand for one word boundary, and ε arcs lead to those of the beginning.

    Parameters
    ----------
    reference
        The words.
    channel
        Weighs every pronunciation.
    lam
        λ, which multiplies the log-weights of edits, and not those of pronunciations and of what is
        optional between words.

    Raises
    ------
    ValueError
        If a phone is not in the phone set of the channel.
    """
    arcs = arcs_of(reference, channel, channel.phones)
    sub_AC = scaled(lam, arcs.sub_AC) + arcs.prior_A[:, None]
    dele_A = scaled(lam, arcs.dele_A) + arcs.prior_A
    ins_NC = np.maximum(scaled(lam, arcs.ins_NC), arcs.optional_NC)
    # State 0 is the start, state n + 1 is node n.
    lines = [_arc(0, node + 1, _EPSILON, _EPSILON, 0.0) for node in arcs.starts]
    for node, q in np.argwhere(ins_NC > -np.inf):
        lines.append(_arc(node + 1, node + 1, q + 1, _EPSILON, ins_NC[node, q]))
    for a, (source, target) in enumerate(zip(arcs.source_A, arcs.target_A, strict=True)):
        says = arcs.phone_A[a] + 1
        for q in np.flatnonzero(sub_AC[a] > -np.inf):
            lines.append(_arc(source + 1, target + 1, q + 1, says, sub_AC[a, q]))
        if dele_A[a] > -np.inf:
            lines.append(_arc(source + 1, target + 1, _EPSILON, says, dele_A[a]))
    return _text(lines, [(node + 1, 0.0) for node in arcs.ends])


def channel_text(channel: EditChannel) -> str:
    """Return a whole channel as a transducer of one state: canonical phones in, said ones out.

    Raises
    ------
    ValueError
        If the channel depends on contexts, which one state cannot remember; export the graph of a
        canonical sequence instead.
    """
    if channel.context is not None:
        raise ValueError(
            f"a channel with context={channel.context!r} is no transducer of one state; "
            "use edit_graph_text(channel.weights(canonical))"
        )
    ids = np.asarray(channel.phones.ids)
    weights = channel.weights(ids)
    lines = []
    for p, q in np.argwhere(weights.sub > -np.inf):
        lines.append(_arc(0, 0, ids[p] + 1, q + 1, weights.sub[p, q]))
    for p, value in zip(ids, weights.dele, strict=True):
        lines.append(_arc(0, 0, p + 1, _EPSILON, value))
    for q in np.flatnonzero(weights.ins[0] > -np.inf):
        lines.append(_arc(0, 0, _EPSILON, q + 1, weights.ins[0, q]))
    return _text(lines, [(0, 0.0)])


def _arc(source: int, target: int, reads: int, says: int, weight: float) -> str:
    return f"{source} {target} {reads} {says} {-float(weight)!r}"


def _text(lines: list[str], finals: list[tuple[int, float]]) -> str:
    return "\n".join([*lines, *(f"{state} {cost!r}" for state, cost in finals)]) + "\n"
