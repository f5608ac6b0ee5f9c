"""Add the noise of chosen directions to tensors in place, without ever storing it.

``target = decay * source + shape * sum_k scale_k z_k``, where ``z_k`` are the normal numbers of
`modicum.zeroth.torch.noise` in direction k: one pass that reads `source` and writes `target`, which
may be the same tensor. On a CUDA device one Triton kernel does it for all tensors at once;
elsewhere plain torch does the same, chunk by chunk, and gives the same bits. What the sum is for
(a perturbation, its undoing, a step) is left to the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch

from modicum.zeroth.torch.kernels import reference
from modicum.zeroth.torch.noise import WORD, Slot

__all__ = ["Backend", "add_noise"]

Backend = Literal["auto", "torch", "triton"]

_HALF_AND_SINGLE = (torch.float16, torch.bfloat16, torch.float32)


@torch.no_grad()
def add_noise(
    targets: Sequence[torch.Tensor],
    sources: Sequence[torch.Tensor],
    slots: Sequence[Slot],
    *,
    seed: int,
    directions: Sequence[int],
    scales: Sequence[float],
    decay: float = 1.0,
    shapes: Sequence[torch.Tensor] | None = None,
    squares: bool = False,
    backend: Backend = "auto",
) -> None:
    """Write ``decay * source + shape * sum_k scale_k z_k`` to every target.

    Sums are taken in float32 (float64 for float64 tensors), in the order of the directions, and
    rounded once.

    Parameters
    ----------
    targets, sources
        Contiguous tensors of any shape, float16, bfloat16, float32 or float64; a target has the
        dtype, device and size of its source and is that tensor or shares no memory with it.
    slots
        Which numbers of the noise belong to each target; ``slot.count`` is its size.
    seed
        Of the noise, in ``[0, 2**64)``.
    directions
        Numbers of the directions, in ``[0, 2**32)``.
    scales
        One for each direction.
    decay
        What sources are multiplied by.
    shapes
        Contiguous float32 tensors that the sums are multiplied by, of the targets' sizes; ``None``
        for ones.
    squares
        Add ``z² - 1`` in place of ``z``.
    backend
        ``"auto"`` takes Triton on CUDA where it is installed, for all dtypes but float64, and torch
        otherwise; both give the same bits.

    Raises
    ------
    ValueError
        If numbers of things disagree, a tensor is not contiguous or of another dtype, a number is
        out of its range, or the backend is unknown or cannot take what was given.
    ImportError
        For ``backend="triton"`` without Triton.
    """
    if shapes is None:
        shapes = ()
    _check(targets, sources, slots, seed, directions, scales, shapes)
    alike: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for index, target in enumerate(targets):
        alike.setdefault((target.device, target.dtype), []).append(index)
    for (device, dtype), members in alike.items():
        exact = float if dtype == torch.float64 else _float32
        arguments = (
            [targets[i] for i in members],
            [sources[i] for i in members],
            [slots[i] for i in members],
            seed,
            list(directions),
            [exact(scale) for scale in scales],
            exact(decay),
            [shapes[i] for i in members] if shapes else None,
            squares,
        )
        if _choose_backend(device, dtype, backend) == "torch":
            reference.add_noise(*arguments)
        else:
            from modicum.zeroth.torch.kernels import triton

            triton.add_noise(*arguments)


def _float32(value: float) -> float:
    return float(np.float32(value))


def _check(
    targets: Sequence[torch.Tensor],
    sources: Sequence[torch.Tensor],
    slots: Sequence[Slot],
    seed: int,
    directions: Sequence[int],
    scales: Sequence[float],
    shapes: Sequence[torch.Tensor],
) -> None:
    if not len(targets) == len(sources) == len(slots):
        raise ValueError(
            f"every target needs a source and a slot, got {len(targets)} targets, "
            f"{len(sources)} sources and {len(slots)} slots"
        )
    if len(directions) != len(scales):
        raise ValueError(
            f"every direction needs a scale, got {len(directions)} directions and "
            f"{len(scales)} scales"
        )
    if shapes and len(shapes) != len(targets):
        raise ValueError(f"got {len(shapes)} shapes for {len(targets)} targets")
    if not 0 <= seed < WORD**2:
        raise ValueError(f"seed must be in [0, 2**64), got {seed}")
    for direction in directions:
        if not 0 <= direction < WORD:
            raise ValueError(f"a direction must be in [0, 2**32), got {direction}")
    for index, (target, source, slot) in enumerate(zip(targets, sources, slots, strict=True)):
        found = (source.dtype, source.device, source.numel())
        if found != (target.dtype, target.device, target.numel()):
            raise ValueError(
                f"source {index} is {found}, its target "
                f"{(target.dtype, target.device, target.numel())}"
            )
        if slot.count != target.numel():
            raise ValueError(f"slot {index} has {slot.count} elements, its target {found[2]}")
        if target.dtype not in (*_HALF_AND_SINGLE, torch.float64):
            raise ValueError(
                f"target {index} is {target.dtype}; float16, bfloat16, float32 and float64 have "
                "noise"
            )
        for name, tensor in (("target", target), ("source", source)):
            if not tensor.is_contiguous():
                raise ValueError(f"{name} {index} must be contiguous")
    for index, shape in enumerate(shapes):
        if shape.dtype != torch.float32 or shape.numel() != slots[index].count:
            raise ValueError(
                f"shape {index} must be float32 with {slots[index].count} elements, got "
                f"{shape.dtype} with {shape.numel()}"
            )
        if not shape.is_contiguous():
            raise ValueError(f"shape {index} must be contiguous")


@cache
def _triton_installed() -> bool:
    return find_spec("triton") is not None


def _choose_backend(device: torch.device, dtype: torch.dtype, backend: str) -> str:
    fits = dtype in _HALF_AND_SINGLE
    if backend == "torch":
        return "torch"
    if backend == "auto":
        return "triton" if fits and device.type == "cuda" and _triton_installed() else "torch"
    if backend != "triton":
        raise ValueError(f'backend must be "auto", "torch" or "triton", got {backend!r}')
    if not _triton_installed():
        raise ImportError('backend="triton" needs Triton, which comes with torch for CUDA on Linux')
    if not fits:
        raise ValueError(f'backend="triton" takes float16, bfloat16 or float32, got {dtype}')
    from modicum.zeroth.torch.kernels.triton import INTERPRETED

    if device.type != "cuda" and not INTERPRETED:
        raise ValueError(
            f'backend="triton" needs a CUDA device (or TRITON_INTERPRET=1 before Triton is '
            f'imported), got {device}; backend="torch" runs there'
        )
    return "triton"
