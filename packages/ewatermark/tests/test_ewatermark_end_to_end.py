"""The experiments with a real model, small: they run, write what they say, and claims hold."""

import pytest

from modicum.core.experiment import run_experiments
from modicum.ewatermark.cli import EXPERIMENTS
from modicum.ewatermark.integrations import end_to_end


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
