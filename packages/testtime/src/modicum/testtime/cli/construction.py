"""Commands with torch: construct shows the network that runs the controller, train its experts."""

from pathlib import Path
from typing import Annotated, Any

import typer

from modicum.testtime.cli.show import Json, Seed, print_json, print_table

construct_app = typer.Typer(
    help="The transformer that runs the online learning over its experts.", no_args_is_help=True
)


def _need_torch() -> None:
    try:
        import safetensors  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise ImportError('networks need torch: pip install "modicum-testtime[torch]"') from error


@construct_app.command("demo")
def demo(
    bits: Annotated[str, typer.Option(help="A string of eight 0 and 1.")] = "10110100",
    task: Annotated[
        str, typer.Option(help="The hidden task: copy, reverse, complement or sort.")
    ] = "sort",
    rounds: Annotated[int, typer.Option(help="Rounds of Algorithm 1.")] = 8,
    mode: Annotated[
        str, typer.Option(help="dense (one network over all slices) or routed.")
    ] = "dense",
    json: Json = False,
) -> None:
    """Let one network name experts, answer as they do, and learn from a verifier; UCB1 beside it.

    The verifier accepts what the hidden task makes of the string; nothing tells the network which
    task it is. Exit status 1 if the network and the algorithm differ.
    """
    _need_torch()
    import torch

    from modicum.testtime.construct import glue
    from modicum.testtime.experiments.expert_training import LENGTH, TASKS, load_experts
    from modicum.testtime.experiments.glue import outside, reward_table, verifier_of

    if len(bits) != LENGTH or set(bits) - {"0", "1"}:
        raise ValueError(f"--bits is a string of {LENGTH} 0 and 1, not {bits!r}")
    if task not in TASKS:
        raise ValueError(f"--task is one of {', '.join(TASKS)}, not {task!r}")
    if mode not in ("dense", "routed"):
        raise ValueError(f"--mode is dense or routed, not {mode!r}")
    if rounds < 1:
        raise ValueError(f"--rounds must be at least 1, not {rounds!r}")
    experts = load_experts()
    names = list(experts)
    model = glue(list(experts.values()), rounds, "ucb1", end_of_input=_end(), mode=mode)  # type: ignore[arg-type]
    query = torch.tensor([int(bit) for bit in bits])
    played: Any = model.generate(query, verifier_of(task), rounds, max_new_tokens=LENGTH)
    algorithm = outside(reward_table(task, query.numpy()[None]), rounds)[0].tolist()
    rows = [
        [number, names[turn.expert], "".join(map(str, turn.response)), turn.reward, names[other]]
        for number, (turn, other) in enumerate(zip(played.turns, algorithm, strict=True), 1)
    ]
    agree = played.actions == algorithm
    if json:
        columns = ["round", "expert", "answer", "reward", "ucb1"]
        print_json(
            {
                "width": model.width,
                "agree": agree,
                "turns": [dict(zip(columns, row, strict=True)) for row in rows],
            }
        )
    else:
        heading = ["round", "the network names", "and answers", "reward", "UCB1 names"]
        print_table(heading, rows, f"{bits}, hidden task {task}; width {model.width}, {mode}")
        typer.echo("network and algorithm agree" if agree else "network and algorithm DIFFER")
    if not agree:
        raise typer.Exit(1)


def _end() -> int:
    from modicum.testtime.experiments.expert_training import END_OF_INPUT

    return END_OF_INPUT


EXPERTS = "experts"


def train(
    name: Annotated[
        str, typer.Argument(help="'experts', or a recipe; without one they are listed.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="safetensors file to write.")] = None,
    seed: Seed = 0,
    steps: Annotated[
        int | None, typer.Option(help="Optimiser steps in place of the recipe's.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
) -> None:
    """Train a model of the experiments again; goes on where it was cut off."""
    _need_torch()
    from modicum.testtime.experiments.training import recipes, train

    if not name:
        print_table(
            ["name", "steps", "what it is"],
            [
                [EXPERTS, None, "The experts of `construct demo`, all in one file."],
                *([item.name, item.steps, item.summary] for item in recipes().values()),
            ],
        )
        return
    if out is None:
        raise ValueError("say where to write the weights: --out FILE.safetensors")
    if name == EXPERTS:
        from modicum.core.device import resolve_device
        from modicum.testtime.experiments.expert_training import train_experts

        wrong = train_experts(out, seed, steps, resolve_device(device))
        print_table(["expert", "strings wrong"], [[task, count] for task, count in wrong.items()])
        return
    typer.echo(train(name, out, seed, steps, device, True))
