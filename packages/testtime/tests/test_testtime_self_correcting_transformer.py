"""Streams, conversations and estimates of the self-correcting transformer, and its weights."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from modicum.core.device import numpy_generator
from modicum.core.experiment import Experiment, Result, RunContext
from modicum.testtime.controllers.eliminate import Eliminate
from modicum.testtime.controllers.round_robin import RoundRobin
from modicum.testtime.experiments import self_correcting_transformer as experiment
from modicum.testtime.experiments.hidden_rules import (
    ANSWERS_KS,
    BITS_SL,
    BLIND,
    BOS,
    FIRST_ACT,
    NAMED,
    NEUTRAL,
    NO,
    SILENT,
    YES,
    Items,
    Recorded,
    codes,
    correct_itself,
    first_attempts,
    forget_and_retry,
    prompts,
    with_controller,
)
from modicum.testtime.experiments.self_correcting_transformer import Outcome, measure
from modicum.testtime.experiments.training import DATA
from modicum.testtime.tinygpt import TinyGPT, TinyGPTConfig, load_checkpoint

FLIP = str.maketrans("01", "10")
RULES = (
    lambda s: s,
    lambda s: s[::-1],
    lambda s: s.translate(FLIP),
    lambda s: s[::-1].translate(FLIP),
    lambda s: s[1:] + s[0],
    lambda s: "".join(sorted(s)),
)
ALL = Items(np.repeat(np.arange(64), 6), np.tile(np.arange(6), 64))


def test_rules_on_every_string():
    for number, rule in enumerate(RULES):
        for string in range(64):
            assert ANSWERS_KS[number, string] == int(rule(f"{string:06b}"), 2)
    assert np.array_equal(codes(BITS_SL), np.arange(64))
    assert codes(np.array([[0, 1, 0, 1, 1, 5], [1, 1, 1, 1, 1, 1]])).tolist() == [-1, 63]


@pytest.mark.parametrize("stream", [NAMED, SILENT, BLIND])
def test_training_rows_are_conversations(stream):
    num = 600
    rows = stream.draw_rows(numpy_generator(0), num)
    assert rows.ids_BT.shape[1] == stream.sizes["n_positions"]
    assert rows.ids_BT.max() < stream.sizes["vocab_size"]
    tried = []
    for ids, learned in zip(rows.ids_BT.tolist(), rows.learned_BT.tolist(), strict=True):
        assert ids[0] == BOS and not any(learned[:7])
        string = "".join(map(str, ids[1:7]))
        length = stream.attempt_length + 1
        rounds = [ids[start : start + length] for start in range(7, len(ids), length)]
        taught = [learned[start : start + length] for start in range(7, len(ids), length)]
        assert len(rounds) == 6
        attempts = ["".join(map(str, one[-7:-1])) for one in rounds]
        right = [one[-1] == YES for one in rounds]
        if stream.remembers:
            assert {one[-1] for one in rounds} <= {YES, NO} and any(right)
            # The verdicts are those of one hidden rule.
            (answer,) = {attempt for attempt, yes in zip(attempts, right, strict=True) if yes}
            assert [attempt == answer for attempt in attempts] == right
            assert answer in {rule(string) for rule in RULES}
            last = right.index(True)
            assert taught == [[k <= last] * (length - 1) + [False] for k in range(6)]
        else:
            assert {one[-1] for one in rounds} == {NEUTRAL}
            # Learned up to a right attempt: nobody says which, but nothing comes back after it.
            assert all(one in ([True] * 7 + [False], [False] * 8) for one in taught)
            flags = [one[0] for one in taught]
            assert flags == sorted(flags, reverse=True) and flags[0]
            if not all(flags):
                answer = attempts[sum(flags) - 1]
                assert answer not in attempts[: sum(flags) - 1]
        if stream.named:
            named = [one[0] - FIRST_ACT for one in rounds]
            assert attempts == [RULES[rule](string) for rule in named]
            tried.append(named)
            if stream.remembers:
                assert sorted(named) == list(range(6))
        else:
            assert sorted(attempts) == sorted(rule(string) for rule in RULES)
    if stream.named:
        # In each round each rule is equally likely: 5.5 standard errors, two-sided 4e-8.
        for column in zip(*tried, strict=True):
            counts = np.bincount(column, minlength=6)
            assert (abs(counts - num / 6) < 5.5 * math.sqrt(num * 5 / 36)).all()
        same = sum(len(set(named)) < 6 for named in tried)
        assert same == 0 if stream.remembers else same > 0.9 * num


def test_ideal_search_is_the_best_order_of_distinct_outputs():
    for string in (0, 1, 10, 63):
        outputs = sorted({rule(f"{string:06b}") for rule in RULES})
        items = Items(np.full(6, string), np.arange(6))
        for rounds in range(1, 7):
            expected = [
                np.mean([answer in order[:rounds] for order in itertools.permutations(outputs)])
                for answer in (RULES[rule](f"{string:06b}") for rule in range(6))
            ]
            assert items.ideal(rounds) == pytest.approx(expected)


def test_random_order_of_rules():
    items = Items(np.repeat([0, 1, 10, 63], 6), np.tile(np.arange(6), 4))
    for rounds in range(1, 7):
        expected = []
        for string, answer in zip(items.strings_B, items.answers_B, strict=True):
            outputs = [int(rule(f"{string:06b}"), 2) for rule in RULES]
            expected.append(
                np.mean([answer in order[:rounds] for order in itertools.permutations(outputs)])
            )
        assert items.random_order(rounds) == pytest.approx(expected)


class _Scripted:
    """Stands in for a model: writes what `policy(history)` says, with certainty."""

    class _Cache:
        def __init__(self, num):
            self.history = torch.zeros(num, 0, dtype=torch.long)

        def select(self, index):
            chosen = type(self)(0)
            chosen.history = self.history[index]
            return chosen

    def __init__(self, policy):
        self.policy = policy
        self.lm_head = torch.nn.Linear(1, 1)

    def new_cache(self, num, length):
        assert length <= NAMED.sizes["n_positions"]
        return self._Cache(num)

    def __call__(self, ids_BT, cache):
        cache.history = torch.cat([cache.history, ids_BT], dim=1)
        tokens = [self.policy(row) for row in cache.history.tolist()]
        logits_BV = torch.full((len(tokens), FIRST_ACT + 6), -1e4)
        logits_BV[torch.arange(len(tokens)), torch.tensor(tokens)] = 0
        return logits_BV[:, None]


def _in_order(stream, verdicts):
    """Return a policy that tries the rules from the first on, and checks what it is told."""

    def policy(history):
        if len(history) < 7:
            return 0
        length = stream.attempt_length + 1
        number, at = divmod(len(history) - 7, length)
        assert at < length - 1, "the model is never asked for a verdict"
        assert {history[start] for start in range(7 + length - 1, len(history), length)} <= verdicts
        if stream.named:
            if at == 0:
                return FIRST_ACT + number
            number, at = history[7 + number * length] - FIRST_ACT, at - 1
        string = "".join(map(str, history[1:7]))
        return int(RULES[number % 6](string)[at])

    return policy


@pytest.mark.parametrize(
    ("stream", "verdicts"), [(NAMED, {YES, NO}), (SILENT, {YES, NO}), (BLIND, {NEUTRAL})]
)
def test_conversation_is_conducted_right(stream, verdicts):
    solved_BR = correct_itself(_Scripted(_in_order(stream, verdicts)), stream, ALL, 0)
    for number, (string, rule) in enumerate(zip(ALL.strings_B, ALL.rules_B, strict=True)):
        answers = [fn(f"{string:06b}") for fn in RULES]
        first = answers.index(answers[rule])
        assert solved_BR[number].tolist() == [r >= first for r in range(6)]


def test_verdicts_are_told():
    heard = []

    def policy(history):
        if len(history) == 7 + 8:
            heard.append((history[8:14] == history[1:7], history[14]))
        return _in_order(NAMED, {YES, NO})(history)

    items = Items(np.arange(64), np.zeros(64, dtype=int))
    assert correct_itself(_Scripted(policy), NAMED, items, 0)[:, 0].all()
    assert heard == [(True, YES)] * 64
    heard.clear()
    items = Items(np.arange(1, 33), np.full(32, 2))
    assert not correct_itself(_Scripted(policy), NAMED, items, 0)[:, 0].any()
    assert heard == [(True, NO)] * 32


def test_forgetful_model_says_the_same_again():
    scripted = _Scripted(_in_order(NAMED, set()))
    solved_BR = forget_and_retry(scripted, NAMED, ALL, 0)
    copied = ANSWERS_KS[ALL.rules_B, ALL.strings_B] == ALL.strings_B
    assert np.array_equal(solved_BR, np.repeat(copied[:, None], 6, axis=1))


@pytest.mark.parametrize("controller", [RoundRobin(), Eliminate(), Eliminate(order="random")])
def test_controller_tells_the_model_which_rule_to_try(controller):
    def policy(history):
        assert len(history) < 8 or len(history) <= 7 + 7
        if len(history) < 8:
            return 0
        string = "".join(map(str, history[1:7]))
        return int(RULES[history[7] - FIRST_ACT](string)[len(history) - 8])

    solved_BR = with_controller(_Scripted(policy), controller, ALL, 3)
    assert solved_BR[:, -1].all() and not solved_BR[:, 0].all()
    if controller.settings().get("order") == "index":
        first = (ANSWERS_KS[:, ALL.strings_B] == ALL.answers_B).argmax(axis=0)
        assert np.array_equal(solved_BR, first[:, None] <= np.arange(6))


def test_estimates_are_means_over_subsets():
    rng = numpy_generator(4)
    recorded = Recorded(rng.choice([-1, 3, 5, 60], size=(64, 7)))
    items = Items(np.array([3, 3, 5, 9]), np.array([0, 1, 2, 5]))
    for size in (1, 2, 4, 7):
        best, vote = [], []
        for string, answer in zip(items.strings_B, items.answers_B, strict=True):
            row = recorded.attempts_SN[string].tolist()
            subsets = list(itertools.combinations(row, size))
            best.append(np.mean([answer in subset for subset in subsets]))
            shares = []
            for subset in subsets:
                votes = {key: subset.count(key) for key in subset if key >= 0}
                leaders = [key for key in votes if votes[key] == max(votes.values())]
                shares.append((answer in leaders) / max(1, len(leaders)))
            vote.append(np.mean(shares))
        assert recorded.best_of(items, size) == pytest.approx(best, abs=1e-12)
        assert recorded.vote(items, [size])[:, 0] == pytest.approx(vote, abs=1e-12)


def test_first_attempts_have_the_law_of_the_model():
    model = TinyGPT(TinyGPTConfig(**NAMED.sizes), seed=1)
    with torch.no_grad():
        model.lm_head.weight.mul_(10)
    string, num = 37, 8_000
    attempts = first_attempts(model, NAMED, np.full(num, string), 0)
    tokens = model.config.vocab_size
    prompt_T = torch.from_numpy(prompts(np.array([string])))[0]
    with torch.no_grad():
        act_V = model(prompt_T[None])[0, -1].double().softmax(0)
        bits = torch.from_numpy(BITS_SL)
        rows = torch.cat(
            [
                prompt_T.expand(tokens * 64, -1),
                torch.arange(tokens).repeat_interleave(64)[:, None],
                bits.repeat(tokens, 1),
            ],
            dim=1,
        )
        log_law = model(rows[:, :-1])[:, 7:].double().log_softmax(-1)
        chosen = log_law.gather(2, rows[:, 8:, None])[:, :, 0].sum(1).exp().view(tokens, 64)
    law_S = (act_V[:, None] * chosen).sum(0).numpy()
    expected = num * np.append(law_S, 1 - law_S.sum())
    observed = np.append(np.bincount(attempts[attempts >= 0], minlength=64), (attempts < 0).sum())
    keep = expected > 5
    expected = np.append(expected[keep], expected[~keep].sum())
    observed = np.append(observed[keep], observed[~keep].sum())
    assert keep.sum() >= 2
    # At most 65 degrees of freedom: chi-squared exceeds 150 with probability below 1e-7.
    assert ((observed - expected) ** 2 / np.maximum(expected, 1)).sum() < 150


def test_weights_of_the_package_correct_themselves():
    (spec, *_) = experiment.models(quick=True)[experiment.TRAINED]
    model, _ = load_checkpoint(DATA / spec.file)
    outcome = measure(model, spec.stream, 200, 32, 11, thoroughly=True)
    itself_R = outcome.itself_BR.mean(axis=0)
    # 200 items: standard errors below 0.04; the shares in the long run are 0.97 and 0.75, and the
    # furthest that the model is from ideal search is 0.07.
    assert itself_R[-1] > 0.9
    assert outcome.best_of_BR[:, -1].mean() < 0.85
    assert abs(itself_R - outcome.others["ideal search"].mean(axis=0)).max() < 0.2
    # Without verdicts the first round is the same and the rest is worse.
    assert np.array_equal(outcome.others["neutral verdicts"][:, 0], outcome.itself_BR[:, 0])
    assert outcome.others["neutral verdicts"][:, -1].mean() < itself_R[-1] - 0.1
    assert abs((outcome.others["forgetful"] - outcome.best_of_BR).mean(axis=0)).max() < 0.12
    assert abs((outcome.others["vote"][:, -1] - outcome.others["vote"][:, 0]).mean()) < 0.08
    assert outcome.others["RoundRobin"][:, -1].mean() > 0.95


def test_claims_near_their_limit_are_undecided():
    at_most = experiment._at_most
    assert at_most(0.08, -0.079, (-0.1, -0.06)) is True
    assert at_most(0.08, -0.09, (-0.1, -0.07)) is None
    assert at_most(0.08, -0.2, (-0.3, -0.1)) is False
    assert at_most(0.08, 0.09, (0.081, 0.1)) is False


def test_outcomes_pool_and_compare():
    zeros, ones = np.zeros((4, 6)), np.ones((2, 6))
    best_of = np.tile(np.linspace(0.1, 0.8, 24), (4, 1))
    first = Outcome(zeros, best_of, {"x": zeros})
    # linspace passes 0.5 at the fifteenth of 24.
    assert first.samples_for(0.5) == 15 and first.samples_for(0.1) == 1
    assert math.isnan(first.samples_for(0.9))
    other = Outcome(ones, best_of[:2], {"x": ones})
    pooled = Outcome.pooled([first, other])
    assert pooled.itself_BR.shape == (6, 6)
    assert pooled.others["x"].mean() == pytest.approx(1 / 3)
    assert pooled.itself_BR.mean() == pytest.approx(2 / 6)
    assert np.array_equal(pooled.best_of_BR[0], best_of[0, :6])


NAMES = {
    "corrects_itself", "best_of_n_solves_fewer", "near_ideal_search", "rounds_are_worth_samples",
    "vote_is_flat", "forgetting_gives_best_of_n", "neutral_verdicts_give_best_of_n",
    "keeps_up_with_roundrobin", "keeps_up_with_eliminate", "loss_under_trained", "names_help",
}  # fmt: skip


@pytest.mark.parametrize(
    ("figure", "high", "holds"),
    [(18, 19, True), (17, 19, None), (16, 17, False), (17, np.nan, None), (np.nan, np.nan, True)],
)
def test_a_limit_that_only_the_interval_reaches_is_not_decided(figure, high, holds):
    assert experiment._at_least(18, figure, high) is holds


def test_full_runs_train_seeds_of_their_own():
    quick, other = experiment.models(True, 5), experiment.models(False, 5)
    assert [spec.seed for spec in quick["trained"]] == [0, 1, 2]
    assert {spec.seed for specs in other.values() for spec in specs} == {15, 16, 17}
    assert other["blind"][0].file == "self_correcting_blind_1200_seed15.safetensors"


def _context(tmp_path, quick):
    found = Experiment("self_correcting_transformer", "modicum-testtime", "E", "", experiment.run)
    return RunContext(found, tmp_path, quick=quick, seed=0)


def test_quick_experiment_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "QUICK_ITEMS", 60)
    monkeypatch.setattr(experiment, "QUICK_SAMPLES", 24)
    result = experiment.run(_context(tmp_path, True))
    claims = {claim.name: claim for claim in result.claims}
    assert set(claims) == NAMES
    assert all(claim.statement.endswith(".") for claim in result.claims)
    assert claims["corrects_itself"].measured > 0.9
    assert claims["best_of_n_solves_fewer"].holds and claims["names_help"].holds
    rounds, samples, models = result.tables
    assert [row[0] for row in rounds.rows] == [1, 2, 3, 4, 5, 6]
    assert all(row[2] <= row[1] <= row[3] and row[4] <= row[1] <= row[5] for row in rounds.rows)
    assert experiment._over_seeds(np.array([[0.5, 0.2]])) == [(None, None)] * 2
    # The 97.5 % quantile of Student's t with one degree of freedom is 12.706.
    ((low, high),) = experiment._over_seeds(np.array([[0.49], [0.51]]))
    assert (low, high) == pytest.approx((0.5 - 0.12706, 0.5 + 0.12706), abs=1e-5)
    assert [row[0] for row in samples.rows] == list(experiment.SIZES) and [
        row[2] for row in models.rows
    ] == [3, 3, 1, 1]
    assert (tmp_path / "rounds.csv").read_text().count("\n") == 7
    assert result.figures and Result.from_json(result.to_json()).claims == result.claims
    assert not (tmp_path / "models").exists()


def test_full_experiment_trains_and_goes_on_where_it_was_cut_off(tmp_path, monkeypatch):
    few = {
        name: [replace(spec, steps=2) for spec in specs[:1]]
        for name, specs in experiment.models(quick=False).items()
    }
    few[experiment.UNDER_TRAINED] = [replace(few[experiment.TRAINED][0], steps=1)]
    measured, calls = experiment.measure, []
    monkeypatch.setattr(experiment, "models", lambda quick, seed: few)
    monkeypatch.setattr(experiment, "FULL_ITEMS", 20)
    monkeypatch.setattr(experiment, "FULL_SAMPLES", 24)
    whole = experiment.run(_context(tmp_path / "a", False))
    assert len(list((tmp_path / "a" / "models").glob("*.safetensors"))) == 4
    assert len(whole.files) == 1 + 4

    def cut_off(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measured(*arguments, **options)

    monkeypatch.setattr(experiment, "measure", cut_off)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(_context(tmp_path / "b", False))
    again = experiment.run(_context(tmp_path / "b", False))
    assert len(calls) == 3 + 2
    assert again.claims == whole.claims and again.tables == whole.tables


@pytest.mark.gpu
def test_gpu_measures_alike():
    (spec, *_) = experiment.models(quick=True)[experiment.TRAINED]
    model, _ = load_checkpoint(DATA / spec.file, device="cuda")
    assert measure(model, spec.stream, 300, 48, 11).itself_BR[:, -1].mean() > 0.9
