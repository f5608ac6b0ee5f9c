"""Files of log-probabilities: one JSON value per line, in any of the forms that engines write.

Takes a path; gives responses with one natural logarithm per token, and their token ids where the
file holds them. The forms:

* a line per token of a single response: ``-0.31``, or ``{"id": 5, "logprob": -0.31}``; ``null``
  where the first is unknown;
* a line per response: ``[-0.31, …]``, or ``{"ids": […], "logprobs": […]}``;
* a line per response as engines return it: ``{"prompt_token_ids": […], "prompt_logprobs": […]}`` of
  vLLM, or ``{"ids": […], "logprobs": {…}}`` with the ``logprobs`` of OpenAI-compatible servers.

Only log-probabilities taken before a watermark was applied may be used; see `logprobs`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modicum.umpwatermark.integrations.logprobs import (
    token_logprobs_from_openai,
    token_logprobs_from_prompt_logprobs,
)

__all__ = ["ScoredResponse", "read_logprobs"]

ID_NAMES = ("ids", "token_ids", "prompt_token_ids")
LOGPROB_NAMES = ("logprobs", "token_logprobs")


@dataclass(frozen=True)
class ScoredResponse:
    """One response of a file.

    Attributes
    ----------
    name
        The field ``id`` of its line, or the number of the line.
    ids
        Token ids ``[T]``, or None if the file does not hold them.
    logprobs
        Natural logs ``[T]``; the first may be None.
    """

    name: str
    ids: list[int] | None
    logprobs: list[float | None]


def read_logprobs(
    path: str | Path, *, start: int = 0, temperature: float = 1.0
) -> list[ScoredResponse]:
    """Read a file of log-probabilities.

    Parameters
    ----------
    path
        JSON lines, see the module.
    start
        Tokens to leave out in front of each response, for instance those of its prompt.
    temperature
        Temperature of the generation; another one than 1 needs the alternatives of an engine's
        form.

    Returns
    -------
    list of ScoredResponse

    Raises
    ------
    ValueError
        Naming file and line, if a line is none of the forms or the file is empty.
    """
    if start < 0:
        raise ValueError(f"the tokens to leave out must be at least 0, got {start}")
    tokens: list[tuple[int | None, float | None]] = []
    found: list[ScoredResponse] = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{where} is not JSON: {error}") from error
            if _is_token(row):
                tokens.append(_token(row, where))
            else:
                found.append(_response(row, str(number), where, start, temperature))
            if tokens and found:
                raise ValueError(f"{where}: some lines hold one token and others a whole response")
    if tokens:
        if temperature != 1:
            raise ValueError(
                f"temperature {temperature:g} needs the alternatives of each token; {path} holds "
                "log-probabilities of single tokens"
            )
        ids = [token for token, _ in tokens if token is not None]
        if ids and len(ids) < len(tokens):
            raise ValueError(f"{path}: some tokens have an id and others have none")
        logprobs = [logprob for _, logprob in tokens][start:]
        return [ScoredResponse(Path(path).name, ids[start:] if ids else None, logprobs)]
    if not found:
        raise ValueError(f"{path} holds no log-probabilities")
    return found


def _is_token(row: Any) -> bool:
    if isinstance(row, Mapping):
        return "logprob" in row
    return row is None or isinstance(row, int | float)


def _number(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where}: a log-probability must be a number, got {value!r}")
    return float(value)


def _token(row: Any, where: str) -> tuple[int | None, float | None]:
    if not isinstance(row, Mapping):
        return None, _number(row, where)
    token = row.get("id", row.get("token_id"))
    return None if token is None else _ids([token], where)[0], _number(row["logprob"], where)


def _ids(values: Any, where: str) -> list[int]:
    if not isinstance(values, list) or any(type(value) is not int for value in values):
        raise ValueError(f"{where}: token ids must be a list of integers")
    return values


def _response(row: Any, number: str, where: str, start: int, temperature: float) -> ScoredResponse:
    if isinstance(row, list):
        row = {"logprobs": row}
    if not isinstance(row, Mapping):
        raise ValueError(f"{where}: expected log-probabilities, got {row!r}")
    name = str(row.get("id", number))
    ids = next((_ids(row[key], where) for key in ID_NAMES if key in row), None)
    try:
        if "prompt_logprobs" in row:
            if ids is None:
                raise ValueError("prompt_logprobs need prompt_token_ids beside them")
            scored: list[float | None] = token_logprobs_from_prompt_logprobs(
                row["prompt_logprobs"], ids, start, temperature=temperature
            ).tolist()
            # An engine does not score the first token of a text.
            if start == 0 and scored:
                scored[0] = None
            return ScoredResponse(name, ids[start:], scored)
        given = next((row[key] for key in LOGPROB_NAMES if key in row), None)
        if isinstance(given, Mapping):
            scored = token_logprobs_from_openai(given, start, temperature=temperature).tolist()
        elif isinstance(given, list):
            if temperature != 1:
                raise ValueError(
                    f"temperature {temperature:g} needs the alternatives of each token"
                )
            scored = [_number(value, where) for value in given][start:]
        else:
            raise ValueError(f"no field called {', '.join(LOGPROB_NAMES)} or prompt_logprobs")
    except (TypeError, ValueError) as error:
        text = str(error)
        raise ValueError(text if text.startswith(where) else f"{where}: {text}") from error
    kept = None if ids is None else ids[start:]
    if kept is not None and len(kept) != len(scored):
        raise ValueError(f"{where}: {len(scored)} log-probabilities for {len(kept)} ids")
    return ScoredResponse(name, kept, scored)
