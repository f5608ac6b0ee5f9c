"""A whole fine-tune in a file of some twenty bytes per step, and the way back to the weights.

A step of `ZOOptimizer` is a function of the parameters before it and of a few numbers: which
directions, the slope along each, the learning rate. A `TrajectoryWriter` appends these numbers to a
file of lines of JSON (``*.zo.jsonl``) after each step; `replay` makes the same steps again, from
the same base model, and ends at the same weights, bit for bit. Knows how steps are written, not how
they are made.

The first line is an object: format, generator, seed, the tensors with shape and dtype, hashes of
the base model, and the settings of the parameter groups. Every other line is one of

``[first, slopes, lr, epsilon, curvatures, diagonal]``
    A step. `first` is the number of its first direction; `slopes` one number or a list (null: that
    pair was dropped); `lr` one number or a list, one for each group. What is null, or left out at
    the end, is as in the step before. Numbers are float32 in their shortest decimal form.
``{"groups": …, "trained": …}``
    Settings that changed before the next step.
``{"rewind": n}``
    The run went on from a checkpoint after n steps; steps from n on do not count.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modicum.zeroth.torch.kernels import Backend
from modicum.zeroth.torch.noise import RNG_ALGORITHM
from modicum.zeroth.torch.optimizer import StepRecord, ZOOptimizer

SUFFIX = ".zo.jsonl"
FORMAT = "modicum-zeroth-trajectory"
VERSION = 1

_HASH_BYTES = 16
_HASH_CHUNK = 1 << 26


@dataclass(frozen=True)
class Settings:
    """What of an optimizer's settings the steps depend on.

    Attributes
    ----------
    groups
        Weight decay and momentum of each parameter group.
    trained
        Numbers of the tensors that require gradients.
    """

    groups: tuple[tuple[float, float], ...]
    trained: tuple[int, ...]


@dataclass
class TrajectoryFile:
    """What a trajectory file says.

    Attributes
    ----------
    header
        The object of the first line.
    steps
        Each step's settings and record, without those that were rewound.
    """

    header: dict[str, Any]
    steps: list[tuple[Settings, StepRecord]] = field(default_factory=list)


class TrajectoryWriter:
    """Appends the steps of an optimizer to a file.

    Steps are recorded from here on, until `close`; the optimizer needs no other call. A file that
    is there is gone on with: a last line that was cut off is removed, and steps beyond the
    optimizer's are rewound, as after a return to a checkpoint. Whenever the optimizer's
    ``state_dict`` is asked for, the file is forced to disk, so that a checkpoint never knows of
    more steps than the file. Use one writer per run (in a run over many processes, in one of them).

    Parameters
    ----------
    path
        The file, by custom ``*.zo.jsonl``.
    optimizer
        Whose steps are recorded.
    module
        The module that has its parameters: gives their names and what the base model was.

    Raises
    ------
    ValueError
        If a parameter is not the module's, the file is of another run, steps are missing, or there
        is no file and the optimizer has made steps.
    """

    def __init__(
        self, path: str | os.PathLike[str], optimizer: ZOOptimizer, module: torch.nn.Module
    ) -> None:
        self.path = Path(path)
        self.optimizer = optimizer
        self._names = _names(optimizer, module)
        self._last: StepRecord | None = None
        header = _header(optimizer, self._names)
        self._settings = _settings(optimizer)
        old = self._mend()
        if old:
            self._go_on(old, header, module)
        elif optimizer.steps:
            raise ValueError(
                f"{self.path} has no steps, but the optimizer has made {optimizer.steps}: a "
                "trajectory begins at the base model"
            )
        self._file = open(self.path, "ab")  # noqa: SIM115  # open as long as the run
        if not old:
            header |= _hashes(optimizer, module)
            self._write(header | _settings_json(self._settings))
        self._handles = [
            optimizer.register_step_post_hook(lambda *_: self._record()),
            optimizer.register_state_dict_pre_hook(lambda *_: self.flush()),
        ]

    def __enter__(self) -> TrajectoryWriter:
        """Return the writer."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Record no more steps."""
        if not self._file.closed:
            self.flush()
            for handle in self._handles:
                handle.remove()
            self._file.close()

    def flush(self) -> None:
        """Force what is written to disk."""
        os.fsync(self._file.fileno())

    def _mend(self) -> bytes:
        """Cut off an unfinished last line, and return the rest."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return b""
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        return whole

    def _go_on(self, old: bytes, header: dict[str, Any], module: torch.nn.Module) -> None:
        file = _parse(old, self.path)
        for name, value in header.items():
            if file.header.get(name) != value:
                raise ValueError(
                    f"{self.path} is of another run: {_difference(name, file.header, header)}"
                )
        steps = self.optimizer.steps
        if len(file.steps) < steps:
            raise ValueError(
                f"{self.path} has {len(file.steps)} steps, but the optimizer has made {steps}: the "
                "steps between are missing"
            )
        if not steps:
            _check_base(self.optimizer, module, file.header)
        settings = _settings_of(file.header)
        with open(self.path, "ab") as out:
            if len(file.steps) > steps:
                out.write(_line({"rewind": steps}))
            if steps:
                settings, self._last = file.steps[steps - 1]
            if settings != self._settings:
                out.write(_line(_settings_json(self._settings)))
        # Steps after a rewind say everything again.
        self._last = None

    def _record(self) -> None:
        record = self.optimizer.last
        if record is None or record is self._last:
            return  # the call of an engine that has made its step already
        settings = _settings(self.optimizer)
        if settings != self._settings:
            self._write(_settings_json(settings))
            self._settings = settings
        self._file.write(_step_line(record, self._last))
        self._file.flush()
        self._last = record

    def _write(self, value: dict[str, Any]) -> None:
        self._file.write(_line(value))
        self._file.flush()


def read_trajectory(path: str | os.PathLike[str]) -> TrajectoryFile:
    """Read a trajectory file; a last line that was cut off does not count.

    Raises
    ------
    ValueError
        If the file is no trajectory, or of a version that is not known here, or a line is damaged.
    """
    content = Path(path).read_bytes()
    return _parse(content[: content.rfind(b"\n") + 1], Path(path))


def replay(
    module: torch.nn.Module,
    path: str | os.PathLike[str],
    *,
    steps: int | None = None,
    backend: Backend = "auto",
) -> ZOOptimizer:
    """Make the steps of a trajectory again, from the base model.

    Parameters
    ----------
    module
        The base model: its parameters have the bits that they had before the first step. They are
        changed in place.
    path
        A file of a `TrajectoryWriter`.
    steps
        How many steps to make; ``None`` for all.
    backend
        As in `modicum.zeroth.torch.kernels.add_noise`.

    Returns
    -------
    ZOOptimizer
        The optimizer that made the steps, after the last of them.

    Raises
    ------
    ValueError
        If the module is not the base model, naming what differs, the file was made with another
        generator of noise, or it has fewer steps. Nothing is changed then.
    """
    file = read_trajectory(path)
    count = len(file.steps) if steps is None else steps
    if not 0 <= count <= len(file.steps):
        raise ValueError(f"steps must be in [0, {len(file.steps)}], got {steps}")
    optimizer = _fresh_optimizer(module, file, backend)
    _check_base(optimizer, module, file.header)
    parameters = [parameter for _, parameter in optimizer.named()]
    required = [parameter.requires_grad for parameter in parameters]
    try:
        for settings, record in file.steps[:count]:
            _set(optimizer, settings)
            optimizer.apply(record)
    finally:
        for parameter, value in zip(parameters, required, strict=True):
            parameter.requires_grad_(value)
    return optimizer


# What a base model is ---------------------------------------------------------------------------


def _names(optimizer: ZOOptimizer, module: torch.nn.Module) -> list[str]:
    name_of = {id(parameter): name for name, parameter in module.named_parameters()}
    names = []
    for label, parameter in optimizer.named():
        if id(parameter) not in name_of:
            raise ValueError(
                f"parameter {label!r} of the optimizer, of shape {tuple(parameter.shape)}, is not "
                "one of the module"
            )
        names.append(name_of[id(parameter)])
    return names


def _header(optimizer: ZOOptimizer, names: Sequence[str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "rng": RNG_ALGORITHM,
        "seed": optimizer.seed,
        "precond": optimizer.precond,
        "tensors": [
            [name, list(parameter.shape), str(parameter.dtype).removeprefix("torch.")]
            for name, (_, parameter) in zip(names, optimizer.named(), strict=True)
        ],
        "sizes": [len(group["params"]) for group in optimizer.param_groups],
    }


def _hashes(optimizer: ZOOptimizer, module: torch.nn.Module) -> dict[str, str]:
    """Return hashes of the optimizer's tensors and of everything else that the module holds."""
    mine = [parameter for _, parameter in optimizer.named()]
    addresses = {parameter.data_ptr() for parameter in mine if parameter.numel()}
    others = [
        (name, value)
        for name, value in sorted(module.state_dict().items())
        if isinstance(value, torch.Tensor) and value.data_ptr() not in addresses
    ]
    return {
        "parameters_hash": _hash((str(i), p.detach()) for i, p in enumerate(mine)),
        "frozen_hash": _hash(others),
    }


def _hash(tensors: Any) -> str:
    digest = hashlib.blake2b(digest_size=_HASH_BYTES)
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        flat = tensor.contiguous().view(-1)
        size = max(1, _HASH_CHUNK // tensor.element_size())
        for at in range(0, len(flat), size):
            digest.update(flat[at : at + size].cpu().view(torch.uint8).numpy())
    return digest.hexdigest()


def _fresh_optimizer(
    module: torch.nn.Module, file: TrajectoryFile, backend: Backend
) -> ZOOptimizer:
    header = file.header
    if header["rng"] != RNG_ALGORITHM:
        raise ValueError(f"rng: the file has {header['rng']!r}, this version {RNG_ALGORITHM!r}")
    parameters = dict(module.named_parameters())
    for name, shape, dtype in header["tensors"]:
        if name not in parameters:
            raise ValueError(f"tensors: the module has no parameter {name!r}")
        here = parameters[name]
        if list(here.shape) != shape:
            raise ValueError(f"shape of {name!r}: the file has {shape}, the module {[*here.shape]}")
        if str(here.dtype) != f"torch.{dtype}":
            raise ValueError(f"dtype of {name!r}: the file has torch.{dtype}, not {here.dtype}")
    named = iter([(name, parameters[name]) for name, _, _ in header["tensors"]])
    groups = [{"params": [next(named) for _ in range(size)]} for size in header["sizes"]]
    first = file.steps[0][1].epsilon if file.steps else 1.0
    return ZOOptimizer(
        groups,
        lr=0.0,
        epsilon=first,
        seed=header["seed"],
        precond=header["precond"],
        backend=backend,
    )


def _check_base(optimizer: ZOOptimizer, module: torch.nn.Module, header: dict[str, Any]) -> None:
    for name, value in _hashes(optimizer, module).items():
        if header[name] != value:
            kept = "weights beside the trained tensors" if name == "frozen_hash" else "parameters"
            raise ValueError(
                f"{name}: the {kept} of the module are not those of the base model (the file has "
                f"{header[name]}, the module {value})"
            )


def _difference(name: str, theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    if name == "tensors":
        pairs = zip(theirs.get(name, []), ours[name], strict=False)
        for index, (old, new) in enumerate(pairs):
            if old != new:
                return f"tensor {index} is {old} there and {new} here"
        return f"{len(theirs.get(name, []))} tensors there and {len(ours[name])} here"
    return f"{name} is {theirs.get(name)!r} there and {ours[name]!r} here"


# Settings -----------------------------------------------------------------------------------------


def _settings(optimizer: ZOOptimizer) -> Settings:
    return Settings(
        tuple(
            (float(group["weight_decay"]), float(group["momentum"]))
            for group in optimizer.param_groups
        ),
        tuple(number for number, (_, p) in enumerate(optimizer.named()) if p.requires_grad),
    )


def _settings_json(settings: Settings) -> dict[str, Any]:
    return {"groups": [list(group) for group in settings.groups], "trained": [*settings.trained]}


def _settings_of(value: dict[str, Any]) -> Settings:
    return Settings(
        tuple((decay, momentum) for decay, momentum in value["groups"]), tuple(value["trained"])
    )


def _set(optimizer: ZOOptimizer, settings: Settings) -> None:
    for group, (decay, momentum) in zip(optimizer.param_groups, settings.groups, strict=True):
        group["weight_decay"], group["momentum"] = decay, momentum
    trained = set(settings.trained)
    for number, (_, parameter) in enumerate(optimizer.named()):
        parameter.requires_grad_(number in trained)


# Lines --------------------------------------------------------------------------------------------


def _line(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _number(value: float | None) -> str:
    """Write a float32 in the fewest digits that give it back."""
    if value is None or not math.isfinite(value):
        return "null"
    return str(np.float32(value))


def _numbers(values: Sequence[float | None]) -> str:
    texts = [_number(value) for value in values]
    return texts[0] if len(texts) == 1 else f"[{','.join(texts)}]"


def _step_line(record: StepRecord, last: StepRecord | None) -> bytes:
    rate = record.lr if len(set(record.lr)) > 1 else record.lr[:1]
    parts = [
        str(record.first),
        _numbers(record.scalars),
        "null" if last is not None and last.lr == record.lr else _numbers(rate),
        # Not needed for the weights, and so not rounded.
        "null" if last is not None and last.epsilon == record.epsilon else repr(record.epsilon),
        _numbers(record.curvatures) if record.curvatures else "null",
        _numbers(record.diagonal) if record.diagonal else "null",
    ]
    while parts[-1] == "null" and len(parts) > 2:
        parts.pop()
    return f"[{','.join(parts)}]\n".encode()


def _parse(content: bytes, path: Path) -> TrajectoryFile:
    lines = _json_lines(content, path)
    header = next(lines, (0, None))[1]
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{path} is no trajectory: its first line has no format {FORMAT!r}")
    if header.get("version") != VERSION:
        raise ValueError(f"version of {path} is {header.get('version')!r}, known here: {VERSION}")
    file = TrajectoryFile(header)
    settings = _settings_of(header)
    last: StepRecord | None = None
    for number, value in lines:
        try:
            if isinstance(value, list):
                last = _record_of(value, len(file.steps), len(header["sizes"]), last)
                file.steps.append((settings, last))
            elif "rewind" in value:
                del file.steps[value["rewind"] :]
                last = file.steps[-1][1] if file.steps else None
                settings = file.steps[-1][0] if file.steps else _settings_of(header)
            else:
                settings = _settings_of(value)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"line {number} of {path} is no step of a trajectory") from error
    return file


def _json_lines(content: bytes, path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(content.splitlines(), 1):
        try:
            yield number, json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} of {path} is not JSON") from error


def _record_of(value: list[Any], step: int, groups: int, last: StepRecord | None) -> StepRecord:
    first, slopes, rate, epsilon, curvatures, diagonal = value + [None] * (6 - len(value))
    lr = _singles(rate) if rate is not None else _before(last).lr
    return StepRecord(
        step=step,
        first=first,
        scalars=tuple(slope if math.isfinite(slope) else None for slope in _singles(slopes)),
        lr=lr if len(lr) == groups else lr * groups,
        epsilon=float(epsilon) if epsilon is not None else _before(last).epsilon,
        curvatures=() if curvatures is None else _singles(curvatures),
        diagonal=None if diagonal is None else (_singles(diagonal)[0], _singles(diagonal)[1]),
    )


def _before(last: StepRecord | None) -> StepRecord:
    if last is None:
        raise ValueError("the first step must say everything")
    return last


def _singles(value: Any) -> tuple[float, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(math.nan if v is None else float(np.float32(v)) for v in values)
