"""Controllers of self-correction: regret against its bounds, rounds, memory, verifiers that err.

Plays the controllers against scripted rewards, many games side by side, and holds what they do to
closed forms where there are any. No model answers here.

Legend: ``K`` experts, ``T`` rounds, ``R`` games, ``Q`` prompts.
"""

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.core.stats import clopper_pearson
from modicum.testtime.bounds import (
    cumulative_regret_bound,
    mixture_success,
    regret_bound,
    round_robin_success,
    rounds_needed,
)
from modicum.testtime.controllers import (
    EXP3,
    UCB1,
    Controller,
    ControllerStudy,
    Eliminate,
    Hedge,
    RoundRobin,
    SessionStudy,
    Thompson,
    Uniform,
    simulate_controller,
    simulate_session,
)

MEANS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
ROUNDS, QUICK_ROUNDS = 5000, 2000
GAMES, QUICK_GAMES = 400, 150
SWITCH_ROUNDS = 1000
SWITCH_GAMES = 1000

NUM_EXPERTS = 8
"""Of the deterministic experts and of the sessions."""
SUCCESS = 0.95

RATES = (0.1, 0.35, 0.05, 0.2)
RATE_ROUNDS = (4, 6, 8, 12, 16)
RATE_GAMES, QUICK_RATE_GAMES = 100_000, 20_000

RIGHT, WRONG = 0.8, 0.05
"""Success of the right expert of a session and of the others."""
QUERIES, QUERY_ROUNDS = 30, 8
LEARNED_FROM = 10
"""Prompts after which a session counts as having learned."""
SESSIONS, QUICK_SESSIONS = 400, 60

SENSITIVITY, FALSE_ACCEPT = 0.9, 0.1
NOISY_ROUNDS = (4, 8, 16, 32)

ERRORS = 4.5
"""Standard errors that a simulation may be off by; by chance it is in one of 147,000 cases."""
LEVEL = 0.999


def switching(rounds: int) -> npt.NDArray[np.float64]:
    """Return rewards of two experts whose order changes, ``[T, 2]``.

    The second is as good as the first up to one half, and worthless from then on; the first earns
    nothing in the first quarter.
    """
    table = np.zeros((rounds, 2))
    table[: rounds // 2, 1] = 1
    table[rounds // 4 :, 0] = 1
    return table


# Regret -----------------------------------------------------------------------------------------


def regrets(ctx: RunContext) -> tuple[list[list[Any]], dict[str, ControllerStudy]]:
    """Return a row per instance and controller, and the studies on random rewards."""
    rounds = QUICK_ROUNDS if ctx.quick else ROUNDS
    games = QUICK_GAMES if ctx.quick else GAMES
    gaps = [max(MEANS) - mean for mean in MEANS]
    rows, studies = [], {}
    players: list[tuple[str, Controller]] = [
        ("UCB1", UCB1()),
        ("Thompson", Thompson("query")),
        ("EXP3, losses", EXP3()),
        ("EXP3, rewards", EXP3(estimator="reward")),
        ("Hedge", Hedge()),
        ("round robin", RoundRobin()),
        ("uniform", Uniform()),
    ]
    task = ctx.progress(len(players) + 3, "regret")
    for name, controller in players:
        study = simulate_controller(controller, MEANS, rounds, games, ctx.seed)
        studies[name] = study
        rows.append(_regret_row("random", name, controller, study, len(MEANS), rounds, gaps))
        task.advance(1)
    for name, controller in players[2:5]:
        study = simulate_controller(
            controller, switching(SWITCH_ROUNDS), SWITCH_ROUNDS, SWITCH_GAMES, ctx.seed
        )
        rows.append(_regret_row("switching", name, controller, study, 2, SWITCH_ROUNDS, None))
        task.advance(1)
    return rows, studies


def _regret_row(
    instance: str,
    name: str,
    controller: Controller,
    study: ControllerStudy,
    num_experts: int,
    rounds: int,
    gaps: list[float] | None,
) -> list[Any]:
    # Round robin and uniform draws explore all along; what they promise is the best average.
    explores = controller.name in ("round-robin", "uniform")
    simple = study.best_regret if explores else study.simple_regret
    return [
        instance,
        name,
        num_experts,
        rounds,
        float(study.regret_T[-1]),
        float(study.regret_se_T[-1]),
        cumulative_regret_bound(controller.name, num_experts, rounds, gaps=gaps),
        simple,
        regret_bound(controller.name, num_experts, rounds, gaps=gaps),
    ]


def regret_claims(rows: list[list[Any]]) -> list[Claim]:
    """Return what the regrets say of the bounds."""
    found = {(row[0], row[1]): row for row in rows}
    bounded = [
        ("random", "UCB1"),
        ("random", "EXP3, losses"),
        ("random", "Hedge"),
        ("random", "round robin"),
        ("random", "uniform"),
        ("switching", "EXP3, losses"),
        ("switching", "Hedge"),
    ]
    shares = {}
    for name in bounded:
        # Exploring controllers are held to their simple regret, the others to both, which are one
        # number up to the factor T.
        row = found[name]
        explores = name[1] in ("round robin", "uniform")
        upper, bound = (row[7], row[8]) if explores else (row[4] + ERRORS * row[5], row[6])
        shares[name] = upper / bound
    worst = max(shares, key=lambda name: shares[name])
    lost = found["switching", "EXP3, rewards"]
    return [
        Claim(
            "regret_within_bounds",
            "Every controller with a bound on its regret keeps it; the largest share of a bound "
            "that was used is shown.",
            "at most the bound",
            shares[worst],
            None,
            shares[worst] <= 1,
            "regret / bound",
            f"{worst[1]} on {worst[0]} rewards; regret with {ERRORS} standard errors on top.",
        ),
        Claim(
            "exp3_needs_losses",
            "EXP3 that sums rewards over probabilities, without mixing in exploration, breaks the "
            "bound of EXP3 where experts change places; with losses it keeps it.",
            None,
            lost[4] / lost[6],
            ((lost[4] - ERRORS * lost[5]) / lost[6], (lost[4] + ERRORS * lost[5]) / lost[6]),
            lost[4] - ERRORS * lost[5] > lost[6] and shares["switching", "EXP3, losses"] <= 1,
            "regret / bound",
            f"Two experts, {SWITCH_ROUNDS} rounds, sqrt(2 T K ln K) = {lost[6]:.1f}; with losses "
            f"{found['switching', 'EXP3, losses'][4]:.1f}. Interval: {ERRORS} standard errors.",
        ),
    ]


# Deterministic experts --------------------------------------------------------------------------


def one_is_right(num_experts: int) -> Any:
    """Return rewards of deterministic experts, the right one uniform over the games."""

    def rewards(rng: np.random.Generator, t: int, runs: int) -> np.ndarray:
        return np.eye(num_experts)[np.arange(runs) % num_experts]

    return rewards


def deterministic(ctx: RunContext) -> tuple[list[Claim], Table, dict[str, ControllerStudy]]:
    """Compare asking nobody twice with independent draws, one expert of K being right."""
    games = NUM_EXPERTS * (1000 if ctx.quick else 10_000)
    rounds = 6 * NUM_EXPERTS
    studies = {
        name: simulate_controller(controller, one_is_right(NUM_EXPERTS), rounds, games, ctx.seed)
        for name, controller in [
            ("eliminate", Eliminate(order="random")),
            ("round robin", RoundRobin()),
            ("uniform", Uniform()),
        ]
    }
    sequential = rounds_needed(NUM_EXPERTS, 1 - SUCCESS)
    independent = rounds_needed(NUM_EXPERTS, 1 - SUCCESS, "iid")
    rows: list[list[Any]] = [
        [
            name,
            _first(study.solved_T, SUCCESS),
            independent if name == "uniform" else sequential,
            float(study.first_R.mean()),
            NUM_EXPERTS if name == "uniform" else (NUM_EXPERTS + 1) / 2,
        ]
        for name, study in studies.items()
    ]
    error = abs(studies["eliminate"].first_R.mean() - (NUM_EXPERTS + 1) / 2)
    spread = studies["eliminate"].first_R.std() / math.sqrt(games)
    claims = [
        Claim(
            "rounds_sequential",
            "With feedback, one right expert among eight deterministic ones is found with "
            "probability 0.95 within eight rounds.",
            float(sequential),
            float(rows[0][1]),
            None,
            rows[0][1] == sequential and error <= ERRORS * spread,
            "rounds",
            f"Mean {rows[0][3]:.3f}, exactly {(NUM_EXPERTS + 1) / 2}.",
        ),
        Claim(
            "rounds_independent",
            "Independent draws need 23 rounds for the same.",
            float(independent),
            float(rows[2][1]),
            None,
            abs(rows[2][1] - independent) <= 1,
            "rounds",
            f"Over {games} games; holds within one round, the probabilities next to 23 being "
            f"{1 - (1 - 1 / NUM_EXPERTS) ** 22:.4f} and {1 - (1 - 1 / NUM_EXPERTS) ** 23:.4f}.",
        ),
    ]
    columns = ["controller", f"rounds for {SUCCESS}", "exactly", "mean rounds", "exact mean"]
    title = f"One right expert among {NUM_EXPERTS} deterministic ones"
    return claims, Table(title, columns, rows, "Means count games that were solved later than the "
                         f"{rounds} rounds played as {rounds + 1}."), studies  # fmt: skip


def _first(solved_T: np.ndarray, success: float) -> int:
    reached_T = solved_T >= success
    return int(reached_T.argmax()) + 1 if reached_T.any() else len(solved_T) + 1


# Stochastic experts -----------------------------------------------------------------------------


def stochastic(ctx: RunContext) -> tuple[list[Claim], Table]:
    """Hold round robin and the mixture to their closed forms, and compare them."""
    games = QUICK_RATE_GAMES if ctx.quick else RATE_GAMES
    rows, worst, gain = [], 0.0, math.inf
    for rounds in RATE_ROUNDS:
        robin = simulate_controller(RoundRobin(), RATES, rounds, games, ctx.seed).solved_T[-1]
        mixed = simulate_controller(Uniform(), RATES, rounds, games, ctx.seed + 1).solved_T[-1]
        exact = round_robin_success(RATES, rounds), mixture_success(RATES, rounds)
        for measured, expected in zip((robin, mixed), exact, strict=True):
            worst = max(worst, _errors(measured, expected, games))
        gain = min(gain, exact[0] - exact[1])
        rows.append([rounds, float(robin), exact[0], float(mixed), exact[1]])
    claims = [
        Claim(
            "closed_forms",
            "The success of round robin and of the uniform mixture is their closed form.",
            None,
            worst,
            None,
            worst <= ERRORS,
            "standard errors",
            f"Largest of {2 * len(rows)} differences over {games} games each.",
        ),
        Claim(
            "round_robin_beats_mixture",
            "Round robin over stochastic experts never succeeds less often than a uniform mixture.",
            "at least as often",
            gain,
            None,
            gain >= 0,
            "probability",
            f"Least advantage over {RATE_ROUNDS} rounds, exact; success rates {RATES}.",
        ),
    ]
    columns = ["rounds", "round robin", "exact", "mixture", "exact mixture"]
    return claims, Table("Success with stochastic experts", columns, rows)


def _errors(measured: float, expected: float, trials: int) -> float:
    return abs(measured - expected) / math.sqrt(expected * (1 - expected) / trials)


# Sessions ---------------------------------------------------------------------------------------


def sessions(ctx: RunContext) -> tuple[list[Claim], Table]:
    """Compare controllers that remember the prompts before with the same that forget."""
    runs = QUICK_SESSIONS if ctx.quick else SESSIONS
    rows: list[list[Any]] = []
    late: dict[tuple[str, str], np.ndarray] = {}
    task = ctx.progress(7, "sessions")
    for kind, controller in [
        ("deterministic", Eliminate(order="random", reset="query")),
        ("deterministic", Eliminate(order="random", reset="session")),
        ("stochastic", RoundRobin("query")),
        ("stochastic", Thompson("query")),
        ("stochastic", Thompson("session")),
        ("stochastic", UCB1(0.1, "query")),
        ("stochastic", UCB1(0.1, "session")),
    ]:
        study = _session(kind, controller, runs, ctx.seed)
        late_R = study.rounds_RQ[:, LEARNED_FROM:].mean(axis=1)
        late[repr(controller), kind] = late_R
        solved = int(study.solved_RQ[:, LEARNED_FROM:].sum())
        rows.append(
            [
                kind,
                repr(controller),
                float(study.rounds_RQ[:, 0].mean()),
                float(late_R.mean()),
                float(late_R.std(ddof=1) / math.sqrt(runs)),
                solved / (runs * (QUERIES - LEARNED_FROM)),
            ]
        )
        task.advance(1)
    first = float(rows[1][3])
    forgot_R, kept_R = late[rows[3][1], "stochastic"], late[rows[4][1], "stochastic"]
    saved = float(forgot_R.mean() / kept_R.mean())
    spread = math.hypot(forgot_R.std(ddof=1), kept_R.std(ddof=1)) / math.sqrt(runs)
    claims = [
        Claim(
            "session_deterministic",
            "Where the same deterministic expert is right for all prompts of a session, one round "
            "is enough from the second prompt on.",
            None,
            first,
            None,
            first == 1,
            "rounds per prompt",
            f"{rows[0][3]:.2f} where the controller forgets.",
        ),
        Claim(
            "session_stochastic",
            "Thompson sampling that keeps its statistics across the prompts of one unknown task "
            "needs fewer rounds than with a fresh start on each.",
            None,
            saved,
            None,
            float(forgot_R.mean() - kept_R.mean()) > ERRORS * spread,
            "times the rounds",
            f"{forgot_R.mean():.2f} against {kept_R.mean():.2f} rounds per prompt after "
            f"{LEARNED_FROM} prompts; {NUM_EXPERTS} experts, success {RIGHT} for one and {WRONG} "
            f"for the others, at most {QUERY_ROUNDS} rounds.",
        ),
    ]
    columns = ["experts", "controller", "rounds, first prompt", f"after {LEARNED_FROM} prompts",
               "s.e.", "solved"]  # fmt: skip
    return claims, Table(f"Sessions of {QUERIES} prompts, {NUM_EXPERTS} experts", columns, rows)


def _session(kind: str, controller: Controller, runs: int, seed: int) -> SessionStudy:
    right, wrong = (1.0, 0.0) if kind == "deterministic" else (RIGHT, WRONG)
    return simulate_session(
        controller,
        lambda rng, best, expert: float(rng.random() < (right if expert == best else wrong)),
        NUM_EXPERTS,
        queries=QUERIES,
        rounds=QUERY_ROUNDS,
        runs=runs,
        seed=seed,
        task=lambda rng: int(rng.integers(NUM_EXPERTS)),
    )


# Verifiers that err -----------------------------------------------------------------------------


def noisy_pass(rates: npt.ArrayLike, s: float, f: float) -> tuple[float, float]:
    """Return the probabilities that one pass over the experts ends right, and that it does not end.

    Every expert answers once, in random order, until the verifier accepts: with probability s a
    right answer, with f a wrong one.
    """
    rate_K = np.asarray(rates, dtype=np.float64)
    accept_K = rate_K * s + (1 - rate_K) * f
    ended_right = [
        math.fsum(
            float(np.prod(1 - accept_K[list(order[:turn])])) * float(rate_K[expert]) * s
            for turn, expert in enumerate(order)
        )
        for order in itertools.permutations(range(len(rate_K)))
    ]
    return float(np.mean(ended_right)), float(np.prod(1 - accept_K))


def _noisy_success(
    controller: Controller, rates: npt.ArrayLike, rounds: int, games: int, seed: int
) -> float:
    """Return the share of games whose first accepted answer is right."""
    rate_K = np.asarray(rates, dtype=np.float64)
    right_TRK: list[np.ndarray] = []

    def verdicts(rng: np.random.Generator, t: int, runs: int) -> np.ndarray:
        right_RK = rng.random((runs, len(rate_K))) < rate_K
        right_TRK.append(right_RK)
        accept_RK = np.where(right_RK, SENSITIVITY, FALSE_ACCEPT)
        return (rng.random(right_RK.shape) < accept_RK).astype(np.float64)

    study = simulate_controller(controller, verdicts, rounds, games, seed)
    ended_R = np.flatnonzero(study.first_R <= rounds)
    t_R = study.first_R[ended_R] - 1
    return float(np.stack(right_TRK)[t_R, ended_R, study.choices_TR[t_R, ended_R]].sum() / games)


def noisy(ctx: RunContext) -> tuple[list[Claim], Table]:
    """Let the verifier err: what the first accepted answer is worth, and what elimination loses."""
    games = QUICK_RATE_GAMES if ctx.quick else RATE_GAMES
    ended_right, goes_on = noisy_pass(RATES, SENSITIVITY, FALSE_ACCEPT)
    limit = ended_right / (1 - goes_on)
    rows: list[list[Any]] = []
    worst = 0.0
    for rounds in NOISY_ROUNDS:
        passes = rounds // len(RATES)
        exact = ended_right * (1 - goes_on**passes) / (1 - goes_on)
        measured = _noisy_success(RoundRobin(), RATES, rounds, games, ctx.seed)
        worst = max(worst, _errors(measured, exact, games))
        rows.append(["stochastic", "round robin", rounds, measured, exact, limit])
    K, s, f = NUM_EXPERTS, SENSITIVITY, FALSE_ACCEPT
    # The right one of K deterministic experts is anywhere in the order.
    one_pass, rejected = s / K * (1 - (1 - f) ** K) / f, (1 - s) * (1 - f) ** (K - 1)
    rates = np.eye(K)[0]
    once = _noisy_success(Eliminate(order="random"), rates, K, games, ctx.seed)
    again = _noisy_success(RoundRobin(), rates, 3 * K, games, ctx.seed)
    exact_again = one_pass * (1 - rejected**3) / (1 - rejected)
    rows.append(["deterministic", "eliminate", K, once, one_pass, one_pass])
    rows.append(
        ["deterministic", "round robin", 3 * K, again, exact_again, one_pass / (1 - rejected)]
    )
    worst = max(worst, _errors(once, one_pass, games), _errors(again, exact_again, games))
    low, high = clopper_pearson(round(rows[3][3] * games), games, LEVEL)
    claims = [
        Claim(
            "noisy_closed_forms",
            "With a verifier that errs, the success of the first accepted answer is its closed "
            "form.",
            None,
            worst,
            None,
            worst <= ERRORS,
            "standard errors",
            f"Largest of {len(rows)} differences over {games} games each.",
        ),
        Claim(
            "noisy_plateau",
            "More rounds do not help beyond the chance that the first accepted answer is right.",
            limit,
            rows[3][3],
            (float(low), float(high)),
            bool(low <= limit <= high),
            "success",
            f"{NOISY_ROUNDS[-1]} rounds, s = {s}, f = {f}; with a perfect verifier "
            f"{round_robin_success(RATES, NOISY_ROUNDS[-1]):.3f}. Interval at level {LEVEL}.",
        ),
    ]
    columns = ["experts", "controller", "rounds", "success", "exact", "limit"]
    return claims, Table(f"A verifier with s = {s}, f = {f}", columns, rows)


# All --------------------------------------------------------------------------------------------


def _figures(
    studies: dict[str, ControllerStudy], found: dict[str, ControllerStudy]
) -> list[Figure]:
    from modicum.testtime import plots

    rounds = len(studies["UCB1"].regret_T)
    at_T = np.unique(np.geomspace(1, rounds, 60).astype(int))
    try:
        regret = plots.regret(
            {
                name: (at_T, study.regret_T[at_T - 1], study.regret_se_T[at_T - 1])
                for name, study in studies.items()
                if name not in ("round robin", "uniform")
            },
            ylabel="cumulative regret",
        )
        shown_T = np.arange(1, 25)
        success = plots.success_by_round(
            {name: (shown_T, study.solved_T[: len(shown_T)]) for name, study in found.items()}
        )
    except ImportError:
        # matplotlib is optional; tables and claims stand without it.
        return []
    return [
        Figure.from_matplotlib(
            regret,
            "Cumulative regret",
            f"Eight experts with success {MEANS}, mean over games with 95 % bands.",
            "Regret curves of five controllers, flattening for all but EXP3",
        ),
        Figure.from_matplotlib(
            success,
            "One right expert among eight deterministic ones",
            "Share of games solved by each round.",
            "Two straight lines that reach one at round eight, and a slower curve of independent "
            "draws",
        ),
    ]


def run(ctx: RunContext) -> Result:
    """Measure regret, rounds, memory and the price of a verifier that errs."""
    rows, studies = regrets(ctx)
    found_claims, found_table, found = deterministic(ctx)
    rate_claims, rate_table = stochastic(ctx)
    session_claims, session_table = sessions(ctx)
    noisy_claims, noisy_table = noisy(ctx)
    columns = ["rewards", "controller", "K", "T", "regret", "s.e.", "bound", "simple regret",
               "simple bound"]  # fmt: skip
    note = (
        "Simple regret is that of a random one of the rounds; for round robin and uniform draws "
        "that of the best average at the end. The bound of EXP3 is proved for losses only, that of "
        "Thompson sampling on average over uniform priors, and that of cumulative regret is what "
        "round robin and uniform draws lose exactly or in expectation."
    )
    return ctx.result(
        claims=[
            *regret_claims(rows), *found_claims, *rate_claims, *session_claims, *noisy_claims
        ],
        tables=[
            Table("Regret and its bounds", columns, rows, note),
            found_table,
            rate_table,
            session_table,
            noisy_table,
        ],
        figures=_figures(studies, found),
    )  # fmt: skip
