"""The driver of all strategies: canvases in, calls to the model, committed tokens out.

Runs a batch of canvases to the end under one strategy. In every step each sequence commits what its
strategy needs no test for, and all rows that some sequence wants predictions on go into one call of
the model, densely packed. What is counted is counted per sequence. Results do not depend on which
sequences share a batch, as far as the model's own numbers do not.

Shapes: N sequences, L columns of the canvas, H columns of the horizon, R rows of a proposal, T rows
of one call, V vocabulary.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Protocol

import torch

from modicum.core.kernels.logits_summary import logits_summary
from modicum.pvf.board import Board
from modicum.pvf.events import Commit, Rejected
from modicum.pvf.predictor import MaskPredictor
from modicum.pvf.stats import ROUTES, DecodeStats
from modicum.pvf.strategies.base import Decision, Predictions, Proposal, Strategy, View
from modicum.pvf.validation import check_count

__all__ = ["Decoder", "Forward", "LogitsHook", "Rows", "Sampler"]

MOST_CALLS_PER_TOKEN = 3

_DOUBT = -1.0
"""Below every probability, and above what stands for a column that is not open."""

LogitsHook = Callable[[torch.Tensor, "Rows"], torch.Tensor]
"""Changes logits, (T, H, V), of the rows of a call before anything looks at them."""


@dataclass(frozen=True)
class Rows:
    """The rows of one call of the model.

    Attributes
    ----------
    ids
        Canvases, (T, L) int64.
    attention_mask
        (T, L) bool, False for padding; None without padding.
    positions
        Columns whose tokens are asked for, (T, H) int64.
    sequence
        Number of the sequence of each row in the batch, (T,) int64.
    block
        Number of the block that its window begins with, (T,) int64.
    call
        Calls that the sequence had taken part in before, (T,) int64.
    """

    ids: torch.Tensor
    attention_mask: torch.Tensor | None
    positions: torch.Tensor
    sequence: torch.Tensor
    block: torch.Tensor
    call: torch.Tensor


class Forward(Protocol):
    """How rows get their logits: by the model as it is, or with what it remembers."""

    def __call__(self, rows: Rows) -> tuple[torch.Tensor, int | torch.Tensor, torch.Tensor]:
        """Give logits (T, H, V), the columns processed in each row, and which rows were whole.

        Columns are a number, or (T,) int64 where rows differ; a sequence's call counts as whole
        when one of its rows, (T,) bool, was.
        """


class Sampler(Protocol):
    """How a token is drawn."""

    def __call__(self, logits: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Give tokens, (T, H) int64, of logits, (T, H, V)."""


class Decoder:
    """Decode canvases in which masks stand for what is to be found.

    Parameters
    ----------
    predictor
        The model.
    strategy
        What is committed when.
    canvas
        Token ids, (N, L) int64; changed in place.
    start, length
        First column and number of columns of the span of each sequence, (N,) int64. Masks outside
        are left alone.
    block_length
        Columns of a block.
    attention_mask
        (N, L) bool, False for padding; None without padding.
    eos_early_stop
        Whether a sequence ends when an end token stands with nothing open before it; the rest of
        its span is filled with end tokens.
    suppress
        Ids that are never predicted; the mask token is among them in any case.
    doubtful
        Ids whose confidence counts as nothing, so that they are committed last.
    sampler
        How tokens are drawn; the most likely one by default.
    logits_hook
        Called with the logits of every call.
    forward
        How rows get their logits; the predictor's ``forward`` by default.
    traced
        Whether `steps` gives commits; else it gives empty lists.
    deterministic
        Whether every call has the same number of rows, filled up with repeated ones, so that the
        shape of a batch has no influence on its rounding.
    max_rows
        Rows that go through the model together at most, for less memory: a call with more is made
        in parts, and still counts as one. The rows of a sequence stay together, however many.
    seed
        Of what a strategy draws.
    first_sequence
        Number of the first sequence, by which it is drawn.

    Raises
    ------
    ValueError
        If shapes do not fit, a span is not in its canvas, or a count is out of range.

    Notes
    -----
    A strategy with a method ``observe`` is told after every step what it cost and brought:
    ``observe(memory, evaluations, tokens, seconds)``, with its memory, the columns that the model
    processed for each sequence, the tokens committed in each, and the seconds of the step. Time is
    taken from the predictor's ``clock``, a function that gives seconds, where it has one.
    """

    def __init__(
        self,
        predictor: MaskPredictor,
        strategy: Strategy,
        canvas: torch.Tensor,
        start: torch.Tensor,
        length: torch.Tensor,
        block_length: int,
        *,
        attention_mask: torch.Tensor | None = None,
        eos_early_stop: bool = True,
        suppress: tuple[int, ...] = (),
        doubtful: tuple[int, ...] = (),
        sampler: Sampler | None = None,
        logits_hook: LogitsHook | None = None,
        forward: Forward | None = None,
        traced: bool = False,
        deterministic: bool = False,
        max_rows: int | None = None,
        seed: int = 0,
        first_sequence: int = 0,
    ) -> None:
        check_count("block_length", block_length)
        _check_spans(canvas, start, length)
        self.predictor = predictor
        self.strategy = strategy
        self.attention_mask = attention_mask
        self.eos_early_stop = eos_early_stop and predictor.eos_id is not None
        self.suppress = tuple(sorted({predictor.mask_id, *suppress}))
        self.doubtful = doubtful
        self.sampler = sampler
        self.logits_hook = logits_hook
        self.forward = forward or self._forward
        self._clock: Callable[[], float] = getattr(predictor, "clock", time.perf_counter)
        self.traced = traced
        self.deterministic = deterministic
        self.max_rows = max_rows if max_rows is None else check_count("max_rows", max_rows)
        self.seed, self.first_sequence = seed, first_sequence
        self.board = Board(
            canvas,
            start,
            length,
            predictor.mask_id,
            block_length,
            strategy.unlock_threshold,
            strategy.whole_span,
            predictor.canvas == "full",
        )
        count, columns = canvas.shape
        self.memory = strategy.start(count, columns, canvas.device)
        self.stats = [DecodeStats() for _ in range(count)]
        self.masks_N = (self.board.span_NL & (canvas == predictor.mask_id)).sum(-1)
        self.calls_N = torch.zeros_like(start)
        self.calls_in_block_N = torch.zeros_like(start)
        self.masks_in_block_N = self._masks_of_blocks()
        self._block_before_N = self.board.block_N.clone()
        self._seen = _nothing(count, columns, strategy.needs_divergence, canvas.device)
        self._valid_NL = torch.zeros_like(self.board.span_NL)
        self._log_probs: torch.Tensor | None = None
        self._commits: list[Commit] = []

    @property
    def canvas(self) -> torch.Tensor:
        """Token ids as they are, (N, L)."""
        return self.board.canvas_NL

    def run(self) -> None:
        """Decode to the end."""
        for _ in self.steps():
            pass

    @torch.inference_mode()
    def steps(self) -> Iterator[list[Commit]]:
        """Decode call by call.

        Yields
        ------
        list of Commit
            What was committed since the one before; empty unless the decoder is `traced`.

        Raises
        ------
        ValueError
            If the model gives logits that are not numbers.
        RuntimeError
            If a sequence does not come to an end.
        """
        started = self._clock()
        while bool(self.board.live_N.any()):
            working = self.board.live_N.tolist()
            self._watched_step()
            now = self._clock()
            for stats, was_live in zip(self.stats, working, strict=True):
                stats.seconds += (now - started) * was_live
            started = now
            commits, self._commits = self._commits, []
            yield commits

    def _watched_step(self) -> None:
        """Make a step, and tell a strategy that wants to know what it cost and brought."""
        observe = getattr(self.strategy, "observe", None)
        if observe is None:
            self._step()
            return
        before = [(stats.token_evals, stats.tokens) for stats in self.stats]
        begun = self._clock()
        self._step()
        seconds = self._clock() - begun
        observe(
            self.memory,
            [
                stats.token_evals - evals
                for stats, (evals, _) in zip(self.stats, before, strict=True)
            ],
            [stats.tokens - tokens for stats, (_, tokens) in zip(self.stats, before, strict=True)],
            seconds,
        )

    def _step(self) -> None:
        board = self.board
        seen = _at(self._seen, board.columns_NH)
        known_N = board.live_N & (self._valid_NL.gather(-1, board.columns_NH) | ~board.open_NH).all(
            -1
        )
        proposal, view = None, None
        asks_N = torch.zeros_like(known_N)
        if bool(known_N.any()):
            view = self._view(seen, known_N)
            proposal = _only(self.strategy.propose(view), known_N)
            asks_N = proposal.rows > 0
            self._commit_untested(view, proposal, known_N & ~asks_N)
        cold_N = board.live_N & ~asks_N
        rows_NR = self._rows_wanted(cold_N, proposal, asks_N)
        if not bool(rows_NR.any()):
            return
        found = self._predict(rows_NR, proposal, view)
        self._count(rows_NR, proposal)
        self._keep_row(found, torch.zeros_like(board.block_N), cold_N)
        if proposal is not None and view is not None and bool(asks_N.any()):
            decision = self.strategy.accept(view, proposal, found)
            self._commit_tested(view, proposal, decision, asks_N)
            self._keep_row(found, decision.row, asks_N & decision.keep)
        self._refresh()

    def _view(self, seen: Predictions, known_N: torch.Tensor) -> View:
        board = self.board
        left_N = (board.span_NL & (board.canvas_NL == board.mask_id)).sum(-1)
        return View(
            columns=board.columns_NH,
            tokens=board.tokens(),
            open=board.open_NH,
            window=board.window_NH,
            seen=seen,
            known=known_N,
            block=board.block_N,
            calls_in_block=self.calls_in_block_N,
            masks_in_block=self.masks_in_block_N,
            block_length=board.block_length,
            blocks=board.blocks_N,
            progress=1 - left_N / self.masks_N.clamp(min=1),
            memory=self.memory,
            uniform=self._uniform,
        )

    def _uniform(self, salt: int) -> torch.Tensor:
        """Give numbers in [0, 1) by seed, sequence, column and call, (N, H) float32."""
        from modicum.core.prf import philox4x32, uniform32

        columns_NH = self.board.columns_NH
        number_N1 = torch.arange(len(columns_NH), device=columns_NH.device)[:, None]
        counter = (
            columns_NH,
            self.calls_N[:, None].expand_as(columns_NH),
            (number_N1 + self.first_sequence).expand_as(columns_NH),
            torch.full_like(columns_NH, salt),
        )
        key = (self.seed & 0xFFFFFFFF, (self.seed >> 32) & 0xFFFFFFFF)
        return uniform32(philox4x32(counter, key)[0])

    def _rows_wanted(
        self, cold_N: torch.Tensor, proposal: Proposal | None, asks_N: torch.Tensor
    ) -> torch.Tensor:
        """Say which rows go into the call, (N, R) bool."""
        most = self.strategy.most_rows
        number_R = torch.arange(most, device=cold_N.device)
        count_N = cold_N.long()
        if proposal is not None:
            count_N = torch.where(asks_N, proposal.rows, count_N)
        return number_R < count_N[:, None]

    def _predict(
        self, rows_NR: torch.Tensor, proposal: Proposal | None, view: View | None
    ) -> Predictions:
        """Call the model once, (N, R, H) each; rows that were not wanted mean nothing."""
        board = self.board
        asked_NR = torch.ones_like(rows_NR) if self.deterministic else rows_NR
        sequence_T, row_T = asked_NR.nonzero(as_tuple=True)
        ids_TL = board.canvas_NL[sequence_T]
        positions_TH = board.columns_NH[sequence_T]
        if proposal is not None and view is not None:
            last = proposal.fill.shape[1] - 1
            filled_TH = proposal.fill[sequence_T, row_T.clamp(max=last)]
            # What was committed without a test is in the canvas; its sequences ask for row 0 only.
            filled_TH = filled_TH & (proposal.rows > 0)[sequence_T, None]
            # Not by a scatter: columns beyond a span's end stand for its last one.
            t_K, h_K = filled_TH.nonzero(as_tuple=True)
            ids_TL[t_K, positions_TH[t_K, h_K]] = view.seen.token[sequence_T[t_K], h_K]
        rows = Rows(
            ids=ids_TL,
            attention_mask=self._attention(sequence_T),
            positions=positions_TH,
            sequence=sequence_T,
            block=board.block_N[sequence_T],
            call=self.calls_N[sequence_T],
        )
        found = self._ask(rows, rows_NR[sequence_T, row_T])
        return self._spread(found, sequence_T, row_T, rows_NR.shape)

    def _attention(self, sequence_T: torch.Tensor) -> torch.Tensor | None:
        mask = self.attention_mask
        if self.predictor.canvas == "prefix":
            last_N1 = self.board.columns_NH.amax(-1, keepdim=True)
            columns_L = torch.arange(self.canvas.shape[1], device=self.canvas.device)
            seen_NL = columns_L <= last_N1
            mask = seen_NL if mask is None else mask & seen_NL
        return None if mask is None else mask[sequence_T]

    def _ask(self, rows: Rows, wanted_T: torch.Tensor) -> Predictions:
        started = self._clock()
        answers = [self._ask_together(part) for part in self._parts(rows)]
        found = _joined([answer[0] for answer in answers])
        columns_T = torch.cat([answer[1] for answer in answers])
        whole_T = torch.cat([answer[2] for answer in answers])
        self._count_work(wanted_T, rows, columns_T, whole_T, self._clock() - started)
        return found

    def _parts(self, rows: Rows) -> list[Rows]:
        """Cut a call between sequences, so that parts have `max_rows` rows where that can be."""
        total = len(rows.sequence)
        if self.max_rows is None or total <= self.max_rows:
            return [rows]
        begins = (rows.sequence.diff() != 0).nonzero().flatten() + 1
        cuts, last = [0], 0
        for begin in [*begins.tolist(), total]:
            if begin - cuts[-1] > self.max_rows and last > cuts[-1]:
                cuts.append(last)
            last = begin
        return [_slice(rows, begin, end) for begin, end in pairwise([*cuts, total])]

    def _ask_together(self, rows: Rows) -> tuple[Predictions, torch.Tensor, torch.Tensor]:
        """Give predictions, columns processed in each row, (T,), and which were whole, (T,)."""
        logits, columns, whole_T = self.forward(rows)
        self._check_shape("the predictor", logits, rows)
        if self.logits_hook is not None:
            logits = self.logits_hook(logits, rows)
            self._check_shape("logits_hook", logits, rows)
        summary = logits_summary(logits, suppress=self.suppress)
        if not bool(summary.log_sum_exp.isfinite().all()):
            raise ValueError("the model gave logits that are NaN or +inf, or allow no token")
        token = summary.argmax
        confidence = summary.top1_prob
        if self.sampler is not None:
            token = self.sampler(logits, rows)
            drawn = logits_summary(logits, token_ids=token, suppress=self.suppress)
            assert drawn.token_log_prob is not None
            confidence = drawn.token_log_prob.exp()
        for doubtful in self.doubtful:
            confidence = confidence.masked_fill(token == doubtful, _DOUBT)
        found = Predictions(
            token=token,
            confidence=confidence,
            top=summary.argmax,
            top_confidence=summary.top1_prob,
            entropy=summary.entropy,
            margin=summary.probability_margin,
            logit_margin=summary.margin,
            divergence=self._divergence(logits, rows) if self.strategy.needs_divergence else None,
        )
        columns_T = torch.as_tensor(columns, device=rows.sequence.device)
        return found, columns_T.expand_as(rows.sequence), whole_T

    def _check_shape(self, who: str, logits: torch.Tensor, rows: Rows) -> None:
        expected = (*rows.positions.shape, self.predictor.vocab_size)
        found = tuple(getattr(logits, "shape", ()))
        if found != expected:
            raise ValueError(f"{who} must give logits of shape {expected}, not {found}")

    def _divergence(self, logits: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Give KL(now, the call before) of every column, (T, H), and remember what is now."""
        log_probs_THV = logits.float().log_softmax(-1)
        at = (rows.sequence[:, None].expand_as(rows.positions), rows.positions)
        if self._log_probs is None:
            count, columns = self.canvas.shape
            self._log_probs = log_probs_THV.new_full((count, columns, logits.shape[-1]), torch.nan)
        before_THV = self._log_probs[at]
        terms_THV = log_probs_THV.exp() * (log_probs_THV - before_THV)
        # A token without probability adds nothing.
        found_TH = terms_THV.masked_fill(log_probs_THV == -torch.inf, 0.0).sum(-1)
        self._log_probs[at] = log_probs_THV
        return found_TH.masked_fill(before_THV[..., 0].isnan(), torch.inf)

    def _spread(
        self,
        found: Predictions,
        sequence_T: torch.Tensor,
        row_T: torch.Tensor,
        shape: tuple[int, ...] | torch.Size,
    ) -> Predictions:
        """Bring rows of a call to where they belong, (N, R, H) each."""

        def spread(values_TH: torch.Tensor) -> torch.Tensor:
            wide = values_TH.new_zeros((*shape, values_TH.shape[-1]))
            wide[sequence_T, row_T] = values_TH
            return wide

        return _each(spread, found)

    def _keep_row(self, found: Predictions, row_N: torch.Tensor, which_N: torch.Tensor) -> None:
        """Remember the predictions of one row of each marked sequence."""
        self._valid_NL &= ~which_N[:, None]
        inside_NH = self.board.inside_NH & which_N[:, None]
        n_K, h_K = inside_NH.nonzero(as_tuple=True)
        at = (n_K, self.board.columns_NH[n_K, h_K])
        for item in fields(found):
            values = getattr(found, item.name)
            if values is not None:
                seen = getattr(self._seen, item.name)
                seen[at] = values[n_K, row_N[n_K], h_K].to(seen.dtype)
        self._valid_NL[at] = True

    def _commit_untested(self, view: View, proposal: Proposal, which_N: torch.Tensor) -> None:
        """Commit row 0 of the marked sequences; their predictions hold no longer."""
        marked_NH = proposal.fill[:, 0] & view.open & which_N[:, None]
        self._write(view, marked_NH)
        reasons = torch.where(proposal.forced, 3, 0)[:, None].expand_as(marked_NH)
        self._note(view, marked_NH, reasons, None, None)
        self._valid_NL &= ~which_N[:, None]
        self._refresh()

    def _commit_tested(
        self, view: View, proposal: Proposal, decision: Decision, which_N: torch.Tensor
    ) -> None:
        """Commit the row that was decided for; predictions of its canvas are kept by the caller."""
        number_N = torch.arange(len(which_N), device=which_N.device)
        marked_NH = proposal.fill[number_N, decision.row] & view.open & which_N[:, None]
        self._write(view, marked_NH)
        drafted_NH = marked_NH & ~proposal.fill[:, 0]
        reasons_NH = torch.where(drafted_NH, proposal.route[:, None], 0)
        self._valid_NL &= ~which_N[:, None]
        self._note(view, marked_NH, reasons_NH, proposal, decision)

    def _write(self, view: View, marked_NH: torch.Tensor) -> None:
        self.board.write(marked_NH, view.seen.token)

    def _refresh(self) -> None:
        """Bring windows up to date, and end what has come to its end token."""
        self._end()
        self.board.refresh()
        entered_N = self.board.block_N != self._block_before_N
        self.calls_in_block_N.masked_fill_(entered_N, 0)
        self.masks_in_block_N = torch.where(
            entered_N, self._masks_of_blocks(), self.masks_in_block_N
        )
        self._block_before_N = self.board.block_N.clone()

    def _masks_of_blocks(self) -> torch.Tensor:
        board = self.board
        offset_NL = torch.arange(self.canvas.shape[1], device=self.canvas.device)
        number_NL = (offset_NL - board.start_N[:, None]) // board.block_length
        here_NL = board.span_NL & (number_NL == board.block_N[:, None])
        return (here_NL & (board.canvas_NL == board.mask_id)).sum(-1)

    def _end(self) -> None:
        """Note sequences that have an end token with nothing open before it, and stop them."""
        eos = self.predictor.eos_id
        if eos is None:
            return
        board = self.board
        canvas_NL = board.canvas_NL
        open_NL = board.span_NL & (canvas_NL == board.mask_id)
        end_NL = board.span_NL & (canvas_NL == eos) & (open_NL.long().cumsum(-1) == 0)
        ended_N = end_NL.any(-1)
        for number in (ended_N & board.live_N).nonzero()[:, 0].tolist():
            stats = self.stats[number]
            if stats.nfe_to_eos is None:
                stats.nfe_to_eos = stats.nfe
        if self.eos_early_stop:
            rest_NL = open_NL & ended_N[:, None]
            canvas_NL.masked_fill_(rest_NL, eos)
            self._note_end(rest_NL)

    def _forward(self, rows: Rows) -> tuple[torch.Tensor, int, torch.Tensor]:
        ids, mask = rows.ids, rows.attention_mask
        if self.predictor.canvas == "prefix":
            end = int(rows.positions.max()) + 1
            ids, mask = ids[:, :end], None if mask is None else mask[:, :end]
            # Where all rows end together and none is padded nothing is hidden.
            mask = None if mask is None or bool(mask.all()) else mask
        logits = self.predictor.forward(ids, mask, rows.positions)
        return logits, ids.shape[1], torch.ones_like(rows.sequence, dtype=torch.bool)

    def _count_work(
        self,
        wanted_T: torch.Tensor,
        rows: Rows,
        columns_T: torch.Tensor,
        whole_T: torch.Tensor,
        seconds: float,
    ) -> None:
        guided = int(getattr(self.forward, "rows_per_row", 1))

        def per_sequence(counts_T: torch.Tensor) -> list[int]:
            total_N = torch.zeros_like(self.calls_N)
            return total_N.index_add(0, rows.sequence, (counts_T * wanted_T).long()).tolist()

        counts = per_sequence(torch.ones_like(rows.sequence))
        evals = per_sequence(columns_T)
        wholes = per_sequence(whole_T)
        for stats, count, evaluated, whole in zip(self.stats, counts, evals, wholes, strict=True):
            if count:
                stats.nfe += 1
                stats.rows += guided * count
                stats.token_evals += guided * evaluated
                stats.nfe_full += whole > 0
                stats.nfe_window += whole == 0
                stats.seconds_model += seconds

    def _count(self, rows_NR: torch.Tensor, proposal: Proposal | None) -> None:
        called_N = rows_NR.any(-1)
        self.calls_N += called_N
        self.calls_in_block_N += called_N
        route_N = torch.zeros_like(self.calls_N) if proposal is None else proposal.route
        called = zip(self.stats, called_N.tolist(), route_N.tolist(), strict=True)
        for number, (stats, was_called, route) in enumerate(called):
            if was_called:
                name = f"nfe_{ROUTES[route]}"
                setattr(stats, name, getattr(stats, name) + 1)
                self._check_progress(number)

    def _check_progress(self, number: int) -> None:
        most = MOST_CALLS_PER_TOKEN * int(self.masks_N[number]) + 1
        if self.stats[number].nfe > most:
            left = int((self.board.span_NL & (self.canvas == self.board.mask_id))[number].sum())
            raise RuntimeError(
                f"sequence {number} made {most} calls and has {left} open tokens: strategy "
                f"{self.strategy.name!r} does not come to an end"
            )

    def _note(
        self,
        view: View,
        marked_NH: torch.Tensor,
        reasons_NH: torch.Tensor,
        proposal: Proposal | None,
        decision: Decision | None,
    ) -> None:
        """Count tokens and drafts of a commit, and keep it if the decoding is traced."""
        for reason, letter in enumerate("HPFX"):
            counts = (marked_NH & (reasons_NH == reason)).sum(-1).tolist()
            for stats, count in zip(self.stats, counts, strict=True):
                stats.committed[letter] += count
                stats.tokens += count
        if proposal is not None and decision is not None:
            self._count_drafts(proposal, decision)
        if self.traced:
            self._trace(view, marked_NH, reasons_NH, proposal, decision)

    def _count_drafts(self, proposal: Proposal, decision: Decision) -> None:
        columns = torch.stack(
            [
                proposal.route,
                proposal.rows - 1,
                decision.passed.sum(-1),
                decision.unexpected.sum(-1),
                decision.row,
                proposal.rows > 0,
            ],
            -1,
        ).tolist()
        for stats, (route, drafts, passed, unexpected, row, asked) in zip(
            self.stats, columns, strict=True
        ):
            if not asked:
                continue
            if ROUTES[route] == "plan":
                stats.drafts_plan += drafts
                stats.passed_plan += passed
                stats.rejected_unexpected += unexpected
                stats.nfe_plan_failed += row == 0
            else:
                stats.drafts_fill += drafts
                stats.accepted_fill += row

    def _trace(
        self,
        view: View,
        marked_NH: torch.Tensor,
        reasons_NH: torch.Tensor,
        proposal: Proposal | None,
        decision: Decision | None,
    ) -> None:
        asked_N = torch.zeros(len(marked_NH), dtype=torch.bool, device=marked_NH.device)
        if proposal is not None:
            asked_N = proposal.rows > 0
        for number in (marked_NH.any(-1) | asked_N).nonzero()[:, 0].tolist():
            if proposal is not None and not bool(asked_N[number]):
                continue
            at = marked_NH[number].nonzero()[:, 0]
            is_test = proposal is not None
            self._commits.append(
                Commit(
                    sequence=number,
                    call=self.stats[number].nfe,
                    route=ROUTES[int(proposal.route[number])] if proposal is not None else "cold",
                    rows=int(proposal.rows[number]) if is_test and proposal is not None else 1,
                    positions=tuple(view.columns[number, at].tolist()),
                    tokens=tuple(view.seen.token[number, at].tolist()),
                    confidences=tuple(view.seen.confidence[number, at].tolist()),
                    reasons=tuple("HPFX"[code] for code in reasons_NH[number, at].tolist()),
                    rejected=_rejected(view, marked_NH, proposal, number),
                )
            )

    def _note_end(self, rest_NL: torch.Tensor) -> None:
        if not self.traced:
            return
        eos = self.predictor.eos_id
        for number in rest_NL.any(-1).nonzero()[:, 0].tolist():
            where = tuple(rest_NL[number].nonzero()[:, 0].tolist())
            self._commits.append(
                Commit(
                    sequence=number,
                    call=self.stats[number].nfe,
                    route="cold",
                    rows=1,
                    positions=where,
                    tokens=(int(eos),) * len(where),  # type: ignore[arg-type]
                    confidences=(1.0,) * len(where),
                    reasons=("E",) * len(where),
                )
            )


def _check_spans(canvas: torch.Tensor, start: torch.Tensor, length: torch.Tensor) -> None:
    """Refuse spans that are not in their canvases."""
    if canvas.ndim != 2 or not len(canvas):
        raise ValueError(f"canvas must have shape (N, L), N >= 1, not {tuple(canvas.shape)}")
    for name, given in (("start", start), ("length", length)):
        if given.shape != canvas.shape[:1]:
            raise ValueError(f"{name} must have shape ({len(canvas)},), not {tuple(given.shape)}")
    if bool(((start < 0) | (length < 1) | (start + length > canvas.shape[1])).any()):
        raise ValueError(
            f"start and length must be spans of {canvas.shape[1]} columns, at least one each, not "
            f"{start.tolist()} and {length.tolist()}"
        )


def _rejected(
    view: View, marked_NH: torch.Tensor, proposal: Proposal | None, number: int
) -> tuple[Rejected, ...]:
    """Give the drafts of a test that were not committed."""
    if proposal is None:
        return ()
    tested = int(proposal.rows[number]) - 1
    columns = proposal.drafts[number, :tested]
    left = columns[~marked_NH[number, columns]]
    return tuple(
        Rejected(*values)
        for values in zip(
            view.columns[number, left].tolist(),
            view.seen.token[number, left].tolist(),
            view.seen.confidence[number, left].tolist(),
            strict=True,
        )
    )


def _only(proposal: Proposal, known_N: torch.Tensor) -> Proposal:
    """Let sequences without predictions ask for nothing."""
    return replace(proposal, rows=proposal.rows * known_N, route=proposal.route * known_N)


def _each(change: Callable[[torch.Tensor], torch.Tensor], found: Predictions) -> Predictions:
    values = {item.name: getattr(found, item.name) for item in fields(found)}
    return replace(found, **{k: change(v) for k, v in values.items() if v is not None})


def _joined(parts: list[Predictions]) -> Predictions:
    """Put the predictions of a call's parts together again."""
    if len(parts) == 1:
        return parts[0]
    listed = {item.name: [getattr(part, item.name) for part in parts] for item in fields(parts[0])}
    return replace(parts[0], **{k: torch.cat(v) for k, v in listed.items() if v[0] is not None})


def _slice(rows: Rows, begin: int, end: int) -> Rows:
    values = {item.name: getattr(rows, item.name) for item in fields(rows)}
    return replace(rows, **{k: v[begin:end] for k, v in values.items() if v is not None})


def _at(seen: Predictions, columns_NH: torch.Tensor) -> Predictions:
    return _each(lambda values_NL: values_NL.gather(-1, columns_NH), seen)


def _nothing(count: int, columns: int, diverges: bool, device: torch.device) -> Predictions:
    def zeros(dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros((count, columns), dtype=dtype, device=device)

    real = torch.float32
    return Predictions(
        token=zeros(torch.int64),
        confidence=zeros(real),
        top=zeros(torch.int64),
        top_confidence=zeros(real),
        entropy=zeros(real),
        margin=zeros(real),
        logit_margin=zeros(real),
        divergence=zeros(real) if diverges else None,
    )
