"""Frank-Wolfe for many buyers whose every step stays on the device where the rows are.

Takes the rows of a `TorchPool`, the queries of many buyers and settings, and gives the designs of
`modicum.daved.solvers.frank_wolfe`. Scores are looked up in single precision, but only to find
candidates: the few best are scored anew in float64, and so is all that follows. The host looks at
the device every few steps only, to see who is done. Prices are in the rows' scale; what
`supports` refuses goes through the loop on the host.

The inverse of a buyer's information matrix is never stored: in coordinates in which M at the start
is the identity it is F (I - U' diag(β) U) with one row of U per step, by Sherman and Morrison, and
anew by Woodbury in a refresh. That is O(r t) numbers and operations per buyer where the matrix
itself has r².

Shapes: n rows, d features, r rank of the rows, g buyers, m queries of a buyer (filled up with
zeros), t steps, k candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from modicum.daved.design import WhitenedInverse
from modicum.daved.kernels.block_best import Backend, block_best
from modicum.daved.pool import Pool, grouped_scores, unscaled
from modicum.daved.solvers.base import Design, Step
from modicum.daved.solvers.frank_wolfe import FrankWolfe, SparseWeights, start_information
from modicum.daved.steps import ALPHA_MAX, line_search
from modicum.daved.torch_pool import TorchPool

__all__ = ["DeviceRuns", "frank_wolfe_on_device", "line_search_of", "supports"]

_CANDIDATES = 8
"""Blocks of rows whose best row is scored in float64: single precision may rank them wrongly."""

_TIE = 1e-12
"""Relative difference below which two scores are equal, as in `modicum.daved.design.first_best`."""

_PARALLEL = 1e-14
"""Relative size of aκ - b below which a query and a row are taken to be parallel."""

_LEAST_START = 1e-10
"""Share of the start in the weights at which steps end, as in `FrankWolfe`."""

_INVERSE_TOLERANCE = 1e-4
"""Largest relative error of M P q = q with which P is an inverse of M."""

_STEPS_UNSEEN = 16
"""Steps after which the host looks whether anybody goes on."""

_CAPTURE_FROM = 32
"""Steps to come from which on one is captured as a CUDA graph, to be launched as a whole."""

_SCORES_AT_ONCE = 1 << 24
"""Scores that come to the host at once, rows times buyers."""


def supports(pool: Pool, solvers: Sequence[FrankWolfe]) -> bool:
    """Say whether rows are a `TorchPool`, scaled or not, and settings are what steps here know."""
    base, _ = unscaled(pool)
    known = all(solver.repeat and not solver.reference for solver in solvers)
    return isinstance(base, TorchPool) and known


def frank_wolfe_on_device(
    pool: Pool,
    queries: Sequence[np.ndarray],
    solvers: Sequence[FrankWolfe],
    *,
    on_round: Callable[[int, int], None] | None = None,
    backend: Backend = "auto",
) -> list[Design]:
    """Find a design for every buyer, as `modicum.daved.batch.frank_wolfe_many` does.

    Parameters
    ----------
    pool
        What `supports` says yes to.
    queries
        Of each buyer, (m_i, d) float64; at least one buyer.
    solvers
        Settings of each buyer; a regulariser is that of the first. The inverse is refreshed as
        often as the most careful of them asks for.
    on_round
        Sees (steps so far, buyers that still go on) whenever the host looks.
    backend
        Of `modicum.daved.kernels.block_best.block_best`.

    Raises
    ------
    FloatingPointError
        If float64 cannot invert an information matrix.
    """
    runs = DeviceRuns(pool, queries, solvers, backend=backend)
    runs.run(on_round)
    return runs.designs()


def line_search_of(
    loss_g: torch.Tensor, score_g: torch.Tensor, leverage_g: torch.Tensor
) -> torch.Tensor:
    """Give `modicum.daved.steps.line_search` of many rows at once, (g,)."""
    excess_g = loss_g * leverage_g - score_g
    parallel_g = excess_g <= _PARALLEL * loss_g * leverage_g
    root_g = torch.sqrt(1 + leverage_g * (score_g - loss_g) / excess_g)
    ratio_g = (root_g - 1) / leverage_g
    found_g = (ratio_g / (1 + ratio_g)).clamp_max(ALPHA_MAX)
    found_g = torch.where(parallel_g, ALPHA_MAX * (leverage_g > 1).double(), found_g)
    return torch.where(score_g <= loss_g, 0.0, found_g)


class DeviceRuns:
    """The runs of many buyers, in lockstep.

    Parameters
    ----------
    pool, queries, solvers, backend
        As in `frank_wolfe_on_device`.
    start_dd
        Information at the start, (d, d); by default that of uniform weights, one pass.
    capture
        Steps to come from which on a step is captured as a CUDA graph; None never does.
    """

    @torch.no_grad()
    def __init__(
        self,
        pool: Pool,
        queries: Sequence[np.ndarray],
        solvers: Sequence[FrankWolfe],
        *,
        start_dd: np.ndarray | None = None,
        backend: Backend = "auto",
        capture: int | None = _CAPTURE_FROM,
    ) -> None:
        self.pool, self.solvers, self.backend, self.capture = pool, solvers, backend, capture
        self._take_rows(pool)
        self.most = max(solver.max_iter for solver in solvers)
        refreshes = [solver.refresh for solver in solvers if solver.refresh]
        self.refresh_every = min(refreshes, default=0)
        self.sizes = [len(queries_md) for queries_md in queries]
        if start_dd is None:
            start_dd = start_information(solvers[0], pool)
        whitened = WhitenedInverse(start_dd, np.concatenate(queries))
        self.whiten_dr = self._sent(whitened.whiten_dr)
        self.queries_gmr = self._filled(whitened.queries_mr)
        self.count_g = self._sent(self.sizes)
        self.tol_g = self._sent([solver.tol for solver in solvers])
        self.most_g = self._sent([solver.max_iter for solver in solvers], torch.int64)
        self.step_gt = self._sent(_fixed_steps(solvers, self.most))
        self._start()

    def _take_rows(self, pool: Pool) -> None:
        base, scale_n = unscaled(pool)
        assert isinstance(base, TorchPool)
        self.rows_nd, self.device, self.product_dtype = (
            base.rows_nd,
            base.device,
            base.product_dtype,
        )
        if base.scale_n is not None:
            scale_n = base.scale_n if scale_n is None else scale_n * base.scale_n
        self.scale_n = self._sent(np.ones(base.n) if scale_n is None else scale_n)
        self.factor_n = None if scale_n is None else self.scale_n.square().to(self.product_dtype)

    def _sent(self, values: object, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values), dtype=dtype, device=self.device)

    def _filled(self, queries_mr: np.ndarray) -> torch.Tensor:
        """Give queries by buyer, with zeros where one has fewer than another."""
        filled = np.zeros((len(self.sizes), max(self.sizes), queries_mr.shape[1]))
        parts = np.split(queries_mr, np.cumsum(self.sizes)[:-1])
        for place, part in zip(filled, parts, strict=True):
            place[: len(part)] = part
        return self._sent(filled)

    def _start(self) -> None:
        g, _, r = self.queries_gmr.shape
        slots = self.most + 1

        def zeros(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=self.device)

        self.seen_gmr = self.queries_gmr.clone()
        self.factor_g, self.start_g = zeros(g) + 1, zeros(g) + 1
        self.diagonal_gr = zeros(g, r) + 1
        self.columns_gtr, self.beta_gt = zeros(g, slots, r), zeros(g, slots)
        self.rows_gtr, self.alpha_gt = zeros(g, slots, r), zeros(g, slots)
        self.pick_gt = zeros(g, slots, dtype=torch.int64)
        self.loss_gt, self.gap_gt = zeros(g, slots), zeros(g, slots)
        self.done_g = zeros(g, dtype=torch.int64)
        self.open_g = zeros(g, dtype=torch.bool) | True
        self.halted_g = zeros(g, dtype=torch.bool)
        self.since_refresh = self.passes = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    @torch.no_grad()
    def run(self, on_round: Callable[[int, int], None] | None = None) -> None:
        """Make steps until every buyer is done.

        Parameters
        ----------
        on_round
            As in `frank_wolfe_on_device`.
        """
        count = len(self.sizes)
        while count:
            if on_round is not None:
                on_round(self.passes, count)
            self.advance(self._steps_unseen())
            count, halted = torch.stack([self.open_g.sum(), self.halted_g.sum()]).tolist()
            if halted or (self.refresh_every and self.since_refresh >= self.refresh_every):
                self.refresh()

    def _steps_unseen(self) -> int:
        # One pass after the last step tells that it was the last.
        left = max(1, self.most + 1 - self.passes)
        until_refresh = self.refresh_every - self.since_refresh if self.refresh_every else left
        return min(_STEPS_UNSEEN, left, until_refresh)

    @torch.no_grad()
    def advance(self, steps: int) -> None:
        """Make some steps without looking at what they find."""
        left = self.most - self.passes
        wanted = self.device.type == "cuda" and self.capture is not None and left >= self.capture
        # Something must have run before, so that nothing is compiled or loaded in a capture.
        if wanted and self.graph is None and self.passes:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self._step()
        for _ in range(steps):
            if self.graph is None:
                self._step()
            else:
                self.graph.replay()
        self.passes += steps
        self.since_refresh += steps

    def _step(self) -> None:
        """Make one step of every buyer that is open; nothing here waits for the device."""
        pick_g, row_gd, score_g = self._pick()
        row_gr = row_gd @ self.whiten_dr
        column_gr = self._times(row_gr)
        leverage_g = (row_gr * column_gr).sum(1)
        loss_g = self.losses()
        gap_g = score_g - loss_g
        wanted_g = self.step_gt.gather(1, self.done_g[:, None])[:, 0]
        searched_g = line_search_of(loss_g, score_g, leverage_g)
        wanted_g = torch.where(wanted_g.isnan(), searched_g, wanted_g)
        alpha_g = torch.minimum(wanted_g, 1 - _LEAST_START / self.start_g)
        goes_on_g = (self.done_g < self.most_g) & (gap_g > self.tol_g * loss_g) & (alpha_g > 0)
        # Who waits for a refresh has no scores that can be trusted.
        self.open_g &= goes_on_g | self.halted_g
        moves_g = self.open_g & ~self.halted_g
        alpha_g = torch.where(moves_g, alpha_g, 0.0)
        self._note(pick_g, row_gr * moves_g[:, None], alpha_g, loss_g, gap_g)
        self._follow(column_gr, leverage_g, alpha_g, moves_g)
        self.start_g *= 1 - alpha_g
        self.done_g += moves_g

    def _pick(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give the best row of every buyer, the row itself, (g, d), and its score."""
        directions_gmd = self.seen_gmr @ self.whiten_dr.T
        # Squares of small features would leave the range of single precision.
        largest_g = directions_gmd.abs().amax((1, 2)).clamp_min(torch.finfo(torch.float64).tiny)
        unit_g = largest_g * self.count_g.sqrt()
        value_gb, index_gb = block_best(
            self.rows_nd,
            (directions_gmd / unit_g[:, None, None]).to(self.product_dtype),
            self.factor_n,
            backend=self.backend,
        )
        best_gk = value_gb.topk(min(_CANDIDATES, value_gb.shape[1]), dim=1).indices
        index_gk = index_gb.gather(1, best_gk)
        rows_gkd = self._rows(index_gk)
        score_gk = (rows_gkd @ directions_gmd.mT).square().sum(2) / self.count_g[:, None]
        best_g1 = score_gk.amax(1, keepdim=True)
        is_best_gk = score_gk >= best_g1 - _TIE * best_g1.abs()
        pick_g = torch.where(is_best_gk, index_gk, len(self.rows_nd)).amin(1)
        place_g1 = (index_gk == pick_g[:, None]).to(torch.int8).argmax(1, keepdim=True)
        row_gd = rows_gkd.gather(1, place_g1[:, :, None].expand(-1, 1, rows_gkd.shape[2]))[:, 0]
        return pick_g, row_gd, score_gk.gather(1, place_g1)[:, 0]

    def _rows(self, index_gk: torch.Tensor) -> torch.Tensor:
        """Give scaled rows in float64, (g, k, d)."""
        flat = index_gk.reshape(-1)
        scale_k1 = self.scale_n.index_select(0, flat)[:, None]
        found = self.rows_nd.index_select(0, flat).double() * scale_k1
        return found.view(*index_gk.shape, -1)

    def _times(self, row_gr: torch.Tensor) -> torch.Tensor:
        """Give the inverse times a vector of each buyer."""
        along_gt = (self.columns_gtr @ row_gr[:, :, None])[:, :, 0] * self.beta_gt
        inside_gr = (along_gt[:, None, :] @ self.columns_gtr)[:, 0]
        return self.factor_g[:, None] * (row_gr - inside_gr)

    def losses(self) -> torch.Tensor:
        """Give L of every buyer, (g,)."""
        return (self.queries_gmr * self.seen_gmr).sum((1, 2)) / self.count_g

    def _note(
        self,
        pick_g: torch.Tensor,
        row_gr: torch.Tensor,
        alpha_g: torch.Tensor,
        loss_g: torch.Tensor,
        gap_g: torch.Tensor,
    ) -> None:
        """Write a step down; that of a buyer who does not move is overwritten or never read."""
        for kept_gt, value_g in (
            (self.pick_gt, pick_g),
            (self.alpha_gt, alpha_g),
            (self.loss_gt, loss_g),
            (self.gap_gt, gap_g),
        ):
            kept_gt.scatter_(1, self.done_g[:, None], value_g[:, None])
        self._put(self.rows_gtr, row_gr)

    def _put(self, kept_gtr: torch.Tensor, value_gr: torch.Tensor) -> None:
        slot = self.done_g[:, None, None].expand(-1, 1, value_gr.shape[1])
        kept_gtr.scatter_(1, slot, value_gr[:, None])

    def _follow(
        self,
        column_gr: torch.Tensor,
        leverage_g: torch.Tensor,
        alpha_g: torch.Tensor,
        moves_g: torch.Tensor,
    ) -> None:
        """Follow M to (1 - α) M + α x x'; where rounding forbids it the buyer waits."""
        share_g = alpha_g / (1 - alpha_g + alpha_g * leverage_g)
        left_g = 1 - alpha_g
        changed_gr = share_g[:, None] * column_gr.square()
        diagonal_gr = (self.diagonal_gr - changed_gr) / left_g[:, None]
        followed_g = moves_g & (share_g > 0) & (diagonal_gr.amin(1) > 0)
        self.halted_g |= moves_g & ~followed_g
        share_g = torch.where(followed_g, share_g, 0.0)
        left_g = torch.where(followed_g, left_g, 1.0)
        self.diagonal_gr.copy_(torch.where(followed_g[:, None], diagonal_gr, self.diagonal_gr))
        along_gm1 = self.queries_gmr @ column_gr[:, :, None]
        self.seen_gmr -= share_g[:, None, None] * along_gm1 * column_gr[:, None, :]
        self.seen_gmr /= left_g[:, None, None]
        self._put(self.columns_gtr, column_gr * followed_g[:, None])
        self.beta_gt.scatter_(1, self.done_g[:, None], (share_g / self.factor_g)[:, None])
        self.factor_g /= left_g

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute the inverses anew from the picks and their weights (Woodbury)."""
        weight_gt, start_g = self._weights()
        used_gt = weight_gt > 0
        small_gtt = self.rows_gtr @ self.rows_gtr.mT
        diagonal_gt = torch.where(used_gt, start_g[:, None] / weight_gt, 1.0)
        small_gtt.diagonal(dim1=1, dim2=2).add_(diagonal_gt)
        root_gtt, info_g = torch.linalg.cholesky_ex(small_gtt)
        self.columns_gtr.copy_(torch.linalg.solve_triangular(root_gtt, self.rows_gtr, upper=False))
        self.beta_gt.copy_(used_gt)
        self.factor_g.copy_(1 / start_g)
        inside_gr = self.columns_gtr.square().sum(1)
        self.diagonal_gr.copy_(self.factor_g[:, None] * (1 - inside_gr))
        self.seen_gmr.copy_(self._inverse_times(self.queries_gmr))
        missing_gmr = self._missing(weight_gt, start_g)
        self.seen_gmr += self._inverse_times(missing_gmr)
        self._check_inverse(info_g, self._missing(weight_gt, start_g), start_g)
        self.halted_g.zero_()
        self.since_refresh = 0

    def _weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Give what is left of every step's weight, (g, t), and of the start's, (g,)."""
        left_gt = (1 - self.alpha_gt).flip(1).cumprod(1).flip(1)
        after_gt = torch.nn.functional.pad(left_gt[:, 1:], (0, 1), value=1.0)
        return self.alpha_gt * after_gt, left_gt[:, 0]

    def _inverse_times(self, vectors_gmr: torch.Tensor) -> torch.Tensor:
        along_gmt = (vectors_gmr @ self.columns_gtr.mT) * self.beta_gt[:, None]
        return self.factor_g[:, None, None] * (vectors_gmr - along_gmt @ self.columns_gtr)

    def _missing(self, weight_gt: torch.Tensor, start_g: torch.Tensor) -> torch.Tensor:
        """Give what M P q lacks of q."""
        along_gmt = (self.seen_gmr @ self.rows_gtr.mT) * weight_gt[:, None]
        kept_gmr = start_g[:, None, None] * self.seen_gmr + along_gmt @ self.rows_gtr
        return self.queries_gmr - kept_gmr

    def _check_inverse(
        self, info_g: torch.Tensor, missing_gmr: torch.Tensor, start_g: torch.Tensor
    ) -> None:
        size_g = self.queries_gmr.abs().amax((1, 2)).clamp_min(torch.finfo(torch.float64).tiny)
        error_g = missing_gmr.abs().amax((1, 2)) / size_g
        error_g = torch.where(info_g == 0, error_g, torch.inf)
        worst = int(error_g.argmax())
        error, start = float(error_g[worst]), float(start_g[worst])
        if not error <= _INVERSE_TOLERANCE:
            raise FloatingPointError(
                f"the information matrix of buyer {worst} cannot be inverted in float64 (error "
                f"{error:.1e}, at most {_INVERSE_TOLERANCE:.0e}): the start has {start:.1e} of the "
                "weight; take smaller or fewer steps"
            )

    @torch.no_grad()
    def designs(self) -> list[Design]:
        """Give what was found, once all runs have ended; one pass for the last scores."""
        if self.refresh_every and self.since_refresh:
            self.refresh()
        losses = self.losses().tolist()
        directions_gmd = (self.seen_gmr @ self.whiten_dr.T).cpu().numpy()
        at_once = max(1, _SCORES_AT_ONCE // self.pool.n)
        found: list[Design] = []
        for start in range(0, len(self.sizes), at_once):
            sizes = self.sizes[start : start + at_once]
            parts = directions_gmd[start : start + at_once]
            columns_dk = np.concatenate(
                [part_md[:size] for part_md, size in zip(parts, sizes, strict=True)]
            ).T
            for number, scores_n in enumerate(grouped_scores(self.pool, columns_dk, sizes), start):
                # A copy, so that a design does not keep the scores of all others.
                found.append(self._design(number, losses[number], scores_n.copy()))
        return found

    def _design(self, number: int, loss: float, scores_n: np.ndarray) -> Design:
        history = self._history(number)
        weights = SparseWeights(self.pool.n)
        for step in history:
            weights.move(step.pick, step.step_size)
        gap = float(scores_n.max()) - loss
        return Design(
            weights=weights.dense(),
            objective=loss,
            gap=gap,
            scores=scores_n,
            inverse=self._inverse(number),
            picks=np.array([step.pick for step in history], dtype=np.int64),
            history=history,
            floor=weights.floor,
            converged=bool(gap <= self.solvers[number].tol * loss),
        )

    def _history(self, number: int) -> tuple[Step, ...]:
        done = int(self.done_g[number])
        columns = (
            kept_gt[number, :done].tolist()
            for kept_gt in (self.loss_gt, self.gap_gt, self.pick_gt, self.alpha_gt)
        )
        return tuple(Step(at, *values) for at, values in enumerate(zip(*columns, strict=True)))

    def _inverse(self, number: int) -> np.ndarray:
        """Give the inverse of one buyer in the coordinates of the features, (d, d)."""
        columns_tr, beta_t = self.columns_gtr[number], self.beta_gt[number]
        columns_td = columns_tr @ self.whiten_dr.T
        inside_dd = columns_td.T @ (beta_t[:, None] * columns_td)
        found_dd = self.factor_g[number] * (self.whiten_dr @ self.whiten_dr.T - inside_dd)
        return found_dd.cpu().numpy()


def _fixed_steps(solvers: Sequence[FrankWolfe], most: int) -> np.ndarray:
    """Give the step sizes that are known before, (g, t); nan where they are searched for."""
    found_gt = np.full((len(solvers), most + 1), np.nan)
    for steps_t, solver in zip(found_gt, solvers, strict=True):
        if solver.rule is not line_search:
            steps_t[:] = [solver.rule(np.nan, np.nan, np.nan, at) for at in range(most + 1)]
    return found_gt
