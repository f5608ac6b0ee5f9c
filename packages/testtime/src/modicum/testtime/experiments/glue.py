"""Experts glued into one transformer, held to the experts and to the algorithms outside of it.

Four parts. Random experts of several sizes are glued and every logit of every turn is compared with
that of the expert alone, densely and routed, in both precisions and with all codes; one sweep shows
what happens when the attention scores are pushed apart too little. The controller's decisions are
compared with UCB1 computed directly, among them those of a look-up of a single layer in single
precision, which goes wrong. Trained experts are glued, and the network plays the paper's Algorithm
1 by itself against a binary verifier.

Legend: ``B`` streams, ``N`` tokens, ``K`` experts, ``G`` games, ``T`` turns, ``S`` strings, ``L``
bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modicum.core.device import numpy_generator, one_thread
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.core.stats import clopper_pearson
from modicum.testtime.experiments.expert_training import (
    END_OF_INPUT,
    LENGTH,
    TASKS,
    all_strings,
    load_experts,
)

if TYPE_CHECKING:
    import torch

    from modicum.testtime.construct import GluedTransformer
    from modicum.testtime.tinygpt import TinyGPT

Codes = Literal["onehot", "orthogonal", "binary"]

TOLERANCE = {"float32": 2e-5, "float64": 1e-10}
LEAK = 1e-12
SPREAD = 1.0
"""Standard deviation of what is added to fresh weights, times the square root of the width: logits
of a few units, scores that attend to something, and biases, at every width."""
TURNS = 4
BOUNDS = (4.0, 8.0, 12.0, 16.0, 20.0, 24.0, 28.0, 32.0, 40.0, 60.0, 100.0)
DENSE_TASK = "sort"
SINGLE_LAYER_BONUS = 1000.0
"""Bonus of an untried expert in the look-up of a single layer."""
SINGLE_LAYER_SCALE = 1e5
"""What its counting head multiplies by."""


class Shape(NamedTuple):
    """Sizes of a set of experts: how many, and width, layers, heads and words of each."""

    experts: int
    width: int
    layers: int
    heads: int
    words: int


class Cell(NamedTuple):
    """One set of experts glued once."""

    shape: Shape
    seed: int
    codes: Codes
    precision: str


class Found(NamedTuple):
    """What was measured of a `Cell`: differences are the largest over all logits."""

    tokens: int
    to_experts: float
    to_routed: float
    disagreeing: int
    leak: float
    width: int
    largest_logit: float


def cells(quick: bool) -> list[Cell]:
    """Return what is glued."""
    small, wide, many = Shape(3, 24, 2, 3, 30), Shape(2, 48, 3, 6, 64), Shape(6, 16, 1, 2, 12)
    shapes = [small, wide, many] if quick else [small, wide, many, Shape(4, 96, 4, 6, 200)]
    plain: list[Cell] = []
    for shape in shapes:
        for precision in TOLERANCE:
            plain += [Cell(shape, seed, "onehot", precision) for seed in range(1 if quick else 4)]
    others: tuple[Codes, ...] = ("binary", "orthogonal")
    return plain + [Cell(small, 0, codes, "float32") for codes in others]


def random_experts(shape: Shape, seed: int, precision: str = "float32") -> list[TinyGPT]:
    """Return experts with random weights (see `SPREAD`), biases included."""
    import torch

    from modicum.core.device import torch_generator
    from modicum.testtime.tinygpt import TinyGPT, TinyGPTConfig

    config = TinyGPTConfig(
        shape.words, 24, n_embd=shape.width, n_layer=shape.layers, n_head=shape.heads
    )
    experts = []
    for number in range(shape.experts):
        expert = TinyGPT(config, seed=seed).to(getattr(torch, precision)).eval()
        generator = torch_generator(seed, "cpu", "random experts", number)
        with torch.no_grad():
            for parameter in expert.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(SPREAD / math.sqrt(shape.width) * noise.to(parameter.dtype))
        experts.append(expert)
    return experts


def random_streams(
    model: GluedTransformer, count: int, seed: int, prompt: int = 6, response: int = 5
) -> torch.Tensor:
    """Return streams in which random experts answer with random words, int64 ``[B, N]``."""
    import torch

    rng, layout = numpy_generator(seed, "streams"), model.layout
    rows = []
    for _ in range(count):
        ids = [layout.sink, *rng.integers(0, layout.num_words, prompt).tolist()]
        for _ in range(model.config.turns):
            ids.append(layout.action(int(rng.integers(layout.num_experts))))
            ids += rng.integers(0, layout.num_words, response).tolist()
            ids.append(layout.feedback(int(rng.integers(2))))
        rows.append(ids)
    return torch.tensor(rows)


def against_experts(
    model: GluedTransformer, experts: Sequence[TinyGPT], ids_BN: torch.Tensor, logits: torch.Tensor
) -> tuple[float, int, int]:
    """Compare logits at actions and responses with those of the experts alone.

    Returns
    -------
    worst, disagreeing, tokens
        Largest difference, positions where another token is the likeliest, positions compared.
    """
    import torch

    from modicum.testtime.construct.stream import PROMPT, TURN

    code = model.read(ids_BN)
    worst, disagreeing, tokens = 0.0, 0, 0
    for turn in range(1, int(code.turn_BN.max()) + 1):
        in_turn_BN = (code.kind_BN == TURN) & (code.turn_BN == turn)
        for expert, alone in enumerate(experts):
            rows_R = (in_turn_BN & (code.action_BN == expert)).any(dim=1).nonzero()[:, 0]
            if not len(rows_R):
                continue
            prompt_RM = ids_BN[rows_R][code.kind_BN[rows_R] == PROMPT].view(len(rows_R), -1)
            turn_RM = ids_BN[rows_R][in_turn_BN[rows_R]].view(len(rows_R), -1).clone()
            turn_RM[:, 0] = model.config.end_of_input[expert]
            given_RMV = logits[rows_R][in_turn_BN[rows_R]].view(*turn_RM.shape, -1)
            with torch.no_grad():
                alone_RMV = alone(torch.cat([prompt_RM, turn_RM], dim=1))[:, prompt_RM.shape[1] :]
            words = alone_RMV.shape[-1]
            worst = max(worst, float((given_RMV[..., :words] - alone_RMV).abs().max()))
            disagreeing += int((given_RMV.argmax(-1) != alone_RMV.argmax(-1)).sum())
            tokens += turn_RM.numel()
    return worst, disagreeing, tokens


def glue_cell(cell: Cell, streams: int, seed: int, device: str) -> Found:
    """Glue one set of experts and measure it."""
    import torch

    from modicum.testtime.construct import attention_leak, glue
    from modicum.testtime.construct.stream import TURN

    experts = random_experts(cell.shape, seed + cell.seed, cell.precision)
    experts = [expert.to(device) for expert in experts]
    model = glue(experts, TURNS, end_of_input=cell.shape.words - 1, codes=cell.codes, device=device)
    ids_BN = random_streams(model, streams, seed + cell.seed).to(device)
    with torch.no_grad():
        dense_BNV = model(ids_BN)
        model.mode = "routed"
        routed_BNV = model(ids_BN)
    worst, disagreeing, tokens = against_experts(model, experts, ids_BN, dense_BNV)
    speaking_BN1 = (model.read(ids_BN).kind_BN == TURN)[..., None]
    return Found(
        tokens,
        worst,
        float((dense_BNV - routed_BNV).abs().max()),
        disagreeing,
        attention_leak(model, ids_BN),
        model.width,
        float(dense_BNV[..., : cell.shape.words].abs().where(speaking_BN1, 0.0).max()),
    )


def bound_sweep(streams: int, seed: int) -> list[tuple[float, float, float]]:
    """Return B, leak and largest logit difference in double precision for several B."""
    import torch

    from modicum.testtime.construct import attention_leak, glue

    shape = Shape(3, 24, 2, 3, 30)
    experts = random_experts(shape, seed, "float64")
    model = glue(experts, TURNS, end_of_input=shape.words - 1)
    ids_BN = random_streams(model, streams, seed)
    rows = []
    for bound in BOUNDS:
        # The bound stands in the queries only: those of the codes and of the flags.
        share = bound / float(model.bound)
        control = slice(model.channels.query_code.start, model.channels.query_code.stop)
        for block in model.blocks:
            block.query_DI[control] *= share
            block.query_DI[model.channels.inactive] *= share
        model.bound.fill_(bound)
        with torch.no_grad():
            worst, _, _ = against_experts(model, experts, ids_BN, model(ids_BN))
        rows.append((bound, attention_leak(model, ids_BN), worst))
    return rows


# The controller ---------------------------------------------------------------------------------


def ucb1_indices(pulls_K: NDArray[Any], wins_K: NDArray[Any]) -> NDArray[np.float64]:
    """Return UCB1's indices, infinity for untried experts."""
    total, tried_K = max(int(pulls_K.sum()), 1), np.maximum(pulls_K, 1)
    index_K = wins_K / tried_K + np.sqrt(2 * math.log(total) / tried_K)
    return np.where(pulls_K == 0, np.inf, index_K)


def play_ucb1(
    num_experts: int, turns: int, games: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Play UCB1 against experts of random quality; actions and rewards, int64 ``[G, T]``."""
    rng = numpy_generator(seed, "ucb1", num_experts, turns)
    actions_GT = np.zeros((games, turns), dtype=np.int64)
    rewards_GT = np.zeros((games, turns), dtype=np.int64)
    for game in range(games):
        quality_K = rng.random(num_experts)
        pulls_K, wins_K = np.zeros(num_experts), np.zeros(num_experts)
        for turn in range(turns):
            action = int(ucb1_indices(pulls_K, wins_K).argmax())
            reward = int(rng.random() < quality_K[action])
            pulls_K[action] += 1
            wins_K[action] += reward
            actions_GT[game, turn], rewards_GT[game, turn] = action, reward
    return actions_GT, rewards_GT


def network_decisions(
    actions_GT: NDArray[np.int64], rewards_GT: NDArray[np.int64], num_experts: int, precision: str
) -> tuple[NDArray[np.int64], float]:
    """Return the controller's decisions ``[G, T]`` on the games, and its largest count error."""
    import torch

    from modicum.testtime.construct.controller import ControllerHead
    from modicum.testtime.construct.policies import ucb1
    from modicum.testtime.construct.stream import TokenLayout, read_stream

    games, turns = actions_GT.shape
    layout = TokenLayout((1,) * num_experts)
    ids_GN = np.full((games, 1 + 2 * turns), layout.sink)
    ids_GN[:, 1::2] = layout.action(0) + actions_GT
    ids_GN[:, 2::2] = layout.feedback(0) + rewards_GT
    head = ControllerHead(num_experts, turns, ucb1()).to(getattr(torch, precision))
    head.set_policy(ucb1())
    with torch.no_grad():
        counts_GTO = head.counts(read_stream(layout, torch.from_numpy(ids_GN)))[:, ::2]
        decisions_GT = head.logits(counts_GTO[:, :-1]).argmax(dim=-1).numpy()
    picked_GTK = actions_GT[..., None] == np.arange(num_experts)
    exact = np.concatenate([picked_GTK, picked_GTK * rewards_GT[..., None]], axis=-1).cumsum(axis=1)
    return decisions_GT, float(np.abs(counts_GTO[:, 1:].numpy() - exact).max())


def single_layer_decisions(
    actions_GT: NDArray[np.int64], rewards_GT: NDArray[np.int64], num_experts: int
) -> NDArray[np.int64]:
    """Return decisions of a look-up of one hidden layer in single precision, ``[G, T]``.

    It sums ``(g(i + 1) - g(i)) 2 [relu(m - i - 1/4) - relu(m - i - 3/4)]`` over i directly on what
    the counting head gives, for the mean and for the bonus.
    """
    turns = actions_GT.shape[1]
    single = np.float32
    side = turns + 1
    mean_M, bonus_M = np.zeros((2, side, side))
    for large in range(side):
        for small in range(large + 1):
            if large:
                mean_M[large, small] = small / large
            bonus_M[large, small] = (
                math.sqrt(2 * math.log(large) / small) if small else SINGLE_LAYER_BONUS
            )
    picked_GTK = actions_GT[..., None] == np.arange(num_experts)
    pulls_GTK = picked_GTK.cumsum(axis=1) - picked_GTK
    wins_GTK = (picked_GTK * rewards_GT[..., None]).cumsum(axis=1) - picked_GTK * rewards_GT[
        ..., None
    ]
    # Softmax: each feedback token weighs w / (1 + t w), multiplied by 1 / w.
    seen_T11 = np.arange(turns)[:, None]
    shrink_T1 = single(1) / (single(1) + seen_T11.astype(single) / single(SINGLE_LAYER_SCALE))
    pulls, wins = pulls_GTK.astype(single) * shrink_T1, wins_GTK.astype(single) * shrink_T1
    total = pulls.sum(axis=-1, keepdims=True, dtype=single)
    found = np.zeros(pulls.shape, dtype=single)
    for table, key in (
        (mean_M, pulls * single(side) + wins),
        (bonus_M, total * single(side) + pulls),
    ):
        values = table.ravel().astype(single)
        found += values[0]
        for i, step in enumerate(np.diff(values)):
            if step:
                risen = np.maximum(key - single(i + 0.25), 0) - np.maximum(
                    key - single(i + 0.75), 0
                )
                found += step * single(2) * risen
    return found.argmax(axis=-1)


# The whole loop ---------------------------------------------------------------------------------


def verifier_of(task: str) -> Callable[[torch.Tensor, torch.Tensor], float]:
    """Return the verifier that accepts a string treated as the task says."""

    def verify(query: torch.Tensor, response: torch.Tensor) -> float:
        return float(np.array_equal(TASKS[task](query.numpy()[None])[0], response.numpy()))

    return verify


def reward_table(task: str, strings_SL: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether each expert's answer is right for the task, bool ``[S, K]``."""
    right_SL = TASKS[task](strings_SL)
    return np.stack([(rule(strings_SL) == right_SL).all(axis=1) for rule in TASKS.values()], axis=1)


def outside(reward_SK: NDArray[np.bool_], rounds: int) -> NDArray[np.int64]:
    """Return what UCB1 plays on each string outside of the network, int64 ``[S, T]``."""
    actions_ST = np.zeros((len(reward_SK), rounds), dtype=np.int64)
    for row, reward_K in enumerate(reward_SK):
        pulls_K, wins_K = np.zeros(reward_K.size), np.zeros(reward_K.size)
        for turn in range(rounds):
            action = int(ucb1_indices(pulls_K, wins_K).argmax())
            pulls_K[action] += 1
            wins_K[action] += reward_K[action]
            actions_ST[row, turn] = action
    return actions_ST


class Loop(NamedTuple):
    """Games of the network: actions and rewards ``[S, T]``, and those of UCB1 outside."""

    actions_ST: NDArray[np.int64]
    rewards_ST: NDArray[np.float64]
    outside_ST: NDArray[np.int64]
    uniform_S: NDArray[np.float64]


def play_loop(
    model: GluedTransformer, task: str, strings_SL: NDArray[np.int64], rounds: int
) -> Loop:
    """Let the network play a task on strings."""
    import torch

    queries = torch.from_numpy(strings_SL).to(model.token_VD.device)
    played = model.generate(queries, verifier_of(task), rounds, max_new_tokens=LENGTH)
    assert isinstance(played, list)
    reward_SK = reward_table(task, strings_SL)
    return Loop(
        np.array([trajectory.actions for trajectory in played]),
        np.array([trajectory.rewards for trajectory in played]),
        outside(reward_SK, rounds),
        reward_SK.mean(axis=1),
    )


# Claims and tables ------------------------------------------------------------------------------


def _logits(ctx: RunContext) -> tuple[list[Claim], Table]:
    """Glue random experts and compare every logit."""
    todo, streams = cells(ctx.quick), 8 if ctx.quick else 50
    task = ctx.progress(len(todo), "random experts")
    found = []
    for cell in todo:
        found.append(glue_cell(cell, streams, ctx.seed, ctx.device))
        task.advance()
    claims = []
    for precision, tolerance in TOLERANCE.items():
        worst = max(
            f.to_experts for c, f in zip(todo, found, strict=True) if c.precision == precision
        )
        claims.append(
            Claim(
                f"logits_{precision}",
                f"Every logit of every turn is that of the expert alone, within {tolerance:g} "
                f"({precision}).",
                "equal",
                worst,
                None,
                worst < tolerance,
                "largest difference of a logit",
                f"{sum(f.tokens for f in found):,} positions in both precisions together.",
            )
        )
    tokens, wrong = (sum(getattr(f, name) for f in found) for name in ("tokens", "disagreeing"))
    claims.append(
        Claim(
            "argmax",
            "At every position of every turn the likeliest token is the expert's.",
            "equal",
            1 - wrong / tokens,
            None,
            wrong == 0,
            "share of positions",
            f"{tokens:,} positions, over all tokens of the network, actions included.",
        )
    )
    routed = max(f.to_routed / TOLERANCE[c.precision] for c, f in zip(todo, found, strict=True))
    claims.append(
        Claim(
            "routed",
            "Running the active expert's blocks alone gives the logits of the dense matrices.",
            None,
            routed,
            None,
            routed < 1,
            "largest difference over tolerance",
            f"At every token, whoever speaks; tolerance {TOLERANCE['float32']:g} in float32, "
            f"{TOLERANCE['float64']:g} in float64.",
        )
    )
    leak = max(f.leak for f in found)
    claims.append(
        Claim(
            "leak",
            "No token attends to what is not its business: in an active slice to anything but "
            "the prompt and its turn, in a silenced one to anything but the sink.",
            None,
            leak,
            None,
            leak < LEAK,
            "attention",
            f"Largest sum of weights in any head of any layer; limit {LEAK:g}.",
        )
    )
    rows: list[list[Any]] = [
        [
            cell.shape.experts,
            f"{cell.shape.width} × {cell.shape.layers}, {cell.shape.heads} heads",
            cell.shape.words,
            cell.codes,
            cell.precision,
            one.width,
            one.tokens,
            one.largest_logit,
            one.to_experts,
            one.to_routed,
            one.leak,
        ]
        for cell, one in zip(todo, found, strict=True)
    ]
    columns = ["experts", "width × layers", "words", "codes", "precision", "width of the stream"]
    columns += ["positions", "largest logit", "difference to experts", "dense to routed", "leak"]
    table = Table(
        "Random experts glued together",
        columns,
        rows,
        f"{streams} streams of {TURNS} turns each. The width is "
        "K d + 2C + 1 + K with C coordinates of the turn codes.",
    )
    return claims, table


def _bound(ctx: RunContext) -> tuple[list[Claim], Table]:
    """Take B too small."""
    rows = bound_sweep(4 if ctx.quick else 40, ctx.seed)
    by_bound = {bound: (leak, error) for bound, leak, error in rows}
    low, high = BOUNDS[0], BOUNDS[-1]
    claims = [
        Claim(
            "bound_needed",
            f"The bound is needed: at B = {low:g} logits are not the experts', at B = {high:g} "
            "they are.",
            None,
            by_bound[low][1] / by_bound[high][1],
            None,
            by_bound[low][1] > 1e-2 and by_bound[high][1] < TOLERANCE["float64"],
            "ratio of the largest differences",
            "Double precision. `glue` refuses a B that leaks.",
        )
    ]
    table = Table(
        "What attention scores lose where query and key do not belong together",
        ["B", "leak", "difference of a logit"],
        [list(row) for row in rows],
        "Double precision, one-hot codes. Both fall as exp(-B) until rounding is all that is left.",
    )
    return claims, table


def _decisions(ctx: RunContext) -> tuple[list[Claim], Table]:
    """Compare the controller with UCB1."""
    settings = [(4, 24, 100), (8, 32, 30), (2, 48, 20)]
    if not ctx.quick:
        settings = [(4, 24, 400), (8, 32, 120), (2, 48, 100), (12, 64, 20), (3, 100, 20)]
    task = ctx.progress(len(settings), "decisions of the controller")
    rows: list[list[Any]] = []
    decided, wrong, single_wrong = 0, 0, 0
    for num_experts, turns, games in settings:
        actions_GT, rewards_GT = play_ucb1(num_experts, turns, games, ctx.seed)
        cell: list[Any] = [num_experts, turns, actions_GT.size]
        for precision in TOLERANCE:
            decisions, error = network_decisions(actions_GT, rewards_GT, num_experts, precision)
            mistakes = int((decisions != actions_GT).sum())
            decided, wrong = decided + decisions.size, wrong + mistakes
            cell += [mistakes, error]
        single = single_layer_decisions(actions_GT, rewards_GT, num_experts)
        single_wrong += int((single != actions_GT).sum())
        rows.append([*cell, int((single != actions_GT).sum())])
        task.advance()
    low, high = clopper_pearson(wrong, decided)
    claims = [
        Claim(
            "decisions",
            "The controller in the network decides as UCB1 does, in single and double precision.",
            "regret-minimising",
            wrong,
            None,
            wrong == 0,
            "decisions that differ",
            f"Of {decided:,}; rate at most {float(high):.2g} (95 % Clopper-Pearson, from "
            f"{float(low):g}).",
        ),
        Claim(
            "single_layer",
            "A loss that is avoided: a look-up of one hidden layer decides wrongly in single "
            "precision.",
            None,
            single_wrong,
            None,
            True if single_wrong else None,
            "decisions that differ",
            f"Of {decided // 2:,}, on the same games.",
        ),
    ]
    columns = ["experts", "turns", "decisions", "wrong, float32", "count error, float32"]
    columns += ["wrong, float64", "count error, float64", "wrong, one layer in float32"]
    table = Table(
        "Decisions of the controller against UCB1 computed directly",
        columns,
        rows,
        "Games that UCB1 plays against experts of random quality. Counts come from attention; the "
        "first staircase makes integers of them.",
    )
    return claims, table


def _loop(ctx: RunContext) -> tuple[list[Claim], Table, Figure]:
    """Let the network play with trained experts."""
    from modicum.testtime.construct import glue

    rounds, num_strings, num_dense = (8, 32, 4) if ctx.quick else (24, 2**LENGTH, 16)
    order = numpy_generator(ctx.seed, "strings").permutation(2**LENGTH)
    strings_SL = all_strings()[order[:num_strings]]
    experts = list(load_experts().values())
    model = glue(
        experts, rounds, "ucb1", end_of_input=END_OF_INPUT, mode="routed", device=ctx.device
    )
    task = ctx.progress(len(TASKS) + 1, "the whole loop")
    loops = {}
    for name in TASKS:
        loops[name] = play_loop(model, name, strings_SL, rounds)
        task.advance()
    model.mode = "dense"
    dense = play_loop(model, DENSE_TASK, strings_SL[:num_dense], len(TASKS))
    task.advance()
    return (
        [*_loop_claims(loops), _dense_claim(dense, loops[DENSE_TASK])],
        _loop_table(loops),
        _regret_figure(loops, strings_SL),
    )


def _loop_claims(loops: dict[str, Loop]) -> list[Claim]:
    num_experts = len(TASKS)
    rewards = np.concatenate([loop.rewards_ST for loop in loops.values()])
    uniform = np.concatenate([loop.uniform_S for loop in loops.values()])
    solved = rewards[:, :num_experts].max(axis=1)
    low, high = clopper_pearson(int(solved.sum()), len(solved))
    differ = sum(int((loop.actions_ST != loop.outside_ST).sum()) for loop in loops.values())
    by_chance = float((1 - (1 - uniform) ** num_experts).mean())
    return [
        Claim(
            "success",
            f"After as many rounds as experts, {num_experts}, the network has given an accepted "
            "answer to every string of every task.",
            1.0,
            float(solved.mean()),
            (float(low), float(high)),
            bool(solved.all()),
            "share of strings",
            f"{len(solved)} games; 95 % Clopper-Pearson. As many rounds with experts drawn at "
            f"random: {by_chance:.3f}.",
        ),
        Claim(
            "actions",
            "Step by step the network plays the experts that UCB1 plays outside of it.",
            "equal",
            differ,
            None,
            differ == 0,
            "actions that differ",
            f"Of {rewards.size:,}: {len(rewards)} games of {rewards.shape[1]} rounds.",
        ),
    ]


def _dense_claim(dense: Loop, routed: Loop) -> Claim:
    games, rounds = dense.actions_ST.shape
    differ = (dense.actions_ST != routed.actions_ST[:games, :rounds]) | (
        dense.rewards_ST != routed.rewards_ST[:games, :rounds]
    )
    return Claim(
        "dense_loop",
        "The dense network plays the same games as the routed one.",
        None,
        int(differ.sum()),
        None,
        not differ.any(),
        "turns that differ",
        f"Task {DENSE_TASK}, {games} strings, {rounds} rounds.",
    )


def _loop_table(loops: dict[str, Loop]) -> Table:
    num_experts = len(TASKS)
    rows: list[list[Any]] = []
    for name, loop in loops.items():
        rounds = loop.rewards_ST.shape[1]
        by_round = [loop.rewards_ST[:, :r].max(axis=1).mean() for r in range(1, num_experts + 1)]
        regret = (1 - loop.rewards_ST).sum(axis=1).mean()
        at_random = rounds * (1 - loop.uniform_S).mean()
        rows.append([name, len(loop.rewards_ST), *by_round, regret, at_random])
    solved = [f"solved by round {r}" for r in range(1, num_experts + 1)]
    return Table(
        "The network plays Algorithm 1 with trained experts and a binary verifier",
        ["task", "strings", *solved, "cumulative regret", "experts at random"],
        rows,
        f"Experts in the order {', '.join(TASKS)}; regret over {rounds} rounds. Some strings are "
        "solved by several experts.",
    )


def _regret_figure(loops: dict[str, Loop], strings_SL: NDArray[np.int64]) -> Figure:
    from modicum.testtime import plots

    rewards_ST = np.concatenate([loop.rewards_ST for loop in loops.values()])
    direct_ST = np.concatenate(
        [
            np.take_along_axis(reward_table(name, strings_SL), loop.outside_ST, axis=1)
            for name, loop in loops.items()
        ]
    )
    at_random = 1 - float(np.mean([loop.uniform_S for loop in loops.values()]))
    rounds_T = np.arange(1, rewards_ST.shape[1] + 1)
    figure = plots.regret(
        {
            "network": (rounds_T, (1 - rewards_ST).cumsum(axis=1).mean(axis=0)),
            "UCB1 outside": (rounds_T, (1 - direct_ST).cumsum(axis=1).mean(axis=0)),
            "experts at random": (rounds_T, rounds_T * at_random),
        },
        ylabel="cumulative regret",
    )
    return Figure.from_matplotlib(
        figure,
        "Regret of the network",
        "Mean over all tasks and strings. The network's line and that of UCB1 outside of it are "
        "the same.",
        "Two lines on top of each other that flatten, and a straight line above them.",
    )


def run(ctx: RunContext) -> Result:
    """Glue experts and hold the network to them."""
    with one_thread():
        logits, logits_table = _logits(ctx)
        bound, bound_table = _bound(ctx)
        decisions, decisions_table = _decisions(ctx)
        loop, loop_table, figure = _loop(ctx)
    return ctx.result(
        claims=[*logits, *bound, *decisions, *loop],
        tables=[logits_table, bound_table, decisions_table, loop_table],
        figures=[figure],
        text=(
            "The paper shows that such a network exists and gives no weights; here they are "
            "written down and run. Nothing is trained but the four experts of the last part, and "
            "the map from experts to network reads their weights without running them.\n\n"
            "It says nothing about what training finds: that a transformer can run online "
            "learning over experts does not mean that one does."
        ),
    )
