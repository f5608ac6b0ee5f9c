"""Phone errors: how many phones are wrong, of which kind, and which phones are taken for which.

Takes hypotheses and references, each a list of phones. Phones are compared as they are spelled (in
Unicode's NFD); nothing is folded or respelled here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modicum.core.stats import bootstrap_interval
from modicum.huper.metrics.distance import (
    DELETE,
    INSERT,
    MATCH,
    SUBSTITUTE,
    edit_distances,
    edit_paths,
)
from modicum.huper.phones import ARPABET_TO_IPA, IGNORED

__all__ = [
    "Interval",
    "PhoneErrors",
    "Sequences",
    "align",
    "paired",
    "per",
    "phone_errors",
    "ratio_interval",
    "wper",
]

Phones = Sequence[str]
Sequences = Sequence[Phones] | Mapping[str, Phones]
"""Utterances: a sequence of lists of phones, or a mapping from ids to them."""

Interval = tuple[float, float]

_OPS = ("match", "sub", "del", "ins")


def per(hyps: Sequences, refs: Sequences) -> float:
    """Return the phone error rate of a corpus: (S + D + I) / Σ|ref|; it may exceed 1.

    Parameters
    ----------
    hyps, refs
        Lists of phones, one for each utterance, in the same order; or mappings from ids to them.

    Returns
    -------
    float
        A ratio; NaN if no reference has a phone.

    Raises
    ------
    TypeError
        If an utterance is a string: its characters are no phones.
    ValueError
        If there are not as many hypotheses as references, ids differ, or one side is ARPAbet and
        the other is not.
    """
    return phone_errors(hyps, refs).per


def phone_errors(hyps: Sequences, refs: Sequences) -> PhoneErrors:
    """Count phone errors and confusions on shortest edit paths.

    Where several paths are shortest, it takes, read from the end, a match before a substitution
    before a deletion before an insertion. The total does not depend on that, its parts do.

    Parameters
    ----------
    hyps, refs
        As for `per`.

    Raises
    ------
    TypeError, ValueError
        As `per`.
    """
    hyp_lists, ref_lists = paired(hyps, refs)
    symbols, hyp_ids, ref_ids = numbered(hyp_lists, ref_lists)
    size = len(symbols)
    counts_N4 = np.zeros((len(ref_ids), 4), dtype=np.int64)
    confusion = np.zeros((size + 1, size + 1), dtype=np.int64)
    paths = edit_paths(hyp_ids, ref_ids)
    for row, (path, hyp, ref) in enumerate(zip(paths, hyp_ids, ref_ids, strict=True)):
        counts_N4[row] = np.bincount(path, minlength=4)
        left = np.full(len(path), size)
        right = np.full(len(path), size)
        left[path != INSERT] = ref
        right[path != DELETE] = hyp
        np.add.at(confusion, (left, right), 1)
    return PhoneErrors(counts_N4, symbols, confusion)


@dataclass(frozen=True, eq=False)
class PhoneErrors:
    """Phone errors of a corpus.

    Attributes
    ----------
    counts
        int64 (N, 4): matches, substitutions, deletions and insertions of each utterance.
    symbols
        The K phones of both sides, sorted.
    confusion
        int64 (K + 1, K + 1): how often a phone of the reference (row) was a phone of the hypothesis
        (column). The last row is what was inserted, the last column what was deleted.
    """

    counts: np.ndarray
    symbols: tuple[str, ...]
    confusion: np.ndarray

    @property
    def matches(self) -> int:
        """Phones that are right."""
        return int(self.counts[:, MATCH].sum())

    @property
    def substitutions(self) -> int:
        """S."""
        return int(self.counts[:, SUBSTITUTE].sum())

    @property
    def deletions(self) -> int:
        """D."""
        return int(self.counts[:, DELETE].sum())

    @property
    def insertions(self) -> int:
        """I, those of utterances without a reference phone included."""
        return int(self.counts[:, INSERT].sum())

    @property
    def errors(self) -> np.ndarray:
        """Errors of each utterance, int64 (N,)."""
        found: np.ndarray = self.counts[:, SUBSTITUTE:].sum(1)
        return found

    @property
    def lengths(self) -> np.ndarray:
        """Reference phones of each utterance, int64 (N,)."""
        found: np.ndarray = self.counts[:, :INSERT].sum(1)
        return found

    @property
    def reference_phones(self) -> int:
        """Σ|ref|."""
        return int(self.lengths.sum())

    @property
    def per(self) -> float:
        """Return (S + D + I) / Σ|ref|, NaN without a reference phone."""
        return ratio(self.errors.sum(), self.lengths.sum())

    @property
    def per_utterance(self) -> np.ndarray:
        """Phone error rate of each utterance, float64 (N,); NaN where the reference is empty."""
        found = np.full(len(self.counts), np.nan)
        np.divide(self.errors, self.lengths, out=found, where=self.lengths > 0)
        return found

    @property
    def empty_references(self) -> int:
        """Utterances whose reference has no phone; their own error rate is undefined."""
        return int((self.lengths == 0).sum())

    @property
    def insertions_without_reference(self) -> int:
        """Insertions in those utterances."""
        return int(self.counts[self.lengths == 0, INSERT].sum())

    @property
    def recall(self) -> dict[str, float]:
        """Fraction of each phone of the references that is right."""
        return self._rates(self.confusion.sum(1))

    @property
    def precision(self) -> dict[str, float]:
        """Fraction of each phone of the hypotheses that is right."""
        return self._rates(self.confusion.sum(0))

    def _rates(self, totals: np.ndarray) -> dict[str, float]:
        right = self.confusion.diagonal()
        return {
            symbol: int(right[at]) / int(totals[at])
            for at, symbol in enumerate(self.symbols)
            if totals[at]
        }

    def confusions(self, most: int | None = None) -> list[tuple[str | None, str | None, int]]:
        """Return (phone of the reference, phone said, count), the most frequent errors first.

        The first is None for an insertion, the second for a deletion.

        Parameters
        ----------
        most
            How many; None for all.
        """
        names: tuple[str | None, ...] = (*self.symbols, None)
        rows, columns = np.nonzero(self.confusion)
        found = [
            (names[row], names[column], int(self.confusion[row, column]))
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
            if row != column
        ]
        found.sort(key=lambda one: (-one[2], one[0] or "", one[1] or ""))
        return found[:most]

    def interval(
        self,
        level: float = 0.95,
        *,
        seed: int = 0,
        resamples: int = 2000,
        groups: Sequence[object] | None = None,
    ) -> Interval | None:
        """Return a bootstrap interval of the phone error rate; see `ratio_interval`."""
        return ratio_interval(
            self.errors, self.lengths, level, seed=seed, resamples=resamples, groups=groups
        )


def align(hyp: Phones, ref: Phones) -> list[tuple[str, str | None, str | None]]:
    """Return the edits of one utterance from left to right.

    Returns
    -------
    list of (str, str or None, str or None)
        ``"match"``, ``"sub"``, ``"del"`` or ``"ins"``, the phone of the reference and that of the
        hypothesis. Ties are broken as in `phone_errors`.
    """
    (hyp,), (ref,) = paired([hyp], [ref])
    _, hyp_ids, ref_ids = numbered([hyp], [ref])
    (path,) = edit_paths(hyp_ids, ref_ids)
    left, right = iter(ref), iter(hyp)
    return [
        (
            _OPS[kind],
            None if kind == INSERT else next(left),
            None if kind == DELETE else next(right),
        )
        for kind in path.tolist()
    ]


def wper(
    hyps: Sequences,
    refs: Sequences,
    similarity: np.ndarray | Mapping[tuple[str, str], float],
    symbols: Sequence[str] | None = None,
    *,
    indel: float = 1.0,
) -> float:
    """Return a phone error rate in which like phones cost less: substitutions cost 1 − similarity.

    Parameters
    ----------
    hyps, refs
        As for `per`.
    similarity
        (P, P) between 0 and 1, rows for phones of the reference and columns for phones of the
        hypothesis; or a mapping from such pairs, in which pairs that are missing have 0. Equal
        phones cost nothing whatever it says.
    symbols
        The P phones of a matrix.
    indel
        Cost of a deletion or an insertion.

    Returns
    -------
    float
        Least cost of edits over Σ|ref|; NaN if no reference has a phone. With the similarity of
        different phones 0 it is the phone error rate.

    Raises
    ------
    ValueError
        If the matrix has the wrong shape, a value is not between 0 and 1, a phone is not in the
        matrix, or as for `per`.
    TypeError
        If a matrix has no symbols, or as for `per`.
    """
    if not 0 < indel < np.inf:
        raise ValueError(f"indel must be positive, not {indel!r}")
    hyp_lists, ref_lists = paired(hyps, refs)
    names, hyp_ids, ref_ids = numbered(hyp_lists, ref_lists)
    if isinstance(similarity, Mapping):
        given = {(_nfd(one), _nfd(two)): value for (one, two), value in similarity.items()}
        alike_KK = np.array([[given.get((p, q), 0.0) for q in names] for p in names], dtype=float)
        checked = np.array(list(given.values()), dtype=float)
    else:
        if symbols is None:
            raise TypeError("a matrix of similarities needs the symbols of its rows and columns")
        checked = np.asarray(similarity, dtype=float)
        if checked.shape != (len(symbols),) * 2:
            raise ValueError(
                f"similarity must be {(len(symbols),) * 2} for {len(symbols)} symbols, "
                f"not {checked.shape}"
            )
        places = {_nfd(symbol): at for at, symbol in enumerate(symbols)}
        if missing := [name for name in names if name not in places]:
            raise ValueError(f"the matrix has no phone {', '.join(map(repr, missing))}")
        order = [places[name] for name in names]
        alike_KK = checked[np.ix_(order, order)]
    if bad := checked[~((checked >= 0) & (checked <= 1))].tolist():
        raise ValueError(f"similarities are between 0 and 1, not {bad[0]}")
    costs_KK = 1.0 - alike_KK.reshape(len(names), len(names))
    np.fill_diagonal(costs_KK, 0.0)
    sides_K = np.full(len(names), float(indel))
    distances_N = edit_distances(hyp_ids, ref_ids, costs_KK, sides_K, sides_K)
    return ratio(distances_N.sum(), sum(map(len, ref_ids)))


def ratio_interval(
    errors: np.ndarray,
    totals: np.ndarray,
    level: float = 0.95,
    *,
    seed: int = 0,
    resamples: int = 2000,
    groups: Sequence[object] | None = None,
) -> Interval | None:
    """Return a percentile-bootstrap interval of Σerrors / Σtotals over utterances.

    Parameters
    ----------
    errors, totals
        (N,) of each utterance.
    level
        Nominal coverage, which is approached as N grows.
    seed
        Of the resamples.
    resamples
        How many.
    groups
        Of each utterance what it shares with others, such as its speaker: groups are then drawn
        instead of utterances, which are not independent within one.

    Returns
    -------
    tuple of float, or None
        Lower and upper end; None for fewer than two utterances or groups, or nothing to divide by.

    References
    ----------
    Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation"
    (ICASSP 2004).
    """
    errors_N, totals_N = np.asarray(errors, dtype=float), np.asarray(totals, dtype=float)
    if groups is not None:
        if len(groups) != len(errors_N):
            raise ValueError(f"{len(errors_N)} utterances need as many groups, not {len(groups)}")
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        of_N = np.array([numbers[group] for group in groups], dtype=np.int64)
        errors_N, totals_N = (
            np.bincount(of_N, values_N, minlength=len(numbers)) for values_N in (errors_N, totals_N)
        )
    if len(errors_N) < 2 or not totals_N.sum() > 0:
        return None

    def rates(index_BN: np.ndarray) -> np.ndarray:
        index_BN = index_BN.astype(np.int64)
        below_B = totals_N[index_BN].sum(-1)
        # A resample of empty references alone says nothing against any rate.
        found = np.full(len(below_B), np.inf)
        np.divide(errors_N[index_BN].sum(-1), below_B, out=found, where=below_B > 0)
        return found

    numbers_N = np.arange(len(errors_N), dtype=float)
    low, high = bootstrap_interval(numbers_N, rates, level, seed, resamples)
    return low, high


def ratio(above: float, below: float) -> float:
    """Divide, NaN by nothing."""
    return float(above) / float(below) if below else float("nan")


# Input --------------------------------------------------------------------------------------------


def paired(hyps: Sequences, refs: Sequences) -> tuple[list[list[str]], list[list[str]]]:
    """Check utterances and bring them into one order.

    Returns
    -------
    hyps, refs
        N lists of phones in Unicode's NFD.

    Raises
    ------
    TypeError, ValueError
        As `per`.
    """
    hyp_rows, ref_rows = rows_of(hyps, refs)
    found = []
    for what, rows in (("hypothesis", hyp_rows), ("reference", ref_rows)):
        found.append([_phones(row, what, number) for number, row in enumerate(rows)])
    check_conventions(*found)
    return found[0], found[1]


def rows_of(hyps: Sequences, refs: Sequences) -> tuple[list[Phones], list[Phones]]:
    """Give utterances in one order, ids or not."""
    if isinstance(hyps, Mapping) != isinstance(refs, Mapping):
        raise TypeError("give both hypotheses and references as mappings from ids, or neither")
    if isinstance(hyps, Mapping) and isinstance(refs, Mapping):
        for what, some, others in (("hypothesis", hyps, refs), ("reference", refs, hyps)):
            if missing := [name for name in others if name not in some]:
                raise ValueError(
                    f"{len(missing)} utterances have no {what}: {', '.join(map(repr, missing[:5]))}"
                    f"{', …' if len(missing) > 5 else ''}"
                )
        return [hyps[name] for name in refs], list(refs.values())
    for what, rows in (("hypotheses", hyps), ("references", refs)):
        if isinstance(rows, str):
            raise TypeError(f"{what} are a list of utterances, not one string: {rows!r}")
    hyp_rows, ref_rows = list(hyps), list(refs)
    if len(hyp_rows) != len(ref_rows):
        raise ValueError(f"{len(hyp_rows)} hypotheses do not fit {len(ref_rows)} references")
    return hyp_rows, ref_rows


def numbered(
    hyps: Sequence[Phones], refs: Sequence[Phones]
) -> tuple[tuple[str, ...], list[np.ndarray], list[np.ndarray]]:
    """Give the symbols of both sides, sorted, and utterances as their numbers."""
    symbols = tuple(sorted({phone for rows in (hyps, refs) for row in rows for phone in row}))
    number = {symbol: at for at, symbol in enumerate(symbols)}
    hyp_ids, ref_ids = (
        [np.array([number[phone] for phone in row], dtype=np.int64) for row in rows]
        for rows in (hyps, refs)
    )
    return symbols, hyp_ids, ref_ids


def is_arpabet(symbols: Iterable[str]) -> bool:
    """Say whether phones are spelled as ARPAbet: in capitals, with or without stress."""
    names = {symbol.rstrip("012") if len(symbol) > 1 else symbol for symbol in symbols}
    return bool(names) and all(
        name.isascii() and name == name.upper() and (name in ARPABET_TO_IPA or name in IGNORED)
        for name in names
    )


def check_conventions(hyps: Sequence[Phones], refs: Sequence[Phones]) -> None:
    """Refuse two sides of which one is ARPAbet and the other has no phone of it."""
    sides = [{phone for row in rows for phone in row} for rows in (hyps, refs)]
    for side, other in (sides, sides[::-1]):
        if is_arpabet(side) and other and not any(is_arpabet([symbol]) for symbol in other):
            one, two = (", ".join(sorted(names)[:5]) for names in sides)
            raise ValueError(
                f"hypotheses ({one}, …) and references ({two}, …) are spelled by different "
                "conventions: write both in IPA (`arpabet_to_ipa`) or both in ARPAbet"
            )


def _phones(row: Phones, what: str, number: int) -> list[str]:
    if isinstance(row, str):
        raise TypeError(
            f"{what} {number} is the string {row!r}, whose characters are no phones; give a list, "
            f"such as {row.split()!r}"
        )
    for phone in row:
        if not isinstance(phone, str) or not phone:
            raise TypeError(
                f"{what} {number}: phones are strings that are not empty, not {phone!r}"
            )
    return [_nfd(phone) for phone in row]


def _nfd(phone: str) -> str:
    return phone if phone.isascii() else unicodedata.normalize("NFD", phone)
