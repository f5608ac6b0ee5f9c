"""The command ``collect``: rows of an environment, of a bit-level process, or of a data set."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modicum.repcomplexity.cli import options
from modicum.repcomplexity.cli.show import bars, print_json

if TYPE_CHECKING:
    from modicum.repcomplexity.data import RolloutData

__all__ = ["about", "collect"]

ACTING = "Acting"
EXPERTS = ("random", "lqr", "optimal", "FILE.zip")


def collect(
    out: Annotated[
        Path,
        typer.Option(
            help="File of the rows (.npz).", rich_help_panel=options.OUTPUT, show_default=False
        ),
    ],
    env: Annotated[
        str | None,
        typer.Option(help="Gymnasium environment to act in.", rich_help_panel=options.PROCESS),
    ] = None,
    mdp: Annotated[
        str | None,
        typer.Option(
            help=f"Family to draw independent rows of: {', '.join(options.FAMILIES)}.",
            rich_help_panel=options.PROCESS,
        ),
    ] = None,
    n: Annotated[
        int | None, typer.Option(help="Size of --mdp.", rich_help_panel=options.PROCESS)
    ] = None,
    minari: Annotated[
        str | None,
        typer.Option(help="Minari data set that is here to read.", rich_help_panel=options.PROCESS),
    ] = None,
    settings: options.Setting = None,
    expert: Annotated[
        str,
        typer.Option(
            help="Who acts in --env: random, lqr (MuJoCo, linear-quadratic), optimal (processes "
            "of this package), or a model of stable-baselines3, FILE.zip. That is read with "
            "pickle: only files you trust.",
            rich_help_panel=ACTING,
        ),
    ] = "random",
    algo: Annotated[
        str,
        typer.Option(help="Algorithm of FILE.zip, such as SAC.", rich_help_panel=ACTING),
    ] = "SAC",
    noise: Annotated[
        float,
        typer.Option(
            help="Exploration: standard deviation of the actions of lqr, probability of a random "
            "action of optimal.",
            rich_help_panel=ACTING,
        ),
    ] = 0.0,
    deterministic: Annotated[
        bool, typer.Option(help="Act without exploration.", rich_help_panel=ACTING)
    ] = False,
    steps: Annotated[int, typer.Option(help="Rows.", rich_help_panel=ACTING)] = 20_000,
    whole_episodes: Annotated[
        bool,
        typer.Option(
            "--whole-episodes",
            help="Leave out the last episode where --steps cuts it off; returns of an expert "
            "without values need that.",
            rich_help_panel=ACTING,
        ),
    ] = False,
    gamma: Annotated[
        float, typer.Option(help="Discount of values and returns.", rich_help_panel=ACTING)
    ] = 0.99,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Gather rows (state, action, reward, next state, values) for measure.

    Rows of --mdp are independent and have exact values; those of --env are episodes of an expert.
    """
    if out.suffix != ".npz":
        raise ValueError(f"--out takes a file that ends in .npz, not {out}")
    given = {"--env": env, "--mdp": mdp, "--minari": minari}
    named = [option for option, value in given.items() if value is not None]
    if len(named) != 1:
        raise ValueError(f"give one of --env, --mdp and --minari, not {len(named)} of them")
    if not 0 < gamma <= 1:
        raise ValueError(f"--gamma must be above 0 and at most 1, not {gamma:g}")
    from modicum.repcomplexity.data import RolloutData

    if minari is not None:
        data = RolloutData.from_minari(minari, gamma=gamma)
    elif mdp is not None:
        from modicum.repcomplexity.collection import sample_bit_mdp

        process = options.process_of(mdp, n, None, settings, None, 1.0, "binary")
        data = sample_bit_mdp(process, steps, seed=seed)
    else:
        chosen = options.settings_of(settings)
        with bars(quiet) as progress:
            data = _acted(
                str(env), chosen, expert, algo, noise, steps, deterministic, seed, gamma, progress
            )
        if whole_episodes:
            data = data.whole_episodes()
    data.save(out)
    found = {"out": str(out), **about(data)}
    if as_json:
        print_json(found)
        return
    typer.echo("{out}: {rows:,} rows, {episodes:,} episodes, values: {values}".format(**found))
    for caution in found["cautions"]:
        typer.echo(f"Caution: {caution}")


def _acted(
    env: str,
    settings: dict[str, Any],
    expert: str,
    algo: str,
    noise: float,
    steps: int,
    deterministic: bool,
    seed: int,
    gamma: float,
    progress: Any,
) -> "RolloutData":
    from modicum.repcomplexity import experts
    from modicum.repcomplexity.collection import collect as act
    from modicum.repcomplexity.integrations.gymnasium import named_environment, random_expert

    if expert not in EXPERTS and not expert.endswith(".zip"):
        raise ValueError(f"--expert must be one of {', '.join(EXPERTS)}, not {expert!r}")
    if steps < 1:
        raise ValueError(f"--steps must be at least 1, not {steps}")
    made = named_environment(env, **settings)
    try:
        acting: Any
        if expert == "random":
            acting = random_expert(made, seed)
        elif expert == "lqr":
            if not hasattr(made.unwrapped, "model"):
                raise ValueError(f"--expert lqr is for MuJoCo; {env} is none of its environments")
            acting = experts.lqr(made, noise=noise)
        elif expert == "optimal":
            process = getattr(made.unwrapped, "mdp", None)
            if process is None or settings.get("obs", "bits") != "bits":
                raise ValueError(
                    f"--expert optimal is for processes of this package observed as bits, not {env}"
                )
            from modicum.repcomplexity.solver import solve

            acting = experts.SolutionExpert(solve(process), noise)
        else:
            acting = experts.sb3(expert, algo)
        return act(
            made,
            acting,
            steps,
            deterministic=deterministic,
            seed=seed,
            gamma=gamma,
            progress=progress,
        )
    finally:
        made.close()


def about(data: "RolloutData") -> dict[str, Any]:
    """Say what rows hold."""
    sources = [
        name
        for name, values in (("exact", data.exact_q), ("critic", data.critic_q))
        if values is not None
    ]
    return {
        "rows": len(data),
        "episodes": data.n_episodes,
        "observation": data.observations.shape[1],
        "action": data.actions.shape[1],
        "values": ", ".join([*sources, "returns"]),
        "mean_reward": float(data.rewards.mean()),
        "fingerprint": data.fingerprint(),
        "info": dict(data.info),
        "cautions": data.cautions(),
    }
