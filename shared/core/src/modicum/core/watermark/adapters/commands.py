"""What the command lines of the watermark packages have in common.

Takes paths, names and experiments; prints with typer and gives objects. Errors are left to
`modicum.core.cli.method_main`, which turns them into one line. Knows no scheme.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import typer

from modicum.core.experiment import Experiment, Result, run_experiments, write_atomic
from modicum.core.watermark.record import WatermarkRecord, generate_key, save_key, tokenizer_hash

__all__ = [
    "cell",
    "check_prf_vectors",
    "record_tokenizer",
    "run_sample",
    "run_simulation",
    "show_record",
    "text_laws",
    "write_key",
]

LAW_TOKENS = 512
"""Tokens of a text at which laws are computed."""

VERDICT = {True: "holds", False: "FAILS", None: "open"}


def cell(value: Any) -> str:
    """Write a value of a result for a line of a terminal."""
    if value is None:
        return "-"
    if isinstance(value, tuple | list):
        return " to ".join(cell(part) for part in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_key(path: Path) -> None:
    """Write a new key, readable by its owner only, and print its id.

    Raises
    ------
    FileExistsError
        If there is such a file: a key is never overwritten.
    """
    from modicum.core.prf import key_id

    key = generate_key()
    save_key(path, key)
    typer.echo(f"wrote {path} (key id {key_id(key)})")


def show_record(path: Path, known_prfs: Mapping[str, int] | None = None) -> None:
    """Print a record after checking that this release can read it."""
    typer.echo(WatermarkRecord.load(path, known_prfs=known_prfs).to_json())


def record_tokenizer(record: WatermarkRecord, name: str) -> Any:
    """Load a tokenizer and check that it is the one of the record.

    Parameters
    ----------
    record
        The record; one without tokenizer fits any.
    name
        As in `modicum.core.watermark.adapters.loading.load_tokenizer`.

    Raises
    ------
    ValueError
        If it is another tokenizer.
    """
    from modicum.core.watermark.adapters.loading import load_tokenizer

    tokenizer = load_tokenizer(name)
    found = tokenizer_hash(tokenizer)
    if record.tokenizer_hash not in (None, found):
        raise ValueError(
            f"the record was made with tokenizer {record.tokenizer_hash}, {name!r} is {found}; "
            "give the folder of the right one with --tokenizer"
        )
    return tokenizer


def text_laws(
    text: Path,
    model: str,
    anchor: str | None,
    *,
    window: int = 20,
    temperature: float = 1.0,
    device: str = "auto",
) -> tuple[Any, Any]:
    """Compute the laws of a model, and of an anchor, at the first positions of a text.

    Parameters
    ----------
    text
        Text file; its first `LAW_TOKENS` tokens are read.
    model
        As in `modicum.core.watermark.adapters.loading.load_model`, with the tokenizer beside it.
    anchor
        As in `modicum.core.watermark.adapters.loading.load_anchor`; ``None`` for no anchor.
    window
        Tokens that a language-model anchor reads.
    temperature
        Temperature of the model.
    device
        Where both run.

    Returns
    -------
    target_NV, anchor_NV
        float64 ``[N, V]``, normalised; the second is None without an anchor.

    Raises
    ------
    ValueError
        If the text has fewer than two tokens.
    """
    import numpy as np

    from modicum.core.watermark.adapters.loading import load_anchor, load_model, load_tokenizer
    from modicum.core.watermark.anchors import iter_sequence_log_probs
    from modicum.core.watermark.causal_lm import SelfAnchor

    tokenizer = load_tokenizer(model)
    vocab_size = len(tokenizer)
    ids = tokenizer.encode(text.read_text(encoding="utf-8"), add_special_tokens=False)
    ids = ids[:LAW_TOKENS]
    if len(ids) < 2:
        raise ValueError(f"{text} has fewer than two tokens")
    target = SelfAnchor(load_model(model, device), vocab_size=vocab_size, temperature=temperature)
    sources: list[Any] = [target]
    if anchor is not None:
        sources.append(load_anchor(anchor, vocab_size, window=window, device=device))
    laws: list[Any] = []
    for source in sources:
        blocks = [np.asarray(law) for _, law in iter_sequence_log_probs(source, ids)]
        law_NV = np.exp(np.concatenate(blocks).astype(np.float64))
        laws.append(law_NV / law_NV.sum(1, keepdims=True))
    return laws[0], laws[1] if anchor is not None else None


def check_prf_vectors() -> None:
    """Compute the published vectors of `modicum.core.prf` on this machine and say so.

    Raises
    ------
    ValueError
        Naming the first vector that does not agree.
    """
    from importlib.resources import files

    import numpy as np

    from modicum.core.prf import make_prf

    vectors = json.loads((files("modicum.core") / "vectors" / "prf_v1.json").read_text())
    for vector in vectors["vectors"]:
        key = vector["key"]
        prf = make_prf(
            vector["prf"],
            bytes.fromhex(key["hex"]) if isinstance(key, dict) else key,
            vector["domain"],
        )
        state = prf.context_state(np.array(vector["context"], dtype=np.int64))
        if prf.words_range(state, 8).tolist() != vector["words"]:
            raise ValueError(f"the PRF gives other words than published for {vector}")
    typer.echo(f"PRF version {vectors['version']}: {len(vectors['vectors'])} vectors agree")


def run_simulation(
    experiments: Iterable[Experiment], name: str, out: Path, *, quick: bool, seed: int
) -> Result:
    """Run one experiment, write its tables as CSV and its figures as SVG, print its claims.

    Parameters
    ----------
    experiments
        Where the name is looked up.
    name
        Name of an experiment.
    out
        Folder for result, tables and figures.
    quick, seed
        As in `modicum.core.experiment.run_experiments`.

    Raises
    ------
    ValueError
        If there is no such experiment, or it failed.
    """
    known = list(experiments)
    wanted = [experiment for experiment in known if experiment.name == name]
    if not wanted:
        names = ", ".join(experiment.name for experiment in known)
        raise ValueError(f"no simulation is called {name!r}; there are {names}")
    (result,) = run_experiments(wanted, out, quick=quick, seed=seed)
    if result.error:
        raise ValueError(result.error)
    for number, table in enumerate(result.tables, 1):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([table.columns, *table.rows])
        write_atomic(out / f"{name}-{number}.csv", text.getvalue())
    for number, figure in enumerate(result.figures, 1):
        if figure.svg is not None:
            write_atomic(out / f"{name}-{number}.svg", figure.svg)
    for claim in result.claims:
        typer.echo(
            f"{VERDICT[claim.holds]:6s} {claim.statement}: {cell(claim.measured)} {claim.unit}"
        )
    return result


def run_sample(
    experiments: Iterable[Experiment], out: Path, *, quick: bool, seed: int, device: str
) -> bool:
    """Run the experiment called ``sample`` and print its text, tables and claims.

    Returns
    -------
    bool
        Whether no claim failed.

    Raises
    ------
    ValueError
        If the experiment failed.
    """
    from modicum.core.device import resolve_device

    (result,) = run_experiments(
        [experiment for experiment in experiments if experiment.name == "sample"],
        out,
        quick=quick,
        seed=seed,
        device=resolve_device(device),
        resume=False,
    )
    typer.echo(result.text)
    for table in result.tables:
        typer.echo("\n" + " | ".join(table.columns))
        for row in table.rows:
            typer.echo(" | ".join(cell(value) for value in row))
    for claim in result.claims:
        typer.echo(f"{VERDICT[claim.holds]:6s} {claim.statement}")
    if result.error:
        raise ValueError(result.error)
    return all(claim.holds is not False for claim in result.claims)
