"""Reward models: a sequence-classification model of transformers as a verifier.

Takes a model and its tokenizer, or their name; gives one reward per response. Texts are put through
the chat template, sorted by length and padded in batches, so that a batch has little padding; the
reward of a response does not depend on the others in its batch. It trains nothing and downloads
only what ``from_pretrained`` does.

Legend: ``B`` responses of a batch, ``L`` longest of them in tokens, ``C`` labels of the model.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from modicum.core.device import resolve_device, resolve_dtype
from modicum.testtime.samples import Prompt
from modicum.testtime.verifiers import Pair, PairVerifier

if TYPE_CHECKING:
    import torch

__all__ = ["RewardModel"]

Activation = Literal["none", "sigmoid", "softmax"]


class RewardModel(PairVerifier):
    """Rewards from a sequence-classification model.

    Parameters
    ----------
    model
        A transformers model with ``ForSequenceClassification`` in its name, or what
        ``from_pretrained`` takes.
    tokenizer
        Its tokenizer; None loads the one that belongs to the model's name.
    device
        Where to compute, as in `modicum.core.device.resolve_device`. "auto" leaves a model that is
        given as an object where it is.
    dtype
        As in `modicum.core.device.resolve_dtype`. "auto" leaves a model that is given as it is.
    batch_size
        Responses scored at once.
    max_length
        Most tokens of prompt and response; None is what the model has positions for.
    overlong
        What longer ones do: "error" raises, "left" drops the beginning (the reward is read at the
        end).
    label
        Which output is the reward; must be given for models with several.
    activation
        "none" for the output itself, "sigmoid", or "softmax" over the labels.
    system
        System message in front of prompts that are texts.
    template
        ``template(prompt, response) -> text`` in place of the chat template. It must write special
        tokens itself.

    Raises
    ------
    ImportError
        If transformers or torch is not installed.
    ValueError
        For parameters that do not go together; when it is called, for an overlong response, and for
        a chat where there is no template.

    Notes
    -----
    Without a chat template, prompt and response are joined as they are, with the tokenizer's own
    special tokens. Padding is on the right, whatever the tokenizer's ``padding_side`` says: causal
    models then see every token where it would be without padding. A model that names a padding
    token reads the reward at the last token that is not one, as it was trained to (transformers
    does that by token, also where the text itself ends with it). For one that names none it is read
    at the last token of the response.
    """

    binary = False

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
        batch_size: int = 16,
        max_length: int | None = None,
        overlong: Literal["error", "left"] = "error",
        label: int | None = None,
        activation: Activation = "none",
        system: str | None = None,
        template: Callable[[Prompt, str], str] | None = None,
    ) -> None:
        for name, number in (("batch_size", batch_size), ("max_length", max_length)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, not {number!r}")
        _check_word("overlong", overlong, ("error", "left"))
        _check_word("activation", activation, ("none", "sigmoid", "softmax"))
        self.model, self.tokenizer = _loaded(model, tokenizer, device, dtype)
        self.batch_size = batch_size
        config = self.model.config.get_text_config()
        self.max_length = max_length or getattr(config, "max_position_embeddings", None)
        self.overlong = overlong
        self.label = _checked_label(label, self.model.config.num_labels, activation)
        self.activation = activation
        self.system = system
        self.template = template
        # Setting the padding token of a model that has none must not be seen by another thread.
        self._lock = threading.Lock()

    def settings(self) -> dict[str, Any]:
        """Return what rewards depend on, for the header of a log; the model by its name."""
        return {
            "model": self.model.config.name_or_path,
            "max_length": self.max_length,
            "overlong": self.overlong,
            "label": self.label,
            "activation": self.activation,
            "system": self.system,
            "template": self.template,
        }

    def score_many(self, pairs: Sequence[Pair]) -> list[float]:
        """Return the reward of each (prompt, response) pair."""
        ids = [self._encode(prompt, response) for prompt, response in pairs]
        order = sorted(range(len(ids)), key=lambda index: -len(ids[index]))
        rewards = [0.0] * len(ids)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            scored = self._score([ids[index] for index in batch])
            for index, reward in zip(batch, scored, strict=True):
                rewards[index] = reward
        return rewards

    def score_steps(self, prompt: Prompt, steps: Sequence[str]) -> list[float]:
        """Return the reward of a response after each of its steps: a ``step_fn`` for `PRM`.

        Parameters
        ----------
        prompt
            What was asked.
        steps
            Steps of one response; they are joined with blank lines.
        """
        prefixes = ["\n\n".join(steps[: number + 1]) for number in range(len(steps))]
        return self.score_many([(prompt, prefix) for prefix in prefixes])

    def text(self, prompt: Prompt, response: str) -> str:
        """Return what the model reads for a response."""
        if self.template is not None:
            return self.template(prompt, response)
        if getattr(self.tokenizer, "chat_template", None):
            messages = [*self._messages(prompt), {"role": "assistant", "content": response}]
            return self.tokenizer.apply_chat_template(messages, tokenize=False)
        if not isinstance(prompt, str) or self.system is not None:
            raise ValueError(
                "the tokenizer has no chat template: give prompts that are texts and no system "
                "message, or template=..."
            )
        return prompt + response

    def _messages(self, prompt: Prompt) -> list[dict[str, Any]]:
        if not isinstance(prompt, str):
            return [dict(message) for message in prompt]
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, {"role": "user", "content": prompt}]

    def _encode(self, prompt: Prompt, response: str) -> list[int]:
        joined = self.template is None and not getattr(self.tokenizer, "chat_template", None)
        text = self.text(prompt, response)
        ids = list(self.tokenizer(text, add_special_tokens=joined)["input_ids"])
        if not ids:
            raise ValueError("prompt and response have no tokens, so there is nothing to score")
        if self.max_length is not None and len(ids) > self.max_length:
            if self.overlong == "error":
                raise ValueError(
                    f"prompt and response have {len(ids)} tokens and max_length is "
                    f'{self.max_length}; overlong="left" drops the first ones'
                )
            ids = ids[-self.max_length :]
        return ids

    def _score(self, ids: Sequence[list[int]]) -> list[float]:
        import torch

        longest = max(map(len, ids))
        with self._lock, _padding_token(self.model, ids) as pad, torch.inference_mode():
            ids_BL = torch.full((len(ids), longest), pad, dtype=torch.long)
            mask_BL = torch.zeros((len(ids), longest), dtype=torch.long)
            for row, tokens in enumerate(ids):
                ids_BL[row, : len(tokens)] = torch.tensor(tokens)
                mask_BL[row, : len(tokens)] = 1
            device = self.model.device
            output = self.model(input_ids=ids_BL.to(device), attention_mask=mask_BL.to(device))
        return self._activated(output.logits.double().cpu())

    def _activated(self, logits_BC: torch.Tensor) -> list[float]:
        if self.activation == "softmax":
            logits_BC = logits_BC.softmax(-1)
        elif self.activation == "sigmoid":
            logits_BC = logits_BC.sigmoid()
        return logits_BC[:, self.label].tolist()


@contextmanager
def _padding_token(model: Any, ids: Sequence[list[int]]) -> Iterator[int]:
    """Give the id to pad with; a model that names none is told one for the time being.

    Transformers then reads the reward at the last token with another id. Any id serves with which
    no text ends: what stands at padded positions is masked.
    """
    config = model.config.get_text_config()
    if config.pad_token_id is not None:
        yield config.pad_token_id
        return
    ends = {tokens[-1] for tokens in ids}
    config.pad_token_id = next(token for token in itertools.count() if token not in ends)
    try:
        yield config.pad_token_id
    finally:
        config.pad_token_id = None


def _check_word(name: str, value: str, words: Sequence[str]) -> None:
    if value not in words:
        raise ValueError(f"{name} must be one of {', '.join(words)}, not {value!r}")


def _checked_label(label: int | None, num_labels: int, activation: Activation) -> int:
    if label is None and num_labels > 1:
        raise ValueError(f"the model has {num_labels} labels: say which one is the reward, label=0")
    if label is not None and not 0 <= label < num_labels:
        raise ValueError(f"label must be in [0, {num_labels}), not {label!r}")
    if activation == "softmax" and num_labels == 1:
        raise ValueError('the softmax of one label is always 1; activation="sigmoid" is meant')
    return label or 0


def _loaded(model: Any, tokenizer: Any, device: str, dtype: str | torch.dtype) -> tuple[Any, Any]:
    """Return model and tokenizer as objects, the model where it is to compute."""
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise ImportError(
            'reward models need transformers: pip install "modicum-testtime[transformers]"'
        )
    import transformers

    if isinstance(model, str | os.PathLike):
        name, device = os.fspath(model), resolve_device(device)
        dtype = resolve_dtype(device, dtype)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(name, dtype=dtype)
        tokenizer = name if tokenizer is None else tokenizer
    if tokenizer is None:
        raise ValueError("a model that is given as an object needs its tokenizer")
    if isinstance(tokenizer, str | os.PathLike):
        tokenizer = transformers.AutoTokenizer.from_pretrained(os.fspath(tokenizer))
    if device != "auto":
        model = model.to(resolve_device(device))
    if dtype != "auto":
        model = model.to(resolve_dtype(device, dtype))
    return model.eval(), tokenizer
