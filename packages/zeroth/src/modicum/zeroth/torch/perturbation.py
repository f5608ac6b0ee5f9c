"""Evaluate a module at points beside its parameters, and leave the parameters as they were.

Takes parameters and the slots of their noise; inside ``with perturbation.at(direction, scale)`` the
module computes with ``parameter + scale * z``. Two ways to do that:

`InPlace` overwrites the parameters and keeps what was there in a buffer of the same size: adding
and subtracting noise does not lead back to the same bits, in half precision least of all. It serves
every module, whatever reads the parameters.

`Streamed` leaves the parameters alone. It intercepts every operation that reads one and hands it a
perturbed copy, which is made there and then and freed after the operation, so that beyond the
memory of inference there is room needed for one tensor. Operations that torch does not dispatch
(compiled graphs, kernels that are given addresses) read the parameters unperturbed; modules made of
those need `InPlace`.

Neither knows what the evaluation is for.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from modicum.zeroth.torch.kernels import Backend, add_noise
from modicum.zeroth.torch.noise import Slot


def contiguous_noise(
    targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor], *args: Any, **options: Any
) -> None:
    """Do as `add_noise` for tensors that need not be contiguous.

    The noise of an element depends on its place in the order of rows, not on its place in memory.
    """
    inner = [
        target if target.is_contiguous() else target.new_empty(target.shape) for target in targets
    ]
    outer = [source.contiguous() for source in sources]
    add_noise(inner, outer, *args, **options)
    for target, written in zip(targets, inner, strict=True):
        if written is not target:
            target.copy_(written)


class Perturbation(abc.ABC):
    """Parameters that can be moved along directions of the noise; a context manager.

    Parameters
    ----------
    parameters
        What is perturbed, as detached tensors that share the parameters' memory.
    slots
        The noise of each.
    seed
        Of the noise.
    backend
        As in `add_noise`.
    """

    def __init__(
        self,
        parameters: Sequence[torch.Tensor],
        slots: Sequence[Slot],
        seed: int,
        backend: Backend = "auto",
    ) -> None:
        self.parameters = list(parameters)
        self.slots = list(slots)
        self.seed = seed
        self.backend = backend

    def __enter__(self) -> Perturbation:
        """Get ready to perturb."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Leave every parameter as it was, whatever happened."""
        self.restore()

    @abc.abstractmethod
    def restore(self) -> None:
        """Bring back every parameter's bits, and let go of what that took."""

    @abc.abstractmethod
    def at_origin(self) -> Any:
        """Return a context manager in which the module computes at the parameters themselves."""

    @abc.abstractmethod
    def at(self, direction: int, scale: float) -> Any:
        """Return a context manager in which the module computes at ``parameter + scale * z``."""


class InPlace(Perturbation):
    """Overwrites the parameters; see the module's text."""

    def __enter__(self) -> InPlace:
        """Copy the parameters."""
        self.originals = [
            parameter.clone(memory_format=torch.contiguous_format) for parameter in self.parameters
        ]
        self.moved = False
        return self

    def restore(self) -> None:
        """Copy them back."""
        self._return()
        self.originals = []

    def _return(self) -> None:
        if self.moved:
            for parameter, original in zip(self.parameters, self.originals, strict=True):
                parameter.copy_(original)
        self.moved = False

    @contextmanager
    def at_origin(self) -> Iterator[None]:
        """Copy the parameters back."""
        self._return()
        yield

    @contextmanager
    def at(self, direction: int, scale: float) -> Iterator[None]:
        """Write perturbed parameters; what was there comes back when the perturbation ends."""
        self.moved = True
        contiguous_noise(
            self.parameters,
            self.originals,
            self.slots,
            seed=self.seed,
            directions=[direction],
            scales=[scale],
            backend=self.backend,
        )
        yield


class Streamed(Perturbation):
    """Perturbs what operations read; see the module's text.

    Attributes
    ----------
    read
        Indices of the parameters that an operation has read so far.
    """

    def __enter__(self) -> Streamed:
        """Look up where the parameters lie in memory."""
        self.read: set[int] = set()
        self.index_of_address = {
            parameter.data_ptr(): index
            for index, parameter in enumerate(self.parameters)
            if parameter.numel()
        }
        self.storages = {
            parameter.untyped_storage().data_ptr()
            for parameter in self.parameters
            if parameter.numel()
        }
        return self

    def restore(self) -> None:
        """Nothing was changed; forget the addresses."""
        self.index_of_address = {}
        self.storages = set()

    def at_origin(self) -> AbstractContextManager[None]:
        """Return a context in which nothing happens."""
        return nullcontext()

    def at(self, direction: int, scale: float) -> TorchDispatchMode:
        """Return the mode under which operations read perturbed parameters."""
        return _ReadPerturbed(self, direction, scale)

    def concerned(self, values: Iterable[Any]) -> bool:
        """Say whether a tensor among arguments, or in a list there, lies in parameters' memory."""
        for value in values:
            if isinstance(value, torch.Tensor):
                if value.layout != torch.strided:
                    continue
                if value.untyped_storage().data_ptr() in self.storages:
                    return True
            elif isinstance(value, list | tuple) and self.concerned(value):
                return True
        return False

    def perturbed(self, tensor: torch.Tensor, direction: int, scale: float) -> torch.Tensor:
        """Return the perturbed copy of a parameter or of a view of it; other tensors as they are.

        Raises
        ------
        RuntimeError
            If the tensor is a part of a parameter that begins elsewhere.
        """
        index = self.index_of_address.get(tensor.data_ptr())
        if index is None:
            if tensor.numel():
                self._check_foreign(tensor)
            return tensor
        self.read.add(index)
        parameter = self.parameters[index]
        copy = torch.empty_like(parameter)
        contiguous_noise(
            [copy],
            [parameter],
            [self.slots[index]],
            seed=self.seed,
            directions=[direction],
            scales=[scale],
            backend=self.backend,
        )
        if tensor.shape == copy.shape and tensor.stride() == copy.stride():
            return copy
        return copy.as_strided(tensor.shape, tensor.stride())

    def _check_foreign(self, tensor: torch.Tensor) -> None:
        """Refuse a tensor that overlaps a parameter; one beside it in the same memory is fine."""
        begin = tensor.data_ptr()
        for parameter in self.parameters:
            first = parameter.data_ptr()
            if first <= begin < first + parameter.numel() * parameter.element_size():
                raise RuntimeError(
                    f"an operation reads a part {tuple(tensor.shape)} of a parameter "
                    f"{tuple(parameter.shape)} through a view made earlier, which cannot be "
                    'perturbed on the way; use perturb="in-place"'
                )


class _ReadPerturbed(TorchDispatchMode):
    """Hands perturbed copies to every operation that reads a parameter."""

    def __init__(self, streamed: Streamed, direction: int, scale: float) -> None:
        super().__init__()
        self.streamed = streamed
        self.direction = direction
        self.scale = scale

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # Most operations read no parameter, and so cost no more than this look at their arguments.
        if not (self.streamed.concerned(args) or self.streamed.concerned(kwargs.values())):
            return func(*args, **kwargs)
        if func._schema.is_mutable:
            self._check_writes(func, args, kwargs)
        args, kwargs = tree_map_only(torch.Tensor, self._replace, (args, kwargs))
        return func(*args, **kwargs)

    def _replace(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.layout != torch.strided:
            return tensor
        return self.streamed.perturbed(tensor, self.direction, self.scale)

    def _check_writes(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for position, argument in enumerate(func._schema.arguments):
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            written = argument.alias_info is not None and argument.alias_info.is_write
            if not written or not isinstance(value, torch.Tensor):
                continue
            if value.data_ptr() in self.streamed.index_of_address:
                raise RuntimeError(
                    f"{func} writes to a parameter, which a closure of a zeroth-order step may "
                    "only read"
                )
