"""The experiments with a real model, small: they run, write what they say, and claims hold."""

import numpy as np
import pytest

from modicum.core.experiment import run_experiments
from modicum.ewatermark.cli import EXPERIMENTS
from modicum.ewatermark.integrations import end_to_end, peers
from modicum.ewatermark.integrations.loading import load_model, load_tokenizer


def test_sample_is_written_detected_and_human_text_is_not(tmp_path):
    wanted = [e for e in EXPERIMENTS if e.name == "sample"]
    (result,) = run_experiments(wanted, tmp_path, quick=True, seed=4)
    assert result.status == "ok", result.error
    assert [c.name for c in result.claims if not c.holds] == []
    (text,) = tmp_path.rglob("sample.txt")
    assert text.read_text().startswith(result.text[:200])
    assert end_to_end.KEY.decode() not in (tmp_path / text.parent / "sample.wm.json").read_text()


@pytest.mark.slow
def test_peers_and_attacks_hold_what_they_claim_about_us(tmp_path):
    wanted = [e for e in EXPERIMENTS if e.name in ("peers", "attacks")]
    results = run_experiments(wanted, tmp_path, quick=True, seed=0)
    assert [r.error for r in results if r.status != "ok"] == []
    held = {c.name: c.holds for r in results for c in r.claims}
    for name in ("nll-unchanged", "plain-not-reported", "late-start", "substitute-10"):
        assert held[name], name


def test_names_of_experiments_are_unique():
    names = [e.name for e in EXPERIMENTS]
    assert len(names) == len(set(names)) and {"sample", "peers", "attacks"} <= set(names)


def test_peers_find_their_own_text_and_not_plain_text():
    """Plain text is reported with probability 1e-6 per scheme and response."""
    import torch

    from modicum.ewatermark.integrations.loading import generate_ids

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
