"""Prompts shared out over the processes of torchrun or accelerate, answers in their old order.

Every process holds the model and decodes its own share; nothing is exchanged until the answers are
gathered. How a share is decoded is `modicum.pvf.generate`'s business.

Shapes: N prompts, P columns of a prompt, G columns to generate, L columns of a canvas.
"""

import os
from typing import Any

import torch
from torch import distributed

from modicum.pvf.canvases import each_prompt, padding_id
from modicum.pvf.generation import GenerateOutput, generate
from modicum.pvf.predictor import MaskPredictor, as_predictor

__all__ = ["generate_distributed"]


def generate_distributed(
    model: MaskPredictor,
    prompts: Any,
    *,
    attention_mask: torch.Tensor | None = None,
    group: Any = None,
    **options: Any,
) -> GenerateOutput:
    """Continue prompts in all processes of a group, each its share of them.

    Without a group of processes it is `modicum.pvf.generate`. Every process gives the same prompts
    and gets all answers; prompts that follow each other are decoded together.

    Parameters
    ----------
    model
        The same in every process, on a device of its own.
    prompts, attention_mask
        As in `modicum.pvf.generate`.
    group
        Of `torch.distributed`; all processes by default. Objects are gathered through it, with NCCL
        over the current device, which `torch.cuda.set_device` says.
    options
        As in `modicum.pvf.generate`; ``on_step`` is called with the commits of the process's own
        prompts, under their numbers among all.

    Returns
    -------
    GenerateOutput
        In the order of the prompts, the same in every process. Seconds are those of the share.

    Raises
    ------
    ValueError
        If a launcher started several processes that are not connected, or as `generate`.
    RuntimeError
        If another process failed; the message is its own.

    Examples
    --------
    Under ``torchrun --nproc-per-node 8 script.py``::

        torch.distributed.init_process_group()
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        model = load_mask_predictor("FOLDER", device="cuda")
        out = generate_distributed(model, prompts, gen_length=256)
    """
    model = as_predictor(model)
    rank, world = _place(group)
    rows = each_prompt(prompts)
    begin, end = len(rows) * rank // world, len(rows) * (rank + 1) // world
    share: GenerateOutput | Exception | None = None
    if end > begin or world == 1:
        try:
            share = generate(
                model,
                rows[begin:end],
                attention_mask=None if attention_mask is None else attention_mask[begin:end],
                first_prompt=begin,
                **options,
            )
        except Exception as error:
            # The others wait for this process: they have to hear of it.
            share = error
    return _together(_gathered(share, world, group), rank, padding_id(model))


def _place(group: Any) -> tuple[int, int]:
    """Give number and count of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(group), distributed.get_world_size(group)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']} and the processes are not connected: call "
            "torch.distributed.init_process_group first"
        )
    return 0, 1


def _gathered(share: Any, world: int, group: Any) -> list[Any]:
    """Give what all processes have, in their order."""
    if world == 1:
        return [share]
    shares: list[Any] = [None] * world
    own = share if not isinstance(share, Exception) else _Failed(repr(share))
    distributed.all_gather_object(shares, own, group=group)
    # An exception that cannot be sent keeps its type where it was raised.
    shares[distributed.get_rank(group)] = share
    return shares


class _Failed(RuntimeError):
    """Stands for the exception of another process."""


def _together(shares: list[Any], rank: int, padding: int) -> GenerateOutput:
    """Put the shares of all processes one behind the other."""
    if isinstance(shares[rank], Exception):
        raise shares[rank]
    for number, share in enumerate(shares):
        if isinstance(share, _Failed):
            raise RuntimeError(f"process {number} failed: {share}")
    parts: list[GenerateOutput] = [share for share in shares if share is not None]
    rows = [row for part in parts for row in part.sequences]
    return GenerateOutput(
        torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding),
        torch.cat([part.generated for part in parts]),
        [item for part in parts for item in part.stats],
        None if parts[0].texts is None else [text for part in parts for text in part.texts or ()],
        None
        if parts[0].trace is None
        else [commits for part in parts for commits in part.trace or ()],
    )
