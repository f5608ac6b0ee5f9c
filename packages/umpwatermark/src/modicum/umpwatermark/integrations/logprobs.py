"""Log-probabilities that an engine returned with a text, as the array that a detector reads.

Takes what vLLM calls ``prompt_logprobs`` and what OpenAI-compatible servers call ``logprobs``, as
Python objects or as decoded JSON; gives one natural logarithm per token of the response, for
`UMPWatermarkDetector.detect_logprobs`. Any engine that scores a text it is given can so stand in
for the model, in the words of its own API. Imports no engine.

What must not be used: log-probabilities taken *after* a watermark was applied, for instance
``logprobs_mode="processed_logprobs"`` of vLLM. They depend on the key, and a p-value computed from
them would be wrong. The raw ones, which are every engine's default, depend on the text alone.

Shape suffix: T tokens of the response.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modicum.core.watermark.contexts import token_ids

__all__ = ["token_logprobs_from_openai", "token_logprobs_from_prompt_logprobs"]


def token_logprobs_from_prompt_logprobs(
    prompt_logprobs: Sequence[Mapping[Any, Any] | None],
    prompt_token_ids: ArrayLike,
    start: int = 0,
    *,
    temperature: float = 1.0,
) -> NDArray[np.float64]:
    """Read the ``prompt_logprobs`` of vLLM: the text is sent as a prompt and scored, not continued.

    Parameters
    ----------
    prompt_logprobs
        One entry per token of the prompt: ``None`` for the first, then a mapping from token id to
        its log-probability, an object or dictionary with ``logprob``, or a number. In Python
        ``RequestOutput.prompt_logprobs``; in a server's JSON the ids are strings.
    prompt_token_ids
        The ids that were scored, int ``[P]``: ``RequestOutput.prompt_token_ids``.
    start
        Where the response begins in them. Its own prompt in front of it makes a better surrogate;
        without one (0) the first token is predicted by nothing.
    temperature
        Temperature of the generation. Engines score at temperature 1; at another one each
        log-probability is divided by it and normalised over the alternatives that were returned
        with the token, so ask for some (``prompt_logprobs=20``). What they leave out of the law is
        neglected, which is small below 1.

    Returns
    -------
    float64[T]
        Natural logs, ``T = P - start``. The first token of a prompt gets 0 (probability one), which
        is no evidence either way.

    Raises
    ------
    TypeError
        If an entry is not as described.
    ValueError
        If the lengths differ, ``start`` lies outside the text, the temperature is not positive, or
        an entry lacks its token.

    Examples
    --------
    >>> entries = [None, {7: -0.5, 9: -1.2}, {"4": {"logprob": -2.0, "rank": 3}}]
    >>> token_logprobs_from_prompt_logprobs(entries, [5, 7, 4], start=1).tolist()
    [-0.5, -2.0]
    """
    ids = token_ids(prompt_token_ids)
    if prompt_logprobs is None:
        raise TypeError("there are no prompt_logprobs; ask for them with prompt_logprobs=0 or more")
    if len(prompt_logprobs) != len(ids):
        raise ValueError(f"{len(prompt_logprobs)} entries of prompt_logprobs but {len(ids)} ids")
    if not 0 <= start <= len(ids):
        raise ValueError(f"start must lie in [0, {len(ids)}], got {start}")
    _check_temperature(temperature)
    found = np.zeros(len(ids) - start)
    for position in range(start, len(ids)):
        entry = prompt_logprobs[position]
        # Flat containers give an empty mapping where lists hold None.
        if position == 0 and not entry:
            continue
        if not isinstance(entry, Mapping):
            raise TypeError(
                f"entry {position} of prompt_logprobs must map token ids to log-probabilities, got "
                f"{type(entry).__name__}"
            )
        alternatives = {int(token): _logprob(value) for token, value in entry.items()}
        token = int(ids[position])
        if token not in alternatives:
            raise ValueError(
                f"entry {position} of prompt_logprobs has no token {token}; are the ids those that "
                "were scored?"
            )
        found[position - start] = _at_temperature(
            alternatives[token], alternatives.values(), temperature
        )
    return found


def token_logprobs_from_openai(
    logprobs: Any, start: int = 0, *, temperature: float = 1.0
) -> NDArray[np.float64]:
    """Read the ``logprobs`` of a choice in the responses of OpenAI-compatible servers.

    Parameters
    ----------
    logprobs
        ``choice.logprobs`` of a completion (``token_logprobs``, ``top_logprobs``; with
        ``echo=True`` it covers the prompt) or of a chat completion (``content``), as an object or
        as a dictionary.
    start
        Tokens to leave out in front, for instance those of an echoed prompt.
    temperature
        As in `token_logprobs_from_prompt_logprobs`; needs ``top_logprobs``.

    Returns
    -------
    float64[T]
        Natural logs, one per token; 0 where the server sent ``null`` (the first token of a text).

    Raises
    ------
    TypeError
        If it is neither of the two forms.
    ValueError
        If ``start`` lies outside the text, the temperature is not positive, or another temperature
        than 1 is asked for without alternatives.

    Notes
    -----
    The ids come from elsewhere: the engine's own (vLLM: ``return_tokens_as_token_ids``), or the
    tokenizer. They must be as many as there are log-probabilities.
    """
    _check_temperature(temperature)
    content, flat = _field(logprobs, "content"), _field(logprobs, "token_logprobs")
    if content is not None:
        own = [_field(item, "logprob") for item in content]
        tops = [
            [_field(top, "logprob") for top in _field(item, "top_logprobs") or ()]
            for item in content
        ]
        names = [
            [_field(top, "token") for top in _field(item, "top_logprobs") or ()] for item in content
        ]
        tokens = [_field(item, "token") for item in content]
    elif flat is not None:
        own = list(flat)
        listed = _field(logprobs, "top_logprobs") or [None] * len(own)
        tops = [list((top or {}).values()) for top in listed]
        names = [list((top or {}).keys()) for top in listed]
        tokens = list(_field(logprobs, "tokens") or [None] * len(own))
    else:
        raise TypeError(
            f"logprobs must be those of a completion (token_logprobs) or of a chat completion "
            f"(content), got {type(logprobs).__name__}"
        )
    if not 0 <= start <= len(own):
        raise ValueError(f"start must lie in [0, {len(own)}], got {start}")
    found = np.zeros(len(own) - start)
    for position in range(start, len(own)):
        if own[position] is None:
            continue
        value = _logprob(own[position])
        alternatives = list(tops[position])
        if temperature != 1 and not alternatives:
            raise ValueError(
                f"temperature {temperature} needs top_logprobs with every token, and token "
                f"{position} has none"
            )
        if tokens[position] not in names[position]:
            alternatives.append(value)
        found[position - start] = _at_temperature(value, alternatives, temperature)
    return found


def _check_temperature(temperature: float) -> None:
    if not (0 < temperature < math.inf):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _logprob(value: Any) -> float:
    found = value if isinstance(value, int | float) else _field(value, "logprob")
    if isinstance(found, bool) or not isinstance(found, int | float | np.floating):
        raise TypeError(f"a log-probability must be a number, got {type(value).__name__}")
    return float(found)


def _at_temperature(value: float, alternatives: Iterable[float], temperature: float) -> float:
    if temperature == 1:
        return value
    scaled = np.array([_logprob(other) for other in alternatives]) / temperature
    highest = scaled.max()
    return min(0.0, value / temperature - highest - math.log(np.exp(scaled - highest).sum()))
