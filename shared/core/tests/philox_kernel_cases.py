"""What the words of a kernel are held to, run by ``test_core_kernels_philox.py`` in a subprocess.

On the CPU when Triton interprets (TRITON_INTERPRET=1), on CUDA when it compiles.
"""

import os

import pytest
import torch

from modicum.core.kernels.philox.triton import hashed_words
from modicum.core.prf import EXPAND, Blake2PRF, PhiloxPRF

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
KEY = b"0123456789abcdef"

# The interpreter computes with NumPy, which warns of wrapping integers and of the way in which the
# interpreter itself reads scalars.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning"),
]


def states(prf, rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return prf.context_state(torch.randint(-1, 2**31, (rows, 4), generator=generator).to(DEVICE))


@pytest.mark.parametrize("prf_class", [PhiloxPRF, Blake2PRF])
@pytest.mark.parametrize("domain", ["part", "ump"])
def test_words_are_those_of_the_prf(prf_class, domain):
    prf = prf_class.from_key(KEY, domain)
    state_B4 = states(prf, 3)
    # Longer than a tile and not a multiple of four.
    assert torch.equal(hashed_words(prf, state_B4, 2049), prf.words_range(state_B4, 2049))


@pytest.mark.parametrize("expand", [EXPAND, 0x574D544B])
def test_words_of_extreme_keys_and_states(expand):
    full = 2**32 - 1
    for first, second in ((full, 0), (0, full), (1, 2**31), (2**31, 1), (2**31 - 1, 2**31 + 1)):
        prf = PhiloxPRF((first, second), (0, 0, 0, 0), expand)
        state_B4 = torch.tensor(
            [[0, 0, 0, 0], [full] * 4, [2**31, 1, full, 2**31 - 1]], device=DEVICE
        )
        assert torch.equal(hashed_words(prf, state_B4, 100), prf.words_range(state_B4, 100))
