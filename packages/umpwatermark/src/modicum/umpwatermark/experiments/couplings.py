"""Laws of the couplings by enumeration, and what green lists and hazard sampling gain.

Sums over all regions and coins of small couplings and compares marginals, levels and errors with
closed forms; searches for laws that cost a model-agnostic watermark more than the minimax price;
and computes, over token banks, the hits and tokens of distortion-free green lists and of hazard
sampling beside Gumbel-max and KGW.

Legend: ``N`` elements, ``R`` regions, ``M`` coins, ``B`` laws.
"""

import itertools
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modicum.core.experiment import Claim, Figure, Result, RunContext, Table, write_atomic
from modicum.umpwatermark.agnostic import AgnosticCoupling, greedy_hit_rate, greedy_law
from modicum.umpwatermark.coupling import aware_conditional, ump_coupling
from modicum.umpwatermark.experiments.bank_texts import bank_profile
from modicum.umpwatermark.experiments.spike_tests import SpikeHazardScheme
from modicum.umpwatermark.experiments.tokens_against_entropy import RESOLUTION, least_length
from modicum.umpwatermark.profile import EntropyProfile
from modicum.umpwatermark.schemes import (
    GreenListScheme,
    GumbelHitsScheme,
    GumbelPivotScheme,
    GumbelSumScheme,
    HazardScheme,
    KGWScheme,
)
from modicum.umpwatermark.schemes._hits import HitScheme
from modicum.umpwatermark.theory import (
    agnostic_type2,
    minimax_price,
    region_hit_probability,
    seq_gumbel_type2,
    ump_law,
    ump_type2,
)

Floats = NDArray[np.float64]

ALPHA, BETA = 0.01, 0.1
SPIKE = 0.02
GAMMAS = (0.1, 0.5, 0.9, 0.95)
HITS = {
    ("base", 0.1): (0.2533, 0.2730),
    ("base", 0.5): (0.6470, 0.6788),
}
"""Hit rates of Gumbel-max and of the optimal coupling computed by another route."""

EXACT = 1e-12
"""Rounding that sums of a few hundred terms may leave."""


def _regions(num_elements: int) -> NDArray[np.bool_]:
    return np.array(list(itertools.product((False, True), repeat=num_elements)))


def agnostic_laws(coupling: AgnosticCoupling) -> tuple[Floats, Floats, float]:
    """Sum over all regions and coins.

    Returns
    -------
    marginal_N, level_N
        Law of the output, and probability of each element to be in the region.
    type2
        Probability that the output lies outside of the region.
    """
    N, k = len(coupling.rho), round(coupling.alpha * len(coupling.rho))
    inside_RN = _regions(N)
    sizes_R = inside_RN.sum(axis=1)
    if coupling.region == "bernoulli":
        prob_R = coupling.alpha**sizes_R * (1 - coupling.alpha) ** (N - sizes_R)
    else:
        prob_R = (sizes_R == k) / (sizes_R == k).sum()
    marginal_N, hits = np.zeros(N), 0.0
    # A coin below the probability of staying stays, one at it swaps.
    for swaps in itertools.product((False, True), repeat=coupling.num_swaps):
        stay_M = np.array(coupling.stay_probs)
        coins_M = np.where(swaps, stay_M, 0.0)
        weight = float(np.prod(np.where(swaps, 1 - stay_M, stay_M)))
        law_RN = coupling.law(inside_RN, np.broadcast_to(coins_M, (len(inside_RN), len(stay_M))))
        marginal_N += weight * (prob_R @ law_RN)
        hits += weight * float(prob_R @ (law_RN * inside_RN).sum(axis=1))
    return marginal_N, prob_R @ inside_RN, 1 - hits


def enumerated(num_laws: int, rng: np.random.Generator) -> dict[str, float]:
    """Return the largest deviations from the closed forms over random laws."""
    worst = dict.fromkeys(
        (
            "UMP: law of the output",
            "UMP: level above α",
            "UMP: distortion above ε",
            "UMP: Type II error",
            "UMP with another model: law of the output",
            "agnostic: law of the output",
            "agnostic: level above α",
            "agnostic: Type II error",
            "greedy: law of the output",
            "greedy: hits",
        ),
        0.0,
    )

    def note(name: str, error: Any) -> None:
        worst[name] = max(worst[name], float(np.max(error)))

    for _ in range(num_laws):
        N = int(rng.integers(3, 7))
        rho = rng.dirichlet(np.full(N, 0.7))
        alpha, epsilon = float(rng.uniform(0.05, 0.6)), float(rng.choice([0.0, 0.1, 0.3]))
        coupling = ump_coupling(rho, alpha, epsilon)
        laws = np.stack([coupling.conditional_law(np.array(r)) for r in range(N + 1)])
        probs = coupling.region_probs
        note("UMP: law of the output", abs(probs @ laws - ump_law(rho, alpha, epsilon)))
        note("UMP: level above α", probs[:-1] - alpha)
        note("UMP: distortion above ε", 0.5 * abs(probs @ laws - rho).sum() - epsilon)
        hits = float(probs[:-1] @ np.diag(laws[:-1]))
        note("UMP: Type II error", abs(1 - hits - ump_type2(rho, alpha, epsilon)))
        other = ump_coupling(rng.dirichlet(np.ones(N)), alpha).region_probs
        aware = aware_conditional(
            np.tile(rho, (N + 1, 1)), np.tile(other, (N + 1, 1)), np.arange(N + 1)
        )
        note("UMP with another model: law of the output", abs(other @ aware - rho))

        region = "uniform-k" if rng.random() < 0.5 else "bernoulli"
        level = int(rng.integers(1, N)) / N if region == "uniform-k" else alpha
        agnostic = AgnosticCoupling(rho, level, region)  # type: ignore[arg-type]
        marginal, inside, type2 = agnostic_laws(agnostic)
        note("agnostic: law of the output", abs(marginal - rho))
        note("agnostic: level above α", inside - level)
        exact = agnostic_type2(rho, level, region)  # type: ignore[arg-type]
        note("agnostic: Type II error", abs(type2 - exact))

        regions = _regions(N)
        sizes = regions.sum(axis=1)
        weights = alpha**sizes * (1 - alpha) ** (N - sizes)
        law = greedy_law(np.broadcast_to(rho, regions.shape), regions, alpha)
        note("greedy: law of the output", abs(weights @ law - rho))
        found = float(weights @ (law * regions).sum(axis=1))
        note("greedy: hits", abs(found - greedy_hit_rate(rho, alpha)))
    return worst


def search_price(num_laws: int, rng: np.random.Generator) -> list[list[Any]]:
    """Look for laws that cost more than the minimax price, at random and by climbing.

    Returns rows of N, k, the price, its closed form for whole 1/alpha, the largest found, and the
    largest of sequence-level Gumbel-max with its limit.
    """
    rows: list[list[Any]] = []
    for N, k in ((8, 2), (12, 3), (100, 10), (1000, 100)):
        alpha = k / N
        price = minimax_price(alpha, N)
        laws = rng.dirichlet(np.full(N, 0.3), num_laws // 2)
        # Half of them uniform on a random number of elements: the worst law is of this kind.
        flat = np.zeros((num_laws - len(laws), N))
        for row in flat:
            row[: int(rng.integers(1, N + 1))] = 1
        laws = np.concatenate([laws, flat / flat.sum(axis=1, keepdims=True)])

        def paid(rho: Floats, alpha: float = alpha) -> Floats:
            return np.atleast_1d(agnostic_type2(rho, alpha, "uniform-k") - ump_type2(rho, alpha))

        best = laws[int(paid(laws).argmax())]
        for width in (0.3, 0.1, 0.03):
            near = best * np.exp(width * rng.standard_normal((num_laws // 4, N)))
            near /= near.sum(axis=1, keepdims=True)
            laws = np.concatenate([laws, near])
            best = laws[int(paid(laws).argmax())]
        worst = np.zeros(N)
        worst[: round(1 / alpha)] = alpha
        closed = 1 - region_hit_probability(round(1 / alpha), N, alpha)
        gumbel = np.atleast_1d(seq_gumbel_type2(laws, alpha) - ump_type2(laws, alpha))
        limit = (1 - alpha) ** (1 / alpha)
        rows.append(
            [N, k, price, closed, float(paid(laws).max()), float(paid(worst)[0]), len(laws),
             float(gumbel.max()), limit]
        )  # fmt: skip
    return rows


def hit_rows(
    profiles: dict[str, EntropyProfile], task: Any = None
) -> dict[tuple[str, str, float], tuple[float, float, float]]:
    """Return hit rate, distortion and tokens by bank, scheme and level."""
    found = {}
    for bank, profile in profiles.items():
        schemes: list[tuple[str, float, HitScheme]] = [
            (name, gamma, scheme)
            for gamma in GAMMAS
            for name, scheme in (
                ("Gumbel-max", GumbelHitsScheme(gamma)),
                ("greedy", GreenListScheme(gamma, "greedy")),
                ("optimal", GreenListScheme(gamma)),
            )
        ]
        if bank == "spike":
            # Over two tokens no list has a tenth of the vocabulary, and KGW needs a fixed size.
            schemes = [row for row in schemes if row[1] >= 0.5]
        schemes.append(("KGW δ=2", 0.5, KGWScheme()))
        for name, gamma, scheme in schemes:
            tokens = scheme.tokens_needed(profile, ALPHA, BETA).value
            rate = scheme.hit_rate(profile).value
            found[bank, name, gamma] = (rate, scheme.distortion(profile), tokens)
            if task is not None:
                task.advance(1)
    return found


STARTS = {"base": 50, "low": 750, "spike": 1800}
"""Lengths near which tests of pivots are searched."""


def pivot_rows(profiles: dict[str, EntropyProfile]) -> dict[tuple[str, str], float]:
    """Return tokens of hazard sampling and of tests of Gumbel pivots by bank."""
    found = {}
    for bank, profile in profiles.items():
        for name, scheme in (
            ("hazard", HazardScheme()),
            ("Gumbel, best test", GumbelPivotScheme()),
            ("Gumbel, sum", GumbelSumScheme()),
        ):
            if bank == "spike" and name == "hazard":
                n = SpikeHazardScheme(SPIKE).tokens_needed(profile, ALPHA, BETA).value
            else:
                error = partial(scheme.type2, profile, alpha=ALPHA)
                n = least_length(error, STARTS[bank], RESOLUTION, BETA)["tokens"]
            found[bank, name] = n
    return found


def _coupling_claims(worst: dict[str, float], prices: list[list[Any]]) -> list[Claim]:
    most = max(worst.values())
    over = max(row[4] - row[2] for row in prices)
    reached = max(abs(row[5] - row[2]) for row in prices)
    gumbel = max(row[7] - row[8] for row in prices)
    return [
        Claim(
            "couplings_are_exact",
            "Summed over all regions and coins, every coupling has the law, the level and the "
            "Type II error of its closed form; the largest deviation is shown.",
            "optimal couplings exist",
            most,
            None,
            most <= EXACT,
            "probability",
            "; ".join(f"{name}: {error:.1e}" for name, error in worst.items())
            + f". Holds up to {EXACT:g}.",
        ),
        Claim(
            "minimax_price",
            "No law costs a model-agnostic watermark more than the minimax price, and the uniform "
            "law on 1/α elements costs exactly that; the largest excess found is shown.",
            "price below 1/e",
            over,
            None,
            over <= EXACT and reached <= EXACT and all(row[2] < np.exp(-1) for row in prices),
            "Type II error",
            f"Random laws and climbing from the worst, {sum(row[6] for row in prices)} laws; "
            f"prices {', '.join(f'{row[2]:.4f}' for row in prices)} for (N, k) = "
            f"{', '.join(f'({row[0]}, {row[1]})' for row in prices)}.",
        ),
        Claim(
            "sequence_gumbel_price",
            "Gumbel-max over whole outputs pays at most (1 - α)^(1/α), less than 1/e; the largest "
            "excess found is shown.",
            None,
            gumbel,
            None,
            gumbel <= EXACT,
            "Type II error",
            "Our bound, on the same laws.",
        ),
    ]


def _hit_claims(
    found: dict[tuple[str, str, float], tuple[float, float, float]],
    pivots: dict[tuple[str, str], float],
) -> list[Claim]:
    def tokens(bank: str, name: str, gamma: float = 0.5) -> float:
        return found[bank, name, gamma][2]

    off = max(
        abs(found[bank, name, gamma][0] - known)
        for (bank, gamma), both in HITS.items()
        for name, known in zip(("Gumbel-max", "optimal"), both, strict=True)
    )
    greedy = max(
        found[bank, "optimal", gamma][0] - rate
        for (bank, name, gamma), (rate, _, _) in found.items()
        if name == "greedy" and bank != "spike"
    )
    ratio = {bank: tokens(bank, "optimal") / tokens(bank, "KGW δ=2") for bank in ("base", "low")}
    spike = tokens("spike", "optimal") / tokens("spike", "KGW δ=2")
    hazard = pivots["spike", "hazard"]
    return [
        Claim(
            "hit_rates",
            "Hit rates over the bank agree with an independent computation; the largest deviation "
            "is shown.",
            None,
            off,
            None,
            off <= 0.002,
            "hit rate",
            "Gumbel-max and optimal coupling, γ = 0.1 and 0.5, base. Holds up to 0.002.",
        ),
        Claim(
            "greedy_is_nearly_optimal",
            "On laws like those of language models the greedy coupling loses next to nothing to "
            "the optimal one; the largest loss of hit rate is shown.",
            None,
            greedy,
            None,
            greedy <= 1e-3,
            "hit rate",
            "Both banks, four levels. Holds up to 0.001.",
        ),
        Claim(
            "green_list_beats_kgw",
            "At γ = 0.5 the optimal distortion-free green list needs fewer tokens than KGW with "
            "δ = 2, which distorts (base).",
            None,
            ratio["base"],
            None,
            ratio["base"] < 1,
            "ratio of tokens",
            f"{tokens('base', 'optimal'):.0f} against {tokens('base', 'KGW δ=2'):.0f} tokens.",
        ),
        Claim(
            "loss_green_list_low_entropy",
            "A loss: with little entropy KGW needs fewer tokens, because it buys hits with "
            "distortion (low; ratio ours / KGW).",
            None,
            ratio["low"],
            None,
            ratio["low"] > 1,
            "ratio of tokens",
            f"{tokens('low', 'optimal'):.0f} against {tokens('low', 'KGW δ=2'):.0f} tokens; on "
            f"the spike {spike:.1f} times as many. Another level helps: γ = 0.9 needs "
            f"{tokens('low', 'optimal', 0.9):.0f} on low.",
        ),
        Claim(
            "hazard_on_spikes",
            f"On the two-token law with δ = {SPIKE} hazard sampling needs a sixth of the tokens of "
            "the best test of Gumbel pivots, or less.",
            None,
            hazard / pivots["spike", "Gumbel, best test"],
            None,
            hazard / pivots["spike", "Gumbel, best test"] <= 1 / 6,
            "ratio of tokens",
            f"{hazard:.0f} against {pivots['spike', 'Gumbel, best test']:.0f}; the sum test needs "
            f"{pivots['spike', 'Gumbel, sum']:.0f}. Without any model at detection.",
        ),
        Claim(
            "loss_hazard_mixed_entropy",
            "A loss: where entropy varies from token to token, hazard sampling needs more tokens "
            "than Gumbel-max (low; ratio hazard / Gumbel, best tests of the pivot).",
            None,
            pivots["low", "hazard"] / pivots["low", "Gumbel, best test"],
            None,
            pivots["low", "hazard"] > pivots["low", "Gumbel, best test"],
            "ratio of tokens",
            f"low: {pivots['low', 'hazard']:.0f} against {pivots['low', 'Gumbel, best test']:.0f}; "
            f"base: {pivots['base', 'hazard']:.0f} against "
            f"{pivots['base', 'Gumbel, best test']:.0f}. That is why it is not the default.",
        ),
    ]


def run(ctx: RunContext) -> Result:
    """Enumerate, search, and compute hits and tokens."""
    num_laws = 60 if ctx.quick else 2000
    profiles = {
        "base": bank_profile("base", "exact"),
        "low": bank_profile("low", "exact"),
        "spike": EntropyProfile.spike(SPIKE),
    }
    num_rows = 2 * (3 * len(GAMMAS) + 1) + 3 * (len(GAMMAS) - 1) + 1
    task = ctx.progress(num_rows + 3, "couplings")
    worst = enumerated(num_laws, np.random.default_rng([ctx.seed, 1]))
    task.advance(1)
    prices = search_price(160 if ctx.quick else 20_000, np.random.default_rng([ctx.seed, 2]))
    task.advance(1)
    found = hit_rows(profiles, task)
    pivots = pivot_rows(profiles)
    task.advance(1)
    rows: list[list[Any]] = [
        [bank, name, gamma, rate, distortion, n]
        for (bank, name, gamma), (rate, distortion, n) in found.items()
    ]
    columns = ["bank", "coupling", "γ", "hit rate", "distortion (TV)", "tokens"]
    lines = ["bank,coupling,gamma,hit_rate,distortion,tokens"]
    lines += [",".join(map(str, row)) for row in rows]
    write_atomic(ctx.out / "hits.csv", "\n".join(lines) + "\n")
    return ctx.result(
        claims=[*_coupling_claims(worst, prices), *_hit_claims(found, pivots)],
        tables=[
            Table(
                f"Hits of green lists, and tokens at α = {ALPHA}, power {1 - BETA:g}",
                columns,
                rows,
                "Exact binomial tests of the level γ; no row but KGW's distorts. Gumbel-max: share "
                "of pivots above 1 - γ. spike: two tokens, δ = 0.02.",
            ),
            Table(
                f"Tests of pivots without a model, tokens at α = {ALPHA}, power {1 - BETA:g}",
                ["bank", "sampler and test", "tokens"],
                [[bank, name, n] for (bank, name), n in pivots.items()],
                f"Least length that suffices, to {RESOLUTION:.1%} of itself.",
            ),
            Table(
                "Price of not knowing the model: Type II error above the optimum",
                [
                    "N",
                    "k",
                    "minimax price",
                    "closed form",
                    "largest found",
                    "uniform on 1/α",
                    "laws",
                    "Gumbel-max, largest",
                    "its bound",
                ],
                prices,
                "Regions are uniform k-subsets of N elements, α = k/N.",
            ),
            Table(
                "Deviation of couplings from their closed forms",
                ["what", "largest deviation"],
                [[name, error] for name, error in worst.items()],
                f"All regions and coins of {num_laws} random laws on 3 to 6 elements.",
            ),
        ],
        figures=_figures(profiles["base"]),
        files=["hits.csv"],
        text=(
            "A green list need not bend the model's law: a coupling can place the output in the "
            "region as often as any can, and keep the law exactly. Whether that beats a biased "
            "list depends on the entropy. Hazard sampling is the other end: made for text that "
            "has little entropy everywhere."
        ),
    )


def _figures(profile: EntropyProfile) -> list[Figure]:
    from modicum.umpwatermark import plots

    assert profile.laws_BV is not None
    laws_BV = profile.laws_BV[:200]
    alphas = np.geomspace(1e-3, 0.5, 25)
    curves = {
        "optimum (UMP)": [ump_type2(laws_BV, a).mean() for a in alphas],
        "optimum without model": [agnostic_type2(laws_BV, a).mean() for a in alphas],
        "Gumbel-max": [seq_gumbel_type2(laws_BV, a).mean() for a in alphas],
    }
    try:
        figure = plots.tradeoff({name: (alphas, np.array(b)) for name, b in curves.items()})
    except ImportError:
        # matplotlib is optional; tables and claims stand without it.
        return []
    return [
        Figure.from_matplotlib(
            figure,
            "Errors of one token's watermark",
            "Mean over 200 laws of the base bank.",
        )
    ]
