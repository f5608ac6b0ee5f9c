"""The names under which Gymnasium finds the environments of this package.

Importing this module makes them known. What they are made of is loaded when one is made: Gymnasium
may be loaded by one of those modules, and this one right after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modicum.repcomplexity.envs.environment import BitMDPEnv
    from modicum.repcomplexity.envs.vector import BitMDPVectorEnv

__all__ = ["make_env", "make_vector_env", "register_all"]

_DEFAULTS: dict[str, dict[str, Any]] = {
    "MajorityMDP": {"n": 16},
    "ParityMDP": {"n": 16},
    "SatMDP": {"n_variables": 4},
}


def make_env(
    family: str,
    *,
    obs: str = "bits",
    pixel_size: int = 8,
    render_mode: str | None = None,
    **settings: Any,
) -> BitMDPEnv:
    """Return an environment of a family, for ``gymnasium.make``.

    `settings` are those of the family, the others those of `BitMDPEnv`.
    """
    from modicum.repcomplexity import families
    from modicum.repcomplexity.envs.environment import BitMDPEnv

    mdp = getattr(families, family)(**settings)
    return BitMDPEnv(mdp, obs=obs, pixel_size=pixel_size, render_mode=render_mode)


def make_vector_env(
    family: str,
    *,
    num_envs: int = 1,
    obs: str = "bits",
    pixel_size: int = 8,
    max_episode_steps: int | None = None,
    render_mode: str | None = None,
    **settings: Any,
) -> BitMDPVectorEnv:
    """Return a vector environment of a family, for ``gymnasium.make_vec``.

    `settings` are those of the family, the others those of `BitMDPVectorEnv`.
    """
    from modicum.repcomplexity import families
    from modicum.repcomplexity.envs.vector import BitMDPVectorEnv

    return BitMDPVectorEnv(
        getattr(families, family)(**settings),
        num_envs,
        obs=obs,
        pixel_size=pixel_size,
        max_episode_steps=max_episode_steps,
        render_mode=render_mode,
    )


def register_all() -> None:
    """Make the environments known to Gymnasium, unless they are."""
    import gymnasium

    register, registry = gymnasium.register, gymnasium.registry
    for family, defaults in _DEFAULTS.items():
        if f"modicum/{family}-v0" not in registry:
            register(
                f"modicum/{family}-v0",
                entry_point=f"{__name__}:make_env",
                vector_entry_point=f"{__name__}:make_vector_env",
                kwargs={"family": family, **defaults},
            )
    if "modicum/BitMDP-v0" not in registry:
        register(
            "modicum/BitMDP-v0",
            entry_point="modicum.repcomplexity.envs.environment:BitMDPEnv",
            vector_entry_point="modicum.repcomplexity.envs.vector:BitMDPVectorEnv",
        )


register_all()
