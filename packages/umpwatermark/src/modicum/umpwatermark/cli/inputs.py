"""What a user names, as objects: keys, records, detectors, texts, laws and entropy profiles.

Takes the values of options; gives what the commands call. Errors are sentences for the user.
"""

import sys
from pathlib import Path
from typing import Any

import typer


def numbers_of(text: str, what: str) -> list[float]:
    """Read numbers with commas between them."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{what} must be numbers with commas, got {text!r}") from None


def read_file(file: str) -> str:
    """Read a text file, or standard input for ``-``."""
    return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")


def key_of(key_file: Path, prf: str) -> Any:
    """Read a key file for a PRF."""
    from modicum.umpwatermark.config import ENGINE_KEY_BITS
    from modicum.umpwatermark.integrations.loading import load_watermark_key

    if not key_file.exists():
        raise FileNotFoundError(
            f"there is no key file {key_file}; name it with --key-file, or write a new key with "
            f"'modicum-umpwatermark keygen {key_file}'"
        )
    try:
        return load_watermark_key(key_file, prf)
    except ValueError as error:
        if prf not in ENGINE_KEY_BITS:
            raise
        raise ValueError(
            f"{key_file}: {error}; a file for it holds the engine's integer, see "
            f"'modicum-umpwatermark keygen --prf {prf}'"
        ) from error


def record_of(record: Path) -> Any:
    """Read a record of this package's scheme."""
    from modicum.core.watermark.record import WatermarkRecord
    from modicum.umpwatermark.config import KNOWN_PRFS, SCHEME

    if not record.exists():
        raise FileNotFoundError(
            f"there is no record {record}; name it with --record ('generate' writes one)"
        )
    return WatermarkRecord.load(record, known_prfs=KNOWN_PRFS, scheme=SCHEME)


def surrogate_of(
    name: str, vocab_size: int, tokenizer: str, window: int, prompt: str | None, device: str
) -> Any:
    """Load a surrogate; with a prompt, or as 'self', one that reads everything before a token."""
    from modicum.core.watermark.adapters.loading import load_anchor, load_model, load_tokenizer

    if name != "self" and (prompt is None or not Path(name).is_dir()):
        if prompt is not None:
            raise ValueError(
                f"--prompt is read by a model that sees the whole text: --surrogate self or a "
                f"model's folder, not {name!r}"
            )
        return load_anchor(name, vocab_size, window=window, device=device)
    from modicum.core.watermark.adapters.loading import prompt_ids
    from modicum.core.watermark.causal_lm import SelfAnchor

    source = tokenizer if name == "self" else name
    model = load_model(source, device)
    before = prompt_ids(model, load_tokenizer(source), prompt or "")
    return SelfAnchor(model, before, vocab_size=vocab_size)


def table_of(path: Path) -> Any:
    """Read a calibration table."""
    from modicum.umpwatermark import CalibrationTable

    try:
        return CalibrationTable.load(path)
    except ValueError as error:
        # NumPy's own sentence about a file of another kind recommends to unpickle it.
        raise ValueError(
            f"{path} is not a calibration table as 'modicum-umpwatermark calibrate' writes it"
        ) from error


def detector_of(
    record: Path,
    key_file: Path,
    *,
    tokenizer: str,
    alpha: float,
    device: str,
    surrogate: str | None = None,
    window: int = 20,
    prompt: str | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    statistic: str = "auto",
    weights: str | None = None,
    calibration: Path | None = None,
    ids: bool = False,
    **options: Any,
) -> tuple[Any, Any]:
    """Build the detector of a record, and the tokenizer unless the input is ids."""
    from modicum.core.watermark.adapters.commands import record_tokenizer
    from modicum.umpwatermark import UMPWatermarkConfig, UMPWatermarkDetector, Warper
    from modicum.umpwatermark.theory import check_alpha

    check_alpha(alpha)
    filed = record_of(record)
    key = key_of(key_file, filed.prf)
    aware = filed.parameters.get("sampler") == "ump-aware"
    if surrogate is None:
        surrogate = "tiny" if aware else "none"
    if prompt is not None and surrogate == "none":
        raise ValueError("--prompt is read by a surrogate; give --surrogate self")
    law = None
    if surrogate != "none":
        vocab_size = int(filed.parameters.get("vocab_size", 0))
        law = surrogate_of(surrogate, vocab_size, tokenizer, window, prompt, device)
    try:
        config = UMPWatermarkConfig.from_record(filed, key, law if aware else None)
    except ValueError as error:
        hint = ""
        if "key_id" in str(error):
            hint = f" (is {key_file} the right key file?)"
        elif "anchor_fingerprint" in str(error):
            hint = " (pass --surrogate and --window as at generation)"
        raise ValueError(f"{record}: {error}{hint}") from error
    # Before the text is read, so that a wrong tokenizer is found out first.
    encoder = None if ids else record_tokenizer(filed, tokenizer)
    warper = None
    if (temperature, top_p) != (1.0, 1.0):
        warper = Warper(temperature=temperature, top_p=top_p)
    given: Any = None
    if weights is not None:
        parts = numbers_of(weights, "--weights")
        given = parts[0] if len(parts) == 1 else tuple(parts)
    detector = UMPWatermarkDetector(
        config,
        alpha,
        law,
        statistic,
        given,
        surrogate_warper=warper,
        calibration=None if calibration is None else table_of(calibration),
        **options,
    )
    return detector, encoder


def tokens_of(file: str, encoder: Any) -> list[int]:
    """Read token ids, or text and tokenise it."""
    from modicum.core.watermark.adapters.documents import numbers
    from modicum.core.watermark.responses import encode_text

    text = read_file(file)
    if encoder is None:
        return numbers(text)
    if text.strip() and not text.strip().strip("0123456789,[] \t\r\n"):
        typer.echo("the input looks like token ids and is read as text; add --ids", err=True)
    return encode_text(text, encoder)


def scored_of(
    logprobs: Path, skip: int, temperature: float, top_p: float
) -> tuple[list[int] | None, list[float | None]]:
    """Read the log-probabilities of the one response of a file."""
    from modicum.umpwatermark.integrations.logprob_files import read_logprobs

    if top_p != 1:
        raise ValueError("--top-p cannot be applied to log-probabilities of single tokens")
    rows = read_logprobs(logprobs, start=skip, temperature=temperature)
    if len(rows) != 1:
        raise ValueError(
            f"{logprobs} holds {len(rows)} responses; detect reads one, scan --logprobs reads all"
        )
    return rows[0].ids, rows[0].logprobs


def profile_of(
    h: float | None,
    logprobs: Path | None,
    text: Path | None,
    *,
    model: str,
    surrogate: str | None,
    window: int,
    temperature: float,
    skip: int,
    device: str,
) -> Any:
    """Build the entropy profile that the options describe."""
    from modicum.umpwatermark import EntropyProfile

    if sum(x is not None for x in (h, logprobs, text)) != 1:
        raise ValueError("describe the text by exactly one of --h, --logprobs and --text")
    if text is None and surrogate is not None:
        raise ValueError("--surrogate goes with --text")
    if h is not None:
        return EntropyProfile.from_entropy(h)
    if logprobs is not None:
        from modicum.umpwatermark.integrations.logprob_files import read_logprobs

        rows = read_logprobs(logprobs, start=skip, temperature=temperature)
        values = [value for row in rows for value in row.logprobs if value is not None]
        return EntropyProfile.from_logprobs(values)
    from modicum.core.watermark.adapters.commands import text_laws

    assert text is not None
    laws, other = text_laws(
        text,
        model,
        None if surrogate in (None, "none") else surrogate,
        window=window,
        temperature=temperature,
        device=device,
    )
    return EntropyProfile.from_laws(laws, surrogate_BV=other, label=f"{len(laws)} laws of {model}")


def scheme_names(schemes: str) -> Any:
    """Read names of planned schemes; hyphens will do for underscores."""
    from modicum.umpwatermark.schemes import SCHEMES

    names = [name.strip().replace("-", "_") for name in schemes.split(",")]
    unknown = [name for name in names if name not in SCHEMES and name != "all"]
    if unknown:
        raise ValueError(f"unknown schemes {unknown}; choose 'all' or among {list(SCHEMES)}")
    return "all" if "all" in names else names


def law_of(law: list[float] | None, file: Path | None) -> Any:
    """Read a law from arguments or from a file of numbers."""
    import numpy as np

    from modicum.umpwatermark.theory import check_law

    if bool(law) == (file is not None):
        raise ValueError("give the probabilities as arguments, or a file with --file")
    if file is not None:
        text = read_file(str(file))
        words = text.replace(",", " ").replace("[", " ").replace("]", " ").split()
        try:
            law = [float(word) for word in words]
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
    return np.asarray(check_law(law))


def symbol_law(p: str | None, num_symbols: int | None) -> list[float]:
    """Read the law of a token of a string; uniform without one."""
    if p is None:
        size = num_symbols or 2
        return [1 / size] * size
    law = numbers_of(p, "--p")
    if len(law) == 1 and num_symbols in (None, 2):
        if not 0 <= law[0] <= 1:
            raise ValueError(f"--p must lie in [0, 1], got {law[0]:g}")
        law = [1 - law[0], law[0]]
    if num_symbols is not None and len(law) != num_symbols:
        raise ValueError(f"--p has {len(law)} probabilities for {num_symbols} symbols")
    return law


def progress(items: list[Any], title: str) -> Any:
    """Show progress over items on a terminal, and nowhere else."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(items, title, console=console, disable=not console.is_terminal)
