"""Features from a torch module: what a layer gives, or gradients of the output.

Takes a trained module and tensors (or arrays) of records, and gives rows of features. The module
is put into evaluation mode while it is asked and left as it was found: mode, gradients, hooks and
weights are untouched.

Shapes: n records, P parameters, D features, b records of a batch.

Source: empirical neural tangent kernel as features, "DAVED: Data Acquisition via Experimental
Design for Data Markets", Lu et al., NeurIPS 2024, arXiv 2403.13893; sparse projection: Kane and
Nelson, "Sparser Johnson-Lindenstrauss Transforms", J. ACM 2014.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from modicum.daved.features import FeatureMap

try:
    import torch
except ModuleNotFoundError as missing:
    raise ImportError(
        'features of a module need torch: pip install "modicum-daved[torch]"'
    ) from missing

__all__ = [
    "ENTKFeatures",
    "HookFeatures",
    "Projection",
    "SignProjection",
    "SparseProjection",
    "asking",
    "batches_of",
    "digest_of_state",
    "to_numpy",
]

# Parameters whose signs are drawn together: 2 MB of bits for 4096 features.
_PARAMETERS_OF_A_BLOCK = 4096
# Values of gradients that are held at a time: 256 MB in float32.
_VALUES_OF_A_BATCH = 1 << 26
_POOLINGS = ("flatten", "tokens", "space")
_PROJECTIONS = ("rademacher", "sparse", "none")


@contextmanager
def asking(module: torch.nn.Module) -> Iterator[None]:
    """Put every part of a module into evaluation mode, and then back into the one it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def to_numpy(values: torch.Tensor) -> np.ndarray:
    """Give values on the host in float32 or float64."""
    wide = values if values.dtype == torch.float64 else values.float()
    found: np.ndarray = wide.detach().cpu().numpy()
    return found


def digest_of_state(module: torch.nn.Module) -> str:
    """Give the SHA-256 of a module's parameters and buffers, with their names, types and shapes."""
    found = hashlib.sha256()
    for name, values in sorted(module.state_dict().items()):
        if not isinstance(values, torch.Tensor):
            continue
        found.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        raw = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found.update(raw.numpy().data)
    return found.hexdigest()


def _home(module: torch.nn.Module) -> tuple[torch.device, torch.dtype]:
    """Give where a module's parameters lie and their floating type."""
    for values in module.parameters():
        if values.is_floating_point():
            return values.device, values.dtype
    return torch.device("cpu"), torch.get_default_dtype()


def batches_of(records: Any, size: int, module: torch.nn.Module) -> Iterator[Any]:
    """Give batches of records on the device of a module, floating values in its type.

    Parameters
    ----------
    records
        A tensor or array, (n, …), or a mapping of a module's keyword arguments to such.
    size
        Records of a batch.
    module
        Whose device and floating type the records take.
    """
    device, dtype = _home(module)
    named = isinstance(records, Mapping)
    parts = {
        name: values if isinstance(values, torch.Tensor) else np.asarray(values)
        for name, values in (records if named else {"": records}).items()
    }
    counts = {len(values) for values in parts.values()}
    if len(counts) != 1:
        raise ValueError(f"all inputs of a module have as many records, got {sorted(counts)}")
    for start in range(0, counts.pop(), size):
        batch = {}
        for name, values in parts.items():
            part = values[start : start + size]
            if not isinstance(part, torch.Tensor):
                # Torch holds no array that cannot be written to, such as a memory map.
                part = torch.from_numpy(np.require(part, None, "W"))
            here = part.to(device)
            batch[name] = here.to(dtype) if here.is_floating_point() else here
        yield batch if named else batch[""]


def _call(module: Callable[..., Any], batch: Any) -> Any:
    return module(**batch) if isinstance(batch, Mapping) else module(batch)


class HookFeatures(FeatureMap):
    """What a layer of a module gives for every record.

    Parameters
    ----------
    module
        The whole module, on the device that is to be used.
    layer
        Name of the layer, as ``module.named_modules()`` gives it.
    take
        ``"output"`` of the layer, or its ``"input"``: that of a last linear layer is what a linear
        model on top of the others works on.
    pooling
        ``"flatten"`` for all values of a record, ``"tokens"`` for the mean over the first
        dimension of a record (n, tokens, D), ``"space"`` for the mean over all but the first
        (n, D, height, width). Padding is not known here: texts of several lengths go through
        `modicum.daved.integrations.transformers`.
    batch_size
        Records that go through the module at a time.

    Raises
    ------
    ValueError
        If the module has no such layer, or an argument is unknown.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        layer: str,
        take: str = "output",
        pooling: str = "flatten",
        batch_size: int = 256,
    ) -> None:
        layers = dict(module.named_modules())
        if layer not in layers:
            known = ", ".join(name for name in layers if name)
            raise ValueError(f"the module has no layer {layer!r}; it has {known}")
        if take not in ("output", "input"):
            raise ValueError(f"take is output or input, not {take!r}")
        if pooling not in _POOLINGS:
            raise ValueError(f"pooling is one of {', '.join(_POOLINGS)}, not {pooling!r}")
        _check_batch_size(batch_size)
        self.module, self.layer, self.take = module, layer, take
        self.pooling, self.batch_size = pooling, batch_size

    def transform(self, records: Any) -> np.ndarray:
        """Give what the layer gives, (n, D) float32, or float64 for such a module.

        Parameters
        ----------
        records
            A tensor or array, (n, …), or a mapping of the module's keyword arguments to such.

        Raises
        ------
        ValueError
            If the layer did not run exactly once for a batch, or gave no tensor.
        """
        seen: list[Any] = []
        hook = self.module.get_submodule(self.layer).register_forward_hook(
            lambda _, given, made: seen.append(made if self.take == "output" else given)
        )
        found = []
        try:
            with asking(self.module), torch.inference_mode():
                for batch in batches_of(records, self.batch_size, self.module):
                    seen.clear()
                    _call(self.module, batch)
                    found.append(to_numpy(self._pool(seen)))
        finally:
            hook.remove()
        if not found:
            raise ValueError("no records: give at least one")
        return np.concatenate(found)

    def _pool(self, seen: list[Any]) -> torch.Tensor:
        if len(seen) != 1:
            raise ValueError(
                f"layer {self.layer!r} ran {len(seen)} times for a batch; features need one that "
                "runs once"
            )
        values = seen[0][0] if isinstance(seen[0], tuple | list) else seen[0]
        if not isinstance(values, torch.Tensor):
            raise ValueError(
                f"layer {self.layer!r} gives {type(values).__name__}; features need a tensor"
            )
        if self.pooling == "tokens":
            values = values.mean(dim=1)
        elif self.pooling == "space":
            values = values.flatten(2).mean(dim=2)
        return values.reshape(len(values), -1)

    def describe(self) -> dict[str, Any]:
        """Give the layer, the pooling and digests of the module's form and weights."""
        return {
            "map": "hook",
            "layer": self.layer,
            "take": self.take,
            "pooling": self.pooling,
            **_describe_module(self.module),
        }


def _describe_module(module: torch.nn.Module) -> dict[str, Any]:
    """Describe a module; a function that its layers' names do not show is not seen."""
    return {
        "module": type(module).__qualname__,
        "form_sha256": hashlib.sha256(repr(module).encode()).hexdigest(),
        "weights_sha256": digest_of_state(module),
    }


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size is a whole number above 0, not {batch_size!r}")


class Projection(Protocol):
    """A random linear map from P values to D that keeps inner products on average."""

    dim: int

    def __call__(self, values_bP: torch.Tensor) -> torch.Tensor:
        """Give (b, D), of the values' type and on their device."""


class SignProjection:
    """Every value goes to every feature with a random sign: a dense projection.

    The variance of an inner product is at most 2 ‖x‖² ‖z‖² / D. Signs are drawn in blocks of
    parameters when they are needed and never held as a whole, the same on every device.

    Parameters
    ----------
    dim
        Number of features D.
    seed
        Parties with the same seed draw the same signs.
    """

    def __init__(self, dim: int, seed: int = 0) -> None:
        self.dim, self.seed = dim, seed

    def __call__(self, values_bP: torch.Tensor) -> torch.Tensor:
        """Give (b, D), of the values' type and on their device."""
        found_bD = values_bP.new_zeros(len(values_bP), self.dim)
        for block, start in enumerate(range(0, values_bP.shape[1], _PARAMETERS_OF_A_BLOCK)):
            part = values_bP[:, start : start + _PARAMETERS_OF_A_BLOCK]
            signs = self._signs(block)[: part.shape[1]]
            found_bD += part @ torch.from_numpy(signs).to(values_bP)
        return found_bD / self.dim**0.5

    def _signs(self, block: int) -> np.ndarray:
        """Give ±1, (parameters of a block, D) int8."""
        size = _PARAMETERS_OF_A_BLOCK * self.dim
        drawn = np.random.default_rng([self.seed, block]).bytes(-(-size // 8))
        bits = np.unpackbits(np.frombuffer(drawn, dtype=np.uint8), count=size)
        return (2 * bits.astype(np.int8) - 1).reshape(_PARAMETERS_OF_A_BLOCK, self.dim)


class SparseProjection:
    """Every value goes to a few features only: for modules of millions of parameters.

    Work and memory are of the order P · nonzeros instead of P · D. Inner products are kept on
    average; their variance is that of `SignProjection` and, for vectors with few large values,
    more.

    Parameters
    ----------
    dim
        Number of features D.
    seed
        Parties with the same seed draw the same features and signs.
    nonzeros
        Features that a value goes to.
    """

    def __init__(self, dim: int, seed: int = 0, nonzeros: int = 4) -> None:
        self.dim, self.seed, self.nonzeros = dim, seed, nonzeros

    def __call__(self, values_bP: torch.Tensor) -> torch.Tensor:
        """Give (b, D), of the values' type and on their device."""
        found_bD = values_bP.new_zeros(len(values_bP), self.dim)
        for number in range(self.nonzeros):
            random = np.random.default_rng([self.seed, number])
            where = random.integers(0, self.dim, size=values_bP.shape[1])
            signs = 2 * random.integers(0, 2, size=values_bP.shape[1], dtype=np.int8) - 1
            found_bD.index_add_(
                1,
                torch.from_numpy(where).to(values_bP.device),
                values_bP * torch.from_numpy(signs).to(values_bP),
            )
        return found_bD / self.nonzeros**0.5


class ENTKFeatures(FeatureMap):
    """Every record's gradient of the output by the parameters, randomly projected.

    A linear model on these features is the module linearised at its weights, so that a purchase
    for it is one for fine-tuning. Gradients come one per record from ``torch.func``.

    Parameters
    ----------
    module
        Gives one value per record, (n,) or (n, 1), unless `output` says which of several; on the
        device that is to be used. Records must not change one another's outputs.
    dim
        Number of features D: 512 to 4096 keep inner products to a few per cent.
    projection
        ``"rademacher"`` (`SignProjection`), ``"sparse"`` (`SparseProjection`), or ``"none"`` for
        the gradient itself, all P values.
    seed
        Of the projection.
    output
        Number of the output, or a function of one record's outputs (without the dimension of
        records) that gives a scalar tensor.
    parameters
        Tells by a parameter's name whether the gradient by it counts. By default those that ask
        for gradients do.
    batch_size
        Records at a time; by default so many that their gradients have at most 256 MB.

    Raises
    ------
    ValueError
        If an argument is not valid or no parameter counts.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        dim: int = 512,
        projection: str = "rademacher",
        seed: int = 0,
        output: int | Callable[[torch.Tensor], torch.Tensor] | None = None,
        parameters: Callable[[str], bool] | None = None,
        batch_size: int | None = None,
    ) -> None:
        if projection not in _PROJECTIONS:
            raise ValueError(f"projection is one of {', '.join(_PROJECTIONS)}, not {projection!r}")
        if dim < 1:
            raise ValueError(f"entk makes at least 1 feature, asked for {dim}")
        self.names = [
            name
            for name, values in module.named_parameters()
            if (parameters(name) if parameters else values.requires_grad)
        ]
        if not self.names:
            raise ValueError("no parameter counts: none asks for gradients or is chosen")
        if batch_size is not None:
            _check_batch_size(batch_size)
        self.module, self.output, self.seed = module, output, seed
        self.projection, self.batch_size = projection, batch_size
        self.n_parameters = sum(module.get_parameter(name).numel() for name in self.names)
        self.dim = self.n_parameters if projection == "none" else dim

    def transform(self, records: Any) -> np.ndarray:
        """Give projected gradients, (n, D) float32, or float64 for such a module.

        Parameters
        ----------
        records
            A tensor or array, (n, …), or a mapping of the module's keyword arguments to such.

        Raises
        ------
        ValueError
            If the output of a record is not a single value.
        """
        size = self.batch_size or max(1, _VALUES_OF_A_BATCH // self.n_parameters)
        project = self._projection()
        found = []
        with asking(self.module):
            gradients_of = self._gradients()
            for batch in batches_of(records, size, self.module):
                found.append(to_numpy(project(gradients_of(batch))))
        if not found:
            raise ValueError("no records: give at least one")
        return np.concatenate(found)

    def _projection(self) -> Callable[[torch.Tensor], torch.Tensor]:
        if self.projection == "rademacher":
            return SignProjection(self.dim, self.seed)
        if self.projection == "sparse":
            return SparseProjection(self.dim, self.seed)
        return lambda values_bP: values_bP

    def _gradients(self) -> Callable[[Any], torch.Tensor]:
        """Give the function from a batch to its gradients, (b, P)."""
        state = {name: values.detach() for name, values in self.module.named_buffers()}
        state |= {name: values.detach() for name, values in self.module.named_parameters()}
        free = {name: state.pop(name) for name in self.names}

        def output_of(parameters: dict[str, torch.Tensor], record: Any) -> torch.Tensor:
            named = isinstance(record, Mapping)
            parts = record if named else {"": record}
            one = {name: values.unsqueeze(0) for name, values in parts.items()}
            made = torch.func.functional_call(
                self.module,
                state | parameters,
                args=() if named else (one[""],),
                kwargs=one if named else {},
            )
            return self._scalar(made)

        per_record = torch.func.vmap(torch.func.grad(output_of), in_dims=(None, 0))

        def gradients_of(batch: Any) -> torch.Tensor:
            found = per_record(free, batch)
            return torch.cat([found[name].flatten(1) for name in self.names], dim=1)

        return gradients_of

    def _scalar(self, made: Any) -> torch.Tensor:
        """Give the output of one record, whose outputs come as a batch of one."""
        values: torch.Tensor = made if isinstance(made, torch.Tensor) else made[0]
        outputs = values[0]
        if callable(self.output):
            outputs = self.output(outputs)
        elif self.output is not None:
            outputs = outputs.flatten()[self.output]
        if outputs.numel() != 1:
            raise ValueError(
                f"a record has {outputs.numel()} outputs; output= says by which to take the "
                "gradient, or gives a scalar of them"
            )
        return outputs.reshape(())

    def describe(self) -> dict[str, Any]:
        """Give the projection, the parameters and digests of the module's form and weights.

        Raises
        ------
        ValueError
            If the output is taken by a function without a public name.
        """
        from modicum.daved.features import CallableFeatures

        output = CallableFeatures(self.output).describe() if callable(self.output) else self.output
        return {
            "map": "entk",
            "dim": self.dim,
            "projection": self.projection,
            "seed": self.seed,
            "output": output,
            "parameters": self.names,
            **_describe_module(self.module),
        }
