"""Builds the glued transformer: the map from K experts and a controller to one network.

`glue` writes the experts' weights into the blocks of dense matrices and the construction's own
numbers around them, bounds the attention scores to choose how far apart codes have to push them,
and then measures on probe streams how much attention leaks to where it should not go. It reads
weights and never runs an expert: the rows and columns that it adds do not depend on what the
experts compute.

Legend: ``B`` streams, ``N`` tokens, ``K`` experts, ``D`` width of the stream, ``H`` heads, ``E``
width of a head, ``F`` hidden width, ``G`` units of the gate, ``V`` tokens of the layout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch

from modicum.core.device import torch_generator
from modicum.testtime.construct.blocks import PRESENCE, Channels, GlueConfig, GluedBlock
from modicum.testtime.construct.codes import TurnCodes
from modicum.testtime.construct.controller import GREEDY_SCALE, check_table_size, describe
from modicum.testtime.construct.experts import BlockWeights, ExpertWeights, read_expert
from modicum.testtime.construct.policies import IndexPolicy, SoftmaxPolicy, as_policy
from modicum.testtime.construct.stream import PROMPT, TURN, StreamCode
from modicum.testtime.construct.transformer import GluedTransformer, Mode

__all__ = ["attention_leak", "glue"]

SEPARATION = 40.0
"""Least distance between scores of relevant and other keys: e^-40 is 4e-18."""
LEAK_LIMIT = 1e-12
"""Attention, per token of the stream, that may go where it should not."""
UNBOUNDED_PENALTY = 2.0**60
"""Penalty of tokens of the wrong phase where the actions' logits have no bound."""
PROBE_PROMPT, PROBE_RESPONSE = 6, 4
"""Most words of the probe streams' prompts and responses."""


def glue(
    experts: Sequence[Any],
    turns: int,
    controller: Any = "ucb1",
    *,
    end_of_input: int | Sequence[int] | None = None,
    codes: Literal["onehot", "orthogonal", "binary"] = "onehot",
    bound: float | Literal["auto"] = "auto",
    gate: float | Literal["auto"] = "auto",
    mode: Mode = "dense",
    vocabularies: Literal["shared", "disjoint"] = "shared",
    strict: bool = False,
    epsilon: float = 0.5,
    seed: int = 0,
    max_table: int = 200_000,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> GluedTransformer:
    """Return one transformer that runs online learning over experts by itself.

    Parameters
    ----------
    experts
        K models as `modicum.testtime.construct.experts.read_expert` takes them; their sizes may
        differ.
    turns
        Most turns of a stream, T.
    controller
        What names the next expert: anything `modicum.testtime.construct.policies.as_policy` takes,
        such as "ucb1" or a function ``table(n, S)``.
    end_of_input
        The word that ends an expert's input, for which its action token stands; one for all experts
        or one each. None takes ``config.eos_token_id``.
    codes
        How turns are told apart in the residual stream: "onehot" takes T + 1 coordinates, "binary"
        twice the digits of T, "orthogonal" random signs, of order log(T)/epsilon² of them.
    bound
        B, what an attention score loses where query and key do not belong together. "auto" takes
        ``(2 max|s| + 40) / margin`` with the largest score bounded from the weights. A smaller
        number may do; it is measured on probe streams.
    gate
        M, what the gate of the output head takes off an inactive slice; "auto" bounds its states.
    mode
        "dense" or "routed".
    vocabularies
        "shared": word v of one expert is word v of all, and an action token separates the tasks
        (Proposition 4.4). "disjoint": each expert has words of its own and the prompt is written
        once for each (Proposition 4.2).
    strict
        Take experts of attention blocks only, as the paper does.
    epsilon, seed
        Of orthogonal codes.
    max_table
        Most entries of a look-up table of an index policy, ``(T + 1)²``.
    dtype
        torch.float32 or torch.float64; None takes float64 if an expert has it.
    device
        Where the network lives.

    Returns
    -------
    GluedTransformer
        In evaluation mode, its parameters without gradients.

    Raises
    ------
    TypeError
        If an expert has another architecture.
    ValueError
        If an argument is out of range, experts do not go together, a look-up table is too large or
        too fine for the precision, or attention leaks.
    """
    if not experts:
        raise ValueError("experts must be at least one model, not none")
    if vocabularies not in ("shared", "disjoint"):
        raise ValueError(f'vocabularies must be "shared" or "disjoint", not {vocabularies!r}')
    read = [read_expert(expert, strict) for expert in experts]
    policy = as_policy(controller)
    dtype = _dtype(dtype, read)
    if isinstance(policy, IndexPolicy):
        check_table_size(turns, dtype, max_table)
    config = GlueConfig(
        vocab_sizes=tuple(len(expert.token_VD) for expert in read),
        n_positions=tuple(len(expert.position_PD) for expert in read),
        widths=tuple(expert.width for expert in read),
        heads=tuple(expert.num_heads for expert in read),
        layers=tuple(len(expert.blocks) for expert in read),
        hidden=tuple(expert.hidden_width for expert in read),
        end_of_input=_ends(end_of_input, experts, read),
        norm_epsilons=tuple(expert.norm_epsilon for expert in read),
        activation=_activation(read),
        turns=turns,
        policy=describe(policy),
        disjoint=vocabularies == "disjoint",
        codes=codes,
        epsilon=epsilon,
        code_seed=seed,
    )
    turn_codes = config.turn_codes()
    model = GluedTransformer(config, mode).to(dtype)
    model.query_code_TC.copy_(turn_codes.query_TC)
    model.key_code_TC.copy_(turn_codes.key_TC)
    model.outside_C.copy_(turn_codes.outside_C)
    model.bound.fill_(_bound(bound, read, turn_codes))
    _fill_embeddings(model, read)
    for layer, block in enumerate(model.blocks):
        parts = [e.blocks[layer] if layer < len(e.blocks) else None for e in read]
        _fill_block(block, parts, turn_codes, float(model.bound))
    _fill_gate(model, read, _gate(gate, read))
    _fill_phase(model, read, policy)
    model.controller.set_policy(policy)
    model = model.to(device).eval()
    _refuse_leak(model, seed)
    return model


# Settings ---------------------------------------------------------------------------------------


def _dtype(dtype: torch.dtype | None, read: list[ExpertWeights]) -> torch.dtype:
    if dtype is None:
        double = any(expert.dtype == torch.float64 for expert in read)
        return torch.float64 if double else torch.float32
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32, torch.float64 or None, not {dtype}")
    return dtype


def _ends(
    given: int | Sequence[int] | None, experts: Sequence[Any], read: list[ExpertWeights]
) -> tuple[int, ...]:
    if given is None:
        ends = [getattr(getattr(e, "config", None), "eos_token_id", None) for e in experts]
    else:
        ends = [given] * len(experts) if isinstance(given, int) else list(given)
    if len(ends) != len(experts):
        raise ValueError(f"end_of_input has {len(ends)} words for {len(experts)} experts")
    for number, (end, expert) in enumerate(zip(ends, read, strict=True)):
        if end is None or not 0 <= end < len(expert.token_VD):
            raise ValueError(
                f"expert {number} has no word {end!r} to end its input: give end_of_input, in 0 … "
                f"{len(expert.token_VD) - 1}"
            )
    return tuple(int(end) for end in ends if end is not None)


def _activation(read: list[ExpertWeights]) -> str | None:
    found = sorted({expert.activation for expert in read if expert.activation is not None})
    if len(found) > 1:
        raise ValueError(f"experts must have one activation in common, not {', '.join(found)}")
    return found[0] if found else None


def _bound(given: float | str, read: list[ExpertWeights], codes: TurnCodes) -> float:
    if given == "auto":
        largest = max(expert.score_bound() for expert in read)
        return (2 * largest + SEPARATION) / codes.margin
    if isinstance(given, str) or not (math.isfinite(given) and given > 0):
        raise ValueError(f'bound must be positive and finite or "auto", not {given!r}')
    return float(given)


def _gate(given: float | str, read: list[ExpertWeights]) -> float:
    least = max(expert.output_bound() for expert in read)
    if given == "auto":
        return 2.0 ** math.ceil(math.log2(2 * least + 1))
    if isinstance(given, str) or not (math.isfinite(given) and given > least):
        raise ValueError(
            f'gate must be "auto" or above {least:.4g}, which states of the experts may reach, not '
            f"{given!r}"
        )
    return float(given)


# Weights ----------------------------------------------------------------------------------------


def _fill_embeddings(model: GluedTransformer, read: list[ExpertWeights]) -> None:
    layout = model.layout
    for expert, weights in enumerate(read):
        columns, first = model.channels.expert(expert), layout.first_word(expert)
        model.token_VD[first : first + len(weights.token_VD), columns] = weights.token_VD.to(
            model.token_VD.dtype
        )
        end_d = weights.token_VD[model.config.end_of_input[expert]]
        actions = slice(layout.action(0), layout.action(layout.num_experts - 1) + 1)
        model.token_VD[actions, columns] = end_d.to(model.token_VD.dtype)
        model.position_PD[: len(weights.position_PD), columns] = weights.position_PD.to(
            model.position_PD.dtype
        )


def _fill_block(
    block: GluedBlock, parts: list[BlockWeights | None], codes: TurnCodes, bound: float
) -> None:
    """Write one layer of all experts; an expert with fewer layers passes through."""
    for expert, part in enumerate(parts):
        if part is None:
            continue
        _fill_heads(block, part, expert, codes, bound)
        if block.hidden[expert]:
            _fill_hidden(block, part, expert)


def _fill_heads(
    block: GluedBlock, part: BlockWeights, expert: int, codes: TurnCodes, bound: float
) -> None:
    channels: Channels = block.channels
    rows, sink = channels.expert(expert), channels.sink
    flag = channels.inactive.start + expert
    heads = slice(block.first_heads[expert], block.first_heads[expert + 1])
    width = part.query_DHE.shape[2]
    code = slice(block.config.head_width, block.config.head_width + codes.num_coordinates)
    last = code.stop

    def by_head(map_DI: torch.Tensor) -> torch.Tensor:
        return map_DI.unflatten(-1, (block.num_heads, block.head_width))

    for map_DI, bias_I, map_DHE, bias_HE in (
        (block.query_DI, block.query_bias_I, part.query_DHE, part.query_bias_HE),
        (block.key_DI, block.key_bias_I, part.key_DHE, part.key_bias_HE),
        (block.value_DI, block.value_bias_I, part.value_DHE, part.value_bias_HE),
    ):
        by_head(map_DI)[rows, heads, :width] = map_DHE.to(map_DI.dtype)
        # The sink's slices are 0: minus the bias, and its query, key and value are 0 there as well.
        by_head(bias_I)[heads, :width] = bias_HE.to(map_DI.dtype)
        by_head(map_DI)[sink, heads, :width] = -bias_HE.to(map_DI.dtype)
    identity_CC = torch.eye(codes.num_coordinates, dtype=block.query_DI.dtype)[:, None]
    by_head(block.query_DI)[channels.query_code, heads, code] = bound * identity_CC
    by_head(block.key_DI)[channels.key_code, heads, code] = identity_CC
    # A word of the prompt that this expert does not have is none of its business.
    by_head(block.key_DI)[flag, heads, code] = codes.outside_C.to(block.key_DI.dtype)
    by_head(block.query_DI)[flag, heads, last] = 2 * bound
    by_head(block.key_DI)[sink, heads, last] = 1
    presence = (heads.start, code.start)
    by_head(block.value_bias_I)[presence] = 1
    by_head(block.value_DI)[sink, presence[0], presence[1]] = -1
    out_HED = block.out_ID.unflatten(0, (block.num_heads, block.head_width))
    out_HED[heads, :width, rows] = part.out_HED.to(out_HED.dtype)
    out_HED[presence[0], presence[1], rows] = part.out_bias_D.to(out_HED.dtype)


def _fill_hidden(block: GluedBlock, part: BlockWeights, expert: int) -> None:
    rows, sink = block.channels.expert(expert), block.channels.sink
    first, last = block.first_units[expert], block.first_units[expert + 1] - 1
    dtype = block.up_DF.dtype
    block.up_DF[rows, first:last] = part.up_DF.to(dtype)
    block.up_bias_F[first:last] = part.up_bias_F.to(dtype)
    block.up_DF[sink, first:last] = -part.up_bias_F.to(dtype)
    block.up_bias_F[last] = PRESENCE
    block.up_DF[sink, last] = -PRESENCE
    block.down_FD[first:last, rows] = part.down_FD.to(dtype)
    block.down_FD[last, rows] = part.down_bias_D.to(dtype) / PRESENCE


def _fill_gate(model: GluedTransformer, read: list[ExpertWeights], gate: float) -> None:
    """Write ``relu(y - M flag) - relu(-y - M flag)`` and the experts' output heads behind it."""
    channels, dtype = model.channels, model.gate_DG.dtype
    half = channels.starts[-1]
    for expert, weights in enumerate(read):
        rows = channels.expert(expert)
        first = model.layout.first_word(expert)
        words = slice(first, first + len(weights.unembed_VD))
        for sign, units in ((1, rows), (-1, slice(half + rows.start, half + rows.stop))):
            model.gate_DG[rows, units] = sign * weights.final_scale_D.diag().to(dtype)
            model.gate_bias_G[units] = sign * weights.final_bias_D.to(dtype)
            model.gate_DG[channels.inactive.start + expert, units] = -gate
            model.gate_DG[-1, units] = -gate
            model.unembed_GV[units, words] = sign * weights.unembed_VD.T.to(dtype)


def _fill_phase(
    model: GluedTransformer, read: list[ExpertWeights], policy: IndexPolicy | SoftmaxPolicy
) -> None:
    """Write what keeps words out of the controller's turn and actions out of an expert's."""
    layout = model.layout
    actions = slice(layout.action(0), layout.action(layout.num_experts - 1) + 1)
    words = slice(0, layout.num_words)
    largest = 2 * max(expert.logit_bound() for expert in read) + 2 * GREEDY_SCALE
    # A power of two: its small multiples are exact and cancel exactly.
    penalty = 2.0 ** math.ceil(math.log2(largest + SEPARATION))
    if isinstance(policy, SoftmaxPolicy):
        # Importance weights have no bound; this is far above any, and costs no digits.
        penalty = max(penalty, UNBOUNDED_PENALTY)
    model.penalty.fill_(penalty)
    missing_KV = 1 - layout.readable_WK().T.to(model.phase_CV.dtype)
    in_turn, out_of_turn, flags = 0, 1, slice(2, 2 + layout.num_experts)
    model.phase_CV[in_turn, actions] = -penalty
    # The active expert is the one whose flag is 0; words that it lacks lose the penalty once.
    model.phase_CV[in_turn, words] = -penalty * missing_KV.sum(dim=0)
    model.phase_CV[flags, words] = penalty * missing_KV
    model.phase_CV[out_of_turn, words] = -penalty * (1 + missing_KV.sum(dim=0))
    model.phase_bias_V[layout.sink] = -penalty
    model.phase_bias_V[layout.feedback(0) :] = -penalty


# Proof by measurement ---------------------------------------------------------------------------


@torch.no_grad()
def attention_leak(model: GluedTransformer, token_ids: torch.Tensor) -> float:
    """Return the most attention that any token gives to where it should not look.

    In a slice that is active at a token: to any token but those of the prompt that the expert has
    and those of the same turn. In an inactive slice: to any token but the sink. Weights are added
    up where they should be 0, which single precision shows down to 1e-45; one minus the rest would
    show 1e-7 at best.

    Parameters
    ----------
    model
        Any mode; the dense network is measured.
    token_ids
        Streams, int64 ``[B, N]``.
    """
    code = model.read(token_ids)
    allowed_BKNN = _allowed(code)
    x_BND = model.embed(token_ids, code)
    worst = 0.0
    heads = torch.tensor(model.config.heads, device=token_ids.device)
    allowed_BHNN = allowed_BKNN.repeat_interleave(heads, dim=1)
    for layer, block in enumerate(model.blocks):
        weights_BHNN = block.attention_weights(block.norm(x_BND))
        astray_BHN = weights_BHNN.masked_fill(allowed_BHNN, 0.0).sum(dim=-1)
        # Heads of an expert with fewer layers have no weights and move nothing.
        deep_K = torch.tensor(model.config.layers, device=token_ids.device) > layer
        present_H = deep_K.repeat_interleave(heads)
        worst = max(worst, float(astray_BHN[:, present_H].max()))
        x_BND = block(x_BND)
    return worst


def _allowed(code: StreamCode) -> torch.Tensor:
    """Return where each token may look in each slice, bool ``[B, K, N, N]``."""
    kind_BN, inactive_BKN = code.kind_BN, code.inactive_BNK.transpose(1, 2)
    prompt_BKN = (kind_BN == PROMPT)[:, None] & ~inactive_BKN
    in_turn_BN = kind_BN == TURN
    same_turn_BNN = (
        in_turn_BN[:, :, None]
        & in_turn_BN[:, None, :]
        & (code.turn_BN[:, :, None] == code.turn_BN[:, None, :])
    )
    active_BKNN = prompt_BKN[:, :, None, :] | same_turn_BNN[:, None]
    sink_N = torch.zeros(kind_BN.shape[1], dtype=torch.bool, device=kind_BN.device)
    sink_N[0] = True
    # The sink itself and a first token without a prompt have nothing but the sink to look at.
    silent_BKN = inactive_BKN | (kind_BN == 0)[:, None]
    return torch.where(silent_BKN[..., None], sink_N, active_BKNN)


def _refuse_leak(model: GluedTransformer, seed: int) -> None:
    ids_BN = _probe(model, seed)
    leak = attention_leak(model, ids_BN)
    limit = LEAK_LIMIT * ids_BN.shape[1]
    if not leak < limit:
        raise ValueError(
            f"bound={float(model.bound):.4g} is too small: {leak:.2g} of a token's attention goes "
            f'where it should not, more than {limit:.2g}; bound="auto" is enough for these experts'
        )


def _probe(model: GluedTransformer, seed: int) -> torch.Tensor:
    """Return streams of random words in which every expert answers, as far as turns suffice."""
    layout, config = model.layout, model.config
    generator = torch_generator(seed, "cpu", "probe")
    num_experts = layout.num_experts
    prompt_words = min(PROBE_PROMPT, *(n - 1 for n in config.n_positions))
    response_words = min(PROBE_RESPONSE, *(n - prompt_words - 1 for n in config.n_positions))

    def words(expert: int, count: int) -> list[int]:
        drawn = torch.randint(0, config.vocab_sizes[expert], (count,), generator=generator)
        return (drawn + layout.first_word(expert)).tolist()

    streams = []
    shared = config.vocab_sizes.index(min(config.vocab_sizes))
    for first in range(0, num_experts, config.turns):
        sources = range(num_experts) if config.disjoint else [shared]
        stream = [layout.sink]
        for source in sources:
            stream += words(source, prompt_words)
        for turn in range(min(config.turns, num_experts)):
            expert = (first + turn) % num_experts
            stream.append(layout.action(expert))
            stream += words(expert, response_words)
            stream.append(layout.feedback(turn % 2))
        streams.append(stream)
    return torch.tensor(streams, device=model.token_VD.device)
