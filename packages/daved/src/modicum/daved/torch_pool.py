"""Sellers' rows in a tensor, on whatever device it is.

Takes rows once, as a tensor that stays where it is or as arrays that are copied to the device, and
answers what a pool answers. Only directions go to the device and only results come back: one number
per row for scores, one small matrix for the information. Knows nothing of designs.

Shapes: n rows, d features, m queries, k rows or columns asked for, g groups of columns.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

try:
    import torch
except ImportError as error:
    raise ImportError('rows on a device need torch: pip install "modicum-daved[torch]"') from error

__all__ = ["TorchPool"]

_VALUES_OF_A_CHUNK = {"cpu": 1 << 22, "other": 1 << 26}
"""Values of one chunk of rows: a device wants few large products, a processor fits its cache."""

_HALVES = (torch.float16, torch.bfloat16)


class TorchPool:
    """Rows on a device, scored there.

    Use it where the rows lie in a tensor already, or where there are so many that a pass over them
    is what a purchase waits for. It follows the `modicum.daved.pool.Pool` protocol.

    Parameters
    ----------
    shards
        (n, d) tensor or array of a real type, or a sequence of them.
    scale
        What every row is multiplied with, (n,): 1 / sqrt(price) in a priced design. The rows
        themselves stay as they are.
    device
        Where the rows shall be; by default where a tensor is, else the CPU.
    dtype
        Type in which they are kept there: ``"float64"``, ``"float32"``, ``"float16"`` or
        ``"bfloat16"``. A single tensor of this type on this device is not copied. Products of half
        types are made in float32; the information matrix is summed in float64 whatever the type.
    chunk_size
        Rows of a chunk; by default by the device.

    Raises
    ------
    ValueError
        If there is no such floating-point type.
    """

    def __init__(
        self,
        shards: Any,
        scale: np.ndarray | None = None,
        *,
        device: Any = None,
        dtype: str = "float32",
        chunk_size: int | None = None,
    ) -> None:
        parts = list(shards) if isinstance(shards, list | tuple) else [shards]
        self.dtype = _floating(dtype)
        self.device = torch.device(_device_of(parts) if device is None else device)
        self.rows_nd = _on_device(parts, self.device, self.dtype)
        self.n, self.d = self.rows_nd.shape
        self.scale_n = None if scale is None else np.asarray(scale, dtype=np.float64)
        self.product_dtype = torch.float32 if self.dtype in _HALVES else self.dtype
        self.chunk_size = chunk_size

    def scores(self, directions_dm: np.ndarray) -> np.ndarray:
        """Give the mean over m of the squared inner products, (n,) float64."""
        return self.grouped_scores(directions_dm, [directions_dm.shape[1]])[0]

    def grouped_scores(self, directions_dk: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
        """Give scores for groups of neighbouring columns in one pass, (g, n) float64."""
        # Squares of small features would leave the range of float32.
        largest = float(np.abs(directions_dk).max(initial=0.0)) or 1.0
        columns_dk = self._sent(directions_dk / largest)
        found_gn = torch.empty((len(sizes), self.n), dtype=self.product_dtype, device=self.device)
        for where, rows_kd in self._chunks(self.product_dtype, columns_dk.shape[1]):
            squares = (rows_kd @ columns_dk).square_()
            for group, part in enumerate(squares.split(list(sizes), dim=1)):
                torch.mean(part, dim=1, out=found_gn[group, where])
        scores_gn = found_gn.cpu().numpy().astype(np.float64) * largest**2
        return scores_gn if self.scale_n is None else scores_gn * np.square(self.scale_n)

    def gram(self, weights_n: np.ndarray | None = None) -> np.ndarray:
        """Give the sum of w_j x_j x_jᵀ, (d, d) float64; every weight 1 without weights."""
        factor_n = _product(weights_n, None if self.scale_n is None else np.square(self.scale_n))
        sent_n = None if factor_n is None else torch.from_numpy(factor_n).to(self.device)
        found_dd = torch.zeros((self.d, self.d), dtype=torch.float64, device=self.device)
        for where, rows_kd in self._chunks(torch.float64, self.d):
            left_kd = rows_kd if sent_n is None else rows_kd * sent_n[where, None]
            found_dd += left_kd.T @ rows_kd
        return found_dd.cpu().numpy()

    def rows(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Give rows, (k, d) float64, in the order asked for."""
        asked_k = np.asarray(indices, dtype=np.int64)
        found = self.rows_nd.index_select(0, torch.from_numpy(asked_k).to(self.device))
        rows_kd = found.to(torch.float64).cpu().numpy()
        return rows_kd if self.scale_n is None else rows_kd * self.scale_n[asked_k, None]

    def products(self, matrix_dk: np.ndarray) -> np.ndarray:
        """Give the rows times a matrix, (n, k) float64."""
        largest = float(np.abs(matrix_dk).max(initial=0.0)) or 1.0
        columns_dk = self._sent(matrix_dk / largest)
        parts = [
            (rows_kd @ columns_dk).cpu().numpy().astype(np.float64) * largest
            for _, rows_kd in self._chunks(self.product_dtype, columns_dk.shape[1])
        ]
        products_nk = np.concatenate(parts)
        return products_nk if self.scale_n is None else products_nk * self.scale_n[:, None]

    def _sent(self, matrix_dk: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(matrix_dk)).to(
            device=self.device, dtype=self.product_dtype
        )

    def _chunks(self, dtype: torch.dtype, columns: int) -> Iterator[tuple[slice, torch.Tensor]]:
        kind = "cpu" if self.device.type == "cpu" else "other"
        most = max(1, _VALUES_OF_A_CHUNK[kind] // max(self.d, columns))
        size = self.chunk_size or most
        for start in range(0, self.n, size):
            where = slice(start, min(start + size, self.n))
            yield where, self.rows_nd[where].to(dtype)


def _floating(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype is a floating-point type of torch such as 'float32', not {name!r}")
    return found


def _device_of(parts: list[Any]) -> Any:
    return parts[0].device if isinstance(parts[0], torch.Tensor) else "cpu"


def _on_device(parts: list[Any], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Bring rows to the device, part by part, so that a memory map is never in memory twice."""
    if len(parts) == 1 and isinstance(parts[0], torch.Tensor):
        return parts[0].detach().to(device=device, dtype=dtype)
    count = sum(len(part) for part in parts)
    rows_nd = torch.empty((count, parts[0].shape[1]), dtype=dtype, device=device)
    offset = 0
    for part in parts:
        size = max(1, _VALUES_OF_A_CHUNK["cpu"] // part.shape[1])
        for start in range(0, len(part), size):
            given = part[start : start + size]
            block = given.detach() if isinstance(given, torch.Tensor) else _tensor(given)
            rows_nd[offset : offset + len(block)] = block.to(device=device, dtype=dtype)
            offset += len(block)
    return rows_nd


def _tensor(block: Any) -> torch.Tensor:
    # A copy: a block of a memory map may be read-only, which a tensor cannot be.
    return torch.from_numpy(np.array(block))


def _product(one: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
    if one is None or other is None:
        return other if one is None else np.asarray(one, dtype=np.float64)
    return np.asarray(one, dtype=np.float64) * other
