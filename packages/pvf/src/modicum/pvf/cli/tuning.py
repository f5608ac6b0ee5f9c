"""The commands ``calibrate`` (planning tokens), ``advise`` (drafts) and ``train-tiny``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modicum.pvf.cli import options
from modicum.pvf.cli.show import bar, print_json, print_table

if TYPE_CHECKING:
    from modicum.pvf.calibration import PlanCalibration
    from modicum.pvf.predictor import MaskPredictor

__all__ = ["advise", "calibrate", "train_tiny"]

MOST_LINES = 20
"""Lines of a table that are printed; files have all of them."""


def calibrate(
    out: Annotated[
        Path,
        typer.Option(
            help="File of the measurement (.json), for --plan-vocab; one that was cut off is gone "
            "on with.",
            rich_help_panel=options.OUTPUT,
            show_default=False,
        ),
    ],
    model: options.Model = None,
    prompt: options.Prompt = None,
    prompts: options.Prompts = None,
    items: options.Items = 50,
    preset: options.Preset = None,
    min_count: Annotated[int, typer.Option(help="Least number of trials of a token.")] = 8,
    min_utility: Annotated[float, typer.Option(help="Least utility.")] = 0.0,
    min_share: Annotated[float, typer.Option(help="Least share of the largest utility.")] = 0.5,
    max_size: Annotated[int, typer.Option(help="Most tokens.")] = 256,
    gen_length: options.GenLength = None,
    block_length: options.BlockLength = None,
    batch_size: options.BatchSize = 8,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure which tokens are worth committing early, on prompts like those to be decoded.

    Threshold decoding tries every uncertain token of every step; a token's utility is a lower bound
    of the probability that it passes the test, times what it adds to the confidence elsewhere.
    """
    from modicum.pvf.calibration import calibrate_plan_vocab

    loaded = options.model_of(model, device, dtype)
    asked = options.asked_of(loaded, prompt, prompts, items, seed, gen_length, block_length)
    strategy: Any = options.strategy_of("pvf", preset)
    with bar(not quiet, "prompts", len(asked.prompts)) as advance:
        found = calibrate_plan_vocab(
            loaded,
            asked.prompts,
            strategy=strategy,
            gen_length=asked.gen_length,
            block_length=asked.block_length,
            batch_size=batch_size,
            min_count=min_count,
            min_utility=min_utility,
            min_share=min_share,
            max_size=max_size,
            out=out,
            on_batch=lambda measured: advance(measured.done),
        )
    lines = _tokens(found, loaded)
    if as_json:
        print_json({"prompts": found.prompts, "vocabulary": lines, "out": str(out)})
        return
    columns = ["token", "id", "trials", "passed", "mean gain", "utility"]
    print_table(columns, [list(line.values()) for line in lines[:MOST_LINES]])
    if len(lines) > MOST_LINES:
        typer.echo(f"… and {len(lines) - MOST_LINES:,} more")
    typer.echo(f"{len(lines):,} planning tokens of {found.prompts:,} prompts: {out}")


def _tokens(found: "PlanCalibration", model: "MaskPredictor") -> list[dict[str, Any]]:
    """Give the tokens of the vocabulary, the most useful first."""
    from modicum.pvf.trace import visible

    tokenizer = getattr(model, "tokenizer", None)
    kept = [(token, found.trials[token]) for token in found.vocabulary().ids]
    kept.sort(key=lambda pair: (-pair[1].utility, pair[0]))
    return [
        {
            "token": None if tokenizer is None else visible(tokenizer.decode([token])),
            "id": token,
            "count": trials.count,
            "passed": trials.passed,
            "mean_gain": trials.gain / trials.count,
            "utility": trials.utility,
        }
        for token, trials in kept
    ]


def advise(
    model: options.Model = None,
    prompt: options.Prompt = None,
    prompts: options.Prompts = None,
    items: options.Items = 16,
    preset: options.Preset = None,
    plan_vocab: options.PlanVocab = None,
    drafts: Annotated[
        str, typer.Option(help="Numbers of drafts to try beside 0, with commas.")
    ] = "1,3",
    gen_length: options.GenLength = None,
    block_length: options.BlockLength = None,
    cache: options.Cache = "none",
    batch_size: options.BatchSize = 8,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Measure what rows cost on this device, and say how many drafts pay.

    Fewer calls are not less time where a call with several rows takes longer than one with one.
    """
    from modicum.pvf.advice import advise as measure

    try:
        counts = [int(part) for part in drafts.split(",")]
    except ValueError:
        raise ValueError(f"--drafts takes integers with commas, not {drafts!r}") from None
    loaded = options.model_of(model, device, dtype)
    asked = options.asked_of(loaded, prompt, prompts, items, seed, gen_length, block_length)
    strategy: Any = options.strategy_of("pvf", preset, plan_vocab, loaded)
    found = measure(
        loaded,
        asked.prompts,
        strategy=strategy,
        num_drafts=counts,
        **asked.shape,
        cache=cache,
        batch_size=batch_size,
    )
    if as_json:
        print_json(found.to_dict())
    else:
        typer.echo(found.table())


def train_tiny(
    out: Annotated[
        Path, typer.Option(help="File of the weights (.safetensors).", show_default=False)
    ],
    steps: Annotated[
        int | None, typer.Option(help="Optimiser steps; by default those of the package's model.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, items and masks.")] = 0,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Train the tiny model again; goes on where it was cut off.

    The package brings its weights: this is for other seeds and steps, and to see where they come
    from.
    """
    from modicum.pvf.tiny import load_checkpoint, train
    from modicum.pvf.tiny.train import STEPS

    if out.suffix != ".safetensors":
        raise ValueError(f"--out takes a file that ends in .safetensors, not {out}")
    train(
        out, seed=seed, steps=STEPS if steps is None else steps, device=device, progress=not quiet
    )
    _, header = load_checkpoint(out)
    about = {"out": str(out), **{name: header[name] for name in ("seed", "steps", "loss")}}
    if as_json:
        print_json(about)
    else:
        typer.echo("{out}: seed {seed}, steps {steps}, loss {loss}".format(**about))
