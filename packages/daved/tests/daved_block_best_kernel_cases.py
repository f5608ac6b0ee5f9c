"""What the fused search of blocks is held to, run by ``test_daved_kernels.py`` in a subprocess.

On the CPU when Triton interprets (TRITON_INTERPRET=1), on CUDA when it compiles. Values agree with
those of float64 as float32 does; a row is the best one up to that rounding.
"""

import pytest
import torch

from modicum.daved.kernels.block_best import ROWS, block_best
from modicum.daved.kernels.block_best import triton as fused

DEVICE = "cpu" if fused.INTERPRETED else "cuda"
RTOL = 1e-5
"""Above the rounding of float32 sums, far below the 1e-3 of a single TF32."""

pytestmark = pytest.mark.filterwarnings(
    # The way in which the interpreter itself reads scalars.
    "ignore:Conversion of an array with ndim > 0:DeprecationWarning"
)


def case(n, d, g, m, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, d, generator=generator).to(dtype)
    directions = torch.randn(g, m, d, generator=generator)
    factor = torch.rand(n, generator=generator) + 0.5
    return rows.to(DEVICE), directions.to(DEVICE), factor.to(DEVICE)


def exact_scores(rows, directions, factor):
    products = torch.einsum("nd,gmd->gnm", rows.double(), directions.double())
    scores = products.square().sum(2)
    return scores if factor is None else scores * factor.double()


def check(rows, directions, factor, **kwargs):
    value, index = block_best(rows, directions, factor, **kwargs)
    scores = exact_scores(rows, directions, factor)
    blocks = -(-len(rows) // ROWS)
    assert value.shape == index.shape == (len(directions), blocks)
    assert index.dtype == torch.int64
    for block in range(blocks):
        own = scores[:, block * ROWS : (block + 1) * ROWS]
        best = own.amax(1)
        # Products cancel, so that errors go with the largest score.
        torch.testing.assert_close(value[:, block].double(), best, rtol=RTOL, atol=RTOL)
        place = index[:, block] - block * ROWS
        assert ((place >= 0) & (place < own.shape[1])).all()
        chosen = own.gather(1, place[:, None])[:, 0]
        assert (chosen >= best * (1 - 2 * RTOL) - 2 * RTOL).all()


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("n", "d", "g", "m", "has_factor"),
    [
        (1, 1, 1, 1, False),
        (300, 7, 1, 1, True),
        (257, 64, 3, 2, False),
        (128, 33, 20, 5, True),
        (400, 96, 150, 1, True),
    ],
)
def test_values_are_those_of_float64(backend, dtype, n, d, g, m, has_factor):
    rows, directions, factor = case(n, d, g, m, dtype)
    check(rows, directions, factor if has_factor else None, backend=backend)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_a_tie_goes_to_the_smallest_index(backend):
    # Integers: no product is rounded, in whatever order it is summed.
    rows, directions = (values.mul(4).round() for values in case(300, 8, 4, 2)[:2])
    rows[1::2] = rows[0::2]
    rows[200:] = rows[200]
    _, index = block_best(rows, directions, backend=backend)
    assert (index[:, :2] % 2 == 0).all()
    assert (index[:, 2] == 256).all()


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_directions_of_zeros_fill_up(backend):
    rows, directions, factor = case(200, 16, 5, 3)
    filled = torch.nn.functional.pad(directions, (0, 0, 0, 3))
    check(rows, filled, factor, backend=backend)
    value, _ = block_best(rows, filled, factor, backend=backend)
    expected, _ = block_best(rows, directions, factor, backend=backend)
    torch.testing.assert_close(value, expected, rtol=RTOL, atol=0)


def test_rows_that_are_a_part_of_a_wider_tensor():
    wide = torch.randn(300, 40, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    _, directions, factor = case(300, 24, 2, 1)
    check(wide[:, 8:32], directions, factor, backend="triton")


@pytest.mark.parametrize(
    ("g", "m", "tile"),
    [(1, 1, (1, 16)), (100, 1, (1, 128)), (1000, 1, (1, 128)), (3, 5, (8, 4)), (2, 128, (128, 1))],
)
def test_tiles_have_at_least_16_and_at_most_128_columns(g, m, tile):
    assert fused.tile_of(g, m) == tile
    assert 16 <= tile[0] * tile[1] <= 128
