"""Canvases of a batch, their blocks and windows.

Every sequence has a span of columns to fill, [start, start + length), cut into blocks from its
start. The window is what may be committed now: the masks of the first block that has any, and of
the next one when few are left. The horizon is the window's blocks and what a later window may need.

Shapes: N sequences, L columns of the canvas, H columns of the horizon.
"""

import torch

__all__ = ["Board"]


class Board:
    """Canvases with their windows, brought up to date by `refresh`.

    Parameters
    ----------
    canvas_NL
        Token ids, int64; changed in place.
    start_N, length_N
        First column and number of columns of each span, int64.
    mask_id
        Token that stands for an open column.
    block_length
        Columns of a block; the last one of a span may be shorter.
    unlock_threshold
        The next block opens when at most so many masks are left.
    whole_span
        Whether the window is all that is open, whatever the blocks.
    looks_ahead
        Whether the horizon has one block more than the window may have, so that predictions hold
        when a block is finished.

    Attributes
    ----------
    columns_NH, inside_NH
        Columns of the horizon, clipped to the span, and which of them were not clipped.
    window_NH, open_NH
        Columns that may be committed, and those of them that are masks.
    block_N
        Number of the block, from 0.
    live_N
        Sequences with masks.
    """

    def __init__(
        self,
        canvas_NL: torch.Tensor,
        start_N: torch.Tensor,
        length_N: torch.Tensor,
        mask_id: int,
        block_length: int,
        unlock_threshold: int = 0,
        whole_span: bool = False,
        looks_ahead: bool = True,
    ) -> None:
        self.canvas_NL = canvas_NL
        self.start_N, self.length_N = start_N, length_N
        self.mask_id = mask_id
        self.block_length = block_length
        self.unlock_threshold = unlock_threshold
        self.whole_span = whole_span
        longest = int(length_N.max())
        blocks = 1 + (unlock_threshold > 0) + looks_ahead
        self.width = longest if whole_span else min(longest, blocks * block_length)
        columns_L = torch.arange(canvas_NL.shape[1], device=canvas_NL.device)
        from_start_NL = columns_L - start_N[:, None]
        self.span_NL = (from_start_NL >= 0) & (from_start_NL < length_N[:, None])
        self.blocks_N = (length_N + block_length - 1) // block_length
        self.refresh()

    def refresh(self) -> None:
        """Bring windows up to date after the canvas has changed."""
        masks_NL = self.span_NL & (self.canvas_NL == self.mask_id)
        self.live_N = masks_NL.any(-1)
        first_N = masks_NL.long().argmax(-1) - self.start_N
        self.block_N = torch.where(self.live_N, first_N // self.block_length, self.blocks_N)
        begin_N = torch.zeros_like(first_N) if self.whole_span else self.block_N * self.block_length
        offset_NH = begin_N[:, None] + torch.arange(self.width, device=first_N.device)
        self.inside_NH = (offset_NH < self.length_N[:, None]) & self.live_N[:, None]
        last_N1 = (self.length_N - 1)[:, None]
        self.columns_NH = self.start_N[:, None] + torch.minimum(offset_NH, last_N1)
        masked_NH = self.inside_NH & masks_NL.gather(-1, self.columns_NH)
        self.window_NH = self.inside_NH
        if not self.whole_span:
            number_NH = offset_NH // self.block_length
            here_NH = self.inside_NH & (number_NH == self.block_N[:, None])
            left_N1 = (masked_NH & here_NH).sum(-1, keepdim=True)
            next_NH = self.inside_NH & (number_NH == self.block_N[:, None] + 1)
            # A block with no mask left is not the first one with masks: 0 never opens the next.
            self.window_NH = here_NH | (next_NH & (left_N1 <= self.unlock_threshold))
        self.open_NH = masked_NH & self.window_NH

    def tokens(self) -> torch.Tensor:
        """Give the canvas in the columns of the horizon, (N, H)."""
        return self.canvas_NL.gather(-1, self.columns_NH)

    def write(self, marked_NH: torch.Tensor, tokens_NH: torch.Tensor) -> None:
        """Write tokens where marked; windows stay as they are until `refresh`."""
        which_K, where_K = marked_NH.nonzero(as_tuple=True)
        self.canvas_NL[which_K, self.columns_NH[which_K, where_K]] = tokens_NH[which_K, where_K]
