"""Prompts of experts and of revisions: what a model is shown of a task and of earlier attempts.

Takes prompts (texts or chat messages) and attempts, gives prompts. It calls no model, and what it
shows of a reward is the number and whether the verifier accepted; text of a verifier's own is shown
only where an attempt carries it.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from modicum.testtime.samples import Prompt

__all__ = ["Attempt", "PromptTemplate", "ReviseTemplate", "View", "expert_prompt", "revise_prompt"]

View = Literal["none", "last", "all", "feedback_only"]
"""What an expert sees of the attempts before: nothing, the last one, all, or no more than what the
verifier said of each."""

PromptTemplate = str | Callable[[Prompt], Prompt]
"""A text with the field ``{prompt}``, or a function of the prompt."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An earlier answer to a prompt.

    Attributes
    ----------
    round
        From 1.
    expert
        Name of the expert.
    text
        Its answer.
    reward
        The verifier's reward, None if it gave none.
    accepted
        Whether the reward was enough.
    feedback
        Text of the verifier; empty: the reward speaks.
    """

    round: int
    expert: str
    text: str
    reward: float | None
    accepted: bool
    feedback: str = ""


@dataclass(frozen=True, slots=True)
class ReviseTemplate:
    """Words in which earlier attempts are shown.

    Each is a text with fields in braces (``{{`` and ``}}`` stand for braces): ``{round}``,
    ``{expert}``, ``{reward}``, ``{attempt}`` (the answer's text) and, in `feedback` only,
    ``{feedback}``.

    Parameters
    ----------
    attempt
        An earlier answer in a text prompt. In a chat it is a message of the assistant instead, its
        text alone.
    feedback
        What the verifier said of it.
    accepted, rejected, unjudged
        What stands for the verifier's words where it has none: for a reward that was enough, one
        that was not, and an attempt without a reward.
    instruction
        Closes the prompt.
    """

    attempt: str = "Attempt {round}:\n{attempt}"
    feedback: str = "Feedback on attempt {round}: {feedback}"
    accepted: str = "The verifier accepted it (reward {reward})."
    rejected: str = "The verifier rejected it (reward {reward})."
    unjudged: str = "The verifier could not judge it."
    instruction: str = "Take the feedback into account and give a complete new answer to the task."

    def __post_init__(self) -> None:
        """Refuse texts with fields that nothing fills."""
        known = {"round", "expert", "reward", "attempt"}
        for part in fields(self):
            allowed = {
                "feedback": known | {"feedback"},
                "instruction": set(),
            }.get(part.name, known)
            check_fields(getattr(self, part.name), allowed, f"revise template, {part.name}")

    def feedback_on(self, attempt: Attempt) -> str:
        """Return what the verifier said of an attempt, in this template's words."""
        said = attempt.feedback or self._fill(self._verdict(attempt), attempt)
        return self._fill(self.feedback, attempt, feedback=said)

    def answer_of(self, attempt: Attempt) -> str:
        """Return an attempt as it stands in a text prompt."""
        return self._fill(self.attempt, attempt)

    def _verdict(self, attempt: Attempt) -> str:
        if attempt.reward is None:
            return self.unjudged
        return self.accepted if attempt.accepted else self.rejected

    def _fill(self, text: str, attempt: Attempt, **more: str) -> str:
        reward = "none" if attempt.reward is None else f"{attempt.reward:.3g}"
        return text.format(
            round=attempt.round, expert=attempt.expert, reward=reward, attempt=attempt.text, **more
        )


def check_fields(text: str, allowed: set[str], what: str) -> set[str]:
    """Return the fields of a format string.

    Raises
    ------
    ValueError
        If it is no format string, has others than the allowed fields or formats one as what it is
        not (all are strings but ``round``).
    """
    names = ", ".join(f"{{{name}}}" for name in sorted(allowed)) or "none"
    try:
        text.format(**{name: 1 if name == "round" else "" for name in allowed})
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{what}: {text!r} cannot be filled in ({type(error).__name__}: {error}); its fields"
            f" are {names}, and a brace that is meant is written {{{{ or }}}}"
        ) from None
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def expert_prompt(
    prompt: Prompt, template: PromptTemplate | None = None, system: str | None = None
) -> Prompt:
    """Return the prompt as an expert puts it, before any attempt.

    Parameters
    ----------
    prompt
        Text or chat messages.
    template
        Text with ``{prompt}``: it is put around the text, or around the last user message of a
        chat. A function gets and gives a whole prompt. None leaves the prompt as it is.
    system
        System prompt: a text becomes a chat, and stands before a system prompt that is there.

    Raises
    ------
    ValueError
        If a chat has no user message with a text for the template.
    """
    if callable(template):
        prompt = template(prompt)
    elif template is not None:
        prompt = _framed(prompt, template)
    return prompt if system is None else _with_system(prompt, system)


def _framed(prompt: Prompt, template: str) -> Prompt:
    if isinstance(prompt, str):
        return template.format(prompt=prompt)
    messages = [dict(message) for message in prompt]
    last = _last_user(messages)
    if last is None or not isinstance(last.get("content"), str):
        raise ValueError(
            "a template in words goes around the last user message of a chat, and this chat has"
            " none with a text; use a function of the messages as the template"
        )
    last["content"] = template.format(prompt=last["content"])
    return messages


def _last_user(messages: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    return next((m for m in reversed(messages) if m.get("role") == "user"), None)


def _with_system(prompt: Prompt, system: str) -> list[dict[str, Any]]:
    if isinstance(prompt, str):
        return [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
    messages = [dict(message) for message in prompt]
    if messages and messages[0].get("role") == "system":
        # Most chat templates take one system message only.
        messages[0] = messages[0] | {"content": _joined(system, messages[0]["content"])}
        return messages
    return [{"role": "system", "content": system}, *messages]


def _joined(first: Any, second: Any) -> Any:
    """Join two contents of a message: texts, or lists of parts."""
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    return [*_parts(first), *_parts(second)]


def _parts(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def revise_prompt(
    prompt: Prompt,
    attempts: Sequence[Attempt],
    view: View = "all",
    template: ReviseTemplate | None = None,
) -> Prompt:
    """Return a prompt for another attempt that shows what came before.

    Parameters
    ----------
    prompt
        As `expert_prompt` gives it.
    attempts
        Earlier attempts, oldest first.
    view
        "none": the prompt as it is. "last" and "all": the answer and what the verifier said of it,
        of the last attempt or of all. "feedback_only": what the verifier said of each, without the
        answers. In a chat answers are messages of the assistant and feedback those of the user, so
        that each round begins with the messages of the round before ("all"), which servers with
        prefix caching do not compute again; feedback without answers goes to the end of the last
        user message.
    template
        The words; `ReviseTemplate()` by default.

    Raises
    ------
    ValueError
        If the view is unknown, or feedback without answers finds no user message to go to.
    """
    if view not in ("none", "last", "all", "feedback_only"):
        raise ValueError(f'view must be "none", "last", "all" or "feedback_only", not {view!r}')
    words = template or ReviseTemplate()
    shown = {"none": (), "last": attempts[-1:]}.get(view, attempts)
    if not shown:
        return prompt
    instruction = words.instruction.format()
    if view == "feedback_only":
        said = "\n\n".join([*(words.feedback_on(one) for one in shown), instruction])
        return _appended(prompt, said)
    if isinstance(prompt, str):
        turns = [f"{words.answer_of(one)}\n\n{words.feedback_on(one)}" for one in shown]
        return "\n\n".join([prompt, *turns, instruction])
    messages: list[Mapping[str, Any]] = list(prompt)
    for one in shown:
        messages.append({"role": "assistant", "content": one.text})
        messages.append({"role": "user", "content": f"{words.feedback_on(one)}\n\n{instruction}"})
    return messages


def _appended(prompt: Prompt, text: str) -> Prompt:
    if isinstance(prompt, str):
        return f"{prompt}\n\n{text}"
    messages = [dict(message) for message in prompt]
    last = _last_user(messages)
    if last is None:
        raise ValueError("feedback without answers goes to a user message; this chat has none")
    last["content"] = _joined(last["content"], text)
    return messages
