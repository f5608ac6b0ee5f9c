"""A SAT solver with a deadline, and counting constraints for it, by PySAT.

Takes clauses of positive and negative integers as in DIMACS. Knows of no circuits. PySAT is
imported on the first use.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

__all__ = ["SOLVER", "SatSolver"]

SOLVER = "glucose4"
"""The default solver of PySAT: it takes further clauses between calls, and stops on a budget."""

CONFLICTS_PER_LOOK = 1000
"""Conflicts between two looks at the clock: some tens of milliseconds."""


class SatSolver:
    """An incremental SAT solver; use it as a context manager or call `close`.

    Parameters
    ----------
    name
        Name of a PySAT solver that supports budgets of conflicts.

    Attributes
    ----------
    true : int
        A variable that is true in every model.

    Raises
    ------
    ImportError
        If PySAT is not installed.
    """

    def __init__(self, name: str = SOLVER):
        try:
            from pysat.solvers import Solver
        except ImportError as error:
            raise ImportError(
                'exact synthesis needs PySAT: pip install "modicum-repcomplexity[sat]"'
            ) from error
        self._solver: Any = Solver(name)
        self.n_variables = 0
        self.true = self.new_variable()
        self.add(self.true)

    def new_variable(self) -> int:
        """Return a variable that was not used before."""
        self.n_variables += 1
        return self.n_variables

    def new_variables(self, count: int) -> list[int]:
        """Return several new variables."""
        return [self.new_variable() for _ in range(count)]

    def add(self, *literals: int) -> None:
        """Add one clause."""
        self._solver.add_clause(literals)

    def solve(self, assumptions: Iterable[int] = (), deadline: float | None = None) -> bool | None:
        """Look for a model.

        Parameters
        ----------
        assumptions
            Literals that hold during this call only.
        deadline
            Value of ``time.monotonic()`` at which to give up; None for never.

        Returns
        -------
        bool or None
            Whether there is a model; None if time ran out.
        """
        assumptions = list(assumptions)
        if deadline is None:
            return bool(self._solver.solve(assumptions=assumptions))
        while time.monotonic() < deadline:
            self._solver.conf_budget(CONFLICTS_PER_LOOK)
            answer = self._solver.solve_limited(assumptions=assumptions)
            if answer is not None:
                return bool(answer)
        return None

    def true_variables(self) -> set[int]:
        """Return the variables that are true in the model that was found."""
        return {literal for literal in self._solver.get_model() if literal > 0}

    def totalizer(self, literals: Sequence[int]) -> list[int]:
        """Add clauses that count literals.

        Parameters
        ----------
        literals
            What to count.

        Returns
        -------
        list of int
            Variables; number k is true if more than k literals are. To assume the negation of
            number k allows at most k of them.

        References
        ----------
        O. Bailleux, Y. Boufkhad, "Efficient CNF encoding of Boolean cardinality constraints", CP
        2003.
        """
        if not literals:
            return []
        from pysat.card import ITotalizer

        counter = ITotalizer(lits=list(literals), ubound=len(literals), top_id=self.n_variables)
        try:
            for clause in counter.cnf.clauses:
                self.add(*clause)
            self.n_variables = max(self.n_variables, counter.top_id)
            return list(counter.rhs)
        finally:
            counter.delete()

    def close(self) -> None:
        """Free the solver's memory."""
        self._solver.delete()

    def __enter__(self) -> SatSolver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
