"""How commands read prompts, reference answers, extractors and verifiers."""

import importlib
import json
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from modicum.testtime import equality, extract
from modicum.testtime.samples import Prompt

EXTRACTORS = (
    "last-number, boxed, after:TEXT, choice[:LETTERS], regex:PATTERN, json:PATH, math, text"
)
EQUALITIES = "exact, casefold, numeric, math"


def extractor_of(text: str, strip_think: bool = False) -> Callable[[str], Any]:
    """Return the extractor that a text names.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    name, _, rest = text.partition(":")
    makers: dict[str, Callable[[], Any]] = {
        "last-number": extract.last_number,
        "boxed": extract.boxed,
        "after": lambda: extract.after(rest),
        "choice": lambda: extract.choice(rest or "ABCDE"),
        "regex": lambda: extract.regex(rest),
        "json": lambda: extract.json_path(rest),
        "math": extract.math,
        "text": extract.identity,
    }
    if name not in makers or (name in ("after", "regex", "json") and not rest):
        raise ValueError(f"an extractor is one of {EXTRACTORS}; not {text!r}")
    found = makers[name]()
    return extract.strip_think(found) if strip_think else found


def equality_of(text: str, extractor: Any) -> Any:
    """Return the equality that a text names; "math" is that of a math extractor if there is one."""
    if text == "math":
        return getattr(extractor, "equal", None) or equality.math_verify()
    makers: dict[str, Callable[[], Any]] = {
        "exact": lambda: equality.exact,
        "casefold": lambda: equality.casefold,
        "numeric": equality.numeric,
    }
    if text not in makers:
        raise ValueError(f"an equality is one of {EQUALITIES}; not {text!r}")
    return makers[text]()


class PromptFile(NamedTuple):
    """Prompts by id, and the reference answers of those that have one."""

    prompts: dict[str, Prompt]
    answers: dict[str, Any]


def json_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Return the objects of a file of JSON lines with their line numbers; blank lines are skipped.

    Raises
    ------
    ValueError
        Naming file and line of what is no JSON object.
    """
    found = []
    # Not splitlines: JSON may hold line separators such as U+2028 as they are.
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(value, dict):
            raise ValueError(f"{path}, line {number}: an object is needed, not {line:.60}")
        found.append((number, value))
    return found


def read_prompts(path: Path) -> PromptFile:
    """Read prompts: JSON lines with ``prompt``, ``question`` or ``messages``, ``id``, ``answer``.

    Raises
    ------
    ValueError
        Naming the line without a prompt or with an id that was there before.
    """
    prompts: dict[str, Prompt] = {}
    answers: dict[str, Any] = {}
    for number, row in json_lines(path):
        names = [name for name in ("prompt", "question", "messages") if name in row]
        if len(names) != 1:
            raise ValueError(
                f"{path}, line {number}: exactly one of prompt, question and messages is needed, "
                f"not {names or sorted(row)}"
            )
        prompt_id = str(row.get("id", row.get("prompt_id", len(prompts))))
        if prompt_id in prompts:
            raise ValueError(f"{path}, line {number}: the id {prompt_id!r} was there before")
        prompts[prompt_id] = row[names[0]]
        if row.get("answer") is not None:
            answers[prompt_id] = row["answer"]
    if not prompts:
        raise ValueError(f"{path} has no prompts")
    return PromptFile(prompts, answers)


def read_answers(path: Path) -> dict[str, Any]:
    """Read reference answers: JSON lines with ``id`` (or ``prompt_id``) and ``answer``."""
    answers: dict[str, Any] = {}
    for number, row in json_lines(path):
        prompt_id = row.get("prompt_id", row.get("id"))
        if row.get("answer") is None:
            continue
        answers[str(len(answers) if prompt_id is None else prompt_id)] = row["answer"]
        if prompt_id is None and len(answers) != number:
            raise ValueError(f"{path}, line {number}: without id, every line needs an answer")
    if not answers:
        raise ValueError(f"{path} has no answers")
    return answers


def reference_key(answer: Any, extractor: Any, canonical: Any) -> Hashable:
    """Return a reference answer as the key that a right sample has.

    It goes through the extractor where that finds an answer in it, and stands as it is otherwise.
    """
    if isinstance(answer, str):
        found = extractor(answer)
        answer = answer if found is None else found
    key = canonical(answer)
    if key is None:
        raise ValueError(f"the reference {answer!r} is no answer")
    return key


def object_of(text: str, what: str) -> Any:
    """Import ``module:name``.

    Raises
    ------
    ValueError
        If the text is not of that form or there is no such name.
    """
    module, colon, name = text.partition(":")
    if not colon or not module or not name:
        raise ValueError(f"{what} is given as module:name, not {text!r}")
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError:
        raise ValueError(f"{module} has no {name!r}") from None
    except ModuleNotFoundError as error:
        raise ValueError(f"{what}: {error}") from error


def by_prompt(file: PromptFile) -> list[tuple[Prompt, Any]]:
    """Return pairs of prompt and reference, for a verifier that compares with references."""
    missing = [prompt_id for prompt_id in file.prompts if prompt_id not in file.answers]
    if missing:
        raise ValueError(
            f"a verifier that compares needs an answer for every prompt; {missing[0]!r} has none"
        )
    return [(prompt, file.answers[prompt_id]) for prompt_id, prompt in file.prompts.items()]


def accuracy(answers: Mapping[str, Hashable | None], references: Mapping[str, Hashable]) -> float:
    """Return the share of prompts with a reference whose answer is that reference."""
    return sum(answers[name] == key for name, key in references.items()) / len(references)
