"""Central claim: tokens to detection of this watermark and its peers at equal error probability.

Simulates texts from a bank of next-token laws with anchors of different quality and reads every
scheme's text with its own sequential test. Reports where others win as well.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modicum.core.experiment import Claim, Figure, Result, RunContext, Table, write_atomic
from modicum.core.stats import ratio_of_medians_interval
from modicum.core.watermark.bank import TokenBank
from modicum.ewatermark.baselines import (
    E_PROCESS,
    UNION_BOUND,
    e_process_times,
    peer_times,
    seal_p_values,
    union_bound_times,
)
from modicum.ewatermark.evalues import AnchoredScore, DefensiveScore
from modicum.ewatermark.plan import SchemeTokens, summarise
from modicum.ewatermark.simulation import SimulatedTexts, log_wealth, simulate

ALPHA = 0.02
NUM_TOKENS = 500
QUICK_TOKENS = 300
CASES = ("base", "hot", "poor", "uniform", "oracle")
ANCHORS = {
    "base": "anchor at temperature 1, some noise",
    "hot": "anchor at temperature 2",
    "poor": "anchor with twice the noise",
    "uniform": "anchor that knows nothing",
    "oracle": "anchor equal to the model",
}
PAPER_WARMUP = 20
"""Unscored tokens at the start of a response in the published setting."""

PAPER_RATIO = 72 / 84.5
"""Tokens at temperature 0.7, published scheme over SEAL (arXiv 2602.17608)."""

SEAL = "SEAL, p-value with union bound"
PUBLISHED = "anchored δ=0.3, m=2"
HINDSIGHT = "anchored, best δ, m={m}"
DEFENSIVE = "defensive-mixture, m={m}"
GUMBEL = f"Gumbel-max, {E_PROCESS}"
GUMBEL_UNION = f"Gumbel-max, {UNION_BOUND}"

Times = dict[str, NDArray[np.float64]]


def best_delta(texts: SimulatedTexts, num_groups: int) -> float:
    """Return the tolerance with the largest mean log e-value in hindsight: twice the miss rate."""
    limit = 2 * (num_groups - 1) / num_groups
    return float(np.clip(2 * (1 - texts.match_RT.mean()), 0.02, 0.99 * limit))


def texts_by_groups(case: str, quick: bool) -> dict[int, int]:
    """Return how many texts are simulated for each number of groups.

    With the hot anchor the anchored score finds a part of the texts late or never, so its median
    lies where the distribution is flat and needs many texts.
    """
    if quick:
        sizes = {2: 4000 if case == "hot" else 300, 16: 300}
        # The token level costs four times as much as the rest of a case.
        return sizes | ({256: 200} if case == "base" else {})
    return {2: 4000 if case == "hot" else 1000, 16: 600, 256: 400}


def measure_case(case: str, *, num_tokens: int, num_texts: dict[int, int], seed: int) -> Times:
    """Return tokens to detection by method for one quality of the anchor.

    SEAL and all scores with the same number of groups read the same texts; ``num_texts`` gives
    their number by the number of groups.
    """
    bank = TokenBank.build(case, seed=seed)  # type: ignore[arg-type]
    times: Times = {}
    for m, size in num_texts.items():
        texts = simulate(
            bank.target_BV,
            bank.anchor_BV,
            num_groups=m,
            num_texts=size,
            num_tokens=num_tokens,
            rng=np.random.default_rng([seed, CASES.index(case), m]),
        )
        if m == 2:
            times[SEAL] = union_bound_times(seal_p_values(texts), ALPHA)
            times[PUBLISHED] = e_process_times(log_wealth(AnchoredScore(2, 0.3), texts), ALPHA)
        if m != 16:
            score = AnchoredScore(m, best_delta(texts, m))
            times[HINDSIGHT.format(m=m)] = e_process_times(log_wealth(score, texts), ALPHA)
        log_e_RT = log_wealth(DefensiveScore(), texts)
        times[DEFENSIVE.format(m=m)] = e_process_times(log_e_RT, ALPHA)
    return times


def measure_peers(*, num_texts: int, num_tokens: int, seed: int) -> Times:
    """Return tokens to detection of the schemes that use no anchor."""
    bank = TokenBank.build("base", seed=seed)
    peers = peer_times(
        bank.target_BV,
        alpha=ALPHA,
        num_texts=num_texts,
        num_tokens=num_tokens,
        rng=np.random.default_rng([seed, len(CASES)]),
    )
    return {peer.name: peer.times_R for peer in peers}


def ratio_claim(
    name: str,
    statement: str,
    numerator: NDArray[np.float64],
    denominator: NDArray[np.float64],
    *,
    below: float,
    paired: bool = False,
    paper: float | None = None,
    note: str = "",
) -> Claim:
    """State that a ratio of medians is below a bound and its interval excludes 1.

    Refuted if the whole interval is above the bound; otherwise undecided at this number of texts.
    """
    ratio, interval = ratio_of_medians_interval(numerator, denominator, paired=paired)
    holds: bool | None = None
    if ratio < below and interval[1] < 1:
        holds = True
    elif interval[0] > below:
        holds = False
    criterion = (
        f"Holds if the ratio is below {below:g} and its interval excludes 1, fails if the interval "
        f"lies above {below:g}, is undecided otherwise. 95 % bootstrap"
    )
    return Claim(
        name,
        statement,
        paper,
        ratio,
        interval,
        holds,
        "ratio of medians",
        f"{criterion}{', texts paired' if paired else ''}. {note}".strip(),
    )


def claims_of(cases: dict[str, Times], peers: Times) -> list[Claim]:
    """Derive every claim, the losses included, from the measured times."""
    base, hot = cases["base"], cases["hot"]
    m16 = DEFENSIVE.format(m=16)
    best_peer = min(peers, key=lambda name: float(np.median(peers[name])))
    claims = [
        ratio_claim(
            "published_setting_hot_anchor",
            "In the published setting (two groups, δ = 0.3, anchor at temperature 2, 20 warm-up "
            "tokens) the anchored e-process needs fewer tokens than SEAL on the same text.",
            hot[PUBLISHED] + PAPER_WARMUP,
            hot[SEAL] + PAPER_WARMUP,
            below=0.95,
            paired=True,
            paper=PAPER_RATIO,
            note="Published: 72 against 84.5 tokens on Llama-2-7B-chat; here simulated laws. The "
            "growth at this δ is close to 0, so the ratio depends on the laws that are simulated: "
            "another --seed draws others and may well end on the other side of 1.",
        ),
        ratio_claim(
            "untuned_two_groups_hot_anchor",
            "On the same text with the same two groups, the defensive mixture needs fewer tokens "
            "than SEAL without a tolerance to tune.",
            hot[DEFENSIVE.format(m=2)],
            hot[SEAL],
            below=0.95,
            paired=True,
            note="Scored tokens only.",
        ),
        ratio_claim(
            "published_setting_base_anchor",
            "With an anchor at temperature 1 the gain over SEAL is larger.",
            base[PUBLISHED],
            base[SEAL],
            below=0.75,
            paired=True,
            note="Scored tokens only.",
        ),
        ratio_claim(
            "default_beats_every_peer",
            f"The default (m = 16, defensive mixture) with a decent anchor needs fewer tokens than "
            f"the best peer ({best_peer}).",
            base[m16],
            peers[best_peer],
            below=1.0,
        ),
        ratio_claim(
            "gain_of_e_processes",
            "Much of the gain over p-values is not the scheme's: Gumbel-max alone gains it by an "
            "e-process in place of the union bound.",
            peers[GUMBEL],
            peers[GUMBEL_UNION],
            below=1.0,
        ),
        ratio_claim(
            "loss_two_groups_against_gumbel",
            "A loss: at two groups the published scheme needs more tokens than a Gumbel "
            "e-process (ratio Gumbel / anchored).",
            peers[GUMBEL],
            base[PUBLISHED],
            below=1.0,
        ),
        ratio_claim(
            "loss_no_anchor",
            "A loss: with an anchor that knows nothing, Gumbel-max with an e-process needs fewer "
            "tokens than the default (ratio Gumbel / default).",
            peers[GUMBEL],
            cases["uniform"][m16],
            below=1.0,
        ),
        ratio_claim(
            "loss_poor_anchor",
            "A loss: with a poor anchor Gumbel-max with an e-process needs fewer tokens than the "
            "default (ratio Gumbel / default).",
            peers[GUMBEL],
            cases["poor"][m16],
            below=1.0,
        ),
    ]
    horizon = "within the simulated length"
    tail = summarise("", "", hot[PUBLISHED])
    seal = summarise("", "", hot[SEAL])
    claims.append(
        Claim(
            "loss_published_tail",
            f"A loss: with the hot anchor the published setting leaves many texts undetected "
            f"{horizon}, which the median hides.",
            None,
            tail.detected_fraction,
            tail.detected_interval,
            bool(tail.detected_interval[1] < seal.detected_interval[0]),
            "share detected",
            f"SEAL detects {seal.detected_fraction:.3f} of the same texts. Holds if the 95 % "
            "Clopper-Pearson intervals do not meet.",
        )
    )
    cured = summarise("", "", hot[m16])
    claims.append(
        Claim(
            "default_has_no_tail",
            "The default detects (nearly) all texts with the same anchor.",
            None,
            cured.detected_fraction,
            cured.detected_interval,
            bool(cured.detected_interval[0] > 0.95),
            "share detected",
            "Holds if the 95 % Clopper-Pearson interval lies above 0.95.",
        )
    )
    many = summarise("", "", base[HINDSIGHT.format(m=256)])
    claims.append(
        Claim(
            "loss_anchored_token_level",
            "A loss: the anchored score fails at the token level even with the best δ in "
            "hindsight; the defensive mixture reads the same text.",
            None,
            many.detected_fraction,
            many.detected_interval,
            bool(many.detected_interval[1] < 0.6),
            "share detected",
            "Holds if the 95 % Clopper-Pearson interval lies below 0.6.",
        )
    )
    return claims


def table_of(title: str, rows: list[SchemeTokens], note: str) -> Table:
    """Lay out medians with their intervals and detected shares."""
    columns = ["method", "median tokens", "95 % low", "95 % high", "detected", "texts", "distorts"]
    cells: list[list[Any]] = [
        [
            r.scheme,
            r.median_tokens,
            *r.median_interval,
            r.detected_fraction,
            len(r.times_R),
            r.distorts,
        ]
        for r in rows
    ]
    return Table(title, columns, cells, note)


def run(ctx: RunContext) -> Result:
    """Measure all cases and peers."""
    num_tokens = QUICK_TOKENS if ctx.quick else NUM_TOKENS
    task = ctx.progress(len(CASES) + 1, "tokens to detection")
    cases: dict[str, Times] = {}
    for case in CASES:
        times = _load(ctx, case)
        if times is None:
            num_texts = texts_by_groups(case, ctx.quick)
            times = measure_case(case, num_tokens=num_tokens, num_texts=num_texts, seed=ctx.seed)
            ctx.save_partial(case, times)
        cases[case] = times
        task.advance(1)
    peers = _load(ctx, "peers")
    if peers is None:
        peer_texts = 200 if ctx.quick else 600
        peers = measure_peers(num_texts=peer_texts, num_tokens=num_tokens, seed=ctx.seed)
        ctx.save_partial("peers", peers)
    task.advance(1)
    note = (
        f"α = {ALPHA}, at most {num_tokens} scored tokens; medians with exact intervals from order "
        "statistics."
    )
    peer_rows = [
        summarise(name, "", t, distorts=name.startswith("KGW")) for name, t in peers.items()
    ]
    tables = [
        table_of(
            f"{case}: {ANCHORS[case]}",
            [summarise(name, "", times) for name, times in cases[case].items()],
            f"{note} Rows with the same m read the same texts; SEAL reads those of m=2.",
        )
        for case in CASES
    ]
    tables.append(
        table_of(
            "Peers without an anchor",
            peer_rows,
            f"{note} All write from the same laws.",
        )
    )
    lines = ["case,method,median,low,high,detected,texts"]
    for table, case in zip(tables, (*CASES, "peers"), strict=True):
        for row in table.rows:
            lines.append(",".join([case, f'"{row[0]}"', *(f"{x:.6g}" for x in row[1:6])]))
    write_atomic(ctx.out / "tokens_to_detect.csv", "\n".join(lines) + "\n")
    return ctx.result(
        claims=claims_of(cases, peers),
        tables=tables,
        figures=_figures(cases, peers, num_tokens),
        files=["tokens_to_detect.csv"],
        text=(
            "Contexts are drawn independently from a bank of 4000 simulated next-token laws over "
            "256 tokens (entropy 0.8 nats on average); every scheme writes its own text from them "
            "and is read with its own test.\n\n"
            "What to choose: with an anchor that is a language model, 16 groups or more and the "
            "defensive mixture. With a poor anchor, or none, Gumbel-max with an e-process is "
            "stronger. Two groups and the anchored score reproduce the publication; the median "
            "hides that a part of the texts is found late or not at all."
        ),
    )


def _load(ctx: RunContext, name: str) -> Times | None:
    found = ctx.load_partial(name)
    return None if found is None else {k: np.array(v, dtype=float) for k, v in found.items()}


def _figures(cases: dict[str, Times], peers: Times, horizon: int) -> list[Figure]:
    from modicum.ewatermark import plots

    base, hot = cases["base"], cases["hot"]
    m2, m16, m256 = (DEFENSIVE.format(m=m) for m in (2, 16, 256))
    kgw = f"KGW δ=2, {E_PROCESS}"
    synthid = f"SynthID, {E_PROCESS}"
    first = {name: base[name] for name in (m256, m16, m2, PUBLISHED, SEAL)}
    first |= {name: peers[name] for name in (GUMBEL, GUMBEL_UNION, synthid, kgw)}
    second = {name: hot[name] for name in (m16, m2, PUBLISHED, SEAL)}
    medians = {name: float(np.median(t)) for name, t in first.items()}
    words = ", ".join(
        f"{name} {'not reached' if math.isinf(m) else f'{m:g}'}" for name, m in medians.items()
    )
    try:
        return [
            Figure.from_matplotlib(
                plots.tokens_ecdf(first, min(horizon, 300)),
                "Share of texts detected, base anchor",
                f"α = {ALPHA}. Farther left is better.",
                f"Distribution of tokens to detection; medians: {words}.",
            ),
            Figure.from_matplotlib(
                plots.tokens_ecdf(second, horizon),
                "Share of texts detected, hot anchor",
                "The published setting is ahead of SEAL at the median and behind in the tail.",
            ),
        ]
    except ImportError:
        # matplotlib is optional; tables and claims stand without it.
        return []
