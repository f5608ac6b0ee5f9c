"""Phone sequences, best first, without any reference: prefix beam search, phone n-grams, lattices.

`prefix_beam_search` sums over the CTC paths of each phone sequence and adds a phone language model;
with a beam that holds every prefix its scores are exact. `ConfusionNetwork` is the lattice: a row
of slots, each with the probabilities of the phones that may stand there and of none. Neither knows
words.

Sources: Graves and Jaitly, "Towards end-to-end speech recognition with recurrent neural networks"
(ICML 2014) and Hannun et al., "First-pass large vocabulary continuous speech recognition using
bi-directional recurrent DNNs" (arXiv 1408.2873) for the search; Witten and Bell, "The zero-
frequency problem" (IEEE Transactions on Information Theory 37, 1991) for the n-grams; Mangu, Brill
and Stolcke, "Finding consensus in speech recognition" (Computer Speech and Language 14, 2000) for
the network, of which this is the form that starts from n-best lists.

Shape suffixes: T frames, C classes, P phones, K prefixes of the beam, L phones of a sequence, S
slots.
"""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from modicum.core.experiment import write_atomic
from modicum.huper.phones import PhoneSet

__all__ = [
    "Candidate",
    "ConfusionNetwork",
    "LanguageModel",
    "PhoneNgram",
    "Slot",
    "align",
    "as_language_model",
    "prefix_beam_search",
]

_START, _END, _UNKNOWN = "<s>", "</s>", "<unk>"
_LN10 = math.log(10)
_NEVER = -99.0
"""What the format of ARPA writes for the logarithm of 0."""


class LanguageModel(Protocol):
    """What the search asks of a language model; states are hashable."""

    @property
    def start(self) -> Any:
        """The state before the first phone."""

    def scores(self, state: Any) -> np.ndarray:
        """Log-probabilities of what comes next: float64 (C + 1,), by id, the last is the end."""

    def advance(self, state: Any, phone: int) -> Any:
        """Return the state after a phone."""


class PhoneNgram:
    """A back-off n-gram over phones.

    Interpolated after Witten and Bell: a history h that was seen c times, before t different
    phones, has ``P(q | h) = (c(h, q) + t · P(q | h′)) / (c + t)``, where h′ is h without its oldest
    phone; below single phones all are alike. Every sequence has a probability.

    Parameters
    ----------
    phones
        Whose ids are scored.
    order
        n: 3 looks at two phones before.
    logprobs, backoffs
        By n-gram and by history, tuples of symbols as in a file of ARPA's format, natural
        logarithms.

    Raises
    ------
    ValueError
        If the order is not positive or a symbol is no phone.
    """

    def __init__(
        self,
        phones: PhoneSet,
        order: int,
        logprobs: Mapping[tuple[str, ...], float],
        backoffs: Mapping[tuple[str, ...], float],
    ) -> None:
        if order < 1:
            raise ValueError(f"order must be at least 1, not {order}")
        self.phones, self.order = phones, int(order)
        self.logprobs, self.backoffs = dict(logprobs), dict(backoffs)
        self._next: dict[tuple[str, ...], list[tuple[int, float]]] = defaultdict(list)
        for (*history, symbol), logprob in self.logprobs.items():
            if symbol not in (_START, _UNKNOWN):
                at = len(phones) if symbol == _END else phones.id(symbol)
                self._next[tuple(history)].append((at, logprob))
        self._rows: dict[tuple[str, ...], np.ndarray] = {}

    @classmethod
    def fit(
        cls, sequences: Iterable[Sequence[str]], phones: PhoneSet, order: int = 3
    ) -> PhoneNgram:
        """Estimate one from phone sequences.

        Parameters
        ----------
        sequences
            Phones of each utterance; their beginnings and ends are learnt, too.
        phones
            The inventory; phones are written in it first.
        order
            n.

        Raises
        ------
        ValueError
            If there is no sequence, a phone is not in the inventory, or the order is not positive.
        """
        if order < 1:
            raise ValueError(f"order must be at least 1, not {order}")
        counts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for sequence in sequences:
            padded = [_START, *phones.canonicalise(sequence), _END]
            for at in range(1, len(padded)):
                for length in range(min(order - 1, at) + 1):
                    counts[tuple(padded[at - length : at])][padded[at]] += 1
        if not counts:
            raise ValueError("there is no sequence to count")
        symbols = (*phones.phones, _END)
        logprobs: dict[tuple[str, ...], float] = {}
        backoffs: dict[tuple[str, ...], float] = {}
        # Shorter histories first: longer ones lean on them.
        for history in sorted(counts, key=len):
            seen = counts[history]
            total, kinds = sum(seen.values()), len(seen)
            for symbol in symbols if not history else seen:
                lower = (
                    _value(logprobs, backoffs, (*history[1:], symbol))
                    if history
                    else -math.log(len(symbols))
                )
                logprobs[(*history, symbol)] = math.log(
                    (seen[symbol] + kinds * math.exp(lower)) / (total + kinds)
                )
            if history:
                backoffs[history] = math.log(kinds / (total + kinds))
        logprobs[(_START,)] = -math.inf
        return cls(phones, order, logprobs, backoffs)

    # What the search asks -----------------------------------------------------------------------

    @property
    def start(self) -> tuple[str, ...]:
        """The state before the first phone."""
        return (_START,) if self.order > 1 else ()

    def scores(self, state: tuple[str, ...]) -> np.ndarray:
        """Log-probabilities of what comes next: float64 (C + 1,), by id, the last is the end."""
        found = self._rows.get(state)
        if found is None:
            if state:
                found = self.scores(state[1:]) + self.backoffs.get(state, 0.0)
            else:
                found = np.full(len(self.phones) + 1, -np.inf)
                found[self.phones.ids] = self.logprobs.get((_UNKNOWN,), -math.inf)
            for at, logprob in self._next.get(state, ()):
                found[at] = logprob
            found.setflags(write=False)
            self._rows[state] = found
        return found

    def advance(self, state: tuple[str, ...], phone: int) -> tuple[str, ...]:
        """Return the state after a phone."""
        if self.order == 1:
            return ()
        return (*state, self.phones.symbols[phone])[1 - self.order :]

    def logprob(self, phones: Sequence[str]) -> float:
        """Return the log-probability of a sequence, its end included.

        Raises
        ------
        ValueError
            If a phone is not in the inventory.
        """
        state, total = self.start, 0.0
        for phone in self.phones.encode(self.phones.canonicalise(phones)).tolist():
            total += float(self.scores(state)[phone])
            state = self.advance(state, phone)
        return total + float(self.scores(state)[-1])

    def perplexity(self, sequences: Iterable[Sequence[str]]) -> float:
        """Return exp of minus the mean log-probability of a phone, ends counted as phones.

        Raises
        ------
        ValueError
            If there is no sequence, or a phone is not in the inventory.
        """
        total, count = 0.0, 0
        for sequence in sequences:
            total += self.logprob(sequence)
            count += len(self.phones.canonicalise(sequence)) + 1
        if not count:
            raise ValueError("there is no sequence")
        return math.exp(-total / count)

    # Files --------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the format of ARPA, which other programs read, too."""
        grams: list[list[tuple[str, ...]]] = [[] for _ in range(self.order)]
        for gram in sorted(self.logprobs):
            grams[len(gram) - 1].append(gram)
        lines = ["\\data\\", *(f"ngram {n + 1}={len(one)}" for n, one in enumerate(grams)), ""]
        for number, one in enumerate(grams):
            lines.append(f"\\{number + 1}-grams:")
            for gram in one:
                value = self.logprobs[gram] / _LN10
                backoff = self.backoffs.get(gram)
                lines.append(
                    f"{max(value, _NEVER):.9g}\t{' '.join(gram)}"
                    + (f"\t{backoff / _LN10:.9g}" if backoff is not None else "")
                )
            lines.append("")
        return write_atomic(Path(path), "\n".join([*lines, "\\end\\", ""]))

    @classmethod
    def load(cls, path: str | os.PathLike[str], phones: PhoneSet) -> PhoneNgram:
        """Read a file of ARPA's format, of this class or another program.

        Parameters
        ----------
        path
            The file; its symbols are phones, ``<s>``, ``</s>`` and perhaps ``<unk>``.
        phones
            The inventory.

        Raises
        ------
        ValueError
            If it is no such file, or has a symbol that is no phone.
        FileNotFoundError
            If there is no file.
        """
        logprobs: dict[tuple[str, ...], float] = {}
        backoffs: dict[tuple[str, ...], float] = {}
        order = 0
        for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
            if line.endswith("-grams:") and line.startswith("\\"):
                order = int(line[1 : -len("-grams:")])
            elif order and line.strip() and not line.startswith("\\"):
                value, *rest = line.split()
                if not order <= len(rest) <= order + 1:
                    raise ValueError(f"{path}, line {number}: {order} symbols expected in {line!r}")
                gram = tuple(rest[:order])
                logprob = float(value)
                logprobs[gram] = -math.inf if logprob <= _NEVER else logprob * _LN10
                if len(rest) > order:
                    backoffs[gram] = float(rest[order]) * _LN10
        if not order:
            raise ValueError(f"{path} has no n-grams: it is no file of ARPA's format")
        return cls(phones, order, logprobs, backoffs)


def _value(
    logprobs: Mapping[tuple[str, ...], float],
    backoffs: Mapping[tuple[str, ...], float],
    gram: tuple[str, ...],
) -> float:
    """Give the log-probability of an n-gram, backing off."""
    if gram in logprobs:
        return logprobs[gram]
    return backoffs.get(gram[:-1], 0.0) + _value(logprobs, backoffs, gram[1:])


class _Bigram:
    """A matrix as a language model."""

    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix = matrix
        self.start = len(matrix) - 1

    def scores(self, state: int) -> np.ndarray:
        row: np.ndarray = self.matrix[state]
        return row

    def advance(self, state: int, phone: int) -> int:
        del state
        return phone


def as_language_model(lm: LanguageModel | np.ndarray, phones: PhoneSet) -> LanguageModel:
    """Check a language model, or make one of a bigram.

    Parameters
    ----------
    lm
        A `PhoneNgram` or another `LanguageModel`; or (C + 1, C + 1) log-probabilities as
        `modicum.huper.channel.phone_bigram` gives them.
    phones
        That it must be of.

    Raises
    ------
    ValueError
        If it is of another inventory, or a matrix of another shape.
    TypeError
        If it is neither.
    """
    if isinstance(lm, PhoneNgram) and lm.phones.symbols != phones.symbols:
        raise ValueError("the language model has other phones than the emissions")
    if isinstance(lm, np.ndarray):
        if lm.shape != (len(phones) + 1,) * 2:
            raise ValueError(
                f"a bigram has the shape (C + 1, C + 1) = {(len(phones) + 1,) * 2}, not {lm.shape}"
            )
        return _Bigram(np.asarray(lm, np.float64))
    if not all(hasattr(lm, name) for name in ("start", "scores", "advance")):
        raise TypeError(f"{type(lm).__name__} is no language model: it lacks start or scores")
    return lm


# The search -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A phone sequence of an n-best list.

    Attributes
    ----------
    ids
        Its phones.
    score
        ``acoustic + lm_weight · lm + bonus · L``, by which lists are sorted.
    acoustic
        Log-probability of the sequence, summed over its CTC paths (those that the beam kept).
    lm
        Log-probability by the language model, its end included; 0 without one.
    posterior
        Share of the probability of the list, ``exp(score)`` over its sum.
    """

    ids: tuple[int, ...]
    score: float
    acoustic: float
    lm: float
    posterior: float


def prefix_beam_search(
    logprobs_TC: np.ndarray,
    phones: PhoneSet,
    *,
    beam: int = 16,
    nbest: int = 5,
    lm: LanguageModel | np.ndarray | None = None,
    lm_weight: float = 0.5,
    bonus: float = 0.0,
) -> list[Candidate]:
    """Find the most probable phone sequences of one utterance.

    Parameters
    ----------
    logprobs_TC
        (T, C) log-probabilities.
    phones
        The phone set; specials separate phones and are dropped, as the blank.
    beam
        Prefixes that are kept after each frame.
    nbest
        Most sequences to return.
    lm
        As for `as_language_model`.
    lm_weight
        Factor of its log-probabilities. The acoustic model has learnt a language, too: 1 counts it
        twice.
    bonus
        Added for each phone.

    Returns
    -------
    list of Candidate
        Best first, all different, at least one.

    Raises
    ------
    ValueError
        If a setting is out of range, the columns are not the phone set's, or no sequence has a
        probability.
    TypeError
        If `lm` is no language model.
    """
    if beam < 1 or nbest < 1:
        raise ValueError(f"beam and nbest must be positive, not {beam} and {nbest}")
    if not (math.isfinite(lm_weight) and math.isfinite(bonus)):
        raise ValueError(f"lm_weight and bonus must be finite, not {lm_weight} and {bonus}")
    logprobs_TC = np.asarray(logprobs_TC, np.float64)
    if logprobs_TC.ndim != 2 or logprobs_TC.shape[1] != len(phones):
        raise ValueError(
            f"(T, {len(phones)}) log-probabilities are needed, not {logprobs_TC.shape}"
        )
    # Without a weight there is no model: its logarithms of 0 would not be numbers.
    model = None if lm is None or lm_weight == 0 else as_language_model(lm, phones)
    search = _Search(phones, model, lm_weight, bonus, beam)
    blank_T = _blank(logprobs_TC, phones)
    for row_P, blank in zip(logprobs_TC[:, phones.ids], blank_T, strict=True):
        search.step(row_P, float(blank))
    return search.finish(nbest)


def _blank(logprobs_TC: np.ndarray, phones: PhoneSet) -> np.ndarray:
    """Give the log-probability that a frame has no phone."""
    columns = [phones.id(symbol) for symbol in sorted(phones.specials)]
    found: np.ndarray = np.logaddexp.reduce(logprobs_TC[:, columns], axis=1)
    return found


class _Search:
    """Prefixes as nodes of a tree, and those that are alive with their scores.

    The score of a prefix has two parts, that of paths that end in the blank and of those that do
    not: only after the blank may its last phone come again.
    """

    def __init__(
        self, phones: PhoneSet, lm: LanguageModel | None, lm_weight: float, bonus: float, beam: int
    ) -> None:
        self.ids_P, self.lm, self.beam = phones.ids, lm, beam
        self.lm_weight, self.bonus = lm_weight, bonus
        self.parent, self.symbol = [-1], [-1]
        self.child: dict[tuple[int, int], int] = {}
        self.alive = [0]
        self.states: list[Any] = [None if lm is None else lm.start]
        self.blank_K, self.other_K = np.zeros(1), np.full(1, -np.inf)
        self.lm_K = np.zeros(1)  # Of the language model, without its weight.
        self.length_K = np.zeros(1)

    def step(self, row_P: np.ndarray, blank: float) -> None:
        """Take a frame."""
        last_K = np.array([self.symbol[node] for node in self.alive])
        total_K = np.logaddexp(self.blank_K, self.other_K)
        stay_blank_K = total_K + blank
        stay_other_K = np.where(last_K >= 0, self.other_K + row_P[last_K], -np.inf)
        longer_KP = total_K[:, None] + row_P
        again = np.flatnonzero(last_K >= 0)
        longer_KP[again, last_K[again]] = self.blank_K[again] + row_P[last_K[again]]
        # A prefix that is alive is also reached from its parent.
        place = {node: k for k, node in enumerate(self.alive)}
        for k, node in enumerate(self.alive):
            from_ = place.get(self.parent[node])
            if from_ is not None:
                step = longer_KP[from_, last_K[k]]
                stay_other_K[k] = np.logaddexp(stay_other_K[k], step)
                longer_KP[from_, last_K[k]] = -np.inf
        lm_KP = self._lm_rows()
        outer_K = self.lm_weight * self.lm_K + self.bonus * self.length_K
        ranks = np.concatenate(
            [
                np.logaddexp(stay_blank_K, stay_other_K) + outer_K,
                (longer_KP + outer_K[:, None] + self.lm_weight * lm_KP + self.bonus).ravel(),
            ]
        )
        kept = np.argsort(-ranks, kind="stable")[: self.beam]
        kept = kept[ranks[kept] > -np.inf]
        if not len(kept):
            raise ValueError("no phone sequence has a probability above 0")
        self._keep(kept, stay_blank_K, stay_other_K, longer_KP, lm_KP)

    def _lm_rows(self) -> np.ndarray:
        if self.lm is None:
            return np.zeros((len(self.alive), len(self.ids_P)))
        return np.stack([self.lm.scores(state)[self.ids_P] for state in self.states])

    def _keep(
        self,
        kept: np.ndarray,
        stay_blank_K: np.ndarray,
        stay_other_K: np.ndarray,
        longer_KP: np.ndarray,
        lm_KP: np.ndarray,
    ) -> None:
        count, phones = longer_KP.shape
        stays = kept < count
        from_K, symbol_K = np.where(
            stays, (kept, np.full(len(kept), -1)), np.divmod(kept - count, phones)
        )
        safe_K = np.maximum(symbol_K, 0)
        self.blank_K = np.where(stays, stay_blank_K[from_K], -np.inf)
        self.other_K = np.where(stays, stay_other_K[from_K], longer_KP[from_K, safe_K])
        self.lm_K = self.lm_K[from_K] + np.where(stays, 0.0, lm_KP[from_K, safe_K])
        self.length_K = self.length_K[from_K] + ~stays
        alive, states = [], []
        for k, symbol in zip(from_K.tolist(), symbol_K.tolist(), strict=True):
            node, state = self.alive[k], self.states[k]
            if symbol >= 0:
                node = self._child(node, symbol)
                if self.lm is not None:
                    state = self.lm.advance(state, int(self.ids_P[symbol]))
            alive.append(node)
            states.append(state)
        self.alive, self.states = alive, states

    def _child(self, node: int, symbol: int) -> int:
        # A prefix that was dropped may have descendants that are alive: its node must stay one.
        found = self.child.get((node, symbol))
        if found is None:
            found = self.child[node, symbol] = len(self.parent)
            self.parent.append(node)
            self.symbol.append(symbol)
        return found

    def finish(self, nbest: int) -> list[Candidate]:
        """Give what is alive, best first."""
        acoustic_K = np.logaddexp(self.blank_K, self.other_K)
        lm_K = self.lm_K
        if self.lm is not None:
            lm_K = lm_K + np.array([self.lm.scores(state)[-1] for state in self.states])
        score_K = acoustic_K + self.lm_weight * lm_K + self.bonus * self.length_K
        order = np.argsort(-score_K, kind="stable")[:nbest]
        order = order[score_K[order] > -np.inf]
        if not len(order):
            raise ValueError("no phone sequence has a probability above 0")
        share_K = np.exp(score_K[order] - score_K[order[0]])
        share_K /= share_K.sum()
        return [
            Candidate(
                self._ids(self.alive[k]),
                float(score_K[k]),
                float(acoustic_K[k]),
                float(lm_K[k]),
                float(share),
            )
            for k, share in zip(order.tolist(), share_K, strict=True)
        ]

    def _ids(self, node: int) -> tuple[int, ...]:
        found = []
        while node:
            found.append(int(self.ids_P[self.symbol[node]]))
            node = self.parent[node]
        return tuple(reversed(found))


def align(logprobs_TC: np.ndarray, ids: Sequence[int], phones: PhoneSet) -> list[tuple[int, int]]:
    """Place known phones on the frames: the best CTC path of the sequence.

    Parameters
    ----------
    logprobs_TC
        (T, C) log-probabilities.
    ids
        The L phones.
    phones
        The phone set; its specials count as the blank.

    Returns
    -------
    list of (int, int)
        First frame of each phone and the one after its last.

    Raises
    ------
    ValueError
        If there are too few frames: T must be at least L and the number of equal neighbours.
    """
    rows_TC = np.asarray(logprobs_TC, np.float64)
    ids_L = np.asarray(ids, np.int64)
    needed = len(ids_L) + int((ids_L[1:] == ids_L[:-1]).sum())
    if len(rows_TC) < needed:
        raise ValueError(f"{len(ids_L)} phones need {needed} frames, there are {len(rows_TC)}")
    if not len(ids_L):
        return []
    # States: blank, phone 0, blank, phone 1, …, blank.
    state_TS = np.empty((len(rows_TC), 2 * len(ids_L) + 1))
    state_TS[:, 0::2] = _blank(rows_TC, phones)[:, None]
    state_TS[:, 1::2] = rows_TC[:, ids_L]
    may_skip_S = np.zeros(state_TS.shape[1], bool)
    may_skip_S[3::2] = ids_L[1:] != ids_L[:-1]
    best_S = np.full(state_TS.shape[1], -np.inf)
    best_S[:2] = state_TS[0, :2]
    back_TS = np.zeros(state_TS.shape, np.int8)
    for t in range(1, len(rows_TC)):
        one_S = np.concatenate([[-np.inf], best_S[:-1]])
        two_S = np.where(may_skip_S, np.concatenate([[-np.inf] * 2, best_S[:-2]]), -np.inf)
        options_3S = np.stack([best_S, one_S, two_S])
        back_TS[t] = options_3S.argmax(0)
        best_S = options_3S.max(0) + state_TS[t]
    state = int(np.argmax(best_S[-2:])) + len(best_S) - 2
    path = [state]
    for t in range(len(rows_TC) - 1, 0, -1):
        state -= int(back_TS[t, state])
        path.append(state)
    path_T = np.array(path[::-1])
    spans = []
    for number in range(len(ids_L)):
        frames = np.flatnonzero(path_T == 2 * number + 1)
        spans.append((int(frames[0]), int(frames[-1]) + 1))
    return spans


# Lattices ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slot:
    """A place where one phone stands, or none.

    Attributes
    ----------
    posteriors
        Probability of each phone's id there, most probable first; they and `none` sum to 1.
    none
        Probability that nothing stands there.
    first, last
        Frames of its most probable phone: first … last − 1.
    """

    posteriors: Mapping[int, float]
    none: float
    first: int
    last: int

    @property
    def best(self) -> tuple[int | None, float]:
        """The most probable phone, or None for nothing, and its probability."""
        if not self.posteriors:
            return None, self.none
        phone = max(self.posteriors, key=lambda one: self.posteriors[one])
        value = self.posteriors[phone]
        return (phone, value) if value >= self.none else (None, self.none)


@dataclass(frozen=True)
class ConfusionNetwork:
    """A row of slots: the lattice of an n-best list, without the constraints between slots.

    Attributes
    ----------
    slots
        From left to right.
    """

    slots: tuple[Slot, ...]

    @classmethod
    def of(
        cls, candidates: Sequence[Candidate], logprobs_TC: np.ndarray, phones: PhoneSet
    ) -> ConfusionNetwork:
        """Align the candidates, best first, and add up their posteriors.

        Each is laid over the slots so far along a path of least cost, where a phone costs what its
        slot gives to others, and a new slot costs 1.

        Parameters
        ----------
        candidates
            Of `prefix_beam_search`.
        logprobs_TC
            (T, C), for the times.
        phones
            The phone set.

        Raises
        ------
        ValueError
            If there is no candidate.
        """
        if not candidates:
            raise ValueError("a network needs at least one candidate")
        columns: list[_Column] = []
        mass = 0.0
        for one in candidates:
            spans = align(logprobs_TC, one.ids, phones)
            columns = _laid_over(columns, one.ids, spans, one.posterior, mass)
            mass += one.posterior
        return cls(tuple(_slot(column, mass) for column in columns))

    @property
    def ids(self) -> tuple[int, ...]:
        """The consensus: the most probable phone of each slot, where that is not none."""
        return tuple(phone for phone, _ in (slot.best for slot in self.slots) if phone is not None)

    def rows(self, phones: PhoneSet) -> np.ndarray:
        """Return it as log-probabilities, one frame for each slot and blanks between them.

        What decodes emissions decodes the lattice by it: nothing is the blank.

        Parameters
        ----------
        phones
            The phone set.

        Returns
        -------
        np.ndarray
            float32 (2 S + 1, C), −inf where a phone is impossible.
        """
        rows_TC = np.zeros((2 * len(self.slots) + 1, len(phones)))
        rows_TC[0::2, phones.blank] = 1.0
        for number, slot in enumerate(self.slots):
            rows_TC[2 * number + 1, phones.blank] = slot.none
            for phone, value in slot.posteriors.items():
                rows_TC[2 * number + 1, phone] = value
        with np.errstate(divide="ignore"):
            return np.log(rows_TC).astype(np.float32)


class _Column:
    """A slot under construction."""

    def __init__(self) -> None:
        self.mass: dict[int, float] = {}
        self.spans: dict[int, tuple[int, int]] = {}

    def add(self, phone: int, span: tuple[int, int], mass: float) -> None:
        self.mass[phone] = self.mass.get(phone, 0.0) + mass
        self.spans.setdefault(phone, span)


def _slot(column: _Column, total: float) -> Slot:
    order = sorted(column.mass, key=lambda phone: -column.mass[phone])
    first, last = column.spans[order[0]]
    posteriors = {phone: column.mass[phone] / total for phone in order}
    return Slot(posteriors, max(0.0, 1 - sum(posteriors.values())), first, last)


def _laid_over(
    columns: list[_Column],
    ids: Sequence[int],
    spans: Sequence[tuple[int, int]],
    posterior: float,
    mass: float,
) -> list[_Column]:
    """Add one candidate to slots that hold `mass` so far."""
    rows, width = len(columns), len(ids)
    none = [1 - sum(column.mass.values()) / mass for column in columns]
    cost = np.zeros((rows + 1, width + 1))
    cost[:, 0] = np.cumsum([0.0, *(1 - one for one in none)])
    cost[0, :] = np.arange(width + 1)
    move = np.zeros(cost.shape, np.int8)  # 0 phone in slot, 1 slot stays empty, 2 new slot.
    move[1:, 0], move[0, 1:] = 1, 2
    for i, column in enumerate(columns, 1):
        for j, phone in enumerate(ids, 1):
            options = (
                cost[i - 1, j - 1] + 1 - column.mass.get(phone, 0.0) / mass,
                cost[i - 1, j] + 1 - none[i - 1],
                cost[i, j - 1] + 1,
            )
            move[i, j] = int(np.argmin(options))
            cost[i, j] = options[move[i, j]]
    found = []
    i, j = rows, width
    while i or j:
        step = move[i, j]
        column = columns[i - 1] if step < 2 else _Column()
        if step != 1:
            column.add(int(ids[j - 1]), spans[j - 1], posterior)
        found.append(column)
        i, j = i - (step < 2), j - (step != 1)
    return found[::-1]
