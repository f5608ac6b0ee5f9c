"""The experiment on labels: worlds and networks, statistics, and that its claims can fail."""

import math
from functools import partial

import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.huper import espeak
from modicum.huper.experiments import PACKAGE, _world, labels
from modicum.huper.experiments._world import SMALL, Sizes, World
from modicum.huper.experiments.labels import Plan, interval, rates, ratio
from modicum.huper.simulate import EspeakWorld
from modicum.huper.tiny import TinyConfig, TinyConvCTC

MINUTE = Sizes(3, 4, 2, 2, first=1, plain=1, later=1, length=(1, 1))
needs_espeak = pytest.mark.skipif(not espeak.available(), reason="espeak-ng is not installed")


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(labels, "RESAMPLES", 2000)


def context(path, **settings):
    made = Experiment("labels", PACKAGE, "title", "summary", labels.run)
    return RunContext(made, path / PACKAGE / "labels", **settings)


def arm(rate, count=50, seed=0, labelled=True):
    """Errors of a network and its labels, with about this rate."""
    rng = np.random.default_rng(seed)

    def some():
        return {"wrong": rng.binomial(20, rate, count).tolist(), "total": [20] * count}

    return {"test": some(), "labels": some() if labelled else None, "kept": 45}


# Statistics ---------------------------------------------------------------------------------------


def test_errors_are_edits_over_phones():
    found = _world.errors([("A", "B"), ()], [("A", "C", "D"), ("A",)])
    assert found == {"wrong": [2, 1], "total": [3, 1]} and _world.rate(found) == 0.75


def test_rates_are_pooled_over_worlds():
    one, two = ({"test": {"wrong": wrong, "total": total}}
                for wrong, total in (([1, 2], [10, 10]), ([0, 9], [5, 15])))  # fmt: skip
    value, samples_R = rates([one, two], "test", 0)
    assert value == 12 / 40
    assert samples_R.min() >= (2 * 1 + 0) / (20 + 10) and samples_R.max() <= (4 + 18) / (20 + 30)
    # What is compared is drawn alike: the ratio of an arm to itself has no spread.
    found = ratio([one, two], [[one, two]], "test", 0)
    assert found.value == 1 and found.interval == (1, 1) and found.each == (1, 1)


def test_the_interval_is_that_of_the_ratio_of_means():
    # Independent utterances of one length: the standard error of the mean, by theory.
    found = [arm(0.2, 400, seed) for seed in range(3)]
    value, samples_R = rates(found, "test", 1)
    wrong_N = np.concatenate([one["test"]["wrong"] for one in found]) / 20
    assert value == pytest.approx(wrong_N.mean())
    low, high = interval(samples_R)
    width = 2 * 1.96 * wrong_N.std() / math.sqrt(len(wrong_N))
    assert high - low == pytest.approx(width, rel=0.1)


def test_a_ratio_is_to_the_least_of_the_others():
    good, bad, worse = ([arm(rate, 80, seed) for seed in range(2)] for rate in (0.1, 0.2, 0.4))
    found = ratio(good, [worse, bad], "test", 0)
    assert found.value == pytest.approx(rates(good, "test", 0)[0] / rates(bad, "test", 0)[0])
    assert found.interval[0] < found.value < found.interval[1]


# Claims -------------------------------------------------------------------------------------------

RATES = {"seed": 0.2, "canonical": 0.22, "pseudo": 0.19, "neural": 0.15, "corrected": 0.06,
         "ceiling": 0.055}  # fmt: skip


def judged(**changes):
    found = {
        name: [arm(rate, 200, 10 * seed + at, name != "seed") for seed in range(3)]
        for at, (name, rate) in enumerate({**RATES, **changes}.items())
    }
    lambdas = [{"0.5": arm(0.08)["test"], "1": arm(0.07)["test"], "2": arm(0.09)["test"]}]
    second = [{**arm(0.04, 200, seed), "dev": [0.2, 0.08, 0.07], "kept": True} for seed in range(3)]
    made = labels.claims_of(found, lambdas, second, labels.PLAN.most, 0)
    return {claim.name: claim for claim in made}


def test_claims_hold_where_labels_are_good():
    claims = judged()
    assert all(claims[name].holds for name in claims if name != "lambda")
    assert claims["lambda"].holds is None and claims["lambda"].measured >= 1
    assert claims["labels"].measured == pytest.approx(0.06 / 0.19, rel=0.1)
    assert claims["dictionary"].measured == pytest.approx(0.06 / 0.22, rel=0.1)


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({"corrected": 0.15}, {"labels", "dictionary", "seed", "ceiling"}),
        ({"ceiling": 0.02}, {"ceiling"}),
        ({"seed": 0.08}, {"seed"}),
        ({"neural": 0.25}, {"neural"}),
        ({"pseudo": 0.11}, {"labels", "neural"}),
    ],
)
def test_each_claim_can_fail(change, failing):
    claims = judged(**change)
    failed = {name for name, claim in claims.items() if claim.holds is False}
    assert failed == failing


def test_one_bad_world_is_enough_to_fail():
    found = {name: [arm(rate, 200, 10 * seed + at) for seed in range(3)]
             for at, (name, rate) in enumerate(RATES.items())}  # fmt: skip
    found["corrected"][1] = arm(0.15, 200, 3)
    lambdas = [{"0.5": arm(0.08)["test"], "1": arm(0.07)["test"], "2": arm(0.09)["test"]}]
    claims = {one.name: one for one in labels.claims_of(found, lambdas, [], labels.PLAN.most, 0)}
    assert claims["dictionary"].measured < 0.5 and claims["dictionary"].holds is False


# Worlds -------------------------------------------------------------------------------------------


@pytest.fixture
def words(monkeypatch):
    """Let there be few words."""
    few = partial(EspeakWorld, words=60, heldout=20)
    monkeypatch.setattr(_world, "EspeakWorld", lambda _, **more: few("rules", **more))


@pytest.fixture
def minute(words, monkeypatch):
    """Let networks be small."""
    fresh = partial(TinyConvCTC, config=TinyConfig(width=8, dilations=(1,)))
    monkeypatch.setattr(World, "fresh", lambda self: fresh(seed=self.seed))


@needs_espeak
def test_every_network_learns_what_its_arm_says_and_once(minute, monkeypatch, tmp_path):
    seen = []
    train = _world.train

    def noted(model, utterances, config, **more):
        seen.append((config, utterances))
        return train(model, utterances, config, **more)

    monkeypatch.setattr(_world, "train", noted)
    made = World(tmp_path, 5, MINUTE)
    nets = {name: made.net(name) for name in ("seed", "canonical", "ceiling", "corrected")}
    learnt = {config.epochs: utterances for config, utterances in seen}
    assert learnt and all(config.seed == 5 for config, _ in seen)
    phones = [tuple(one.phones) for _, utterances in seen[:3] for one in utterances]
    assert phones == [
        *(item.real_phonemes for item in made.items["labelled"]),
        *(item.phonemes for item in made.items["unlabelled"]),
        *(item.real_phonemes for item in made.items["unlabelled"]),
    ]
    assert sorted(path.name for path in (tmp_path / "nets").iterdir()) == sorted(nets)
    # Another process finds all of it.
    again = World(tmp_path, 5, MINUTE)
    monkeypatch.setattr("modicum.huper.training._Run.take_step", None)
    for name, net in nets.items():
        read = TinyConvCTC.from_pretrained(tmp_path / "nets" / name)
        for weight in (again.net(name).head.weight, read.head.weight):
            assert np.array_equal(weight.detach(), net.head.weight.detach())
    labelled = again.trained("corrected").rounds[1].labels
    assert [item.real_phonemes for item in labelled.items] == [None] * 4


@needs_espeak
def test_a_small_run_goes_on_where_it_was_cut(minute, monkeypatch, tmp_path):
    monkeypatch.setattr(
        labels, "QUICK", Plan(1, MINUTE, ("seed", "canonical", "pseudo", "corrected", "ceiling"), 2,
                              True, labels.PLAN.most)
    )  # fmt: skip

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(labels, "sensitivity", stop)
        with pytest.raises(KeyboardInterrupt):
            labels.run(context(tmp_path))
    monkeypatch.setattr(labels, "measure", stop)
    result = labels.run(context(tmp_path))
    assert [table.title for table in result.tables] == [
        "What is learnt from, and how well", "Weight of the edits", "A second round"
    ]  # fmt: skip
    assert [row[0] for row in result.tables[0].rows] == [
        "seed", "canonical", "pseudo", "corrected", "ceiling"
    ]  # fmt: skip
    assert result.tables[0].rows[-1][2].startswith("0.0")
    names = {claim.name for claim in result.claims}
    assert names == {"labels", "dictionary", "seed", "ceiling", "lambda", "second round"}


@needs_espeak
def test_the_small_world_is_noisy_and_starts_from_the_shipped_network(words, tmp_path):
    made = World(tmp_path, 3, Sizes(1, 1, 0, 0, length=(1, 1), snr=0.0, shipped=True))
    (item,) = made.items["labelled"]
    clean, _ = (
        labels.World(tmp_path, 3, Sizes(1, 1, 0, 0, length=(1, 1))).items["labelled"][0].audio()
    )
    noise = item.samples - clean
    assert np.mean(noise**2) == pytest.approx(np.mean(clean**2), rel=0.3)
    assert made.net("seed").head.out_channels == 44 and SMALL.shipped


@needs_espeak
@pytest.mark.slow
def test_the_short_form_holds(tmp_path):
    claims = {claim.name: claim for claim in labels.run(context(tmp_path)).claims}
    assert all(claims[name].holds for name in ("labels", "dictionary", "seed"))
