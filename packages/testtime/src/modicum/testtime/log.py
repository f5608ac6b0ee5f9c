"""The log of a run: one JSON line per sample, appended as samples are decided on, read to resume.

A `SampleLog` takes samples and gives back, by prompt and sample index, what an earlier run of the
same settings already paid for. It knows neither engines nor strategies. The file is valid after
every line: a run that is killed loses at most the line being written, and a cut last line is
dropped when the file is opened again.

Layout: the first line is the header (settings of the run, by name); then a line per sample; a line
without ``"text"`` amends an earlier one (a sample that was waiting when a run was interrupted and
is used after all by the run that goes on).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Collection, Hashable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from modicum.testtime.samples import Completion, Prompt, Sample

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "FORMAT",
    "SampleLog",
    "decode_key",
    "encode_key",
    "prompt_digest",
    "read_samples",
    "sample_from_record",
    "sample_to_record",
]

FORMAT = 1
"""Number of the layout of a log; raised when an older reader could misread it."""

# Which version of the package wrote a log says nothing about the samples in it.
_INFORMATIVE = frozenset({"version"})
_BYTES_OF_DIGEST = 8


# Keys and samples as JSON ------------------------------------------------------------------------


def encode_key(key: Hashable | None) -> Any:
    """Return a canonical answer as a JSON value.

    Strings, numbers, booleans and None stay as they are, tuples become ``{"$tuple": […]}``,
    frozensets ``{"$set": […]}`` and non-finite floats ``{"$float": …}``. Anything else is kept as
    its ``repr`` (``{"$repr": …}``): it can be counted, not computed with.
    """
    if hasattr(key, "item") and hasattr(key, "dtype"):
        key = key.item()
    if key is None or isinstance(key, str | bool | int):
        return key
    if isinstance(key, float):
        return key if math.isfinite(key) else {"$float": repr(key)}
    if isinstance(key, tuple):
        return {"$tuple": [encode_key(part) for part in key]}
    if isinstance(key, frozenset):
        return {"$set": sorted((encode_key(part) for part in key), key=repr)}
    return {"$repr": repr(key)}


def decode_key(value: Any) -> Hashable | None:
    """Return the canonical answer that `encode_key` wrote; a ``repr`` comes back as a string.

    Raises
    ------
    ValueError
        If the value is nothing that `encode_key` writes.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, dict) and len(value) == 1:
        ((kind, content),) = value.items()
        if kind == "$tuple":
            return tuple(decode_key(part) for part in content)
        if kind == "$set":
            return frozenset(decode_key(part) for part in content)
        if kind == "$float":
            return float(content)
        if kind == "$repr":
            return str(content)
    raise ValueError(f"{value!r} is not a key as logs hold it")


def sample_to_record(sample: Sample) -> dict[str, Any]:
    """Return a sample as the JSON object of its line; what is absent is left out."""
    record: dict[str, Any] = {
        "prompt_id": sample.prompt_id,
        "sample_index": sample.sample_index,
        "seed": sample.seed,
        "text": sample.text,
        "key": encode_key(sample.key),
        "reward": sample.reward,
        "finish_reason": sample.finish_reason,
        "n_prompt_tokens": sample.n_prompt_tokens,
        "n_tokens": sample.n_tokens,
        "used": sample.used,
    }
    if sample.latency_s:
        record["latency_s"] = sample.latency_s
    if sample.logprob_sum is not None:
        record["logprob_sum"] = encode_key(sample.logprob_sum)  # a server may say -inf
    if sample.expert:
        record["expert"] = sample.expert
    if sample.round:
        record["round"] = sample.round
    if sample.tool_calls:
        record["tool_calls"] = list(sample.tool_calls)
    return record


def sample_from_record(record: Mapping[str, Any]) -> Sample:
    """Return the sample of a line.

    Raises
    ------
    ValueError
        If a field is missing.
    """
    try:
        return Sample(
            prompt_id=record["prompt_id"],
            sample_index=record["sample_index"],
            seed=record.get("seed", 0),
            text=record["text"],
            key=decode_key(record.get("key")),
            reward=record.get("reward"),
            finish_reason=record.get("finish_reason", "stop"),
            n_prompt_tokens=record.get("n_prompt_tokens", 0),
            n_tokens=record.get("n_tokens", 0),
            latency_s=record.get("latency_s", 0.0),
            logprob_sum=_logprob(record),
            used=record.get("used", True),
            expert=record.get("expert", ""),
            round=record.get("round", 0),
            tool_calls=tuple(record.get("tool_calls", ())),
        )
    except KeyError as error:
        raise ValueError(f"a sample needs the field {error.args[0]!r}") from error


def _logprob(record: Mapping[str, Any]) -> float | None:
    value: Any = decode_key(record.get("logprob_sum"))
    return value


def completion_from_record(record: Mapping[str, Any]) -> Completion:
    """Return the completion that a line holds."""
    return Completion(
        text=record["text"],
        finish_reason=record["finish_reason"],
        logprob_sum=_logprob(record),
        n_prompt_tokens=record["n_prompt_tokens"],
        n_tokens=record["n_tokens"],
        latency_s=record.get("latency_s", 0.0),
        tool_calls=tuple(record.get("tool_calls", ())),
    )


def prompt_digest(prompt: Prompt) -> str:
    """Return 16 hex digits that tell prompts apart."""
    text = prompt if isinstance(prompt, str) else json.dumps(list(prompt), default=str)
    data = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=_BYTES_OF_DIGEST).hexdigest()


def _line(record: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, as byte-level tokenizers produce
        return json.dumps(record, allow_nan=False).encode() + b"\n"


# The file ----------------------------------------------------------------------------------------


class SampleLog:
    """Append-only JSONL file of a run's samples.

    Parameters
    ----------
    path
        The file; made if missing (with its folder), gone on with if it exists.
    header
        Settings of the run, JSON-ready: whatever the samples or the decisions depend on.
    may_differ
        Names of header fields in which an existing file may differ, such as ``"rule"`` to go on
        with the samples of a run that stopped by another rule. The file keeps its own header; if
        its ``"verifier"`` differs, its rewards are not used.

    Raises
    ------
    ValueError
        If the file belongs to a run of other settings (naming the field and both values), a line
        other than the last is not readable (naming its number) or a sample stands there twice.
    BlockingIOError
        If another run has the file open, where the system knows locks.

    Notes
    -----
    A sample's line is written when it is decided whether it counts (``used``), before anything is
    made of it. Lines go to the operating system at once, and to the disk when the log is closed.
    In memory are the places of the lines that were there at the opening, never their texts.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        header: Mapping[str, Any] | None = None,
        *,
        may_differ: Collection[str] = (),
    ) -> None:
        self.path = Path(path)
        self.may_differ = frozenset(may_differ) | _INFORMATIVE
        self._offsets: dict[str, dict[int, int]] = {}
        self._amendments: dict[tuple[str, int], dict[str, Any]] = {}
        self._written: dict[str, int] = {}
        self._count = 0
        self._rewards_hold = True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 closed by `close`
        try:
            _lock(self._file, self.path)
            self.header = self._open({"format": FORMAT, **(header or {})})
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Return how many samples the file holds."""
        return self._count

    def __contains__(self, name: tuple[str, int]) -> bool:
        """Say whether a sample (prompt_id, sample_index) stands in the file."""
        return bool(self._written.get(name[0], 0) >> name[1] & 1)

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._file.closed

    def close(self) -> None:
        """Bring everything to the disk and close the file."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()

    def get(self, prompt_id: str, sample_index: int) -> dict[str, Any] | None:
        """Return the line of a sample that was there at the opening, amendments applied, or None.

        Raises
        ------
        ValueError
            If the file is no longer what it was at the opening.
        """
        offset = self._offsets.get(prompt_id, {}).get(sample_index)
        if offset is None:
            return None
        self._file.seek(offset)
        record = json.loads(_read_line(self._file))
        if (record.get("prompt_id"), record.get("sample_index")) != (prompt_id, sample_index):
            raise ValueError(f"{self.path} was changed while it was open")
        record |= self._amendments.get((prompt_id, sample_index), {})
        return record if self._rewards_hold else record | {"reward": None, "feedback": ""}

    def append(self, sample: Sample, digest: str = "", feedback: str = "") -> None:
        """Write a sample's line.

        Parameters
        ----------
        sample
            What is written.
        digest
            `prompt_digest` of the request, checked when a later run asks for the sample.
        feedback
            Text that the verifier gave with the reward.

        Raises
        ------
        ValueError
            If the sample stands there already.
        """
        record = sample_to_record(sample)
        if digest:
            record["prompt"] = digest
        if feedback:
            record["feedback"] = feedback
        self._note(sample.prompt_id, sample.sample_index)
        self._file.write(_line(record))

    def amend(self, sample: Sample, feedback: str = "") -> None:
        """Write that a sample of an earlier run has another key, reward or use than its line says.

        Raises
        ------
        ValueError
            If the sample does not stand there.
        """
        if (sample.prompt_id, sample.sample_index) not in self:
            raise ValueError(
                f"{self.path} has no sample {sample.sample_index} of prompt {sample.prompt_id!r}"
                " to amend"
            )
        record = {
            "prompt_id": sample.prompt_id,
            "sample_index": sample.sample_index,
            "key": encode_key(sample.key),
            "reward": sample.reward,
            "used": sample.used,
        }
        self._file.write(_line(record | ({"feedback": feedback} if feedback else {})))

    def _note(self, prompt_id: str, sample_index: int) -> None:
        mask, bit = self._written.get(prompt_id, 0), 1 << sample_index
        if mask & bit:
            raise ValueError(
                f"{self.path} already has sample {sample_index} of prompt {prompt_id!r}"
            )
        self._written[prompt_id] = mask | bit
        self._count += 1

    def _open(self, header: dict[str, Any]) -> dict[str, Any]:
        """Index the file and return its header; write `header` into an empty file."""
        found: dict[str, Any] | None = None
        for number, offset, record in _records(self._file, self.path):
            if found is None:
                found = record
                self._check_header(found, header)
            else:
                self._index(number, offset, record)
        if found is None:
            self._file.write(_line(header))
            return header
        return found

    def _check_header(self, found: Mapping[str, Any], header: Mapping[str, Any]) -> None:
        if "format" not in found or "text" in found:
            raise ValueError(f"{self.path} is not a log of samples: its first line is no header")
        # What goes through JSON comes back with lists for tuples.
        asked = json.loads(_line(header))
        for field in sorted(found.keys() | asked.keys()):
            if field not in self.may_differ and found.get(field) != asked.get(field):
                raise ValueError(
                    f"{self.path} belongs to another run: its {field} is {found.get(field)!r},"
                    f" this run's is {asked.get(field)!r}; take another file, or name the field in"
                    " SampleLog(…, may_differ=…) if that is meant"
                )
        self._rewards_hold = found.get("verifier") == asked.get("verifier")

    def _index(self, number: int, offset: int, record: Mapping[str, Any]) -> None:
        prompt_id, sample_index = record.get("prompt_id"), record.get("sample_index")
        if not isinstance(prompt_id, str) or not isinstance(sample_index, int):
            raise ValueError(f"{self.path}, line {number}: no sample of a prompt")
        if "text" not in record:
            changed = {k: v for k, v in record.items() if k not in ("prompt_id", "sample_index")}
            self._amendments[prompt_id, sample_index] = changed
            return
        try:
            self._note(prompt_id, sample_index)
        except ValueError as error:
            raise ValueError(f"{self.path}, line {number}: {error}") from None
        self._offsets.setdefault(prompt_id, {})[sample_index] = offset


def _lock(file: Any, path: Path) -> None:
    """Keep other runs off the file until it is closed: their samples would stand there twice."""
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(
            f"{path} is open in another run; wait for its end or take another file"
        ) from None
    except OSError:
        pass  # some network file systems have no locks


def _read_line(file: Any) -> bytes:
    """Read to the end of the line from an unbuffered file."""
    parts = []
    while chunk := file.read(1 << 13):
        head, newline, _ = chunk.partition(b"\n")
        parts.append(head)
        if newline:
            break
    return b"".join(parts)


def _records(file: Any, path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield line number, byte offset and object of every line; mend the end of the file.

    A last line that was cut is taken off with a warning; one that only lacks its newline gets it.
    """
    size = file.seek(0, os.SEEK_END)
    offset = 0
    line = b"\n"
    with open(path, "rb") as reader:
        for number, line in enumerate(reader, 1):
            end = offset + len(line)
            try:
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError("not a JSON object")
            except ValueError as error:
                if end < size:
                    raise ValueError(f"{path}, line {number} is not readable: {error}") from error
                warnings.warn(
                    f"{path}: the last line ({number}) was cut and is dropped", stacklevel=4
                )
                file.truncate(offset)
                return
            yield number, offset, record
            offset = end
    if not line.endswith(b"\n"):
        file.write(b"\n")


def read_samples(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[Sample]]:
    """Read a log for its own sake, without opening it for a run.

    Takes logs with a header and plain files of samples (one JSON object with at least
    ``prompt_id``, ``sample_index`` and ``text`` per line).

    Returns
    -------
    header : dict
        Empty if the file has none.
    samples : list of Sample
        In the order of their lines, amendments applied.

    Raises
    ------
    ValueError
        Naming file and line of what is not readable or stands there twice.
    """
    header: dict[str, Any] = {}
    samples: dict[tuple[str, int], dict[str, Any]] = {}
    lines = Path(path).read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if number == 1 and "format" in record and "text" not in record:
                header = record
                continue
            # Runs name prompts by texts; other programs may have numbered them.
            record["prompt_id"] = str(record["prompt_id"])
            name = record["prompt_id"], record["sample_index"]
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):  # cut while it was written
                break
            raise ValueError(f"{path}, line {number} is not readable: {error!r}") from error
        if "text" not in record:
            samples[name].update(record)
        elif name in samples:
            raise ValueError(f"{path}, line {number}: sample {name[1]} of prompt {name[0]!r} again")
        else:
            samples[name] = record
    return header, [sample_from_record(record) for record in samples.values()]
