"""Commands that compute and draw no samples: plan, compare, simulate, boundary."""

from pathlib import Path
from typing import Annotated, Any

import typer

from modicum.testtime.cli.show import (
    Json,
    Seed,
    cell,
    integers,
    numbers,
    print_json,
    print_table,
)

Law = Annotated[
    str | None,
    typer.Option(
        "--p", help="Probabilities of the distinct answers with commas, the correct one first."
    ),
]
Delta = Annotated[float, typer.Option(help="Permitted error probability per prompt.")]
Null = Annotated[float, typer.Option(help="Mass of samples without an answer.")]
Tail = Annotated[float, typer.Option(help="Mass of answers that never repeat.")]
Target = Annotated[int, typer.Option(help="Index of the correct answer in --p.")]
Sensitivity = Annotated[
    float | None, typer.Option("--s", help="Verifier: probability of accepting a correct answer.")
]
FalseAccept = Annotated[
    float | None, typer.Option("--f", help="Verifier: probability of accepting a wrong answer.")
]
DPrime = Annotated[
    float | None,
    typer.Option(help="Verifier with normal scores whose means are this far apart (in sd)."),
]
Rules = Annotated[
    list[str] | None,
    typer.Option(
        "--rule",
        help="Stopping rule such as 'certificate:delta=0.05', 'ppr:delta=0.05,num_answers=2', "
        "'curtailed:n=40', 'beta:conf=0.95', 'esc:window=5'; may be given several times.",
    ),
]


def verifier_of(s: float | None, f: float | None, d_prime: float | None) -> Any:
    """Return the verifier that the options describe, None for a perfect one."""
    from modicum.testtime.verifier_models import GaussianVerifier, VerifierModel

    if d_prime is not None:
        if s is not None or f is not None:
            raise ValueError("give --d-prime, or --s and --f, not both")
        return GaussianVerifier(d_prime)
    if s is None and f is None:
        return None
    return VerifierModel(1.0 if s is None else s, 0.0 if f is None else f)


def plan(
    strategy: Annotated[
        str,
        typer.Argument(help="self_consistency, best_of_n, verified_majority or self_correction."),
    ] = "self_consistency",
    p: Law = None,
    counts: Annotated[
        str | None, typer.Option(help="Recorded votes per answer with commas, in place of --p.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="With --counts: 'dirichlet', 'lower' or 'plugin'.")
    ] = "dirichlet",
    gap: Annotated[
        float | None, typer.Option(help="Worst case over all laws with this lead, in place of --p.")
    ] = None,
    answers: Annotated[int | None, typer.Option(help="With --gap: possible answers.")] = None,
    p_correct: Annotated[
        float | None, typer.Option(help="Best-of-n: probability that a sample is correct.")
    ] = None,
    delta: Delta = 0.05,
    s: Sensitivity = None,
    f: FalseAccept = None,
    d_prime: DPrime = None,
    null: Null = 0.0,
    tail: Tail = 0.0,
    target: Target = 0,
    experts: Annotated[
        int | None, typer.Option(help="Self-correction: deterministic experts, one of them right.")
    ] = None,
    success: Annotated[
        str | None,
        typer.Option(help="Self-correction: success probability of each expert, with commas."),
    ] = None,
    max_n: Annotated[int, typer.Option(help="Numbers above this count as out of reach.")] = 10**7,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Say how many samples a strategy needs, or why no number suffices (exit status 1)."""
    from modicum.testtime import planner

    found = planner.plan(
        strategy,  # type: ignore[arg-type]
        delta=delta,
        p=None if p is None else numbers(p, "--p"),
        target=target,
        null=null,
        tail=tail,
        gap=gap,
        answers=answers,
        counts=None if counts is None else integers(counts, "--counts"),
        method=method,  # type: ignore[arg-type]
        p_correct=p_correct,
        verifier=verifier_of(s, f, d_prime),
        experts=experts,
        success=None if success is None else numbers(success, "--success"),
        max_n=max_n,
        seed=seed,
    )
    if json:
        print_json(vars(found))
    else:
        if found.n is None:
            typer.echo(f"no number of samples suffices; the limit is {cell(found.limit)}")
        elif not found.feasible:
            typer.echo(
                f"no number of samples is sure to suffice: with {found.n} the success is "
                f"{found.achieved:.6f} ({found.method}), the limit is {cell(found.limit)}"
            )
        else:
            typer.echo(f"{found.n} samples, success {found.achieved:.6f} ({found.method})")
        if found.interval is not None:
            low, high = found.interval
            typer.echo(f"5-95 % of the number: {low:g} to {high:g}")
        for name, bound in found.bounds.items():
            typer.echo(f"{name}: {bound}")
        if found.note:
            typer.echo(found.note)
        if found.table:
            print_table(["n", "success"], found.table)
    if not found.feasible:
        raise typer.Exit(1)


def compare(
    p: Annotated[
        str, typer.Option("--p", help="Probabilities of the answers, the correct one first.")
    ],
    delta: Delta = 0.05,
    s: Sensitivity = None,
    f: FalseAccept = None,
    d_prime: DPrime = None,
    null: Null = 0.0,
    tail: Tail = 0.0,
    target: Target = 0,
    json: Json = False,
) -> None:
    """Put the strategies side by side on one instance, in samples."""
    from modicum.testtime import planner

    found = planner.compare(
        numbers(p, "--p"),
        delta=delta,
        target=target,
        verifier=verifier_of(s, f, d_prime),
        null=null,
        tail=tail,
    )
    if json:
        print_json(vars(found) | {"rows": [vars(row) for row in found.rows]})
        return
    columns = ["strategy", "samples", "success", "limit", "rule of thumb", "note"]
    print_table(columns, [list(vars(row).values()) for row in found.rows])
    typer.echo(f"gap {cell(found.gap)}, ratio {cell(found.ratio)}; {found.note}")


def simulate(
    p: Annotated[
        str, typer.Option("--p", help="Probabilities of the answers; the largest is the mode.")
    ],
    rule: Rules = None,
    null: Null = 0.0,
    tail: Tail = 0.0,
    max_samples: Annotated[int, typer.Option(help="Cap per prompt.")] = 1000,
    runs: Annotated[int, typer.Option(help="Simulated prompts.")] = 2000,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Draw prompts from an answer law and report what stopping rules do on them."""
    from modicum.testtime.stopping import parse_rule
    from modicum.testtime.stopping.simulate import simulate_stopping

    law = numbers(p, "--p")
    rules = rule or ["certificate:delta=0.05", "beta:conf=0.95", "esc:window=5"]
    found = {}
    for text in rules:
        parsed = parse_rule(text)
        study = simulate_stopping(
            parsed, law, null=null, tail=tail, max_samples=max_samples, runs=runs, seed=seed
        )
        found[text] = _study(parsed.guarantee, study)
    if json:
        print_json(found)
        return
    rows = []
    for text, values in found.items():
        low, high = values["wrong_interval"]
        rows.append(
            [
                text,
                values["guarantee"],
                f"{values['mean_samples']:.1f}",
                f"{values['decided']:.3f}",
                f"{values['wrong']:.4f} ({low:.4f}-{high:.4f})",
                f"{values['accuracy']:.4f}",
            ]
        )
    columns = ["rule", "guarantee", "samples", "decided", "declared wrong (95 %)", "mode returned"]
    print_table(columns, rows, f"{runs} prompts, at most {max_samples} samples each")


def _study(guarantee: str, study: Any) -> dict[str, Any]:
    return {
        "guarantee": guarantee,
        "mean_samples": study.mean_samples,
        "mean_interval": study.mean_interval(),
        "decided": study.decided_rate,
        "wrong": study.error_rate,
        "wrong_interval": study.error_interval(),
        "accuracy": study.accuracy,
        "accuracy_interval": study.accuracy_interval(),
    }


def boundary(
    rule: Rules = None,
    size: Annotated[int, typer.Option(help="Largest number of votes of the runner-up.")] = 20,
    plot: Annotated[Path | None, typer.Option(help="Write a figure (.svg, .png, .pdf).")] = None,
    json: Json = False,
) -> None:
    """Print the votes that the leader needs to stop, for each number of the runner-up."""
    from modicum.testtime.stopping import parse_rule

    rules = rule or ["ppr:delta=0.05,num_answers=2", "beta:conf=0.95"]
    try:
        tables = {text: parse_rule(text).table(size + 1) for text in rules}
    except TypeError as error:
        # A user's choice of rule, for which this is an answer and not a fault of the program.
        raise ValueError(f"{error}; ppr and beta have one") from error
    if plot is not None:
        from modicum.testtime.plots import stopping_boundary

        stopping_boundary(tables).savefig(plot)
    if json:
        print_json({text: table.tolist() for text, table in tables.items()})
        return
    rows = [[n2, *(int(table[n2]) for table in tables.values())] for n2 in range(size + 1)]
    print_table(["runner-up", *tables], rows)
