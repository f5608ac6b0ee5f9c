"""Temperature, top-k, top-p and min-p on a batch of logits: the law an engine would sample from.

Takes raw logits as a NumPy array or a torch tensor and gives normalised log-probabilities of the
same kind, on the same device. Leaves everything else (penalties, grammars, padding of the
vocabulary) to the caller: a token that arrives at ``-inf`` stays there.

The rules are those of common engines. Tokens tied with the k-th largest logit all survive top-k.
Among tokens tied at the edge of top-p the higher ids survive, as after a stable ascending sort. The
most likely token survives every rule. Engines differ in one point only, the place of min-p: after
top-p in transformers, before top-k in vLLM; top-p then sees another total, see ``order``.

Legend: ``B`` rows of a batch, ``V`` vocabulary.
"""

import math
import numbers
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = Any
"""A NumPy array or a torch tensor."""

Order = Literal["transformers", "vllm"]
ORDERS: tuple[Order, ...] = ("transformers", "vllm")


def is_torch(x: object) -> TypeGuard[Any]:
    """Say whether ``x`` is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def _column(
    name: str, value: ArrayLike | None, rows: int, default: float, dtype: type
) -> NDArray[Any]:
    # One parameter as a [B] array on the host; engines keep these lists on the CPU anyway.
    if value is None:
        return np.full(rows, default, dtype=dtype)
    if is_torch(value):
        value = value.detach().cpu().numpy()
    if isinstance(value, Sequence):
        value = [default if v is None else v for v in value]
    column = np.asarray(value)
    if column.dtype == np.bool_ or not np.issubdtype(column.dtype, np.number):
        raise TypeError(f"{name} must be numeric, got {value!r}")
    if column.ndim > 1 or (column.ndim == 1 and len(column) != rows):
        raise ValueError(f"{name} has shape {column.shape}, the logits have {rows} rows")
    if dtype is np.int64 and not np.issubdtype(column.dtype, np.integer):
        raise TypeError(f"{name} must be integers, got {value!r}")
    return np.broadcast_to(column, (rows,)).astype(dtype)


def _require(name: str, column: NDArray[Any], good: NDArray[np.bool_], want: str) -> None:
    if not good.all():
        raise ValueError(f"{name} must be {want}, got {column[~good][0].item()!r}")


def _parameters(
    rows: int,
    temperature: ArrayLike | None,
    top_k: ArrayLike | None,
    top_p: ArrayLike | None,
    min_p: ArrayLike | None,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    temperature_B = _column("temperature", temperature, rows, 1.0, np.float64)
    top_k_B = _column("top_k", top_k, rows, 0, np.int64)
    top_p_B = _column("top_p", top_p, rows, 1.0, np.float64)
    min_p_B = _column("min_p", min_p, rows, 0.0, np.float64)
    _require(
        "temperature",
        temperature_B,
        (temperature_B > 0) & np.isfinite(temperature_B),
        "positive and finite (temperature 0 is greedy decoding: there is no law to warp)",
    )
    _require("top_k", top_k_B, top_k_B >= -1, "positive, or 0, -1 or None for no limit")
    _require("top_p", top_p_B, (top_p_B >= 0) & (top_p_B <= 1), "in [0, 1], 1 meaning no limit")
    _require("min_p", min_p_B, (min_p_B >= 0) & (min_p_B <= 1), "in [0, 1], 0 meaning no limit")
    return temperature_B, top_k_B, top_p_B, min_p_B


def _softmax_numpy(x_BV: NDArray[np.float32]) -> NDArray[np.float32]:
    e_BV = np.exp(x_BV - x_BV.max(axis=-1, keepdims=True))
    return e_BV / e_BV.sum(axis=-1, keepdims=True)


def _min_p_numpy(x_BV: NDArray[np.float32], min_p_B: NDArray[Any]) -> NDArray[np.float32]:
    probs_BV = _softmax_numpy(x_BV)
    floor_B1 = probs_BV.max(axis=-1, keepdims=True) * min_p_B[:, None].astype(np.float32)
    return np.where(probs_BV < floor_B1, np.float32(-np.inf), x_BV)


def _warp_numpy(
    logits_BV: NDArray[Any],
    temperature_B: NDArray[np.float64],
    top_k_B: NDArray[np.int64],
    top_p_B: NDArray[np.float64],
    min_p_B: NDArray[np.float64],
    order: Order,
) -> NDArray[np.float32]:
    V = logits_BV.shape[-1]
    x_BV: NDArray[np.float32] = logits_BV.astype(np.float32)
    scale_B1: NDArray[np.float32] = temperature_B[:, None].astype(np.float32)
    x_BV = np.divide(x_BV, scale_B1)
    if order == "vllm" and min_p_B.any():
        x_BV = _min_p_numpy(x_BV, min_p_B)
    limited_B = (top_k_B > 0) & (top_k_B < V)
    if limited_B.any() or (top_p_B < 1).any():
        index_BV = np.argsort(x_BV, axis=-1, kind="stable")
        sorted_BV = np.take_along_axis(x_BV, index_BV, axis=-1)
        if limited_B.any():
            place_B1 = (V - np.where(limited_B, top_k_B, V))[:, None]
            least_B1 = np.take_along_axis(sorted_BV, place_B1, axis=-1)
            x_BV = np.where(x_BV < least_B1, np.float32(-np.inf), x_BV)
            sorted_BV = np.where(sorted_BV < least_B1, np.float32(-np.inf), sorted_BV)
        if (top_p_B < 1).any():
            mass_BV = np.cumsum(_softmax_numpy(sorted_BV), axis=-1, dtype=np.float64)
            spare_B1 = np.where(top_p_B < 1, 1.0 - top_p_B, -1.0)[:, None]
            cut_BV = mass_BV.astype(np.float32) <= spare_B1.astype(np.float32)
            cut_BV[:, -1] = False
            drop_BV = np.empty_like(cut_BV)
            np.put_along_axis(drop_BV, index_BV, cut_BV, axis=-1)
            x_BV = np.where(drop_BV, np.float32(-np.inf), x_BV)
    if order == "transformers" and min_p_B.any():
        x_BV = _min_p_numpy(x_BV, min_p_B)
    shifted_BV = x_BV - x_BV.max(axis=-1, keepdims=True)
    return shifted_BV - np.log(np.exp(shifted_BV).sum(axis=-1, keepdims=True))


def _min_p_torch(x_BV: Any, min_p_B: Any) -> Any:
    probs_BV = x_BV.softmax(dim=-1)
    floor_B1 = probs_BV.amax(dim=-1, keepdim=True) * min_p_B[:, None]
    return x_BV.masked_fill(probs_BV < floor_B1, -math.inf)


def _warp_torch(
    logits_BV: Any,
    temperature_B: NDArray[np.float64],
    top_k_B: NDArray[np.int64],
    top_p_B: NDArray[np.float64],
    min_p_B: NDArray[np.float64],
    order: Order,
) -> Any:
    import torch

    def put(column: NDArray[Any]) -> Any:
        return torch.from_numpy(column).to(logits_BV.device, non_blocking=True)

    V = logits_BV.shape[-1]
    x_BV = logits_BV.float()
    if (temperature_B != 1).any():
        x_BV = x_BV / put(temperature_B.astype(np.float32))[:, None]
    if order == "vllm" and min_p_B.any():
        x_BV = _min_p_torch(x_BV, put(min_p_B.astype(np.float32)))
    limited_B = (top_k_B > 0) & (top_k_B < V)
    if limited_B.any():
        k_B = np.where(limited_B, top_k_B, 1)
        top_BK = x_BV.topk(int(k_B.max()), dim=-1).values
        least_B1 = top_BK.gather(-1, put(k_B - 1)[:, None])
        least_B1 = least_B1.masked_fill(put(~limited_B)[:, None], -math.inf)
        x_BV = x_BV.masked_fill(x_BV < least_B1, -math.inf)
    if (top_p_B < 1).any():
        sorted_BV, index_BV = x_BV.sort(dim=-1, stable=True)
        mass_BV = sorted_BV.softmax(dim=-1).cumsum(dim=-1)
        spare_B = np.where(top_p_B < 1, 1.0 - top_p_B, -1.0).astype(np.float32)
        cut_BV = mass_BV <= put(spare_B)[:, None]
        cut_BV[:, -1] = False
        x_BV = x_BV.masked_fill(torch.empty_like(cut_BV).scatter_(-1, index_BV, cut_BV), -math.inf)
    if order == "transformers" and min_p_B.any():
        x_BV = _min_p_torch(x_BV, put(min_p_B.astype(np.float32)))
    return x_BV.log_softmax(dim=-1)


def warp(
    logits_BV: Array,
    temperature_B: ArrayLike | None = None,
    top_k_B: ArrayLike | None = None,
    top_p_B: ArrayLike | None = None,
    min_p_B: ArrayLike | None = None,
    *,
    order: Order = "transformers",
    check: bool = True,
) -> Array:
    """Apply temperature, top-k, top-p and min-p, each with one value per row, and normalise.

    Parameters
    ----------
    logits_BV
        Real logits, NumPy or torch, shape ``[B, V]``, any floating dtype; ``-inf`` excludes a
        token.
    temperature_B
        Positive; scalar or ``[B]``. ``None`` is 1.
    top_k_B
        Integers; scalar or ``[B]``. ``None``, 0 and -1 keep everything.
    top_p_B
        In [0, 1]; scalar or ``[B]``. ``None`` and 1 keep everything; 0 keeps the likeliest token.
    min_p_B
        In [0, 1]; scalar or ``[B]``. Drops tokens less likely than this share of the likeliest
        token's probability. ``None`` and 0 keep everything.
    order
        ``"transformers"``: temperature, top-k, top-p, min-p. ``"vllm"``: temperature, min-p,
        top-k, top-p.
    check
        Look for NaN, ``+inf`` and rows without a finite logit. Costs a copy of ``B`` flags to the
        host; pass False where a caller has looked already.

    Returns
    -------
    float32 array or tensor, shape [B, V]
        Log-probabilities, ``-inf`` where a token was dropped; rows sum to one.

    Raises
    ------
    TypeError
        If the logits are not floating point or a parameter is not numeric.
    ValueError
        If a shape or a parameter is out of range, or a row holds no law.
    """
    tensor = is_torch(logits_BV)
    if not tensor and not isinstance(logits_BV, np.ndarray):
        raise TypeError(f"logits must be a NumPy array or a tensor, got {type(logits_BV).__name__}")
    floating = (
        logits_BV.is_floating_point()
        if is_torch(logits_BV)
        else np.issubdtype(logits_BV.dtype, np.floating)
    )
    if not floating:
        raise TypeError(f"logits must be floating point, got {logits_BV.dtype}")
    if logits_BV.ndim != 2 or logits_BV.shape[1] == 0:
        raise ValueError(f"logits must have shape [B, V], got {tuple(logits_BV.shape)}")
    if order not in ORDERS:
        raise ValueError(f"order must be one of {ORDERS}, got {order!r}")
    rows = logits_BV.shape[0]
    parameters = _parameters(rows, temperature_B, top_k_B, top_p_B, min_p_B)
    if rows == 0:
        return logits_BV.float() if tensor else logits_BV.astype(np.float32)
    if check:
        # The maximum is NaN, +inf or -inf exactly when the row is unusable.
        high_B = logits_BV.max(-1)
        high_B = high_B.values.float().cpu().numpy() if tensor else high_B
        bad_B = ~np.isfinite(high_B)
        if bad_B.any():
            row = int(bad_B.argmax())
            raise ValueError(
                f"row {row} of the logits has maximum {high_B[row]}; each row needs a finite "
                "logit and neither NaN nor +inf"
            )
    return (_warp_torch if tensor else _warp_numpy)(logits_BV, *parameters, order)


def _number(name: str, value: object, kind: type) -> None:
    if isinstance(value, bool) or not isinstance(value, kind):
        noun = "an integer" if kind is numbers.Integral else "a number"
        raise TypeError(f"{name} must be {noun}, got {value!r}")


@dataclass(frozen=True)
class Warper:
    """The same temperature, top-k, top-p and min-p for every row; see `warp`.

    Parameters
    ----------
    temperature
        Positive; 1 leaves the logits as they are.
    top_k
        Keep the k most likely tokens and those tied with the last; ``None``, 0 or -1 for all.
    top_p
        Keep the smallest set of most likely tokens with at least this mass; ``None`` or 1 for all.
    min_p
        Keep tokens at least this share as likely as the likeliest; ``None`` or 0 for all.
    order
        Which engine's order of the rules, ``"transformers"`` or ``"vllm"``.

    Raises
    ------
    TypeError, ValueError
        If a value is of the wrong type or out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    order: Order = "transformers"

    def __post_init__(self) -> None:
        _number("temperature", self.temperature, numbers.Real)
        if self.top_k is not None:
            _number("top_k", self.top_k, numbers.Integral)
        for name in ("top_p", "min_p"):
            if getattr(self, name) is not None:
                _number(name, getattr(self, name), numbers.Real)
        _parameters(1, self.temperature, self.top_k, self.top_p, self.min_p)
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {ORDERS}, got {self.order!r}")

    @property
    def is_identity(self) -> bool:
        """Whether the law comes out as it went in, up to normalisation."""
        return (
            self.temperature == 1
            and self.top_k in (None, 0, -1)
            and self.top_p in (None, 1)
            and self.min_p in (None, 0)
        )

    def __call__(self, logits_BV: Array) -> Array:
        """Turn logits ``[B, V]`` into float32 log-probabilities ``[B, V]``; see `warp`."""
        return warp(
            logits_BV, self.temperature, self.top_k, self.top_p, self.min_p, order=self.order
        )
