"""Edit channels: how likely each phone is to be said as another, dropped or added.

Counts edits in pairs of a canonical and a realized sequence (or expects them from audio) and turns
the counts into log-weights for one canonical sequence at a time. It knows nothing of frames; the
decoders of `modicum.huper.graph` combine its weights with emissions.

Shape suffixes: P phones of the phone set, C its ids, L canonical phones, X contexts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modicum.huper.edits import EditCost, editops

if TYPE_CHECKING:
    from modicum.core.experiment import ProgressTask
    from modicum.huper.emissions import Emissions
    from modicum.huper.phones import PhoneSet

__all__ = ["EditChannel", "Weights", "phone_bigram"]

_TENSORS = "channel.safetensors"
_SETTINGS = "channel.json"
_FORMAT = 1

_BATCH_BYTES = 2**28  # of sums over paths that are kept at once

# Classes of a neighbour, and the contexts (left, right) made of them.
_VOWEL, _CONSONANT, _EDGE = range(3)
_CLASSES = 3
_ARPABET_VOWELS = {"AA", "AE", "AH", "AO", "AW", "AX", "AXR", "AY", "EH", "ER", "EY"}
_ARPABET_VOWELS |= {"IH", "IX", "IY", "OW", "OY", "UH", "UW", "UX"}
_IPA_VOWELS = frozenset("iyɨʉɯuɪʏʊeøɘɵɤoəɛœɜɞʌɔæɐaɶɑɒɚɝᵻ")


@dataclass(frozen=True)
class Weights:
    """Log-weights of every edit of one canonical sequence.

    Shape suffixes: L canonical phones, C classes of the emissions.

    Parameters
    ----------
    canonical
        (L,) int64 ids of the canonical phones; saying phone i as ``canonical[i]`` is keeping it.
    sub
        (L, C) float64: phone i is said as q. −inf where that is impossible.
    dele
        (L,) float64: phone i is not said.
    ins
        (L + 1, C) float64: q is added in slot i, which stands before phone i; the last slot is the
        end.

    Raises
    ------
    ValueError
        If the shapes do not fit, an id is no column, or a weight is NaN or +inf.
    """

    canonical: np.ndarray
    sub: np.ndarray
    dele: np.ndarray
    ins: np.ndarray

    def __post_init__(self) -> None:
        canonical_L = np.asarray(self.canonical, np.int64).reshape(-1)
        length = len(canonical_L)
        sub_LC = np.asarray(self.sub, np.float64)
        dele_L = np.asarray(self.dele, np.float64)
        ins_SC = np.asarray(self.ins, np.float64)
        if ins_SC.ndim != 2 or len(ins_SC) != length + 1:
            raise ValueError(
                f"ins has the shape (L + 1, C) = ({length + 1}, C), got {ins_SC.shape}"
            )
        classes = ins_SC.shape[1]
        if sub_LC.shape != (length, classes):
            raise ValueError(
                f"sub has the shape (L, C) = ({length}, {classes}), got {sub_LC.shape}"
            )
        if dele_L.shape != (length,):
            raise ValueError(f"dele has the shape (L,) = ({length},), got {dele_L.shape}")
        if length and not (0 <= canonical_L.min() and canonical_L.max() < classes):
            raise ValueError(
                f"canonical ids must be columns in [0, {classes}), got {canonical_L.tolist()}"
            )
        for name, value in (("sub", sub_LC), ("dele", dele_L), ("ins", ins_SC)):
            if not (value < np.inf).all():
                raise ValueError(f"{name} holds NaN or +inf; log-weights are finite or −inf")
        object.__setattr__(self, "canonical", canonical_L)
        object.__setattr__(self, "sub", sub_LC)
        object.__setattr__(self, "dele", dele_L)
        object.__setattr__(self, "ins", ins_SC)

    def __len__(self) -> int:
        return len(self.canonical)

    @property
    def classes(self) -> int:
        """Number of columns C."""
        return self.ins.shape[1]


@dataclass(frozen=True)
class EditChannel:
    """A weighted edit transducer counted from a handful of aligned pairs.

    For canonical phone p the probabilities of q (q = p keeps it) and of dropping it sum to one::

        S[p, q] = alpha / P + keep_prior · [p = q] + #(p → q)
        D[p]    = alpha + #(p → nothing)
        I[q]    = alpha / P + #(nothing → q)
        log sub = log S / Z,  log del = log D / Z  with Z[p] = Σ_q S[p, q] + D[p]
        log ins = log I / (#canonical + 1)

    Parameters
    ----------
    phones
        Phone set; blank and specials are never said.
    sub_counts, del_counts, ins_counts
        (P, P), (P,) and (P,) float64 counts, which may be expected ones.
    canonical_count
        How many canonical phones were counted.
    alpha
        Mass of an edit that was never seen, > 0.
    keep_prior
        Mass in favour of keeping a phone, ≥ 0.
    context
        None, or ``"lr"``: the outcomes of a phone depend on whether its left and right neighbours
        are vowels, consonants or edges, as far as they were seen there (Witten–Bell back-off to
        the outcomes in all contexts). Captures flapping and final devoicing.
    context_counts
        (9, P, P + 1) counts by context, phone and outcome (the last one: dropped); None without
        contexts.
    history
        Log-likelihood before each iteration of `fit_em`.

    Notes
    -----
    A count-based stand-in for the Corrector of "HuPER: A Human-Inspired Framework for Phonetic
    Perception" (arXiv 2602.01634). Witten–Bell: "The zero-frequency problem" (1991).
    """

    phones: PhoneSet
    sub_counts: np.ndarray
    del_counts: np.ndarray
    ins_counts: np.ndarray
    canonical_count: float
    alpha: float = 0.05
    keep_prior: float = 1.0
    context: Literal["lr"] | None = None
    context_counts: np.ndarray | None = None
    history: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check_settings(self.alpha, self.keep_prior, self.context)
        size = len(self.phones.phones)
        shapes = {"sub_counts": (size, size), "del_counts": (size,), "ins_counts": (size,)}
        if self.context is not None:
            shapes["context_counts"] = (_CLASSES**2, size, size + 1)
        for name, shape in shapes.items():
            value = np.asarray(getattr(self, name), np.float64)
            if value.shape != shape:
                raise ValueError(f"{name} has the shape {shape}, got {value.shape}")
            if not (value >= 0).all():
                raise ValueError(f"{name} must be at least 0 everywhere")
            object.__setattr__(self, name, value)

    @classmethod
    def fit(
        cls,
        pairs: Iterable[tuple[Sequence[str], Sequence[str]]],
        alpha: float = 0.05,
        keep_prior: float = 1.0,
        context: Literal["lr"] | None = None,
        *,
        phones: PhoneSet | None = None,
        cost: Literal["unit", "feature"] | EditCost = "unit",
    ) -> EditChannel:
        """Count the edits of aligned pairs.

        Parameters
        ----------
        pairs
            Pairs of a canonical and a realized sequence of phones. May be empty: the priors remain.
        alpha, keep_prior, context
            As for the class.
        phones
            Phone set, by default the 39 ARPAbet phones of the public recogniser; give that of your
            emissions.
        cost
            How the two are aligned, as for `edits.encode`.

        Raises
        ------
        ValueError
            If a phone is not in the phone set or a setting is out of range.
        """
        if phones is None:
            from modicum.huper.phones import PhoneSet

            phones = PhoneSet.arpabet39()
        _check_settings(alpha, keep_prior, context)
        counts = _Counts(phones, context)
        for canonical, realized in pairs:
            counts.add_pair(phones.canonicalise(canonical), phones.canonicalise(realized), cost)
        return counts.channel(alpha, keep_prior)

    @classmethod
    def fit_em(
        cls,
        emissions: Emissions | Sequence[np.ndarray],
        canonicals: Sequence[Sequence[Any]],
        *,
        init: EditChannel | None = None,
        phones: PhoneSet | None = None,
        iterations: int = 5,
        lam: float = 1.0,
        alpha: float = 0.05,
        keep_prior: float = 1.0,
        context: Literal["lr"] | None = None,
        batch_size: int = 16,
        progress: ProgressTask | None = None,
    ) -> EditChannel:
        """Estimate a channel from audio and canonical phones, without realized ones.

        Every iteration replaces the counts by the expected ones, given the frames, over all CTC
        paths and all edit paths.

        Parameters
        ----------
        emissions
            An `Emissions`, or one (T, C) array of log-probabilities per utterance.
        canonicals
            The canonical phones of each utterance, as symbols or ids.
        init
            Where to start, and its settings; by default the priors alone.
        phones
            Phone set where neither the emissions nor `init` have one.
        iterations
            How often to re-estimate.
        lam
            λ of the edits.
        alpha, keep_prior, context
            As for the class; taken from `init` when that is given.
        batch_size
            Most utterances of similar length whose paths are summed at once, in float64 on the
            device of the emissions. Changes time and memory, and results by rounding only.
        progress
            Moves on by one for every utterance of every iteration.

        Returns
        -------
        EditChannel
            With the log-likelihood before each iteration in `history`.

        Raises
        ------
        ValueError
            If the numbers of utterances differ, or as `edit_posteriors`.
        """
        import torch

        from modicum.huper.emissions import Emissions
        from modicum.huper.graph import batched

        device = torch.device("cpu")
        if isinstance(emissions, Emissions):
            phones, device = emissions.phones, emissions.logprobs.device
            emissions = [emissions.utterance(b) for b in range(len(emissions))]
        if init is not None:
            alpha, keep_prior, context = init.alpha, init.keep_prior, init.context
            phones = init.phones if phones is None else phones
        if len(emissions) != len(canonicals):
            raise ValueError(
                f"{len(emissions)} utterances need as many canonical sequences, "
                f"got {len(canonicals)}"
            )
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        channel = init
        if channel is None:
            channel = cls.fit([], alpha, keep_prior, context, phones=phones)
        groups = _groups(emissions, canonicals, len(channel.phones), batch_size)
        history: list[float] = []
        for _ in range(iterations):
            counts = _Counts(channel.phones, context)
            total = 0.0
            for group in groups:
                weights = [channel.weights(canonicals[b]) for b in group]
                batch = batched.pad(
                    [emissions[b] for b in group],
                    weights,
                    lam,
                    channel.phones.blank,
                    device,
                    torch.float64,
                )
                found = batched.forward_backward(batch)
                likelihood_B = found.log_likelihood.cpu().numpy()
                missing = likelihood_B < batched.NO_PATH
                total += float(np.where(missing, -np.inf, likelihood_B).sum())
                sub_BLC, dele_BL, ins_BSC = (
                    value.cpu().numpy() for value in (found.sub, found.dele, found.ins)
                )
                for b, item in enumerate(weights):
                    length = len(item)
                    counts.add_expected(
                        item.canonical,
                        sub_BLC[b, :length],
                        dele_BL[b, :length],
                        ins_BSC[b, : length + 1],
                    )
                if progress is not None:
                    progress.advance(len(group))
            history.append(total)
            channel = counts.channel(alpha, keep_prior, tuple(history))
        return channel

    def outcomes(self) -> np.ndarray:
        """Return the (P, P + 1) probabilities of every outcome in any context; last: dropped."""
        size = len(self.phones.phones)
        mass = np.empty((size, size + 1))
        mass[:, :-1] = self.alpha / size + self.keep_prior * np.eye(size) + self.sub_counts
        mass[:, -1] = self.alpha + self.del_counts
        return mass / mass.sum(1, keepdims=True)

    def weights(self, canonical: Sequence[Any] | np.ndarray) -> Weights:
        """Return the log-weights of all edits of a canonical sequence.

        Parameters
        ----------
        canonical
            L phones as symbols, which are folded into the phone set, or as ids.

        Raises
        ------
        ValueError
            If a phone is not in the phone set, or an id is that of a blank or special.
        """
        index_L, ids_L = self._index(canonical)
        base = self.outcomes()
        outcome_LP = base[index_L]
        if self.context_counts is not None:
            classes = _neighbour_classes(self.phones)
            counts = self.context_counts[_contexts(index_L, classes), index_L]
            # Seen outcomes pay for unseen ones; expected counts below one are part of a type.
            types = np.minimum(counts, 1.0).sum(1, keepdims=True)
            total = counts.sum(1, keepdims=True) + types
            mixed = (counts + types * outcome_LP) / np.where(total > 0, total, 1.0)
            outcome_LP = np.where(total > 0, mixed, outcome_LP)
        ids = np.asarray(self.phones.ids)
        size = len(ids)
        sub_LC = np.full((len(ids_L), len(self.phones)), -np.inf)
        sub_LC[:, ids] = np.log(outcome_LP[:, :-1])
        ins_C = np.full(len(self.phones), -np.inf)
        ins_C[ids] = np.log((self.alpha / size + self.ins_counts) / (self.canonical_count + 1.0))
        ins = np.repeat(ins_C[None], len(ids_L) + 1, axis=0)
        return Weights(ids_L, sub_LC, np.log(outcome_LP[:, -1]), ins)

    def _index(self, canonical: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return positions among the phones, and ids."""
        items = list(canonical)
        if any(isinstance(item, str) for item in items):
            ids_L = np.asarray(self.phones.encode(self.phones.canonicalise(items)), np.int64)
        else:
            ids_L = np.asarray(items, np.int64).reshape(-1)
        ids = np.asarray(self.phones.ids)
        position = np.full(len(self.phones), -1)
        position[ids] = np.arange(len(ids))
        for i in ids_L:
            if not (0 <= i < len(position) and position[i] >= 0):
                raise ValueError(
                    f"canonical id {i} is no phone of the phone set, whose phones have the ids "
                    f"{ids.tolist()}"
                )
        return position[ids_L], ids_L

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``channel.safetensors`` and ``channel.json``, each atomically.

        The second names the checksum of the first, so that files of two channels cannot be mixed.
        """
        import safetensors.numpy

        from modicum.core.experiment import write_atomic

        tensors = {
            "sub_counts": self.sub_counts,
            "del_counts": self.del_counts,
            "ins_counts": self.ins_counts,
        }
        if self.context_counts is not None:
            tensors["context_counts"] = self.context_counts
        data = safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in tensors.items()})
        settings = {
            "format": _FORMAT,
            "sha256": hashlib.sha256(data).hexdigest(),
            "phones": self.phones.to_dict(),
            "canonical_count": self.canonical_count,
            "alpha": self.alpha,
            "keep_prior": self.keep_prior,
            "context": self.context,
            "history": list(self.history),
        }
        folder = Path(folder)
        write_atomic(folder / _TENSORS, data)
        write_atomic(folder / _SETTINGS, json.dumps(settings, ensure_ascii=False, indent=2) + "\n")
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> EditChannel:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError
            If one of the two files is missing.
        ValueError
            If the files do not belong together or are of a newer format.
        """
        import safetensors.numpy

        from modicum.huper.phones import PhoneSet

        folder = Path(folder)
        settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        if settings.get("format") != _FORMAT:
            raise ValueError(
                f"{folder / _SETTINGS} has format {settings.get('format')!r}; "
                f"this version reads {_FORMAT}"
            )
        data = (folder / _TENSORS).read_bytes()
        if hashlib.sha256(data).hexdigest() != settings["sha256"]:
            raise ValueError(
                f"{folder / _TENSORS} is not the file that {_SETTINGS} describes: "
                "take both from one channel"
            )
        return cls(
            PhoneSet.from_dict(settings["phones"]),
            canonical_count=settings["canonical_count"],
            alpha=settings["alpha"],
            keep_prior=settings["keep_prior"],
            context=settings["context"],
            history=tuple(settings["history"]),
            **safetensors.numpy.load(data),
        )


class _Counts:
    """Counts of edits while they are collected."""

    def __init__(self, phones: PhoneSet, context: Literal["lr"] | None) -> None:
        size = len(phones.phones)
        self.phones, self.context = phones, context
        self.position = {phone: i for i, phone in enumerate(phones.phones)}
        self.classes = _neighbour_classes(phones)
        self.sub, self.dele, self.ins = np.zeros((size, size)), np.zeros(size), np.zeros(size)
        self.by_context = np.zeros((_CLASSES**2, size, size + 1))
        self.total = 0.0

    def add_pair(
        self,
        canonical: Sequence[str],
        realized: Sequence[str],
        cost: Literal["unit", "feature"] | EditCost,
    ) -> None:
        index = np.array([self.position[phone] for phone in canonical], np.int64)
        outcome = index.copy()
        for kind, i, j in editops(canonical, realized, cost):
            if kind == "insert":
                self.ins[self.position[realized[j]]] += 1
            else:
                outcome[i] = len(self.ins) if kind == "delete" else self.position[realized[j]]
        table = np.zeros((len(index), len(self.ins) + 1))
        table[np.arange(len(index)), outcome] = 1.0
        self._add(index, table)

    def add_expected(
        self, ids_L: np.ndarray, sub_LC: np.ndarray, dele_L: np.ndarray, ins_SC: np.ndarray
    ) -> None:
        ids = np.asarray(self.phones.ids)
        position = np.full(len(self.phones), -1)
        position[ids] = np.arange(len(ids))
        self.ins += ins_SC[:, ids].sum(0)
        self._add(position[ids_L], np.concatenate([sub_LC[:, ids], dele_L[:, None]], axis=1))

    def _add(self, index_L: np.ndarray, outcome_LP: np.ndarray) -> None:
        np.add.at(self.sub, index_L, outcome_LP[:, :-1])
        np.add.at(self.dele, index_L, outcome_LP[:, -1])
        np.add.at(self.by_context, (_contexts(index_L, self.classes), index_L), outcome_LP)
        self.total += len(index_L)

    def channel(
        self, alpha: float, keep_prior: float, history: tuple[float, ...] = ()
    ) -> EditChannel:
        return EditChannel(
            self.phones,
            self.sub,
            self.dele,
            self.ins,
            self.total,
            alpha,
            keep_prior,
            self.context,
            None if self.context is None else self.by_context,
            history,
        )


def _groups(
    emissions: Sequence[np.ndarray],
    canonicals: Sequence[Sequence[Any]],
    classes: int,
    batch_size: int,
) -> list[list[int]]:
    """Put utterances of similar length together, few enough that their sums fit into memory."""
    order = sorted(range(len(emissions)), key=lambda b: (len(emissions[b]), len(canonicals[b])))
    groups: list[list[int]] = []
    length = 0
    for b in order:
        length = max(length, len(canonicals[b]) + 1)
        # Two float64 tables over frames, positions and classes; utterances come shortest first.
        needed = 16 * len(emissions[b]) * length * classes
        full = groups and (len(groups[-1]) + 1) * needed > _BATCH_BYTES
        if not groups or full or len(groups[-1]) >= batch_size:
            groups.append([])
            length = len(canonicals[b]) + 1
        groups[-1].append(b)
    return groups


def phone_bigram(
    sequences: Iterable[Sequence[str]], phones: PhoneSet, alpha: float = 0.5
) -> np.ndarray:
    """Count a phone bigram for the `lm` option of `fused_decode`.

    Parameters
    ----------
    sequences
        Phones of each utterance.
    phones
        Phone set.
    alpha
        Added to every count, > 0.

    Returns
    -------
    np.ndarray
        (C + 1, C + 1) float64 log-probabilities: row p the phone before (row C the start), column q
        the phone (column C the end). Blank and specials have −inf; other rows sum to one.

    Raises
    ------
    ValueError
        If alpha is not positive or a phone is not in the phone set.
    """
    if not 0 < alpha < np.inf:
        raise ValueError(f"alpha must be positive, got {alpha}")
    size = len(phones)
    ids = np.append(np.asarray(phones.ids), size)
    counts = np.zeros((size + 1, size + 1))
    counts[np.ix_(ids, ids)] = alpha
    for sequence in sequences:
        path = [size, *phones.encode(phones.canonicalise(sequence)), size]
        np.add.at(counts, (path[:-1], path[1:]), 1.0)
    totals = counts.sum(1, keepdims=True)
    with np.errstate(divide="ignore"):
        return np.log(counts / np.where(totals > 0, totals, 1.0))


def _check_settings(alpha: float, keep_prior: float, context: str | None) -> None:
    if not 0 < alpha < np.inf:
        raise ValueError(f"alpha must be positive, got {alpha}")
    if not 0 <= keep_prior < np.inf:
        raise ValueError(f"keep_prior must be at least 0, got {keep_prior}")
    if context not in (None, "lr"):
        raise ValueError(f'context must be None or "lr", got {context!r}')


def _neighbour_classes(phones: PhoneSet) -> np.ndarray:
    """Class of each phone as a neighbour, and of an edge at the end."""
    vowels = [
        phone in _ARPABET_VOWELS or any(sign in _IPA_VOWELS for sign in phone)
        for phone in phones.phones
    ]
    return np.array([_VOWEL if vowel else _CONSONANT for vowel in vowels] + [_EDGE])


def _contexts(index_L: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Give each phone the number of its context: left class times three plus right class."""
    padded = np.concatenate([[len(classes) - 1], index_L, [len(classes) - 1]]).astype(np.int64)
    return classes[padded[:-2]] * _CLASSES + classes[padded[2:]]
