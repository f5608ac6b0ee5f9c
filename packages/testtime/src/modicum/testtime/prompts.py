"""Prompts in the forms that users have them in.

Takes lists of texts, of chat messages, of pairs or of mappings, and gives ids with prompts. Reads
nothing and renders nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

from modicum.testtime.samples import Prompt

__all__ = ["distinct_prompts", "named_prompts"]


def named_prompts(prompts: Iterable[Any]) -> Iterator[tuple[str, Prompt]]:
    """Yield (id, prompt) of prompts in any of the forms that users have them in.

    Parameters
    ----------
    prompts
        Each a text, chat messages, an (id, prompt) pair or a mapping with "prompt" and perhaps
        "id". The default id is the position, counted from 0.

    Raises
    ------
    TypeError
        For a single text or a single chat instead of a list of them, and for anything else.
    """
    if isinstance(prompts, str | bytes | Mapping):
        raise TypeError(f"prompts must be a list of prompts, not one: [{prompts!r:.60}]")
    for position, item in enumerate(prompts):
        yield _named(position, item)


def _named(position: int, item: Any) -> tuple[str, Prompt]:
    if isinstance(item, str):
        return str(position), item
    if isinstance(item, Mapping):
        if "prompt" in item:
            name = item.get("id")
            return str(position if name is None else name), _checked_prompt(item["prompt"])
        if "role" in item:
            raise TypeError(
                "prompts must be a list of prompts; this looks like the messages of one chat,"
                " which goes into a list of its own: [messages]"
            )
        raise TypeError(f'a prompt as a mapping needs the field "prompt": {item!r:.80}')
    if isinstance(item, Sequence) and len(item) == 2 and isinstance(item[0], str | Integral):
        return str(item[0]), _checked_prompt(item[1])
    return str(position), _checked_prompt(item)


def _checked_prompt(prompt: Any) -> Prompt:
    if isinstance(prompt, str):
        return prompt
    if (
        isinstance(prompt, Sequence)
        and prompt
        and all(isinstance(message, Mapping) and "role" in message for message in prompt)
    ):
        return prompt
    raise TypeError(
        "a prompt is a text or a non-empty list of chat messages"
        f' {{"role": …, "content": …}}, not {prompt!r:.80}'
    )


def distinct_prompts(prompts: Iterable[tuple[str, Prompt]]) -> dict[str, Prompt]:
    """Return prompts by id.

    Raises
    ------
    ValueError
        If two have the same id.
    """
    named: dict[str, Prompt] = {}
    for prompt_id, prompt in prompts:
        if prompt_id in named:
            raise ValueError(f"two prompts have the id {prompt_id!r}; ids must differ")
        named[prompt_id] = prompt
    return named
