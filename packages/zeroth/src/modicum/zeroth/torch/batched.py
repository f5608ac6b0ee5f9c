"""The loss of a module at many parameter vectors in one call.

Takes a module and a function of it, gives a function of rows of parameters: what a vectorised
objective of `modicum.zeroth.minimize` is, and what a step of `ZOOptimizer` evaluates all its pairs
with. Every copy of the parameters exists in memory, so it is meant for small modules, of which a
device computes many at once. Built on `torch.func.functional_call` and `torch.vmap`; leaves the
module alone.

Legend: ``N`` copies, ``d`` trained numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch.func import functional_call, vmap

Randomness = Literal["same", "different", "error"]


class BatchedLoss:
    """Losses of a module at rows of parameters; see `batched_module_loss`.

    Attributes
    ----------
    names
        Of the parameters that a row holds, in its order.
    dimension
        Length of a row.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        loss: Callable[..., torch.Tensor],
        chunk_size: int | None = None,
        randomness: Randomness = "same",
    ) -> None:
        self.module = module
        self.loss = loss
        self.chunk_size = chunk_size
        self.randomness = randomness
        self._parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        if not self._parameters:
            raise ValueError("no parameter of the module requires gradients")
        self.names = list(self._parameters)
        self.dimension = sum(p.numel() for p in self._parameters.values())

    def __call__(self, x_Nd: Any, *batch: Any, **keywords: Any) -> Any:
        """Return losses ``(N,)`` at rows ``(N, d)``, NumPy for NumPy and float64.

        Parameters
        ----------
        x_Nd
            Rows as `flat` makes them, a torch tensor or a NumPy array.
        batch, keywords
            Handed to the loss after the module.

        Raises
        ------
        ValueError
            If a row has another length than `dimension`.
        """
        rows_Nd = torch.as_tensor(x_Nd)
        if rows_Nd.ndim != 2 or rows_Nd.shape[1] != self.dimension:
            raise ValueError(
                f"rows must have the shape (n, {self.dimension}), got {tuple(rows_Nd.shape)}"
            )
        sizes = [p.numel() for p in self._parameters.values()]
        copies = {
            name: part_Nk.reshape(-1, *parameter.shape).to(parameter.device, parameter.dtype)
            for (name, parameter), part_Nk in zip(
                self._parameters.items(), rows_Nd.split(sizes, dim=1), strict=True
            )
        }
        losses_N = self.stacked(copies, *batch, **keywords).double()
        return losses_N.cpu().numpy() if isinstance(x_Nd, np.ndarray) else losses_N

    @torch.no_grad()
    def stacked(
        self, parameters: Mapping[str, torch.Tensor], *batch: Any, **keywords: Any
    ) -> torch.Tensor:
        """Return losses ``(N,)`` for parameters by name, each with N copies in its first axis.

        Raises
        ------
        ValueError
            If the loss is not one number.
        """

        def one(copy: dict[str, torch.Tensor]) -> torch.Tensor:
            def call(*inputs: Any, **named: Any) -> Any:
                return functional_call(self.module, copy, inputs, named)

            loss = self.loss(call, *batch, **keywords)
            if loss.numel() != 1:
                raise ValueError(
                    f"the loss must return one number, got the shape {tuple(loss.shape)}"
                )
            return loss.reshape(())

        many = vmap(one, randomness=self.randomness, chunk_size=self.chunk_size)
        return many(dict(parameters))

    @torch.no_grad()
    def flat(self) -> torch.Tensor:
        """Return the module's present parameters as a row, float64 ``(d,)``."""
        return torch.cat([p.detach().reshape(-1).double() for p in self._parameters.values()])

    @torch.no_grad()
    def load(self, row_d: Any) -> None:
        """Write a row into the module's parameters.

        Raises
        ------
        ValueError
            If its length is another than `dimension`.
        """
        row = torch.as_tensor(row_d).reshape(-1)
        if len(row) != self.dimension:
            raise ValueError(f"a row has {self.dimension} numbers, got {len(row)}")
        at = 0
        for parameter in self._parameters.values():
            parameter.copy_(row[at : at + parameter.numel()].view(parameter.shape))
            at += parameter.numel()

    def bind(self, *batch: Any, **keywords: Any) -> BoundLoss:
        """Return the closure of one batch, for ``ZOOptimizer.step``."""
        return BoundLoss(self, batch, keywords)


class BoundLoss:
    """A batched loss with its batch: a closure whose points are evaluated in one call."""

    def __init__(
        self, batched: BatchedLoss, batch: tuple[Any, ...], keywords: dict[str, Any]
    ) -> None:
        self.batched = batched
        self.batch = batch
        self.keywords = keywords

    def __call__(self) -> torch.Tensor:
        """Return the loss at the module's present parameters."""
        return self.batched.loss(self.batched.module, *self.batch, **self.keywords)

    def stacked(self, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return losses ``(N,)``; see `BatchedLoss.stacked`."""
        return self.batched.stacked(parameters, *self.batch, **self.keywords)

    def names(self, parameters: list[torch.Tensor]) -> list[str]:
        """Return the names of parameters, which must be all that the loss varies.

        Raises
        ------
        ValueError
            If they are others.
        """
        name_of = {p.data_ptr(): name for name, p in self.batched._parameters.items()}
        names = [name_of.get(parameter.data_ptr()) for parameter in parameters]
        if None in names or len(names) != len(name_of):
            raise ValueError(
                "the optimizer's trained parameters are not those of the module of this loss"
            )
        return [name for name in names if name is not None]


def batched_module_loss(
    module: torch.nn.Module,
    loss: Callable[..., torch.Tensor],
    *,
    chunk_size: int | None = None,
    randomness: Randomness = "same",
) -> BatchedLoss:
    """Make a function of many parameter vectors from a module and its loss.

    Parameters
    ----------
    module
        Its parameters that require gradients are what varies.
    loss
        Called as ``loss(call, *batch)``, where ``call`` takes what the module takes and gives what
        it would with other parameters; returns a loss without dimensions. For instance
        ``lambda call, x, y: cross_entropy(call(x), y)``.
    chunk_size
        Most copies that are computed at once; ``None`` for all.
    randomness
        ``"same"`` dropout for all copies, ``"different"``, or ``"error"`` where there is some.

    Returns
    -------
    BatchedLoss
        ``batched(x_Nd, *batch) -> losses (N,)``; ``batched.bind(*batch)`` is a closure.

    Raises
    ------
    ValueError
        If the module trains nothing or `randomness` is unknown.
    """
    if randomness not in ("same", "different", "error"):
        raise ValueError(f'randomness must be "same", "different" or "error", got {randomness!r}')
    return BatchedLoss(module, loss, chunk_size, randomness)
