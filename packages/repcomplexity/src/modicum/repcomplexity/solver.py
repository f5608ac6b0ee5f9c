"""Exact optimal values by dynamic programming over packed states.

Takes a `modicum.repcomplexity.mdp.BitMDP`, gives Q*, V*, a policy and distances. Next states are
computed as they are needed, chunk by chunk, and never stored; values have the smallest integer
dtype that holds them where rewards are integers and nothing is left to chance or discounted, else
float64. NumPy on the host, or torch on any device, with equal results.

Shapes: S states in the order of `BitMDP.codes_of`, A actions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from modicum.core.device import resolve_device
from modicum.repcomplexity.bits import Array, ComplexityLimitError
from modicum.repcomplexity.mdp import BitMDP, Branches

__all__ = ["METHODS", "Solution", "solve"]

METHODS = ("auto", "dynamic_programming", "closed_form")
"""Ways to the values; ``"auto"`` takes the closed form where there is one."""

TIE_BREAKS = ("first", "all")

# Beyond these a chunk's temporaries leave the cache of a core, or fill a GPU for nothing.
_CHUNK_HOST, _CHUNK_DEVICE = 1 << 15, 1 << 24
_MEMORY_GIB = 16.0
_PROBABILITY_TOLERANCE = 1e-8
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Solution:
    """Optimal values of a process at one step of an episode.

    Attributes
    ----------
    mdp
        The process.
    Q
        Q*_h(s, a), ``(S, A)``: state s is ``mdp.codes_of(s)``, which is s where every code is a
        state.
    V
        V*_h(s), ``(S,)``.
    policy
        With ``tie_break="first"`` the lowest optimal action, integers ``(S,)``; with ``"all"``
        which actions are optimal, bool ``(S, A)``. Values in float64 count as equal within twice
        `residual` and 1e-12 of the greatest value.
    T
        Fewest steps to a reward, int64 ``(S,)``, for families that know it, else None.
    step
        h, from 1; 1 for an endless process.
    horizon
        H; None for an endless process.
    residual
        Of value iteration: the greatest change of a value in the last sweep; 0 otherwise.
    error_bound
        Greatest possible distance of V from the optimal values: γ/(1 − γ) times the residual.
    sweeps
        Sweeps over all states that were made.
    method
        One of `METHODS` but ``"auto"``.
    """

    mdp: BitMDP
    Q: Array
    V: Array
    policy: Array
    T: Array | None
    step: int
    horizon: int | None
    residual: float
    error_bound: float
    sweeps: int
    method: str
    _backend: _Backend = field(repr=False)
    _tie_break: str = field(repr=False)

    def at(self, step: int) -> Solution:
        """Return the solution at another step h of ``1 … H``, by closed form or by going back.

        An endless process has the same one at every step.

        Raises
        ------
        ValueError
            If the step is not in ``[1, H]``.
        """
        if self.horizon is None:
            return self
        if not 1 <= step <= self.horizon:
            raise ValueError(f"step must be in [1, {self.horizon}], not {step}")
        if self.method == "closed_form":
            Q, V = self._backend.closed_form(step)
            sweeps = 0
        else:
            Q, V, sweeps = self._backend.backward_induction(step)
        policy = _policy(_best(Q, V, self.residual), self._tie_break)
        return replace(self, Q=Q, V=V, policy=policy, step=step, sweeps=sweeps)

    @property
    def optimal_actions(self) -> Array:
        """Which actions are optimal, as far as `residual` and rounding tell; bool ``(S, A)``."""
        return _best(self.Q, self.V, self.residual)


def solve(
    mdp: BitMDP,
    *,
    method: str = "auto",
    device: Any = None,
    tie_break: str = "first",
    tol: float = 1e-10,
    chunk: int | None = None,
    memory_limit_gib: float = _MEMORY_GIB,
) -> Solution:
    """Return the exact optimal values of a process at step 1.

    Backward induction where there is a horizon, value iteration where there is none.

    Parameters
    ----------
    mdp
        The process.
    method
        One of `METHODS`.
    device
        None computes in NumPy; ``"cpu"``, ``"cuda"``, ``"auto"`` … in torch, and the solution holds
        tensors.
    tie_break
        ``"first"`` or ``"all"``: what `Solution.policy` is.
    tol
        Value iteration stops once no value changes by more than this in a sweep.
    chunk
        States worked on at once; a suitable number if None.
    memory_limit_gib
        Most memory that values and policy may take.

    Raises
    ------
    ValueError
        If an option is unknown, `method` is ``"closed_form"`` and there is none, a next state is
        no state of the process, probabilities do not sum to one, a terminal state can be left or
        pays, or a reward is not finite.
    ComplexityLimitError
        If the solution would take more memory than allowed. Nothing was allocated.
    """
    _check_options(method, tie_break, tol, chunk)
    if method == "closed_form" and not mdp.has_closed_form:
        raise ValueError(f"{mdp.name} has no closed form of its values; use 'dynamic_programming'")
    closed = mdp.has_closed_form and method != "dynamic_programming"
    # With the smallest values first: to learn what rewards take may mean to go through all states.
    _check_memory(mdp, "int8", memory_limit_gib)
    backend = _Backend(mdp, None if device is None else resolve_device(device), chunk)
    _check_memory(mdp, backend.dtype, memory_limit_gib)
    sweeps, residual, bound = 0, 0.0, 0.0
    if closed:
        Q, V = backend.closed_form(1)
    elif mdp.horizon is not None:
        Q, V, sweeps = backend.backward_induction(1)
    else:
        Q, V, sweeps, residual = backend.value_iteration(tol)
        bound = mdp.gamma / (1 - mdp.gamma) * residual
    return Solution(
        mdp=mdp,
        Q=Q,
        V=V,
        policy=_policy(_best(Q, V, residual), tie_break),
        T=backend.distances(),
        step=1,
        horizon=mdp.horizon,
        residual=residual,
        error_bound=bound,
        sweeps=sweeps,
        method="closed_form" if closed else "dynamic_programming",
        _backend=backend,
        _tie_break=tie_break,
    )


def _check_options(method: str, tie_break: str, tol: float, chunk: int | None) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, not {method!r}")
    if tie_break not in TIE_BREAKS:
        raise ValueError(f"tie_break must be 'first' or 'all', not {tie_break!r}")
    if not tol > 0:
        raise ValueError(f"tol must be positive, not {tol}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, not {chunk}")


def _best(Q: Array, V: Array, residual: float) -> Array:
    if not str(V.dtype).endswith("float64"):
        return Q == V[:, None]
    # Else rounding would choose between actions that are equally good.
    margin = 2 * residual + _ROUNDING * float(abs(V).max())
    return Q >= V[:, None] - margin


def _policy(best: Array, tie_break: str) -> Array:
    if tie_break == "all":
        return best
    if hasattr(best, "detach"):
        import torch

        # torch's argmax does not promise the first of equal maxima.
        policy = torch.full(best.shape[:1], best.shape[1] - 1, device=best.device)
        for action in range(best.shape[1] - 2, -1, -1):
            policy.masked_fill_(best[:, action], action)
        return policy
    return best.argmax(1)


def _check_memory(mdp: BitMDP, dtype: str, limit_gib: float) -> None:
    size = np.dtype(dtype).itemsize
    # Values before and after a sweep, Q, the comparison of the two, policy, distances.
    each = size * (2 + mdp.n_actions) + mdp.n_actions + 8 + 8 * _knows_distances(mdp)
    gib = mdp.n_states * each / 2**30
    if gib > limit_gib:
        raise ComplexityLimitError(
            f"the solution of {mdp.name} has {mdp.n_states:,} states and would take at least "
            f"{gib:,.1f} GiB, above memory_limit_gib={limit_gib:g}; ask optimal_values of "
            "single states where there is a closed form, or use a smaller process"
        )


def _knows_distances(mdp: BitMDP) -> bool:
    return hasattr(mdp, "steps_to_reward") and getattr(mdp, "knows_distances", True)


class _Backend:
    """Arrays of one library over the states of one process."""

    def __init__(self, mdp: BitMDP, device: str | None, chunk: int | None):
        self.mdp, self.device = mdp, device
        on_gpu = device is not None and device != "cpu"
        self.chunk = chunk or (_CHUNK_DEVICE if on_gpu else _CHUNK_HOST)
        self.dtype = _value_dtype(mdp)

    def empty(self, *shape: int) -> Array:
        if self.device is None:
            return np.empty(shape, dtype=self.dtype)
        import torch

        return torch.empty(shape, dtype=getattr(torch, self.dtype), device=self.device)

    def chunks(self) -> Iterator[tuple[slice, Array]]:
        """Give the states piece by piece: where they stand, and their codes."""
        for start in range(0, self.mdp.n_states, self.chunk):
            stop = min(start + self.chunk, self.mdp.n_states)
            yield slice(start, stop), self.mdp.codes_of(self._range(start, stop))

    def _range(self, start: int, stop: int) -> Array:
        if self.device is None:
            return np.arange(start, stop, dtype=np.int64)
        import torch

        return torch.arange(start, stop, device=self.device)

    def closed_form(self, step: int) -> tuple[Array, Array]:
        V = self.empty(self.mdp.n_states)
        for piece, codes in self.chunks():
            V[piece] = _cast(self.mdp.optimal_values(codes, step + 1), V)
        Q = self._values_of_actions(V, check=False)
        return Q, _max(Q)

    def backward_induction(self, step: int) -> tuple[Array, Array, int]:
        assert self.mdp.horizon is not None
        V, new = self.empty(self.mdp.n_states), self.empty(self.mdp.n_states)
        V[:] = 0
        sweeps = self.mdp.horizon - step
        for sweep in range(sweeps):
            self._sweep(V, new, check=sweep == 0)
            V, new = new, V
        Q = self._values_of_actions(V, check=sweeps == 0)
        return Q, _max(Q), sweeps + 1

    def value_iteration(self, tol: float) -> tuple[Array, Array, int, float]:
        V, new = self.empty(self.mdp.n_states), self.empty(self.mdp.n_states)
        V[:] = 0
        for sweep in range(self._most_sweeps(tol)):
            residual = self._sweep(V, new, check=sweep == 0)
            V, new = new, V
            if residual <= tol:
                break
        Q = self._values_of_actions(V, check=False)
        best = _max(Q)
        return Q, best, sweep + 2, float(abs(best - V).max())

    def _most_sweeps(self, tol: float) -> int:
        """Return after how many sweeps no value changes by more than `tol`, but for rounding."""
        bounds = self.mdp.reward_bounds()
        first = max(abs(bounds.lowest), abs(bounds.highest), tol)
        return math.ceil(math.log(tol / first) / math.log(self.mdp.gamma)) + 2

    def _sweep(self, V: Array, new: Array, check: bool) -> float:
        """Write the values one step earlier to `new`; returns their greatest change."""
        change = 0.0
        for piece, codes in self.chunks():
            best = None
            for action in range(self.mdp.n_actions):
                value = self._backup(V, codes, action, check)
                best = value if best is None else _larger(best, value)
            new[piece] = best
            if self.mdp.horizon is None:
                change = max(change, float(abs(new[piece] - V[piece]).max()))
        return change

    def _values_of_actions(self, V: Array, check: bool) -> Array:
        Q = self.empty(self.mdp.n_states, self.mdp.n_actions)
        for piece, codes in self.chunks():
            for action in range(self.mdp.n_actions):
                Q[piece, action] = self._backup(V, codes, action, check)
        return Q

    def _backup(self, V: Array, codes: Array, action: int, check: bool) -> Array:
        value: Array = 0
        branches, rewards = self.mdp.transitions(codes, action), self.mdp.rewards(codes, action)
        if check:
            self._check(codes, action, branches, rewards)
        for following, probability in branches:
            states = self.mdp.indices_of(following)
            share = V[states]
            value = (
                share
                if isinstance(probability, float) and probability == 1
                else (value + probability * share)
            )
        if self.mdp.gamma != 1:
            value = self.mdp.gamma * value
        return value + _cast(rewards, V)

    def _check(self, codes: Array, action: int, branches: Branches, rewards: Array) -> None:
        total: Any = 0
        end = self.mdp.is_terminal(codes) if self.mdp.has_terminals else None
        for following, probability in branches:
            total = total + probability
            wrong = ~self.mdp.is_state(following)
            if bool(wrong.any()):
                raise ValueError(
                    f"action {action} in the state of code {int(codes[wrong][0])} leads to code "
                    f"{int(following[wrong][0])}, which is no state"
                )
            left = None if end is None else end & ((following != codes) | (rewards != 0))
            if left is not None and bool(left.any()):
                raise ValueError(
                    f"action {action} pays in the terminal state of code {int(codes[left][0])} or "
                    "leads elsewhere; it must stay there with reward 0"
                )
        error = abs(total - 1)
        if not float(error.max() if hasattr(error, "max") else error) <= _PROBABILITY_TOLERANCE:
            raise ValueError(f"probabilities of action {action} do not sum to 1")

    def distances(self) -> Array | None:
        find = getattr(self.mdp, "steps_to_reward", None)
        if find is None or not _knows_distances(self.mdp):
            return None
        parts = [find(codes) for _, codes in self.chunks()]
        if self.device is None:
            return np.concatenate(parts)
        import torch

        return torch.cat(parts)


def _value_dtype(mdp: BitMDP) -> str:
    bounds = mdp.reward_bounds()
    if not bounds.integer or not mdp.deterministic or mdp.gamma != 1 or mdp.horizon is None:
        return "float64"
    largest = mdp.horizon * max(abs(bounds.lowest), abs(bounds.highest))
    for name in ("int8", "int16", "int32", "int64"):
        if largest <= np.iinfo(name).max:
            return name
    return "float64"


def _cast(values: Array, like: Array) -> Array:
    return values.to(like.dtype) if hasattr(like, "detach") else np.asarray(values, like.dtype)


def _larger(one: Array, other: Array) -> Array:
    return one.maximum(other) if hasattr(one, "detach") else np.maximum(one, other)


def _max(Q: Array) -> Array:
    return Q.amax(1) if hasattr(Q, "detach") else Q.max(1)
