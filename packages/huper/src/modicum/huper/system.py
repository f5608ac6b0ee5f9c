"""The whole listener: the ear, the words, and the choice between them.

`HuPER` takes recordings, and texts where there are some, and gives transcripts that say which path
was taken and why. It holds a recognizer, an edit channel, a Perceiver, a scheduler and a g2p; how
each of them works is not its concern.

Source: "HuPER: A Human-Inspired Framework for Phonetic Perception" (arXiv 2602.01634).

Shape suffixes: T frames, C classes, W windows.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein

from modicum.core.experiment import write_atomic
from modicum.huper import scheduler as scheduling
from modicum.huper.audio import SAMPLE_RATE
from modicum.huper.channel import EditChannel
from modicum.huper.emissions import Emissions
from modicum.huper.g2p import Word, phones_of
from modicum.huper.graph.viterbi import Alignment, fused_decode
from modicum.huper.perceiver import Perceiver, Reading
from modicum.huper.phones import PhoneSet
from modicum.huper.recognizer import Recognizer, decode, is_many, recordings_of
from modicum.huper.scheduler import Calibration, Scheduler, Verdict
from modicum.huper.transcript import Hypothesis, Span, TimedWord, Transcript

if TYPE_CHECKING:
    from modicum.core.experiment import ProgressTask
    from modicum.huper.corpus import Item
    from modicum.huper.g2p import G2P

__all__ = ["SETTINGS_NAME", "HuPER"]

SETTINGS_NAME = "huper.json"
_RECOGNIZER = "recognizer"
_PERCEIVER = "perceiver.json"
_FORMAT = 1

Cost = Callable[[Sequence[str], Sequence[str]], float]


@dataclass(frozen=True)
class _Reference:
    """Words that the Perceiver found, with their phones, and what speaks for them."""

    words: tuple[tuple[str, tuple[str, ...]], ...]
    weight: float = 0.0

    @property
    def canonical(self) -> tuple[str, ...]:
        return tuple(phone for _, phones in self.words for phone in phones)


class HuPER:
    """Transcribe by evidence and knowledge.

    Parameters
    ----------
    recognizer
        A `Recognizer`, or a model that one can be made of.
    channel
        What people make of canonical phones. None takes the priors alone: every phone is mostly
        kept.
    perceiver
        Finds words where no text is given. None leaves these recordings to the ear.
    scheduler
        Chooses the path; `Scheduler()` if None, which tests the reference.
    g2p
        Turns texts into canonical phones; texts need one.

    Raises
    ------
    ValueError
        If channel or perceiver have other phones than the recognizer.

    Examples
    --------
    >>> from modicum.huper.g2p import Dict
    >>> from modicum.huper.system import HuPER
    >>> from modicum.huper.tiny import TinyConvCTC
    >>> import numpy as np
    >>> listener = HuPER(TinyConvCTC(), g2p=Dict({"to": [("T", "UW")]}))
    >>> listener(np.zeros(16_000, np.float32), 16_000).phones
    ()
    """

    def __init__(
        self,
        recognizer: Any,
        channel: EditChannel | None = None,
        perceiver: Perceiver | None = None,
        scheduler: Scheduler | None = None,
        g2p: G2P | None = None,
    ) -> None:
        if not isinstance(recognizer, Recognizer):
            recognizer = Recognizer(recognizer)
        self.recognizer: Recognizer = recognizer
        self.channel = EditChannel.fit([], phones=self.phones) if channel is None else channel
        self.perceiver = perceiver
        self.scheduler = Scheduler() if scheduler is None else scheduler
        self.g2p = g2p
        for name, part in (("channel", self.channel), ("perceiver", perceiver)):
            if part is not None and part.phones.symbols != self.phones.symbols:
                raise ValueError(
                    f"the {name} was made for {len(part.phones)} ids "
                    f"({', '.join(part.phones.symbols[:6])}, …), the recognizer has "
                    f"{len(self.phones)} ({', '.join(self.phones.symbols[:6])}, …)"
                )

    @property
    def phones(self) -> PhoneSet:
        """The phone set of the recognizer."""
        return self.recognizer.phones

    # Listening ----------------------------------------------------------------------------------

    def __call__(
        self,
        audio: Any,
        sampling_rate: int | None = None,
        text: Any = None,
        *,
        paths: bool = False,
        batch_size: int = 16,
        progress: ProgressTask | None = None,
    ) -> Any:
        """Transcribe one recording or a list of them.

        Parameters
        ----------
        audio, sampling_rate, batch_size, progress
            As for `Recognizer.emissions`.
        text
            What should be said: a string, for which a g2p is needed, or a list of `g2p.Word`; None
            if it is not known. For a list of recordings a list of these.
        paths
            Whether to answer by the other paths as well, into `Transcript.hypotheses`.

        Returns
        -------
        Transcript or list of Transcript
            A list for a list. ``trace`` has ``path``, ``s``, ``evidence_ratio`` (Λ, None without a
            reference), ``tau`` (what s, or with the policy ``"llr"`` Λ, was compared with), ``lam``
            (λ of the edits, 0 for the ear alone; their mean where it changes over time),
            ``policy``, ``scope``, ``rejected`` (scores of the paths that were looked at and not
            taken), ``reason`` where something was not possible, and ``segments`` where each has its
            own λ. Words are those of the text, or those that the Perceiver found; what was inserted
            between two words belongs to the one before.

        Raises
        ------
        TypeError, ValueError, FileNotFoundError
            As `Recognizer.emissions`; ValueError also if a text comes without a g2p, there are more
            or fewer texts than recordings, or a phone of a word has no name in the recognizer's
            phone set: both are named.
        """
        many = is_many(audio)
        recordings = recordings_of(audio, sampling_rate)
        texts = list(text) if many and text is not None else [text] * len(recordings)
        if many and isinstance(text, str):
            raise ValueError("a list of recordings needs a list of texts, got one string")
        if len(texts) != len(recordings):
            raise ValueError(
                f"{len(recordings)} recordings need as many texts, or None, got {len(texts)}"
            )
        # Bad texts are found before the long work.
        words = [None if one is None else self._words_of(one) for one in texts]
        emissions = self.recognizer.emissions(
            recordings, SAMPLE_RATE, batch_size=batch_size, progress=progress
        )
        found = [
            _Case(
                self,
                emissions.utterance(b),
                words[b],
                self._voiced(recordings[b], int(emissions.lengths[b])),
            ).answer(self.scheduler, paths)
            for b in range(len(recordings))
        ]
        return found if many else found[0]

    def _voiced(self, samples_N: np.ndarray, frames: int) -> np.ndarray | None:
        return None if self.scheduler.frames != "vad" else scheduling.voiced(samples_N, frames)

    def _words_of(self, text: Any) -> list[Word]:
        """Return the words of a text, their phones by the names that they have here."""
        if isinstance(text, str):
            if self.g2p is None:
                raise ValueError(f"the text {text!r} needs a g2p, e.g. HuPER(…, g2p=g2p.Espeak())")
            words = self.g2p(text)
        else:
            words = list(text) if isinstance(text, Iterable) else [text]
            if not all(isinstance(word, Word) for word in words):
                raise ValueError(f"a text is a string or a list of g2p.Word, got {text!r}")
        found = []
        for word in words:
            forms = [self.phones.canonicalise(one, word=word.text) for one in word.pronunciations]
            # What is no phone here, such as a pause, leaves nothing of some words.
            forms = [one for one in dict.fromkeys(forms) if one]
            if forms:
                found.append(Word(word.text, forms[0], tuple(forms[1:])))
        return found

    # Calibrating --------------------------------------------------------------------------------

    def measure(
        self,
        items: Iterable[Item],
        objective: Literal["per"] | Cost = "per",
        *,
        batch_size: int = 16,
        progress: ProgressTask | None = None,
    ) -> list[scheduling.Item]:
        """Answer utterances whose phones are known by each path and count the errors.

        Parameters
        ----------
        items
            Of `modicum.huper.corpus`, with audio and realized phones. The text (through the g2p),
            or else the canonical phones, are the reference; without either the path to choose is
            that of the hypothesis, which needs a perceiver.
        objective
            ``"per"`` counts edits between phones; or a function of the phones of the answer and of
            the truth, such as a feature edit distance.
        batch_size, progress
            As for `Recognizer.emissions`; progress is advanced by each utterance.

        Returns
        -------
        list of scheduler.Item
            For `Scheduler.calibrate` and `Scheduler.evaluate`.

        Raises
        ------
        ValueError
            If an item lacks what it needs, or the objective is unknown.
        """
        if isinstance(objective, str) and objective != "per":
            raise ValueError(f'objective must be "per" or a function, got {objective!r}')
        cost: Cost = _edits if isinstance(objective, str) else objective
        given = list(items)
        found: list[scheduling.Item] = []
        for start in range(0, len(given), batch_size):
            part = given[start : start + batch_size]
            words = [self._given(item) for item in part]
            recordings = [recordings_of(*item.audio())[0] for item in part]
            emissions = self.recognizer.emissions(recordings, SAMPLE_RATE, batch_size=batch_size)
            for b, item in enumerate(part):
                voiced = self._voiced(recordings[b], int(emissions.lengths[b]))
                case = _Case(self, emissions.utterance(b), words[b], voiced)
                found.append(self._measured(item, case, cost))
                if progress is not None:
                    progress.advance(1)
        return found

    def _given(self, item: Item) -> list[Word] | None:
        if item.text is not None and self.g2p is not None:
            return self._words_of(item.text)
        if item.phonemes is not None:
            return self._words_of([Word(item.text or item.id, item.phonemes)])
        if self.perceiver is None:
            raise ValueError(
                f"{item.id!r} has neither a text, with a g2p, nor canonical phones, and there is "
                "no perceiver to find any"
            )
        return None

    def _measured(self, item: Item, case: _Case, cost: Cost) -> scheduling.Item:
        truth = self.phones.canonicalise(item.phones("realized"), word=item.id)
        path: Literal["reference", "hypothesis"] = (
            "hypothesis" if case.words is None else "reference"
        )
        full = case.full(path, self.scheduler)
        return scheduling.Item(
            item.id,
            case.score(self.scheduler),
            cost(case.bottom.phones, truth),
            cost(case.bottom.phones if full is None else full.phones, truth),
            len(truth),
            None if path == "hypothesis" else case.ratio(self.scheduler),
            path,
            lambda setting: cost(case.answer(setting).phones, truth),
        )

    def calibrate(
        self,
        dev_set: Iterable[Item],
        objective: Literal["per"] | Cost = "per",
        *,
        batch_size: int = 16,
        progress: ProgressTask | None = None,
    ) -> dict[str, Calibration]:
        """Choose the scheduler's thresholds on utterances whose phones are known.

        Parameters and errors are those of `measure` and `Scheduler.calibrate`.

        Returns
        -------
        dict
            `Calibration` by path.
        """
        items = self.measure(dev_set, objective, batch_size=batch_size, progress=progress)
        return self.scheduler.calibrate(items)

    def evaluate(
        self,
        test_set: Iterable[Item],
        objective: Literal["per"] | Cost = "per",
        *,
        batch_size: int = 16,
        progress: ProgressTask | None = None,
    ) -> Verdict:
        """Judge the thresholds on other utterances; refuses those that chose them.

        Parameters and errors are those of `measure` and `Scheduler.evaluate`.
        """
        given = list(test_set)
        self.scheduler.check_unseen([item.id for item in given])
        items = self.measure(given, objective, batch_size=batch_size, progress=progress)
        return self.scheduler.evaluate(items)

    # Files --------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write the parts that a folder can hold, for `from_pretrained`.

        These are ``huper.json`` (scheduler, inventory, version), the channel's two files,
        ``perceiver.json`` if there is one, and the recognizer in a folder of its own. A g2p is a
        program or a dictionary of its own and not written.

        Parameters
        ----------
        folder
            Made if it is not there.

        Raises
        ------
        TypeError
            If the recognizer's model cannot be written.
        """
        folder = Path(folder)
        self.recognizer.save_pretrained(folder / _RECOGNIZER)
        self.channel.save(folder)
        if self.perceiver is not None:
            text = json.dumps(self.perceiver.to_dict(), ensure_ascii=False, allow_nan=False)
            write_atomic(folder / _PERCEIVER, text + "\n")
        content = {
            "format": _FORMAT,
            "version": _version(),
            "inventory": self.phones.to_dict(),
            "scheduler": self.scheduler.to_dict(),
            "perceiver": self.perceiver is not None,
            "g2p": None if self.g2p is None else type(self.g2p).__name__,
        }
        # Last: a folder with this file is complete.
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        write_atomic(folder / SETTINGS_NAME, text + "\n")
        return folder

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        *,
        g2p: G2P | None = None,
        device: str | torch.device = "auto",
    ) -> HuPER:
        """Read what `save_pretrained` wrote.

        Parameters
        ----------
        folder
            Where it is.
        g2p
            For texts.
        device
            Of the recognizer.

        Raises
        ------
        FileNotFoundError
            If a file is missing.
        ValueError
            If the format is a newer one, or the recognizer has another inventory.
        """
        folder = Path(folder)
        path = folder / SETTINGS_NAME
        if not path.exists():
            raise FileNotFoundError(f"{folder} has no {SETTINGS_NAME}: it is no saved HuPER")
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") != _FORMAT:
            raise ValueError(
                f"{path} has the format {content.get('format')!r}, of version "
                f"{content.get('version')!r}; this version reads {_FORMAT}"
            )
        recognizer = Recognizer.from_pretrained(folder / _RECOGNIZER, device=device)
        inventory = PhoneSet.from_dict(content["inventory"])
        if inventory != recognizer.phones:
            raise ValueError(f"{folder / _RECOGNIZER} has another inventory than {path}")
        channel = EditChannel.load(folder)
        perceiver = None
        if content["perceiver"]:
            given = json.loads((folder / _PERCEIVER).read_text(encoding="utf-8"))
            perceiver = Perceiver.from_dict(given, channel)
        scheduler = Scheduler.from_dict(content["scheduler"])
        return cls(recognizer, channel, perceiver, scheduler, g2p)


class _Case:
    """One utterance, with what is found out about it when it is asked for."""

    def __init__(
        self,
        system: HuPER,
        rows_TC: np.ndarray,
        words: list[Word] | None,
        voiced_T: np.ndarray | None,
    ) -> None:
        self.system, self.rows_TC = system, rows_TC
        self.words, self.voiced_T = words, voiced_T
        self.blank = system.phones.blank
        self._full: dict[tuple[str, float], Alignment | None] = {}

    @cached_property
    def emissions(self) -> Emissions:
        system = self.system
        return Emissions(
            torch.from_numpy(self.rows_TC),
            torch.tensor([len(self.rows_TC)]),
            system.recognizer.frame_shift,
            system.phones,
            self.blank,
        )

    @cached_property
    def bottom(self) -> Transcript:
        """The answer of the ear."""
        return decode(self.emissions)[0]

    @cached_property
    def readings(self) -> list[Reading]:
        assert self.system.perceiver is not None
        return self.system.perceiver(self.emissions)[0]

    @cached_property
    def hypotheses(self) -> list[_Reference]:
        """The Perceiver's readings as references; those with the same phones are one."""
        found: dict[tuple[str, ...], _Reference] = {}
        for reading in self.readings:
            words = tuple((word.text, word.canonical) for word in reading.words)
            if not words and reading.canonical:
                words = (("", reading.canonical),)
            known = found.get(reading.canonical)
            weight = reading.log_posterior
            if known is not None:
                found[reading.canonical] = replace(
                    known, weight=float(np.logaddexp(known.weight, weight))
                )
            else:
                found[reading.canonical] = _Reference(words, weight)
        return list(found.values())

    def score(self, scheduler: Scheduler) -> float:
        return scheduler.score(self.rows_TC, voiced=self.voiced_T, blank=self.blank)

    def ratio(self, scheduler: Scheduler) -> float:
        """Λ of the reference, at the λ of a reference that is trusted."""
        full = self.full("reference", scheduler)
        return math.inf if full is None else scheduling.evidence_ratio(self.rows_TC, full)

    def full(
        self, path: Literal["reference", "hypothesis"], scheduler: Scheduler
    ) -> Alignment | None:
        """Decode near the reference or the hypothesis, trusted altogether; None if that fails."""
        lam = scheduler.full_weight(path)
        key = (path, lam)
        if key not in self._full:
            self._full[key] = self.near(path, lam)
        return self._full[key]

    def near(self, path: str, lam: float | np.ndarray) -> Alignment | None:
        if path == "reference":
            assert self.words is not None
            # Several pronunciations are parallel arcs of one graph.
            several = any(word.alternatives for word in self.words)
            told = self.words if several else phones_of(self.words)
            found: Alignment = fused_decode(self.emissions, told, self.system.channel, lam=lam)
            return None if found.reason is not None else found
        known = self.hypotheses
        if not known:
            return None
        first, *others = known
        found = fused_decode(
            self.emissions,
            first.canonical,
            self.system.channel,
            lam=lam,
            alternatives=[(one.canonical, one.weight - first.weight) for one in others],
        )
        return None if found.reason is not None else found

    # The choice ---------------------------------------------------------------------------------

    def answer(self, scheduler: Scheduler, paths: bool = False) -> Transcript:
        """Choose a path and answer by it."""
        system = self.system
        s = self.score(scheduler)
        trace: dict[str, Any] = {
            "path": "bottom-up",
            "s": s,
            "evidence_ratio": None,
            "tau": None,
            "lam": 0.0,
            "policy": scheduler.policy,
            "scope": scheduler.scope,
            "rejected": {},
        }
        path: Literal["reference", "hypothesis"] | None = None
        if self.words is not None:
            path = "reference"
        elif system.perceiver is not None and self._may_be_used(scheduler, s):
            path = "hypothesis"
        alignment: Alignment | None = None
        if path is not None:
            alignment = self._chosen(path, scheduler, s, trace)
        elif system.perceiver is not None:
            trace["tau"] = scheduler.tau
        if alignment is None and path is not None:
            full = self.full(path, scheduler)
            if full is not None:
                trace["rejected"][path] = full.score
        if alignment is not None:
            trace["path"] = path
            trace["rejected"]["bottom-up"] = self.bottom.score
        others = self._others(trace["path"], scheduler) if paths else ()
        for one in others:
            trace["rejected"].setdefault(one.path, one.score)
        if alignment is None:
            for name, value in self.bottom.trace.items():
                trace.setdefault(name, value)
            return replace(self.bottom, trace=trace, hypotheses=others)
        confidences = self._confidences(alignment)
        words = self._words(alignment, path)
        if not alignment.phones:
            trace.setdefault("reason", "no phone was heard")
        return Transcript.from_alignment(
            alignment,
            confidences,
            phones=system.phones,
            words=words,
            hypotheses=others,
            trace=trace,
        )

    def _may_be_used(self, scheduler: Scheduler, s: float) -> bool:
        """Say whether the hypothesis can have any weight, before words are looked for."""
        if scheduler.scope == "segment" or scheduler.policy == "soft":
            return scheduler.tau < math.inf
        return scheduler.weight(s, None, "hypothesis") > 0

    def _chosen(
        self,
        path: Literal["reference", "hypothesis"],
        scheduler: Scheduler,
        s: float,
        trace: dict[str, Any],
    ) -> Alignment | None:
        """Decode near a reference with the weight that it deserves; None is the ear alone."""
        full = self.full(path, scheduler)
        if full is None:
            nothing = path == "hypothesis" and not self.hypotheses
            trace["reason"] = "no_hypothesis" if nothing else "no_path"
            return None
        ratio: float | None = None
        trace["tau"] = scheduler.tau_ref if path == "reference" else scheduler.tau
        if path == "reference":
            ratio = trace["evidence_ratio"] = scheduling.evidence_ratio(self.rows_TC, full)
            if scheduler.policy == "llr":
                trace["tau"] = scheduler.a + scheduler.b * s
        whole = scheduler.full_weight(path)
        if scheduler.scope == "utterance":
            lam = trace["lam"] = scheduler.weight(s, ratio, path)
            if lam in (0.0, whole):
                return full if lam else None
            return self._near(path, lam, trace)
        windows = scheduling.segments(
            len(self.rows_TC), self.emissions.frame_shift, scheduler.window
        )
        scores_W = scheduler.window_scores(
            self.rows_TC, windows, voiced=self.voiced_T, blank=self.blank
        )
        ratios: list[float | None] = [None] * len(windows)
        if path == "reference" and scheduler.policy == "llr":
            weights = self.system.channel.weights(full.canonical)
            ratios = list(
                scheduling.local_evidence(
                    self.rows_TC, full, weights, windows, whole, self.blank
                ).tolist()
            )
        lams = [
            scheduler.weight(float(score), local, path)
            for score, local in zip(scores_W, ratios, strict=True)
        ]
        shift = self.emissions.frame_shift
        trace["segments"] = [
            {
                "start": start * shift,
                "end": end * shift,
                "s": float(score),
                "evidence_ratio": local,
                "lam": lam,
            }
            for (start, end), score, local, lam in zip(windows, scores_W, ratios, lams, strict=True)
        ]
        lam_T = np.repeat(lams, [end - start for start, end in windows])
        trace["lam"] = float(lam_T.mean())
        if not lam_T.any():
            return None
        if (lam_T == whole).all():
            return full
        return self._near(path, lam_T, trace)

    def _near(self, path: str, lam: float | np.ndarray, trace: dict[str, Any]) -> Alignment | None:
        found = self.near(path, lam)
        if found is None:
            trace["reason"], trace["lam"] = "no_path", 0.0
        return found

    def _others(self, taken: str, scheduler: Scheduler) -> tuple[Hypothesis, ...]:
        """Answer by the paths that were not taken."""
        found = []
        if taken != "bottom-up":
            bottom = self.bottom
            assert bottom.score is not None
            found.append(Hypothesis("bottom-up", bottom.phones, bottom.score, bottom.confidence))
        names: tuple[Literal["hypothesis", "reference"], ...] = ("hypothesis", "reference")
        for name in names:
            possible = (
                self.words is not None if name == "reference" else self.system.perceiver is not None
            )
            if name == taken or not possible:
                continue
            full = self.full(name, scheduler)
            if full is not None:
                confidences = self._confidences(full)
                mean = sum(confidences) / len(confidences) if confidences else None
                found.append(Hypothesis(name, full.phones, full.score, mean))
        return tuple(found)

    # The answer ---------------------------------------------------------------------------------

    def _confidences(self, alignment: Alignment) -> list[float]:
        """Return the mean probability of each phone over its frames."""
        return [
            float(np.exp(self.rows_TC[start:end, phone]).mean(dtype=np.float64))
            for phone, (start, end) in zip(alignment.ids, alignment.spans, strict=True)
        ]

    def _words(self, alignment: Alignment, path: str | None) -> list[TimedWord]:
        """Give each word its phones: those of its canonical phones, and insertions behind them."""
        pairs: Sequence[tuple[str, tuple[str, ...]]]
        if path == "hypothesis":
            heard_by = (one for one in self.hypotheses if one.canonical == alignment.canonical)
            pairs = next(heard_by).words
        elif alignment.words:
            pairs = [(word.text, word.canonical) for word in alignment.words]
        else:
            pairs = [(word.text, word.phones) for word in self.words or ()]
        owner: list[int] = []
        for number, (_, phones) in enumerate(pairs):
            owner += [number] * len(phones)
        said: list[list[tuple[str, tuple[int, int]]]] = [[] for _ in pairs]
        for edit in alignment.edits:
            if edit.phone is None or edit.span is None or not owner:
                continue
            at = max(0, edit.index - 1) if edit.op == "ins" else edit.index
            said[owner[at]].append((edit.phone, edit.span))
        found = []
        for (text, canonical), heard in zip(pairs, said, strict=True):
            if not text:
                continue  # Phones of a bigram are no word.
            span = None
            if heard:
                # Repetitions go back: the first in time need not be the first in the word.
                start = min(one[0] for _, one in heard) * self.emissions.frame_shift
                end = max(one[1] for _, one in heard) * self.emissions.frame_shift
                span = Span(start, end)
            found.append(TimedWord(text, canonical, tuple(one for one, _ in heard), span))
        return found


def _edits(made: Sequence[str], said: Sequence[str]) -> float:
    return float(Levenshtein.distance(tuple(made), tuple(said)))


def _version() -> str:
    try:
        return version("modicum-huper")
    except PackageNotFoundError:
        return "unknown"
