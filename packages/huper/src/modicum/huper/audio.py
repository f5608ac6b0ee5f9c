"""Audio: anything a user has becomes 16 kHz mono float32; distortions, windows and streams.

Takes paths and arrays of any rate and channel count. Knows no model: windows follow the frame grid
of CTC speech encoders (a frame of 400 samples every 320), so that the frames of overlapping windows
join to those of the whole recording.

Shape suffixes: N samples, T frames, K taps of a room's response.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile  # type: ignore[import-untyped]
from scipy import signal

from modicum.core.experiment import write_atomic

if TYPE_CHECKING:
    import torch

__all__ = [
    "CODECS",
    "DISTORTIONS",
    "FRAME",
    "HOP",
    "SAMPLE_RATE",
    "Window",
    "babble",
    "band_limit",
    "clip",
    "codec",
    "decibel",
    "distort",
    "frame_count",
    "mix",
    "mu_law",
    "pcm16",
    "read",
    "read_blocks",
    "resample",
    "reverberate",
    "room_response",
    "standardise",
    "stitch",
    "stream",
    "white_noise",
    "windows",
    "write",
]

SAMPLE_RATE = 16_000
"""Samples per second that every model here takes."""

FRAME = 400
"""Samples that a frame sees: 25 ms."""

HOP = 320
"""Samples from one frame to the next: 20 ms."""

_LOUDEST = 10.0
"""Floating samples beyond this are integers that nobody scaled: full scale is 1."""

_INTEGER_SCALES = {"int8": 2.0**7, "uint8": 2.0**7, "int16": 2.0**15, "int32": 2.0**31}
_UNSIGNED_ZERO = 128.0

_FILTER_HALF = 10
"""Zero crossings on each side of the filter of `scipy.signal.resample_poly`."""


def frame_count(samples: int) -> int:
    """Return how many frames a model gives for a number of samples: 1 for 400, 2 for 720, ….

    Raises
    ------
    ValueError
        If there are fewer samples than a frame.
    """
    if samples < FRAME:
        raise ValueError(
            f"audio has {samples} samples of {SAMPLE_RATE} a second; a frame needs {FRAME} (25 ms)"
        )
    return (samples - FRAME) // HOP + 1


# Input ------------------------------------------------------------------------------------------


def standardise(
    audio: str | os.PathLike[str] | np.ndarray | torch.Tensor | Sequence[float],
    sampling_rate: int | None = None,
    *,
    channel_axis: int | None = None,
) -> np.ndarray:
    """Turn audio into what the models take.

    Parameters
    ----------
    audio
        A file that soundfile reads, or samples: (N,), (N, channels) or (channels, N); floating
        numbers with full scale 1, or int8, uint8, int16 or int32 PCM, which is scaled.
    sampling_rate
        Samples per second; needed for samples. A file knows its own, which this must equal.
    channel_axis
        Which axis counts channels; the shorter one if None.

    Returns
    -------
    np.ndarray
        float32 (N,), 16,000 samples per second. Channels are averaged, with a warning.

    Raises
    ------
    TypeError
        If samples come without their rate.
    ValueError
        If audio is empty, shorter than a frame (25 ms), not finite, or neither of the above.
    FileNotFoundError
        If there is no such file.
    """
    if isinstance(audio, str | os.PathLike):
        samples_N, own = read(audio)
        if sampling_rate is not None and sampling_rate != own:
            raise ValueError(f"{audio} has {own} samples per second, not {sampling_rate}")
        rate = own
    else:
        if sampling_rate is None:
            raise TypeError(
                "samples need their sampling_rate, e.g. sampling_rate=16000: the same numbers at "
                "another rate are other sounds"
            )
        rate = _checked_rate(sampling_rate)
        samples_N = _mono(audio, channel_axis)
    found_N = resample(samples_N, rate, SAMPLE_RATE)
    frame_count(len(found_N))
    return found_N


def read(path: str | os.PathLike[str]) -> tuple[np.ndarray, int]:
    """Read a sound file.

    Parameters
    ----------
    path
        WAV, FLAC, OGG, MP3 or anything else that soundfile knows.

    Returns
    -------
    samples_N, sampling_rate
        float32 (N,), channels averaged with a warning; and the file's samples per second.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no sound file, is empty, or holds numbers that are not finite.
    """
    with _opened(path) as file:
        samples_NK = file.read(dtype="float32", always_2d=True)
        rate = file.samplerate
    try:
        return _mono(samples_NK, 1), int(rate)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_blocks(
    path: str | os.PathLike[str], seconds: float = 10.0
) -> tuple[Iterator[np.ndarray], int]:
    """Read a long file piece by piece, for `stream`.

    Parameters
    ----------
    path
        As for `read`.
    seconds
        Of a piece.

    Returns
    -------
    chunks, sampling_rate
        An iterator of float32 (N,) and the samples per second of the file.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read`, here if there is no such sound file, from the iterator if a piece is bad.
    """
    _check_positive("seconds", seconds)
    with _opened(path) as file:
        rate = int(file.samplerate)

    def pieces() -> Iterator[np.ndarray]:
        with _opened(path) as file:
            for block_NK in file.blocks(
                blocksize=max(1, round(seconds * rate)), dtype="float32", always_2d=True
            ):
                yield _mono(block_NK, 1)

    return pieces(), rate


def write(
    path: str | os.PathLike[str],
    samples_N: np.ndarray,
    sampling_rate: int = SAMPLE_RATE,
    *,
    subtype: str = "PCM_16",
) -> Path:
    """Write a sound file, whole or not at all.

    Parameters
    ----------
    path
        Its ending names the format: ``.flac``, ``.wav``, ….
    samples_N
        Floating (N,); what is beyond full scale is clipped.
    sampling_rate
        Samples per second.
    subtype
        Of soundfile.

    Raises
    ------
    ValueError
        If the ending names no format that soundfile writes.
    """
    path = Path(path)
    kind = path.suffix.lstrip(".").upper()
    if kind not in soundfile.available_formats():
        raise ValueError(f"{path}: {path.suffix!r} names no sound format; .flac or .wav does")
    held = io.BytesIO()
    whole_N = np.clip(np.asarray(samples_N, dtype=np.float64), -1.0, 1.0)
    if subtype == "PCM_16":
        # Full scale as readers take it, so that what was read is written back unchanged.
        whole_N = pcm16(whole_N)
    soundfile.write(held, whole_N, sampling_rate, format=kind, subtype=subtype)
    return write_atomic(path, held.getvalue())


def pcm16(samples_N: np.ndarray) -> np.ndarray:
    """Return samples as 16-bit integers, int16 (N,), full scale 32,768; louder ones are clipped."""
    scale = _INTEGER_SCALES["int16"]
    return np.clip(np.round(np.asarray(samples_N) * scale), -scale, scale - 1).astype(np.int16)


def resample(samples_N: np.ndarray, rate: int, target: int = SAMPLE_RATE) -> np.ndarray:
    """Change the sampling rate with a polyphase filter.

    Parameters
    ----------
    samples_N
        Floating (N,).
    rate, target
        Samples per second before and after.

    Returns
    -------
    np.ndarray
        float32 (⌈N · target / rate⌉,).

    Raises
    ------
    ValueError
        If a rate is no positive integer.
    """
    rate, target = _checked_rate(rate), _checked_rate(target)
    samples_N = np.asarray(samples_N, dtype=np.float32)
    if rate == target or not len(samples_N):
        return samples_N
    divisor = math.gcd(rate, target)
    found_N = signal.resample_poly(samples_N, target // divisor, rate // divisor)
    return np.asarray(found_N, dtype=np.float32)


def _opened(path: str | os.PathLike[str]) -> soundfile.SoundFile:
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return soundfile.SoundFile(os.fspath(path))
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path} is no sound file that soundfile reads: {error}") from None


def _checked_rate(rate: Any) -> int:
    if isinstance(rate, bool) or not rate > 0 or int(rate) != rate:
        raise ValueError(f"sampling rates are positive integers per second, not {rate!r}")
    return int(rate)


def _mono(audio: Any, channel_axis: int | None = None) -> np.ndarray:
    """Give samples as float32 (N,), whatever their type and channels."""
    if hasattr(audio, "detach"):
        audio = audio.detach().cpu()
        audio = (audio.float() if audio.is_floating_point() else audio).numpy()
    samples = np.asarray(audio)
    if samples.ndim not in (1, 2):
        raise ValueError(f"samples have one axis, or two with channels, not {samples.ndim}")
    if not samples.size:
        raise ValueError("audio is empty")
    samples = _scaled(samples)
    if samples.ndim == 2:
        samples = _averaged(samples, channel_axis)
    bad_N = ~np.isfinite(samples)
    if bad_N.any():
        raise ValueError(
            f"{int(bad_N.sum())} of {len(samples)} samples are NaN or infinite, the first is "
            f"number {int(np.argmax(bad_N))}"
        )
    if (loudest := float(np.abs(samples).max())) > _LOUDEST:
        raise ValueError(
            f"the loudest sample is {loudest:.6g} and full scale is 1: give integers as integers "
            "(they are scaled), or divide by 32768 for 16-bit PCM"
        )
    return samples.astype(np.float32)


def _scaled(samples: np.ndarray) -> np.ndarray:
    name = samples.dtype.name
    if name in _INTEGER_SCALES:
        if (
            name == "int32"
            and 1 < np.abs(samples.astype(np.int64)).max() <= _INTEGER_SCALES["int16"]
        ):
            # Sums of int16 are often int32; as such they would be heard as silence.
            raise ValueError(
                "int32 samples within ±32768 look like 16-bit PCM: give them as int16, or as "
                "floating numbers over 32768"
            )
        zero = _UNSIGNED_ZERO if name == "uint8" else 0.0
        return (samples.astype(np.float64) - zero) / _INTEGER_SCALES[name]
    if not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(
            f"samples must be floating or PCM of {', '.join(_INTEGER_SCALES)}, not {name}: the "
            "full scale of others is unknown"
        )
    return samples.astype(np.float32) if name == "float16" else samples


def _averaged(samples: np.ndarray, channel_axis: int | None) -> np.ndarray:
    if channel_axis is None:
        if samples.shape[0] == samples.shape[1] and samples.size > 1:
            raise ValueError(
                f"which axis of {samples.shape} counts channels? give channel_axis=0 or 1"
            )
        channel_axis = int(np.argmin(samples.shape))
    if channel_axis not in (0, 1, -1, -2):
        raise ValueError(f"channel_axis must be 0 or 1, not {channel_axis}")
    if (channels := samples.shape[channel_axis]) > 1:
        warnings.warn(f"{channels} channels are averaged into one", stacklevel=4)
    return samples.mean(axis=channel_axis)


# Windows and streams ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """A piece of a long recording, and the frames of the recording that it stands for.

    Attributes
    ----------
    samples
        float32 (N,), 16,000 per second.
    start
        Number of its first sample in the recording, a multiple of 320.
    first, last
        Frames of the recording to take from it: first … last − 1. Its own frame k is frame
        ``start / 320 + k`` of the recording. The windows' frames follow each other without a gap.
    """

    samples: np.ndarray
    start: int
    first: int
    last: int

    @property
    def keep(self) -> slice:
        """The frames to take, counted from the window's own first frame."""
        offset = self.start // HOP
        return slice(self.first - offset, self.last - offset)


def windows(samples_N: np.ndarray, seconds: float = 30.0, overlap: float = 1.0) -> Iterator[Window]:
    """Cut a recording into overlapping windows.

    Parameters
    ----------
    samples_N
        float32 (N,), 16,000 per second, from `standardise`.
    seconds
        Of a window; it is rounded down to whole frames. A shorter recording is one window.
    overlap
        Seconds that two neighbours share; each keeps its half of the frames there.

    Yields
    ------
    Window
        In order; the last one reaches back, so that it is as long as the others.

    Raises
    ------
    ValueError
        If the recording is shorter than a frame, or a window not longer than its overlap.
    """
    return stream([samples_N], SAMPLE_RATE, seconds, overlap)


def stream(
    chunks: Iterable[Any],
    sampling_rate: int,
    seconds: float = 30.0,
    overlap: float = 1.0,
    *,
    channel_axis: int | None = None,
) -> Iterator[Window]:
    """Cut what arrives in chunks, as from a microphone, into overlapping windows.

    The windows are those that `windows` gives for the whole recording after `standardise`; a window
    is yielded once a frame beyond it has arrived, and the last when the chunks end.

    Parameters
    ----------
    chunks
        Samples as for `standardise`, in pieces of any length; empty ones are skipped.
    sampling_rate
        Samples per second of the chunks.
    seconds, overlap
        As for `windows`.
    channel_axis
        As for `standardise`.

    Yields
    ------
    Window

    Raises
    ------
    ValueError
        As `windows` and `standardise`.
    """
    rate = _checked_rate(sampling_rate)
    _check_positive("seconds", seconds)
    if not overlap >= 0:
        raise ValueError(f"overlap must not be negative seconds, not {overlap!r}")
    length = frame_count(max(FRAME, int(seconds * SAMPLE_RATE)))
    shared = round(overlap * SAMPLE_RATE / HOP)
    if shared >= length:
        raise ValueError(
            f"a window of {seconds:g} s has {length} frames and must have more than its overlap "
            f"of {overlap:g} s, {shared} frames"
        )
    return _windows_of(chunks, rate, length, shared, channel_axis)


def _windows_of(
    chunks: Iterable[Any], rate: int, length: int, shared: int, channel_axis: int | None
) -> Iterator[Window]:
    resampler = _Resampler(rate, SAMPLE_RATE)
    held_N = np.zeros(0, np.float32)
    begun = 0  # Number of the first sample that is held.
    first = 0  # Frame from which the next window counts.
    start = 0  # Frame at which the next window starts.
    for chunk in chunks:
        if not np.size(chunk):
            continue
        held_N = np.concatenate([held_N, resampler.push(_mono(chunk, channel_axis))])
        # A window goes out when it is certain not to be the last, which may reach back.
        while begun + len(held_N) >= (start + length) * HOP + FRAME:
            last = start + length - shared // 2
            yield _cut(held_N, begun, start, length, first, last)
            # The last window starts later than this one, and needs nothing before that.
            held_N, begun = held_N[start * HOP - begun :], start * HOP
            first, start = last, start + length - shared
    held_N = np.concatenate([held_N, resampler.flush()])
    total = frame_count(begun + len(held_N))
    while start + length < total:
        last = start + length - shared // 2
        yield _cut(held_N, begun, start, length, first, last)
        first, start = last, start + length - shared
    final = max(0, total - length)
    yield Window(held_N[final * HOP - begun :], final * HOP, first, total)


def _cut(held_N: np.ndarray, begun: int, start: int, length: int, first: int, last: int) -> Window:
    lower = start * HOP - begun
    upper = lower + (length - 1) * HOP + FRAME
    return Window(held_N[lower:upper], start * HOP, first, last)


def stitch(parts: Sequence[np.ndarray], cuts: Sequence[Window]) -> np.ndarray:
    """Join the frames that a model gave for each window.

    Parameters
    ----------
    parts
        Per window an array whose first axis counts its frames.
    cuts
        The windows.

    Returns
    -------
    np.ndarray
        (T, …) for the recording.

    Raises
    ------
    ValueError
        If numbers of windows or frames do not agree.
    """
    if len(parts) != len(cuts) or not cuts:
        raise ValueError(f"{len(cuts)} windows need as many parts, at least one, not {len(parts)}")
    for number, (part, cut) in enumerate(zip(parts, cuts, strict=True)):
        if len(part) != frame_count(len(cut.samples)):
            raise ValueError(
                f"window {number} of {len(cut.samples)} samples has "
                f"{frame_count(len(cut.samples))} frames, not {len(part)}"
            )
    return np.concatenate([part[cut.keep] for part, cut in zip(parts, cuts, strict=True)])


class _Resampler:
    """`resample` for chunks: what it gives, joined, is what `resample` gives for the whole."""

    def __init__(self, rate: int, target: int) -> None:
        divisor = math.gcd(rate, target)
        self.up, self.down = target // divisor, rate // divisor
        # Samples on each side that a sample of the result depends on.
        self.reach = math.ceil(_FILTER_HALF * max(self.up, self.down) / self.up) + 1
        self.held_N = np.zeros(0, np.float32)
        self.begun = 0  # Number of the first held sample, a multiple of `down`.
        self.given = 0  # Samples of the result that are out.

    def push(self, chunk_N: np.ndarray) -> np.ndarray:
        """Take samples; give those of the result that no later sample changes."""
        if self.up == self.down:
            return chunk_N
        self.held_N = np.concatenate([self.held_N, chunk_N])
        certain = (self.begun + len(self.held_N) - self.reach) * self.up // self.down
        if certain <= self.given:
            return np.zeros(0, np.float32)
        found_N = self._upto(certain)
        needed = self.given * self.down // self.up - self.reach
        drop = max(0, needed - self.begun) // self.down * self.down
        self.held_N, self.begun = self.held_N[drop:], self.begun + drop
        return found_N

    def flush(self) -> np.ndarray:
        """Give the rest of the result."""
        if self.up == self.down or not len(self.held_N):
            return np.zeros(0, np.float32)
        return self._upto(-(-(self.begun + len(self.held_N)) * self.up // self.down))

    def _upto(self, end: int) -> np.ndarray:
        offset = self.begun // self.down * self.up
        whole_N = signal.resample_poly(self.held_N, self.up, self.down)
        found_N = whole_N[self.given - offset : end - offset]
        self.given = end
        return np.asarray(found_N, dtype=np.float32)


# Distortions ------------------------------------------------------------------------------------


def decibel(signal_N: np.ndarray, noise_N: np.ndarray) -> float:
    """Return the signal-to-noise ratio 10 · log10(mean signal² / mean noise²)."""
    return 10 * math.log10(_power(signal_N) / _power(noise_N))


def mix(samples_N: np.ndarray, noise_N: np.ndarray, snr_db: float) -> np.ndarray:
    """Add noise at an exact signal-to-noise ratio.

    Parameters
    ----------
    samples_N
        float32 (N,).
    noise_N
        Floating (N,).
    snr_db
        Ratio of the mean powers over the whole recording, in decibels.

    Returns
    -------
    np.ndarray
        float32 (N,); it may exceed full scale, so that the ratio stays what was asked for.

    Raises
    ------
    ValueError
        If either is silent or the shapes differ.
    """
    samples_N, noise_N = np.asarray(samples_N, np.float64), np.asarray(noise_N, np.float64)
    if samples_N.shape != noise_N.shape:
        raise ValueError(f"noise has the shape {noise_N.shape}, the signal {samples_N.shape}")
    for name, one_N in (("signal", samples_N), ("noise", noise_N)):
        if not np.any(one_N):
            raise ValueError(f"the {name} is silent: there is no ratio to it")
    gain = math.sqrt(_power(samples_N) / _power(noise_N)) * 10 ** (-snr_db / 20)
    return (samples_N + gain * noise_N).astype(np.float32)


def white_noise(samples_N: np.ndarray, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """Add white Gaussian noise; see `mix`."""
    return mix(samples_N, rng.standard_normal(len(samples_N)), snr_db)


def babble(
    samples_N: np.ndarray,
    talkers: Sequence[np.ndarray],
    snr_db: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Add other people's speech: each talker, equally loud, repeated from a random place.

    Parameters
    ----------
    samples_N
        float32 (N,).
    talkers
        float32 arrays of any lengths; six are customary.
    snr_db
        Ratio of the signal to the sum of the talkers; see `mix`.
    rng
        For the places.

    Raises
    ------
    ValueError
        If there is no talker or one is silent, or as `mix`.
    """
    if not talkers:
        raise ValueError("babble needs the speech of at least one talker")
    noise_N = np.zeros(len(samples_N))
    for number, talker in enumerate(talkers):
        if not np.any(talker):
            raise ValueError(f"talker {number} is silent")
        place = (int(rng.integers(len(talker))) + np.arange(len(samples_N))) % len(talker)
        noise_N += np.asarray(talker, np.float64)[place] / math.sqrt(_power(talker))
    return mix(samples_N, noise_N, snr_db)


def room_response(
    rt60: float, rng: np.random.Generator, *, direct_db: float = 0.0, rate: int = SAMPLE_RATE
) -> np.ndarray:
    """Draw a room's impulse response: the direct sound and noise that decays exponentially.

    Parameters
    ----------
    rt60
        Seconds in which the reverberation falls by 60 dB.
    rng
        For the noise.
    direct_db
        Energy of the direct sound over that of the reverberation, in decibels.
    rate
        Samples per second.

    Returns
    -------
    np.ndarray
        float64 (K,), K = rt60 · rate + 1, of energy 1. The first is the direct sound.

    Raises
    ------
    ValueError
        If `rt60` is not positive.
    """
    _check_positive("rt60", rt60)
    taps = max(1, round(rt60 * rate))
    decay_K = 10 ** (-3 * np.arange(1, taps + 1) / (rt60 * rate))
    tail_K = rng.standard_normal(taps) * decay_K
    tail_K /= np.linalg.norm(tail_K) * 10 ** (direct_db / 20)
    response_K = np.concatenate([[1.0], tail_K])
    return response_K / np.linalg.norm(response_K)


def reverberate(
    samples_N: np.ndarray, rt60: float, rng: np.random.Generator, *, direct_db: float = 0.0
) -> np.ndarray:
    """Speak in a room drawn by `room_response`; as long and as loud (mean power) as before."""
    response_K = room_response(rt60, rng, direct_db=direct_db)
    wet_N = signal.fftconvolve(np.asarray(samples_N, np.float64), response_K)[: len(samples_N)]
    if np.any(wet_N):
        wet_N *= math.sqrt(_power(samples_N) / _power(wet_N))
    return wet_N.astype(np.float32)


def band_limit(samples_N: np.ndarray, rate: int = 8_000) -> np.ndarray:
    """Take away what a lower sampling rate cannot carry: everything above half of `rate`.

    Parameters
    ----------
    samples_N
        float32 (N,), 16,000 per second.
    rate
        Of the channel, below 16,000; 8,000 is a telephone.

    Raises
    ------
    ValueError
        If `rate` is not below 16,000.
    """
    if not 0 < rate < SAMPLE_RATE:
        raise ValueError(f"rate must be below {SAMPLE_RATE}, not {rate}")
    narrow = resample(samples_N, SAMPLE_RATE, rate)
    return resample(narrow, rate, SAMPLE_RATE)[: len(samples_N)]


def clip(samples_N: np.ndarray, fraction: float) -> np.ndarray:
    """Cut the loudest samples off.

    Parameters
    ----------
    samples_N
        float32 (N,).
    fraction
        Of the samples, in [0, 1), that are set to the level at which they are cut.

    Raises
    ------
    ValueError
        If the fraction is out of range.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction must be in [0, 1), not {fraction!r}")
    samples_N = np.asarray(samples_N, np.float32)
    cut = int(fraction * len(samples_N))
    if not cut:
        return samples_N.copy()
    level = np.sort(np.abs(samples_N))[len(samples_N) - cut - 1]
    return np.clip(samples_N, -level, level)


def mu_law(samples_N: np.ndarray, bits: int = 8, mu: float = 255.0) -> np.ndarray:
    """Compress, round to a number of bits and expand: ln(1 + μ|x|) / ln(1 + μ).

    Parameters
    ----------
    samples_N
        float32 (N,); what is beyond full scale is clipped.
    bits
        Of a sample: 2**bits levels, evenly spaced from −1 to 1 after compression.
    mu
        Of the law.

    Raises
    ------
    ValueError
        If `bits` is not in 1 … 16 or `mu` not positive.
    """
    if not 1 <= bits <= 16:
        raise ValueError(f"bits must be in 1 … 16, not {bits}")
    _check_positive("mu", mu)
    held_N = np.clip(np.asarray(samples_N, np.float64), -1, 1)
    pressed_N = np.sign(held_N) * np.log1p(mu * np.abs(held_N)) / math.log1p(mu)
    steps = 2**bits - 1
    pressed_N = np.round((pressed_N + 1) / 2 * steps) / steps * 2 - 1
    found_N = np.sign(pressed_N) * np.expm1(np.abs(pressed_N) * math.log1p(mu)) / mu
    return found_N.astype(np.float32)


CODECS: Mapping[str, tuple[str, str, int]] = {
    "mp3": ("MP3", "MPEG_LAYER_III", SAMPLE_RATE),
    "opus": ("OGG", "OPUS", SAMPLE_RATE),
    "vorbis": ("OGG", "VORBIS", SAMPLE_RATE),
    "gsm": ("WAV", "GSM610", 8_000),
    "g721": ("AU", "G721_32", 8_000),
    "adpcm": ("WAV", "IMA_ADPCM", SAMPLE_RATE),
    "ulaw": ("WAV", "ULAW", 8_000),
    "alaw": ("WAV", "ALAW", 8_000),
}
"""Name of each codec: soundfile's format and subtype, and its samples per second."""


def codec(samples_N: np.ndarray, name: str, *, quality: float | None = None) -> np.ndarray:
    """Encode and decode.

    Parameters
    ----------
    samples_N
        float32 (N,), 16,000 per second; what is beyond full scale is clipped.
    name
        One of `CODECS`; those of telephones work at 8,000 samples per second.
    quality
        For MP3, Opus and Vorbis: soundfile's compression level from 0 (best) to 1.

    Returns
    -------
    np.ndarray
        float32 (N,), in step with the original.

    Raises
    ------
    ValueError
        If the codec is unknown, or this build of libsndfile lacks it.
    """
    if name not in CODECS:
        raise ValueError(f"codec must be one of {', '.join(CODECS)}, not {name!r}")
    kind, subtype, rate = CODECS[name]
    if subtype not in (
        soundfile.available_subtypes(kind) if kind in soundfile.available_formats() else {}
    ):
        raise ValueError(
            f"libsndfile {soundfile.__libsndfile_version__} has no {name}; take another codec or "
            "a newer soundfile"
        )
    samples_N = np.asarray(samples_N, np.float32)
    narrow = np.clip(resample(samples_N, SAMPLE_RATE, rate), -1, 1)
    held = io.BytesIO()
    soundfile.write(held, narrow, rate, format=kind, subtype=subtype, compression_level=quality)
    held.seek(0)
    heard, heard_rate = soundfile.read(held, dtype="float32")
    wide = resample(heard, int(heard_rate), SAMPLE_RATE)[: len(samples_N)]
    return np.pad(wide, (0, len(samples_N) - len(wide)))


DISTORTIONS = ("white", "babble", "reverberation", "band", "clipping", "mu_law", *CODECS)
"""The kinds of `distort`."""


def distort(
    samples_N: np.ndarray,
    kind: str,
    level: float | None,
    rng: np.random.Generator,
    *,
    talkers: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Apply one distortion by its name.

    Parameters
    ----------
    samples_N
        float32 (N,), 16,000 per second.
    kind
        One of `DISTORTIONS`.
    level
        Signal-to-noise ratio in decibels for ``"white"`` and ``"babble"``; seconds of RT60 for
        ``"reverberation"``; samples per second for ``"band"``; fraction for ``"clipping"``; bits
        for ``"mu_law"``; `codec`'s quality, None for its default, for a codec.
    rng
        For what is random.
    talkers
        For ``"babble"``.

    Raises
    ------
    ValueError
        If the kind is unknown or lacks its level, or as the function of that kind.
    """
    if kind in CODECS:
        return codec(samples_N, kind, quality=level)
    if kind not in DISTORTIONS:
        raise ValueError(f"kind must be one of {', '.join(DISTORTIONS)}, not {kind!r}")
    if level is None:
        raise ValueError(f"{kind} needs a level")
    if kind == "white":
        return white_noise(samples_N, level, rng)
    if kind == "babble":
        return babble(samples_N, talkers, level, rng)
    if kind == "reverberation":
        return reverberate(samples_N, level, rng)
    if kind == "band":
        return band_limit(samples_N, int(level))
    return clip(samples_N, level) if kind == "clipping" else mu_law(samples_N, int(level))


def _power(samples_N: np.ndarray) -> float:
    return float(np.mean(np.square(np.asarray(samples_N, np.float64))))


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be positive, not {value!r}")
