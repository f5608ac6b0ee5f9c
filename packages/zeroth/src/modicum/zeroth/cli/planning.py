"""The command ``plan``: how many evaluations a regret takes, or which regret a budget gives."""

from dataclasses import asdict
from typing import Annotated

import typer

from modicum.zeroth.cli.show import Json

ADAPTIVE_PAIRS = 0.25
"""Pairs of the default method's last round, as a share of the budget."""


def plan(
    d: Annotated[int, typer.Option("--d", help="Dimension.")],
    noise: Annotated[
        float, typer.Option("--sigma", "--noise", help="Standard deviation of one evaluation.")
    ],
    strong_convexity: Annotated[
        float, typer.Option("--M", help="Least curvature of the function (strong convexity).")
    ],
    hessian_lipschitz: Annotated[
        float, typer.Option("--rho", help="Lipschitz constant of the Hessian, Frobenius norm.")
    ],
    eps: Annotated[float | None, typer.Option(help="Regret to reach.")] = None,
    budget: Annotated[float | None, typer.Option("--T", "--budget", help="Evaluations.")] = None,
    distance: Annotated[
        float | None, typer.Option("--R", help="How far from the start the optimum may be.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Plan a run: evaluations for a regret (--eps), or the regret of a budget (--T)."""
    from modicum.core.experiment import dumps
    from modicum.zeroth import theory
    from modicum.zeroth.plan import plan as make_plan

    if budget is not None and not budget.is_integer():  # nor are inf and nan
        raise ValueError(f"--T takes a whole number, not {budget!r}")
    found = make_plan(
        d,
        None if budget is None else int(budget),
        eps=eps,
        noise=noise,
        strong_convexity=strong_convexity,
        hessian_lipschitz=hessian_lipschitz,
        distance=distance,
    )
    adaptive = theory.predicted_regret(
        dimension=d,
        noise=noise,
        strong_convexity=strong_convexity,
        hessian_lipschitz=hessian_lipschitz,
        pairs=ADAPTIVE_PAIRS * found.budget,
    )
    if as_json:
        values = asdict(found)
        values["radii"] = found.radii._asdict()
        values["predicted_regret"] = found.predicted_regret._asdict()
        values["adaptive_predicted_regret"] = float(adaptive.total)
        typer.echo(dumps(values), nl=False)
        return
    typer.echo(found.table())
    typer.echo(
        f"\nThe default method (adaptive) has {ADAPTIVE_PAIRS:.0%} of the budget as pairs of its"
        f" last round:\npredicted regret {adaptive.total:.4g}."
    )
