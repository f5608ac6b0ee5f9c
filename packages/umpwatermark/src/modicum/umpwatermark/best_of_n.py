"""A watermark for models behind an interface that gives text and no probabilities.

A response is written block by block (a sentence, or so many tokens). For each block the model is
asked for N candidates, every candidate gets a uniform keyed by its own text and by the block before
it, and the one with the largest is kept. A detector splits a text into the same blocks and looks
whether their uniforms are large: each block carries ``H_N - 1`` nats above the null, where
``H_N = 1 + 1/2 + … + 1/N``. Takes strings or token ids; knows no model.

What holds exactly, given N candidates drawn independently from the model:

- Candidates that are equal after `normalize` count as one, and one that was drawn c times gets the
  clock ``-ln(U) / c``; the first clock to ring is kept. Over keys every candidate is as likely as
  its share of the draws, so a block has exactly the model's law, also with duplicates. (Keeping the
  largest uniform of the distinct candidates instead would favour rare ones as soon as N > 2.)
- A block after a preceding block that occurred before in the same response is not marked, since its
  uniforms were looked at before; nor are the first ``warmup`` blocks. There the first candidate is
  taken. So a whole response has the model's law over keys. Two responses of one key that pass
  through the same preceding block are correlated, as with every keyed watermark.
- For text that does not depend on the key the uniforms of blocks with distinct preceding blocks are
  independent and uniform, whatever the text, so the p-value is exact.

Source: our construction, close to WaterMax (arXiv 2403.04808).

Legend: ``N`` candidates, ``S`` scored blocks.
"""

import hashlib
import re
import unicodedata
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modicum.core.prf import derive_key, key_id, uniform53
from modicum.umpwatermark.nulls import clamp_p

if TYPE_CHECKING:
    from numpy.typing import NDArray

Block = str | Sequence[int]
"""A piece of text, or of token ids."""

Sample = Callable[[Any, int], Sequence[Block]]
"""``sample(prefix, n)`` returns n independent continuations of a prefix."""

AsyncSample = Callable[[Any, int], Awaitable[Sequence[Block]]]

DOMAIN = "ump-block"

# A sentence ends behind a full stop, question or exclamation mark and what closes after it, if
# white space follows (full-width marks need none), or at a line break. The white space is its own.
_END_OF_SENTENCE = re.compile(
    "(?<=[.!?\u2026])[\"'\u201d\u2019)\\]]*\\s+"
    "|(?<=[\u3002\uff01\uff1f])(?![\u3002\uff01\uff1f])[\u201d\u2019\u300d\u300f\uff09]*\\s*"
    "|\\n\\s*"
)


def split_sentences(text: str) -> list[str]:
    """Split a text into sentences, without losing a character.

    Parameters
    ----------
    text
        Any text.

    Returns
    -------
    list of str
        Pieces that join to the text; each ends after the white space that follows a sentence or a
        line break.

    Examples
    --------
    >>> split_sentences("It cost 3.50. Why? See below.")
    ['It cost 3.50. ', 'Why? ', 'See below.']
    """
    ends = [match.end() for match in _END_OF_SENTENCE.finditer(text)]
    starts = [0, *ends]
    pieces = [text[at:end] for at, end in zip(starts, [*ends, len(text)], strict=True) if at < end]
    # Leading white space alone would be a block that says nothing.
    if len(pieces) > 1 and not pieces[0].strip():
        pieces[:2] = [pieces[0] + pieces[1]]
    return pieces


def normalize(text: str) -> str:
    """Return the form of a text that is keyed: NFKC, single blanks, none at either end."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _encode(block: Block) -> bytes:
    # Strings and ids cannot collide, and the length of each part keeps neighbours apart.
    if isinstance(block, str):
        raw = b"s" + normalize(block).encode("utf-8", "surrogatepass")
    else:
        raw = b"i" + np.asarray(block, dtype="<i8").tobytes()
    return len(raw).to_bytes(8, "little") + raw


def _is_empty(block: Block) -> bool:
    return not (normalize(block) if isinstance(block, str) else len(block))


class BestOfN:
    """Keep, of N candidates for each block, the one the key likes best.

    Parameters
    ----------
    key
        Secret key, see `modicum.core.prf.master_key`.
    num_candidates
        N, at least 2.
    block_tokens
        Blocks of so many token ids; the texts are then sequences of ids.
    splitter
        For strings: splits a text into blocks that join to the text. The default is
        `split_sentences`; not to be given with ``block_tokens``.
    context_blocks
        How many preceding blocks enter the uniform, at least 1. With more, an edit spoils more
        blocks and fewer blocks are skipped as repeated.
    warmup
        Leading blocks that are neither marked nor scored; ``None`` means ``context_blocks``. With
        fewer, responses that begin alike are correlated over one key.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter and its value.

    Examples
    --------
    >>> marker = BestOfN(b"0123456789abcdef", num_candidates=4)
    >>> marker.choose(["Hello. "], ["Yes.", "No.", "Yes.", "Maybe."]) in range(4)
    True
    """

    def __init__(
        self,
        key: bytes | str | int,
        num_candidates: int = 8,
        *,
        block_tokens: int | None = None,
        splitter: Callable[[str], list[str]] | None = None,
        context_blocks: int = 1,
        warmup: int | None = None,
    ) -> None:
        self._key = derive_key(key, DOMAIN)
        self.key_id = key_id(key)
        self.num_candidates = _at_least("num_candidates", num_candidates, 2)
        self.block_tokens = (
            None if block_tokens is None else _at_least("block_tokens", block_tokens, 1)
        )
        if block_tokens is not None and splitter is not None:
            raise ValueError(
                f"block_tokens={block_tokens} cuts token ids and splitter cuts strings; give one "
                "of them"
            )
        self.splitter = splitter or split_sentences
        self.context_blocks = _at_least("context_blocks", context_blocks, 1)
        self.warmup = self.context_blocks if warmup is None else _at_least("warmup", warmup, 0)

    def blocks(self, text: Any) -> list[Any]:
        """Split a text (or a sequence of ids) into blocks.

        Raises
        ------
        TypeError
            For ids without ``block_tokens``, or a string with it.
        ValueError
            If the splitter's blocks do not join to the text.
        """
        if isinstance(text, str) != (self.block_tokens is None):
            wanted = "a string" if self.block_tokens is None else "a sequence of token ids"
            raise TypeError(f"this watermark reads {wanted}, got {type(text).__name__}")
        if self.block_tokens is not None:
            ids = [int(i) for i in text]
            return [
                ids[at : at + self.block_tokens] for at in range(0, len(ids), self.block_tokens)
            ]
        pieces = self.splitter(text)
        if "".join(pieces) != text:
            raise ValueError("the splitter's blocks must join to the text")
        return pieces

    def uniform(self, previous: Sequence[Block], block: Block) -> float:
        """Return the keyed uniform of a block behind its preceding blocks, in (0, 1).

        Parameters
        ----------
        previous
            Preceding blocks; the last ``context_blocks`` count.
        block
            The block.
        """
        context = previous[-self.context_blocks :]
        digest = hashlib.blake2b(
            b"".join(_encode(part) for part in (*context, block)), key=self._key, digest_size=8
        ).digest()
        low, high = int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
        return float(uniform53(high, low))

    def choose(self, previous: Sequence[Block], candidates: Sequence[Block]) -> int:
        """Choose among candidates for the next block.

        Parameters
        ----------
        previous
            The response's preceding blocks (at least the last ``context_blocks``).
        candidates
            Independent draws from the model; equal ones are merged, see the module.

        Returns
        -------
        int
            Index of the candidate to keep: of equal ones the first.

        Raises
        ------
        ValueError
            Without candidates.
        """
        if not len(candidates):
            raise ValueError("choose needs at least one candidate")
        counts: dict[bytes, int] = {}
        first: dict[bytes, int] = {}
        for index, candidate in enumerate(candidates):
            code = _encode(candidate)
            counts[code] = counts.get(code, 0) + 1
            first.setdefault(code, index)
        clocks = {
            code: -np.log(self.uniform(previous, candidates[index])) / counts[code]
            for code, index in first.items()
        }
        return first[min(clocks, key=lambda code: (clocks[code], first[code]))]

    def marked(self, blocks: Sequence[Block]) -> "NDArray[np.bool_]":
        """Return which blocks are marked and scored, bool ``[len(blocks)]``.

        Those behind the warm-up whose preceding blocks did not occur there before.
        """
        seen: set[tuple[bytes, ...]] = set()
        found = np.zeros(len(blocks), dtype=bool)
        for at in range(self.warmup, len(blocks)):
            context = tuple(
                _encode(block) for block in blocks[max(0, at - self.context_blocks) : at]
            )
            found[at] = context not in seen
            seen.add(context)
        return found

    def generate(self, sample: Sample, num_blocks: int, prefix: Any = None) -> Any:
        """Write a response.

        Parameters
        ----------
        sample
            ``sample(prefix, n)`` returns n independent continuations: strings, or sequences of ids
            with ``block_tokens``. Each is cut after its first block, so a continuation should reach
            the end of a block. An empty continuation is the end of the response, and competes like
            any other.
        num_blocks
            Most blocks to write, at least 1.
        prefix
            The prompt that continuations follow: a string, or ids; ``None`` is empty. It is given
            to ``sample`` with the response appended and is not part of the result.

        Returns
        -------
        str or list of int
            The response. It is found again if its blocks come out of splitting it as they went in:
            a sentence that was cut short joins the next one, and then both carry no evidence.

        Raises
        ------
        TypeError
            If prefix or continuations are of the other kind (strings, ids).
        ValueError
            If ``sample`` returns another number of continuations.
        """
        steps = self._write(num_blocks, prefix)
        request = next(steps)
        try:
            while True:
                request = steps.send(sample(*request))
        except StopIteration as end:
            return end.value

    async def agenerate(self, sample: AsyncSample, num_blocks: int, prefix: Any = None) -> Any:
        """Write a response with a ``sample`` that is a coroutine function; see `generate`."""
        steps = self._write(num_blocks, prefix)
        request = next(steps)
        try:
            while True:
                request = steps.send(await sample(*request))
        except StopIteration as end:
            return end.value

    def _write(
        self, num_blocks: int, prefix: Any
    ) -> Generator[tuple[Any, int], Sequence[Any], Any]:
        # Yields what to sample and takes the continuations, so that both drivers share the steps.
        blocks: list[Any] = []
        empty: Any = "" if self.block_tokens is None else []
        prompt = empty if prefix is None else prefix
        if isinstance(prompt, str) != isinstance(empty, str):
            wanted_kind = "a string" if isinstance(empty, str) else "a sequence of token ids"
            raise TypeError(f"prefix must be {wanted_kind}, got {type(prefix).__name__}")
        if not isinstance(prompt, str):
            prompt = [int(i) for i in prompt]
        for _ in range(_at_least("num_blocks", num_blocks, 1)):
            # An unmarked block needs a single draw.
            wanted = self.num_candidates if self.marked([*blocks, empty])[-1] else 1
            continuations = yield prompt + self._join(blocks), wanted
            if len(continuations) != wanted:
                raise ValueError(
                    f"sample was asked for {wanted} continuations and returned {len(continuations)}"
                )
            candidates = [self._first_block(continuation) for continuation in continuations]
            block = candidates[self.choose(blocks, candidates) if wanted > 1 else 0]
            if _is_empty(block):
                break
            blocks.append(block)
        return self._join(blocks)

    def _first_block(self, continuation: Any) -> Any:
        pieces = self.blocks(continuation)
        return pieces[0] if pieces else continuation

    def _join(self, blocks: list[Any]) -> Any:
        if self.block_tokens is None:
            return "".join(blocks)
        return [token for block in blocks for token in block]

    def detector(self) -> "BlockDetector":
        """Return the detector of this watermark."""
        return BlockDetector(self)


@dataclass(frozen=True, eq=False)
class BlockDetection:
    """What a `BlockDetector` says about a text.

    Attributes
    ----------
    num_blocks_scored
        S, blocks behind the warm-up with distinct preceding blocks.
    score
        ``sum of -ln(1 - Y)`` over them, in nats.
    p_value
        Exact: ``P(Gamma(S, 1) >= score)``; 1 without scored blocks.
    y_S
        float64; the scored blocks' uniforms.
    scored
        bool; which blocks of the text were scored.
    """

    num_blocks_scored: int
    score: float
    p_value: float
    y_S: "NDArray[np.float64]"
    scored: "NDArray[np.bool_]"


class BlockDetector:
    """Find the watermark of `BestOfN` in a text.

    Parameters
    ----------
    watermark
        The same key, blocks and context as at generation; the number of candidates is not used.
    """

    def __init__(self, watermark: BestOfN) -> None:
        self.watermark = watermark

    def __call__(self, text: Any) -> BlockDetection:
        """Test a text, or a sequence of ids, given without its prompt.

        Raises
        ------
        TypeError, ValueError
            As `BestOfN.blocks`.
        """
        return self.detect_blocks(self.watermark.blocks(text))

    def detect_blocks(self, blocks: Iterable[Block]) -> BlockDetection:
        """Test a response whose blocks are known.

        Returns
        -------
        BlockDetection
        """
        from scipy.special import gammaincc

        parts = list(blocks)
        scored = self.watermark.marked(parts)
        places = np.flatnonzero(scored)
        y_S = np.array([self.watermark.uniform(parts[:at], parts[at]) for at in places])
        score = float(-np.log1p(-y_S).sum())
        count = len(places)
        p_value = clamp_p(float(gammaincc(count, score))) if count else 1.0
        return BlockDetection(count, score, p_value, y_S, scored)


def expected_evidence(num_candidates: int) -> float:
    """Return ``H_N - 1``, a block's mean score above the null with N distinct candidates, in nats.

    A block kept out of ``c`` equal draws among N carries ``H_{N/c} - 1``, continued to real
    arguments by the digamma function; so a model that repeats itself carries less.
    """
    count = _at_least("num_candidates", num_candidates, 1)
    return float(sum(1 / k for k in range(2, count + 1)))


def _at_least(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)
