"""The command that draws: plot."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from modicum.umpwatermark.cli.inputs import law_of, numbers_of, progress, scheme_names, symbol_law
from modicum.umpwatermark.cli.options import Alpha, Beta, Logprobs, Schemes, TokenLaw


def plot(
    kind: Annotated[str, typer.Argument(help="'tradeoff', 'type2', 'nh', 'robust' or 'budget'.")],
    out: Annotated[Path, typer.Option(help="Figure (.svg or .png).")],
    law: Annotated[
        str, typer.Option(help="For 'tradeoff': probabilities with commas.")
    ] = "0.5,0.3,0.15,0.05",
    h: Annotated[
        str | None, typer.Option("--h", help="Entropies with commas, nats per token.")
    ] = None,
    logprobs: Logprobs = None,
    alpha: Alpha = 0.01,
    beta: Beta = 0.1,
    schemes: Schemes = "ump,gumbel_pivot,gumbel_sum,hazard,kgw",
    max_tokens: Annotated[int, typer.Option(help="For 'type2': longest text.")] = 200,
    n: Annotated[int, typer.Option(help="For 'robust': length of the strings.")] = 100,
    p: TokenLaw = "0.1",
    edits: Annotated[int, typer.Option(help="For 'robust': most substitutions.")] = 10,
) -> None:
    """Draw a trade-off, misses against length, n·h against ln(1/h), edits, or evidence budgets."""
    if out.suffix not in (".svg", ".png", ".pdf"):
        raise ValueError(f"--out must end in .svg, .png or .pdf, got {out}")
    drawers = {
        "tradeoff": lambda: _plot_tradeoff(law),
        "type2": lambda: _plot_type2(h or "0.8", logprobs, alpha, schemes, max_tokens),
        "nh": lambda: _plot_nh(h or "1,0.3,0.1,0.03", alpha, beta, schemes),
        "robust": lambda: _plot_robust(n, p, alpha, edits),
        "budget": lambda: _plot_budget(h or "0.8,0.2", logprobs),
    }
    if kind not in drawers:
        raise ValueError(f"unknown plot {kind!r}; choose one of {tuple(drawers)}")
    figure = drawers[kind]()
    figure.savefig(out)
    typer.echo(f"wrote {out}", err=True)


def _plot_tradeoff(law: str) -> Any:
    import numpy as np

    from modicum.umpwatermark import plots, tradeoff_curve

    rho = law_of(numbers_of(law, "--law"), None)
    alphas = np.geomspace(1e-4, 0.9, 200)
    words = {
        "ump": "optimum, law known",
        "agnostic": "region drawn before the law",
        "sequence-gumbel": "Gumbel-max over outputs",
    }
    return plots.tradeoff(
        {label: (alphas, tradeoff_curve(rho, alphas, scheme=name)) for name, label in words.items()}  # type: ignore[arg-type]
    )


def _profiles(h: str, logprobs: Path | None) -> list[Any]:
    from modicum.umpwatermark import EntropyProfile

    if logprobs is None:
        return [EntropyProfile.from_entropy(value) for value in numbers_of(h, "--h")]
    from modicum.umpwatermark.integrations.logprob_files import read_logprobs

    rows = read_logprobs(logprobs)
    return [
        EntropyProfile.from_logprobs([v for row in rows for v in row.logprobs if v is not None])
    ]


def _plot_type2(h: str, logprobs: Path | None, alpha: float, schemes: str, longest: int) -> Any:
    import numpy as np

    from modicum.umpwatermark import plots, power

    names = scheme_names(schemes)
    lengths = np.unique(np.geomspace(1, longest, 25).astype(int)).tolist()
    (profile, *_) = _profiles(h, logprobs)
    curves = power(profile, tokens=lengths, alpha=alpha, schemes=names)
    drawn = {}
    for curve in curves:
        # A simulation that never missed says that the error is small, not how small.
        seen = [(n, e.value) for n, e in zip(curve.tokens, curve.errors, strict=False) if e.value]
        if seen:
            drawn[curve.scheme] = ([n for n, _ in seen], [value for _, value in seen])
    (bound,) = power(profile, tokens=lengths, alpha=alpha, schemes="ump")
    shown = {name: points for name, points in drawn.items() if name != bound.scheme}
    values = [error.value for error in bound.errors]
    return plots.type2_against_length(shown or drawn, bound=(bound.tokens, values))


def _plot_nh(h: str, alpha: float, beta: float, schemes: str) -> Any:
    from modicum.umpwatermark import plots, tokens_needed

    names = scheme_names(schemes)
    entropies = numbers_of(h, "--h")
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for value in progress(entropies, "planning"):
        for row in tokens_needed(h=value, alpha=alpha, beta=beta, schemes=names).rows:
            x, y = curves.setdefault(row.scheme, ([], []))
            x.append(value)
            y.append(math.nan if row.tokens is None else row.tokens)
    return plots.scaled_tokens(curves)


def _plot_robust(n: int, p: str | None, alpha: float, edits: int) -> Any:
    from modicum.umpwatermark import plots
    from modicum.umpwatermark.robust import robust_curve

    counts = list(range(edits + 1))
    errors = robust_curve(n, symbol_law(p, None), alpha, counts)
    return plots.robust({f"best watermark of {n} tokens": (counts, errors)})


def _plot_budget(h: str, logprobs: Path | None) -> Any:
    from modicum.umpwatermark import evidence_budget, plots

    return plots.evidence_budget(
        {profile.label: evidence_budget(profile) for profile in _profiles(h, logprobs)}
    )
