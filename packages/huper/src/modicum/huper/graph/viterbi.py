"""Exact best path through CTC emissions composed with the edits of a canonical sequence.

`fused_decode` finds the phones y that maximise the log-probability of their best CTC path plus λ
times the log-weight of the best way to edit the canonical phones into y, over every y, every path
and every edit at once. It takes log-probabilities and log-weights; where they come from is not its
concern. This file is the NumPy implementation, one utterance at a time; `graph.batched` holds the
same recursion for a batch on any device.

Shape suffixes: T frames, C classes, L canonical phones, S = L + 1 positions (how many canonical
phones are behind), K what a rest remembers (the last phone with a language model, else nothing),
N frames of a pause.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modicum.huper.channel import Weights
from modicum.huper.edits import DEL, KEEP, EditProgram
from modicum.huper.emissions import Emissions, check_rows, collapse

if TYPE_CHECKING:
    import torch

    from modicum.huper.channel import EditChannel
    from modicum.huper.phones import PhoneSet

__all__ = [
    "Alignment",
    "Edit",
    "Path",
    "Pause",
    "Problem",
    "SpokenWord",
    "align",
    "best_path",
    "encode",
    "fused_decode",
    "pose",
    "scaled",
]

MEMORY_WARNING = 2**31  # bytes of back-pointers
_STAY, _SUB, _INS = range(3)


@dataclass(frozen=True)
class Edit:
    """One step from the canonical phones to the said ones.

    Parameters
    ----------
    op
        ``"keep"``, ``"sub"``, ``"del"``, ``"ins"`` or ``"rep"`` (a canonical phone said again).
    index
        Which canonical phone; for an insertion the slot, which stands before that phone.
    canonical
        The canonical phone, None for an insertion.
    phone
        The phone that was said, None for a deletion.
    span
        First frame and the one after the last; None for a deletion.
    """

    op: Literal["keep", "sub", "del", "ins", "rep"]
    index: int
    canonical: str | None
    phone: str | None
    span: tuple[int, int] | None


@dataclass(frozen=True)
class SpokenWord:
    """A word of the reference, and what became of it.

    Parameters
    ----------
    text
        Its spelling.
    choice
        Which of its pronunciations was taken, from 0.
    canonical
        The phones of that pronunciation.
    indices
        Its first canonical phone and the one after the last, among those of the whole reference.
    span
        First frame of what was said of it and the one after the last; None if nothing was.
    """

    text: str
    choice: int
    canonical: tuple[str, ...]
    indices: tuple[int, int]
    span: tuple[int, int] | None


@dataclass(frozen=True)
class Alignment:
    """What was said, when, and how it differs from the canonical phones.

    Parameters
    ----------
    phones, ids
        The M phones that were said, as symbols and as ids.
    ops
        What each of them is: ``"keep"``, ``"sub"``, ``"ins"`` or ``"rep"``.
    spans
        For each the first frame and the one after the last; see `seconds`.
    score
        Log-probability of the frames plus λ times the log-weight of the edits; −inf without a path.
    canonical
        The L canonical phones.
    edits
        All steps from left to right, deletions included.
    pauses
        Spans of the pauses, when they were asked for.
    reason
        None, or ``"no_path"``: no phones that the graph accepts fit into the frames. The phones are
        then the bottom-up ones, and the edits delete the reference and insert them.
    frame_shift
        Seconds per frame, where known.
    words
        The words, when the reference was given as words.
    """

    phones: tuple[str, ...]
    ids: tuple[int, ...]
    ops: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    score: float
    canonical: tuple[str, ...]
    edits: tuple[Edit, ...]
    pauses: tuple[tuple[int, int], ...] = ()
    reason: str | None = None
    frame_shift: float | None = None
    words: tuple[SpokenWord, ...] = ()

    @property
    def deleted(self) -> tuple[int, ...]:
        """Positions of the canonical phones that were never said."""
        said = {edit.index for edit in self.edits if edit.op in ("keep", "sub", "rep")}
        return tuple(i for i in range(len(self.canonical)) if i not in said)

    @property
    def program(self) -> EditProgram:
        """The edits as a program that rebuilds `phones`; what was said again counts as inserted."""
        ops = [KEEP] * len(self.canonical)
        slots: list[list[str]] = [[] for _ in range(len(self.canonical) + 1)]
        behind = 0
        for edit in self.edits:
            if edit.op in ("keep", "sub", "del") and edit.index == behind:
                if edit.op == "del":
                    ops[behind] = DEL
                elif edit.phone != edit.canonical:
                    ops[behind] = f"SUB:{edit.phone}"
                behind += 1
            elif edit.phone is not None:
                slots[behind].append(edit.phone)
        return EditProgram(self.canonical, tuple(ops), tuple(map(tuple, slots)))

    def seconds(self) -> tuple[tuple[float, float], ...]:
        """Return the spans in seconds.

        Raises
        ------
        ValueError
            If the frame shift is not known.
        """
        if self.frame_shift is None:
            raise ValueError(
                "the frame shift is not known: decode an Emissions, or multiply spans with it"
            )
        return tuple((a * self.frame_shift, b * self.frame_shift) for a, b in self.spans)


@dataclass(frozen=True)
class Pause:
    """A long stretch of blank that is a pause, not the gap between two phones.

    Parameters
    ----------
    min_frames
        Shortest pause, in frames.
    weight
        Log-weight of each pause, at least 0: a reward below which no pause would ever be chosen
        over the plain blank. 0 only reports them.
    """

    min_frames: int = 10
    weight: float = 0.0

    def __post_init__(self) -> None:
        if self.min_frames < 1:
            raise ValueError(f"min_frames must be at least 1, got {self.min_frames}")
        if not 0 <= self.weight < np.inf:
            raise ValueError(f"weight must be finite and at least 0, got {self.weight}")


@dataclass(frozen=True)
class Path:
    """A best path in ids and positions.

    Parameters
    ----------
    ids, kinds, positions, deleted, starts, ends
        One entry per phone of the path: its id; 0 where it takes a canonical phone and 1 where it
        is inserted; the canonical phone or the slot; how many canonical phones were passed over
        just before it; its first frame and the one after its last.
    trailing
        How many canonical phones were passed over at the end.
    score
        Its score.
    pauses
        Spans of the pauses.
    """

    ids: tuple[int, ...]
    kinds: tuple[int, ...]
    positions: tuple[int, ...]
    deleted: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    trailing: int
    score: float
    pauses: tuple[tuple[int, int], ...] = ()


def fused_decode(
    emissions: Emissions | np.ndarray | torch.Tensor,
    canonical: Sequence[Any],
    channel: EditChannel | Weights | Sequence[Weights],
    lam: float | np.ndarray = 1.0,
    maxdel: int = 2,
    *,
    repeat: float | None = None,
    restart: float | None = None,
    silence: Pause | None = None,
    lm: np.ndarray | None = None,
    band: float | None = None,
    alternatives: Sequence[tuple[Sequence[Any], float]] = (),
    graph: Literal["edit", "dysfluent"] = "edit",
    backend: Literal["auto", "numpy", "torch"] = "auto",
    phones: PhoneSet | None = None,
    blank: int | None = None,
) -> Any:
    """Decode the phones that were said, near a canonical sequence.

    Maximises over all phone sequences y, CTC paths π of y and edit paths from the canonical phones
    to y::

        score(y) = max_π Σ_t logprobs[t, π_t] + λ · max_edits Σ log-weights

    Parameters
    ----------
    emissions
        An `Emissions`, or (T, C) log-probabilities of one utterance.
    canonical
        The phones of the dictionary as symbols or ids: one sequence, or a list of B sequences for
        a batch. May be empty: everything said is then an insertion. Or words, as a g2p gives them,
        or a `ReferenceGraph`: their pronunciations are then parallel arcs, the best sequence of
        pronunciations is found together with what was said, and `Alignment.words` has the words.
    channel
        An `EditChannel`, or the `Weights` of the canonical sequence (a list for a batch).
    lam
        λ ≥ 0, the weight of the edits; an array (T,) lets it change over time, an edit then
        counting with the λ of the frame at which the next phone starts.
    maxdel
        Most canonical phones passed over between two phones that are said; one more at the end.
    repeat
        Log-weight ≤ 0 of going back one canonical phone, as often as wanted: stutter and
        repetition. None forbids it.
    restart
        Log-weight ≤ 0 of going back to the beginning. None forbids it.
    silence
        Report (and reward) pauses. In a reference of words they stand between words, at the
        beginning and at the end, and `maxdel` counts before and after a pause.
    lm
        (C + 1, C + 1) log-weights of a phone bigram over y: row p is the phone before (row C the
        start), column q the phone (column C the end); not scaled by λ. Exact.
    band
        Keep the position i within ``|i − L·t/T| ≤ band`` after t frames, also where a jump lands:
        less time and memory for long audio, exact among the paths that keep to it.
    alternatives
        Further canonical sequences with the log-weight of each, such as other pronunciations or
        the n best hypotheses; the best path of all is returned. For one utterance.
    graph
        ``"edit"``, or ``"dysfluent"`` for the graph of `graph.dysfluent`, to compare with.
    backend
        ``"numpy"``, one utterance at a time in float64; ``"torch"``, the batch at once in float32
        on the device of the emissions, without repeat, restart, silence, lm and band; ``"auto"``:
        torch where the emissions are on a GPU and nothing else is asked for.
    phones, blank
        Phone set and blank column for log-probabilities that are no `Emissions`; by default the
        channel's, and without any the phones are named by their ids and the blank is 0.

    Returns
    -------
    Alignment or list of Alignment
        One for one sequence, a list for a list of them. Without a path, which means T is too
        small for what maxdel allows, `Alignment.reason` is ``"no_path"``.

    Raises
    ------
    ValueError
        If the emissions are no log-probabilities, a phone is not in the phone set, channel and
        emissions have other phone sets, or an option is out of range.

    Notes
    -----
    O(T · (L + 1) · C · maxdel) time and 2 bytes of back-pointers per state and frame. The edit
    graph follows the description of the reference-constrained decoder in "HuPER" (arXiv
    2602.01634) and "Dysfluent WFST" (arXiv 2505.16351), but takes a substituted phone on its input
    side, so that the acoustics of the other phone count.
    """
    if backend not in ("auto", "numpy", "torch"):
        raise ValueError(f'backend must be "auto", "numpy" or "torch", got {backend!r}')
    if graph not in ("edit", "dysfluent"):
        raise ValueError(f'graph must be "edit" or "dysfluent", got {graph!r}')
    if silence is not None and not isinstance(silence, Pause):
        raise TypeError(f"silence is a graph.Pause, which has a length as well, got {silence!r}")
    extras: dict[str, Any] = {
        "repeat": repeat,
        "restart": restart,
        "silence": silence,
        "lm": lm,
        "band": band,
    }
    plain = all(value is None for value in extras.values()) and np.ndim(lam) == 0
    if graph == "dysfluent" and not (plain and not alternatives):
        raise ValueError(
            'graph="dysfluent" has no repeat, restart, silence, lm, band, alternatives and no λ '
            'that changes over time; use graph="edit"'
        )
    if backend == "torch" and not (plain and not alternatives):
        raise ValueError(
            'backend="torch" has no repeat, restart, silence, lm, band, alternatives and no λ that '
            'changes over time; use backend="numpy"'
        )
    from modicum.huper.graph.reference import decode_words, references

    if references(canonical) is not None:
        refused = {name for name, value in extras.items() if value is not None} - {"silence"}
        if refused or graph != "edit" or backend == "torch":
            raise ValueError(
                "words with several pronunciations are decoded without repeat, restart, lm and "
                'band, with graph="edit" and backend="numpy"; give phones for the others'
            )
        given = (channel, lam, maxdel, silence, phones, blank)
        first = decode_words(emissions, canonical, *given)
        if alternatives and not isinstance(first, Alignment):
            raise ValueError("alternatives are for one utterance, not for a batch")
        others = [
            (decode_words(emissions, words, *given), float(prior)) for words, prior in alternatives
        ]
        scored = [replace(found, score=found.score + prior) for found, prior in others]
        return max([first, *scored], key=lambda found: found.score) if others else first
    problem = pose(emissions, canonical, channel, phones, blank)
    if alternatives:
        return _best_of(problem, alternatives, channel, lam, maxdel, extras)
    if graph == "dysfluent":
        from modicum.huper.graph import dysfluent

        found = [
            dysfluent.decode(
                logprobs_TC, weights.canonical, problem.blank, problem.phones, problem.frame_shift
            )
            for logprobs_TC, weights in zip(problem.logprobs, problem.weights, strict=True)
        ]
        return found[0] if problem.single else found
    on_gpu = isinstance(emissions, Emissions) and emissions.logprobs.device.type != "cpu"
    paths: Sequence[Path | None]
    if backend == "torch" or (backend == "auto" and plain and on_gpu):
        from modicum.huper.graph import batched

        device = emissions.logprobs.device if isinstance(emissions, Emissions) else "cpu"
        paths = batched.best_paths(
            problem.logprobs, problem.weights, float(lam), maxdel, problem.blank, device
        )
    else:
        paths = [
            best_path(logprobs_TC, weights, problem.blank, lam, maxdel, **extras)
            for logprobs_TC, weights in zip(problem.logprobs, problem.weights, strict=True)
        ]
    found = [
        align(path, weights, logprobs_TC, problem)
        for path, weights, logprobs_TC in zip(paths, problem.weights, problem.logprobs, strict=True)
    ]
    return found[0] if problem.single else found


def best_path(
    logprobs_TC: np.ndarray,
    weights: Weights,
    blank: int = 0,
    lam: float | np.ndarray = 1.0,
    maxdel: int = 2,
    *,
    repeat: float | None = None,
    restart: float | None = None,
    silence: Pause | None = None,
    lm: np.ndarray | None = None,
    band: float | None = None,
) -> Path | None:
    """Find the best path of one utterance; `fused_decode` says what the options mean.

    Parameters
    ----------
    logprobs_TC
        (T, C) log-probabilities; −inf is allowed.
    weights
        The edits of the canonical sequence.
    blank
        Column of the blank, which is never said.

    Returns
    -------
    Path or None
        None when the graph accepts nothing that fits into T frames.

    Raises
    ------
    ValueError
        If shapes do not fit or an option is out of range.
    """
    logprobs_TC = np.asarray(logprobs_TC, np.float64)
    frames, classes = logprobs_TC.shape
    if classes != weights.classes:
        raise ValueError(f"the emissions have {classes} columns, the weights {weights.classes}")
    if not 0 <= blank < classes:
        raise ValueError(f"blank must be a column in [0, {classes}), got {blank}")
    if maxdel < 0:
        raise ValueError(f"maxdel must be at least 0, got {maxdel}")
    for name, value in (("repeat", repeat), ("restart", restart)):
        if value is not None and not -np.inf < value <= 0:
            raise ValueError(f"{name} is a log-weight: finite and at most 0, or None; got {value}")
    if band is not None and not band >= 1:
        raise ValueError(f"band must be at least 1 position, or None for none, got {band}")
    if np.ndim(lam) and np.shape(lam) != (frames,):
        raise ValueError(
            f"lam is a number or has the shape (T,) = ({frames},), got {np.shape(lam)}"
        )
    # One value more than frames: deletions at the end count with the last λ, also without frames.
    last = float(np.ravel(lam)[-1]) if np.size(lam) else 1.0
    lam_T = np.append(np.broadcast_to(np.asarray(lam, np.float64), (frames,)), last)
    if not ((lam_T >= 0) & (lam_T < np.inf)).all():
        raise ValueError(f"lam must be finite and at least 0, got {lam}")
    return _Recursion(
        logprobs_TC, weights, blank, lam_T, maxdel, repeat, restart, silence, lm, band
    ).run()


@dataclass
class _Step:
    """Back-pointers of one frame, for the positions from `first` on."""

    first: int
    code_SC: np.ndarray
    source_SC: np.ndarray | None
    top_S: np.ndarray
    second_S: np.ndarray
    rest_beats_top_S: np.ndarray
    rest_beats_second_S: np.ndarray
    jump_SC: np.ndarray | None
    from_phone_SK: np.ndarray
    from_pause_SK: np.ndarray | None
    pause_stays_SK: np.ndarray | None


class _Recursion:
    """The recursion over frames.

    ``phone_SC[i, q]``: the last frame is phone q, i canonical phones are behind. ``rest_SK[i]``: it
    is a blank. ``pause_SKN[i, k, n]``: it is frame n of a pause. A frame either stays in its phone,
    or starts another: from a rest or another phone (CTC needs a blank between two equal ones), back
    by a jump, forward over deletions, and then through a substitution or an insertion.
    """

    def __init__(
        self,
        logprobs_TC: np.ndarray,
        weights: Weights,
        blank: int,
        lam_T: np.ndarray,
        maxdel: int,
        repeat: float | None,
        restart: float | None,
        silence: Pause | None,
        lm: np.ndarray | None,
        band: float | None,
    ) -> None:
        self.logprobs_TC = logprobs_TC
        self.frames, self.classes = logprobs_TC.shape
        self.length = len(weights)
        self.blank = blank
        self.lam_T = lam_T
        self.maxdel = min(maxdel, self.length)
        self.trailing = min(maxdel + 1, self.length)
        self.repeat, self.restart, self.silence = repeat, restart, silence
        self.band = band
        self.sub_LC, self.ins_SC = weights.sub.copy(), weights.ins.copy()
        self.sub_LC[:, blank] = self.ins_SC[:, blank] = -np.inf
        self.dele_L = weights.dele
        self.lm: np.ndarray | None = None
        if lm is not None:
            self.lm = np.asarray(lm, np.float64)
            if self.lm.shape != (self.classes + 1, self.classes + 1):
                raise ValueError(
                    f"lm has the shape (C + 1, C + 1) = {(self.classes + 1,) * 2}, "
                    f"got {self.lm.shape}"
                )
            if not (self.lm < np.inf).all():
                raise ValueError("lm holds NaN or +inf; log-weights are finite or −inf")
        # What a rest remembers: nothing, or the last phone (the last entry is "none yet").
        self.memory = 1 if self.lm is None else self.classes + 1
        self.code_type = np.int8 if 3 * (self.maxdel + 1) <= 127 else np.int16
        size = np.dtype(self.code_type).itemsize
        per_state = size + 2 * (self.lm is not None) + 2 * (repeat is not None)
        width = self.length + 1 if band is None else min(self.length + 1, 2 * int(band) + 2)
        needed = self.frames * width * self.classes * per_state
        if needed > MEMORY_WARNING:
            warnings.warn(
                f"back-pointers of {self.frames} frames and {self.length} canonical phones take "
                f"{needed / 2**30:.1f} GiB; a band would take less",
                stacklevel=4,
            )

    def run(self) -> Path | None:
        positions = self.length + 1
        self.phone_SC = np.full((positions, self.classes), -np.inf)
        self.rest_SK = np.full((positions, self.memory), -np.inf)
        self.rest_SK[0, -1] = 0.0
        self.pause_SKN: np.ndarray | None = None
        if self.silence is not None:
            self.pause_SKN = np.full((positions, self.memory, self.silence.min_frames), -np.inf)
        steps: list[_Step] = []
        jumps = self.repeat is not None or self.restart is not None
        low = 0
        for t in range(self.frames):
            new_low, high = self._window(t + 1)
            # A jump may land one below the band: the phone that then starts is inside it.
            first = max(0, low - 1) if jumps else low
            steps.append(self._step(t, first, high, new_low))
            low = new_low
        return self._trace(steps)

    def _window(self, t: int) -> tuple[int, int]:
        """Return the first position allowed after t frames and the one after the last."""
        if self.band is None:
            return 0, self.length + 1
        centre = self.length * t / self.frames
        low = max(0, int(np.ceil(centre - self.band)))
        high = min(self.length, int(np.floor(centre + self.band)))
        return low, high + 1

    def _step(self, t: int, low: int, high: int, new_low: int) -> _Step:
        rows = slice(low, high)
        phone_SC, rest_SK = self.phone_SC[rows], self.rest_SK[rows]
        frame_C = self.logprobs_TC[t]
        lam = self.lam_T[t]

        # A rest, from which a phone may start, is a blank or a pause that lasted long enough.
        leave_SK = rest_SK
        from_pause_SK = None
        if self.pause_SKN is not None:
            done_SK = self.pause_SKN[rows, :, -1]
            from_pause_SK = (done_SK >= rest_SK) & (done_SK > -np.inf)
            leave_SK = np.where(from_pause_SK, done_SK, rest_SK)

        # The best phone and the best other one, so that "any phone but q" is two look-ups.
        index_S = np.arange(len(phone_SC))
        top_S = phone_SC.argmax(1)
        top_value_S = phone_SC[index_S, top_S]
        others_SC = phone_SC.copy()
        others_SC[index_S, top_S] = -np.inf
        second_S = others_SC.argmax(1)
        second_value_S = others_SC[index_S, second_S]

        source_SC: np.ndarray | None = None
        if self.lm is None:
            leave_S = leave_SK[:, 0]
            enter_SC = np.repeat(np.maximum(leave_S, top_value_S)[:, None], self.classes, axis=1)
            enter_SC[index_S, top_S] = np.maximum(leave_S, second_value_S)
            rest_beats_top_S = leave_S >= top_value_S
            rest_beats_second_S = leave_S >= second_value_S
        else:
            rest_beats_top_S = rest_beats_second_S = np.zeros(0, bool)
            enter_SC, source_SC = self._enter_with_lm(phone_SC, leave_SK, self.lm)

        jump_SC: np.ndarray | None = None
        if self.repeat is not None or self.restart is not None:
            enter_SC, jump_SC = self._jump(enter_SC, lam, low)

        # Passing over canonical phones takes no frame.
        begin_SC, passed_SC = enter_SC, np.zeros(enter_SC.shape, self.code_type)
        if self.maxdel:
            begin_SC = enter_SC.copy()
            dele_L = scaled(lam, self.dele_L[low : high - 1])
            exactly_SC = enter_SC
            for k in range(1, min(self.maxdel, high - 1 - low) + 1):
                exactly_SC = exactly_SC[:-1] + dele_L[k - 1 :, None]
                better = exactly_SC > begin_SC[k:]
                begin_SC[k:][better] = exactly_SC[better]
                passed_SC[k:][better] = k

        new_SC = phone_SC.copy()
        code_SC = np.zeros(phone_SC.shape, self.code_type)
        span = self.maxdel + 1
        take_SC = begin_SC[:-1] + scaled(lam, self.sub_LC[low : high - 1])
        better = take_SC > new_SC[1:]
        new_SC[1:][better] = take_SC[better]
        code_SC[1:][better] = _SUB * span + passed_SC[:-1][better]
        add_SC = begin_SC + scaled(lam, self.ins_SC[rows])
        better = add_SC > new_SC
        new_SC[better] = add_SC[better]
        code_SC[better] = _INS * span + passed_SC[better]
        new_SC += frame_C

        heard_SK = np.full(rest_SK.shape, -np.inf)
        if self.lm is None:
            heard_SK[:, 0] = top_value_S
        else:
            heard_SK[:, :-1] = phone_SC
        from_phone_SK = heard_SK > rest_SK
        new_rest_SK = np.where(from_phone_SK, heard_SK, rest_SK) + frame_C[self.blank]

        pause_stays_SK = None
        if self.pause_SKN is not None and self.silence is not None:
            pause_SKN = self.pause_SKN[rows]
            enter_SK = heard_SK
            if t == 0:
                enter_SK = heard_SK.copy()
                enter_SK[0, -1] = 0.0
            enter_SK = enter_SK + self.silence.weight
            before_SKN = np.concatenate([enter_SK[..., None], pause_SKN[..., :-1]], axis=-1)
            pause_stays_SK = pause_SKN[..., -1] > before_SKN[..., -1]
            before_SKN[..., -1] = np.maximum(before_SKN[..., -1], pause_SKN[..., -1])
            self.pause_SKN[rows] = before_SKN + frame_C[self.blank]
            self.pause_SKN[low:new_low] = -np.inf

        self.phone_SC[rows] = new_SC
        self.rest_SK[rows] = new_rest_SK
        self.phone_SC[low:new_low] = -np.inf
        self.rest_SK[low:new_low] = -np.inf
        return _Step(
            low,
            code_SC,
            source_SC,
            top_S.astype(np.int16),
            second_S.astype(np.int16),
            rest_beats_top_S,
            rest_beats_second_S,
            jump_SC,
            from_phone_SK,
            from_pause_SK,
            pause_stays_SK,
        )

    def _enter_with_lm(
        self, phone_SC: np.ndarray, leave_SK: np.ndarray, lm: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Start phone q after phone p: from p itself (p ≠ q) or from a rest that remembers p."""
        direct_CC = lm[:-1, :-1].copy()
        np.fill_diagonal(direct_CC, -np.inf)
        touch_SCC = phone_SC[:, :, None] + direct_CC
        after_SKC = leave_SK[:, :, None] + lm[:, :-1]
        both = np.concatenate([touch_SCC, after_SKC], axis=1)
        source_SC = both.argmax(1)
        enter_SC = np.take_along_axis(both, source_SC[:, None], axis=1)[:, 0]
        return enter_SC, source_SC.astype(np.int16)

    def _jump(self, enter_SC: np.ndarray, lam: float, low: int) -> tuple[np.ndarray, np.ndarray]:
        """Go back over canonical phones before a phone starts; remember where from."""
        out_SC = enter_SC.copy()
        rows = len(enter_SC)
        origin_SC = np.repeat(np.arange(rows, dtype=np.int32)[:, None], self.classes, axis=1)
        if self.repeat is not None:
            for i in range(rows - 2, -1, -1):
                back_C = out_SC[i + 1] + lam * self.repeat
                better = back_C > out_SC[i]
                out_SC[i][better] = back_C[better]
                origin_SC[i][better] = origin_SC[i + 1][better]
        if self.restart is not None and low == 0:
            from_C = enter_SC.argmax(0)
            again_C = enter_SC[from_C, np.arange(self.classes)] + lam * self.restart
            better = again_C > out_SC[0]
            out_SC[0][better] = again_C[better]
            origin_SC[0][better] = from_C[better]
        return out_SC, origin_SC

    def _trace(self, steps: list[_Step]) -> Path | None:
        tail_S = np.full(self.length + 1, -np.inf)
        tail_S[self.length] = 0.0
        dele_L = scaled(self.lam_T[-1], self.dele_L)
        for i in range(self.length - 1, self.length - self.trailing - 1, -1):
            tail_S[i] = tail_S[i + 1] + dele_L[i]
        end_K = np.zeros(self.memory)
        end_C = np.zeros(self.classes)
        if self.lm is not None:
            end_K, end_C = self.lm[:, -1], self.lm[:-1, -1]
        finals: list[tuple[np.ndarray, str]] = [
            (self.phone_SC + end_C + tail_S[:, None], "phone"),
            (self.rest_SK + end_K + tail_S[:, None], "rest"),
        ]
        if self.pause_SKN is not None:
            finals.insert(0, (self.pause_SKN[..., -1] + end_K + tail_S[:, None], "pause"))
        table, state = max(finals, key=lambda item: float(item[0].max()))
        score = float(table.max())
        if score == -np.inf:
            return None
        i, q = (int(v) for v in np.unravel_index(table.argmax(), table.shape))
        trailing = self.length - i

        ids: list[int] = []
        kinds: list[int] = []
        positions: list[int] = []
        deleted: list[int] = []
        starts: list[int] = []
        ends: list[int] = []
        pauses: list[tuple[int, int]] = []
        end = self.frames
        last_pause_frame = 0 if self.silence is None else self.silence.min_frames - 1
        pause_frame, pause_end = last_pause_frame, self.frames
        span = self.maxdel + 1
        for t in range(self.frames - 1, -1, -1):
            step = steps[t]
            row = i - step.first
            if state == "rest":
                # A blank comes before this one, or the phone that the blank follows.
                if step.from_phone_SK[row, q]:
                    state, end = "phone", t
                    q = int(step.top_S[row]) if self.lm is None else q
                continue
            if state == "pause":
                stays = step.pause_stays_SK is not None and step.pause_stays_SK[row, q]
                if pause_frame == last_pause_frame and stays:
                    continue
                if pause_frame:
                    pause_frame -= 1
                    continue
                pauses.append((t, pause_end))
                state, end = "phone", t
                q = int(step.top_S[row]) if self.lm is None else q
                continue
            kind, passed = divmod(int(step.code_SC[row, q]), span)
            if kind == _STAY:
                continue
            ids.append(q)
            kinds.append(0 if kind == _SUB else 1)
            positions.append(i - 1 if kind == _SUB else i)
            deleted.append(passed)
            starts.append(t)
            ends.append(end)
            row -= passed + (kind == _SUB)
            if step.jump_SC is not None:
                row = int(step.jump_SC[row, q])
            i = row + step.first
            if step.source_SC is not None:
                source = int(step.source_SC[row, q])
            elif q == step.top_S[row]:
                rest = step.rest_beats_second_S[row]
                source = self.classes if rest else int(step.second_S[row])
            else:
                rest = step.rest_beats_top_S[row]
                source = self.classes if rest else int(step.top_S[row])
            if source < self.classes:
                state, q, end = "phone", source, t
                continue
            q = source - self.classes
            state = "rest"
            if step.from_pause_SK is not None and step.from_pause_SK[row, q]:
                state, pause_end, pause_frame = "pause", t, last_pause_frame
        order = slice(None, None, -1)
        return Path(
            tuple(ids[order]),
            tuple(kinds[order]),
            tuple(positions[order]),
            tuple(deleted[order]),
            tuple(starts[order]),
            tuple(ends[order]),
            trailing,
            score,
            tuple(pauses[order]),
        )


def scaled(lam: float, weights: np.ndarray) -> np.ndarray:
    """Multiply, with 0 · −inf = −inf: what is impossible stays so for every λ."""
    return lam * weights if lam else np.where(weights == -np.inf, -np.inf, 0.0)


# From the user's words to arrays, and back ------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """What a call asks for, in arrays.

    Parameters
    ----------
    logprobs
        One (T, C) float64 array per utterance.
    weights
        The edits of each canonical sequence.
    blank
        Column of the blank.
    phones
        Phone set, where known.
    frame_shift
        Seconds per frame, where known.
    single
        Whether one sequence was asked for rather than a list of them.
    """

    logprobs: tuple[np.ndarray, ...]
    weights: tuple[Weights, ...]
    blank: int
    phones: PhoneSet | None
    frame_shift: float | None
    single: bool

    def symbols(self, ids: Sequence[int] | np.ndarray) -> tuple[str, ...]:
        """Name ids by their symbols, or by themselves when there is no phone set."""
        if self.phones is None:
            return tuple(str(int(i)) for i in ids)
        return tuple(self.phones.symbols[int(i)] for i in ids)


def pose(
    emissions: Emissions | np.ndarray | torch.Tensor,
    canonical: Sequence[Any],
    channel: EditChannel | Weights | Sequence[Weights],
    phones: PhoneSet | None = None,
    blank: int | None = None,
) -> Problem:
    """Check the arguments of `fused_decode` and turn them into arrays.

    Raises
    ------
    ValueError
        As `fused_decode`.
    """
    known = getattr(channel, "phones", None)
    frame_shift = None
    if isinstance(emissions, Emissions):
        logprobs = [emissions.utterance(b) for b in range(len(emissions))]
        phones, blank, frame_shift = emissions.phones, emissions.blank, emissions.frame_shift
    else:
        array = emissions if isinstance(emissions, np.ndarray) else emissions.detach().cpu().numpy()
        if array.ndim != 2:
            raise ValueError(
                f"log-probabilities of one utterance have the shape (T, C), got {array.shape}; "
                "a batch is an Emissions"
            )
        check_rows(array)
        logprobs = [array]
        phones = known if phones is None else phones
        if blank is None:
            blank = 0 if phones is None else phones.blank
    if known is not None and phones is not None and known.symbols != phones.symbols:
        raise ValueError(
            f"the channel was made for {len(known)} ids ({', '.join(known.symbols[:6])}, …), the "
            f"emissions have {len(phones)} ({', '.join(phones.symbols[:6])}, …); "
            "fit the channel with the phone set of the emissions"
        )
    flat = all(isinstance(item, str | int | np.integer) for item in canonical)
    single = flat and len(logprobs) == 1
    sequences = [canonical] if single else list(canonical)
    if len(sequences) != len(logprobs) or (flat and not single and sequences):
        raise ValueError(
            f"{len(logprobs)} utterances need a list of {len(logprobs)} canonical sequences"
        )
    given: list[Any]
    if isinstance(channel, Weights):
        given = [channel]
    elif isinstance(channel, Sequence):
        given = list(channel)
    else:
        given = [channel.weights(sequence) for sequence in sequences]
    if len(given) != len(sequences):
        raise ValueError(
            f"{len(sequences)} canonical sequences need as many weights, got {len(given)}"
        )
    for sequence, weights in zip(sequences, given, strict=True):
        if not hasattr(channel, "weights"):
            ids = encode(sequence, phones)
            if not np.array_equal(ids, weights.canonical):
                raise ValueError(
                    f"the weights belong to the canonical ids {weights.canonical.tolist()}, "
                    f"not to {ids.tolist()}"
                )
    return Problem(
        tuple(np.asarray(item, np.float64) for item in logprobs),
        tuple(given),
        int(blank),
        phones,
        frame_shift,
        single,
    )


def encode(sequence: Sequence[Any], phones: PhoneSet | None) -> np.ndarray:
    """Turn symbols, which are folded into the phone set, or ids into int64 ids.

    Raises
    ------
    ValueError
        If a symbol is not in the phone set, or there is no phone set.
    """
    if not any(isinstance(item, str) for item in sequence):
        return np.asarray(list(sequence), np.int64).reshape(-1)
    if phones is None:
        raise ValueError("canonical phones given as symbols need a phone set: phones=…")
    return phones.encode(phones.canonicalise(sequence))


def align(
    path: Path | None, weights: Weights, logprobs_TC: np.ndarray, problem: Problem
) -> Alignment:
    """Name the phones and edits of a path; without a path give the bottom-up answer."""
    canonical = problem.symbols(weights.canonical)
    edits: list[Edit] = []
    if path is None:
        specials = [] if problem.phones is None else map(problem.phones.id, problem.phones.specials)
        ids, spans, _ = collapse(logprobs_TC, problem.blank, specials)
        phones = problem.symbols(ids)
        edits += [Edit("del", i, phone, None, None) for i, phone in enumerate(canonical)]
        edits += [
            Edit("ins", len(canonical), None, phone, span)
            for phone, span in zip(phones, spans, strict=True)
        ]
        return Alignment(
            phones,
            ids,
            ("ins",) * len(ids),
            spans,
            -np.inf,
            canonical,
            tuple(edits),
            reason="no_path",
            frame_shift=problem.frame_shift,
        )
    phones = problem.symbols(path.ids)
    spans = tuple(zip(path.starts, path.ends, strict=True))
    passed: set[int] = set()
    ops: list[str] = []
    for m, (q, kind, i) in enumerate(zip(path.ids, path.kinds, path.positions, strict=True)):
        for j in range(i - path.deleted[m], i):
            edits.append(Edit("del", j, canonical[j], None, None))
            passed.add(j)
        if kind:
            edits.append(Edit("ins", i, None, phones[m], spans[m]))
        else:
            op: Literal["keep", "sub", "rep"] = "keep" if q == weights.canonical[i] else "sub"
            if i in passed:
                op = "rep"
            edits.append(Edit(op, i, canonical[i], phones[m], spans[m]))
            passed.add(i)
        ops.append(edits[-1].op)
    first = len(canonical) - path.trailing
    edits += [Edit("del", j, canonical[j], None, None) for j in range(first, len(canonical))]
    return Alignment(
        phones,
        path.ids,
        tuple(ops),
        spans,
        path.score,
        canonical,
        tuple(edits),
        path.pauses,
        None,
        problem.frame_shift,
    )


def _best_of(
    problem: Problem,
    alternatives: Sequence[tuple[Sequence[Any], float]],
    channel: EditChannel | Weights | Sequence[Weights],
    lam: float | np.ndarray,
    maxdel: int,
    extras: dict[str, Any],
) -> Alignment:
    """Decode near each of several references: their union has the best of their paths."""
    if not problem.single:
        raise ValueError("alternatives are for one utterance, not for a batch")
    if isinstance(channel, Weights | Sequence):
        raise ValueError("alternatives need an EditChannel, which can weigh every sequence")
    logprobs_TC = problem.logprobs[0]
    candidates = [(problem.weights[0], 0.0)]
    candidates += [(channel.weights(sequence), float(weight)) for sequence, weight in alternatives]
    found = []
    for weights, prior in candidates:
        path = best_path(logprobs_TC, weights, problem.blank, lam, maxdel, **extras)
        alignment = align(path, weights, logprobs_TC, problem)
        found.append(replace(alignment, score=alignment.score + prior))
    return max(found, key=lambda alignment: alignment.score)
