r"""Reading the answer out of a completion.

An *extractor* takes the text of a completion and returns an answer (hashable), or None where there
is none; a completion without an answer costs and does not vote. The functions here make extractors;
they hold settings only, can be pickled and may be nested: ``strip_think(boxed())``,
``after("answer is", last_number())``, ``first_of(boxed(), last_number())``. Whether two answers are
the same is for `modicum.testtime.equality` to say.
"""

from __future__ import annotations

import abc
import inspect
import json
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from modicum.testtime import _numbers
from modicum.testtime.equality import exact
from modicum.testtime.samples import Sample

if TYPE_CHECKING:
    from modicum.testtime.integrations.math_verify import MathVerify

__all__ = [
    "Extractor",
    "after",
    "as_extractor",
    "boxed",
    "choice",
    "first_of",
    "identity",
    "json_path",
    "last_number",
    "math",
    "regex",
    "strip_think",
    "tool_call",
]

Answer = Hashable


class Extractor(abc.ABC):
    """From the text of a completion to its answer.

    Subclasses are frozen dataclasses; their fields are the settings.
    """

    word: ClassVar[str]
    """Name of the function that makes it."""

    @abc.abstractmethod
    def __call__(self, text: str) -> Answer | None:
        """Return the answer in a text, None if there is none."""

    def from_sample(self, sample: Sample) -> Answer | None:
        """Return the answer of a sample; by default that in its text."""
        return self(sample.text)

    def read_reference(self, reference: Any) -> Any:
        """Return a reference answer in the form in which this extractor gives answers.

        A string that has an answer in it ("… #### 18" for `last_number`) becomes that answer, and
        anything else stays as it is.
        """
        if not isinstance(reference, str):
            return reference
        answer = self(reference)
        return reference if answer is None else answer

    @property
    def own_equality(self) -> Callable[[Any, Any], bool] | None:
        """Pairwise equality that its answers call for (that of `math`), None for plain equality."""
        return None

    @property
    def name(self) -> str:
        """Spelling of the extractor with its settings, ``"after('answer is')"``; for log files."""
        values = (getattr(self, item.name) for item in fields(self))  # type: ignore[arg-type]
        return f"{self.word}({', '.join(_spelled(value) for value in values)})"


def _spelled(value: Any) -> str:
    if isinstance(value, Extractor):
        return value.name
    if isinstance(value, tuple):
        return f"({', '.join(_spelled(item) for item in value)})"
    return repr(value)


@dataclass(frozen=True)
class _Function(Extractor):
    """A function of a text as an extractor."""

    word = "function"
    function: Callable[[str], Any]

    def __call__(self, text: str) -> Answer | None:
        return self.function(text)

    def read_reference(self, reference: Any) -> Any:
        return reference

    @property
    def name(self) -> str:
        function = self.function
        return str(getattr(function, "__qualname__", type(function).__qualname__))


def as_extractor(extract: Extractor | Callable[[str], Any] | None) -> Extractor:
    """Return what a user gave for ``extract=`` as an extractor.

    Parameters
    ----------
    extract
        An extractor, a function of a text, or None for `identity`.

    Raises
    ------
    TypeError
        For what cannot be called, or not with a text.
    """
    if extract is None:
        return identity()
    if isinstance(extract, Extractor):
        return extract
    if not callable(extract):
        raise TypeError(f"extract must be an extractor or a function of a text, not {extract!r}")
    try:
        inspect.signature(extract).bind("text")
    except TypeError as error:
        name = getattr(extract, "__name__", repr(extract))
        raise TypeError(
            f"extract must be a function of a text, and {name} is not: {error}. If it makes an "
            f"extractor, call it: {name}()"
        ) from None
    except ValueError:  # some built-in functions have no signature
        pass
    return _Function(extract)


@dataclass(frozen=True)
class _Identity(Extractor):
    word = "identity"

    def __call__(self, text: str) -> str | None:
        return text.strip() or None


def identity() -> Extractor:
    """Take the whole text as the answer, without white space around it; blank is no answer."""
    return _Identity()


@dataclass(frozen=True)
class _LastNumber(Extractor):
    word = "last_number"

    def __call__(self, text: str) -> int | float | None:
        return _numbers.last_number(text)


def last_number() -> Extractor:
    r"""Take the last number, an int where it is whole and a float otherwise.

    Reads ``1,234``, ``12,34,567``, ``$-18.00``, ``50%`` (as 50), ``3/4`` and ``1 1/2`` (as 0.75 and
    1.5), ``\frac{3}{4}``, ``1.5e3``, ``5 \times 10^{3}``, ``10⁶``, any minus sign and full-width
    digits; a full stop after it is not part of it. Not numbers: what is inside a word (``H2O``,
    ``GPT-4``), an index or an exponent (``x_1``, ``x^2``), dates (``2024-05-17``, ``17/05/2024``,
    ``17.05.2024``), times and ratios (``12:30``, ``3:4``), versions (``1.2.3``), and runs of more
    than a thousand digits. Of a range ``3-5`` it takes the 5, and not -5; of a comma without a
    group of three behind it, ``1,5``, it takes what follows.
    """
    return _LastNumber()


_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")


@dataclass(frozen=True)
class _Boxed(Extractor):
    word = "boxed"

    def __call__(self, text: str) -> str | None:
        starts = [match.end() for match in _BOX.finditer(text)]
        if not starts:
            return None
        ends = _closing_braces(text, starts)
        for start in reversed(starts):
            if start in ends and (content := text[start : ends[start]].strip()):
                return content
        return None


def _closing_braces(text: str, starts: Sequence[int]) -> dict[int, int]:
    """Return, for positions just after an opening brace, where that brace is closed."""
    wanted, ends = set(starts), {}
    open_braces: list[int] = []
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        # A backslash takes the next character with it: \{ and \} are signs, no groups.
        if match[0] == "{":
            open_braces.append(match.end())
        elif match[0] == "}" and open_braces:
            start = open_braces.pop()
            if start in wanted:
                ends[start] = match.start()
    return ends


def boxed() -> Extractor:
    r"""Take what is in the last ``\boxed{…}`` (or ``\fbox{…}``) that is closed and not blank.

    Braces are matched, escaped ones (``\{``, ``\}``) do not count. A box that is cut off at the end
    of the text is passed over; of a box in a box the inner one is the last.
    """
    return _Boxed()


@dataclass(frozen=True)
class _After(Extractor):
    word = "after"
    marker: str
    then: Extractor | None = None

    def __call__(self, text: str) -> Answer | None:
        for match in reversed(list(self._pattern.finditer(text))):
            rest = text[match.end() :].lstrip(" \t\r\n:*`\"'")
            line = rest.partition("\n")[0].rstrip(" \t\r*`\"'.,;!")
            if line:
                return line if self.then is None else self.then(line)
        return None

    @property
    def _pattern(self) -> re.Pattern[str]:
        words = (re.escape(word) for word in self.marker.split())
        return re.compile(r"\s+".join(words), re.IGNORECASE)


def after(marker: str, then: Extractor | Callable[[str], Any] | None = None) -> Extractor:
    """Take what follows the last occurrence of a marker, to the end of the line.

    Parameters
    ----------
    marker
        ``"answer is"``; upper and lower case are the same, and so is all white space.
    then
        Extractor for what follows; None takes it as it is, without colons, quotes, asterisks and
        the punctuation of a sentence around it.

    Raises
    ------
    ValueError
        For a blank marker.
    """
    if not marker.strip():
        raise ValueError(f'marker must be a text such as "answer is", not {marker!r}')
    return _After(marker, None if then is None else as_extractor(then))


# "A" is also an article and "I" a pronoun: alone they count only where no sentence goes on, or
# where the verb shows that a choice is meant.
_ARTICLE = r"(?![ \t]+(?!(?:is|was|because|since|as|and|or|are)\b)[a-z])"
_END = r"(?![\w'’-]|\.\w)"
# What may stand between a phrase and its letter: white space, brackets, Markdown, LaTeX.
# Possessive, as two of them may follow each other: blanks to the end of a text took n * n steps.
_WRAP = r"(?:\s|[({\[*`\"'$]|\\(?:text|textbf|mathrm|mathbf)\b)*+"


@dataclass(frozen=True)
class _Choice(Extractor):
    word = "choice"
    letters: str

    def __call__(self, text: str) -> str | None:
        for pattern in _choice_patterns(self.letters):
            found = [match["letter"] for match in pattern.finditer(text)]
            if found:
                return found[-1] if found[-1] in self.letters else found[-1].swapcase()
        return None


@lru_cache(maxsize=32)
def _choice_patterns(letters: str) -> list[re.Pattern[str]]:
    """Ways to name a choice, the most explicit first."""
    as_given = "".join(re.escape(letter) for letter in letters)
    any_case = "".join(re.escape(c) for c in dict.fromkeys(letters + letters.swapcase()))
    alone = "|".join(f"{re.escape(c)}{_ARTICLE if c in 'AI' else ''}" for c in letters)
    # Of the other case ("answer: b") only where nothing but the end can follow: "a" is a word.
    final = rf"[{any_case}](?=[)\]}}*\"'.]*\s*(?:\n|$)|[)])"
    verb = r"(?:is|was|would\s+be|should\s+be|must\s+be|[:=])"
    answer = rf"(?i:\banswer(?:\s+(?:choice|option|letter))?\b)(?:\W{{0,3}}(?i:{verb}))*"
    option = r"(?i:\b(?:option|choice|letter)\b)"
    patterns = (
        rf"\\(?:boxed|fbox)\s*\{{{_WRAP}(?P<letter>[{any_case}])(?=\s*[)}}\].:,])",
        rf"{answer}{_WRAP}(?:{option})?{_WRAP}(?P<letter>{final}|(?:{alone}){_END})",
        rf"{option}{_WRAP}(?P<letter>[{as_given}]{_END})",
        rf"\((?P<letter>[{as_given}])\)",
        rf"\((?P<letter>[{any_case}])\)",
        rf"(?m:^[ \t*#>`\"'$-]*(?P<letter>[{any_case}])[ \t\r*`\"'$.):]*$)",
        rf"\A\s*\**(?P<letter>[{as_given}])[).:]",
        rf"(?<![\w'’-])(?<!\w\.)(?P<letter>{alone}){_END}",
    )
    return [re.compile(pattern) for pattern in patterns]


def choice(letters: str = "ABCDE") -> Extractor:
    r"""Take the letter of a multiple-choice answer.

    Looks for, in this order and for the last of its kind: a letter in ``\boxed{…}``; after "answer
    is", "answer:" and the like; after "option" or "choice"; in parentheses; alone on a line; at the
    start of the text with a bracket or a colon; standing alone in a sentence. Letters inside words
    do not count, nor does the article "A". The other case is taken where it cannot be a word.

    Parameters
    ----------
    letters
        The choices, each one letter or digit; the answer is spelled as here.

    Raises
    ------
    ValueError
        If there is no letter, one twice (in either case), or one that is no letter or digit.
    """
    folded = letters.casefold()
    if not letters or not letters.isalnum() or len(set(folded)) != len(letters):
        raise ValueError(
            f'letters must be different letters or digits, "ABCD" say, not {letters!r}'
        )
    return _Choice(letters)


@dataclass(frozen=True)
class _Regex(Extractor):
    word = "regex"
    pattern: str
    group: int | str
    which: str
    flags: int = 0

    def __call__(self, text: str) -> str | None:
        found = (match[self.group] for match in re.finditer(self.pattern, text, self.flags))
        answer = None
        for content in found:
            if content is not None and content.strip():
                answer = content.strip()
                if self.which == "first":
                    break
        return answer


def regex(
    pattern: str | re.Pattern[str],
    group: int | str | None = None,
    which: Literal["first", "last"] = "last",
    flags: int = 0,
) -> Extractor:
    """Take a group of a regular expression.

    Parameters
    ----------
    pattern
        As for `re`.
    group
        Number or name of the group; None is the first group if there is one, else all of the match.
    which
        The "last" or the "first" match in which the group is not blank.
    flags
        As for `re.compile`; for a pattern that is a text.

    Raises
    ------
    ValueError
        If the pattern is none, or has no such group, or ``which`` is another word.
    """
    try:
        compiled = re.compile(pattern, flags)
    except re.error as error:
        raise ValueError(f"pattern {pattern!r} is no regular expression: {error}") from error
    if group is None:
        group = min(compiled.groups, 1)
    known: set[int | str] = {*range(compiled.groups + 1), *compiled.groupindex}
    if group not in known:
        raise ValueError(f"pattern {compiled.pattern!r} has no group {group!r}")
    if which not in ("first", "last"):
        raise ValueError(f'which must be "first" or "last", not {which!r}')
    return _Regex(compiled.pattern, group, which, compiled.flags)


_STEP = re.compile(r"(?:^|\.)([^.\[\]]+)|\[(-?[0-9]+)\]")
# What may follow an opening bracket in JSON; sets and LaTeX are full of others.
_JSON_START = re.compile(r"""\{(?=\s*["}])|\[(?=\s*[]\[{"\-0-9tfnNI])""")
_NESTED = re.compile(r"(?:\[\s*)*")


@dataclass(frozen=True)
class _JsonPath(Extractor):
    word = "json_path"
    path: str

    def __call__(self, text: str) -> Answer | None:
        found = None
        for document in _json_documents(text):
            answer = exact(_follow(document, _steps(self.path)))
            found = found if answer is None else answer
        return found


def _steps(path: str) -> list[str | int]:
    return [name or int(index) for name, index in _STEP.findall(path)]


def _follow(value: Any, steps: Sequence[str | int]) -> Any:
    """Return what is at a path, None where there is nothing."""
    for step in steps:
        if isinstance(value, Mapping):
            value = value.get(str(step))
        elif isinstance(value, list) and re.fullmatch("-?[0-9]+", str(step)):
            index = int(step)
            value = value[index] if -len(value) <= index < len(value) else None
        else:
            return None
    return value


def _json_documents(text: str) -> Iterator[Any]:
    """Yield the objects and arrays in a text that are in no other one, in order."""
    decoder = json.JSONDecoder()
    position = 0
    while match := _JSON_START.search(text, position):
        try:
            document, position = decoder.raw_decode(text, match.start())
        except ValueError:
            position = match.end()
        except RecursionError:
            # None of the arrays that open here can be read; one attempt each would take too long.
            nested = _NESTED.match(text, match.end())
            position = match.end() if nested is None else nested.end()
        else:
            yield document


def json_path(path: str) -> Extractor:
    """Take a value out of the JSON in a text.

    The JSON may be all of the text, in a code fence or in the middle of prose; of several documents
    the last one that has a value there counts. Objects and arrays become canonical JSON text, null
    is no answer.

    Parameters
    ----------
    path
        Names and indices: ``"result.answers[0].value"`` or ``"result.answers.0.value"``; an index
        may be negative. The empty path is the document itself.

    Raises
    ------
    ValueError
        For a path that is not made like that.
    """
    if "".join(match[0] for match in _STEP.finditer(path)) != path:
        raise ValueError(f'path must look like "result.answers[0]", not {path!r}')
    return _JsonPath(path)


@dataclass(frozen=True)
class _StripThink(Extractor):
    word = "strip_think"
    then: Extractor
    tags: tuple[str, str]
    opened: bool

    def __call__(self, text: str) -> Answer | None:
        return self.then(self.strip(text))

    def from_sample(self, sample: Sample) -> Answer | None:
        return self.then.from_sample(replace(sample, text=self.strip(sample.text)))

    def read_reference(self, reference: Any) -> Any:
        return self.then.read_reference(reference)

    @property
    def own_equality(self) -> Callable[[Any, Any], bool] | None:
        return self.then.own_equality

    def strip(self, text: str) -> str:
        """Return the text without what was thought."""
        opening, closing = self.tags
        thinking, tag_seen, kept = self.opened, self.opened, ""
        for part in re.split(f"({re.escape(opening)}|{re.escape(closing)})", text):
            if part == opening:
                thinking = tag_seen = True
            elif part == closing:
                # Without an opening tag before it, the prompt held that: all so far was thought.
                kept = kept if tag_seen else ""
                thinking, tag_seen = False, True
            elif not thinking:
                kept += part
        return kept.strip()


def strip_think(
    then: Extractor | Callable[[str], Any] | None = None,
    *,
    tags: tuple[str, str] = ("<think>", "</think>"),
    opened_by_prompt: bool = False,
) -> Extractor:
    """Leave out what a model thinks before it answers, then extract.

    Removes every closed block and an unclosed one at the end. Where the text begins inside a block
    (some chat templates end with the opening tag), all up to the closing tag goes.

    Parameters
    ----------
    then
        Extractor for the rest; None takes it as it is.
    tags
        What opens and closes a block.
    opened_by_prompt
        Say so if the prompt always ends with the opening tag: a text without a closing one was then
        cut off while thinking, and has no answer.

    Raises
    ------
    ValueError
        If ``tags`` are not two different texts.
    """
    if isinstance(tags, str) or len(tags) != 2 or not all(tags) or tags[0] == tags[1]:
        raise ValueError(f'tags must be two different texts, ("<think>", "</think>"), not {tags!r}')
    return _StripThink(as_extractor(then), (tags[0], tags[1]), opened_by_prompt)


_TOOL_TAG = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)


@dataclass(frozen=True)
class _ToolCall(Extractor):
    word = "tool_call"
    exclude_args: tuple[str, ...]
    names_only: bool

    def __call__(self, text: str) -> str | None:
        blocks = _TOOL_TAG.findall(text) or [text]
        calls: list[Any] = []
        for block in blocks:
            for document in _json_documents(block):
                calls += document if isinstance(document, list) else [document]
        return self._key(calls)

    def from_sample(self, sample: Sample) -> str | None:
        return self._key(sample.tool_calls) if sample.tool_calls else self(sample.text)

    def _key(self, calls: Sequence[Any]) -> str | None:
        read = [_read_call(call) for call in calls]
        if not read or None in read:
            return None
        kept: list[Any] = []
        for name, arguments in filter(None, read):
            if self.names_only:
                kept.append({"name": name})
            else:
                chosen = {k: v for k, v in arguments.items() if k not in self.exclude_args}
                kept.append({"name": name, "arguments": chosen})
        return str(exact(kept[0] if len(kept) == 1 else kept))


def _read_call(call: Any) -> tuple[str, Mapping[str, Any]] | None:
    """Return name and arguments of a call as APIs write it, None if it is none."""
    if not isinstance(call, Mapping):
        return None
    call = call.get("function", call)
    if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
        return None
    keys = ("arguments", "args", "parameters")
    arguments: Any = next((call[key] for key in keys if key in call), None)
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError:
            return None
    return (call["name"], arguments) if isinstance(arguments, Mapping) else None


def tool_call(exclude_args: Sequence[str] = (), *, names_only: bool = False) -> Extractor:
    """Take the tool calls of a completion, as canonical JSON text.

    Calls are taken from the sample where the backend gives them, and otherwise read from the text:
    JSON in ``<tool_call>`` tags or as it is. The order of arguments does not matter, the order of
    calls does. A call that cannot be read (arguments that are not JSON) is no answer.

    Parameters
    ----------
    exclude_args
        Names of arguments that do not count, such as explanations and identifiers.
    names_only
        Whether the name of the tool is all that counts.

    Raises
    ------
    TypeError
        If ``exclude_args`` is one string.
    """
    if isinstance(exclude_args, str):
        raise TypeError(f"exclude_args must be a list of names, [{exclude_args!r}] say")
    return _ToolCall(tuple(exclude_args), names_only)


@dataclass(frozen=True)
class _FirstOf(Extractor):
    word = "first_of"
    extractors: tuple[Extractor, ...]

    def __call__(self, text: str) -> Answer | None:
        return next((a for e in self.extractors if (a := e(text)) is not None), None)

    def from_sample(self, sample: Sample) -> Answer | None:
        answers = (extractor.from_sample(sample) for extractor in self.extractors)
        return next((answer for answer in answers if answer is not None), None)


def first_of(*extractors: Extractor | Callable[[str], Any]) -> Extractor:
    """Take the answer of the first extractor that finds one.

    Raises
    ------
    ValueError
        If none is given.
    """
    if not extractors:
        raise ValueError("first_of needs at least one extractor")
    return _FirstOf(tuple(as_extractor(extractor) for extractor in extractors))


def math(**options: Any) -> MathVerify:
    """Take the last mathematical expression, as Math-Verify reads it.

    Parameters
    ----------
    options
        As for `modicum.testtime.integrations.math_verify.MathVerify`, whose ``equal`` goes with it:
        ``SelfConsistency(gen, extract=reader, equal=reader.equal)``.

    Raises
    ------
    ImportError
        If Math-Verify is not installed.
    """
    from modicum.testtime.integrations.math_verify import MathVerify

    return MathVerify(**options)
