"""The planner's tables, curves, budgets and inverses."""

import csv
import io
import json
import math

import numpy as np
import pytest

from modicum.core.watermark.bank import TokenBank
from modicum.umpwatermark.iid import n_ump
from modicum.umpwatermark.planner import (
    ResolutionWarning,
    evidence_budget,
    plan,
    power,
    required_entropy,
    tokens_needed,
)
from modicum.umpwatermark.profile import EntropyProfile
from modicum.umpwatermark.schemes import (
    SCHEMES,
    CombinedScheme,
    GreenListScheme,
    KGWScheme,
    UnigramScheme,
)

LAWS = np.random.default_rng(6).dirichlet(np.full(16, 0.15), 5)
# Every scheme once; simulated ones with few texts.
FEW = [
    *(name for name in SCHEMES if name not in ("combined", "weighted_pivot", "unigram")),
    CombinedScheme(num_texts=100),
    UnigramScheme(num_texts=100),
]


@pytest.fixture(scope="module")
def table():
    return tokens_needed(laws=LAWS, alpha=0.01, beta=0.1, schemes=FEW)


def test_one_row_per_scheme(table) -> None:
    assert [row.name for row in table.rows[:3]] == ["ump", "agnostic", "sequence_gumbel"]
    ump = table.row("ump")
    for row in table.rows:
        assert row.tokens is not None or row.note
        if row.tokens is None or not math.isfinite(row.tokens):
            continue
        assert row.tokens >= ump.tokens and row.low <= row.tokens <= row.high
        assert row.type2 <= 0.1
        assert row.method in ("exact", "fft", "mc")
        assert (row.distortion == 0) == row.distortion_free
    assert {row.name for row in table.rows if row.uses_model} == {"ump", "combined", "dawa"}
    assert {row.name for row in table.rows if not row.distortion_free} == {"kgw", "unigram"}
    assert 0.01 < table.row("kgw").distortion < 0.3
    with pytest.raises(KeyError, match="no row"):
        table.row("nothing")


def test_formats_agree(table) -> None:
    markdown = table.to_markdown()
    assert markdown == str(table) and table.title in markdown
    assert markdown.count("\n| ") == len(table.rows) + 1
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    record = json.loads(table.to_json())
    for row, from_csv, from_json in zip(table.rows, rows, record["rows"], strict=True):
        assert from_csv["scheme"] == from_json["scheme"] == row.scheme
        if row.tokens is not None and math.isfinite(row.tokens):
            assert float(from_csv["tokens"]) == from_json["tokens"] == row.tokens
            assert f"| {row.scheme} | {row.tokens:.0f} |" in markdown
    assert record["alpha"] == 0.01 and rows[0]["alpha"] == "0.01"
    assert table.to_rich().row_count == len(table.rows) == table.__rich__().row_count


def test_rows_say_why_there_is_no_number() -> None:
    table = tokens_needed(logprobs=np.log([0.9, 0.3, 0.6]), schemes=["ump", "kgw", "gumbel_sum"])
    assert table.row("kgw").tokens is None and "laws" in table.row("kgw").note
    assert table.row("kgw").distortion is None and "| yes |" in table.to_markdown()
    assert json.loads(table.to_json())["rows"][1]["tokens"] is None
    short = tokens_needed(h=0.01, schemes=["kgw", "ump"], max_tokens=500)
    for row in short.rows:
        assert row.tokens == math.inf and row.note == "not within 500 tokens"
    assert "never" in short.to_markdown()
    assert json.loads(short.to_json())["rows"][0]["tokens"] is None
    sure = tokens_needed(laws=[1.0, 0.0], schemes="ump")
    assert "without entropy" in sure.row("ump").note


def test_descriptions_of_the_text_agree() -> None:
    profile = EntropyProfile.from_entropy(0.1)
    by_entropy = tokens_needed(h=0.1, alpha=0.01, beta=0.01, schemes=["ump"])
    by_profile = tokens_needed(profile, alpha=0.01, beta=0.01, schemes="ump")
    assert by_entropy.row("ump").tokens == by_profile.row("ump").tokens == 189
    assert "spike reference" in by_entropy.title
    # A sample of tokens in the proportions of a law has that law's errors.
    counts = np.repeat(np.log([0.75, 0.25]), [3, 1])
    sampled = tokens_needed(logprobs=counts, alpha=0.01, beta=0.1, schemes=["ump", "gumbel_sum"])
    exact = tokens_needed(laws=[0.75, 0.25], alpha=0.01, beta=0.1, schemes=["ump", "gumbel_sum"])
    for one, other in zip(sampled.rows, exact.rows, strict=True):
        assert one.low <= other.tokens <= one.high


def test_a_bad_surrogate_costs_tokens() -> None:
    noisy = 0.3 * LAWS + 0.7 / 16
    scheme = CombinedScheme(num_texts=300)
    exact = tokens_needed(laws=LAWS, alpha=0.01, beta=0.1, schemes=scheme)
    bad = tokens_needed(laws=LAWS, surrogate=noisy, alpha=0.01, beta=0.1, schemes=scheme)
    assert bad.row("combined").low > exact.row("combined").high


def test_power_curves() -> None:
    tokens = [4, 8, 16, 32]
    curves = power(laws=LAWS, tokens=tokens, alpha=0.01, schemes=["ump", "gumbel_sum", "kgw"])
    for curve in curves:
        assert curve.tokens == tuple(tokens) and len(curve.errors) == 4 and not curve.note
        values = [error.value for error in curve.errors]
        assert values[0] > values[-1]
    ump, gumbel, kgw = ([error.value for error in curve.errors] for curve in curves)
    assert all(a <= b + 1e-9 and a <= c + 1e-9 for a, b, c in zip(ump, gumbel, kgw, strict=True))
    (missing,) = power(logprobs=[-0.5], tokens=[3], schemes="hazard")
    assert missing.errors == () and "laws" in missing.note
    with pytest.raises(ValueError, match="num_tokens"):
        power(h=0.1, tokens=[0])


def test_evidence_budget_of_the_banks() -> None:
    base = evidence_budget(TokenBank.build("base").target_BV)
    low = evidence_budget(TokenBank.build("low").target_BV)
    for budget, figures in ((base, (0.825, 0.526, 0.175)), (low, (0.165, 0.0987, 0.0108))):
        found = [budget[name] for name in ("entropy", "weighted pivot", "pivot")]
        assert found == pytest.approx(figures, rel=0.01)
        assert budget["sum"] <= budget["pivot"] <= budget["weighted pivot"] <= budget["entropy"]
    # On mixed banks the hole near 0 that hazard sampling leaves washes out.
    assert base["hazard"] < base["pivot"] and low["hazard"] < low["pivot"]
    # Two tokens: the pivot of hazard sampling tells nearly delta nats, of Gumbel-max a fifth of it.
    delta = 0.02
    spike = evidence_budget(EntropyProfile.spike(delta))
    exact = (1 - delta**2) * math.log(1 + delta) + delta**2 * math.log(delta)
    assert spike["hazard"] == pytest.approx(exact, rel=1e-6)
    assert spike["pivot"] / delta == pytest.approx(0.209, rel=0.15)


def test_evidence_with_a_surrogate() -> None:
    right = evidence_budget(LAWS, LAWS)
    assert right == pytest.approx(evidence_budget(LAWS))
    wrong = evidence_budget(LAWS, np.full_like(LAWS, 1 / 16))
    assert wrong["weighted pivot"] < right["weighted pivot"]
    assert wrong["pivot"] == pytest.approx(right["pivot"])
    assert "hazard" not in evidence_budget(EntropyProfile.from_logprobs([-0.1, -2.0]))
    with pytest.raises(ValueError, match="q_hat"):
        evidence_budget(EntropyProfile.spike(0.1), LAWS)


@pytest.mark.parametrize(("n", "alpha", "beta"), [(189, 0.01, 0.01), (60, 1e-6, 0.05)])
def test_required_entropy_inverts_the_tokens(n: int, alpha: float, beta: float) -> None:
    h = required_entropy(n, alpha, beta)
    assert n_ump(h * (1 + 1e-9), alpha, beta).tokens <= n < n_ump(h * 0.999, alpha, beta).tokens
    assert required_entropy(2, 1e-6, 0.05) == math.inf
    if n == 189:
        assert h == pytest.approx(0.1, rel=0.01)


def test_plan_puts_everything_together() -> None:
    found = plan(h=0.1, alpha=1e-2, beta=1e-2, schemes=["ump", "kgw"])
    exact, chernoff, _, normal, lower = found.estimates
    assert exact.tokens == 189 and lower.tokens <= 189 <= chernoff.tokens
    assert normal.status == "approximation"
    assert exact.tokens * 0.1 / (found.rate * 0.1) == pytest.approx(1.78, abs=0.01)
    text = found.to_markdown()
    assert "upper bound" in text and "| entropy | 0.1 |" in text and "KGW" in text
    with pytest.raises(ValueError, match="no entropy"):
        plan(laws=[1.0])


def test_warns_below_the_resolution_of_the_fft() -> None:
    with pytest.warns(ResolutionWarning, match="beta=1e-13"):
        found = tokens_needed(h=0.3, alpha=0.01, beta=1e-13, schemes="ump")
    assert found.row("ump").method == "exact"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "exactly one"),
        ({"h": 0.1, "logprobs": [-1.0]}, "exactly one"),
        ({"h": 0.1, "surrogate": LAWS}, "surrogate"),
        ({"h": 0.1, "alpha": 0.0}, "alpha"),
        ({"h": 0.1, "beta": 1.0}, "beta"),
        ({"h": -0.1}, "entropy"),
        ({"h": 0.1, "schemes": "magic"}, "schemes"),
        ({"h": 0.1, "max_tokens": 0}, "num_tokens"),
        ({"logprobs": [0.5]}, "must not be positive"),
        ({"laws": [0.5, 0.4]}, "sum to 1"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        tokens_needed(**arguments)


def test_scheme_instances_of_ones_own() -> None:
    table = tokens_needed(
        laws=LAWS, alpha=0.01, beta=0.1, schemes=[GreenListScheme(0.2), KGWScheme(0.25, 1.0)]
    )
    assert "γ=0.2" in table.rows[0].scheme and "γ=0.25" in table.rows[1].scheme
