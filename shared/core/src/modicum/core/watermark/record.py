"""What a detector must know about a generator, as a small JSON file, and the key file beside it.

A record says which scheme, PRF, parameters, anchor and tokenizer marked a text, and names the key
by a hash; it never holds the key. The key lives in a file of its own. Knows no particular scheme.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from modicum.core.prf import MIN_KEY_BYTES, PRF_VERSION, PRFS, key_id

FORMAT = "modicum.watermark"
FORMAT_VERSION = 1
SECRET_NAMES = {"key", "keys", "master_key", "secret", "hashing_key"}


def tokenizer_hash(tokenizer: Any) -> str:
    """Name a tokenizer by its vocabulary.

    Parameters
    ----------
    tokenizer
        A mapping from token strings to ids, or an object with ``get_vocab()``.

    Returns
    -------
    str
        32 hexadecimal digits; equal vocabularies give equal names whatever their order.

    Raises
    ------
    TypeError
        If it is neither.
    """
    vocab = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else tokenizer
    if not isinstance(vocab, Mapping):
        raise TypeError(
            f"expected a vocabulary or an object with get_vocab(), got {type(tokenizer).__name__}"
        )
    pairs = sorted((int(i), str(token)) for token, i in vocab.items())
    return hashlib.blake2b(json.dumps(pairs).encode(), digest_size=16).hexdigest()


def _find_secret(value: Any, path: str) -> str | None:
    if isinstance(value, bytes | bytearray):
        return path
    if isinstance(value, Mapping):
        for name, item in value.items():
            if str(name).lower() in SECRET_NAMES:
                return f"{path}.{name}"
            found = _find_secret(item, f"{path}.{name}")
            if found:
                return found
    if isinstance(value, list | tuple):
        return next(
            filter(None, (_find_secret(v, f"{path}[{i}]") for i, v in enumerate(value))), None
        )
    return None


def _write_atomically(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _other_scheme(found: str, wanted: str) -> str:
    return (
        f"this is a record of scheme {found!r}, expected {wanted!r}; read it with modicum-{found}"
    )


@dataclass(frozen=True)
class WatermarkRecord:
    """The public description of a watermark.

    Parameters
    ----------
    scheme
        Name of the method, for instance ``"ewatermark"``.
    key_id
        Public name of the key, see `modicum.core.prf.key_id`.
    parameters
        Everything else a detector needs to agree on; JSON values only, without secrets.
    prf, prf_version
        Which keyed function, and which edition of it.
    anchor_fingerprint
        `Anchor.fingerprint`, or ``None`` without an anchor.
    tokenizer_hash
        See `tokenizer_hash`, or ``None`` if unknown.
    format_version
        Edition of this file format.

    Raises
    ------
    TypeError
        If a name is not a string or the parameters are no JSON object.
    ValueError
        If the parameters hold bytes, something called a key, or NaN.
    """

    scheme: str
    key_id: str
    parameters: dict[str, Any] = field(default_factory=dict)
    prf: str = "philox"
    prf_version: int = PRF_VERSION
    anchor_fingerprint: str | None = None
    tokenizer_hash: str | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        for name in ("scheme", "key_id", "prf"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise TypeError(f"{name} must be a non-empty string, got {getattr(self, name)!r}")
        for name in ("anchor_fingerprint", "tokenizer_hash"):
            if not isinstance(getattr(self, name), str | None):
                raise TypeError(f"{name} must be a string or None, got {getattr(self, name)!r}")
        for name in ("prf_version", "format_version"):
            if isinstance(getattr(self, name), bool) or not isinstance(getattr(self, name), int):
                raise TypeError(f"{name} must be an int, got {getattr(self, name)!r}")
        if not isinstance(self.parameters, Mapping):
            raise TypeError(f"parameters must be a mapping, got {type(self.parameters).__name__}")
        secret = _find_secret(self.parameters, "parameters")
        if secret:
            raise ValueError(f"{secret} looks like a key; a record names the key by key_id only")
        try:
            plain = json.loads(json.dumps(dict(self.parameters), allow_nan=False))
        except TypeError as error:
            raise TypeError(f"parameters must be JSON values: {error}") from error
        # What comes back from a file must compare equal: tuples have become lists here.
        object.__setattr__(self, "parameters", plain)

    @classmethod
    def for_key(cls, scheme: str, key: bytes | str | int, **others: Any) -> "WatermarkRecord":
        """Build a record for a key; takes the other fields by name."""
        return cls(scheme=scheme, key_id=key_id(key), **others)

    def to_json(self) -> str:
        """Return the record as indented JSON with sorted names."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(
        cls,
        text: str,
        *,
        known_prfs: Mapping[str, int] | None = None,
        scheme: str | None = None,
    ) -> "WatermarkRecord":
        """Read a record.

        Parameters
        ----------
        text
            What `to_json` gave.
        known_prfs
            Version of each PRF the caller can compute; those of `modicum.core.prf` by default.
        scheme
            The only scheme the caller reads; ``None`` takes any.

        Raises
        ------
        ValueError
            If it is no record, of another format version, of another scheme (with the name of the
            package that reads it), or made with a PRF unknown here.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a watermark record: {error}") from error
        if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
            raise ValueError(f'not a watermark record (no "format": "{FORMAT}")')
        version = data.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(
                f"the record has format version {version}, this release reads {FORMAT_VERSION}"
            )
        names = {f.name for f in fields(cls)}
        if set(data) != names:
            raise ValueError(
                f"the record lacks {sorted(names - set(data))} and has unknown fields "
                f"{sorted(set(data) - names)}"
            )
        # Before the PRF, which the package of the other scheme may well know.
        if scheme is not None and data["scheme"] != scheme:
            raise ValueError(_other_scheme(data["scheme"], scheme))
        known = dict.fromkeys(PRFS, PRF_VERSION) if known_prfs is None else known_prfs
        if data["prf"] not in known:
            raise ValueError(
                f"the record (scheme {data['scheme']!r}) needs PRF {data['prf']!r}; known are "
                f"{sorted(known)}"
            )
        if data["prf_version"] != known[data["prf"]]:
            raise ValueError(
                f"the record was made with version {data['prf_version']} of PRF {data['prf']!r}, "
                f"this release computes version {known[data['prf']]}"
            )
        try:
            return cls(**data)
        except TypeError as error:
            raise ValueError(f"not a watermark record: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record as JSON; an older file is replaced in one step."""
        _write_atomically(Path(path), self.to_json().encode())

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        known_prfs: Mapping[str, int] | None = None,
        scheme: str | None = None,
    ) -> "WatermarkRecord":
        """Read a record from a file; see `from_json`."""
        try:
            text = Path(path).read_text(encoding="utf-8")
            return cls.from_json(text, known_prfs=known_prfs, scheme=scheme)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error

    def differences(self, other: "WatermarkRecord") -> dict[str, tuple[Any, Any]]:
        """Return every field that differs, with both values.

        Parameters are listed one by one as ``"parameters.<name>"``; a missing one counts as
        ``None``.
        """
        found = {}
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            if f.name == "parameters":
                for name in sorted({*mine, *theirs}):
                    if mine.get(name) != theirs.get(name):
                        found[f"parameters.{name}"] = (mine.get(name), theirs.get(name))
            elif mine != theirs:
                found[f.name] = (mine, theirs)
        return found

    def check_compatible(
        self, expected: "WatermarkRecord", allow_mismatch: Collection[str] = ()
    ) -> None:
        """Refuse to go on if this record does not describe what the caller has.

        Parameters
        ----------
        expected
            Record built from the detector at hand.
        allow_mismatch
            Fields that may differ: ``"anchor_fingerprint"``, ``"tokenizer_hash"``, …, or
            ``"parameters"`` for all parameters, or ``"parameters.<name>"`` for one.

        Raises
        ------
        TypeError
            If ``allow_mismatch`` is one string instead of a collection.
        ValueError
            If other fields differ (all are named, with both values), or an allowed field does not
            exist.
        """
        if isinstance(allow_mismatch, str):
            raise TypeError(
                f"allow_mismatch must be a collection, for instance ({allow_mismatch!r},)"
            )
        names = {f.name for f in fields(self)}
        strange = {a for a in allow_mismatch if a.split(".")[0] not in names}
        if strange:
            raise ValueError(f"allow_mismatch names unknown fields {sorted(strange)}")
        wrong = {
            name: values
            for name, values in self.differences(expected).items()
            if name not in allow_mismatch and name.split(".")[0] not in allow_mismatch
        }
        if wrong:
            listed = "; ".join(
                f"{name} is {mine!r} in the record and {theirs!r} here"
                for name, (mine, theirs) in wrong.items()
            )
            raise ValueError(f"the watermark record does not match: {listed}")


def record_parameters(
    record: WatermarkRecord, scheme: str, known: Collection[str]
) -> dict[str, Any]:
    """Return the parameters of a record that a scheme can read.

    Parameters
    ----------
    record
        The record.
    scheme
        The caller's scheme.
    known
        Names of the parameters it knows.

    Raises
    ------
    TypeError
        If ``record`` is no record.
    ValueError
        If it is of another scheme (with the name of the package that reads it), or has a parameter
        that is not known.
    """
    if not isinstance(record, WatermarkRecord):
        raise TypeError(
            f"record must be a WatermarkRecord (see WatermarkRecord.load), got "
            f"{type(record).__name__}"
        )
    if record.scheme != scheme:
        raise ValueError(_other_scheme(record.scheme, scheme))
    unknown = set(record.parameters) - set(known)
    if unknown:
        raise ValueError(f"the record has unknown parameters {sorted(unknown)}")
    return dict(record.parameters)


def _check_key(key: bytes) -> bytes:
    if not isinstance(key, bytes | bytearray):
        raise TypeError(f"a key is bytes, got {type(key).__name__}")
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(f"the key has {len(key)} bytes; at least {MIN_KEY_BYTES} are needed")
    return bytes(key)


def generate_key(num_bytes: int = 32) -> bytes:
    """Draw a new key from the operating system's source of randomness.

    Raises
    ------
    ValueError
        If fewer than 16 bytes are asked for.
    """
    if num_bytes < MIN_KEY_BYTES:
        raise ValueError(f"a key needs at least {MIN_KEY_BYTES} bytes, got {num_bytes}")
    return secrets.token_bytes(num_bytes)


def _from_hex(data: bytes) -> bytes | None:
    # bytes.fromhex skips inner blanks; a key file holds one unbroken run of digits.
    digits = data.strip()
    if not digits or any(c not in b"0123456789abcdefABCDEF" for c in digits) or len(digits) % 2:
        return None
    return bytes.fromhex(digits.decode("ascii"))


def save_key(
    path: str | os.PathLike[str], key: bytes, encoding: Literal["hex", "raw"] = "hex"
) -> None:
    """Write a key to a new file that only its owner can read.

    Parameters
    ----------
    path
        Must not exist yet: overwriting a key loses every text marked with it.
    key
        At least 16 bytes.
    encoding
        ``"hex"`` (one line of text) or ``"raw"``.

    Raises
    ------
    FileExistsError
        If the file exists.
    ValueError
        If the key is too short, or a raw key would read as hexadecimal digits.
    """
    key = _check_key(key)
    if encoding not in ("hex", "raw"):
        raise ValueError(f'encoding must be "hex" or "raw", got {encoding!r}')
    if encoding == "raw" and _from_hex(key) is not None:
        raise ValueError('these bytes are hexadecimal digits themselves; use encoding="hex"')
    data = key.hex().encode() + b"\n" if encoding == "hex" else key
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError as error:
        raise FileExistsError(f"{os.fspath(path)} exists; a key is never overwritten") from error
    with open(descriptor, "wb") as file:
        file.write(data)


def load_key(path: str | os.PathLike[str]) -> bytes:
    """Read a key from a file.

    A file of hexadecimal digits (and blanks around them) is decoded; any other content is the key
    itself, byte for byte.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the key is shorter than 16 bytes.
    """
    data = Path(path).read_bytes()
    decoded = _from_hex(data)
    try:
        return _check_key(data if decoded is None else decoded)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error
