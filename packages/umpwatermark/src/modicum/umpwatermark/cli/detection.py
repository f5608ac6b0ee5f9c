"""Commands that read text: detect, watch, scan, calibrate.

Exit codes: 0 marked, 1 not marked, 2 error.
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from modicum.umpwatermark.cli.inputs import detector_of, progress, scored_of, tokens_of
from modicum.umpwatermark.cli.options import (
    Alpha,
    Calibration,
    Device,
    Ids,
    KeyFile,
    Logprobs,
    Prompt,
    Record,
    Skip,
    StatisticName,
    Surrogate,
    Temperature,
    Tokenizer,
    TopP,
    Weights,
    Window,
)

UNMARKED = 0.01
"""p-value of a calibration set above which its user is asked whether it is marked."""


def detect(
    file: Annotated[
        str | None,
        typer.Argument(help="Text file, or - for standard input (also if left out)."),
    ] = None,
    record: Record = Path("wm.json"),
    key_file: KeyFile = Path("key.txt"),
    tokenizer: Tokenizer = "tiny",
    surrogate: Surrogate = None,
    window: Window = 20,
    prompt: Prompt = None,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    logprobs: Logprobs = None,
    skip: Skip = 0,
    statistic: StatisticName = "auto",
    weights: Weights = None,
    calibration: Calibration = None,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Limit each token's score, for edited text.")
    ] = False,
    alpha: Alpha = 1e-3,
    ids: Ids = False,
    jsonl: Annotated[
        bool,
        typer.Option("--jsonl", help="One JSON line per token, with anytime-valid p-values."),
    ] = False,
    early: Annotated[
        bool, typer.Option("--early", help="Stop at the first (anytime-valid) detection.")
    ] = False,
    per_token: Annotated[
        Path | None, typer.Option(help="Table (.csv) or heat map (.html) of every token.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the null draws.")] = 0,
    device: Device = "auto",
) -> None:
    """Detect the watermark in one response: exit 0 marked, 1 not marked, 2 error."""
    if logprobs is not None and surrogate not in (None, "none"):
        raise ValueError("give --logprobs or --surrogate, not both")
    given_ids, values = (
        (None, None) if logprobs is None else scored_of(logprobs, skip, temperature, top_p)
    )
    detector, encoder = detector_of(
        record,
        key_file,
        tokenizer=tokenizer,
        surrogate=surrogate,
        window=window,
        prompt=prompt,
        temperature=1.0 if logprobs is not None else temperature,
        top_p=top_p,
        statistic=statistic,
        weights=weights,
        alpha=alpha,
        # Heat maps show words even where ids were given.
        ids=ids or (given_ids is not None and file is None),
        device=device,
        calibration=calibration,
        truncate=truncate,
        seed=seed,
    )
    streamed = jsonl or early
    if streamed and per_token is not None:
        raise ValueError("--per-token tells of whole texts; leave out --jsonl and --early")
    if streamed:
        marked = _follow(detector, file, encoder, given_ids, values, jsonl=jsonl, early=early)
        raise typer.Exit(0 if marked else 1)
    tokens = (
        given_ids if given_ids is not None and file is None else tokens_of(file or "-", encoder)
    )
    if given_ids is not None and tokens != given_ids:
        raise ValueError(
            f"the ids in {logprobs} are not those of the text: leave out the text, or --skip the "
            "prompt's tokens"
        )
    result = detector([tokens]) if values is None else detector.detect_logprobs([tokens], [values])
    if per_token is not None:
        _write_per_token(per_token, tokens, result, encoder)
    name = detector.statistic.name if values is None else detector.log_prob_statistic.name
    typer.echo(_verdict(result, len(tokens), name, alpha))
    if not result.num_tokens_scored[0]:
        config = detector.config
        typer.echo(
            f"no token could be scored: the first {config.warmup} only lead in, and repeated "
            f"windows of {config.context_width} tokens count once",
            err=True,
        )
    raise typer.Exit(0 if result.prediction[0] else 1)


def _verdict(result: Any, num_tokens: int, statistic: str, alpha: float) -> str:
    p_value, scored = float(result.p_value[0]), int(result.num_tokens_scored[0])
    kind = {"exact": "exact", "mc": "exactly valid", "bound": "upper bound"}.get(
        result.p_value_method[0], "approximate"
    )
    found = "MARKED" if result.prediction[0] else f"not marked at alpha={alpha:g}"
    line = (
        f"{found}: p-value {p_value:.3g} ({kind}, statistic {statistic!r}); {num_tokens} tokens "
        f"read, {scored} scored, score {float(result.score[0]):.2f}, log10 e-value "
        f"{float(result.log_e_value[0]) / math.log(10):.2f}"
    )
    if scored and math.isfinite(result.efficiency[0]):
        line += f", {float(result.efficiency[0]):.0%} of what the surrogate allows"
    if result.ump_p_value[0] < 1:
        line += f"; p-value of the optimal test {float(result.ump_p_value[0]):.3g}"
    return line


def _write_per_token(path: Path, tokens: list[int], result: Any, encoder: Any) -> None:
    from modicum.core.experiment import write_atomic

    row = result.per_token[0]
    if path.suffix == ".html":
        from modicum.umpwatermark.plots import evidence_html

        words = [f"{i} " if encoder is None else encoder.decode([i]) for i in tokens]
        nats: list[float | None] = [None] * len(tokens)
        for at, value in zip(row.position.tolist(), row.score.tolist(), strict=True):
            nats[at] = value
        page = evidence_html(words, nats)
        body = f'<!doctype html><html lang="en"><meta charset="utf-8">{page}</html>'
        write_atomic(path, body)
        return
    if path.suffix != ".csv":
        raise ValueError(f"--per-token writes .csv or .html, got {path}")
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("pivot", "prob", "match", "hit")
    writer.writerow(("position", "token", "score", *names))
    columns = [getattr(row, name) for name in names]
    for s, at in enumerate(row.position.tolist()):
        values = ("" if column is None else column[s].item() for column in columns)
        writer.writerow((at, tokens[at], float(row.score[s]), *values))
    write_atomic(path, text.getvalue())


def _as_json(state: Any, token: int) -> str:
    return json.dumps(
        {
            "num_tokens": state.num_tokens,
            "token": token,
            "num_tokens_scored": state.num_tokens_scored,
            "scored": state.scored,
            "log_e_value": state.log_e_value,
            "p_value": state.p_value,
            "stopped": state.stopped,
        }
    )


def _blocks(
    source: TextIO, encoder: Any, whole: bool, values: list[float | None] | None
) -> Iterator[tuple[list[int], list[float | None] | None]]:
    """Yield tokens as they arrive, with their log-probabilities if there are any."""
    from modicum.core.watermark.adapters.documents import chunks

    at = 0
    for block in chunks(source, encoder, whole):
        part = None if values is None else values[at : at + len(block)]
        if part is not None and len(part) < len(block):
            raise ValueError(f"the text has more tokens than the {len(values or ())} scored ones")
        at += len(block)
        yield block, part
    if values is not None and at < len(values):
        raise ValueError(f"{len(values)} log-probabilities for {at} tokens")


def _follow(
    detector: Any,
    file: str | None,
    encoder: Any,
    given_ids: list[int] | None,
    values: list[float | None] | None,
    *,
    jsonl: bool,
    early: bool,
) -> bool:
    """Read token by token; print the verdict; return whether the mark was found."""
    stream = detector.stream(log_probs=values is not None)

    def push(blocks: Iterator[tuple[list[int], list[float | None] | None]]) -> None:
        for block, part in blocks:
            for token, state in zip(block, stream.push_many(block, part), strict=True):
                if jsonl:
                    typer.echo(_as_json(state, token))
                if early and state.stopped:
                    return

    if given_ids is not None and file is None:
        push(iter([(given_ids, values)]))
    elif file is None or file == "-":
        push(_blocks(sys.stdin, encoder, False, values))
    else:
        with open(file, encoding="utf-8") as source:
            push(_blocks(source, encoder, True, values))
    typer.echo(_stream_verdict(stream, detector.alpha), err=jsonl)
    return bool(stream.state.stopped)


def _stream_verdict(stream: Any, alpha: float) -> str:
    state = stream.state
    found = (
        f"MARKED after {state.stopping_time} tokens"
        if state.stopped
        else f"not marked at alpha={alpha:g}"
    )
    return (
        f"{found}: {state.num_tokens} tokens read, {state.num_tokens_scored} scored, log10 e-value "
        f"{state.log_e_value / math.log(10):.2f}, anytime-valid p-value {state.p_value:.3g}"
    )


def watch(
    record: Record = Path("wm.json"),
    key_file: KeyFile = Path("key.txt"),
    tokenizer: Tokenizer = "tiny",
    surrogate: Surrogate = None,
    window: Window = 20,
    prompt: Prompt = None,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    statistic: StatisticName = "auto",
    weights: Weights = None,
    calibration: Calibration = None,
    alpha: Alpha = 1e-3,
    ids: Ids = False,
    state_file: Annotated[
        Path | None, typer.Option(help="Saved after every chunk and resumed if it exists.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Follow standard input and report the evidence after every line, up to its last word."""
    from modicum.core.experiment import write_atomic
    from modicum.core.watermark.adapters.documents import chunks
    from modicum.umpwatermark import DetectorStream

    detector, encoder = detector_of(
        record,
        key_file,
        tokenizer=tokenizer,
        surrogate=surrogate,
        window=window,
        prompt=prompt,
        temperature=temperature,
        top_p=top_p,
        statistic=statistic,
        weights=weights,
        alpha=alpha,
        ids=ids,
        device=device,
        calibration=calibration,
    )
    stream = detector.stream()
    if state_file is not None and state_file.exists():
        try:
            stream = DetectorStream.from_json(state_file.read_text(encoding="utf-8"), detector)
        except ValueError as error:
            raise ValueError(f"{state_file}: {error}") from error
        typer.echo(f"resumed at {stream.state.num_tokens} tokens", err=True)
    announced = stream.state.stopped
    for block in chunks(sys.stdin, encoder, whole=False):
        stream.push_many(block)
        state = stream.state
        typer.echo(
            f"{state.num_tokens:8d} tokens  log10 e-value "
            f"{state.log_e_value / math.log(10):9.2f}  p-value {state.p_value:.3g}"
        )
        if state_file is not None:
            write_atomic(state_file, stream.to_json().encode())
        if state.stopped and not announced:
            announced = True
            typer.echo(f"MARKED after {state.stopping_time} tokens")
    raise typer.Exit(0 if stream.state.stopped else 1)


def scan(
    path: Annotated[
        Path, typer.Argument(help="Folder of .txt files, .jsonl or .parquet of texts.")
    ],
    record: Record = Path("wm.json"),
    key_file: KeyFile = Path("key.txt"),
    tokenizer: Tokenizer = "tiny",
    surrogate: Surrogate = None,
    window: Window = 20,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    logprobs: Annotated[
        bool,
        typer.Option(
            "--logprobs", help="PATH holds ids and log-probabilities, a response per line."
        ),
    ] = False,
    skip: Skip = 0,
    statistic: StatisticName = "auto",
    weights: Weights = None,
    calibration: Calibration = None,
    method: Annotated[
        str,
        typer.Option(
            help="'e-bh' (share of false entries, always), 'bh' (the same, sharper, for documents "
            "that share no contexts) or 'bonferroni' (no false entry)."
        ),
    ] = "e-bh",
    alpha: Annotated[float, typer.Option(help="Bound of the method.")] = 0.05,
    column: Annotated[str, typer.Option(help="Field that holds the text.")] = "text",
    out: Annotated[
        Path | None,
        typer.Option(help="JSON-lines file: written as it goes, resumed if it exists."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Scan many documents for one key; list the marked ones with a bounded share of errors."""
    from modicum.core.watermark.adapters.documents import documents
    from modicum.core.watermark.responses import encode_text
    from modicum.umpwatermark.integrations.logprob_files import read_logprobs
    from modicum.umpwatermark.integrations.scanning import METHODS, ScanFile, unique_names

    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {METHODS}")
    detector, encoder = detector_of(
        record,
        key_file,
        tokenizer=tokenizer,
        surrogate=surrogate,
        window=window,
        temperature=1.0 if logprobs else temperature,
        top_p=top_p,
        statistic=statistic,
        weights=weights,
        alpha=alpha,
        ids=logprobs,
        device=device,
        calibration=calibration,
    )
    named: list[tuple[str, Any]]
    if logprobs:
        rows = read_logprobs(path, start=skip, temperature=temperature)
        if any(row.ids is None for row in rows):
            raise ValueError(f"{path}: every response needs its token ids, a list called 'ids'")
        named = [(row.name, [row.ids, row.logprobs]) for row in rows]
        used = detector.log_prob_statistic
    else:
        named = list(documents(path, column, "modicum-umpwatermark"))
        used = detector.statistic
    settings = {
        "record": json.loads(detector.config.record().to_json()),
        "statistic": used.description(),
        "surrogate": "logprobs" if logprobs else getattr(detector.surrogate, "fingerprint", None),
        "temperature": temperature,
        "top_p": top_p,
    }
    seen: set[int] = set()
    shared = 0

    def note_contexts(document: Any) -> None:
        nonlocal shared
        if method == "bh":
            tokens = document[0] if logprobs else encode_text(document, encoder)
            _, contexts, scored = detector.positions(tokens)
            mine = {hash(row.tobytes()) for row in contexts[scored]}
            shared += len(mine & seen)
            seen.update(mine)

    def read(document: Any) -> dict[str, Any]:
        note_contexts(document)
        if logprobs:
            result = detector.detect_logprobs([document[0]], [document[1]])
        else:
            result = detector([encode_text(document, encoder)])
        return {
            "p_value": float(result.p_value[0]),
            "log_e_value": float(result.log_e_value[0]),
            "log10_e_value": float(result.log_e_value[0]) / math.log(10),
            "num_tokens_scored": int(result.num_tokens_scored[0]),
            "score": float(result.score[0]),
        }

    if not named:
        raise ValueError(f"{path} holds no documents")
    file = ScanFile(out, settings)
    lines = file.run(progress(list(unique_names(named)), "reading"), read, on_kept=note_contexts)
    marked = set(file.close(method, alpha, lines))
    if shared:
        typer.echo(
            f"{shared} contexts occur in more than one document, so that 'bh' does not bound the "
            "share of false entries; use --method e-bh",
            err=True,
        )
    if out is None:
        for line in lines:
            mark = "marked" if line["id"] in marked else "-"
            typer.echo(
                f"{mark:7s} p {line['p_value']:8.2e}  log10 e {line['log10_e_value']:8.2f}  "
                f"{line['id']}"
            )
    again = sum(name in file.finished for name, _ in unique_names(named))
    kept = f", {again} of them read before" if again else ""
    typer.echo(
        f"{len(marked)} of {len(lines)} documents marked ({method}, alpha={alpha:g}){kept}",
        err=True,
    )
    raise typer.Exit(0 if marked else 1)


def calibrate(
    path: Annotated[
        Path, typer.Argument(help="Marked texts: folder of .txt files, .jsonl or .parquet.")
    ],
    out: Annotated[Path, typer.Option(help="Table to write (.npz).")] = Path("calibration.npz"),
    record: Record = Path("wm.json"),
    key_file: KeyFile = Path("key.txt"),
    tokenizer: Tokenizer = "tiny",
    column: Annotated[str, typer.Option(help="Field that holds the text.")] = "text",
) -> None:
    """Fit the table of statistic 'learned' to marked texts, which must not be tested with it."""
    from modicum.core.watermark.adapters.documents import documents
    from modicum.core.watermark.responses import encode_text
    from modicum.umpwatermark import CalibrationTable
    from modicum.umpwatermark.evidence import Evidence

    detector, encoder = detector_of(
        record, key_file, tokenizer=tokenizer, alpha=0.5, device="cpu", statistic="binomial"
    )
    named = list(documents(path, column, "modicum-umpwatermark"))
    read = [
        detector.read(encode_text(text, encoder)).evidence for _, text in progress(named, "reading")
    ]
    pooled = Evidence.concatenate(read)
    if not len(pooled):
        raise ValueError(f"{path} holds no token that can be scored")
    CalibrationTable.fit(pooled.y_S).save(out)
    p_value = detector.statistic.p_value(pooled)
    typer.echo(
        f"wrote {out} from {len(pooled)} tokens of {len(named)} texts (p-value of all together, by "
        f"counts: {p_value:.2g})"
    )
    if p_value > UNMARKED:
        typer.echo(
            "these texts hardly look marked with this key; a table of unmarked text finds nothing",
            err=True,
        )
