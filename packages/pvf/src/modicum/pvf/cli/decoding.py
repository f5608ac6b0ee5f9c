"""The commands ``generate`` (answer prompts) and ``compare`` (strategies side by side)."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modicum.pvf.cli import options
from modicum.pvf.cli.show import print_json, print_table

if TYPE_CHECKING:
    from modicum.pvf.generation import GenerateOutput
    from modicum.pvf.predictor import MaskPredictor
    from modicum.pvf.stats import DecodeStats

__all__ = ["compare", "generate"]

_COLUMNS = ("calls (NFE)", "rows", "token evals", "tokens", "tokens/call")


def generate(
    model: options.Model = None,
    prompt: options.Prompt = None,
    prompts: options.Prompts = None,
    items: options.Items = 1,
    strategy: Annotated[
        str,
        typer.Option(
            help="Name, with settings as NAME:setting=value, such as pvf:num_drafts=1.",
            rich_help_panel=options.DECODING,
        ),
    ] = "pvf",
    preset: options.Preset = None,
    plan_vocab: options.PlanVocab = None,
    gen_length: options.GenLength = None,
    block_length: options.BlockLength = None,
    temperature: Annotated[
        float,
        typer.Option(help="0 takes the most likely token.", rich_help_panel=options.DECODING),
    ] = 0.0,
    cfg_scale: Annotated[
        float,
        typer.Option(
            help="Strength of classifier-free guidance; 0 is off.",
            rich_help_panel=options.DECODING,
        ),
    ] = 0.0,
    cache: options.Cache = "none",
    batch_size: options.BatchSize = 8,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Write what is committed when (.jsonl), for replay.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write answers and their costs as JSON lines.", rich_help_panel=options.OUTPUT
        ),
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Answer prompts, and say what each answer cost.

    Without --model the tiny model answers; without a prompt it gets items of its task that it was
    not trained on.
    """
    from modicum.pvf.generation import generate as decode
    from modicum.pvf.trace import record

    loaded = options.model_of(model, device, dtype)
    asked = options.asked_of(loaded, prompt, prompts, items, seed, gen_length, block_length)
    chosen = options.strategy_of(strategy, preset, plan_vocab, loaded)
    settings: dict[str, Any] = {
        "strategy": chosen,
        **asked.shape,
        "temperature": temperature,
        "cfg_scale": cfg_scale,
        "cache": cache,
        "batch_size": batch_size,
        "seed": seed,
        "progress": not quiet,
    }
    if trace is None:
        found = decode(loaded, asked.prompts, **settings)
    else:
        found = record(trace, loaded, asked.prompts, **settings)
    answers = _answers(asked, found)
    if out is not None:
        from modicum.core.experiment import write_atomic

        write_atomic(out, "".join(json.dumps(answer) + "\n" for answer in answers))
    if as_json:
        print_json({"strategy": dict(chosen.to_dict()), **asked.shape, "answers": answers})
        return
    for answer in answers:
        text = answer["text"]
        typer.echo(text if text is not None else " ".join(map(str, answer["ids"])))
    lines = [[number, *_costs([stats]), stats.seconds] for number, stats in enumerate(found.stats)]
    print_table(["answer", *_COLUMNS, "seconds"], lines)


def _answers(asked: options.Asked, found: "GenerateOutput") -> list[dict[str, Any]]:
    texts: Sequence[str | None] = found.texts or [None] * len(found.stats)
    return [
        {
            "prompt": name,
            "text": text,
            "ids": ids[: asked.gen_length].tolist(),
            "stats": stats.to_dict(),
        }
        for name, text, ids, stats in zip(
            asked.names, texts, found.generated, found.stats, strict=True
        )
    ]


def _costs(stats: "Sequence[DecodeStats]") -> list[float]:
    """Give the mean calls, rows, token evaluations and tokens, and tokens for each call."""
    calls, rows, evals, tokens = (
        sum(getattr(item, name) for item in stats) / len(stats)
        for name in ("nfe", "rows", "token_evals", "tokens")
    )
    return [calls, rows, evals, tokens, tokens / calls]


def compare(
    strategies: Annotated[
        str,
        typer.Option(
            help="Names with commas, settings as NAME:setting=value; the first is what others are "
            "compared with.",
            rich_help_panel=options.DECODING,
        ),
    ] = "threshold,plan,fill,pvf",
    model: options.Model = None,
    prompt: options.Prompt = None,
    prompts: options.Prompts = None,
    items: options.Items = 50,
    preset: options.Preset = None,
    plan_vocab: options.PlanVocab = None,
    gen_length: options.GenLength = None,
    block_length: options.BlockLength = None,
    cache: options.Cache = "none",
    batch_size: options.BatchSize = 8,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    out: Annotated[
        Path | None,
        typer.Option(help="Write the figures as JSON.", rich_help_panel=options.OUTPUT),
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Decode the same prompts with several strategies: calls, rows, tokens and seconds.

    Figures are means for each prompt; a call with several rows counts once as a call, so that rows
    and token evaluations are its price. For the tiny model's task the table also says how many
    answers are right.
    """
    loaded = options.model_of(model, device, dtype)
    asked = options.asked_of(loaded, prompt, prompts, items, seed, gen_length, block_length)
    names = [name.strip() for name in strategies.split(",") if name.strip()]
    if not names:
        raise ValueError("--strategies names none")
    chosen = [options.strategy_of(name, preset, plan_vocab, loaded) for name in names]
    settings: dict[str, Any] = {
        **asked.shape,
        "cache": cache,
        "batch_size": batch_size,
        "seed": seed,
    }
    rows: list[dict[str, Any]] = []
    for name, strategy in zip(names, chosen, strict=True):
        line = _measured(loaded, asked, strategy, {**settings, "progress": not quiet})
        rows.append({"strategy": name, **line})
        rows[-1]["calls_saved"] = 1 - line["calls"] / rows[0]["calls"]
    whole = {"prompts": len(asked.prompts), **settings, "rows": rows}
    if out is not None:
        from modicum.core.experiment import dumps, write_atomic

        write_atomic(out, dumps(whole))
    if as_json:
        print_json(whole)
        return
    columns = ["strategy", "right", *_COLUMNS, "calls saved", "seconds"]
    lines = [
        [
            *list(line.values())[:-2],
            f"{line['calls_saved']:.1%}",
            line["seconds"],
        ]
        for line in rows
    ]
    print_table(columns, lines, f"{len(asked.prompts)} prompts, means for each")


def _measured(
    model: "MaskPredictor", asked: options.Asked, strategy: Any, settings: dict[str, Any]
) -> dict[str, Any]:
    """Decode everything with one strategy."""
    from modicum.pvf.generation import generate as decode

    started = time.perf_counter()
    found = decode(model, asked.prompts, strategy=strategy, **settings)
    seconds = (time.perf_counter() - started) / len(asked.prompts)
    calls, rows, evals, tokens, rate = _costs(found.stats)
    return {
        "right": _right(model, found),
        "calls": calls,
        "rows": rows,
        "token_evals": evals,
        "tokens": tokens,
        "tokens_per_call": rate,
        "seconds": seconds,
    }


def _right(model: "MaskPredictor", found: "GenerateOutput") -> float | None:
    """Give the share of right answers where the task is the tiny model's; None elsewhere."""
    from modicum.pvf.tiny import ANSWER_LENGTH, PROMPT_LENGTH, TinyMDLM, is_exact

    prompts = found.sequences[:, :PROMPT_LENGTH]
    fits = found.sequences.shape[1] == PROMPT_LENGTH + ANSWER_LENGTH
    if not isinstance(model, TinyMDLM) or not fits or found.generated.shape[1] != ANSWER_LENGTH:
        return None
    return float(is_exact(prompts, found.generated).double().mean())
