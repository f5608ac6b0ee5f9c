"""What is known about committing several tokens at once, and what calls and rows cost.

Sources: "Fast-dLLM" (arXiv 2505.22618) for thresholds, "Accelerated Sampling from Masked Diffusion
Models via Entropy Bounded Unmasking" (arXiv 2505.24857) for entropies, "Plan, Verify and Fill"
(arXiv 2601.12247) for what its calls commit. Numbers and tensors in, numbers and tensors out;
nothing here decodes.
"""

import math
from typing import TypeVar

import torch

from modicum.pvf.stats import DecodeStats
from modicum.pvf.validation import check_count, check_probability

__all__ = [
    "break_even",
    "broken_identities",
    "forward_seconds",
    "independence_gap_bound",
    "kl_bound",
    "plan_pass_guaranteed",
    "ridge",
    "safe_parallel",
    "speedup",
    "total_variation_bound",
]

Number = TypeVar("Number", float, torch.Tensor)

_ROUNDING = 1e-5
"""More than a probability that is computed in float32 is wrong by."""


# Confident tokens --------------------------------------------------------------------------------


def safe_parallel(eps: float) -> int:
    """Give how many tokens may be committed at once when each has a probability above 1 - ε.

    The largest n with (n + 1) ε <= 1: their most likely values are then the most likely tuple of
    the joint distribution. One token by itself always is.

    Parameters
    ----------
    eps
        ε in (0, 1].

    Raises
    ------
    ValueError
        If ε is out of range.

    Notes
    -----
    Source: Fast-dLLM, arXiv 2505.22618, theorem on parallel decoding.
    """
    check_probability("eps", eps)
    if eps == 0:
        raise ValueError("eps must be positive, not 0: any number is safe where all is certain")
    # 1 / (1 - 0.9) is 10 but for rounding.
    return max(1, math.floor(1 / eps + 1e-9) - 1)


def total_variation_bound(n: int, eps: float) -> float:
    """Bound the distance between n tokens' joint distribution and the product of its marginals.

    The total variation distance is at most (3n - 1) ε / 2 if every token has a value of probability
    above 1 - ε and (n + 1) ε <= 1.

    Parameters
    ----------
    n
        Tokens, at least 1.
    eps
        ε in [0, 1].

    Notes
    -----
    Source: Fast-dLLM, arXiv 2505.22618.
    """
    _check(n, eps)
    return (3 * n - 1) / 2 * eps


def kl_bound(n: int, eps: float, vocab_size: int) -> float:
    """Bound the KL divergence of the product of n marginals from the joint distribution, in nats.

    KL(joint, product) is at most (n - 1) (H(ε) + ε ln(V - 1)), with H the entropy of a coin, if
    every token has a value of probability above 1 - ε and (n + 1) ε <= 1.

    Parameters
    ----------
    n
        Tokens, at least 1.
    eps
        ε in [0, 1].
    vocab_size
        V, at least 2.

    Notes
    -----
    Source: Fast-dLLM, arXiv 2505.22618.
    """
    _check(n, eps)
    check_count("vocab_size", vocab_size, 2)
    coin = -sum(p * math.log(p) for p in (eps, 1 - eps) if p > 0)
    return (n - 1) * (coin + eps * math.log(vocab_size - 1))


def _check(n: int, eps: float) -> None:
    check_count("n", n)
    check_probability("eps", eps)


def independence_gap_bound(entropies: torch.Tensor) -> torch.Tensor:
    """Bound the KL divergence of the product of marginals from the joint by the entropies alone.

    KL(joint, product) is the sum of the entropies less that of the joint, which is at least the
    largest of them.

    Parameters
    ----------
    entropies
        Of the marginals in nats, (..., n).

    Returns
    -------
    torch.Tensor
        Nats, (...).

    Notes
    -----
    Source: arXiv 2505.24857.
    """
    return entropies.sum(-1) - entropies.amax(-1)


# Planning tokens ---------------------------------------------------------------------------------


def plan_pass_guaranteed(probability: Number, threshold: float) -> Number:
    """Say whether a planning token of this probability has to pass the test of consistency.

    If all conditionals of a model belong to one joint distribution, a token that has probability p
    in the base row leaves a prediction of confidence c at 1 - (1 - c) / p or more, which is above
    one half, hence still the most likely, where p > 2 (1 - c). A rejection above that proves that
    the model's conditionals do not belong to one distribution. At p = 2 (1 - c) two values may have
    one half each, so that nothing is guaranteed; neither is it within the rounding of float32.

    Parameters
    ----------
    probability
        Of the planning token in the base row, in [0, 1].
    threshold
        Least confidence of the predictions that have to stay.
    """
    return probability > 2 * (1 - threshold) + _ROUNDING  # type: ignore[return-value]


# Calls -------------------------------------------------------------------------------------------


def broken_identities(
    stats: DecodeStats, *, tokens: int, blocks: int, num_drafts: int, unlock_threshold: int = 0
) -> list[str]:
    """Check what holds between calls, rows and tokens of every plan-verify-fill decoding.

    Parameters
    ----------
    stats
        Of a sequence that was decoded to its end, without a stop at an end token.
    tokens
        Masks that it had.
    blocks
        Blocks with masks that it had.
    num_drafts, unlock_threshold
        As in `modicum.pvf.PVF`.

    Returns
    -------
    list of str
        What does not hold, with the numbers; empty when all does.
    """
    committed = stats.committed
    tests = stats.nfe_plan + stats.nfe_fill
    drafts = stats.drafts_plan + stats.drafts_fill
    identities = {
        "nfe == nfe_cold + nfe_plan + nfe_fill": (stats.nfe, stats.nfe_cold + tests, "=="),
        "tokens == H + P + F + X": (stats.tokens, sum(committed.values()), "=="),
        "tokens == masks": (stats.tokens, tokens, "=="),
        "P == nfe_plan - nfe_plan_failed": (
            committed["P"],
            stats.nfe_plan - stats.nfe_plan_failed,
            "==",
        ),
        "F == accepted_fill": (committed["F"], stats.accepted_fill, "=="),
        "F <= num_drafts * nfe_fill": (committed["F"], num_drafts * stats.nfe_fill, "<="),
        "rows == nfe + drafts": (stats.rows, stats.nfe + drafts, "=="),
        "drafts <= num_drafts * (nfe_plan + nfe_fill)": (drafts, num_drafts * tests, "<="),
        "nfe <= 3 * masks": (stats.nfe, 3 * tokens, "<="),
    }
    if not unlock_threshold:
        # What is committed at once has predictions of its own and is of one block.
        identities["blocks <= nfe"] = (blocks, stats.nfe, "<=")
    return [
        f"{name} does not hold: {left} and {right}"
        for name, (left, right, sign) in identities.items()
        if not (left == right if sign == "==" else left <= right)
    ]


# Seconds -----------------------------------------------------------------------------------------


def ridge(flops: float, bandwidth: float, bytes_per_weight: float = 2.0) -> float:
    """Give how many tokens a call may process before computing takes longer than reading weights.

    Rows are free while rows times tokens of a row stay below it.

    Parameters
    ----------
    flops
        Operations that the device makes in a second.
    bandwidth
        Bytes that its memory moves in a second.
    bytes_per_weight
        2 for bfloat16.
    """
    _check_positive(flops=flops, bandwidth=bandwidth, bytes_per_weight=bytes_per_weight)
    return flops * bytes_per_weight / (2 * bandwidth)


def forward_seconds(
    parameters: float,
    tokens: float,
    *,
    flops: float,
    bandwidth: float,
    bytes_per_weight: float = 2.0,
) -> float:
    """Estimate the seconds of a call: reading all weights or two operations for each and token.

    Parameters
    ----------
    parameters
        Weights of the model.
    tokens
        Rows times the tokens processed in each.
    flops, bandwidth, bytes_per_weight
        As in `ridge`.
    """
    _check_positive(parameters=parameters, tokens=tokens)
    at_ridge = ridge(flops, bandwidth, bytes_per_weight)
    return bytes_per_weight * parameters / bandwidth * max(1.0, tokens / at_ridge)


def break_even(calls_one_row: float, calls_with_drafts: float) -> float:
    """Give how many times as long a call with drafts may take before fewer calls save no time.

    Parameters
    ----------
    calls_one_row, calls_with_drafts
        Calls that the same answers take.
    """
    _check_positive(calls_one_row=calls_one_row, calls_with_drafts=calls_with_drafts)
    return calls_one_row / calls_with_drafts


def speedup(
    calls_one_row: float, calls_with_drafts: float, seconds_one_row: float, seconds_drafts: float
) -> float:
    """Give how many times as fast decoding with drafts is; below 1 it is slower.

    Parameters
    ----------
    calls_one_row, calls_with_drafts
        Calls that the same answers take.
    seconds_one_row, seconds_drafts
        Of one call of either kind.
    """
    _check_positive(seconds_one_row=seconds_one_row, seconds_drafts=seconds_drafts)
    allowed = break_even(calls_one_row, calls_with_drafts)
    return allowed * seconds_one_row / seconds_drafts


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, not {value!r}")
