"""A watermark from its files: the record, the key file and, where one is needed, the surrogate.

Takes paths and the names that `modicum.core.watermark.adapters.loading.load_anchor` knows; gives
configurations. Nothing is downloaded. What engines, commands and distributed workers are told is
always such names, so that no key travels.
"""

import os
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from modicum.core.prf import key_id
from modicum.core.watermark.adapters.loading import load_anchor
from modicum.core.watermark.anchors import Anchor
from modicum.core.watermark.record import WatermarkRecord, load_key
from modicum.umpwatermark.config import ENGINE_KEY_BITS, KNOWN_PRFS, UMPWatermarkConfig, engine_key

__all__ = ["key_for", "load_config", "load_configs", "load_watermark_key", "write_engine_key"]

# The largest integer key of vLLM's Philox has 20 digits; a key file of hexadecimal digits has 32.
LONGEST_INTEGER = 20


def key_for(prf: str, key: bytes) -> bytes | int:
    """Return the bytes of a key file as the key that a PRF takes.

    Parameters
    ----------
    prf
        Name of the PRF.
    key
        As `modicum.core.watermark.record.load_key` reads it.

    Returns
    -------
    bytes or int
        The bytes; with an engine's PRF the little-endian integer they spell.

    Raises
    ------
    ValueError
        If the integer is too large for the engine. The message does not hold it.
    """
    if prf not in ENGINE_KEY_BITS:
        return key
    return engine_key(prf, int.from_bytes(key, "little"))


def load_watermark_key(path: str | os.PathLike[str], prf: str) -> bytes | int:
    """Read a key file for a PRF.

    Parameters
    ----------
    path
        A key file, see `modicum.core.watermark.record.load_key`. For the PRF of an engine also a
        file with the engine's key as a decimal integer of at most 20 digits.
    prf
        Name of the PRF.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds no key for this PRF.
    """
    if prf in ENGINE_KEY_BITS:
        text = Path(path).read_bytes().strip()
        if text.isdigit() and len(text) <= LONGEST_INTEGER:
            return engine_key(prf, int(text))
    return key_for(prf, load_key(path))


def write_engine_key(path: str | os.PathLike[str], prf: str) -> str:
    """Write a new key as the decimal integer that an engine takes, readable by its owner only.

    Parameters
    ----------
    path
        Must not exist yet.
    prf
        ``"vllm-philox"``; keys of ``"vllm-hmac"`` are 32 bytes, which
        `modicum.core.watermark.record.save_key` writes.

    Returns
    -------
    str
        The key's id.

    Raises
    ------
    FileExistsError
        If there is such a file.
    ValueError
        For another PRF.
    """
    if prf != "vllm-philox":
        raise ValueError(f"integer keys are written for prf='vllm-philox', got {prf!r}")
    key = secrets.randbelow(1 << ENGINE_KEY_BITS[prf])
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise FileExistsError(f"{os.fspath(path)} exists; a key is never overwritten") from error
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(f"{key}\n")
    return key_id(key)


def load_config(
    record: str | os.PathLike[str],
    key_file: str | os.PathLike[str],
    surrogate: Anchor | None = None,
) -> UMPWatermarkConfig:
    """Rebuild a configuration from a record and a key file.

    Parameters
    ----------
    record
        Path of a watermark record.
    key_file
        Path of the key file.
    surrogate
        Of ``sampler="ump-aware"``, else not used.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is not what it should be, or record, key and surrogate do not belong together.
    """
    filed = WatermarkRecord.load(record, known_prfs=KNOWN_PRFS)
    aware = filed.parameters.get("sampler") == "ump-aware"
    return UMPWatermarkConfig.from_record(
        filed, load_watermark_key(key_file, filed.prf), surrogate if aware else None
    )


def load_configs(
    record: str | os.PathLike[str],
    keys: Mapping[str, bytes],
    surrogate: str | None = None,
    *,
    device: str = "auto",
    **settings: Any,
) -> dict[str, UMPWatermarkConfig]:
    """Rebuild one configuration per key; the record may be that of any of them.

    Parameters
    ----------
    record
        Path of a watermark record.
    keys
        Keys by name, as read from their files.
    surrogate
        Name of the surrogate of ``sampler="ump-aware"``.
    device, settings
        For `modicum.core.watermark.adapters.loading.load_anchor`.

    Raises
    ------
    ValueError
        If record, keys and surrogate do not belong together.
    """
    filed = WatermarkRecord.load(record, known_prfs=KNOWN_PRFS)
    usable = {name: key_for(filed.prf, key) for name, key in keys.items()}
    ids = {name: key_id(key) for name, key in usable.items()}
    if filed.key_id not in ids.values():
        raise ValueError(f"the record is for the key {filed.key_id}, the keys here are {ids}")
    law = None
    if surrogate is not None:
        vocab_size = int(filed.parameters.get("vocab_size", 0))
        law = load_anchor(surrogate, vocab_size, device=device, **settings)
    return {
        name: UMPWatermarkConfig.from_record(replace(filed, key_id=ids[name]), key, law)
        for name, key in usable.items()
    }
