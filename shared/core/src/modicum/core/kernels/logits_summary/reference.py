"""The plain-torch version of the logits summary: short, readable, and what the kernel is held to.

Works on a few rows at a time, so that its temporaries stay in cache and bounded however many rows
there are. Assumes that its arguments were checked by the front door.
"""

from __future__ import annotations

import torch

# Shape suffixes: ... leading dimensions, N all of them flattened, R rows of one chunk, V
# vocabulary, K suppressed ids.

# Entries of one chunk, of which about four temporaries live at once. On a CPU 1 MiB in float32, to
# stay in cache; on an accelerator 256 MiB, to keep the number of launches small.
_CPU_CHUNK_ENTRIES = 1 << 18
_DEVICE_CHUNK_ENTRIES = 1 << 26

# exp(-1000) is exactly 0 in float64 and float32, so the clamp changes no sum; it keeps the product
# exp(s) * s at 0 instead of 0 * -inf = NaN for entries of -inf.
_LEAST_SHIFT = -1000.0


@torch.no_grad()
def logits_summary_reference(
    logits: torch.Tensor, token_ids: torch.Tensor | None, suppress_K: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """Compute the fields of a ``LogitsSummary`` with separate torch calls over chunks of rows.

    Parameters
    ----------
    logits
        Floating tensor of shape ``[..., V]``.
    token_ids
        Integer tensor of shape ``[...]`` or None.
    suppress_K
        int64 ids of shape ``[K]`` or None; ids outside the vocabulary are ignored.

    Returns
    -------
    dict
        Field name to tensor of shape ``[...]``; ``token_log_prob`` only when asked for.
    """
    vocabulary = logits.shape[-1]
    leading = logits.shape[:-1]
    logits_NV = logits.reshape(leading.numel(), vocabulary)
    token_ids_N = None if token_ids is None else token_ids.reshape(-1).to(torch.int64)
    dropped_V = None
    if suppress_K is not None:
        dropped_V = torch.isin(torch.arange(vocabulary, device=logits.device), suppress_K)
    on_cpu = logits.device.type == "cpu"
    rows = max(1, (_CPU_CHUNK_ENTRIES if on_cpu else _DEVICE_CHUNK_ENTRIES) // vocabulary)
    chunks = [
        _summarise_rows(
            logits_NV[start : start + rows],
            None if token_ids_N is None else token_ids_N[start : start + rows],
            dropped_V,
        )
        for start in range(0, max(1, len(logits_NV)), rows)
    ]
    return {
        name: torch.cat([chunk[name] for chunk in chunks]).reshape(leading) for name in chunks[0]
    }


def _summarise_rows(
    logits_RV: torch.Tensor, token_ids_R: torch.Tensor | None, dropped_V: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    dtype = torch.promote_types(logits_RV.dtype, torch.float32)
    logits_RV = logits_RV.to(dtype)
    if dropped_V is not None:
        logits_RV = logits_RV.masked_fill(dropped_V, -torch.inf)

    max_R, argmax_R = logits_RV.max(-1)
    others_RV = logits_RV.scatter(-1, argmax_R[:, None], -torch.inf)
    second_R = others_RV.amax(-1)

    empty_R = max_R == -torch.inf
    origin_R = max_R.masked_fill(empty_R, 0.0)
    shifted_RV = (logits_RV - origin_R[:, None]).clamp_(min=_LEAST_SHIFT)
    weights_RV = shifted_RV.exp()
    total_R = weights_RV.sum(-1)
    log_total_R = total_R.log()
    mean_shift_R = weights_RV.mul_(shifted_RV).sum(-1) / total_R

    # inf - inf is NaN where a row's maximum is +inf: log_sum_exp alone has a value there.
    infinite_R = max_R == torch.inf
    fields = {
        "max": max_R,
        "argmax": argmax_R,
        "second_max": torch.where(max_R.isnan(), max_R, second_R),
        "margin": (max_R - second_R).masked_fill(max_R == second_R, 0.0),
        "log_sum_exp": torch.where(infinite_R, max_R, max_R + log_total_R),
        "entropy": (log_total_R - mean_shift_R).masked_fill(empty_R, 0.0),
        "top1_log_prob": (-log_total_R).masked_fill(empty_R, -torch.inf),
    }
    if token_ids_R is not None:
        known_R = (token_ids_R >= 0) & (token_ids_R < logits_RV.shape[-1])
        token_R = logits_RV.gather(-1, token_ids_R.where(known_R, 0)[:, None])[:, 0]
        # A probability of zero is -inf; only log_total's NaN may pass where the maximum is +inf.
        log_prob_R = torch.where(empty_R, -torch.inf, token_R - origin_R - log_total_R)
        fields["token_log_prob"] = log_prob_R.masked_fill(~known_R, torch.nan)
    return fields
