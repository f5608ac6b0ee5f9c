"""A few numbers of every process, to every process.

Takes rows of floats, gives the rows of all ranks in their order. Nothing else of a distributed run
is here: which directions a rank evaluates and what the numbers mean is left to the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

Group = Any
"""``None`` (one process), ``"world"`` or a group of `torch.distributed`."""


@dataclass(frozen=True)
class Membership:
    """Where a process stands in a group; one process alone has rank 0 and size 1."""

    rank: int = 0
    size: int = 1
    group: Any = None


def resolve_group(group: Group) -> Membership:
    """Look up this process's place.

    Raises
    ------
    ValueError
        If a group is named and `torch.distributed` is not initialised, or the word is unknown.
    """
    if group is None:
        return Membership()
    if isinstance(group, str) and group != "world":
        raise ValueError(
            f'process_group must be None, "world" or a group of torch.distributed, got {group!r}'
        )
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized():
        raise ValueError(
            f"process_group={group!r} needs torch.distributed.init_process_group first"
        )
    handle = None if group == "world" else group
    return Membership(distributed.get_rank(handle), distributed.get_world_size(handle), handle)


def gather(
    rows: Sequence[Sequence[float]], membership: Membership, device: torch.device
) -> list[list[float]]:
    """Return the rows of all processes, in the order of ranks.

    Parameters
    ----------
    rows
        This process's; every process has as many, of the same length.
    membership
        From `resolve_group`.
    device
        Where a backend without the CPU is to find them.
    """
    if membership.size == 1:
        return [list(row) for row in rows]
    from torch import distributed

    backend = distributed.get_backend(membership.group)
    place = torch.device("cpu") if "gloo" in backend else device
    mine = torch.tensor(rows, dtype=torch.float64, device=place)
    everyone = [torch.empty_like(mine) for _ in range(membership.size)]
    distributed.all_gather(everyone, mine, group=membership.group)
    return torch.cat(everyone).tolist()
