"""From a request's prompt to token ids, as the local engines need them.

Takes a transformers tokenizer and turns a text or chat messages into ids. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modicum.testtime.samples import Prompt

__all__ = ["PromptEncoder"]


class PromptEncoder:
    """Turns prompts into token ids; samples of one prompt that follow each other share the work.

    Parameters
    ----------
    tokenizer
        A transformers tokenizer.
    chat
        Whether a text is the user's message of a chat; chat messages always are.
    chat_template
        A template in place of the tokenizer's own.
    chat_template_kwargs
        Further variables of the template, ``tools`` for instance.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        chat: bool = False,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.chat = chat
        self.chat_template = chat_template
        self.chat_template_kwargs = dict(chat_template_kwargs or {})
        self._last: tuple[Prompt, list[int]] | None = None

    def __call__(self, prompt: Prompt) -> list[int]:
        """Return the token ids of a prompt.

        A text is encoded with the tokenizer's special tokens, a chat with those of its template. A
        chat that ends with an assistant's message is to be continued, any other one answered.

        Raises
        ------
        ValueError
            If there is no chat template.
        """
        if self._last is not None and self._last[0] == prompt:
            return self._last[1]
        if isinstance(prompt, str) and not self.chat:
            ids = list(self.tokenizer(prompt)["input_ids"])
        else:
            ids = list(self.tokenizer(self._render(prompt), add_special_tokens=False)["input_ids"])
        self._last = (prompt, ids)
        return ids

    def _render(self, prompt: Prompt) -> str:
        if isinstance(prompt, str):
            messages = [{"role": "user", "content": prompt}]
        else:
            messages = [dict(message) for message in prompt]
        if self.chat_template is None and not getattr(self.tokenizer, "chat_template", None):
            raise ValueError(
                "the tokenizer has no chat template: give chat_template=..., or prompts that are "
                "texts"
            )
        continued = bool(messages) and messages[-1].get("role") == "assistant"
        return self.tokenizer.apply_chat_template(
            messages,
            chat_template=self.chat_template,
            tokenize=False,
            add_generation_prompt=not continued,
            continue_final_message=continued,
            **self.chat_template_kwargs,
        )
