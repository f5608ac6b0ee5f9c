"""Experiments: what is registered, and that each claim of the decoder can fail."""

import importlib
import math
from functools import partial

import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.huper.channel import Weights
from modicum.huper.experiments import EXPERIMENTS, PACKAGE, decoder

TINY = decoder.Plan(4, 2, 1, 2, (1, 2), 1)


@pytest.fixture
def small(monkeypatch):
    """Let a run take a second."""
    short = partial(decoder.utterances_of, frames=20, length=5)
    monkeypatch.setattr(decoder, "QUICK", TINY)
    monkeypatch.setattr(decoder, "utterances_of", short)


def context(path, **settings):
    made = Experiment("decoder", PACKAGE, "title", "summary", decoder.run)
    return RunContext(made, path, **settings)


def test_every_experiment_has_its_module():
    assert {one.package for one in EXPERIMENTS} == {PACKAGE}
    for one in EXPERIMENTS:
        module = importlib.import_module(f"modicum.huper.experiments.{one.name}")
        assert callable(module.run)


# The decoder --------------------------------------------------------------------------------------


def test_a_small_run_holds(small, tmp_path):
    result = decoder.run(context(tmp_path, seed=5))
    claims = {claim.name: claim for claim in result.claims}
    assert [claims[name].holds for name in ("exact", "posteriors", "batched", "substituted")] == [
        True
    ] * 4
    assert claims["speed"].holds is None and claims["speed"].measured > 0
    shapes, speeds = result.tables
    assert len(shapes.rows) == len(decoder.SHAPES) and shapes.rows[0][4] == 2
    assert speeds.columns == ["way", "1", "2"] and len(speeds.rows) == 5


def test_an_interrupted_run_goes_on(small, monkeypatch, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(decoder, "substituted", stop)
        with pytest.raises(KeyboardInterrupt):
            decoder.run(context(tmp_path))
    monkeypatch.setattr(decoder, "best_errors", stop)
    assert decoder.run(context(tmp_path)).claims[0].holds is True


def test_paths_are_enumerated_once_and_collapse():
    paths_NT, number_N, sequences = decoder.ctc_paths(3, 3)
    assert len(paths_NT) == 27 and len({tuple(path) for path in paths_NT.tolist()}) == 27
    said = [sequences[number] for number in number_N]
    found = dict(zip(map(tuple, paths_NT.tolist()), said, strict=True))
    assert found[1, 1, 0] == (1,) and found[1, 0, 1] == (1, 1) and found[0, 0, 0] == ()
    # Phones without a neighbour of their kind: 1 + 2 + 2 · 2 … sequences that fit three frames.
    assert len(sequences) == 1 + 2 + (2 + 2) + 2


def test_edits_are_all_there():
    weights = Weights(
        np.array([1, 2]), np.full((2, 3), -1.0), np.full(2, -2.0), np.full((3, 3), -4.0)
    )
    # Ways to edit two phones into one: 2 · 1 substitutions with the other deleted, or 3 places for
    # an insertion among the two deletions.
    edits = decoder.all_edits((1,), weights, 1.0)
    assert sorted(round(weight) for weight, _ in edits) == [-8, -8, -8, -3, -3]
    assert decoder.best_edit((1,), weights, 1.0, 2) == -3
    assert decoder.best_edit((), weights, 1.0, 0) == -math.inf
    assert decoder.best_edit((), weights, 0.5, 1) == -2


@pytest.mark.parametrize("broken", ["best_path", "forward_backward", "best_paths"])
def test_a_wrong_decoder_is_noticed(small, monkeypatch, tmp_path, broken):
    def without_insertions(logprobs, weights, *rest, **more):
        given = Weights(
            weights.canonical, weights.sub, weights.dele, np.full_like(weights.ins, -20)
        )
        return original(logprobs, given, *rest, **more)

    def without_last(logprobs, weights, *rest, **more):
        found = original(logprobs, weights, *rest, **more)
        return [*found[:-1], None]

    if broken == "best_paths":
        original = decoder.batched.best_paths
        monkeypatch.setattr(decoder.batched, "best_paths", without_last)
        name = "batched"
    else:
        original = getattr(decoder, broken)
        monkeypatch.setattr(decoder, broken, without_insertions)
        name = {"best_path": "exact", "forward_backward": "posteriors"}[broken]
    claims = {claim.name: claim for claim in decoder.run(context(tmp_path)).claims}
    assert claims[name].holds is False and claims[name].measured > 0
