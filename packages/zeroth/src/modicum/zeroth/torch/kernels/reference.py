"""The plain-torch version: short, readable, and what the kernel is held to.

Takes what the front door checked: tensors of one device and dtype. Holds the noise of one chunk at
a time, a few megabytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from modicum.zeroth.torch.noise import Slot, chunk_noise, chunks


def add_noise(
    targets: Sequence[torch.Tensor],
    sources: Sequence[torch.Tensor],
    slots: Sequence[Slot],
    seed: int,
    directions: Sequence[int],
    scales: Sequence[float],
    decay: float,
    shapes: Sequence[torch.Tensor] | None,
    squares: bool,
) -> None:
    """Write ``decay * source + shape * sum_k scale_k z_k`` to every target."""
    if not targets:
        return
    device, dtype = targets[0].device, targets[0].dtype
    precise = torch.float64 if dtype == torch.float64 else torch.float32
    for chunk in chunks(slots, device):
        noise = chunk_noise(tuple(slot for _, slot in chunk), seed, device)
        total = torch.zeros(4 * noise.size, dtype=precise, device=device)
        for direction, scale in zip(directions, scales, strict=True):
            normals = noise.normals(direction).to(precise)
            if squares:
                normals.mul_(normals).sub_(1.0)
            total.add_(normals.mul_(scale))
        for (index, slot), part in zip(chunk, noise.split(total), strict=True):
            at = slot.start - slots[index].start
            here = slice(at, at + slot.count)
            if shapes is not None:
                part.mul_(shapes[index].view(-1)[here])
            source, target = sources[index].view(-1)[here], targets[index].view(-1)[here]
            if decay == 1.0 and dtype == precise:
                torch.add(source, part, out=target)
            else:
                # Each operation rounds by itself; torch.add with a factor could fuse two of them.
                target.copy_((source.to(precise) * decay).add_(part))
