"""MuJoCo: an expert that needs no training, and the whole state of a simulation.

The regulator is that of the linearised dynamics (`mujoco.mjd_transitionFD`) and a quadratic cost,
from the discrete algebraic Riccati equation.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_discrete_are

from modicum.repcomplexity.experts import LinearExpert
from modicum.repcomplexity.integrations.gymnasium import make_environment

try:
    import mujoco
except ImportError as error:  # pragma: no cover
    raise ImportError('MuJoCo is missing: pip install "modicum-repcomplexity[mujoco]"') from error

__all__ = ["get_state", "linearise", "lqr_expert", "set_state"]

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_DIFFERENCE = 1e-6
"""Step of the central differences of MuJoCo's own examples."""


def get_state(environment: Any) -> np.ndarray:
    """Return everything the next steps of a simulation depend on, float64 ``(k,)``."""
    model, data = environment.unwrapped.model, environment.unwrapped.data
    state = np.empty(mujoco.mj_stateSize(model, _STATE))
    mujoco.mj_getState(model, data, state, _STATE)
    return state


def set_state(environment: Any, state: npt.ArrayLike) -> None:
    """Put a simulation into a state that `get_state` gave.

    A time limit around the environment counts on.

    Raises
    ------
    ValueError
        If it is the state of another model.
    """
    model, data = environment.unwrapped.model, environment.unwrapped.data
    values = np.asarray(state, dtype=np.float64)
    size = mujoco.mj_stateSize(model, _STATE)
    if values.shape != (size,):
        raise ValueError(f"state must have {size} numbers, not the shape {values.shape}")
    mujoco.mj_setState(model, data, values, _STATE)
    mujoco.mj_forward(model, data)


def linearise(environment: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return A and B of x' = A x + B u for one step of an environment at its resting state.

    x is the deviation of positions and velocities ``(2 nv,)``, u the controls ``(nu,)``. A step is
    as many steps of the simulation as the environment skips frames, taken by Euler's semi-implicit
    rule, which differs from the environment's own in the second order of the time step.
    """
    model = copy.copy(environment.unwrapped.model)
    model.opt.integrator = mujoco.mjtIntegrator.mjINT_EULER
    data = mujoco.MjData(model)
    size = 2 * model.nv + model.na
    A, B = np.zeros((size, size)), np.zeros((size, model.nu))
    mujoco.mjd_transitionFD(model, data, _DIFFERENCE, True, A, B, None, None)
    A_all, B_all = np.eye(size), np.zeros_like(B)
    for _ in range(environment.unwrapped.frame_skip):
        A_all, B_all = A @ A_all, A @ B_all + B
    return A_all, B_all


def lqr_expert(
    environment: Any,
    *,
    state_cost: npt.ArrayLike | None = None,
    action_cost: float = 1.0,
    noise: float = 0.0,
) -> LinearExpert:
    """Return the linear-quadratic regulator about the resting state of an environment.

    Parameters
    ----------
    environment
        A MuJoCo environment, or the id of one, whose observation is positions and velocities, such
        as ``"InvertedPendulum-v5"``.
    state_cost
        Cost of each number of the state squared, ``(2 nv,)``; ones by default.
    action_cost
        Cost of each control squared.
    noise
        As for `LinearExpert`.

    Raises
    ------
    ValueError
        If observations are something else, or a cost is out of range.
    """
    if isinstance(environment, str):
        made = make_environment(environment)
        try:
            return lqr_expert(made, state_cost=state_cost, action_cost=action_cost, noise=noise)
        finally:
            made.close()
    model = environment.unwrapped.model
    size = 2 * model.nv
    if model.na or model.nq != model.nv or environment.observation_space.shape != (size,):
        raise ValueError(
            f"observations must be the {model.nq} positions and {model.nv} velocities of joints"
            f" that slide or hinge, not of shape {environment.observation_space.shape}"
        )
    costs = np.ones(size) if state_cost is None else np.asarray(state_cost, dtype=float)
    if costs.shape != (size,) or (costs < 0).any() or not action_cost > 0:
        raise ValueError(f"state_cost must be {size} numbers from 0, and action_cost positive")
    A, B = linearise(environment)
    R = action_cost * np.eye(model.nu)
    P = solve_discrete_are(A, B, np.diag(costs), R)
    gain = np.linalg.solve(R + B.T @ P @ B, B.T @ P @ A)
    center = np.concatenate([model.qpos0, np.zeros(model.nv)])
    space = environment.action_space
    return LinearExpert(gain, center, space.low, space.high, noise)
