"""Edit programs: what a speaker did to each phone of a canonical sequence.

Takes two sequences of phones (strings, one token per phone) and gives one operation per canonical
phone and a list of insertions per slot, from which the second sequence can be rebuilt. Works on
tokens only: it knows no inventory, no audio and no model.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rapidfuzz.distance import Levenshtein

__all__ = ["DEL", "KEEP", "EditCost", "EditProgram", "apply", "editops", "encode"]

KEEP = "KEEP"
DEL = "DEL"
_SUB = "SUB:"

EditCost = Callable[[str | None, str | None], float]
"""Cost of turning one phone into another: ``cost(p, q)`` to substitute, ``cost(p, None)`` to delete
``p``, ``cost(None, q)`` to insert ``q``."""

EditOp = tuple[str, int, int]


@dataclass(frozen=True)
class EditProgram:
    """What happened to each canonical phone, and what was said between them.

    Parameters
    ----------
    canonical
        The L phones of the dictionary.
    ops
        L operations: ``"KEEP"``, ``"DEL"`` or ``"SUB:p"``.
    insertions
        L + 1 slots of inserted phones: slot i stands before phone i, the last one at the end.
    lost
        How many phones of the realized sequence the program could not hold, or holds in a wrong
        place; 0 means that `apply` gives the realized sequence back.

    Raises
    ------
    ValueError
        If the lengths do not fit or an operation is none.
    """

    canonical: tuple[str, ...]
    ops: tuple[str, ...]
    insertions: tuple[tuple[str, ...], ...]
    lost: int = 0

    def __post_init__(self) -> None:
        length = len(self.canonical)
        if len(self.ops) != length:
            raise ValueError(f"{length} canonical phones need {length} ops, got {len(self.ops)}")
        if len(self.insertions) != length + 1:
            raise ValueError(
                f"{length} canonical phones have {length + 1} insertion slots, "
                f"got {len(self.insertions)}"
            )
        for op in self.ops:
            if op not in (KEEP, DEL) and not (op.startswith(_SUB) and len(op) > len(_SUB)):
                raise ValueError(f'an op is "KEEP", "DEL" or "SUB:<phone>", got {op!r}')

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and strings, ready for JSON."""
        return {
            "canonical": list(self.canonical),
            "ops": list(self.ops),
            "insertions": [list(slot) for slot in self.insertions],
            "lost": self.lost,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> EditProgram:
        """Read what `to_dict` wrote."""
        return cls(
            tuple(data["canonical"]),
            tuple(data["ops"]),
            tuple(tuple(slot) for slot in data["insertions"]),
            int(data.get("lost", 0)),
        )


def encode(
    canonical: Sequence[str],
    realized: Sequence[str],
    scheme: Literal["slots", "reference"] = "slots",
    max_ins: int | None = 2,
    cost: Literal["unit", "feature"] | EditCost = "unit",
) -> EditProgram:
    """Say which edits turn the canonical phones into the realized ones.

    Parameters
    ----------
    canonical, realized
        Sequences of phone tokens; a plain string is refused because its characters are no phones.
    scheme
        ``"slots"``: every insertion in the slot where it was said. ``"reference"``: the labels of
        the public HuPER scripts, which attach an insertion to the phone before it; an insertion
        before the first phone then comes out after it, one after the last phone is dropped, and
        only the last one of a slot survives. For reading their data; it warns when phones are lost.
    max_ins
        Most insertions per slot, None for no limit; the ones beyond it are dropped and counted.
        The reference scheme always holds one.
    cost
        ``"unit"``: Levenshtein, ties as rapidfuzz breaks them. ``"feature"``: substitutions cost
        their distance in articulatory features. Or a function of your own, see `EditCost`; ties
        then go to the earliest edit. It decides between alignments and so changes labels only.

    Returns
    -------
    EditProgram
        With ``apply(program) == tuple(realized)`` whenever ``program.lost == 0``.

    Raises
    ------
    ValueError
        If the scheme or the cost is unknown or max_ins is negative.
    TypeError
        If a sequence is a string.

    References
    ----------
    "HuPER: A Human-Inspired Framework for Phonetic Perception" (arXiv 2602.01634).
    """
    if scheme not in ("slots", "reference"):
        raise ValueError(f'scheme must be "slots" or "reference", got {scheme!r}')
    if max_ins is not None and max_ins < 0:
        raise ValueError(f"max_ins must be at least 0, or None for no limit, got {max_ins}")
    source, target = _tokens(canonical), _tokens(realized)
    length = len(source)
    ops = [KEEP] * length
    slots: list[list[str]] = [[] for _ in range(length + 1)]
    inserted = 0
    right = [0] * (length + 1)  # how many phones of each slot stand where they were said
    for kind, i, j in editops(source, target, cost):
        if kind == "replace":
            ops[i] = _SUB + target[j]
            continue
        if kind == "delete":
            ops[i] = DEL
            continue
        inserted += 1
        if scheme == "slots":
            if max_ins is None or len(slots[i]) < max_ins:
                slots[i].append(target[j])
                right[i] += 1
        elif i < length:
            slot = max(i, 1)
            slots[slot] = [target[j]]
            right[slot] = int(slot == i)
    lost = inserted - sum(right)
    if scheme == "reference" and lost:
        warnings.warn(
            f"the reference scheme lost or misplaced {lost} inserted phone(s) of {target}; "
            'scheme="slots" keeps them',
            stacklevel=2,
        )
    return EditProgram(source, tuple(ops), tuple(map(tuple, slots)), lost)


def apply(program: EditProgram) -> tuple[str, ...]:
    """Carry out an edit program.

    Returns
    -------
    tuple of str
        The realized phones.
    """
    out = list(program.insertions[0])
    for phone, op, inserted in zip(
        program.canonical, program.ops, program.insertions[1:], strict=True
    ):
        if op == KEEP:
            out.append(phone)
        elif op != DEL:
            out.append(op.removeprefix(_SUB))
        out += inserted
    return tuple(out)


def editops(
    source: Sequence[str],
    target: Sequence[str],
    cost: Literal["unit", "feature"] | EditCost = "unit",
) -> list[EditOp]:
    """List the edits of a cheapest alignment from left to right.

    Parameters
    ----------
    source, target
        Sequences of phone tokens.
    cost
        As for `encode`.

    Returns
    -------
    list of (str, int, int)
        ``"replace"``, ``"delete"`` or ``"insert"``, with the positions in source and target at
        which it happens; equal phones are not listed.

    Raises
    ------
    ValueError
        If the cost is unknown, or a function returns a negative one.
    """
    source, target = _tokens(source), _tokens(target)
    if cost == "unit":
        return [(op.tag, op.src_pos, op.dest_pos) for op in Levenshtein.editops(source, target)]
    if cost == "feature":
        from modicum.huper.features import edit_cost

        return _weighted(source, target, edit_cost)
    if callable(cost):
        return _weighted(source, target, cost)
    raise ValueError(f'cost must be "unit", "feature" or a function of two phones, got {cost!r}')


def _tokens(sequence: Sequence[str]) -> tuple[str, ...]:
    if isinstance(sequence, str):
        raise TypeError(
            f"phones are a sequence of tokens, not one string: got {sequence!r}, "
            f"give {sequence.split()!r}"
        )
    return tuple(sequence)


def _weighted(source: tuple[str, ...], target: tuple[str, ...], cost: EditCost) -> list[EditOp]:
    """Align with any costs; on ties the edits come as early as they can."""
    price = _checked(cost)
    rows, columns = len(source), len(target)
    # rest[i][j]: the cheapest way from source[i:] to target[j:]. Counting from the end lets the
    # walk below start on the left and so take an edit as soon as it costs nothing more.
    rest = [[0.0] * (columns + 1) for _ in range(rows + 1)]
    for i in range(rows, -1, -1):
        for j in range(columns, -1, -1):
            ways = []
            if i < rows:
                ways.append(price(source[i], None) + rest[i + 1][j])
            if j < columns:
                ways.append(price(None, target[j]) + rest[i][j + 1])
            if i < rows and j < columns:
                change = 0.0 if source[i] == target[j] else price(source[i], target[j])
                ways.append(change + rest[i + 1][j + 1])
            rest[i][j] = min(ways, default=0.0)
    found: list[EditOp] = []
    i = j = 0
    while i < rows or j < columns:
        best = rest[i][j]
        if i < rows and price(source[i], None) + rest[i + 1][j] == best:
            found.append(("delete", i, j))
            i += 1
        elif j < columns and price(None, target[j]) + rest[i][j + 1] == best:
            found.append(("insert", i, j))
            j += 1
        else:
            if source[i] != target[j]:
                found.append(("replace", i, j))
            i, j = i + 1, j + 1
    return found


def _checked(cost: EditCost) -> EditCost:
    known: dict[tuple[str | None, str | None], float] = {}

    def price(p: str | None, q: str | None) -> float:
        if (p, q) not in known:
            value = float(cost(p, q))
            if not value >= 0:
                raise ValueError(f"the cost of {p!r} → {q!r} must be at least 0, got {value}")
            known[p, q] = value
        return known[p, q]

    return price
