"""Commands that compute before anything is marked: plan, budget, couple, robust, bench."""

import json
import math
import sys
from functools import reduce
from typing import Annotated, Any

import typer

from modicum.umpwatermark.cli.inputs import law_of, numbers_of, profile_of, scheme_names, symbol_law
from modicum.umpwatermark.cli.options import (
    Alpha,
    Beta,
    Device,
    Entropy,
    Epsilon,
    Law,
    LawFile,
    Logprobs,
    ModelName,
    Schemes,
    Skip,
    Temperature,
    TextLike,
    TokenLaw,
    Window,
)

FORMATS = ("table", "markdown", "csv", "json")


def _check_format(name: str) -> None:
    if name not in FORMATS:
        raise ValueError(f"unknown format {name!r}; choose one of {FORMATS}")


def plan(
    h: Entropy = None,
    logprobs: Logprobs = None,
    text: TextLike = None,
    model: ModelName = "tiny",
    surrogate: Annotated[
        str | None, typer.Option(help="With --text: the surrogate, as in detect.")
    ] = None,
    window: Window = 20,
    temperature: Temperature = 1.0,
    skip: Skip = 0,
    alpha: Alpha = 1e-3,
    beta: Beta = 0.05,
    schemes: Schemes = "all",
    tokens: Annotated[
        str | None,
        typer.Option(help="Numbers of tokens with commas: also print what is missed there."),
    ] = None,
    format: Annotated[str, typer.Option(help="'table', 'markdown', 'csv' or 'json'.")] = "table",
    device: Device = "auto",
) -> None:
    """Say how many tokens each scheme needs for false alarms alpha and misses beta."""
    from modicum.umpwatermark import planner

    _check_format(format)
    names = scheme_names(schemes)
    lengths = [] if tokens is None else [int(n) for n in numbers_of(tokens, "--tokens")]
    if lengths and (h, logprobs, text) == (None, None, None):
        for n in lengths:
            least = planner.required_entropy(n, alpha, beta)
            typer.echo(f"{n} tokens: the optimum needs {least:.4g} nats per token")
        return
    profile = profile_of(
        h,
        logprobs,
        text,
        model=model,
        surrogate=surrogate,
        window=window,
        temperature=temperature,
        skip=skip,
        device=device,
    )
    if format in ("csv", "json"):
        table = planner.tokens_needed(profile, alpha=alpha, beta=beta, schemes=names)
        typer.echo(table.to_csv() if format == "csv" else table.to_json())
        return
    found = planner.plan(profile, alpha=alpha, beta=beta, schemes=names)
    if format == "table" and sys.stdout.isatty():
        from rich.console import Console

        Console().print(found.table)
        typer.echo(found.to_markdown().removeprefix(found.table.to_markdown()))
    else:
        typer.echo(found.to_markdown())
    if lengths:
        curves = planner.power(profile, tokens=lengths, alpha=alpha, schemes=names)
        typer.echo("| Type II error at | " + " | ".join(str(n) for n in lengths) + " |")
        typer.echo("|---|" + "--:|" * len(lengths))
        for curve in curves:
            cells = [f"{error.value:.3g}" for error in curve.errors] or ["–"] * len(lengths)
            typer.echo(f"| {curve.scheme} | " + " | ".join(cells) + " |")


def budget(
    h: Entropy = None,
    logprobs: Logprobs = None,
    text: TextLike = None,
    model: ModelName = "tiny",
    surrogate: Annotated[
        str | None, typer.Option(help="With --text: the surrogate, as in detect.")
    ] = None,
    window: Window = 20,
    temperature: Temperature = 1.0,
    skip: Skip = 0,
    device: Device = "auto",
) -> None:
    """Say how much evidence per token each kind of test can collect, in nats."""
    from modicum.umpwatermark import evidence_budget

    profile = profile_of(
        h,
        logprobs,
        text,
        model=model,
        surrogate=surrogate,
        window=window,
        temperature=temperature,
        skip=skip,
        device=device,
    )
    typer.echo(f"{profile.label}: nats per token")
    for name, value in evidence_budget(profile).items():
        share = f"  {value / profile.entropy:6.1%}" if profile.entropy > 0 <= value else ""
        typer.echo(f"{name:16s} {value:10.4g}{share}")


def couple(
    law: Law = None,
    file: LawFile = None,
    alpha: Alpha = 0.05,
    epsilon: Epsilon = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Numbers as JSON.")] = False,
) -> None:
    """Print the least Type II errors for a law, and the coupling that attains the optimum."""
    from modicum.umpwatermark import (
        agnostic_type2,
        minimax_price,
        seq_gumbel_type2,
        ump_coupling,
        ump_type2,
    )

    rho = law_of(law, file)
    found = ump_coupling(rho, alpha, epsilon)
    size = len(rho)
    errors = {
        "optimum, law known to the detector": ump_type2(rho, alpha, epsilon),
        "region drawn before the law is known": agnostic_type2(rho, alpha),
    }
    whole = alpha * size
    if abs(whole - round(whole)) < 1e-9 and round(whole) >= 1:
        errors[f"the same, {round(whole)} of {size} elements"] = agnostic_type2(
            rho, alpha, "uniform-k"
        )
    errors["Gumbel-max over whole outputs"] = seq_gumbel_type2(rho, alpha)
    price = minimax_price(alpha, None, "bernoulli")
    if as_json:
        coupling = {
            "law": found.law.tolist(),
            "region_probs": found.region_probs.tolist(),
            "residual": found.residual.tolist(),
        }
        typer.echo(
            json.dumps(
                {"alpha": alpha, "epsilon": epsilon, "type2": errors, "coupling": coupling},
                indent=1,
            )
        )
        return
    typer.echo(
        f"least Type II errors at alpha={alpha:g}" + f", epsilon={epsilon:g}" * (epsilon > 0)
    )
    for name, value in errors.items():
        free = "" if not epsilon or name.startswith("optimum") else "  (without distortion)"
        typer.echo(f"  {value:.6f}  {name}{free}")
    typer.echo(f"not knowing the law costs at most {price:.6f} of Type II error, whatever the law")
    if size > 40:
        typer.echo(f"{size} outputs: the coupling is printed with --json")
        return
    typer.echo("\noutput    law      law of output  P(R={x})   given R empty")
    for x in range(size):
        typer.echo(
            f"{x:6d}  {rho[x]:.6f}     {found.law[x]:.6f}  {found.region_probs[x]:.6f}  "
            f"     {found.residual[x]:.6f}"
        )
    typer.echo(f" empty                          {found.region_probs[size]:.6f}")


GraphSpec = Annotated[
    str,
    typer.Option(
        "--graph",
        help="hamming:n:m:d (strings of n over m symbols, d substitutions), edit:n:m:d (also "
        "insertions and deletions) or orbit:n:d (as hamming, by counts of symbols).",
    ),
]


def _graph_numbers(spec: str) -> tuple[str, list[int]]:
    kind, *rest = spec.split(":")
    wanted = {"hamming": "n:m:d", "edit": "n:m:d", "orbit": "n:d"}
    if kind not in wanted:
        raise ValueError(f"unknown graph {spec!r}; give hamming:n:m:d, edit:n:m:d or orbit:n:d")
    if len(rest) != len(wanted[kind].split(":")) or not all(part.isdigit() for part in rest):
        raise ValueError(f"graph {spec!r} must be {kind}:{wanted[kind]} with whole numbers")
    return kind, [int(part) for part in rest]


def _robust_solver(
    kind: str, numbers: list[int], p: str | None, alpha: float, epsilon: float
) -> tuple[Any, str]:
    """Return the program to solve, and what it is in words."""
    import numpy as np

    from modicum.umpwatermark import RobustLP, RobustOrbitLP, edit_graph, hamming_graph
    from modicum.umpwatermark.graphs import MAX_ELEMENTS

    if kind == "orbit":
        n, d = numbers
        law = symbol_law(p, None)
        return RobustOrbitLP(n, law, alpha, d, epsilon), "by counts of symbols"
    n, m, d = numbers
    law = symbol_law(p, m)
    if kind == "hamming" and n * math.log(max(m, 1)) > math.log(MAX_ELEMENTS):
        return RobustOrbitLP(n, law, alpha, d, epsilon), "by counts of symbols"
    graph = (hamming_graph if kind == "hamming" else edit_graph)(n, m, d)
    # Strings in lexicographic order: the product law.
    rho = reduce(np.multiply.outer, [np.array(law)] * n).ravel()
    return (
        RobustLP(graph, rho, alpha, epsilon),
        f"{graph.num_elements} strings, {graph.num_edges} edges",
    )


def robust(
    graph: GraphSpec,
    p: TokenLaw = None,
    alpha: Alpha = 1e-3,
    epsilon: Epsilon = 0.0,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds; the interval is certified all the same.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Numbers as JSON.")] = False,
) -> None:
    """Solve for the best watermark against d edits of a text; print a certified interval."""
    kind, numbers = _graph_numbers(graph)
    program, words = _robust_solver(kind, numbers, p, alpha, epsilon)
    found = program.solve(time_limit=time_limit)
    low, high = found.interval
    if as_json:
        row = {
            "graph": graph,
            "alpha": alpha,
            "epsilon": epsilon,
            "type2": found.type2,
            "interval": [low, high],
            "gap": found.gap,
            "method": found.method,
            "status": found.status,
            "seconds": found.seconds,
        }
        typer.echo(json.dumps(row))
        return
    typer.echo(
        f"robust Type II error {found.type2:.8f} at alpha={alpha:g}"
        + f", epsilon={epsilon:g}" * (epsilon > 0)
    )
    typer.echo(f"certified interval [{low:.10f}, {high:.10f}], duality gap {found.gap:.2g}")
    typer.echo(f"{graph}: {words}; {found.method}, {found.status}, {found.seconds:.2f} s")


def bench(
    case: Annotated[
        str, typer.Option(help="Token bank: 'base', 'low', 'hot', 'poor' or 'oracle'.")
    ] = "base",
    alpha: Alpha = 0.01,
    beta: Beta = 0.1,
    schemes: Schemes = "ump,combined,weighted_pivot,gumbel_pivot,gumbel_sum,kgw",
    num_contexts: Annotated[int, typer.Option(help="Simulated contexts.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the bank.")] = 0,
    format: Annotated[str, typer.Option(help="'table', 'markdown', 'csv' or 'json'.")] = "table",
) -> None:
    """Plan over a simulated token bank: tokens needed with an exact and with a noisy surrogate."""
    from modicum.core.watermark.bank import TokenBank
    from modicum.umpwatermark import EntropyProfile, tokens_needed

    _check_format(format)
    names = scheme_names(schemes)
    bank = TokenBank.build(
        case,  # type: ignore[arg-type]
        num_contexts=num_contexts,
        seed=seed,
        noise_seed=seed + 1,
    )
    words = {"the model at detection": None, "a noisy surrogate at detection": bank.anchor_BV}
    for number, (label, surrogate) in enumerate(words.items()):
        profile = EntropyProfile.from_laws(
            bank.target_BV, surrogate_BV=surrogate, label=f"bank {case!r}, {label}"
        )
        chosen = names
        if number and names != "all":
            chosen = [name for name in names if name in ("combined", "weighted_pivot", "dawa")]
            if not chosen:
                break
        table = tokens_needed(profile, alpha=alpha, beta=beta, schemes=chosen)
        typer.echo({"csv": table.to_csv, "json": table.to_json}.get(format, table.to_markdown)())
