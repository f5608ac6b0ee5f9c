"""What is filed beside marked text, and the key files it never contains.

A record holds every parameter that generator and detector must agree on, as JSON, and a public name
of the key. Keys live in files of their own, readable by their owner only. Knows no particular
watermark: parameters are whatever the scheme puts there.
"""

import json
import os
import secrets
import tempfile
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from modicum.core.prf import MIN_KEY_BYTES, PRF_VERSION

RECORD_FORMAT = 1
"""Changes whenever a reader of the former format would misread a record."""

KEY_BYTES = 32


@dataclass(frozen=True)
class WatermarkRecord:
    """Parameters of a watermark without its key.

    Attributes
    ----------
    scheme
        Name of the scheme, for instance ``"ewatermark"``.
    prf, prf_version
        Name and version of the pseudo-random function.
    parameters
        JSON-able parameters of the scheme.
    anchor_fingerprint
        Fingerprint of the anchor (surrogate) the detector needs; ``None`` if it needs none.
    tokenizer_hash
        Hash of the tokenizer, if known.
    key_id
        Public name of the key; see `modicum.core.prf.key_id`.
    format
        Version of this format.

    Raises
    ------
    ValueError
        If format or PRF version are not the ones this release reads.
    """

    scheme: str
    prf: str
    prf_version: int
    parameters: dict[str, Any]
    anchor_fingerprint: str | None
    tokenizer_hash: str | None
    key_id: str
    format: int = field(default=RECORD_FORMAT)

    def __post_init__(self) -> None:
        if self.format != RECORD_FORMAT:
            raise ValueError(
                f"the record has format {self.format!r}; this release reads {RECORD_FORMAT}"
            )
        if self.prf_version != PRF_VERSION:
            raise ValueError(
                f"the record was written with PRF version {self.prf_version!r}; this release "
                f"computes version {PRF_VERSION}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-able values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "WatermarkRecord":
        """Rebuild a record.

        Raises
        ------
        ValueError
            If fields are missing or unknown, or a version is not readable.
        """
        names = {f.name for f in fields(cls)}
        if not isinstance(values, dict):
            raise ValueError(f"a record is a JSON object, got {type(values).__name__}")
        missing, unknown = names - set(values), set(values) - names
        if missing or unknown:
            raise ValueError(
                f"not a watermark record: missing {sorted(missing)}, unknown {sorted(unknown)}"
            )
        return cls(**values)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record as JSON, replacing the file atomically."""
        write_atomically(Path(path), (json.dumps(self.to_dict(), indent=2) + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "WatermarkRecord":
        """Read a record.

        Raises
        ------
        ValueError
            If the file is not JSON or not a record, naming the file.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error

    def check_compatible(
        self, expected: "WatermarkRecord", allow_mismatch: Collection[str] = ()
    ) -> None:
        """Check that another record describes the same watermark.

        Parameters
        ----------
        expected
            The record to compare with.
        allow_mismatch
            Names of fields that may differ.

        Raises
        ------
        ValueError
            Naming each field that differs, with both values. Tokenizer hashes count only when
            both are known.
        """
        differences = []
        for f in fields(self):
            mine, other = getattr(self, f.name), getattr(expected, f.name)
            unknown = f.name == "tokenizer_hash" and (mine is None or other is None)
            if mine == other or unknown or f.name in allow_mismatch:
                continue
            if f.name == "parameters":
                keys = sorted(k for k in {*mine, *other} if mine.get(k) != other.get(k))
                differences += [f"{k}: {mine.get(k)!r} against {other.get(k)!r}" for k in keys]
            else:
                differences.append(f"{f.name}: {mine!r} against {other!r}")
        if differences:
            raise ValueError("the watermark records differ in " + "; ".join(differences))


def write_atomically(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file so that readers see the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def generate_key() -> bytes:
    """Return 32 bytes from the operating system's random source."""
    return secrets.token_bytes(KEY_BYTES)


def save_key(key: bytes, path: str | os.PathLike[str]) -> None:
    """Write a key as hexadecimal digits, readable by its owner only.

    Raises
    ------
    FileExistsError
        If the file exists: a key that is overwritten is lost, and with it every detection.
    ValueError
        If the key is shorter than 16 bytes.
    """
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(f"key has {len(key)} bytes; at least {MIN_KEY_BYTES} are needed")
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists; a key file is never overwritten")
    write_atomically(path, key.hex().encode() + b"\n", mode=0o600)


def load_key(path: str | os.PathLike[str]) -> bytes:
    """Read a key file: hexadecimal digits, or raw bytes if it holds anything else.

    Raises
    ------
    ValueError
        If it holds fewer than 16 bytes.
    """
    raw = Path(path).read_bytes()
    try:
        key = bytes.fromhex(raw.decode("ascii").strip())
    except ValueError:
        key = raw
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(
            f"{os.fspath(path)} holds a key of {len(key)} bytes; at least {MIN_KEY_BYTES} are needed"
        )
    return key
