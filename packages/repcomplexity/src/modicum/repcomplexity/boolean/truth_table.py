"""Truth tables of Boolean functions, one bit per input.

Position ``x`` of a table is the value at the input whose bit i is ``(x >> i) & 1``. A table never
changes. It knows nothing of spectra, formulas and diagrams beyond handing itself to the functions
that compute them.

Shapes: m inputs, N = 2**m positions, W = ceil(N / 64) words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modicum.repcomplexity.bits import Array, check_limit, popcount, unpack

if TYPE_CHECKING:
    import torch

    from modicum.repcomplexity.boolean.dnf import NormalForm
    from modicum.repcomplexity.boolean.fourier import Spectrum
    from modicum.repcomplexity.boolean.obdd import Order
    from modicum.repcomplexity.boolean.ternary import CertificateComplexity
    from modicum.repcomplexity.circuits.synthesis import SizeInterval

__all__ = ["MAX_INPUTS", "TruthTable"]

MAX_INPUTS = 30
"""Most inputs of a table: 1 GiB as unpacked values, 128 MiB packed."""

# Codes are handed to a callable in blocks of this many (8 MiB of int64).
_BLOCK = 1 << 20


class TruthTable:
    """A Boolean function of m inputs as a packed table.

    Build one with `from_values`, `from_callable`, `from_bits`, `from_hex`, `from_int`,
    `from_words`, `constant` or `variable`. Tables combine with ``&``, ``|``, ``^`` and ``~``,
    compare with ``==`` and can be keys.

    Parameters
    ----------
    values
        Values ``(2**m,)`` in the order of the codes, booleans or numbers 0 and 1; an array, a list
        or a tensor on any device.

    Raises
    ------
    ValueError
        If the length is no power of two, or an entry is neither 0 nor 1.
    ComplexityLimitError
        If there are more than `MAX_INPUTS` inputs.
    """

    __slots__ = ("_n_inputs", "_words")

    def __init__(self, values: npt.ArrayLike | torch.Tensor) -> None:
        given: Any = values
        flat = np.asarray(given.cpu() if _is_tensor(given) else given)
        if flat.ndim != 1:
            raise ValueError(f"values must be one-dimensional, got shape {flat.shape}")
        self._n_inputs = _inputs_of(flat.size)
        if flat.dtype != np.bool_ and not ((flat == 0) | (flat == 1)).all():
            raise ValueError("values must hold 0 and 1 only")
        self._words = _pack_words(flat.astype(np.bool_, copy=False))

    @classmethod
    def from_bits(cls, values: npt.ArrayLike | torch.Tensor) -> TruthTable:
        """Build from the values in the order of the codes; the same as ``TruthTable(values)``."""
        return cls(values)

    @classmethod
    def from_callable(
        cls, function: Callable[[Any], Any], n_inputs: int, *, form: str = "codes"
    ) -> TruthTable:
        """Tabulate a vectorised function.

        Parameters
        ----------
        function
            Maps a block of inputs to their values ``(B,)``, booleans or 0 and 1.
        n_inputs
            Number m of inputs.
        form
            ``"codes"``: the function takes int64 codes ``(B,)``. ``"bits"``: it takes boolean bits
            ``(B, m)``, input 0 first.

        Raises
        ------
        ValueError
            If the form is unknown, or the function returns another shape or other values.
        ComplexityLimitError
            If there are more than `MAX_INPUTS` inputs.
        """
        if form not in ("codes", "bits"):
            raise ValueError(f"form must be 'codes' or 'bits', not {form!r}")
        _check_inputs(n_inputs)
        values = np.empty(1 << n_inputs, dtype=np.bool_)
        for start in range(0, values.size, _BLOCK):
            codes = np.arange(start, min(start + _BLOCK, values.size), dtype=np.int64)
            block = function(codes if form == "codes" else unpack(codes, n_inputs, "bool"))
            block = np.asarray(block.cpu() if _is_tensor(block) else block)
            if block.shape != codes.shape:
                raise ValueError(
                    f"function must return one value per input, shape {codes.shape}, "
                    f"not {block.shape}"
                )
            if block.dtype != np.bool_ and not ((block == 0) | (block == 1)).all():
                raise ValueError("function must return 0 and 1 only")
            values[start : start + codes.size] = block
        return cls(values)

    @classmethod
    def from_words(cls, words: npt.ArrayLike, n_inputs: int) -> TruthTable:
        """Build from packed words, uint64 ``(W,)``: x is bit ``x % 64`` of word ``x // 64``.

        Raises
        ------
        ValueError
            If the number of words is wrong, or bits beyond the last position are set.
        """
        _check_inputs(n_inputs)
        packed = np.array(words, dtype=np.uint64)
        if packed.shape != (_words_of(n_inputs),):
            raise ValueError(
                f"a table of {n_inputs} inputs has {_words_of(n_inputs)} words, "
                f"not shape {packed.shape}"
            )
        if n_inputs < 6 and int(packed[0]) >> (1 << n_inputs):
            raise ValueError(f"bits beyond the {1 << n_inputs} positions of the table are set")
        table = cls.__new__(cls)
        table._n_inputs = n_inputs
        table._words = packed
        packed.setflags(write=False)
        return table

    @classmethod
    def from_int(cls, number: int, n_inputs: int) -> TruthTable:
        """Build from an integer whose bit x is the value at x.

        Raises
        ------
        ValueError
            If the number is negative or has more than ``2**n_inputs`` bits.
        """
        _check_inputs(n_inputs)
        if number < 0 or number >> (1 << n_inputs):
            raise ValueError(f"number must have at most {1 << n_inputs} bits and be at least 0")
        raw = number.to_bytes(8 * _words_of(n_inputs), "little")
        return cls.from_words(np.frombuffer(raw, dtype="<u8"), n_inputs)

    @classmethod
    def from_hex(cls, digits: str, m: int) -> TruthTable:
        """Build from hexadecimal digits, most significant first: ``from_hex("e8", m=3)`` is MAJ_3.

        Raises
        ------
        ValueError
            If this is no hexadecimal number or does not fit.
        """
        return cls.from_int(int(digits, 16), m)

    @classmethod
    def constant(cls, value: bool, n_inputs: int) -> TruthTable:
        """Return the constant function of `n_inputs` inputs."""
        _check_inputs(n_inputs)
        return cls(np.full(1 << n_inputs, bool(value)))

    @classmethod
    def variable(cls, index: int, n_inputs: int) -> TruthTable:
        """Return the function that is input `index` of `n_inputs` inputs."""
        _check_inputs(n_inputs)
        _check_index(index, n_inputs)
        return cls.from_callable(lambda codes: (codes >> index) & 1, n_inputs)

    @property
    def n_inputs(self) -> int:
        """Number m of inputs."""
        return self._n_inputs

    @property
    def words(self) -> np.ndarray:
        """The packed table, uint64 ``(W,)``, read-only; unused bits are 0."""
        return self._words

    @property
    def values(self) -> np.ndarray:
        """The values in the order of the codes, bool ``(2**m,)``, unpacked anew each time."""
        raw = self._words.astype("<u8", copy=False).view(np.uint8)
        count = 1 << self._n_inputs
        return np.unpackbits(raw, count=count, bitorder="little").view(np.bool_)

    def to_torch(self, device: str | torch.device = "cpu") -> torch.Tensor:
        """Return the values as a boolean tensor ``(2**m,)`` on a device."""
        import torch

        return torch.from_numpy(self.values).to(device)

    def to_int(self) -> int:
        """Return the integer whose bit x is the value at x."""
        return int.from_bytes(self._words.astype("<u8", copy=False).tobytes(), "little")

    def to_hex(self) -> str:
        """Return the hexadecimal digits, most significant first, ``max(1, 2**m / 4)`` of them."""
        return f"{self.to_int():0{max(1, (1 << self._n_inputs) // 4)}x}"

    def __call__(self, codes: Array) -> Array:
        """Return the booleans at codes, integers ``(…)`` in ``[0, 2**m)``, array or tensor.

        Raises
        ------
        ValueError
            If a code is out of range or no integer.
        """
        tensor = _is_tensor(codes)
        codes = codes if tensor else np.asarray(codes)
        count = math.prod(codes.shape)
        whole = "int" in str(codes.dtype) or not count
        if not whole or (count and not 0 <= codes.min() <= codes.max() < 1 << self._n_inputs):
            raise ValueError(f"codes must be integers in [0, {1 << self._n_inputs})")
        if tensor:
            return self.to_torch(codes.device)[codes.long()]
        codes = codes.astype(np.int64)
        word = self._words[codes >> 6]
        return ((word >> (codes & 63).astype(np.uint64)) & np.uint64(1)).astype(np.bool_)

    def count_ones(self) -> int:
        """Return the number of inputs on which the function is true."""
        return int(popcount(self._words.view(np.uint32)).sum())

    def probability(self) -> float:
        """Return the fraction of inputs on which the function is true."""
        return self.count_ones() / (1 << self._n_inputs)

    def is_constant(self) -> bool:
        """Tell whether the function has the same value everywhere."""
        return self.count_ones() in (0, 1 << self._n_inputs)

    def cofactor(self, index: int, value: int) -> TruthTable:
        """Fix one input; the others move down to fill the gap.

        Raises
        ------
        ValueError
            If there is no such input, or `value` is neither 0 nor 1.
        """
        return self.restrict({index: value})

    def restrict(self, fixed: Mapping[int, int]) -> TruthTable:
        """Fix some inputs; the free ones keep their order and are numbered from 0.

        Parameters
        ----------
        fixed
            The value, 0 or 1, of each fixed input.

        Raises
        ------
        ValueError
            If there is no such input, or a value is neither 0 nor 1.
        """
        index: list[int | slice] = [slice(None)] * self._n_inputs
        for position, value in fixed.items():
            _check_index(position, self._n_inputs)
            if value not in (0, 1):
                raise ValueError(f"an input is fixed to 0 or 1, not {value!r}")
            index[self._n_inputs - 1 - position] = int(value)
        return TruthTable(self._cube()[tuple(index)].reshape(-1))

    def permute(self, order: Sequence[int]) -> TruthTable:
        """Return the function whose input k is input ``order[k]`` of this one.

        Raises
        ------
        ValueError
            If `order` is no permutation of the inputs.
        """
        if sorted(order) != list(range(self._n_inputs)):
            raise ValueError(f"order must be a permutation of {self._n_inputs} inputs, not {order}")
        axes = [self._n_inputs - 1 - position for position in reversed(order)]
        return TruthTable(self._cube().transpose(axes).reshape(-1))

    def negate_inputs(self, mask: int) -> TruthTable:
        """Return ``x -> f(x ^ mask)``: the inputs whose bit of the mask is 1 are negated."""
        if not 0 <= mask < 1 << self._n_inputs:
            raise ValueError(f"mask must be in [0, {1 << self._n_inputs}), not {mask}")
        flips = tuple(
            slice(None, None, -1) if (mask >> position) & 1 else slice(None)
            for position in reversed(range(self._n_inputs))
        )
        return TruthTable(self._cube()[flips].reshape(-1))

    def support(self) -> tuple[int, ...]:
        """Return the inputs on which the function depends, increasing."""
        values = self.values
        halves = (values.reshape(-1, 2, 1 << index) for index in range(self._n_inputs))
        return tuple(k for k, half in enumerate(halves) if (half[:, 0] != half[:, 1]).any())

    def by_weight(self) -> np.ndarray | None:
        """Return the values per number of true inputs, bool ``(m + 1,)``; None if not symmetric."""
        values = self.values
        first = (1 << np.arange(self._n_inputs + 1, dtype=np.int64)) - 1
        per_weight = values[first]
        for start in range(0, values.size, _BLOCK):
            block = values[start : start + _BLOCK]
            weights = popcount(np.arange(start, start + block.size, dtype=np.int64))
            if not np.array_equal(per_weight[weights], block):
                return None
        return per_weight

    def fourier(self) -> Spectrum:
        """Return the exact Walsh–Hadamard spectrum of ``1 − 2f``."""
        from modicum.repcomplexity.boolean.fourier import spectrum

        return spectrum(self)

    def tail(self, k: int) -> float:
        """Return the spectral weight of ``1 − 2f`` beyond degree k."""
        return self.fourier().tail(k)

    def influences(self) -> np.ndarray:
        """Return the influence of each input, float64 ``(m,)``."""
        from modicum.repcomplexity.boolean.influence import influences

        return influences(self)

    def certificate_complexity(self) -> CertificateComplexity:
        """Return the certificate complexities of zeros and ones."""
        from modicum.repcomplexity.boolean.ternary import certificate_complexity

        return certificate_complexity(self)

    def min_dnf(self, time_limit: float = 60.0) -> NormalForm:
        """Return the smallest disjunctive normal form, or an interval when time runs out."""
        from modicum.repcomplexity.boolean.dnf import minimum_dnf

        return minimum_dnf(self, time_limit=time_limit)

    def min_cnf(self, time_limit: float = 60.0) -> NormalForm:
        """Return the smallest conjunctive normal form, or an interval when time runs out."""
        from modicum.repcomplexity.boolean.dnf import minimum_cnf

        return minimum_cnf(self, time_limit=time_limit)

    def min_circuit(self, basis: str = "B2", time_limit: float = 60.0) -> SizeInterval:
        """Return the fewest gates of two inputs, or an interval when time runs out."""
        from modicum.repcomplexity.circuits.synthesis import min_circuit

        return min_circuit(self, basis, time_limit=time_limit)

    def obdd_size(self, order: Order = "natural") -> int:
        """Return the number of decision nodes of the reduced ordered decision diagram."""
        from modicum.repcomplexity.boolean.obdd import obdd

        return obdd(self, order).nodes

    def __invert__(self) -> TruthTable:
        return TruthTable.from_words(~self._words & _used_bits(self._n_inputs), self._n_inputs)

    def __and__(self, other: TruthTable) -> TruthTable:
        return TruthTable.from_words(self._words & self._partner(other), self._n_inputs)

    def __or__(self, other: TruthTable) -> TruthTable:
        return TruthTable.from_words(self._words | self._partner(other), self._n_inputs)

    def __xor__(self, other: TruthTable) -> TruthTable:
        return TruthTable.from_words(self._words ^ self._partner(other), self._n_inputs)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TruthTable):
            return NotImplemented
        return self._n_inputs == other._n_inputs and np.array_equal(self._words, other._words)

    def __hash__(self) -> int:
        return hash((self._n_inputs, self._words.tobytes()))

    def __repr__(self) -> str:
        if self._n_inputs <= 8:
            return f"TruthTable.from_hex({self.to_hex()!r}, m={self._n_inputs})"
        return f"<TruthTable of {self._n_inputs} inputs, true with {self.probability():.4g}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return TruthTable.from_words, (np.array(self._words), self._n_inputs)

    def _cube(self) -> np.ndarray:
        """Values with one axis per input; the last axis is input 0."""
        return self.values.reshape((2,) * self._n_inputs)

    def _partner(self, other: TruthTable) -> np.ndarray:
        if not isinstance(other, TruthTable):
            raise TypeError(f"a TruthTable combines with a TruthTable, not {type(other).__name__}")
        if other._n_inputs != self._n_inputs:
            raise ValueError(
                f"tables of {self._n_inputs} and {other._n_inputs} inputs do not combine"
            )
        return other._words


def _is_tensor(values: Any) -> bool:
    return hasattr(values, "detach")


def _words_of(n_inputs: int) -> int:
    return max(1, (1 << n_inputs) // 64)


def _used_bits(n_inputs: int) -> np.uint64:
    return np.uint64((1 << min(64, 1 << n_inputs)) - 1)


def _check_inputs(n_inputs: int) -> None:
    if n_inputs < 0:
        raise ValueError(f"n_inputs must be at least 0, not {n_inputs}")
    check_limit(
        "the number of inputs",
        n_inputs,
        MAX_INPUTS,
        cost=f"{2.0 ** (n_inputs - 30):,.0f} GiB of values",
        alternative="use the estimators from samples",
    )


def _check_index(index: int, n_inputs: int) -> None:
    if not 0 <= index < n_inputs:
        raise ValueError(f"input must be in [0, {n_inputs}), not {index}")


def _inputs_of(size: int) -> int:
    """Return the number of inputs of a table of so many values."""
    if size < 1 or size & (size - 1):
        raise ValueError(f"a truth table has a power of two of values, not {size}")
    n_inputs = size.bit_length() - 1
    _check_inputs(n_inputs)
    return n_inputs


def _pack_words(values: np.ndarray) -> np.ndarray:
    raw = np.packbits(values, bitorder="little")
    padded = np.zeros(8 * max(1, -(-raw.size // 8)), dtype=np.uint8)
    padded[: raw.size] = raw
    words = padded.view("<u8").astype(np.uint64, copy=False)
    words.setflags(write=False)
    return words
