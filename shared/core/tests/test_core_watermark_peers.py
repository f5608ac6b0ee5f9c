"""The peers' own watermarks through transformers, read token by token."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from modicum.core.watermark.adapters import peers  # noqa: E402
from modicum.core.watermark.adapters.loading import (  # noqa: E402
    generate_ids,
    load_model,
    load_tokenizer,
)


def test_peers_find_their_own_text_and_not_plain_text():
    """Plain text is reported with probability 1e-6 per scheme and response."""
    model, V = load_model("tiny", "cpu"), len(load_tokenizer("tiny"))
    prompts = torch.zeros((6, 1), dtype=torch.int64)
    key = b"a key for the gumbel peer"

    def sample(config):
        return generate_ids(
            model, prompts, max_new_tokens=160, seed=1, watermarking_config=config
        ).numpy()

    plain = sample(None)
    gumbel = sample(peers.GumbelConfig(key))
    for times in peers.gumbel_times(gumbel, key, 1e-3):
        assert np.isfinite(times).all()
    for times in peers.gumbel_times(plain, key, 1e-6):
        assert np.isinf(times).all()
    assert np.isfinite(peers.synthid_times(sample(peers.synthid_config()), 1e-2)).mean() > 0.5
    assert np.isinf(peers.synthid_times(plain, 1e-6)).all()
    strong = sample(peers.kgw_config(bias=6.0))
    assert np.isfinite(peers.kgw_times(strong, V, 1e-2)).mean() > 0.5
    assert np.isinf(peers.kgw_times(plain, V, 1e-6)).all()
