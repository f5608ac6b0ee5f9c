"""Edit distances of many pairs of sequences at once.

Takes sequences of symbol numbers and tables of costs, gives distances, or the edits of a cheapest
path. Pairs of like size are padded together; the loop runs over the positions of the reference, and
all pairs and all positions of the hypothesis are one NumPy expression. It knows no phones.

Shape suffixes: B pairs of a block, R positions of the reference, H of the hypothesis, K symbols.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

__all__ = ["DELETE", "INSERT", "MATCH", "SUBSTITUTE", "edit_distances", "edit_paths"]

MATCH, SUBSTITUTE, DELETE, INSERT = range(4)
"""Kinds of edits, in the order in which a path prefers them."""

_BLOCK_CELLS = 1 << 20
"""Cells of the tables that are filled together: 8 MB of them."""


def edit_distances(
    hyps: Sequence[np.ndarray],
    refs: Sequence[np.ndarray],
    substitute_KK: np.ndarray,
    delete_K: np.ndarray,
    insert_K: np.ndarray,
) -> np.ndarray:
    """Return the least cost of edits that turn each reference into its hypothesis.

    Parameters
    ----------
    hyps, refs
        N sequences of symbol numbers, int64 (H,) and (R,).
    substitute_KK
        Cost of saying the second symbol in place of the first, which is 0 on the diagonal.
    delete_K, insert_K
        Costs of leaving out and of adding a symbol.

    Returns
    -------
    np.ndarray
        (N,) of the costs' type; exact for integers.
    """
    found = np.zeros(len(refs), dtype=np.result_type(substitute_KK, delete_K, insert_K))
    for rows in _blocks(hyps, refs):
        hyp_BH, ref_BR = _padded([hyps[row] for row in rows]), _padded([refs[row] for row in rows])
        lengths_B = np.array([len(refs[row]) for row in rows])
        columns_B = np.array([len(hyps[row]) for row in rows])
        added_BH = _cumulative(insert_K[hyp_BH])
        costs_BH = added_BH
        for position in range(ref_BR.shape[1]):
            costs_BH = np.where(
                (position < lengths_B)[:, None],
                _next_row(
                    costs_BH,
                    substitute_KK[ref_BR[:, position, None], hyp_BH],
                    delete_K[ref_BR[:, position]],
                    added_BH,
                ),
                costs_BH,
            )
        found[rows] = costs_BH[np.arange(len(rows)), columns_B]
    return found


def edit_paths(hyps: Sequence[np.ndarray], refs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the edits of shortest paths, all edits costing 1.

    Read from the end, a path takes a match where one lies on a shortest path, else a substitution,
    else a deletion, else an insertion.

    Parameters
    ----------
    hyps, refs
        As for `edit_distances`.

    Returns
    -------
    list of np.ndarray
        For each pair int8 (S,) of `MATCH`, `SUBSTITUTE`, `DELETE`, `INSERT`, from left to right.
    """
    found: list[np.ndarray] = [np.empty(0, np.int8)] * len(refs)
    for rows in _blocks(hyps, refs):
        hyp_BH, ref_BR = _padded([hyps[row] for row in rows]), _padded([refs[row] for row in rows])
        added_BH = np.broadcast_to(
            np.arange(hyp_BH.shape[1] + 1, dtype=np.int32), (len(rows), hyp_BH.shape[1] + 1)
        )
        table = np.empty((ref_BR.shape[1] + 1, *added_BH.shape), dtype=np.int32)
        table[0] = added_BH
        one_B = np.ones(len(rows), dtype=np.int32)
        for position in range(ref_BR.shape[1]):
            differ_BH = (ref_BR[:, position, None] != hyp_BH).astype(np.int32)
            table[position + 1] = _next_row(table[position], differ_BH, one_B, added_BH)
        lengths = [len(refs[row]) for row in rows], [len(hyps[row]) for row in rows]
        for row, path in zip(rows, _walk(table, hyp_BH, ref_BR, *lengths), strict=True):
            found[row] = path
    return found


def _next_row(
    costs_BH: np.ndarray, substitute_BH: np.ndarray, delete_B: np.ndarray, added_BH: np.ndarray
) -> np.ndarray:
    """Take one more symbol of the references."""
    row_BH = costs_BH + delete_B[:, None]
    row_BH[:, 1:] = np.minimum(row_BH[:, 1:], costs_BH[:, :-1] + substitute_BH)
    # Adding symbols up to h costs what the sum up to h is more than the sum where adding began, so
    # the best beginning is a running minimum.
    best_BH = np.minimum.accumulate(row_BH - added_BH, axis=1)
    return added_BH + best_BH


def _walk(
    table: np.ndarray,
    hyp_BH: np.ndarray,
    ref_BR: np.ndarray,
    lengths: list[int],
    columns: list[int],
) -> list[np.ndarray]:
    """Go back through the tables of all pairs, one step of each at a time."""
    i_B, j_B = np.array(lengths), np.array(columns)
    pair_B = np.arange(len(i_B))
    steps = []
    # A pair without symbols still has a column to look at; what is read there is not used.
    hyp_BH = hyp_BH if hyp_BH.shape[1] else np.zeros((len(i_B), 1), np.int64)
    ref_BR = ref_BR if ref_BR.shape[1] else np.zeros((len(i_B), 1), np.int64)
    while np.any((i_B > 0) | (j_B > 0)):
        here_B = table[i_B, pair_B, j_B]
        above_B, before_B = np.maximum(i_B - 1, 0), np.maximum(j_B - 1, 0)
        differ_B = ref_BR[pair_B, above_B] != hyp_BH[pair_B, before_B]
        both_B = (i_B > 0) & (j_B > 0)
        diagonal_B = both_B & (table[above_B, pair_B, before_B] + differ_B == here_B)
        deleted_B = ~diagonal_B & (i_B > 0) & (table[above_B, pair_B, j_B] + 1 == here_B)
        left_B = (i_B > 0) | (j_B > 0)
        inserted_B = left_B & ~diagonal_B & ~deleted_B
        kind_B = np.full(len(i_B), -1, np.int8)
        kind_B[diagonal_B] = np.where(differ_B[diagonal_B], SUBSTITUTE, MATCH)
        kind_B[deleted_B] = DELETE
        kind_B[inserted_B] = INSERT
        steps.append(kind_B)
        i_B = i_B - (diagonal_B | deleted_B)
        j_B = j_B - (diagonal_B | inserted_B)
    walked_BS = np.array(steps[::-1], dtype=np.int8).reshape(len(steps), len(i_B)).T
    return [path[path >= 0] for path in walked_BS]


def _cumulative(costs_BH: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [np.zeros_like(costs_BH[:, :1], shape=(len(costs_BH), 1)), costs_BH.cumsum(1)], axis=1
    )


def _padded(sequences: Sequence[np.ndarray]) -> np.ndarray:
    """Give int64 (B, longest); what stands behind a sequence is never read into its result."""
    longest = max(map(len, sequences), default=0)
    found = np.zeros((len(sequences), longest), dtype=np.int64)
    for row, sequence in zip(found, sequences, strict=True):
        row[: len(sequence)] = sequence
    return found


def _blocks(hyps: Sequence[np.ndarray], refs: Sequence[np.ndarray]) -> Iterator[list[int]]:
    """Give numbers of pairs of like size, as many as fit into a block."""
    order = sorted(range(len(refs)), key=lambda row: (len(refs[row]), len(hyps[row])))
    block: list[int] = []
    widest = 0
    for row in order:
        widest = max(widest, len(hyps[row]) + 1)
        if block and (len(block) + 1) * widest * (len(refs[row]) + 1) > _BLOCK_CELLS:
            yield block
            block, widest = [], len(hyps[row]) + 1
        block.append(row)
    if block:
        yield block
