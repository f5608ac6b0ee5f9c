"""Which tokens are planning tokens: those that shape an answer without deciding its content.

A `PlanVocabulary` is a set of token ids: called with a view it says which predicted tokens belong
to it. `PlanWords` are words and rules that a tokenizer turns into such a set. Tokenizers of
transformers and of tokenizers will do; neither library is imported.

Shapes: N sequences, H columns of the horizon, V tokens of a tokenizer.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch

from modicum.pvf.predictor import MaskPredictor
from modicum.pvf.strategies.base import View
from modicum.pvf.validation import check_choice

__all__ = [
    "PlanVocabulary",
    "PlanWords",
    "as_plan_vocabulary",
    "bound_vocabulary",
    "tokenizer_hash",
    "vocabulary_from_dict",
    "vocabulary_to_dict",
    "word_list",
]


@dataclass(frozen=True)
class PlanVocabulary:
    """A set of token ids.

    Attributes
    ----------
    ids
        In rising order, each once.
    name
        As in reports.
    """

    ids: tuple[int, ...] = ()
    name: str = "ids"
    _masks: dict[torch.device, torch.Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        found = tuple(sorted({int(token) for token in self.ids}))
        if found and found[0] < 0:
            raise ValueError(f"plan_vocab holds the token id {found[0]}, which is negative")
        object.__setattr__(self, "ids", found)

    @classmethod
    def from_tokenizer(
        cls,
        tokenizer: Any,
        words: str | Iterable[str] = "default",
        *,
        include_eos: bool = False,
        multi_token: Literal["skip", "all"] = "skip",
        exclude_single_letters: bool = True,
        capitalised: bool = True,
        eos_id: int | None = None,
    ) -> "PlanVocabulary":
        """Make a set of words, by themselves and after a space, and of capitalised tokens.

        Parameters
        ----------
        tokenizer
            Of transformers or tokenizers.
        words, include_eos, multi_token, exclude_single_letters, capitalised
            As in `PlanWords`.
        eos_id
            The end token; by default what the tokenizer says.

        Raises
        ------
        ValueError
            If there is no list of the name, or the end token is wanted and unknown.
        """
        rules = PlanWords(
            words if isinstance(words, str) else tuple(words),
            include_eos=include_eos,
            multi_token=multi_token,
            exclude_single_letters=exclude_single_letters,
            capitalised=capitalised,
        )
        return rules.of(tokenizer, eos_id)

    def __call__(self, view: View) -> torch.Tensor:
        """Say which predicted tokens are in the set, (N, H) bool."""
        token_NH = view.seen.token
        if not self.ids:
            return torch.zeros_like(token_NH, dtype=torch.bool)
        mask_V = self._mask(token_NH.device)
        return mask_V[token_NH.clamp(max=len(mask_V) - 1)]

    def _mask(self, device: torch.device) -> torch.Tensor:
        """Give membership of every id up to the largest and of one more, which has none."""
        if device not in self._masks:
            mask = torch.zeros(self.ids[-1] + 2, dtype=torch.bool)
            mask[list(self.ids)] = True
            self._masks[device] = mask.to(device)
        return self._masks[device]

    def to_dict(self) -> dict[str, Any]:
        """Give the name and the ids as plain values."""
        return {"name": self.name, "ids": list(self.ids)}


@dataclass(frozen=True)
class PlanWords:
    """Words and rules that stand for a set of token ids until there is a tokenizer.

    Parameters
    ----------
    words
        A list by its name, ``"default"``, ``"paper"`` or ``"code"``, or the words themselves. Each
        is looked up by itself and after a space.
    include_eos
        Whether the end token belongs to them. An uncertain end token can cut an answer short.
    multi_token
        What becomes of words of several tokens: ``"skip"`` leaves them out, ``"all"`` takes every
        token of them, which are pieces of other words too.
    exclude_single_letters
        Whether capitalised tokens with one letter only are left out: they may be the answers of a
        multiple choice.
    capitalised
        Whether tokens whose text begins with an upper-case letter belong to them.

    Raises
    ------
    ValueError
        If there is no list of the name, or a value is not one of its choices.
    """

    words: str | tuple[str, ...] = "default"
    include_eos: bool = False
    multi_token: Literal["skip", "all"] = "skip"
    exclude_single_letters: bool = True
    capitalised: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.words, str):
            check_choice("plan_vocab", self.words, tuple(_resource()["lists"]))
        else:
            object.__setattr__(self, "words", tuple(self.words))
            for word in self.words:
                if not isinstance(word, str) or not word.strip():
                    raise ValueError(f"words of plan_vocab must be texts, not {word!r}")
        check_choice("multi_token", self.multi_token, ("skip", "all"))

    @property
    def name(self) -> str:
        """The name of the list, or ``"words"``."""
        return self.words if isinstance(self.words, str) else "words"

    def of(self, tokenizer: Any, eos_id: int | None = None) -> PlanVocabulary:
        """Give the ids that a tokenizer has for them.

        Raises
        ------
        ValueError
            If the end token is wanted and unknown.
        """
        key = (tokenizer_hash(tokenizer), self, eos_id)
        if key not in _vocabularies:
            _vocabularies[key] = PlanVocabulary(self._ids(tokenizer, eos_id), self.name)
        return _vocabularies[key]

    def _ids(self, tokenizer: Any, eos_id: int | None) -> tuple[int, ...]:
        shapes = _shapes(tokenizer)
        words = word_list(self.words) if isinstance(self.words, str) else self.words
        found: set[int] = set()
        for word in words:
            for text in (word, f" {word}"):
                ids = _encode(tokenizer, text)
                if len(ids) == 1 or self.multi_token == "all":
                    found.update(ids)
        # A word that a tokenizer does not know gives its special token for such words.
        found -= set(shapes.without_text.nonzero()[:, 0].tolist())
        if self.capitalised:
            capital_V = shapes.capital
            if self.exclude_single_letters:
                capital_V = capital_V & ~shapes.one_letter
            found.update(capital_V.nonzero()[:, 0].tolist())
        if self.include_eos:
            found.add(_eos(tokenizer, eos_id))
        return tuple(found)

    def __call__(self, view: View) -> torch.Tensor:
        """Refuse: words are no ids before there is a tokenizer.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError(f"plan_vocab={self.name!r} has no tokenizer yet: call bind(model) first")

    def to_dict(self) -> dict[str, Any]:
        """Give the words and rules as plain values."""
        words = self.words if isinstance(self.words, str) else list(self.words)
        return {**{item.name: getattr(self, item.name) for item in fields(self)}, "words": words}


_vocabularies: dict[tuple[str, PlanWords, int | None], PlanVocabulary] = {}


def word_list(name: str = "default") -> tuple[str, ...]:
    """Give the words of a list: of arXiv 2601.12247, of its published code, or of both.

    Parameters
    ----------
    name
        ``"paper"``, ``"code"`` or ``"default"``.
    """
    resource = _resource()
    check_choice("plan_vocab", name, tuple(resource["lists"]))
    return tuple(word for group in resource["lists"][name] for word in resource["groups"][group])


@cache
def _resource() -> dict[str, Any]:
    path = files("modicum.pvf") / "data" / "plan_vocab" / "default.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def as_plan_vocabulary(given: Any) -> Callable[[View], torch.Tensor]:
    """Make a vocabulary of ids, a bool mask over the vocabulary, words, a function, or nothing.

    A list of words stands for these words only, the name of a list also for capitalised tokens.

    Raises
    ------
    ValueError
        If ids are negative, a mask has not one dimension, or there is no list of the name.
    TypeError
        If it is none of these.
    """
    if given is None:
        return PlanVocabulary(name="none")
    if isinstance(given, str):
        return PlanWords(given)
    if callable(given) and not isinstance(given, torch.Tensor):
        found: Callable[[View], torch.Tensor] = given
        return found
    if str(getattr(given, "dtype", "")) in ("bool", "torch.bool"):
        return PlanVocabulary(_marked(given), "mask")
    if hasattr(given, "tolist"):
        given = given.tolist()
    members = list(given) if isinstance(given, Iterable) else [given]
    if all(isinstance(token, int) and not isinstance(token, bool) for token in members):
        return PlanVocabulary(tuple(members))
    if all(isinstance(word, str) for word in members):
        return PlanWords(tuple(members), capitalised=False)
    raise TypeError(f"plan_vocab must be ids, a mask, words, a name or a function, not {given!r}")


def _marked(mask: Any) -> tuple[int, ...]:
    if mask.ndim != 1:
        raise ValueError(f"plan_vocab as a mask has shape (V,), not {tuple(mask.shape)}")
    return tuple(number for number, is_in in enumerate(mask.tolist()) if is_in)


def bound_vocabulary(
    vocabulary: Callable[[View], torch.Tensor], model: MaskPredictor
) -> Callable[[View], torch.Tensor]:
    """Give the vocabulary that a model's tokenizer makes of words; ids have to be the model's.

    Raises
    ------
    ValueError
        If words are given and the model has no tokenizer, or ids are not in its vocabulary.
    """
    if isinstance(vocabulary, PlanWords):
        tokenizer = getattr(model, "tokenizer", None)
        if tokenizer is None:
            raise ValueError(
                f"plan_vocab={vocabulary.name!r} needs a tokenizer, and the model has none: give "
                "plan_vocab as token ids, or None for no planning tokens"
            )
        vocabulary = vocabulary.of(tokenizer, model.eos_id)
    if isinstance(vocabulary, PlanVocabulary) and vocabulary.ids[-1:] >= (model.vocab_size,):
        raise ValueError(
            f"plan_vocab {vocabulary.name!r} holds the token id {vocabulary.ids[-1]}, not in "
            f"[0, {model.vocab_size}): it belongs to another tokenizer than the model's"
        )
    return vocabulary


def vocabulary_to_dict(vocabulary: Callable[[View], torch.Tensor]) -> dict[str, Any]:
    """Give a vocabulary as plain values; of a function, its name only."""
    if isinstance(vocabulary, PlanVocabulary | PlanWords):
        return vocabulary.to_dict()
    return {"function": getattr(vocabulary, "__qualname__", type(vocabulary).__qualname__)}


def vocabulary_from_dict(values: Mapping[str, Any]) -> PlanVocabulary | PlanWords:
    """Make the vocabulary that `vocabulary_to_dict` described.

    Raises
    ------
    ValueError
        If it was a function, or is no such description.
    """
    if "function" in values:
        raise ValueError(f"plan_vocab was the function {values['function']!r}: give it again")
    if set(values) == {"name", "ids"}:
        return PlanVocabulary(tuple(values["ids"]), values["name"])
    if set(values) == {item.name for item in fields(PlanWords)}:
        return replace(PlanWords(), **values)
    raise ValueError(f"plan_vocab is no description of a vocabulary: {dict(values)!r}")


# What tokenizers say -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shapes:
    """What the texts of all tokens look like, (V,) bool each."""

    capital: torch.Tensor
    one_letter: torch.Tensor
    without_text: torch.Tensor


_shapes_of: dict[str, _Shapes] = {}
_hashes: WeakKeyDictionary[Any, tuple[int, str]] = WeakKeyDictionary()


def tokenizer_hash(tokenizer: Any) -> str:
    """Give a hash of all that a tokenizer's tokens depend on, hexadecimal."""
    size = _size(tokenizer)
    known = _hashes.get(tokenizer)
    if known is not None and known[0] == size:
        return known[1]
    engine = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(engine, "to_str"):
        described = engine.to_str()
    else:
        described = json.dumps(
            [type(tokenizer).__qualname__, sorted(tokenizer.get_vocab().items())]
        )
    special = json.dumps(sorted(_special_ids(tokenizer)))
    found = hashlib.sha256(f"{described}{special}".encode()).hexdigest()
    _hashes[tokenizer] = (size, found)
    return found


def _shapes(tokenizer: Any) -> _Shapes:
    """Look at the text of every token once for each tokenizer."""
    key = tokenizer_hash(tokenizer)
    if key not in _shapes_of:
        texts = _texts(tokenizer)
        special = _special_ids(tokenizer)
        found = torch.zeros((3, len(texts)), dtype=torch.bool)
        for number, text in enumerate(texts):
            if number in special or not text:
                found[2, number] = True
            elif text[0].isupper():
                found[0, number] = True
                found[1, number] = sum(map(str.isalpha, text)) == 1
        _shapes_of[key] = _Shapes(*found)
    return _shapes_of[key]


def _texts(tokenizer: Any) -> list[str]:
    """Give the text of every id, up to the largest, without space around it."""
    each = [[number] for number in range(max(tokenizer.get_vocab().values()) + 1)]
    decode = getattr(tokenizer, "batch_decode", None) or tokenizer.decode_batch
    return [text.strip() for text in decode(each)]


def _size(tokenizer: Any) -> int:
    count = getattr(tokenizer, "get_vocab_size", None)
    return int(count()) if count is not None else len(tokenizer)


def _encode(tokenizer: Any, text: str) -> list[int]:
    found = tokenizer.encode(text, add_special_tokens=False)
    return list(getattr(found, "ids", found))


def _special_ids(tokenizer: Any) -> set[int]:
    if hasattr(tokenizer, "all_special_ids"):
        return set(tokenizer.all_special_ids)
    added = tokenizer.get_added_tokens_decoder()
    return {number for number, token in added.items() if token.special}


def _eos(tokenizer: Any, eos_id: int | None) -> int:
    found = eos_id if eos_id is not None else getattr(tokenizer, "eos_token_id", None)
    if found is None:
        raise ValueError("include_eos=True, and neither tokenizer nor model has an end token")
    return int(found)
