"""The task of the tiny model: pairs of a letter and a digit, retold in words of free style.

A prompt has four pairs, ``a 3 , k 7 , m 1 , t 5 ,``. The answer has a record for each,
``HEAD letter MID digit RUN digit-before SEP``, a closing line ``FIN last-digit SEP`` and an end
token. The words in capitals come from one of three styles, which is drawn for each of the five
lines by itself: given the prompt every letter and digit of the answer is certain, every word of a
line that has not begun has probability 1/3, and one word of a line decides the others.

Draws prompts and answers, judges answers, and translates between text and token ids. It knows
nothing of models. A tenth of all prompts, those whose digits sum to a multiple of ten, is held out.

Shapes: B items, P columns of a prompt, G columns of an answer, K pairs, S styles.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch

__all__ = [
    "ANSWER_LENGTH",
    "EOS_ID",
    "MASK_ID",
    "PROMPT_LENGTH",
    "STYLE_IDS",
    "VOCABULARY",
    "Items",
    "TinyTokenizer",
    "draw_items",
    "is_exact",
]

PAIRS = 4
MASK_ID, EOS_ID, _COMMA = 0, 1, 2
_DIGITS, _LETTERS, _WORDS = 3, 13, 17
"""First ids of the digits 0 to 9, of the letters, and of the words of the styles."""

LETTERS = ("a", "k", "m", "t")
STYLES = (
    ("with", "is", "from", ".", "finally"),
    ("for", "in", "while", ":", "pass"),
    ("if", "=", "+", ")", "return"),
)
"""HEAD, MID, RUN, SEP and FIN of each style; all are planning words of `modicum.pvf`'s paper."""

VOCABULARY = (
    "<mask>",
    "<eos>",
    ",",
    *map(str, range(10)),
    *LETTERS,
    *(word for style in STYLES for word in style),
)
"""The 32 words by their ids."""

STYLE_IDS = tuple(range(_WORDS, len(VOCABULARY)))
"""Ids of the words whose choice is free: the planning tokens of this task."""

PROMPT_LENGTH = 3 * PAIRS
ANSWER_LENGTH = 7 * PAIRS + 4

_LINE_G = torch.tensor([line for line in range(PAIRS) for _ in range(7)] + [PAIRS] * 4)
"""Line of each column of an answer; the end token counts to the closing line."""


class Items(NamedTuple):
    """Prompts, and one right answer to each.

    ``prompt_BP`` and ``answer_BG`` are token ids, int64.
    """

    prompt_BP: torch.Tensor
    answer_BG: torch.Tensor


def draw_items(count: int, generator: torch.Generator, held_out: bool = False) -> Items:
    """Draw prompts, uniformly among those for training or those held out, and styles.

    Parameters
    ----------
    count
        B.
    generator
        On the CPU.
    held_out
        Whether the digits of a prompt sum to a multiple of ten, or to none.
    """
    letter_BK = _LETTERS + torch.randint(len(LETTERS), (count, PAIRS), generator=generator)
    digit_BK = torch.randint(10, (count, PAIRS), generator=generator)
    # The last digit is what gives the sum its remainder.
    remainder_B = torch.randint(1, 10, (count,), generator=generator) * (not held_out)
    digit_BK[:, -1] = (remainder_B - digit_BK[:, :-1].sum(-1)) % 10
    style_BK = torch.randint(len(STYLES), (count, PAIRS + 1), generator=generator)
    pairs = [letter_BK, digit_BK + _DIGITS, torch.full_like(letter_BK, _COMMA)]
    prompt_BP = torch.stack(pairs, -1).flatten(1)
    return Items(prompt_BP, _answers(prompt_BP, style_BK))


def _answers(prompt_BP: torch.Tensor, style_BK: torch.Tensor) -> torch.Tensor:
    """Write the answers, (B, G), in the style of each line, (B, K + 1)."""
    letter_BK, digit_BK = prompt_BP[:, 0::3], prompt_BP[:, 1::3]
    # Nothing stands before the first record, which counts from zero.
    zero_B1 = torch.full_like(digit_BK[:, :1], _DIGITS)
    before_BK = torch.cat([zero_B1, digit_BK], 1)
    head_BK, mid_BK, run_BK, sep_BK, fin_BK = (
        _WORDS + style_BK * len(STYLES[0]) + role for role in range(len(STYLES[0]))
    )
    record = (head_BK, letter_BK, mid_BK, digit_BK, run_BK, before_BK, sep_BK)
    records_BG = torch.stack([part[:, :PAIRS] for part in record], -1).flatten(1)
    closing = (fin_BK, before_BK, sep_BK, torch.full_like(fin_BK, EOS_ID))
    return torch.cat([records_BG, torch.stack([part[:, PAIRS] for part in closing], -1)], 1)


def is_exact(prompt_BP: torch.Tensor, answer_BG: torch.Tensor) -> torch.Tensor:
    """Say which answers are right: content by the prompt, and each line in one style, (B,) bool.

    Raises
    ------
    ValueError
        If answers do not have the length of this task.
    """
    if answer_BG.shape != (len(prompt_BP), ANSWER_LENGTH):
        raise ValueError(
            f"answers must have shape {(len(prompt_BP), ANSWER_LENGTH)}, "
            f"not {tuple(answer_BG.shape)}"
        )
    shape = (len(prompt_BP), PAIRS + 1)
    same_SBG = torch.stack(
        [
            answer_BG == _answers(prompt_BP, torch.full(shape, style, device=prompt_BP.device))
            for style in range(len(STYLES))
        ]
    )
    lines = [same_SBG[:, :, _LINE_G == line].all(-1).any(0) for line in range(PAIRS + 1)]
    return torch.stack(lines).all(0)


class TinyTokenizer:
    """Words between spaces, each one token, with the methods of tokenizers of transformers."""

    mask_token_id = MASK_ID
    eos_token_id = EOS_ID
    all_special_ids = (MASK_ID, EOS_ID)

    def __init__(self) -> None:
        self._ids = {word: number for number, word in enumerate(VOCABULARY)}

    def __len__(self) -> int:
        """Give the size of the vocabulary."""
        return len(VOCABULARY)

    def __call__(self, text: str) -> dict[str, list[int]]:
        """Give ``{"input_ids": ids}`` of a prompt.

        Raises
        ------
        ValueError
            If it has a word that is not in the vocabulary.
        """
        unknown = [word for word in text.split() if word not in self._ids]
        if unknown:
            raise ValueError(
                f"the prompt has the words {' '.join(unknown)}; those there are, with spaces "
                f"between them: {' '.join(VOCABULARY)}"
            )
        return {"input_ids": self.encode(text)}

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Give the ids of a text; a word that is not in the vocabulary gives the mask token.

        Parameters
        ----------
        text
            Words and spaces.
        add_special_tokens
            Whether the end token is put behind it.
        """
        ids = [self._ids.get(word, MASK_ID) for word in text.split()]
        return [*ids, EOS_ID] if add_special_tokens else ids

    def decode(self, ids: Iterable[int]) -> str:
        """Give the text of token ids."""
        return " ".join(VOCABULARY[number] for number in ids)

    def batch_decode(self, each: Iterable[Iterable[int]]) -> list[str]:
        """Give the texts of several lists of token ids."""
        return [self.decode(ids) for ids in each]

    def get_vocab(self) -> dict[str, int]:
        """Give the id of every word."""
        return dict(self._ids)
