"""The glued transformer: K experts and a controller in one network that corrects itself.

Holds the network and runs it; `glue` fills it with weights. One residual stream has a slice per
expert and channels for the position code (`stream`, `codes`). Attention is ordinary softmax
attention with a causal mask and dense matrices: what a token may look at follows from the scores,
and a token that is none of an expert's business looks at the sink, whose value is 0. Layer norms
act per slice; a gate before the output head lets only the active slice speak. Action tokens get
their logits from the controller (`controller`). Knows no training.

Two modes give the same logits: "dense" multiplies the full matrices at every token, "routed" reads
the blocks of the same matrices that belong to the expert whose turn it is.

Source: "Sample Complexity and Representation Ability of Test-time Scaling Paradigms", Huang et al.,
arXiv 2506.05295, Theorem 4.7 and Algorithm 1.

Legend: ``B`` streams, ``N`` tokens, ``K`` experts, ``D`` width of the stream, ``C`` code
coordinates, ``G`` units of the gate, ``P`` positions, ``V`` tokens of the layout; ``R`` streams
with a turn at the same place, ``M`` tokens that one expert sees.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from modicum.testtime.construct.blocks import Channels, GlueConfig, GluedBlock, SliceNorm, weight
from modicum.testtime.construct.controller import ControllerHead, stand_in
from modicum.testtime.construct.policies import SoftmaxPolicy
from modicum.testtime.construct.run import Run, Trajectory, Verifier, choose
from modicum.testtime.construct.stream import (
    FEEDBACK,
    PROMPT,
    SINK,
    TURN,
    StreamCode,
    read_stream,
)

__all__ = ["GluedTransformer"]

Mode = Literal["dense", "routed"]
_CONFIG_KEY = "config"


class GluedTransformer(nn.Module):
    """K experts and a controller in one transformer; `glue` makes one, this class runs it.

    Parameters
    ----------
    config
        Sizes. The weights are zero: load a state dict, or call `glue`.
    mode
        "dense" or "routed"; may be changed at any time.

    Attributes
    ----------
    layout
        Numbers of the tokens.
    width
        Width of the experts' part of the residual stream, ``sum of widths + 2C + 1 + K``.
    controller_width
        Channels that the controller adds to it.
    bound
        B, what an attention score loses where query and key do not belong together.
    penalty
        P, what the logits of tokens of the wrong phase lose.
    """

    def __init__(self, config: GlueConfig, mode: Mode = "dense") -> None:
        super().__init__()
        self.config = config
        self.mode = mode
        self.layout = config.layout()
        codes = config.turn_codes()
        self.channels = Channels(config, codes.num_coordinates)
        width, num_tokens, experts = self.width, self.layout.size, config.num_experts
        slices = sum(config.widths)
        self.token_VD = weight(num_tokens, slices)
        self.position_PD = weight(max(config.n_positions), slices)
        self.blocks: Any = nn.ModuleList(
            GluedBlock(config, self.channels, codes.num_coordinates)
            for _ in range(max(config.layers))
        )
        self.norm = SliceNorm(config)
        # The gate reads the stream and the controller's channel "out of turn".
        self.gate_DG = weight(width + 1, 2 * slices)
        self.gate_bias_G = weight(2 * slices)
        self.unembed_GV = weight(2 * slices, num_tokens)
        # Tokens of the wrong phase: reads in turn, out of turn and the flags.
        self.phase_CV = weight(2 + experts, num_tokens)
        self.phase_bias_V = weight(num_tokens)
        self.controller = ControllerHead(experts, config.turns, stand_in(config.policy))
        self.register_buffer("bound", torch.tensor(0.0))
        self.register_buffer("penalty", torch.tensor(0.0))
        self.register_buffer("query_code_TC", codes.query_TC.to(torch.get_default_dtype()))
        self.register_buffer("key_code_TC", codes.key_TC.to(torch.get_default_dtype()))
        self.register_buffer("outside_C", codes.outside_C.to(torch.get_default_dtype()))
        self.register_buffer("readable_WK", self.layout.readable_WK(), persistent=False)

    bound: torch.Tensor
    penalty: torch.Tensor
    query_code_TC: torch.Tensor
    key_code_TC: torch.Tensor
    outside_C: torch.Tensor
    readable_WK: torch.Tensor

    @property
    def mode(self) -> Mode:
        """How logits are computed."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        if mode not in ("dense", "routed"):
            raise ValueError(f'mode must be "dense" or "routed", not {mode!r}')
        self._mode: Mode = mode

    @property
    def width(self) -> int:
        """D of the experts' part."""
        return self.channels.width

    @property
    def controller_width(self) -> int:
        """Channels of the controller."""
        return self.controller.width

    # Running ------------------------------------------------------------------------------------

    def forward(
        self, token_ids: torch.Tensor, feedback: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the logits of the token after each token of the streams.

        At an action or a word of a response the words have the logits of the expert whose turn it
        is; at feedback, at the prompt and at the sink the actions have those of the controller. All
        other tokens are far below.

        Parameters
        ----------
        token_ids
            int64 ``[B, N]``; see `modicum.testtime.construct.stream` for their form.
        feedback
            Values that the feedback tokens carry, ``[B, N]``, for softmax policies; None takes 0
            and 1 from the tokens, where the policy does not weigh them. Elsewhere than at feedback
            they do not matter.

        Returns
        -------
        torch.Tensor
            ``[B, N, V]`` with V = ``layout.size``.

        Raises
        ------
        ValueError
            If the streams do not have their form, have more than ``config.turns`` turns, run out of
            an expert's positions, or carry values that the policy does not take.
        """
        code = self.read(token_ids)
        self._check_feedback(code, feedback)
        if self.mode == "routed":
            return self._routed(token_ids, code, feedback)
        x_BND = self.embed(token_ids, code)
        for block in self.blocks:
            x_BND = block(x_BND)
        logits_BNV = self._read_out(x_BND, code) + self._phase(code)
        return self._add_actions(logits_BNV, self.controller(code, feedback), code)

    def read(self, ids_BN: torch.Tensor) -> StreamCode:
        """Return the position code of streams, after checking them (see `forward`)."""
        code = read_stream(self.layout, ids_BN, self.readable_WK)
        turns = int(code.turn_BN.max())
        if turns > self.config.turns:
            raise ValueError(
                f"the stream has {turns} turns and the network {self.config.turns}: glue with "
                f"turns={turns}"
            )
        acting_BN = code.action_BN.clamp(min=0)
        position_BN = code.position_BNK.gather(2, acting_BN[..., None])[..., 0]
        limit_BN = torch.tensor(self.config.n_positions, device=ids_BN.device)[acting_BN]
        if ((code.kind_BN == TURN) & (position_BN >= limit_BN)).any():
            raise ValueError(
                f"prompt and response of one turn have {int(position_BN.max()) + 1} tokens, more "
                f"than an expert has positions: {self.config.n_positions}"
            )
        return code

    def _check_feedback(self, code: StreamCode, feedback: torch.Tensor | None) -> None:
        policy, fed_BN = self.controller.policy, code.kind_BN == FEEDBACK
        if feedback is None:
            weighs = isinstance(policy, SoftmaxPolicy) and policy.estimator != "plain"
            if weighs and fed_BN.any():
                raise ValueError(
                    f"the policy {policy.name!r} weighs rewards by probabilities, which the tokens "
                    "do not say: give feedback (`stream_of` and `feedback_of` compute it)"
                )
            return
        if not isinstance(policy, SoftmaxPolicy):
            raise ValueError(
                "index policies count accepted answers: the feedback tokens say everything, and "
                "feedback must be None"
            )
        if feedback.shape != fed_BN.shape:
            raise ValueError(
                f"feedback must have the shape of the token ids, {list(fed_BN.shape)}, not "
                f"{list(feedback.shape)}"
            )
        if not feedback[fed_BN].isfinite().all():
            raise ValueError("feedback must be finite at feedback tokens")

    def embed(self, ids_BN: torch.Tensor, code: StreamCode) -> torch.Tensor:
        """Return the residual stream before the first block, ``[B, N, D]``."""
        token_BND = self.token_VD[ids_BN]
        has_position_BN1 = ((code.kind_BN == PROMPT) | (code.kind_BN == TURN))[..., None]
        positions = []
        for expert in range(self.config.num_experts):
            limit = self.config.n_positions[expert]
            # Past its last position an expert is not the one whose turn it is.
            at_BN = code.position_BNK[..., expert].clamp(max=limit - 1)
            positions.append(self.position_PD[:, self.channels.expert(expert)][at_BN])
        slices_BND = token_BND + torch.cat(positions, dim=-1) * has_position_BN1
        in_turn_BN = code.kind_BN == TURN
        query_BNC = self.query_code_TC[torch.where(in_turn_BN, code.turn_BN, 0)]
        key_BNC = self.key_code_TC[torch.where(in_turn_BN, code.turn_BN, 0)]
        outside_BN1 = (~in_turn_BN & (code.kind_BN != PROMPT))[..., None]
        key_BNC = torch.where(outside_BN1, self.outside_C, key_BNC)
        dtype = slices_BND.dtype
        sink_BN1 = (code.kind_BN == SINK)[..., None].to(dtype)
        return torch.cat(
            [slices_BND, query_BNC, key_BNC, sink_BN1, code.inactive_BNK.to(dtype)], dim=-1
        )

    def _read_out(self, x_BND: torch.Tensor, code: StreamCode) -> torch.Tensor:
        """Return the logits of the words through the gate."""
        idle_BN1 = (code.kind_BN != TURN)[..., None].to(x_BND.dtype)
        read_BND = torch.cat([self.norm(x_BND), idle_BN1], dim=-1)
        return functional.relu(read_BND @ self.gate_DG + self.gate_bias_G) @ self.unembed_GV

    def _phase(self, code: StreamCode) -> torch.Tensor:
        """Return what tokens of the wrong phase lose: exactly 0 for the others."""
        in_turn_BN1 = (code.kind_BN == TURN)[..., None]
        channels_BNC = torch.cat([in_turn_BN1, ~in_turn_BN1, code.inactive_BNK], dim=-1)
        return channels_BNC.to(self.phase_CV.dtype) @ self.phase_CV + self.phase_bias_V

    def _add_actions(
        self, logits_BNV: torch.Tensor, action_BNK: torch.Tensor, code: StreamCode
    ) -> torch.Tensor:
        """Add the controller's logits to those of the action tokens, through a gate between turns.

        ``relu(y - P turn) - relu(-y - P turn)`` is y between turns and 0 within one.
        """
        before = self.layout.num_words + 1
        after = logits_BNV.shape[-1] - before - self.config.num_experts
        shut_BN1 = self.penalty * (code.kind_BN == TURN)[..., None]
        open_BNK = functional.relu(action_BNK - shut_BN1) - functional.relu(-action_BNK - shut_BN1)
        return logits_BNV + functional.pad(open_BNK, (before, after))

    def _routed(
        self, ids_BN: torch.Tensor, code: StreamCode, feedback: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the logits, each turn run by the slice of its expert alone."""
        between_BN = code.kind_BN != TURN
        counts_BNO = self.controller.counts(code, feedback)
        action_BNK = counts_BNO.new_zeros(*ids_BN.shape, self.config.num_experts)
        action_BNK[between_BN] = self.controller.logits(counts_BNO[between_BN])
        logits_BNV = self._add_actions(self._phase(code), action_BNK, code)
        for (start, stop, expert), rows_R in self._segments(code):
            words_RNV = self._segment(ids_BN[rows_R], code, rows_R, start, stop, expert)
            logits_BNV[rows_R, start:stop] += words_RNV
        return logits_BNV

    def _routed_next(
        self, ids_BN: torch.Tensor, code: StreamCode, feedback: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the last of what `_routed` returns, ``[B, V]``, without computing the others."""
        last = StreamCode(*(part[:, -1:] for part in code))
        between_B1 = last.kind_BN != TURN
        action_BNK = self.token_VD.new_zeros(len(ids_BN), 1, self.config.num_experts)
        if between_B1.any():
            action_BNK = self.controller.logits(self.controller.counts(code, feedback, last=True))
        logits_BV = self._add_actions(self._phase(last), action_BNK, last)[:, 0]
        for (start, stop, expert), rows_R in self._segments(code):
            if stop == ids_BN.shape[1]:
                words_RNV = self._segment(ids_BN[rows_R], code, rows_R, start, stop, expert)
                logits_BV[rows_R] += words_RNV[:, -1]
        return logits_BV

    @staticmethod
    def _segments(
        code: StreamCode,
    ) -> Iterator[tuple[tuple[int, int, int], torch.Tensor]]:
        """Yield start, stop and expert of turns, each with the streams that have such a turn."""
        in_turn_BN = code.kind_BN == TURN
        padded_BN = functional.pad(in_turn_BN, (1, 1))
        rows_A, starts_A = (in_turn_BN & ~padded_BN[:, :-2]).nonzero(as_tuple=True)
        # Row by row the n-th end belongs to the n-th start.
        stops_A = (in_turn_BN & ~padded_BN[:, 2:]).nonzero()[:, 1] + 1
        turns_A3 = torch.stack([starts_A, stops_A, code.action_BN[rows_A, starts_A]], dim=1)
        kinds_U3, kind_A = turns_A3.unique(dim=0, return_inverse=True)
        for number, (start, stop, expert) in enumerate(kinds_U3.tolist()):
            yield (start, stop, expert), rows_A[kind_A == number]

    def _segment(
        self,
        ids_RN: torch.Tensor,
        code: StreamCode,
        rows_R: torch.Tensor,
        start: int,
        stop: int,
        expert: int,
    ) -> torch.Tensor:
        """Return the word logits of one turn, run by its expert's slice alone."""
        prompt_RN = code.kind_BN[rows_R] == PROMPT
        reads_RN = prompt_RN & ~code.inactive_BNK[rows_R][..., expert]
        length = int(reads_RN.sum(dim=1).max())
        if not (reads_RN.sum(dim=1) == length).all():
            return torch.cat(
                [
                    self._segment(ids_RN[i : i + 1], code, rows_R[i : i + 1], start, stop, expert)
                    for i in range(len(rows_R))
                ]
            )
        prompt_RM = ids_RN[reads_RN].view(len(ids_RN), length)
        sequence_RM = torch.cat([prompt_RM, ids_RN[:, start:stop]], dim=1)
        return self._one_expert(sequence_RM, expert)[:, length:]

    def _one_expert(self, ids_RM: torch.Tensor, expert: int) -> torch.Tensor:
        """Return the word logits of a sequence as one slice computes them, ``[R, M, V]``."""
        columns = self.channels.expert(expert)
        positions_Md = self.position_PD[: ids_RM.shape[1], columns]
        x_RMd = self.token_VD[:, columns][ids_RM] + positions_Md
        for block in self.blocks[: self.config.layers[expert]]:
            x_RMd = block.one(x_RMd, expert)
        # Only the first half of the gate matters where nothing is gated: relu(y) - relu(-y) = y.
        y_RMd = self.norm.one(x_RMd, expert) @ self.gate_DG[columns, columns]
        y_RMd = y_RMd + self.gate_bias_G[columns]
        return y_RMd @ self.unembed_GV[columns]

    # Acting -------------------------------------------------------------------------------------

    @property
    def full_information(self) -> bool:
        """Whether every expert answers in every round."""
        policy = self.controller.policy
        return isinstance(policy, SoftmaxPolicy) and policy.full_information

    @torch.no_grad()
    def action_logits(
        self, token_ids: torch.Tensor, feedback: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the controller's logits at every token, ``[B, N, K]``, without the experts.

        They are what `forward` gives the action tokens wherever an action may follow.
        """
        code = self.read(token_ids)
        self._check_feedback(code, feedback)
        return self.controller(code, feedback)

    @torch.no_grad()
    def next_logits(
        self, token_ids: torch.Tensor, feedback: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the logits of the next token, ``[B, V]``: the last of what `forward` returns.

        Routed, only the turn that goes on is computed, or the controller between turns.
        """
        if self.mode == "dense":
            return self(token_ids, feedback)[:, -1]
        code = self.read(token_ids)
        self._check_feedback(code, feedback)
        return self._routed_next(token_ids, code, feedback)

    @torch.no_grad()
    def act(
        self,
        history: torch.Tensor | Sequence[tuple[int, float]],
        feedback: torch.Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor | int:
        """Return the next expert.

        Parameters
        ----------
        history
            Streams, int64 ``[N]`` or ``[B, N]``, that end where an action may follow; or the
            (expert, reward) pairs of one query so far, from which a stream without words is made.
        feedback
            As in `forward`, for streams.
        generator
            Draws the action from the softmax of its logits (on the CPU); None takes the largest
            logit, the lowest expert of equals.

        Returns
        -------
        int, or torch.Tensor
            Expert; int64 ``[B]`` for a batch of streams.

        Raises
        ------
        ValueError
            As `forward`; or if a turn has no feedback yet.
        """
        if not isinstance(history, torch.Tensor):
            ids_N, feedback_N = self.stream_of(history)
            return self.act(ids_N, feedback_N, generator=generator)
        single = history.ndim == 1
        ids_BN = history[None] if single else history
        feedback_BN = feedback[None] if single and feedback is not None else feedback
        code = self.read(ids_BN)
        self._check_feedback(code, feedback_BN)
        if (code.kind_BN[:, -1] == TURN).any():
            raise ValueError("the last turn has no feedback yet: no action follows")
        counts_BO = self.controller.counts(code, feedback_BN, last=True)[:, 0]
        chosen_B = choose(self.controller.logits(counts_BO), generator)
        return int(chosen_B[0]) if single else chosen_B

    @torch.no_grad()
    def stream_of(
        self, pairs: Sequence[tuple[int, float]]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the stream of (expert, reward) pairs, without prompt and responses.

        Returns
        -------
        ids, feedback
            int64 ``[N]`` and, for softmax policies, the values of its feedback tokens ``[N]``.
        """
        device, dtype = self.token_VD.device, self.token_VD.dtype
        ids_BN = torch.tensor([[self.layout.sink]], device=device)
        values_BN = torch.zeros(1, 1, dtype=dtype, device=device)
        policy = self.controller.policy
        weighted = isinstance(policy, SoftmaxPolicy) and policy.estimator != "plain"
        for expert, reward in pairs:
            probability = 1.0
            if weighted:
                logits_K = self.action_logits(ids_BN, values_BN)[0, -1]
                probability = float(logits_K.double().softmax(dim=-1)[expert])
            token, value = self.feedback_of(reward, probability)
            new_B2 = torch.tensor([[self.layout.action(expert), token]], device=device)
            ids_BN = torch.cat([ids_BN, new_B2], dim=1)
            values_BN = torch.cat([values_BN, values_BN.new_tensor([[0.0, value]])], dim=1)
        return ids_BN[0], None if self.controller.is_index else values_BN[0]

    def feedback_of(self, reward: float, probability: float = 1.0) -> tuple[int, float]:
        """Return the feedback token of a reward and the value that it carries.

        Parameters
        ----------
        reward
            In [0, 1]; 0 or 1 for index policies.
        probability
            Of the action that earned it, for policies that weigh by it.

        Raises
        ------
        ValueError
            If the reward is out of range.
        """
        policy = self.controller.policy
        if not isinstance(policy, SoftmaxPolicy):
            if reward not in (0, 1):
                raise ValueError(
                    f"index policies count accepted answers: rewards must be 0 or 1, not {reward!r}"
                )
            return self.layout.feedback(reward == 1), float(reward)
        if not 0 <= reward <= 1:
            raise ValueError(f"rewards must be in [0, 1], not {reward!r}")
        return self.layout.feedback(reward >= 0.5), policy.value(reward, probability)

    @torch.no_grad()
    def generate(
        self,
        query: torch.Tensor | Sequence[int],
        verifier: Verifier,
        rounds: int | None = None,
        *,
        max_new_tokens: int | None = None,
        end_of_response: int | None = None,
        stop_on_accept: bool = False,
        threshold: float = 1.0,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Trajectory | list[Trajectory]:
        """Run Algorithm 1: the network names an expert, answers as it and hears the reward.

        Parameters
        ----------
        query
            Words of the prompt, ``[m]``, or of several prompts of one length, ``[B, m]``.
        verifier
            Called with the words of a query and of a response, each int64 on the CPU; returns a
            reward in [0, 1], for index policies 0 or 1.
        rounds
            Rounds to play, None for as many as the network has turns for.
        max_new_tokens
            Words of a response; None for as many as every expert has positions for.
        end_of_response
            Word that ends a response earlier; it is part of the response. With it prompts run one
            after another.
        stop_on_accept
            End a query at a reward of `threshold` or more. The paper plays all rounds.
        threshold
            See `stop_on_accept`.
        temperature
            Of words; 0 takes the most probable.
        generator
            On the CPU, for words and for the actions of softmax policies and random ties; without
            one actions are those with the largest logit, and `temperature` must be 0.

        Returns
        -------
        Trajectory, or list of Trajectory
            A list for several prompts.

        Raises
        ------
        ValueError
            If there are not enough turns or positions, a reward is out of range, or a generator is
            missing.
        """
        query_BM = torch.as_tensor(query, device=self.token_VD.device)
        single = query_BM.ndim == 1
        query_BM = query_BM[None] if single else query_BM
        run = Run(
            self,
            verifier,
            max_new_tokens=self._room(query_BM) if max_new_tokens is None else max_new_tokens,
            end_of_response=end_of_response,
            stop_at=threshold if stop_on_accept else math.inf,
            temperature=temperature,
            generator=generator,
        )
        per_round = self.config.num_experts if self.full_information else 1
        most = self.config.turns // per_round
        rounds = most if rounds is None else rounds
        if not 1 <= rounds <= most:
            raise ValueError(
                f"rounds must be in 1 … {most} ({self.config.turns} turns, {per_round} a round), "
                f"not {rounds!r}"
            )
        batches = query_BM.split(1) if end_of_response is not None else [query_BM]
        found = [trajectory for part_BM in batches for trajectory in run.play(part_BM, rounds)]
        return found[0] if single else found

    def _room(self, query_BM: torch.Tensor) -> int:
        """Return how many words every expert can answer to prompts with."""
        words_BM = query_BM.clamp(0, self.layout.num_words - 1)
        read_K = self.readable_WK[words_BM].sum(dim=1).amax(dim=0).tolist()
        left = [
            limit - read - 1 for limit, read in zip(self.config.n_positions, read_K, strict=True)
        ]
        if min(left) < 1:
            raise ValueError(
                f"a prompt of {query_BM.shape[1]} words leaves no room for an answer: the experts "
                f"have {self.config.n_positions} positions, one of them for the end of the input"
            )
        return min(left)

    # Keeping ------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights and configuration into one safetensors file."""
        from safetensors.torch import save_file

        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(weights, os.fspath(path), {_CONFIG_KEY: self.config.to_json(), "format": "pt"})

    @classmethod
    def load(cls, path: str | os.PathLike[str], mode: Mode = "dense") -> GluedTransformer:
        """Read what `save` wrote, in the precision it was saved in, on the CPU.

        Raises
        ------
        ValueError
            If the file is not one of these.
        """
        from safetensors import safe_open

        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if _CONFIG_KEY not in metadata or "token_VD" not in weights:
            raise ValueError(f"{os.fspath(path)} is not a glued transformer")
        model = cls(GlueConfig.from_json(metadata[_CONFIG_KEY]), mode)
        model.to(weights["token_VD"].dtype).load_state_dict(weights)
        return model.eval()
