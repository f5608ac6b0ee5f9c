"""The commands of ``modicum umpwatermark …`` (also installed as ``modicum-umpwatermark``).

Parses, calls, prints. Exit codes of ``detect``, ``watch`` and ``scan``: 0 marked, 1 not marked,
2 error. A key is only ever named by the path of its file.
"""

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from modicum.core.cli import method_main
from modicum.umpwatermark.cli.detection import calibrate, detect, scan, watch
from modicum.umpwatermark.cli.marking import generate, keygen, score
from modicum.umpwatermark.cli.options import Device
from modicum.umpwatermark.cli.planning import bench, budget, couple, plan, robust
from modicum.umpwatermark.cli.plotting import plot

app = typer.Typer(
    help="The best trade-off of false alarms, misses and text length: plan, mark, detect.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    *(keygen, generate, score),
    *(detect, watch, scan, calibrate),
    *(plan, budget, couple, robust, bench, plot),
):
    app.command()(command)


@app.command()
def simulate(
    name: Annotated[
        str, typer.Argument(help="Name of an experiment; without one they are listed.")
    ] = "",
    out: Annotated[Path, typer.Option(help="Folder for result, tables and figures.")] = Path(
        "simulation"
    ),
    quick: Annotated[bool, typer.Option("--quick/--full", help="Size of the run.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 0,
) -> None:
    """Run an experiment on simulated laws; write its tables as CSV and its figures."""
    from modicum.core.watermark.adapters.commands import run_simulation
    from modicum.umpwatermark.experiments import EXPERIMENTS as simulated

    if not name:
        for experiment in simulated:
            typer.echo(f"{experiment.name:24s} {experiment.title}")
        return
    run_simulation(simulated, name, out, quick=quick, seed=seed)


record_app = typer.Typer(help="Watermark records.", no_args_is_help=True)
app.add_typer(record_app, name="record")


@record_app.command("show")
def record_show(path: Annotated[Path, typer.Argument(help="Record file.")]) -> None:
    """Print a record after checking that this release can read it."""
    from modicum.core.watermark.adapters.commands import show_record
    from modicum.umpwatermark.config import KNOWN_PRFS

    show_record(path, KNOWN_PRFS)


@app.command()
def selftest(
    n_keys: Annotated[int, typer.Option(help="Random keys of the null simulation.")] = 500,
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 0,
) -> None:
    """Check published vectors, the mean e-value and a linear program on this machine."""
    import numpy as np

    from modicum.core.watermark.adapters.commands import check_prf_vectors
    from modicum.umpwatermark import (
        RobustLP,
        UMPWatermarkConfig,
        UMPWatermarkDetector,
        hamming_graph,
        ump_type2,
    )
    from modicum.umpwatermark.corpus import detect_keys
    from modicum.umpwatermark.robust import hamming_ball_type2
    from modicum.umpwatermark.uniforms import make_uniforms

    check_prf_vectors()
    engine = make_uniforms(UMPWatermarkConfig(42, 256, prf="vllm-philox"))
    state = engine.context_state(np.full((1, 4), -1))
    word = int(engine.prf.words(state, np.array([85])).item())
    if word != 4287029948:
        raise ValueError(f"vLLM's PRF gives the word {word} where 4287029948 is published")
    typer.echo("vLLM's PRF: published word agrees")

    rng = np.random.default_rng(seed)
    # Short, so that the e-value has not yet fallen from its mean of 1 to its typical value near 0.
    text = Path(__file__).read_bytes()[:12]
    config = UMPWatermarkConfig(key=rng.bytes(32), vocab_size=256)
    keys = detect_keys(list(text), config, [rng.bytes(32) for _ in range(n_keys)])
    capped = np.minimum(np.exp(np.minimum(keys.log_e_values, 50.0)), 100.0)
    limit = 1 + 6 * float(capped.std(ddof=1)) / math.sqrt(n_keys)
    typer.echo(
        f"mean capped e-value over {n_keys} keys on unmarked text: {capped.mean():.3f} "
        f"(at most 1 up to noise: {limit:.3f})"
    )
    if capped.mean() > limit:
        raise ValueError("the mean e-value on unmarked text is too large")
    from scipy.stats import binom

    early, most = int((keys.p_values <= 0.1).sum()), int(binom.isf(1e-6, n_keys, 0.1))
    typer.echo(f"p-values of at most 0.1 among them: {early} (at most {most} up to noise)")
    if early > most:
        raise ValueError("unmarked text has too many small p-values")

    rho = rng.dirichlet(np.ones(64))
    closed, program = ump_type2(rho, 0.02), RobustLP(hamming_graph(6, 2, 0), rho, 0.02).solve()
    ball = RobustLP(hamming_graph(8, 2, 1), np.full(256, 1 / 256), 0.02).solve()
    worst = max(abs(closed - program.type2), abs(hamming_ball_type2(8, 1, 0.02) - ball.type2))
    typer.echo(f"linear programs against closed forms: difference {worst:.1g}")
    if worst > 1e-6:
        raise ValueError(f"a linear program differs from its closed form by {worst:g}")

    scheme_text = _marked_ids(config, rng, 120)
    p_value = float(UMPWatermarkDetector(config)(scheme_text).p_value[0])
    typer.echo(f"120 marked tokens of 256 equal ones: p-value {p_value:.2g}")
    if p_value > 1e-6:
        raise ValueError("marked text is not detected")


def _marked_ids(config: Any, rng: Any, num_tokens: int) -> list[int]:
    """Generate from the uniform law without any model."""
    import numpy as np

    from modicum.umpwatermark import UMPWatermarkScheme

    scheme = UMPWatermarkScheme(config)
    tracker = scheme.new_tracker()
    logits = np.zeros((1, config.vocab_size))
    for _ in range(num_tokens):
        law = np.exp(scheme.transform(logits - math.log(config.vocab_size), [tracker])[0])
        tracker.push(int(rng.choice(config.vocab_size, p=law / law.sum())))
    return list(tracker.tokens)


@app.command("train-tiny")
def train_tiny_command(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints; resumed if it exists.")],
    steps: Annotated[int, typer.Option(help="Optimiser steps per model.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of text and weights.")] = 0,
) -> None:
    """Train the two small models that come with modicum-core anew."""
    from modicum.core.watermark.adapters.tiny_lm import train_tiny

    typer.echo(json.dumps(train_tiny(out, steps=steps, seed=seed), indent=2))


def __getattr__(name: str) -> Any:
    # What `modicum demo` runs: gathered here because only the command line may know both the
    # simulations and the engines, and on demand so that --help stays quick.
    if name == "EXPERIMENTS":
        from modicum.umpwatermark.experiments import EXPERIMENTS as simulated
        from modicum.umpwatermark.integrations.end_to_end import EXPERIMENTS as generated

        return (*generated, *simulated)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("report"),
    quick: Annotated[bool, typer.Option("--quick/--full", help="Size of the runs.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of all randomness but the keys.")] = 0,
    device: Device = "auto",
) -> None:
    """Watermark a file of text, edit it, detect it again, and print what was found."""
    from modicum.core.watermark.adapters.commands import run_sample
    from modicum.umpwatermark.integrations.end_to_end import EXPERIMENTS as generated

    if not run_sample(generated, out, quick=quick, seed=seed, device=device):
        raise typer.Exit(1)


def main() -> None:
    """Run the commands as the script ``modicum-umpwatermark``."""
    method_main(app, "modicum-umpwatermark")
