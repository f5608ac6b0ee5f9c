"""Random directions that depend on (seed, stream, row) and on nothing else.

Row ``i`` of a stream is computed from a counter, so the same row comes out whatever was drawn
before it, on which machine and in how many pieces. NumPy and torch compute the same numbers (to
rounding, below 1e-12). Knows nothing of points, radii and functions.

The generator is Philox4x32-10 (`modicum.core.prf.philox4x32`) with the row as its counter and a
hash of the seed and the stream as its key; normal numbers are Box–Muller transforms of its 32-bit
words. Rows of the kinds ``orthogonal`` and ``coordinate`` belong together in blocks of
``dimension``; rows that start or end inside a block are the same as those of the complete block.

Legend: ``N`` rows, ``d`` dimension, ``W`` words of a row, ``B`` blocks of ``d`` rows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from modicum.core.device import numpy_generator, resolve_device
from modicum.core.prf import MASK32, philox4x32, uniform32

__all__ = ["KINDS", "draw_directions", "draw_pair_directions"]

Array = Any
"""A NumPy array or a torch tensor."""

_WORDS_PER_COUNTER = 4
_BITS_PER_WORD = 32
# Numbers made at once: few enough for a CPU's second-level cache, many enough to fill a GPU.
_CHUNK_HOST, _CHUNK_DEVICE = 1 << 15, 1 << 24


def draw_directions(
    kind: str,
    count: int,
    dimension: int,
    seed: int,
    *stream: int | str,
    start: int = 0,
    device: Any = None,
) -> Array:
    """Draw rows ``start … start + count - 1`` of a stream of directions.

    Parameters
    ----------
    kind
        ``"sphere"``: uniform on the unit sphere (a normal vector divided by its norm, which is
        never 0). ``"orthogonal"``: every ``dimension`` rows are the rows of an orthogonal matrix
        with Haar distribution (QR factorisation of normal numbers, signs fixed). ``"gaussian"``:
        independent standard normal numbers, of norm about ``√dimension``. ``"rademacher"``:
        entries ``±1/√dimension``. ``"coordinate"``: every ``dimension`` rows are the coordinate
        vectors in random order.
    count
        Number of rows, at least 0.
    dimension
        Length of a row, at least 1.
    seed
        Integer in ``[0, 2**63)``.
    *stream
        Strings and integers in ``[0, 2**32)`` that say what the directions are for, such as the
        number of a round. Streams of one seed are independent of each other.
    start
        First row, so that a stream can be made in pieces.
    device
        None for a NumPy array; otherwise a device for a torch tensor, as
        `modicum.core.device.resolve_device` takes it.

    Returns
    -------
    array
        Float64 ``(count, dimension)``. All kinds but ``"gaussian"`` have rows of norm 1 and second
        moment ``E u uᵀ = I/dimension``.

    Raises
    ------
    ValueError
        If the kind is unknown, or a number is out of range.
    TypeError
        If the seed or a part of the stream has another type.
    ImportError
        If a device is given and torch is not installed.
    """
    if kind not in _DRAW:
        raise ValueError(f"directions must be one of {', '.join(KINDS)}, got {kind!r}")
    for name, value, low in (("count", count, 0), ("dimension", dimension, 1), ("start", start, 0)):
        if value < low:
            raise ValueError(f"{name} must be at least {low}, got {value}")
    make, rows_per_block = _DRAW[kind]
    block = dimension if rows_per_block else 1
    counter = _Counter(seed, stream, device)
    chunk = max(1, counter.chunk // (block * dimension)) * block
    first, stop = start // block * block, start + count
    parts = []
    for begin in range(first, stop, chunk):
        whole = min(chunk, -(-(stop - begin) // block) * block)
        rows = make(counter, begin, whole, dimension)
        parts.append(rows[max(start - begin, 0) : stop - begin])
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return counter.xp.zeros((0, dimension), dtype=counter.xp.float64, device=counter.device)
    return counter.xp.concat(parts, axis=0)


def draw_pair_directions(
    kind: str,
    count: int,
    dimension: int,
    seed: int,
    *stream: int | str,
    start: int = 0,
    device: Any = None,
) -> Array:
    """Draw directions with second moment ``I/dimension``, as the estimators of pairs take them.

    These are the rows of `draw_directions`, ``"gaussian"`` ones divided by ``√dimension``, so that
    a radius means the same length for every kind. Parameters, result and errors are the same too.
    """
    u_Nd = draw_directions(kind, count, dimension, seed, *stream, start=start, device=device)
    return u_Nd / dimension**0.5 if kind == "gaussian" else u_Nd


class _Counter:
    """Words of one stream by row, in the array library and on the device where they are wanted."""

    def __init__(self, seed: int, stream: tuple[int | str, ...], device: Any) -> None:
        self._origin = (seed, stream)
        generator = numpy_generator(seed, "directions", *stream)
        sequence: Any = generator.bit_generator.seed_seq
        self._key = [int(word) for word in sequence.generate_state(4)]
        example: Array = np.empty(0)
        self.device: Any = "cpu"
        self.chunk = _CHUNK_HOST
        if device is not None:
            self.device = resolve_device(device)
            import torch

            example = torch.empty(0)
            if not self.device.startswith("cpu"):
                self.chunk = _CHUNK_DEVICE
        self.xp: Any = array_namespace(example)

    def words(self, begin: int, count: int, per_row: int) -> list[Array]:
        """Give four int64 arrays ``(count, ceil(per_row / 4))`` of 32-bit words."""
        xp = self.xp
        row_N1 = xp.arange(begin, begin + count, dtype=xp.int64, device=self.device)[:, None]
        width = -(-per_row // _WORDS_PER_COUNTER)
        within_W = xp.arange(width, dtype=xp.int64, device=self.device)[None, :]
        counter = (
            within_W + xp.zeros_like(row_N1),
            row_N1 & MASK32,
            ((row_N1 >> _BITS_PER_WORD) + self._key[2]) & MASK32,
            xp.full_like(row_N1, self._key[3]),
        )
        return list(philox4x32(counter, (self._key[0], self._key[1])))

    def normal(self, begin: int, count: int, dimension: int) -> Array:
        """Give standard normal numbers ``(count, dimension)``.

        A radius comes from a uniform in the open unit interval, so that it is positive and finite,
        and no angle hits a zero of the cosine: no row is 0.
        """
        xp = self.xp
        radius_a, angle_a, radius_b, angle_b = self.words(begin, count, dimension)
        columns = []
        for radius, angle in ((radius_a, angle_a), (radius_b, angle_b)):
            length = xp.sqrt(-2.0 * xp.log(uniform32(radius)))
            turn = uniform32(angle) * (2.0 * np.pi)
            columns += [length * xp.cos(turn), length * xp.sin(turn)]
        width = columns[0].shape[1]
        kept = [max(0, min(width, dimension - width * place)) for place in range(len(columns))]
        return xp.concat([part[:, :keep] for part, keep in zip(columns, kept, strict=True)], axis=1)

    def on_host(self) -> "_Counter":
        """Give the same stream for NumPy."""
        return _Counter(*self._origin, None)


def _gaussian(counter: _Counter, begin: int, count: int, dimension: int) -> Array:
    return counter.normal(begin, count, dimension)


def _sphere(counter: _Counter, begin: int, count: int, dimension: int) -> Array:
    xp = counter.xp
    normal_Nd = counter.normal(begin, count, dimension)
    return normal_Nd / xp.sqrt(xp.sum(normal_Nd * normal_Nd, axis=1, keepdims=True))


def _rademacher(counter: _Counter, begin: int, count: int, dimension: int) -> Array:
    xp = counter.xp
    needed = -(-dimension // _BITS_PER_WORD)
    words_NW = xp.concat(counter.words(begin, count, needed), axis=1)
    column_d = xp.arange(dimension, dtype=xp.int64, device=counter.device)
    word_Nd = xp.take(words_NW, column_d // _BITS_PER_WORD, axis=1)
    bit_Nd = (word_Nd >> (column_d % _BITS_PER_WORD)[None, :]) & 1
    return (2.0 * xp.astype(bit_Nd, xp.float64) - 1.0) / dimension**0.5


def _orthogonal(counter: _Counter, begin: int, count: int, dimension: int) -> Array:
    # By NumPy for every device: a factorisation magnifies the last bits in which libraries differ,
    # and batches of small ones are no faster on a GPU.
    normal_Nd = counter.on_host().normal(begin, count, dimension)
    q_Bdd, r_Bdd = np.linalg.qr(normal_Nd.reshape(-1, dimension, dimension))
    # With positive diagonals in R the factor Q has Haar distribution; its rows are taken.
    q_Bdd *= np.sign(np.einsum("bii->bi", r_Bdd))[:, None, :]
    rows_Nd = q_Bdd.reshape(-1, dimension)
    return counter.xp.asarray(rows_Nd, device=counter.device)


def _coordinate(counter: _Counter, begin: int, count: int, dimension: int) -> Array:
    xp = counter.xp
    blocks = count // dimension
    words_BW = xp.concat(counter.words(begin // dimension, blocks, dimension), axis=1)
    order_Bd = xp.argsort(words_BW[:, :dimension], axis=1, stable=True)
    rows_Nd = xp.zeros((count, dimension), dtype=xp.float64, device=counter.device)
    rows_Nd[xp.arange(count, device=counter.device), xp.reshape(order_Bd, (-1,))] = 1.0
    return rows_Nd


_DRAW: dict[str, tuple[Callable[[_Counter, int, int, int], Array], bool]] = {
    "sphere": (_sphere, False),
    "orthogonal": (_orthogonal, True),
    "gaussian": (_gaussian, False),
    "rademacher": (_rademacher, False),
    "coordinate": (_coordinate, True),
}

KINDS = tuple(_DRAW)
"""Names of the kinds of directions."""
