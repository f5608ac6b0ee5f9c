"""The command ``envs``: what environments there are, and one of them in figures."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from modicum.repcomplexity.cli import options
from modicum.repcomplexity.cli.show import print_json, print_table

if TYPE_CHECKING:
    from modicum.repcomplexity.mdp import BitMDP

__all__ = ["envs"]

TABLE_STATES = 1 << 21
"""States up to which exact values are taken of all; of drawn ones by the closed form beyond."""
DRAWN = 1 << 16
MOST_STEPS = 50
"""Steps of an episode that are shown."""


def envs(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[ENV]", help="One to show; a list of all without it."),
    ] = None,
    settings: options.Setting = None,
    horizon: Annotated[
        int | None, typer.Option(help="Steps of an episode.", rich_help_panel=options.PROCESS)
    ] = None,
    gamma: Annotated[
        float, typer.Option(help="Discount of an environment.", rich_help_panel=options.PROCESS)
    ] = 1.0,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """List the environments, or show one: sizes, exact optimal values, and an optimal episode.

    Any environment with a table of transitions can be shown, such as FrozenLake-v1.
    """
    if name is None:
        _list(as_json)
        return
    settings_ = options.settings_of(settings)
    own = name.startswith("modicum/")
    if own and horizon is not None:
        settings_["horizon"] = horizon
    mdp = options.environment_process(name, settings_, horizon, gamma, "binary")
    sizes: dict[str, Any] = {
        "process": mdp.name,
        "state bits": mdp.n_state_bits,
        "action bits": mdp.n_action_bits,
        "states": mdp.n_states,
        "actions": mdp.n_actions,
        "horizon": mdp.horizon,
        "discount": mdp.gamma,
    }
    values = _values(mdp, seed)
    episode = _episode(mdp, seed)
    if as_json:
        print_json({"env": name, **sizes, "values": values, "episode": episode})
        return
    print_table(["", name], [[key, value] for key, value in (sizes | values).items()])
    print_table(
        ["step", "state", "action", "reward", "V*"],
        [list(row.values()) for row in episode],
        f"An optimal episode (seed {seed}); states as observed bits",
    )


def _list(as_json: bool) -> None:
    from modicum.repcomplexity.integrations.gymnasium import make_environment, registered

    rows = []
    for name in registered("modicum/"):
        if name == "modicum/BitMDP-v0":
            # It has no process of its own.
            rows.append({"env": name, "process": "yours: gymnasium.make(…, mdp=…)"})
            continue
        made: Any = make_environment(name)
        mdp = made.unwrapped.mdp
        rows.append(
            {
                "env": name,
                "process": mdp.name,
                "observation": str(made.observation_space),
                "action": str(made.action_space),
                "horizon": mdp.horizon,
            }
        )
        made.close()
    if as_json:
        print_json(rows)
        return
    columns = ["env", "process", "observation", "action", "horizon"]
    print_table(columns, [[row.get(column) for column in columns] for row in rows])
    typer.echo("Settings of one: modicum-repcomplexity envs modicum/MajorityMDP-v0 --set n=8")


def _values(mdp: "BitMDP", seed: int) -> dict[str, Any]:
    """Give figures of V*_1 over all states, or over drawn ones where those are too many."""
    import numpy as np

    from modicum.core.device import numpy_generator
    from modicum.repcomplexity.solver import solve

    if mdp.n_states <= TABLE_STATES:
        found, over = np.asarray(solve(mdp).V, dtype=np.float64), "all states"
    elif mdp.has_closed_form:
        codes = mdp.codes_of(numpy_generator(seed, "states").integers(0, mdp.n_states, DRAWN))
        found = np.asarray(mdp.optimal_values(codes), dtype=np.float64)
        over = f"{DRAWN:,} drawn states, by the closed form"
    else:
        return {"V*": f"not taken: more than {TABLE_STATES:,} states and no closed form"}
    return {
        "V* taken over": over,
        "least V*": float(found.min()),
        "mean V*": float(found.mean()),
        "greatest V*": float(found.max()),
        "share with V* > 0": float((found > 0).mean()),
    }


def _episode(mdp: "BitMDP", seed: int) -> list[dict[str, Any]]:
    """Follow optimal actions from a drawn state until the horizon, a terminal state or 50 steps."""
    import numpy as np

    from modicum.core.device import numpy_generator
    from modicum.repcomplexity.solver import solve

    exact = mdp.n_states <= TABLE_STATES
    if not exact and not mdp.has_closed_form:
        return []
    rng = numpy_generator(seed, "episode")
    solution = None if mdp.has_closed_form or not exact else solve(mdp)
    codes: np.ndarray = np.asarray(mdp.sample_states(1, rng))
    rows: list[dict[str, Any]] = []
    for step in range(1, min(mdp.horizon or MOST_STEPS, MOST_STEPS) + 1):
        if mdp.has_terminals and bool(np.asarray(mdp.is_terminal(codes))[0]):
            break
        if solution is None:
            q = [float(mdp.optimal_q(codes, action, step)[0]) for action in range(mdp.n_actions)]
        else:
            now = solution.at(step)
            q = [float(value) for value in np.asarray(now.Q)[int(mdp.indices_of(codes)[0])]]
        action = int(np.argmax(q))
        rows.append(
            {
                "step": step,
                "state": "".join(str(bit) for bit in np.asarray(mdp.observe(codes))[0]),
                "action": action,
                "reward": float(mdp.rewards(codes, action)[0]),
                "value": max(q),
            }
        )
        codes = np.asarray(mdp.sample_next(codes, action, rng))
    return rows
