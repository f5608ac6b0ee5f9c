"""States of methods as plain values, and their files.

`encode` turns nested dataclasses, containers, numbers and arrays into what `write` can store;
`decode` gives back the same objects, bit for bit. A file is a NumPy ``.npz`` archive with one more
member, ``state.json``; it is replaced whole, so that a crash in the middle leaves the old one.
Nothing is ever unpickled. Knows nothing of optimisation.
"""

import dataclasses
import importlib
import io
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from modicum.core.experiment import dumps, loads, write_atomic

__all__ = ["decode", "encode", "read", "write"]

_TAG = "$kind"
_JSON = "state.json"
_OWN_MODULES = "modicum.zeroth"
# Exactly these types: NumPy's float64 is a float as well, and comes back as what it was.
_PLAIN = (type(None), bool, int, float, str)


def encode(value: Any) -> Any:
    """Reduce a value to dictionaries with string keys, lists, plain values and NumPy arrays.

    Parameters
    ----------
    value
        Dataclasses, dictionaries, lists, tuples, NumPy arrays and scalars, numbers, strings,
        booleans and None, nested in any way. Arrays are copied.

    Raises
    ------
    TypeError
        For anything else.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, np.generic):
        return {_TAG: "scalar", "value": np.array(value)}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, tuple) and type(value) is tuple:
        return {_TAG: "tuple", "items": [encode(item) for item in value]}
    if isinstance(value, dict):
        return {_TAG: "dict", "items": [[encode(k), encode(v)] for k, v in value.items()]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [item.name for item in dataclasses.fields(value)]
        kind = type(value)
        return {
            _TAG: "dataclass",
            "type": f"{kind.__module__}:{kind.__qualname__}",
            "fields": {name: encode(getattr(value, name)) for name in names},
        }
    raise TypeError(f"a state cannot hold a {type(value).__name__}: {value!r:.80}")


def decode(value: Any, modules: Iterable[str] = ()) -> Any:
    """Give back what `encode` took.

    Parameters
    ----------
    value
        What `encode` returned or `read` found.
    modules
        Modules besides this package's whose dataclasses may be made.

    Raises
    ------
    ValueError
        If a dataclass comes from any other module.
    """
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, list):
        return [decode(item, modules) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value[_TAG]
    if kind == "scalar":
        return value["value"][()]
    if kind == "tuple":
        return tuple(decode(item, modules) for item in value["items"])
    if kind == "dict":
        return {decode(k, modules): decode(v, modules) for k, v in value["items"]}
    cls = _dataclass(value["type"], modules)
    made: Any = object.__new__(cls)
    for name, item in value["fields"].items():
        # Also for frozen ones and for fields that the constructor does not take.
        object.__setattr__(made, name, decode(item, modules))
    return made


def _dataclass(path: str, modules: Iterable[str]) -> type:
    module, _, name = path.partition(":")
    own = module == _OWN_MODULES or module.startswith(f"{_OWN_MODULES}.")
    if not own and module not in set(modules):
        raise ValueError(f"a state holds a {path}, which is no class of this method")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ValueError(f"a state holds a {path}, which is no dataclass here")
    return found


# Files -------------------------------------------------------------------------------------------


def write(path: str | os.PathLike[str], content: dict[str, Any]) -> Path:
    """Write a state to a file, which at every moment is the old one or the new one.

    Parameters
    ----------
    path
        Where; a missing folder is made. The name is taken as it is.
    content
        What `encode` can return.
    """
    arrays: list[np.ndarray] = []
    text = dumps(_take_arrays(content, arrays))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(_JSON, text)
        for number, array in enumerate(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            archive.writestr(f"array_{number}.npy", member.getvalue())
    return write_atomic(path, buffer.getvalue())


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `write` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no state.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            content = loads(archive.read(_JSON).decode("utf-8"))
            arrays = [
                np.lib.format.read_array(
                    io.BytesIO(archive.read(f"array_{number}.npy")), allow_pickle=False
                )
                for number in range(len(archive.namelist()) - 1)
            ]
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError, EOFError) as error:
        raise ValueError(f"{os.fspath(path)!r} is not the state of a run: {error}") from error
    restored: dict[str, Any] = _put_arrays(content, arrays)
    return restored


def _take_arrays(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {_TAG: "array", "number": len(arrays) - 1}
    if isinstance(value, dict):
        return {key: _take_arrays(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_take_arrays(item, arrays) for item in value]
    return value


def _put_arrays(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_put_arrays(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get(_TAG) == "array":
        return arrays[value["number"]]
    return {key: _put_arrays(item, arrays) for key, item in value.items()}
