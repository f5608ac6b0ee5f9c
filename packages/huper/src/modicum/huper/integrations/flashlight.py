"""The beam search decoder of flashlight-text, through torchaudio, as a backend of the Perceiver.

Takes a Perceiver with a lexicon and lets the decoder propose word sequences; their scores and times
are then computed exactly. The decoder is made for spellings that end with a separator. Where there
is none it lets the last phone of a word last for one frame only; the lexicon therefore also holds
each word with its last phone doubled, which it reads as one that lasts. It may so take a phone, a
blank and the phone again for one; what it proposes is right in its score all the same, but
the best reading can be missed.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from modicum.huper.channel import Weights
from modicum.huper.graph.viterbi import best_path

if TYPE_CHECKING:
    from modicum.huper.graph.viterbi import Path as PhonePath
    from modicum.huper.perceiver import Perceiver, Reading

__all__ = ["decode"]

_IMPOSSIBLE = -1e4
"""Stands for −∞ in emissions, of which the decoder makes sums and differences."""

_MORE = 4
"""The decoder keeps readings apart that differ in their phones only: it is asked for more."""

_PRONUNCIATIONS = 64
"""Most combinations of pronunciations that are tried for a word sequence."""


def decode(perceiver: Perceiver, rows: Sequence[np.ndarray]) -> list[list[Reading]]:
    """Decode utterances.

    Parameters
    ----------
    perceiver
        With a lexicon; its beam, threshold and weights are used.
    rows
        (T, C) log-probabilities of each utterance.

    Returns
    -------
    list of list of Reading
        The best first. Posteriors are shares among the readings that were proposed.

    Raises
    ------
    ImportError
        If flashlight-text is not installed.
    ValueError
        If a form of a word has a weight, as those that a channel adds: the decoder has none.
    """
    decoder = _Decoder(perceiver)
    return [decoder(one) for one in rows]


def _engine() -> Any:
    try:
        from torchaudio.models import decoder  # type: ignore[import-untyped]

        # It loads the library when a name is asked for.
        _ = decoder.ctc_decoder, decoder.CTCDecoderLM
    except (ImportError, RuntimeError, AttributeError) as error:
        raise ImportError(
            'backend="flashlight" needs flashlight-text: pip install "modicum-huper[flashlight]"'
        ) from error
    return decoder


class _Decoder:
    def __init__(self, perceiver: Perceiver) -> None:
        engine = _engine()
        lexicon = perceiver.lexicon
        assert lexicon is not None
        if lexicon.end_weight.any():
            raise ValueError(
                'backend="flashlight" has no weights for the forms of a word; take a lexicon '
                "without a channel, or the native backend"
            )
        self.perceiver, self.lexicon = perceiver, lexicon
        self.blank = perceiver.phones.blank
        # Symbols and words may hold what separates the fields of its files: numbers never do.
        tokens = [f"p{number}" for number in range(len(perceiver.phones))]
        lines = []
        for number, word in enumerate(lexicon.words):
            for canonical in lexicon.entries[word]:
                said = [tokens[one] for one in perceiver.phones.encode(canonical).tolist()]
                for form in (said, [*said, said[-1]]):
                    lines.append(f"w{number}\t{' '.join(form)}")
        plain = perceiver.lm is None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "lexicon.txt"
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            self.decoder = engine.ctc_decoder(
                lexicon=str(path),
                tokens=tokens,
                lm=None if plain else _language_model(engine, perceiver),
                nbest=_MORE * perceiver.nbest,
                beam_size=perceiver.beam,
                beam_threshold=perceiver.threshold,
                lm_weight=0.0 if plain else 1.0,
                word_score=float(perceiver._grammar.word_V[0]) if plain else 0.0,
                blank_token=tokens[self.blank],
                # There is no symbol between words; the blank may stand there anyway.
                sil_token=tokens[self.blank],
            )

    def __call__(self, rows_TC: np.ndarray) -> list[Reading]:
        from modicum.huper.perceiver import Reading

        heard_TC = np.maximum(rows_TC, _IMPOSSIBLE).astype(np.float32)
        proposed = {
            tuple(int(word[1:]) for word in one.words)
            for one in self.decoder(torch.from_numpy(heard_TC)[None])[0]
        }
        found = []
        for words in proposed:
            path, parts = self._placed(words, np.asarray(rows_TC, np.float64))
            if path is not None:
                score = path.score + self._weight(words)
                found.append((score, self._words(words, parts, path)))
        if not found:
            return []
        everything = float(np.logaddexp.reduce([score for score, _ in found]))
        found.sort(key=lambda item: -item[0])
        return [
            Reading(
                words,
                tuple(phone for word in words for phone in word.canonical),
                score,
                score - everything,
            )
            for score, words in found[: self.perceiver.nbest]
        ]

    def _weight(self, words: tuple[int, ...]) -> float:
        grammar = self.perceiver._grammar
        before_N = np.array([grammar.size, *words])
        inside = grammar.weigh(before_N[:-1], before_N[1:]).sum() if words else 0.0
        return float(inside + grammar.end_V[before_N[-1]])

    def _placed(
        self, words: tuple[int, ...], rows_TC: np.ndarray
    ) -> tuple[PhonePath | None, tuple[tuple[str, ...], ...]]:
        """Find the best pronunciations and their frames; None if they do not fit."""
        lexicon = self.lexicon
        choices = itertools.product(*(lexicon.entries[lexicon.words[word]] for word in words))
        best: PhonePath | None = None
        chosen: tuple[tuple[str, ...], ...] = ()
        for parts in itertools.islice(choices, _PRONUNCIATIONS):
            ids_L = self.perceiver.phones.encode(phone for part in parts for phone in part)
            path = best_path(rows_TC, _rigid(ids_L, rows_TC.shape[1]), self.blank, maxdel=0)
            if path is not None and (best is None or path.score > best.score):
                best, chosen = path, parts
        return best, chosen

    def _words(
        self, words: tuple[int, ...], parts: tuple[tuple[str, ...], ...], path: PhonePath
    ) -> tuple[Any, ...]:
        from modicum.huper.perceiver import HeardWord

        found, at = [], 0
        for word, canonical in zip(words, parts, strict=True):
            last = at + len(canonical) - 1
            span = (path.starts[at], path.ends[last])
            found.append(HeardWord(self.lexicon.words[word], canonical, span))
            at = last + 1
        return tuple(found)


def _rigid(ids_L: np.ndarray, classes: int) -> Weights:
    """Let phones be said as they are and in no other way."""
    length = len(ids_L)
    sub_LC = np.full((length, classes), -np.inf)
    sub_LC[np.arange(length), ids_L] = 0.0
    nothing_SC = np.full((length + 1, classes), -np.inf)
    return Weights(ids_L, sub_LC, np.full(length, -np.inf), nothing_SC)


def _language_model(engine: Any, perceiver: Perceiver) -> Any:
    """Give the word language model in the decoder's own form, which numbers words as we do."""
    grammar = perceiver._grammar
    size = grammar.size

    class Model(engine.CTCDecoderLM):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.before: dict[Any, int] = {}

        def start(self, start_with_nothing: bool) -> Any:
            state = engine.CTCDecoderLMState()
            self.before[state] = size
            return state

        def score(self, state: Any, token_index: int) -> tuple[Any, float]:
            following = state.child(token_index)
            if not 0 <= token_index < size:
                return following, -math.inf
            self.before[following] = token_index
            before = np.array([self.before[state]])
            return following, float(grammar.weigh(before, np.array([token_index]))[0])

        def finish(self, state: Any) -> tuple[Any, float]:
            return state, float(grammar.end_V[self.before[state]])

    return Model()
