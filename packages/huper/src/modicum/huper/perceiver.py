"""From emissions to words: the hypothesis that the listener forms before listening again.

Finds the word sequences whose phones fit the whole emissions best, by token passing over a prefix
tree of the lexicon; or, without a lexicon, the phones that a phone bigram finds likely. Gives words
with times and their canonical phones, which become the reference of the hypothesis-guided path. It
knows no audio and no text that was given.

Source: the Perceiver of "HuPER: A Human-Inspired Framework for Phonetic Perception" (arXiv
2602.01634), the shortest path through phone lattice ∘ lexicon ∘ grammar.

Shape suffixes: T frames, C classes, V words, K nodes of the tree, H hypotheses (tokens) of a frame.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modicum.huper.channel import Weights
from modicum.huper.emissions import Emissions, check_rows
from modicum.huper.graph.viterbi import best_path

if TYPE_CHECKING:
    import torch

    from modicum.huper.channel import EditChannel
    from modicum.huper.phones import PhoneSet

__all__ = ["HeardWord", "Lexicon", "Perceiver", "Reading", "WordLM", "variants"]

_BACKENDS = ("native", "flashlight")
_WIDER = (1, 4, 16)
"""How much wider the beam becomes where no word sequence survives it."""


@dataclass(frozen=True)
class HeardWord:
    """A word of a reading.

    Attributes
    ----------
    text
        Its spelling.
    canonical
        Its phones in the lexicon.
    span
        First frame of its first phone and the one after the last of its last phone.
    """

    text: str
    canonical: tuple[str, ...]
    span: tuple[int, int]


@dataclass(frozen=True)
class Reading:
    """One hypothesis of what was said.

    Attributes
    ----------
    words
        With times; empty where there is no lexicon.
    canonical
        Canonical phones of the words, one after the other.
    score
        Log-probability of the best CTC path, plus the weights of words and of variants.
    log_posterior
        Log of its share among all readings that survived the beam.
    """

    words: tuple[HeardWord, ...]
    canonical: tuple[str, ...]
    score: float
    log_posterior: float

    @property
    def text(self) -> str:
        """Spellings of the words with spaces between them."""
        return " ".join(word.text for word in self.words)


class WordLM:
    """A unigram or bigram of words.

    Parameters
    ----------
    unigram
        Log-probability of each word.
    bigram
        Log-probability of the second word after the first; None as the first is the start and as
        the second the end. Pairs that are not there have `backoff` of the first plus the unigram of
        the second.
    backoff
        Log-weight of each word (None: of the start) that had something else behind it; 0 if it is
        not there.
    end
        Log-probability of the end where there is no bigram for it.

    Raises
    ------
    ValueError
        If there is no word, or a number is NaN or +inf.
    """

    def __init__(
        self,
        unigram: Mapping[str, float],
        bigram: Mapping[tuple[str | None, str | None], float] | None = None,
        backoff: Mapping[str | None, float] | None = None,
        end: float = 0.0,
    ) -> None:
        self.unigram = dict(unigram)
        self.bigram = dict(bigram or {})
        self.backoff = dict(backoff or {})
        self.end = float(end)
        if not self.unigram:
            raise ValueError("a language model needs at least one word")
        values = [*self.unigram.values(), *self.bigram.values(), *self.backoff.values(), self.end]
        if not all(value < math.inf for value in values):
            raise ValueError("log-weights of words are finite or −inf, some are NaN or +inf")

    @classmethod
    def fit(
        cls, sentences: Iterable[Sequence[str]], words: Iterable[str] = (), order: int = 2
    ) -> WordLM:
        """Count a language model.

        Words are weighed by their count plus one, also those of `words` that were never seen; a
        bigram by Witten and Bell's rule, which gives each history as much for what it has not been
        followed by as it had kinds of successors.

        Parameters
        ----------
        sentences
            Words of each.
        words
            The vocabulary, as far as it goes beyond the sentences.
        order
            1 or 2.

        Raises
        ------
        ValueError
            If there is no word, the order is another, or a sentence is a string.
        """
        if order not in (1, 2):
            raise ValueError(f"order must be 1 or 2, got {order}")
        counts: dict[str, float] = dict.fromkeys(words, 1.0)
        pairs: dict[str | None, dict[str | None, float]] = {}
        ends = 1.0
        for sentence in sentences:
            if isinstance(sentence, str):
                raise ValueError(f"a sentence is a sequence of words, got the string {sentence!r}")
            for word in sentence:
                counts[word] = counts.get(word, 1.0) + 1.0
            ends += 1
            path: list[str | None] = [None, *sentence, None]
            for one, two in pairwise(path):
                followers = pairs.setdefault(one, {})
                followers[two] = followers.get(two, 0.0) + 1.0
        total = sum(counts.values()) + ends
        unigram = {word: math.log(count / total) for word, count in counts.items()}
        end = math.log(ends / total)
        if order == 1:
            return cls(unigram, end=end)
        bigram, backoff = {}, {}
        for one, followers in pairs.items():
            kinds = len(followers)
            mass = sum(followers.values()) + kinds
            backoff[one] = math.log(kinds / mass)
            for two, count in followers.items():
                below = math.exp(end if two is None else unigram[two])
                bigram[one, two] = math.log((count + kinds * below) / mass)
        return cls(unigram, bigram, backoff, end)

    def logprob(self, word: str | None, before: str | None) -> float:
        """Return the log-probability of a word (None: the end) after another (None: the start)."""
        known = self.bigram.get((before, word))
        if known is not None:
            return known
        return self.backoff.get(before, 0.0) + (self.end if word is None else self.unigram[word])

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, ready for JSON; −inf is None."""
        return {
            "unigram": {word: _finite(value) for word, value in self.unigram.items()},
            "bigram": [[one, two, _finite(value)] for (one, two), value in self.bigram.items()],
            "backoff": [[one, _finite(value)] for one, value in self.backoff.items()],
            "end": _finite(self.end),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> WordLM:
        """Read what `to_dict` gave."""
        return cls(
            {word: _weight(value) for word, value in content["unigram"].items()},
            {(one, two): _weight(value) for one, two, value in content["bigram"]},
            {one: _weight(value) for one, value in content["backoff"]},
            _weight(content["end"]),
        )


def _finite(value: float) -> float | None:
    return None if value == -math.inf else value


def _weight(value: float | None) -> float:
    return -math.inf if value is None else value


class Lexicon:
    """Words and their phones as a prefix tree.

    Parameters
    ----------
    entries
        For each spelling its pronunciations, as `g2p.Dict.entries` has them. A pronunciation is a
        sequence of phones.
    phones
        Phone set of the emissions; phones are folded into it.
    channel
        Expand each pronunciation by what becomes of its phones when people say them.
    most
        How many forms of each pronunciation at most, its canonical one included.
    lam
        λ, the weight of the edits.

    Raises
    ------
    ValueError
        If there is no word, a word has no phone, or a phone has no name in the phone set: named
        with the word.
    """

    def __init__(
        self,
        entries: Mapping[str, Sequence[Sequence[str]]],
        phones: PhoneSet,
        *,
        channel: EditChannel | None = None,
        most: int = 8,
        lam: float = 1.0,
    ) -> None:
        if not entries:
            raise ValueError("a lexicon needs at least one word")
        if most < 1:
            raise ValueError(f"most must be at least 1, got {most}")
        if channel is not None and channel.phones.symbols != phones.symbols:
            raise ValueError("the channel was made for another phone set than the lexicon's")
        self.phones = phones
        self.expansion = None if channel is None else {"most": most, "lam": lam}
        self.words = tuple(entries)
        self.entries: dict[str, tuple[tuple[str, ...], ...]] = {}
        forms: list[tuple[tuple[int, ...], int, int, float]] = []
        names: dict[str, tuple[str, ...]] = {}
        for number, (word, pronunciations) in enumerate(entries.items()):
            kept = []
            for pronunciation in pronunciations:
                if isinstance(pronunciation, str):
                    raise ValueError(
                        f"pronunciations of {word!r} are sequences of phones, got the string "
                        f"{pronunciation!r}"
                    )
                for phone in pronunciation:
                    if phone not in names:
                        names[phone] = phones.canonicalise([phone], word=word)
                canonical = tuple(name for phone in pronunciation for name in names[phone])
                if not canonical:
                    raise ValueError(f"a pronunciation of {word!r} has no phone")
                kept.append(canonical)
            if not kept:
                raise ValueError(f"{word!r} has no pronunciation")
            self.entries[word] = tuple(kept)
            for which, canonical in enumerate(kept):
                ids = phones.encode(canonical)
                if channel is None:
                    forms.append((tuple(ids.tolist()), number, which, 0.0))
                    continue
                for said, weight in variants(channel.weights(ids), most, lam):
                    forms.append((said, number, which, weight))
        self._build(forms)

    def _build(self, forms: list[tuple[tuple[int, ...], int, int, float]]) -> None:
        # Sorted, forms with a common beginning follow each other, and a node's children too.
        forms.sort()
        label, parent, depth_path = [-1], [-1], [0]
        before: tuple[int, ...] = ()
        end_node, end_word, end_which, end_weight = [], [], [], []
        for said, word, which, weight in forms:
            common = 0
            for one, two in zip(before, said, strict=False):
                if one != two:
                    break
                common += 1
            del depth_path[common + 1 :]
            for phone in said[common:]:
                label.append(phone)
                parent.append(depth_path[-1])
                depth_path.append(len(label) - 1)
            before = said
            end_node.append(depth_path[-1])
            end_word.append(word)
            end_which.append(which)
            end_weight.append(weight)
        self.label_K = np.array(label, np.int32)
        self.parent_K = np.array(parent, np.int32)
        nodes = len(label)
        order = np.argsort(self.parent_K[1:], kind="stable") + 1
        self.child = order.astype(np.int32)
        self.child_start_K = np.searchsorted(self.parent_K[order], np.arange(nodes + 1))
        by_node = np.argsort(np.array(end_node), kind="stable")
        self.end_word = np.array(end_word, np.int32)[by_node]
        self.end_which = np.array(end_which, np.int32)[by_node]
        self.end_weight = np.array(end_weight, np.float64)[by_node]
        self.end_start_K = np.searchsorted(np.array(end_node)[by_node], np.arange(nodes + 1))

    def __len__(self) -> int:
        """Return V, the number of words."""
        return len(self.words)

    @property
    def nodes(self) -> int:
        """Number K of nodes of the tree."""
        return len(self.label_K)

    def best_below(self, word_V: np.ndarray) -> np.ndarray:
        """Return the best weight of a word at or below each node, float64 (K,)."""
        best_K = np.full(self.nodes, -np.inf)
        ends = np.repeat(np.arange(self.nodes), np.diff(self.end_start_K))
        np.maximum.at(best_K, ends, word_V[self.end_word] + self.end_weight)
        best, parents = best_K.tolist(), self.parent_K.tolist()
        # Children were made after their parents.
        for node in range(self.nodes - 1, 0, -1):
            if best[node] > best[parents[node]]:
                best[parents[node]] = best[node]
        return np.array(best)


def variants(
    weights: Weights, most: int = 8, lam: float = 1.0
) -> list[tuple[tuple[int, ...], float]]:
    """List the likeliest ways to say a word, each phone being kept, replaced or dropped.

    Parameters
    ----------
    weights
        Of its canonical phones. Insertions are left out.
    most
        How many different ways.
    lam
        λ.

    Returns
    -------
    list of (ids, log-weight)
        The best first, of each way its best weight. The canonical one is always among them; ways
        without a phone are not.
    """
    canonical = tuple(weights.canonical.tolist())
    table = np.concatenate([weights.sub, weights.dele[:, None]], axis=1)
    gone = table.shape[1] - 1
    order = np.argsort(-table, axis=1, kind="stable")
    value = np.take_along_axis(table, order, axis=1)
    length = len(canonical)
    kept = lam * float(table[np.arange(length), weights.canonical].sum())
    found: dict[tuple[int, ...], float] = {}

    def weight_of(ranks: tuple[int, ...]) -> float:
        return lam * float(sum(value[i, rank] for i, rank in enumerate(ranks)))

    first = (0,) * length
    heap = [(-weight_of(first), first)]
    seen = {first}
    while heap and len(found) < most:
        negative, ranks = heapq.heappop(heap)
        if negative == math.inf:
            break
        outcomes = [int(order[i, rank]) for i, rank in enumerate(ranks)]
        said = tuple(outcome for outcome in outcomes if outcome != gone)
        if said:
            found.setdefault(said, -negative)
        for i in range(length):
            if ranks[i] + 1 < value.shape[1]:
                following = (*ranks[:i], ranks[i] + 1, *ranks[i + 1 :])
                if following not in seen:
                    seen.add(following)
                    heapq.heappush(heap, (-weight_of(following), following))
    if canonical not in found:
        if len(found) >= most:
            found.popitem()
        found[canonical] = kept
    return list(found.items())


class Perceiver:
    """Find the words that fit.

    Parameters
    ----------
    lexicon
        A `Lexicon`, or None for phones alone.
    lm
        A `WordLM`, which must know every word; None makes all words equally likely.
    phone_lm
        (C + 1, C + 1) phone bigram as of `channel.phone_bigram`, needed without a lexicon.
    phones
        Phone set, needed without a lexicon.
    lm_weight, word_penalty
        Each word adds ``lm_weight · log P(word | the one before) + word_penalty``; a phone bigram
        counts with `lm_weight` too.
    beam, threshold
        Most tokens of a frame, and nats below the best one down to which they live. Where nothing
        survives, both are widened.
    nbest
        Most readings.
    backend
        ``"native"``, in NumPy; or ``"flashlight"``, the decoder of flashlight-text through
        torchaudio, which needs ``pip install "modicum-huper[flashlight]"``.

    Raises
    ------
    ValueError
        If a setting is out of range, or lexicon and language model do not fit.

    Notes
    -----
    Tokens are (node, last label, words so far). Each frame, a token stays in its phone, goes into
    the blank, or enters a child of its node: one with another phone than its last, or any after a
    blank, also over the boundary of words. What a word costs is taken into account from its first
    phone on when tokens are pruned.
    """

    def __init__(
        self,
        lexicon: Lexicon | None = None,
        lm: WordLM | None = None,
        *,
        phone_lm: np.ndarray | None = None,
        phones: PhoneSet | None = None,
        lm_weight: float = 1.0,
        word_penalty: float = 0.0,
        beam: int = 200,
        threshold: float = 12.0,
        nbest: int = 5,
        backend: Literal["native", "flashlight"] = "native",
    ) -> None:
        if backend not in _BACKENDS:
            raise ValueError(
                f"backend must be one of {', '.join(_BACKENDS)}, got {backend!r}; for k2 and "
                "OpenFst there is modicum.huper.graph.export"
            )
        if beam < 1 or nbest < 1:
            raise ValueError(f"beam and nbest must be at least 1, got {beam} and {nbest}")
        if not threshold > 0:
            raise ValueError(f"threshold must be positive nats, got {threshold}")
        if not 0 <= lm_weight < math.inf or not math.isfinite(word_penalty):
            raise ValueError(
                f"lm_weight must be finite and at least 0, word_penalty finite, got {lm_weight} "
                f"and {word_penalty}"
            )
        if lexicon is None:
            if phone_lm is None or phones is None:
                raise ValueError("a perceiver needs a lexicon, or phone_lm and phones")
            if lm is not None or backend != "native":
                raise ValueError("a word language model and flashlight need a lexicon")
            size = len(phones) + 1
            phone_lm = np.asarray(phone_lm, np.float64)
            if phone_lm.shape != (size, size):
                raise ValueError(
                    f"phone_lm has the shape (C + 1, C + 1) = ({size}, {size}), "
                    f"got {phone_lm.shape}"
                )
        elif lm is not None:
            missing = [word for word in lexicon.words if word not in lm.unigram]
            if missing:
                raise ValueError(
                    f"the language model lacks {len(missing)} words of the lexicon, such as "
                    f"{', '.join(missing[:3])}"
                )
        self.lexicon, self.lm, self.phone_lm = lexicon, lm, phone_lm
        self.lm_weight, self.word_penalty = float(lm_weight), float(word_penalty)
        self.beam, self.threshold = int(beam), float(threshold)
        self.nbest, self.backend = int(nbest), backend
        if lexicon is not None:
            self.phones = lexicon.phones
            self._grammar = _Grammar(lexicon, lm, self.lm_weight, self.word_penalty)
            self._ahead_K = lexicon.best_below(self._grammar.word_V)
            # A word is paid for when its first phone is entered: between words nothing is owed.
            self._ahead_K[0] = 0.0
        else:
            assert phones is not None
            self.phones = phones

    def __call__(self, emissions: Emissions) -> list[list[Reading]]:
        """Return the n best readings of each utterance, the best first.

        Parameters
        ----------
        emissions
            Of B utterances.

        Returns
        -------
        list of list of Reading
            A reading may have no word. The list is empty if no word sequence fits into the frames.

        Raises
        ------
        ValueError
            If the emissions have another phone set.
        ImportError
            If the backend's library is not installed.
        """
        if emissions.phones.symbols != self.phones.symbols:
            raise ValueError(
                f"the perceiver was made for {len(self.phones)} ids "
                f"({', '.join(self.phones.symbols[:6])}, …), the emissions have "
                f"{len(emissions.phones)} ({', '.join(emissions.phones.symbols[:6])}, …)"
            )
        rows = [emissions.utterance(b) for b in range(len(emissions))]
        if self.backend == "flashlight":
            from modicum.huper.integrations import flashlight

            return flashlight.decode(self, rows)
        return [self.read(one) for one in rows]

    def read(self, logprobs_TC: np.ndarray | torch.Tensor) -> list[Reading]:
        """Return the n best readings of one utterance, by the native backend.

        Parameters
        ----------
        logprobs_TC
            (T, C) log-probabilities.

        Raises
        ------
        ValueError
            If they are none, or have another number of classes than the phone set.
        """
        rows_TC = np.asarray(logprobs_TC, np.float64)
        if rows_TC.ndim != 2 or rows_TC.shape[1] != len(self.phones):
            raise ValueError(
                f"log-probabilities have the shape (T, {len(self.phones)}), got {rows_TC.shape}"
            )
        check_rows(rows_TC)
        if self.lexicon is None:
            return self._phones_alone(rows_TC)
        for factor in _WIDER:
            search = _Search(self, rows_TC, factor * self.beam, factor * self.threshold)
            found = search.run()
            if found:
                return found
        return []

    def _phones_alone(self, rows_TC: np.ndarray) -> list[Reading]:
        assert self.phone_lm is not None
        classes = len(self.phones)
        ins_1C = np.full((1, classes), -np.inf)
        ins_1C[:, self.phones.ids] = 0.0
        nothing = Weights(
            np.zeros(0, np.int64), np.zeros((0, classes)), np.zeros(0), np.asarray(ins_1C)
        )
        # What is impossible stays so when the bigram has no weight.
        lm = np.where(self.phone_lm == -np.inf, -np.inf, self.lm_weight * self.phone_lm)
        path = best_path(rows_TC, nothing, self.phones.blank, lm=lm)
        if path is None:
            return []
        return [Reading((), self.phones.decode(path.ids), path.score, 0.0)]

    # Files --------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON. A channel that expands the lexicon is not kept."""
        lexicon = self.lexicon
        return {
            "lexicon": None
            if lexicon is None
            else {word: [list(one) for one in forms] for word, forms in lexicon.entries.items()},
            "expansion": None if lexicon is None else lexicon.expansion,
            "lm": None if self.lm is None else self.lm.to_dict(),
            "phone_lm": None
            if self.phone_lm is None
            else [[None if v == -np.inf else v for v in row] for row in self.phone_lm.tolist()],
            "phones": self.phones.to_dict(),
            "lm_weight": self.lm_weight,
            "word_penalty": self.word_penalty,
            "beam": self.beam,
            "threshold": self.threshold,
            "nbest": self.nbest,
            "backend": self.backend,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], channel: EditChannel | None = None) -> Perceiver:
        """Read what `to_dict` gave.

        Parameters
        ----------
        content
            What it gave.
        channel
            Expands the lexicon, where one did so before.

        Raises
        ------
        ValueError
            If the lexicon was expanded and there is no channel.
        """
        from modicum.huper.phones import PhoneSet

        given = dict(content)
        phones = PhoneSet.from_dict(given.pop("phones"))
        entries, lm, table = (given.pop(name) for name in ("lexicon", "lm", "phone_lm"))
        expansion = given.pop("expansion")
        lexicon = None
        if expansion is not None:
            if channel is None:
                raise ValueError("a channel expanded this lexicon: give it to from_dict")
            lexicon = Lexicon(entries, phones, channel=channel, **expansion)
        elif entries is not None:
            lexicon = Lexicon(entries, phones)
        return cls(
            lexicon,
            None if lm is None else WordLM.from_dict(lm),
            phones=phones,
            phone_lm=None
            if table is None
            else np.array([[-np.inf if v is None else v for v in row] for row in table]),
            **given,
        )


class _Grammar:
    """Weights of words after each other, in arrays."""

    def __init__(
        self, lexicon: Lexicon, lm: WordLM | None, lm_weight: float, word_penalty: float
    ) -> None:
        size = len(lexicon)
        self.size = size
        if lm is None:
            plain_V = np.full(size, -math.log(size))
        else:
            plain_V = np.array([lm.unigram[word] for word in lexicon.words])
        # Where the weight is 0 an impossible word is still impossible.
        self.word_V = np.where(plain_V == -np.inf, -np.inf, lm_weight * plain_V) + word_penalty
        self.bigram = lm is not None and bool(lm.bigram)
        self.backoff_V = np.zeros(size + 1)
        self.end_V = np.zeros(size + 1)
        if lm is None:
            return
        number = {word: at for at, word in enumerate(lexicon.words)}
        start: dict[str | None, int] = {None: size}
        start.update(number)
        for before, value in lm.backoff.items():
            if before in start:
                self.backoff_V[start[before]] = lm_weight * value
        self.end_V = self.backoff_V + lm_weight * lm.end
        keys, values = [], []
        for (before, word), value in lm.bigram.items():
            if before not in start:
                continue
            if word is None:
                self.end_V[start[before]] = lm_weight * value
            elif word in number:
                keys.append(start[before] * size + number[word])
                values.append(lm_weight * value + word_penalty)
        order = np.argsort(np.array(keys, np.int64))
        self.keys = np.array(keys, np.int64)[order]
        self.values = np.array(values, np.float64)[order]

    def weigh(self, before_N: np.ndarray, word_N: np.ndarray) -> np.ndarray:
        """Return what each word adds after the word before it; V stands for the start."""
        weight_N = self.word_V[word_N] + self.backoff_V[before_N]
        if self.bigram and len(self.keys):
            key_N = before_N.astype(np.int64) * self.size + word_N
            at_N = np.minimum(np.searchsorted(self.keys, key_N), len(self.keys) - 1)
            weight_N = np.where(self.keys[at_N] == key_N, self.values[at_N], weight_N)
        return weight_N


class _Search:
    """Token passing through one utterance."""

    def __init__(
        self, perceiver: Perceiver, rows_TC: np.ndarray, beam: int, threshold: float
    ) -> None:
        assert perceiver.lexicon is not None
        self.perceiver, self.lexicon = perceiver, perceiver.lexicon
        self.grammar, self.ahead_K = perceiver._grammar, perceiver._ahead_K
        self.rows_TC = rows_TC
        self.beam, self.threshold = beam, threshold
        self.blank = perceiver.phones.blank
        # Histories: the one before, the form of the lexicon (entry of its ends) and its word.
        self.history: list[tuple[int, int]] = [(-1, -1)]
        self.number: dict[tuple[int, int], int] = {}
        self.last_word = np.full(1024, len(self.lexicon), np.int32)

    def run(self) -> list[Reading]:
        lexicon = self.lexicon
        node_H, last_H = np.zeros(1, np.int32), np.full(1, -1, np.int32)
        history_H, score_H = np.zeros(1, np.int64), np.zeros(1)
        # Of each frame and token: the token before, its label, the history.
        steps: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for frame_C in self.rows_TC:
            tokens = np.arange(len(node_H))
            talking = np.flatnonzero(last_H >= 0)
            first = lexicon.child_start_K[node_H]
            counts = lexicon.child_start_K[node_H + 1] - first
            source_N = np.repeat(tokens, counts)
            child_N = lexicon.child[_ranges(first, counts)]
            label_N = lexicon.label_K[child_N]
            entered_N = score_H[source_N] + frame_C[label_N]
            kept = label_N != last_H[source_N]
            stay_H = score_H[talking] + frame_C[last_H[talking]]
            rest_H = score_H + frame_C[self.blank]
            ahead_H = self.ahead_K[node_H]
            best = max(
                float((rest_H + ahead_H).max(initial=-np.inf)),
                float((stay_H + ahead_H[talking]).max(initial=-np.inf)),
                float((entered_N + self.ahead_K[child_N])[kept].max(initial=-np.inf)),
            )
            kept &= entered_N + self.ahead_K[child_N] >= best - self.threshold
            source_N, child_N, label_N, entered_N = (
                one[kept] for one in (source_N, child_N, label_N, entered_N)
            )
            # Words that end with the phone that was entered.
            end_first = lexicon.end_start_K[child_N]
            end_counts = lexicon.end_start_K[child_N + 1] - end_first
            at_E = np.repeat(np.arange(len(child_N)), end_counts)
            form_E = _ranges(end_first, end_counts)
            before_E = history_H[source_N[at_E]]
            ended_E = (
                entered_N[at_E]
                + self.grammar.weigh(self.last_word[before_E], lexicon.end_word[form_E])
                + lexicon.end_weight[form_E]
            )
            alive = ended_E >= best - self.threshold
            if int(alive.sum()) > self.beam:
                least = np.partition(ended_E[alive], -self.beam)[-self.beam]
                alive &= ended_E >= least
            at_E, form_E, before_E, ended_E = (
                one[alive] for one in (at_E, form_E, before_E, ended_E)
            )
            history_E = self._named(before_E, form_E)
            # Nothing continues a word at a leaf of the tree.
            goes_on = lexicon.child_start_K[child_N + 1] > lexicon.child_start_K[child_N]
            inside = np.flatnonzero(goes_on)

            new_node = np.concatenate(
                [node_H, node_H[talking], child_N[inside], np.zeros(len(at_E), np.int32)]
            )
            new_last = np.concatenate(
                [
                    np.full(len(node_H), -1, np.int32),
                    last_H[talking],
                    label_N[inside],
                    label_N[at_E],
                ]
            )
            new_history = np.concatenate(
                [history_H, history_H[talking], history_H[source_N[inside]], history_E]
            )
            new_score = np.concatenate([rest_H, stay_H, entered_N[inside], ended_E])
            new_source = np.concatenate([tokens, talking, source_N[inside], source_N[at_E]]).astype(
                np.int32
            )
            chosen = self._pruned(new_node, new_last, new_history, new_score)
            if not len(chosen):
                return []
            node_H, last_H = new_node[chosen], new_last[chosen]
            history_H, score_H = new_history[chosen], new_score[chosen]
            steps.append((new_source[chosen], last_H, history_H))
        return self._readings(node_H, history_H, score_H, steps)

    def _pruned(
        self,
        node_N: np.ndarray,
        last_N: np.ndarray,
        history_N: np.ndarray,
        score_N: np.ndarray,
    ) -> np.ndarray:
        """Keep the best token of each state, and of these the best that fit into the beam."""
        hope_N = score_N + self.ahead_K[node_N]
        alive = np.flatnonzero((hope_N >= hope_N.max() - self.threshold) & (hope_N > -np.inf))
        alive = alive[np.argsort(-hope_N[alive], kind="stable")]
        classes = self.rows_TC.shape[1] + 1
        key = (history_N[alive] * self.lexicon.nodes + node_N[alive]) * classes + last_N[alive] + 1
        _, firsts = np.unique(key, return_index=True)
        # In order of hope, so that the beam is a slice.
        return alive[np.sort(firsts)[: self.beam]]

    def _named(self, before_E: np.ndarray, form_E: np.ndarray) -> np.ndarray:
        """Give a number to each history made longer by a word; forms of a word share it."""
        found = np.empty(len(before_E), np.int64)
        words = self.lexicon.end_word[form_E]
        for at, pair in enumerate(zip(before_E.tolist(), words.tolist(), strict=True)):
            known = self.number.get(pair)
            if known is None:
                known = self.number[pair] = len(self.history)
                self.history.append(pair)
                if known >= len(self.last_word):
                    more = np.full(len(self.last_word), len(self.lexicon), np.int32)
                    self.last_word = np.concatenate([self.last_word, more])
                self.last_word[known] = pair[1]
            found[at] = known
        return found

    def _readings(
        self,
        node_H: np.ndarray,
        history_H: np.ndarray,
        score_H: np.ndarray,
        steps: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
    ) -> list[Reading]:
        total_H = score_H + self.grammar.end_V[self.last_word[history_H]]
        # Between words, and possible.
        done = np.flatnonzero((node_H == 0) & (total_H > -np.inf))
        done = done[np.argsort(-total_H[done], kind="stable")]
        _, firsts = np.unique(history_H[done], return_index=True)
        done = done[np.sort(firsts)]
        if not len(done):
            return []
        everything = float(np.logaddexp.reduce(total_H[done]))
        return [
            Reading(*self._words(int(one), steps), float(total_H[one]),
                    float(total_H[one]) - everything)
            for one in done[: self.perceiver.nbest]
        ]  # fmt: skip

    def _words(
        self, token: int, steps: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    ) -> tuple[tuple[HeardWord, ...], tuple[str, ...]]:
        """Walk back from a token at the end."""
        labels, histories = [], []
        for source_H, last_H, history_H in reversed(steps):
            labels.append(int(last_H[token]))
            histories.append(int(history_H[token]))
            token = int(source_H[token])
        labels.reverse()
        histories.reverse()
        # A word is entered in the frame in which its last phone starts.
        begun: int | None = None
        phones: list[int] = []
        words: list[HeardWord] = []
        before, last = 0, -1
        for t, (label, history) in enumerate(zip(labels, histories, strict=True)):
            if label >= 0 and (label != last or history != before):
                begun = t if begun is None else begun
                phones.append(label)
                if history != before:
                    end = t + 1
                    while end < len(labels) and labels[end] == label:
                        if histories[end] != history:
                            break
                        end += 1
                    words.append(self._word(history, tuple(phones), (begun, end)))
                    begun, phones = None, []
            before, last = history, label
        return tuple(words), tuple(phone for word in words for phone in word.canonical)

    def _word(self, history: int, said: tuple[int, ...], span: tuple[int, int]) -> HeardWord:
        text = self.lexicon.words[self.history[history][1]]
        return HeardWord(text, self._pronunciation(text, said), span)

    def _pronunciation(self, text: str, said: tuple[int, ...]) -> tuple[str, ...]:
        """Tell which pronunciation a form belongs to: walk down the tree to its end."""
        lexicon = self.lexicon
        node = 0
        for phone in said:
            children = lexicon.child[lexicon.child_start_K[node] : lexicon.child_start_K[node + 1]]
            node = int(children[np.flatnonzero(lexicon.label_K[children] == phone)[0]])
        ends = range(int(lexicon.end_start_K[node]), int(lexicon.end_start_K[node + 1]))
        best = max(
            (end for end in ends if lexicon.words[lexicon.end_word[end]] == text),
            key=lambda end: float(lexicon.end_weight[end]),
        )
        return lexicon.entries[text][int(lexicon.end_which[best])]


def _ranges(first_N: np.ndarray, count_N: np.ndarray) -> np.ndarray:
    """Return first, first + 1, … of each count, one behind the other."""
    if not len(first_N):
        return np.zeros(0, np.int64)
    ends = np.cumsum(count_N)
    return np.arange(int(ends[-1])) - np.repeat(ends - count_N - first_N, count_N)
