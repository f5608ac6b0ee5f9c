"""The commands of ``modicum ewatermark …`` (also installed as ``modicum-ewatermark``).

Parses, calls, prints. Exit codes of ``detect``, ``watch`` and ``scan``: 0 detected, 1 not detected,
2 error. A key is only ever named by the path of its file.
"""

import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from modicum.core.cli import method_main

app = typer.Typer(
    help="Anytime-valid watermark for language-model text.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

KeyFile = Annotated[Path, typer.Option(help="File that holds the secret key; see keygen.")]
Record = Annotated[Path, typer.Option(help="Watermark record (JSON) with all parameters.")]
Tokenizer = Annotated[str, typer.Option(help="Folder of a tokenizer, or 'tiny'.")]
AnchorName = Annotated[
    str | None,
    typer.Option(
        help="'uniform', 'tiny', an n-gram file or a model's folder; by default 'uniform' or "
        "'tiny', whichever the record names."
    ),
]
Window = Annotated[int, typer.Option(help="Tokens that a language-model anchor reads.")]
Alpha = Annotated[float, typer.Option(help="Bound on the false-alarm probability.")]
Start = Annotated[
    str, typer.Option(help="'beginning', or 'mixture' to find marks that begin late.")
]
Ids = Annotated[bool, typer.Option("--ids", help="The input is token ids, not text.")]
Device = Annotated[str, typer.Option(help="'auto', 'cpu', 'cuda', …")]


@app.command()
def keygen(path: Annotated[Path, typer.Argument(help="Where to write the key.")]) -> None:
    """Write a new secret key, readable by its owner only."""
    from modicum.core.watermark.adapters.commands import write_key

    write_key(path)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="Prompt; it is not scored.")] = "",
    key_file: KeyFile = Path("key.txt"),
    record: Record = Path("wm.json"),
    model: Annotated[str, typer.Option(help="Folder of a causal model, or 'tiny'.")] = "tiny",
    anchor: Annotated[str, typer.Option(help="As in detect.")] = "tiny",
    window: Window = 20,
    num_groups: Annotated[int, typer.Option(help="Seed symbols m.")] = 16,
    score: Annotated[str, typer.Option(help="Score the detector will use.")] = "defensive-mixture",
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
    from modicum.core.watermark.record import load_key, tokenizer_hash
    from modicum.ewatermark import EWatermarkConfig

    key = load_key(key_file)
    tokenizer = load_tokenizer(model)
    vocab_size = len(tokenizer)
    config = EWatermarkConfig(
        key=key,
        vocab_size=vocab_size,
        num_groups=num_groups,
        score=score,
        anchor=load_anchor(anchor, vocab_size, window=window, device=device),
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


def _detector(
    record: Path,
    key_file: Path,
    tokenizer: str,
    anchor: str | None,
    window: int,
    alpha: float,
    start: Any,
    ids: bool,
    device: str,
) -> tuple[Any, Any]:
    """Build the detector of a record, and the tokenizer unless the input is ids."""
    from modicum.core.watermark.adapters.commands import record_tokenizer
    from modicum.core.watermark.adapters.loading import load_anchor
    from modicum.core.watermark.anchors import UniformAnchor
    from modicum.core.watermark.record import WatermarkRecord, load_key
    from modicum.ewatermark import EWatermarkConfig, EWatermarkDetector
    from modicum.ewatermark.config import SCHEME

    filed = WatermarkRecord.load(record, scheme=SCHEME)
    vocab_size = int(filed.parameters.get("vocab_size", 0))
    if anchor is None:
        uniform = UniformAnchor(vocab_size).fingerprint
        anchor = "uniform" if filed.anchor_fingerprint == uniform else "tiny"
    loaded = load_anchor(anchor, vocab_size, window=window, device=device)
    try:
        config = EWatermarkConfig.from_record(filed, load_key(key_file), loaded)
    except ValueError as error:
        raise ValueError(
            f"{error} (key_id: is {key_file} the right key file? anchor_fingerprint: pass --anchor "
            "and --window as at generation)"
        ) from error
    encoder = None if ids else record_tokenizer(filed, tokenizer)
    return EWatermarkDetector(config, alpha, start=start), encoder


def _as_json(state: Any, token: int) -> str:
    return json.dumps(
        {
            "num_tokens": state.num_tokens,
            "token": token,
            "num_tokens_scored": state.num_tokens_scored,
            "match": state.match,
            "log_e_value": state.log_e_value,
            "p_value": state.p_value,
            "stopped": state.stopped,
        }
    )


def _verdict(stream: Any, alpha: float) -> str:
    state = stream.state
    found = (
        f"DETECTED after {state.stopping_time} tokens"
        if state.stopped
        else f"not detected at alpha={alpha:g}"
    )
    return (
        f"{found}: {state.num_tokens} tokens read, {state.num_tokens_scored} scored, "
        f"{state.num_matches} matches, log10 e-value {state.log10_e_value:.2f}, "
        f"anytime-valid p-value {state.p_value:.3g}"
    )


@app.command()
def detect(
    file: Annotated[str, typer.Argument(help="Text file, or - for standard input.")] = "-",
    record: Record = Path("wm.json"),
    key_file: KeyFile = Path("key.txt"),
    tokenizer: Tokenizer = "tiny",
    anchor: AnchorName = None,
    window: Window = 20,
    alpha: Alpha = 0.01,
    start: Start = "beginning",
    ids: Ids = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="One JSON line per token.")] = False,
    early: Annotated[bool, typer.Option("--early", help="Stop at the first detection.")] = False,
    device: Device = "auto",
) -> None:
    """Detect the watermark in a file or a stream: exit 0 detected, 1 not, 2 error."""
    detector, encoder = _detector(
        record, key_file, tokenizer, anchor, window, alpha, start, ids, device
    )
    stream = detector.stream()
    if file == "-":
        _feed(sys.stdin, stream, encoder, jsonl=jsonl, early=early, whole=False)
    else:
        with open(file, encoding="utf-8") as source:
            _feed(source, stream, encoder, jsonl=jsonl, early=early, whole=True)
    typer.echo(_verdict(stream, alpha), err=jsonl)
    raise typer.Exit(0 if stream.state.stopped else 1)


def _feed(
    source: TextIO, stream: Any, encoder: Any, *, jsonl: bool, early: bool, whole: bool
) -> None:
    from modicum.core.watermark.adapters.documents import chunks

    for block in chunks(source, encoder, whole):
        for token, state in zip(block, stream.push_many(block), strict=True):
            if jsonl:
                typer.echo(_as_json(state, token))
            if early and state.stopped:
                return


@app.command()
def watch(
    record: Record = Path("wm.json"),
    key_file: KeyFile = Path("key.txt"),
    tokenizer: Tokenizer = "tiny",
    anchor: AnchorName = None,
    window: Window = 20,
    alpha: Alpha = 0.01,
    start: Start = "mixture",
    ids: Ids = False,
    state_file: Annotated[
        Path | None, typer.Option(help="Saved after every chunk and resumed if it exists.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Follow standard input and report the evidence after every line, up to its last word."""
    from modicum.core.experiment import write_atomic
    from modicum.core.watermark.adapters.documents import chunks
    from modicum.ewatermark import DetectorStream

    detector, encoder = _detector(
        record, key_file, tokenizer, anchor, window, alpha, start, ids, device
    )
    stream = detector.stream()
    if state_file is not None and state_file.exists():
        stream = DetectorStream.from_json(state_file.read_text(encoding="utf-8"), detector)
        typer.echo(f"resumed at {stream.state.num_tokens} tokens", err=True)
    announced = stream.state.stopped
    for block in chunks(sys.stdin, encoder, whole=False):
        stream.push_many(block)
        state = stream.state
        typer.echo(
            f"{state.num_tokens:8d} tokens  log10 e-value {state.log10_e_value:9.2f}  "
            f"p-value {state.p_value:.3g}"
        )
        if state_file is not None:
            write_atomic(state_file, stream.to_json().encode())
        if state.stopped and not announced:
            announced = True
            typer.echo(f"DETECTED after {state.stopping_time} tokens")
    raise typer.Exit(0 if stream.state.stopped else 1)


@app.command()
def scan(
    path: Annotated[Path, typer.Argument(help="Folder of .txt files, .jsonl or .parquet.")],
    record: Record = Path("wm.json"),
    key_file: KeyFile = Path("key.txt"),
    tokenizer: Tokenizer = "tiny",
    anchor: AnchorName = None,
    window: Window = 20,
    method: Annotated[
        str, typer.Option(help="'e-bh', 'bonferroni', 'product' or 'mean'.")
    ] = "e-bh",
    alpha: Alpha = 0.05,
    column: Annotated[str, typer.Option(help="Field that holds the text.")] = "text",
    out: Annotated[Path | None, typer.Option(help="JSON-lines file for the result.")] = None,
    device: Device = "auto",
) -> None:
    """Scan many documents for one key; list the marked ones with a bounded share of errors."""
    from rich.console import Console
    from rich.progress import track

    from modicum.core.experiment import write_atomic
    from modicum.core.watermark.adapters.documents import documents
    from modicum.core.watermark.responses import encode_text
    from modicum.ewatermark import detect_corpus

    detector, encoder = _detector(
        record, key_file, tokenizer, anchor, window, alpha, "beginning", False, device
    )
    texts = list(documents(path, column, "modicum-ewatermark"))
    console = Console(stderr=True)
    rows = track(texts, "reading", console=console, disable=not console.is_terminal)
    encoded = (encode_text(text, encoder) for _, text in rows)
    result = detect_corpus(encoded, detector, method=method, alpha=alpha)
    lines: list[dict[str, Any]] = [
        {
            "id": name,
            "log_e_value": float(log_e),
            "log10_e_value": float(log_e) / math.log(10),
            "num_tokens_scored": int(scored),
            "prediction": bool(marked),
        }
        for (name, _), log_e, scored, marked in zip(
            texts,
            result.log_e_values,
            result.num_tokens_scored,
            result.prediction,
            strict=True,
        )
    ]
    if out is not None:
        write_atomic(out, "".join(json.dumps(line) + "\n" for line in lines).encode())
    else:
        for line in lines:
            mark = "marked" if line["prediction"] else "-"
            typer.echo(f"{mark:7s} {line['log10_e_value']:9.2f}  {line['id']}")
    found = int(result.prediction.sum())
    typer.echo(
        f"{found} of {len(lines)} documents marked ({method}, alpha={alpha:g}); corpus log10 "
        f"e-value {result.log_e_value / math.log(10):.2f}, p-value {result.p_value:.3g}",
        err=True,
    )
    raise typer.Exit(0 if found else 1)


@app.command()
def plan(
    text: Annotated[
        Path | None, typer.Option(help="Text like that to be marked; laws are read off it.")
    ] = None,
    model: Annotated[str, typer.Option(help="Folder of the target model, or 'tiny'.")] = "tiny",
    anchor: Annotated[str, typer.Option(help="As in detect.")] = "tiny",
    window: Window = 20,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 1.0,
    entropy: Annotated[
        float | None, typer.Option(help="Instead of a text: entropy of the group masses, nats.")
    ] = None,
    total_variation: Annotated[
        float, typer.Option(help="With --entropy: distance of target and anchor.")
    ] = 0.1,
    num_groups: Annotated[int, typer.Option(help="Seed symbols m.")] = 16,
    score: Annotated[str, typer.Option(help="Score of the detector.")] = "defensive-mixture",
    delta: Annotated[float, typer.Option(help="Tolerance of score 'anchored'.")] = 0.3,
    alpha: Alpha = 0.01,
    power: Annotated[float, typer.Option(help="Share of texts to be detected.")] = 0.9,
    peers: Annotated[bool, typer.Option("--peers", help="Show other schemes too.")] = False,
    num_texts: Annotated[int, typer.Option(help="Texts simulated per scheme.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the simulation.")] = 0,
    device: Device = "auto",
) -> None:
    """Say how many tokens are needed for a level and a power."""
    from dataclasses import asdict

    from modicum.core.watermark.adapters.commands import cell, text_laws
    from modicum.ewatermark.plan import compare_schemes, plan_from_entropy, plan_tokens

    if (text is None) == (entropy is None):
        raise ValueError("give either --text or --entropy")
    if entropy is not None:
        if peers:
            raise ValueError("--peers needs the laws of a --text")
        # The closed forms are those of a single bet.
        single = "defensive" if score == "defensive-mixture" else score
        found = plan_from_entropy(
            entropy,
            total_variation=total_variation,
            num_groups=num_groups,
            score=single,
            delta=delta,
            alpha=alpha,
            power=power,
        )
        typer.echo(f"score {single}")
    else:
        assert text is not None
        target_NV, anchor_NV = text_laws(
            text, model, anchor, window=window, temperature=temperature, device=device
        )
        found = plan_tokens(
            target_NV,
            anchor_NV,
            num_groups=num_groups,
            score=score,
            delta=delta,
            alpha=alpha,
            power=power,
            horizon=500,
            num_texts=num_texts,
            rng=seed,
        )
    for name, value in asdict(found).items():
        typer.echo(f"{name:18s} {cell(value)}")
    if peers:
        typer.echo("")
        for row in compare_schemes(
            target_NV, anchor_NV, alpha=alpha, num_texts=num_texts, rng=seed
        ):
            typer.echo(
                f"{row.median_tokens:7g} tokens (median), {row.detected_fraction:6.1%} detected"
                f"  {row.scheme}, {row.test}{' (distorts)' if row.distorts else ''}"
            )


@app.command()
def plot(
    file: Annotated[Path, typer.Argument(help="Text file.")],
    out: Annotated[Path, typer.Option(help="Figure (.svg, .png) or .html heat map.")],
    record: Record = Path("wm.json"),
    key_file: KeyFile = Path("key.txt"),
    tokenizer: Tokenizer = "tiny",
    anchor: AnchorName = None,
    window: Window = 20,
    alpha: Alpha = 0.01,
    start: Start = "beginning",
    n_keys: Annotated[int, typer.Option(help="Other keys drawn as a grey band.")] = 20,
    device: Device = "auto",
) -> None:
    """Draw the evidence along a text, or mark every matching token in an HTML page."""
    import numpy as np

    from modicum.core.experiment import write_atomic
    from modicum.core.watermark.responses import encode_text
    from modicum.ewatermark import EWatermarkDetector, plots

    detector, encoder = _detector(
        record, key_file, tokenizer, anchor, window, alpha, start, False, device
    )
    ids = encode_text(file.read_text(encoding="utf-8"), encoder)
    if out.suffix == ".html":
        states = detector.stream().push_many(ids)
        words = [encoder.decode([token]) for token in ids]
        page = plots.match_html(words, [state.match for state in states])
        body = f'<!doctype html><html lang="en"><meta charset="utf-8">{page}</html>'
        write_atomic(out, body)
        return
    rng = np.random.default_rng(0)
    others = [
        EWatermarkDetector(detector.config.replace(key=rng.bytes(32)), alpha, start=detector.start)(
            ids
        )
        for _ in range(n_keys)
    ]
    result = detector(ids)
    stop = int(result.stopping_time[0])
    figure = plots.trajectories(
        result.trajectory[0],
        alpha,
        others_BT=np.array([other.trajectory[0] for other in others]) if others else None,
        stopping_time=stop if stop > 0 else None,
    )
    figure.savefig(out)


@app.command()
def simulate(
    name: Annotated[
        str, typer.Argument(help="'tokens_to_detect', 'optional_stopping' or 'stopping_law'.")
    ] = "tokens_to_detect",
    out: Annotated[Path, typer.Option(help="Folder for result, tables and figures.")] = Path(
        "simulation"
    ),
    quick: Annotated[bool, typer.Option("--quick/--full", help="Size of the run.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 0,
) -> None:
    """Run an experiment on simulated laws; write its tables as CSV and its figures."""
    from modicum.core.watermark.adapters.commands import run_simulation
    from modicum.ewatermark.experiments import EXPERIMENTS as simulated

    run_simulation(simulated, name, out, quick=quick, seed=seed)


record_app = typer.Typer(help="Watermark records.", no_args_is_help=True)
app.add_typer(record_app, name="record")


@record_app.command("show")
def record_show(path: Annotated[Path, typer.Argument(help="Record file.")]) -> None:
    """Print a record after checking that this release can read it."""
    from modicum.core.watermark.adapters.commands import show_record

    show_record(path)


@app.command()
def selftest(
    n_keys: Annotated[int, typer.Option(help="Random keys of the null simulation.")] = 500,
) -> None:
    """Check the PRF's published vectors and the detector's mean e-value on this machine."""
    from importlib.resources import files

    from modicum.core.watermark.adapters.commands import check_prf_vectors
    from modicum.ewatermark import EWatermarkConfig, EWatermarkDetector

    check_prf_vectors()
    config = EWatermarkConfig(key=0, vocab_size=256)
    text = (files("modicum.ewatermark") / "cli.py").read_bytes()[:2000]
    check = EWatermarkDetector(config).rekey_check(list(text), n_keys=n_keys)
    limit = 1 + 6 * check.mean_capped_stderr
    typer.echo(
        f"mean capped e-value over {n_keys} keys on unmarked text: {check.mean_capped:.3f} "
        f"(at most 1 up to noise: {limit:.3f})"
    )
    if check.mean_capped > limit:
        raise ValueError("the mean e-value on unmarked text is too large")


@app.command("train-tiny")
def train_tiny_command(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints; resumed if it exists.")],
    steps: Annotated[int, typer.Option(help="Optimiser steps per model.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of text and weights.")] = 0,
) -> None:
    """Train the small target and anchor models that come with modicum-core."""
    from modicum.core.watermark.adapters.tiny_lm import train_tiny

    typer.echo(json.dumps(train_tiny(out, steps=steps, seed=seed), indent=2))


def __getattr__(name: str) -> Any:
    # What `modicum demo` runs: gathered here because only the command line may know both the
    # simulations and the engines, and on demand so that --help stays quick.
    if name == "EXPERIMENTS":
        from modicum.ewatermark.experiments import EXPERIMENTS as simulated
        from modicum.ewatermark.integrations.end_to_end import EXPERIMENTS as generated

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
    from modicum.ewatermark.integrations.end_to_end import EXPERIMENTS as generated

    if not run_sample(generated, out, quick=quick, seed=seed, device=device):
        raise typer.Exit(1)


def main() -> None:
    """Run the commands as the script ``modicum-ewatermark``."""
    method_main(app, "modicum-ewatermark")
