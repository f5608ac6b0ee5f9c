"""Commands that make keys and marked text, and that score text: keygen, generate, score."""

import json
from pathlib import Path
from typing import Annotated

import typer

from modicum.umpwatermark.cli.inputs import key_of, tokens_of
from modicum.umpwatermark.cli.options import (
    Device,
    Epsilon,
    Ids,
    KeyFile,
    ModelName,
    Record,
    Temperature,
    TopP,
    Window,
)


def keygen(
    path: Annotated[Path, typer.Argument(help="Where to write the key.")],
    prf: Annotated[
        str, typer.Option(help="'vllm-philox' writes the integer that vLLM's watermark takes.")
    ] = "philox",
) -> None:
    """Write a new secret key, readable by its owner only."""
    from modicum.core.watermark.adapters.commands import write_key
    from modicum.umpwatermark.config import KNOWN_PRFS

    if prf not in KNOWN_PRFS:
        raise ValueError(f"unknown prf {prf!r}; choose one of {sorted(KNOWN_PRFS)}")
    if prf == "vllm-philox":
        from modicum.umpwatermark.integrations.loading import write_engine_key

        typer.echo(f"wrote {path} (key id {write_engine_key(path, prf)})")
    else:
        write_key(path)


def generate(
    prompt: Annotated[str, typer.Argument(help="Prompt; it is not scored.")] = "",
    key_file: KeyFile = Path("key.txt"),
    record: Record = Path("wm.json"),
    model: ModelName = "tiny",
    sampler: Annotated[
        str, typer.Option(help="'gumbel', 'hazard', 'greenlist' or 'ump-aware'.")
    ] = "gumbel",
    context_width: Annotated[int, typer.Option(help="Tokens that seed a position.")] = 4,
    prf: Annotated[
        str, typer.Option(help="'philox', 'blake2b', 'vllm-philox' or 'vllm-hmac'.")
    ] = "philox",
    gamma: Annotated[
        float | None, typer.Option(help="Region level of 'greenlist' and 'ump-aware'.")
    ] = None,
    coupling: Annotated[str, typer.Option(help="Of 'greenlist': 'greedy' or 'exact'.")] = "greedy",
    epsilon: Epsilon = 0.0,
    surrogate: Annotated[
        str | None, typer.Option(help="Of 'ump-aware', as in detect; by default 'tiny'.")
    ] = None,
    window: Window = 20,
    max_new_tokens: Annotated[int, typer.Option(help="Length of the response.")] = 200,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Nucleus mass.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampler (not of the key).")] = 0,
    out: Annotated[Path | None, typer.Option(help="File for the text; else printed.")] = None,
    device: Device = "auto",
) -> None:
    """Generate watermarked text with a causal language model and file the record beside it."""
    from modicum.core.watermark.adapters.loading import (
        generate_text,
        load_anchor,
        load_model,
        load_tokenizer,
    )
    from modicum.core.watermark.record import tokenizer_hash
    from modicum.umpwatermark import UMPWatermarkConfig

    key = key_of(key_file, prf)
    tokenizer = load_tokenizer(model)
    vocab_size = len(tokenizer)
    law = None
    if sampler == "ump-aware":
        law = load_anchor(surrogate or "tiny", vocab_size, window=window, device=device)
    elif surrogate is not None:
        raise ValueError(f"sampler {sampler!r} uses no surrogate; give --surrogate to detect")
    config = UMPWatermarkConfig(
        key=key,
        vocab_size=vocab_size,
        sampler=sampler,
        context_width=context_width,
        prf=prf,
        gamma=gamma,
        coupling=coupling,
        epsilon=epsilon,
        surrogate=law,
    )
    text = generate_text(
        load_model(model, device),
        tokenizer,
        config,
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
    )
    config.record(tokenizer_hash(tokenizer)).save(record)
    if out is None:
        typer.echo(text)
    else:
        from modicum.core.experiment import write_atomic

        write_atomic(out, text.encode())
        typer.echo(f"wrote {out} and {record} (key id {config.key_id})", err=True)


def score(
    file: Annotated[str, typer.Argument(help="Text file, or - for standard input.")] = "-",
    out: Annotated[Path | None, typer.Option(help="File for the line; else printed.")] = None,
    model: ModelName = "tiny",
    prompt: Annotated[str, typer.Option(help="Text in front of it.")] = "",
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    ids: Ids = False,
    device: Device = "auto",
) -> None:
    """Write ids and log-probabilities of a text under a model, for --logprobs of other commands."""
    from modicum.core.watermark.adapters.loading import load_model, load_tokenizer, prompt_ids
    from modicum.umpwatermark.integrations.transformers import score_token_logprobs

    tokenizer = load_tokenizer(model)
    loaded = load_model(model, device)
    tokens = tokens_of(file, None if ids else tokenizer)
    found = score_token_logprobs(
        loaded,
        prompt_ids(loaded, tokenizer, prompt),
        tokens,
        temperature=temperature,
        top_p=top_p,
        vocab_size=len(tokenizer),
    )
    # JSON has no infinity: a token that top-p excludes is floored by the detector anyway.
    logprobs = [max(float(value), -1e4) for value in found]
    line = json.dumps({"ids": tokens, "logprobs": logprobs})
    if out is None:
        typer.echo(line)
    else:
        from modicum.core.experiment import write_atomic

        write_atomic(out, line + "\n")
