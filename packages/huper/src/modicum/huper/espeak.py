"""The espeak-ng program: speech from text or from phones, and IPA from text.

Runs the program that the system has (GPL-3; nothing of it is linked or shipped). Every call has its
own temporary folder, so that calls may run in parallel. Takes ARPAbet phones and gives samples as
they come, 22,050 a second; resampling is the business of `modicum.huper.audio`.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile  # type: ignore[import-untyped]

__all__ = [
    "ARPABET_TO_ESPEAK",
    "INSTALL",
    "available",
    "ipa",
    "ipa_words",
    "mnemonics",
    "program",
    "speak",
    "version",
    "voices",
]

INSTALL = (
    "the program espeak-ng is needed: apt-get install espeak-ng (Debian, Ubuntu), "
    "brew install espeak-ng (macOS), or https://github.com/espeak-ng/espeak-ng/releases (Windows)"
)

ARPABET_TO_ESPEAK: Mapping[str, str] = {
    **{
        phone: phone.lower()
        for phone in ["B", "D", "F", "G", "K", "L", "M", "N", "P", "R", "S", "V", "W", "Z"]
    },
    "AA": "A:",
    "AE": "a",
    "AH": "V",
    "AO": "O:",
    "AW": "aU",
    "AY": "aI",
    "CH": "tS",
    "DH": "D",
    "DX": "t#",
    "EH": "E",
    "ER": "3:",
    "EY": "eI",
    "HH": "h",
    "IH": "I",
    "IY": "i:",
    "JH": "dZ",
    "NG": "N",
    "OW": "oU",
    "OY": "OI",
    "SH": "S",
    # Plain "t" becomes a flap between vowels in the American voice; this one stays what it is.
    "T": "t2",
    "TH": "T",
    "UH": "U",
    "UW": "u:",
    "Y": "j",
    "ZH": "Z",
}
"""espeak-ng's mnemonic of each phone, for the American English voice."""

_VOWELS = frozenset(
    ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
)
_LONGEST = 300.0
"""Seconds that one call of the program may take."""

_RATES = (80, 450)
_PITCHES = (0, 99)
_LANGUAGE_MARK = re.compile(r"\([a-z]{2,3}(?:-[a-z0-9]+)*\)", re.IGNORECASE)
_STRESS = re.compile("[ˈˌ]")
_LENGTH = re.compile("[ːˑ]")
_TIE = re.compile("[\u0361\u035c\u200d]")


def program() -> str:
    """Return the path of the program.

    Raises
    ------
    FileNotFoundError
        If it is not installed; the message says how to.
    """
    found = shutil.which("espeak-ng")
    if found is None:
        raise FileNotFoundError(INSTALL)
    return found


def available() -> bool:
    """Say whether the program is installed."""
    return shutil.which("espeak-ng") is not None


@functools.cache
def version() -> str:
    """Return the version of the program, e.g. ``"1.51"``; raises as `program`."""
    found = re.search(r"(\d+(?:\.\d+)+)", _run(["--version"], ""))
    return found.group(1) if found else "unknown"


@functools.cache
def voices() -> tuple[str, ...]:
    """Return the languages that the program speaks, as names for `voice`; raises as `program`."""
    lines = _run(["--voices"], "").splitlines()[1:]
    return tuple(dict.fromkeys(line.split()[1] for line in lines if len(line.split()) > 1))


def mnemonics(words: Sequence[Sequence[str]]) -> str:
    """Write words of ARPAbet phones as espeak-ng reads them, the first vowel of each stressed.

    Raises
    ------
    ValueError
        If a phone has no mnemonic.
    """
    spelled = []
    for word in words:
        marked, stressed = [], False
        for phone in word:
            if phone not in ARPABET_TO_ESPEAK:
                raise ValueError(
                    f"phone {phone!r} has no mnemonic of espeak-ng; known are "
                    f"{', '.join(sorted(ARPABET_TO_ESPEAK))}"
                )
            first = phone in _VOWELS and not stressed
            marked.append(("'" if first else "") + ARPABET_TO_ESPEAK[phone])
            stressed = stressed or first
        spelled.append("".join(f"{one}|" for one in marked).rstrip("|"))
    return "[[" + " ".join(spelled) + "]]"


def speak(
    text: str | None = None,
    *,
    phones: Sequence[Sequence[str]] | None = None,
    voice: str = "en-us",
    rate: int = 160,
    pitch: int = 50,
) -> tuple[np.ndarray, int]:
    """Speak text, or words given as ARPAbet phones.

    Parameters
    ----------
    text
        What to say; or None.
    phones
        Words, each a sequence of phones without stress digits; or None.
    voice
        A language of the program, with a variant if wanted: ``"en-us+f2"``.
    rate
        Words per minute, 80 … 450.
    pitch
        0 … 99.

    Returns
    -------
    samples_N, sampling_rate
        float32 (N,) with full scale 1, and samples per second.

    Raises
    ------
    FileNotFoundError
        If the program is not installed.
    ValueError
        If not exactly one of text and phones is given, a number is out of range, the voice does
        not exist, or nothing was said.
    """
    if (text is None) == (phones is None):
        raise ValueError("give text or phones, and not both")
    for name, value, (least, most) in (("rate", rate, _RATES), ("pitch", pitch, _PITCHES)):
        if not least <= value <= most:
            raise ValueError(f"{name} must be in {least} … {most}, not {value!r}")
    said = mnemonics(phones) if phones is not None else _plain(str(text))
    with tempfile.TemporaryDirectory(prefix="huper-espeak-") as folder:
        path = Path(folder) / "spoken.wav"
        options = ["-s", str(int(rate)), "-p", str(int(pitch)), "-w", str(path)]
        _run(["-v", voice, *options], said)
        if not path.exists():
            raise ValueError(f"espeak-ng said nothing for {said!r}")
        samples_N, sampling_rate = soundfile.read(path, dtype="float32")
    if not np.any(samples_N):
        raise ValueError(f"espeak-ng said nothing for {said!r}")
    return samples_N, int(sampling_rate)


def ipa(text: str, voice: str = "en-us", *, length: bool = True) -> str:
    """Return the IPA that espeak-ng gives for text, words separated by spaces.

    Marks of a changed language such as ``(en)``, of stress and ties are removed.

    Parameters
    ----------
    text
        In the language of the voice.
    voice
        As for `speak`.
    length
        Keep the marks of long sounds.

    Raises
    ------
    FileNotFoundError
        If the program is not installed.
    ValueError
        If the text is empty or the voice does not exist.
    """
    return " ".join("".join(word) for word in ipa_words(text, voice, length=length))


def ipa_words(
    text: str, voice: str = "en-us", *, length: bool = True
) -> tuple[tuple[str, ...], ...]:
    """Return the IPA of text, one tuple of espeak-ng's phonemes for each spoken word.

    A phoneme may be of several letters, such as ``"tʃ"`` or ``"aɪ"``, written NFD. Parameters and
    errors are those of `ipa`.
    """
    spoken = _run(["-q", "--ipa", "--sep=_", "-v", voice], _plain(text))
    spoken = _LANGUAGE_MARK.sub("", unicodedata.normalize("NFD", spoken))
    spoken = _TIE.sub("", _STRESS.sub("", spoken))
    if not length:
        spoken = _LENGTH.sub("", spoken)
    words = (tuple(filter(None, word.split("_"))) for word in spoken.split())
    return tuple(word for word in words if word)


def _plain(text: str) -> str:
    """Give text in which nothing is read as phoneme input, and refuse an empty one."""
    if not text.strip():
        raise ValueError("there is no text to speak")
    return text.replace("\0", " ").replace("[[", "[ [")


def _run(options: list[str], said: str) -> str:
    done = subprocess.run(
        [program(), "-b", "1", "--stdin", *options],
        input=said.encode(),
        capture_output=True,
        timeout=_LONGEST,
        check=False,
    )
    message = done.stderr.decode(errors="replace").strip()
    if "voice does not exist" in message:
        voice = options[options.index("-v") + 1]
        raise ValueError(f"espeak-ng has no voice {voice!r}; espeak.voices() lists what it has")
    if done.returncode:
        raise RuntimeError(f"espeak-ng {' '.join(options)} failed: {message or done.returncode}")
    return done.stdout.decode(errors="replace")
