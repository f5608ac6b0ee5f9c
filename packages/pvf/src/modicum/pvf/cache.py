"""Keys and values that are kept between calls, so that a call processes a window and not all.

`CachedForward` is a way for rows to get their logits (see `modicum.pvf.decoder.Forward`). At the
start of a block the base row of a sequence goes through the network whole and its keys and values
stay; until the block ends, only the window of each row does, and what is outside is as it was. All
rows of a sequence, the base and its drafts, are one row of the network: drafts see the keys of the
base outside the window and their own inside, so that what is kept is neither copied for each row
nor computed again. Which model this is does not matter here: it takes keys and values through an
object with ``update``, as transformers do.

Answers are not those of the model without a cache: what is outside the window does not see what was
committed since, and drafts never change it.

Shapes: T rows of a call, S sequences of a call, N sequences of a batch, L columns of a canvas, H
columns asked for, W columns of a window, Q columns that go through the network, B of them of the
base row, K keys, D width of the hidden states, V vocabulary.

Source: "Fast-dLLM", Wu et al., arXiv 2505.22618, for one row.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol

import torch

from modicum.pvf.decoder import Rows
from modicum.pvf.validation import check_choice, check_count

__all__ = ["CachedForward", "WindowModel"]


class WindowModel(Protocol):
    """What a model must be able to do to be cached."""

    right_shift: bool
    """Whether a column's hidden state predicts the next column."""

    def check(self, ids_RL: torch.Tensor, attention_mask_RL: torch.Tensor | None) -> None:
        """Refuse canvases that the model cannot take."""

    def predicting(self, positions_RH: torch.Tensor) -> torch.Tensor:
        """Give the columns whose hidden states predict what stands at some positions."""

    def hidden(
        self,
        ids_RQ: torch.Tensor,
        numbers_RQ: torch.Tensor | None,
        attention: torch.Tensor | None,
        past_key_values: Any = None,
    ) -> torch.Tensor:
        """Give hidden states, (R, Q, D), with keys and values that ``update`` gives."""

    def head(self, hidden_RHD: torch.Tensor) -> torch.Tensor:
        """Give logits, (R, H, V)."""


class CachedForward:
    """Rows get their logits from their windows and from what is kept of the rest.

    Parameters
    ----------
    model
        The model.
    mode
        ``"dual"``: the window is the columns asked for, what is before and behind them is kept.
        ``"prefix"``: the window goes to the end of the canvas, only what is before it is kept.
    refresh_every
        Calls after which all is computed anew within a block; by default only when a block is
        entered.

    Raises
    ------
    ValueError
        If an argument is not valid.
    """

    def __init__(
        self,
        model: WindowModel,
        mode: Literal["prefix", "dual"],
        refresh_every: int | None = None,
    ) -> None:
        check_choice("cache", mode, ("prefix", "dual"))
        if refresh_every is not None:
            check_count("refresh_every", refresh_every)
        self.model = model
        self.mode = mode
        self.refresh_every = refresh_every
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._block_N: torch.Tensor | None = None
        self._call_N: torch.Tensor | None = None

    @torch.no_grad()
    def __call__(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give logits (T, H, V), the columns processed in each row, and which rows were whole.

        Rows of a sequence stand together, its base row first.

        Returns
        -------
        tuple
            Logits, (T, H, V); columns, (T,) int64; whole, (T,) bool: base rows of sequences whose
            keys were computed anew.
        """
        self.model.check(rows.ids, rows.attention_mask)
        stale_T = self._stale(rows)
        logits_THV = None
        columns_T = torch.empty_like(rows.sequence)
        for is_whole, chosen_T in ((True, stale_T), (False, ~stale_T)):
            if not bool(chosen_T.any()):
                continue
            logits_PHV, columns_T[chosen_T] = self._pass(_chosen(rows, chosen_T), is_whole)
            if bool(chosen_T.all()):
                logits_THV = logits_PHV
            else:
                if logits_THV is None:
                    logits_THV = logits_PHV.new_empty((len(chosen_T), *logits_PHV.shape[1:]))
                logits_THV[chosen_T] = logits_PHV
        assert logits_THV is not None
        return logits_THV, columns_T, stale_T & _is_base(rows.sequence)

    def _stale(self, rows: Rows) -> torch.Tensor:
        """Say which rows belong to sequences whose keys are to be computed anew, and note it."""
        count = int(rows.sequence.max()) + 1
        if self._block_N is None or self._call_N is None or len(self._block_N) < count:
            self._grow(count, rows.block)
        assert self._block_N is not None and self._call_N is not None
        stale_T = self._block_N[rows.sequence] != rows.block
        if self.refresh_every is not None:
            age_T = rows.call - self._call_N[rows.sequence]
            stale_T = stale_T | (age_T >= self.refresh_every)
        anew_T = rows.sequence[stale_T]
        self._block_N[anew_T] = rows.block[stale_T]
        self._call_N[anew_T] = rows.call[stale_T]
        return stale_T

    def _grow(self, count: int, like: torch.Tensor) -> None:
        """Make room for more sequences."""
        unseen_N = torch.full((count,), -1, dtype=torch.int64, device=like.device)
        for name in ("_block_N", "_call_N"):
            held = getattr(self, name)
            grown = unseen_N.clone()
            if held is not None:
                grown[: len(held)] = held
            setattr(self, name, grown)
        for layer, pair in self._layers.items():
            self._layers[layer] = tuple(  # type: ignore[assignment]
                torch.cat([kept, kept.new_zeros((count - len(kept), *kept.shape[1:]))])
                for kept in pair
            )

    def _pass(self, rows: Rows, is_whole: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Bring rows of sequences that are all stale, or all not, through the network.

        Returns
        -------
        tuple
            Logits, (T, H, V), and columns of each row, (T,) int64.
        """
        assert self._block_N is not None
        packed = _pack(rows, self._window(rows), is_whole)
        keys = _Keys(self._layers, len(self._block_N), rows.ids.shape[1], packed)
        hidden_SQD = self.model.hidden(packed.ids_SQ, packed.numbers_SQ, packed.attention, keys)
        asked_TH = self.model.predicting(rows.positions)
        first_T1 = packed.window.columns_SW[packed.row_T, :1]
        begin_T1 = packed.begin_T[:, None]
        inside_TH = asked_TH - first_T1 + begin_T1
        if is_whole:
            inside_TH = torch.where(begin_T1 == 0, asked_TH, inside_TH)
        logits_THV = self.model.head(hidden_SQD[packed.row_T[:, None], inside_TH])
        width = packed.window.columns_SW.shape[1]
        base = packed.base_columns_SB.shape[1]
        return logits_THV, torch.where(packed.begin_T == 0, base, width)

    def _window(self, rows: Rows) -> "_Window":
        """Give the columns of each sequence that are computed in every call."""
        base_T = _is_base(rows.sequence)
        positions_SH = rows.positions[base_T]
        first_S1 = self.model.predicting(positions_SH[:, :1])
        last_S1 = positions_SH[:, -1:]
        width = positions_SH.shape[1] + int(self.model.right_shift)
        if self.mode == "prefix":
            last_S1 = torch.full_like(last_S1, rows.ids.shape[1] - 1)
            if rows.attention_mask is not None:
                columns_L = torch.arange(rows.ids.shape[1], device=rows.ids.device)
                last_S1 = (columns_L * rows.attention_mask[base_T]).amax(-1, keepdim=True)
            width = int((last_S1 - first_S1).max()) + 1
        columns_SW = first_S1 + torch.arange(width, device=rows.ids.device)
        return _Window(torch.minimum(columns_SW, last_S1), columns_SW <= last_S1)


@dataclass(frozen=True)
class _Window:
    """Columns computed in every call, (S, W), and which do not stand there a second time."""

    columns_SW: torch.Tensor
    is_first_SW: torch.Tensor


@dataclass(frozen=True)
class _Packed:
    """Rows of a call as the network takes them: each sequence is one, its drafts behind its base.

    Attributes
    ----------
    ids_SQ, numbers_SQ
        Tokens, and their places in the sequence: B of the base row, then W of each draft.
    attention
        What `WindowModel.hidden` takes.
    window
        Columns of drafts; of the base row as well unless it is whole.
    base_columns_SB, is_new_SB
        Columns of the base row, and which of them are written to what is kept.
    sequence_S
        Numbers of the sequences in the batch.
    row_T, begin_T
        Where each row of the call begins: which row, and which column of Q; 0 for base rows.
    """

    ids_SQ: torch.Tensor
    numbers_SQ: torch.Tensor
    attention: torch.Tensor | None
    window: _Window
    base_columns_SB: torch.Tensor
    is_new_SB: torch.Tensor
    sequence_S: torch.Tensor
    row_T: torch.Tensor
    begin_T: torch.Tensor


def _pack(rows: Rows, window: _Window, is_whole: bool) -> _Packed:
    """Put the drafts of each sequence behind its base row."""
    is_base_T = _is_base(rows.sequence)
    row_T = is_base_T.long().cumsum(0) - 1
    place_T = torch.arange(len(row_T), device=row_T.device)
    draft_T = place_T - place_T[is_base_T][row_T] - 1
    drafts = int(draft_T.max()) + 1
    ids_SL, mask_SL = rows.ids[is_base_T], rows.attention_mask
    numbers_SL = torch.arange(ids_SL.shape[1], device=ids_SL.device).expand_as(ids_SL)
    if mask_SL is not None:
        mask_SL = mask_SL[is_base_T]
        numbers_SL = places(mask_SL)
    columns_SB, is_new_SB = window.columns_SW, window.is_first_SW
    if is_whole:
        columns_SB = torch.arange(ids_SL.shape[1], device=ids_SL.device).expand_as(ids_SL)
        is_new_SB = torch.ones_like(columns_SB, dtype=torch.bool)
    # Sequences with fewer drafts than others repeat their base row, and nobody looks.
    ids_SRW = ids_SL.gather(-1, window.columns_SW)[:, None].repeat(1, drafts, 1)
    is_draft_T = ~is_base_T
    at = row_T[is_draft_T], draft_T[is_draft_T]
    ids_SRW[at] = rows.ids[is_draft_T].gather(-1, window.columns_SW[at[0]])
    numbers_SW = numbers_SL.gather(-1, window.columns_SW)
    base, width = columns_SB.shape[1], window.columns_SW.shape[1]
    return _Packed(
        ids_SQ=torch.cat([ids_SL.gather(-1, columns_SB), ids_SRW.flatten(1)], -1),
        numbers_SQ=torch.cat([numbers_SL.gather(-1, columns_SB), numbers_SW.repeat(1, drafts)], -1),
        attention=_attention(mask_SL, window, base, drafts, ids_SL),
        window=window,
        base_columns_SB=columns_SB,
        is_new_SB=is_new_SB,
        sequence_S=rows.sequence[is_base_T],
        row_T=row_T,
        begin_T=torch.where(is_base_T, 0, base + draft_T * width),
    )


def _attention(
    mask_SL: torch.Tensor | None, window: _Window, base: int, drafts: int, like_SL: torch.Tensor
) -> torch.Tensor | None:
    """Say which keys each query sees: L that are kept, then W of each draft.

    Returns
    -------
    torch.Tensor or None
        (S, 1, Q, K) bool; without drafts the mask of the padding.
    """
    if not drafts:
        return mask_SL
    real_SL = torch.ones_like(like_SL, dtype=torch.bool) if mask_SL is None else mask_SL
    column_L = torch.arange(real_SL.shape[1], device=real_SL.device)
    first_S1, last_S1 = window.columns_SW[:, :1], window.columns_SW[:, -1:]
    outside_SL = real_SL & ((column_L < first_S1) | (column_L > last_S1))
    width = window.columns_SW.shape[1]
    count = len(real_SL)
    kept_SQL = torch.cat(
        [
            real_SL[:, None].expand(-1, base, -1),
            outside_SL[:, None].expand(-1, drafts * width, -1),
        ],
        1,
    )
    own_RR = torch.eye(drafts, dtype=torch.bool, device=real_SL.device)
    own_SRWRW = own_RR[None, :, None, :, None] & window.is_first_SW[:, None, None, None]
    own_SRWRW = own_SRWRW.expand(count, drafts, width, drafts, width)
    own_SQK = torch.cat(
        [
            own_RR.new_zeros((count, base, drafts * width)),
            own_SRWRW.reshape(count, drafts * width, drafts * width),
        ],
        1,
    )
    return torch.cat([kept_SQL, own_SQK], -1)[:, None]


class _Keys:
    """What transformers take for a cache: keeps the base rows' keys and values, gives all.

    Parameters
    ----------
    layers
        Keys and values of each layer, (N, heads, L, width of a head) each; changed in place.
    count, columns
        N and L.
    packed
        The rows of the call.
    """

    def __init__(
        self,
        layers: dict[int, tuple[torch.Tensor, torch.Tensor]],
        count: int,
        columns: int,
        packed: _Packed,
    ) -> None:
        self.layers = layers
        self.count, self.columns = count, columns
        self.base = packed.base_columns_SB.shape[1]
        self.has_all = len(packed.sequence_S) == count
        row_C, query_C = packed.is_new_SB.nonzero(as_tuple=True)
        column_C = packed.base_columns_SB[row_C, query_C]
        sequence_S = packed.sequence_S
        self._places: dict[torch.device, tuple[torch.Tensor, ...]] = {
            row_C.device: (sequence_S, sequence_S[row_C], row_C, query_C, column_C)
        }

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep keys and values of base rows; give all that the queries may see."""
        if layer not in self.layers:
            shape = (self.count, key.shape[1], self.columns)
            self.layers[layer] = (
                key.new_zeros((*shape, key.shape[3])),
                value.new_zeros((*shape, value.shape[3])),
            )
        kept_key, kept_value = self.layers[layer]
        return self._kept(kept_key, key), self._kept(kept_value, value)

    def _kept(self, kept: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        sequence_S, number_C, row_C, query_C, column_C = self._at(new.device)
        kept[number_C, :, column_C] = new[row_C, :, query_C]
        given = kept if self.has_all else kept[sequence_S]
        drafts = new[:, :, self.base :]
        return torch.cat([given, drafts], 2) if drafts.shape[2] else given

    def _at(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """Give the places to write to where a layer is: a model may lie on several devices."""
        if device not in self._places:
            first = next(iter(self._places.values()))
            self._places[device] = tuple(place.to(device) for place in first)
        return self._places[device]

    def get_query_offset(self, layer: int = 0) -> int:
        """Give the number of keys before the first query; nothing is causal."""
        return 0

    def get_mask_sizes(self, queries: int, layer: int) -> tuple[int, int]:
        """Give the number of keys without drafts, and the first one's."""
        return self.columns, 0


def places(mask_RL: torch.Tensor) -> torch.Tensor:
    """Give the number of each column among those that are no padding, (R, L) int64 from 0."""
    return (mask_RL.long().cumsum(-1) - 1).clamp(min=0)


def _is_base(sequence_T: torch.Tensor) -> torch.Tensor:
    """Mark the first row of each sequence, (T,) bool."""
    return torch.cat([sequence_T.new_ones(1).bool(), sequence_T[1:] != sequence_T[:-1]])


def _chosen(rows: Rows, chosen_T: torch.Tensor) -> Rows:
    """Keep some rows."""
    if bool(chosen_T.all()):
        return rows
    values = {item.name: getattr(rows, item.name) for item in fields(rows)}
    return replace(rows, **{k: v[chosen_T] for k, v in values.items() if v is not None})
