"""The methods of this package as a sampler of Optuna, for float parameters.

`ZerothSampler` gives the trials of a study the points of a method and hands their values back. It
knows no more than the study's storage does: the run is written there (seed, search space), and
every trial carries the identity of its point, so a study that is loaded from a storage goes on
where it was, and several threads or processes may work on it. Parameters that are not floats are
drawn by another sampler.

The point to use is `ZerothSampler.recommendation`; ``study.best_params`` is the luckiest of many
noisy values.
"""

from __future__ import annotations

import contextlib
import math
import threading
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from modicum.zeroth.arguments import integer, positive
from modicum.zeroth.candidates import Candidate
from modicum.zeroth.errors import ZerothWarning
from modicum.zeroth.integrations._methods import make_optimizer
from modicum.zeroth.integrations._turns import Turns
from modicum.zeroth.minimize import method_class
from modicum.zeroth.optimizer import Optimizer
from modicum.zeroth.result import optimize_result

try:
    import optuna
    from optuna.distributions import (
        BaseDistribution,
        FloatDistribution,
        distribution_to_json,
        json_to_distribution,
    )
    from optuna.study import Study, StudyDirection
    from optuna.trial import FrozenTrial, TrialState
except ImportError as error:
    raise ImportError(
        'a sampler for Optuna needs it: pip install "modicum-zeroth[optuna]"'
    ) from error

__all__ = ["ZerothSampler"]

_RUN = "modicum-zeroth:run"
_POINT = "modicum-zeroth:point"
_LATE = "modicum-zeroth:late"
_SEEDS = 2**31
DEFAULT_SCALE = 1 / 6  # as the standard deviation with which Optuna's own CmaEsSampler begins
DEFAULT_RETRIES = 2


class ZerothSampler(optuna.samplers.BaseSampler):  # type: ignore[misc]
    """A method for noisy functions as a sampler of Optuna.

    Parameters
    ----------
    budget
        Number of trials the run has, failed and repeated ones included; ``study.optimize`` stops by
        itself when they are spent. With `search_space` all of them are the method's; without, the
        first trial, at `x0`, finds out what the parameters are (with ``n_jobs`` above 1, as many
        trials do, and come on top).
    scale
        How far the best value of each parameter may be from `x0`, as a share of the parameter's
        range (of its logarithm, for log distributions): a number, or one per parameter by name.
    search_space
        Distributions of the float parameters by name; None takes those of the first trial.
    x0
        Where the search begins, by name; default: the middle of each range.
    seed
        Seed of the run; None draws one. It is kept in the study.
    noise
        Standard deviation of one value, if known.
    method
        Name or class of the method.
    retries
        How often the point of a failed trial is tried again before its pair is given up.
    consider_pruned_trials
        Whether the last intermediate value of a pruned trial counts as its value. If not, pruned
        trials are lost pairs; pruning by noisy values is better left off
        (``optuna.pruners.NopPruner``).
    independent_sampler
        For all other parameters; default: `optuna.samplers.RandomSampler`.
    warn_independent_sampling
        Whether to say so when it is used.
    options
        Further arguments of the method by name; known constants refer to coordinates in which every
        parameter's range is from 0 to 1.

    Notes
    -----
    The recommendation becomes a trial of the study by
    ``study.add_trial(sampler.recommended_trial(study))``, with the value that the method's model
    gives it, or by ``study.enqueue_trial(sampler.recommendation(study))``, evaluated afresh.

    While a round is finished off, further workers measure points a second time; such trials count
    in the budget. Two processes that share a storage may at times begin the same point.
    """

    def __init__(
        self,
        budget: int,
        scale: float | Mapping[str, float] = DEFAULT_SCALE,
        *,
        search_space: Mapping[str, BaseDistribution] | None = None,
        x0: Mapping[str, float] | None = None,
        seed: int | None = None,
        noise: float | None = None,
        method: str | type[Optimizer] = "adaptive",
        retries: int = DEFAULT_RETRIES,
        consider_pruned_trials: bool = False,
        independent_sampler: optuna.samplers.BaseSampler | None = None,
        warn_independent_sampling: bool = True,
        **options: Any,
    ) -> None:
        self._budget = integer("budget", budget)
        self._scale = (
            {name: positive("scale", value) for name, value in scale.items()}
            if isinstance(scale, Mapping)
            else positive("scale", scale)
        )
        self._search_space = None if search_space is None else _float_space(search_space)
        self._x0 = {name: float(value) for name, value in (x0 or {}).items()}
        self._seed = None if seed is None else integer("seed", seed, least=0)
        self._retries = integer("retries", retries, least=0)
        self._consider_pruned_trials = consider_pruned_trials
        self._independent_sampler = independent_sampler or optuna.samplers.RandomSampler(seed=seed)
        self._warn_independent_sampling = warn_independent_sampling
        method_class(method)  # refuses what is none
        self._options = {"noise": noise, "method": method, **options}
        self._warned: set[str] = set()
        self._runs: dict[str, _Run] = {}
        self._lock = threading.RLock()
        if self._search_space is not None:
            self._make(self._search_space, seed=0)  # what is wrong with the settings is said now

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is made anew from a study's storage."""
        return self.__dict__ | {"_lock": None, "_runs": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    # What a user asks ---------------------------------------------------------------------------

    def recommendation(self, study: Study) -> dict[str, float]:
        """Give the values to use, by the method's model.

        Parameters
        ----------
        study
            The study, finished or not.

        Returns
        -------
        dict
            Float parameters by name. Others have no recommendation.

        Raises
        ------
        RuntimeError
            If no trial has been finished yet.
        """
        with self._lock:
            run = self._synced(study)
            return run.recommended()

    def recommended_trial(self, study: Study) -> FrozenTrial:
        """Give the recommendation as a trial that can be added to the study.

        Parameters
        ----------
        study
            The study.

        Returns
        -------
        optuna.trial.FrozenTrial
            With the model's value, and its standard deviation and the predicted regret among the
            user's attributes; for ``study.add_trial``.

        Raises
        ------
        RuntimeError
            If no round of the method is finished yet.
        """
        with self._lock:
            run = self._synced(study)
            found = run.turns.current().recommendation()
            if not math.isfinite(found.fun):
                raise RuntimeError("no round is finished yet, so the model has no value to give")
            return optuna.create_trial(
                params=run.params(found.x),
                distributions=dict(run.space),
                value=run.sign * found.fun,
                user_attrs={
                    "modicum-zeroth:recommendation": True,
                    "modicum-zeroth:value_std": float(found.fun_std),
                    "modicum-zeroth:predicted_regret": float(found.predicted_regret),
                },
            )

    def result(self, study: Study) -> Any:
        """Give everything the method knows, in coordinates in which ranges are from 0 to 1.

        Parameters
        ----------
        study
            The study.

        Returns
        -------
        scipy.optimize.OptimizeResult
            With the parameters' values by name as ``params``.
        """
        with self._lock:
            run = self._synced(study)
            found = optimize_result(run.turns.current(), maximize=run.sign < 0)
            found["params"] = run.params(found.x)
            return found

    # What Optuna asks ---------------------------------------------------------------------------

    def reseed_rng(self) -> None:
        """Reseed the sampler of the other parameters; the run keeps its seed."""
        self._independent_sampler.reseed_rng()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Give the float parameters, none before they are known."""
        self._raise_error_if_multi_objective(study)
        with self._lock:
            run = self._run(study)
            return {} if run is None else dict(run.space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Give the next point of the method."""
        if not search_space:
            return {}
        fixed = trial.system_attrs.get("fixed_params", {})
        with self._lock:
            run = self._synced(study)
            if search_space.keys() != run.space.keys():
                return {}  # another sampler stands in between and keeps some parameters to itself
            candidate = None if fixed.keys() & search_space.keys() else run.next(trial.number)
            if candidate is None:
                return run.recommended()
            study._storage.set_trial_system_attr(trial._trial_id, _POINT, candidate.id)
            return run.params(candidate.x)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Give the value of a parameter that the method does not search."""
        if _is_searchable(param_distribution):
            with self._lock:
                if self._run(study) is None:
                    share = self._x0_share(param_name, param_distribution)
                    return _Axis(param_distribution).value(share)
        self._say(
            param_name,
            f"the parameter {param_name!r} ({param_distribution}) is drawn by"
            f" {type(self._independent_sampler).__name__}, and the method takes what that does to"
            " the values for noise: the method searches float parameters without step that every"
            " trial has; fix it, or say warn_independent_sampling=False if this is meant",
        )
        return self._independent_sampler.sample_independent(
            study, trial, param_name, param_distribution
        )

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Pass on to the sampler of the other parameters."""
        self._independent_sampler.before_trial(study, trial)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Take the value of a trial, and stop the study when the budget is spent."""
        self._independent_sampler.after_trial(study, trial, state, values)
        with self._lock:
            run = self._run(study)
            number = trial.system_attrs.get(_POINT)
            if run is None or number is None:
                return
            if state == TrialState.PRUNED and not self._consider_pruned_trials:
                self._say(
                    "",
                    "a pruned trial is a lost pair to the method; leave pruning off, or say"
                    " consider_pruned_trials=True",
                )
            if not run.take(number, state, values, trial.params):
                study._storage.set_trial_system_attr(trial._trial_id, _LATE, True)
            done = run.turns.done
        if done and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            # Where trials are asked and told by hand there is no loop to leave.
            with contextlib.suppress(RuntimeError):
                study.stop()

    # Runs ---------------------------------------------------------------------------------------

    def _say(self, key: str, message: str) -> None:
        if key not in self._warned and (self._warn_independent_sampling or not key):
            self._warned.add(key)
            warnings.warn(message, ZerothWarning, stacklevel=2)

    def _x0_share(self, name: str, distribution: BaseDistribution) -> float:
        return _Axis(distribution).share(self._x0[name]) if name in self._x0 else 0.5

    def _synced(self, study: Study) -> _Run:
        """Give the run of a study with everything that its storage knows."""
        run = self._run(study)
        if run is None:
            raise RuntimeError(
                "no trial of the study is finished yet, so there is no run to speak of"
            )
        run.sync(study)
        return run

    def _run(self, study: Study) -> _Run | None:
        """Give the run of a study, None as long as its parameters are not known."""
        run = self._runs.get(study.study_name)
        if run is None:
            recorded = study._storage.get_study_system_attrs(study._study_id).get(_RUN)
            if recorded is None:
                space = self._search_space or _first_space(study)
                if space is None:
                    return None
                recorded = self._record(study, space)
            run = self._resume(study, recorded)
            self._runs[study.study_name] = run
        return run

    def _record(self, study: Study, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
        drawn = int(np.random.default_rng().integers(_SEEDS))
        recorded = {
            "seed": drawn if self._seed is None else self._seed,
            "space": {name: distribution_to_json(entry) for name, entry in space.items()},
            "settings": self._settings(),
        }
        study._storage.set_study_system_attr(study._study_id, _RUN, recorded)
        return recorded

    def _settings(self) -> dict[str, Any]:
        """Give what the course of a run depends on besides its seed and space, JSON-ready."""
        return {
            "budget": self._budget,
            "scale": self._scale,
            "x0": self._x0,
            "retries": self._retries,
            "consider_pruned_trials": self._consider_pruned_trials,
            "options": {
                name: getattr(value, "__qualname__", repr(value))
                for name, value in self._options.items()
            },
        }

    def _resume(self, study: Study, recorded: Mapping[str, Any]) -> _Run:
        settings = self._settings()
        if self._seed is not None:
            settings["seed"] = self._seed
        theirs = recorded["settings"] | {"seed": recorded["seed"]}
        for name, value in settings.items():
            if theirs[name] != value:
                raise ValueError(
                    f"the study {study.study_name!r} was begun with {name} = {theirs[name]!r}, this"
                    f" sampler has {value!r}; give the sampler the same settings"
                )
        space = {name: json_to_distribution(text) for name, text in recorded["space"].items()}
        turns = self._make(space, recorded["seed"])
        sign = 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0
        return _Run(turns, space, sign, self._retries, self._consider_pruned_trials)

    def _make(self, space: Mapping[str, BaseDistribution], seed: int) -> Turns:
        """Make the method of a run; its coordinates are shares of the parameters' ranges."""
        for what, given in (("x0", self._x0), ("scale", self._scale)):
            if isinstance(given, Mapping) and (unknown := given.keys() - space.keys()):
                raise ValueError(
                    f"{what} has {', '.join(sorted(unknown))}; the float parameters are"
                    f" {', '.join(space)}"
                )
        if isinstance(self._scale, Mapping):
            scale = np.array([self._scale.get(name, DEFAULT_SCALE) for name in space])
        else:
            scale = np.full(len(space), self._scale)
        options = dict(self._options)
        optimizer = make_optimizer(
            options.pop("method"),
            np.array([self._x0_share(name, entry) for name, entry in space.items()]),
            self._budget - (self._search_space is None),
            scale=scale * math.sqrt(len(space)),
            bounds=[(0.0, 1.0)] * len(space),
            rng=seed,
            **options,
        )
        return Turns(optimizer)


class _Value(NamedTuple):
    """A trial's value in the method's sign, and where it was measured."""

    number: float
    params: dict[str, Any]


class _Run:
    """The run of one study in this process; everything it knows stands in the storage as well.

    A point may be begun by several trials: again after a failure, or by a worker that had to wait.
    Of their values the first counts; trials whose value came too late say so in the storage, so
    that the run is the same when it is made anew from there.
    """

    def __init__(
        self,
        turns: Turns,
        space: Mapping[str, BaseDistribution],
        sign: float,
        retries: int,
        consider_pruned: bool,
    ) -> None:
        self.turns = turns
        self.space = space
        self.sign = sign
        self._retries = retries
        self._consider_pruned = consider_pruned
        self._axes = [_Axis(distribution) for distribution in space.values()]
        self._mine: set[int] = set()  # numbers of trials that this process began
        self._watched: dict[int, bool] = {}  # unfinished trials of others: is their point known?
        self._seen = 0
        # By point, what was heard and waits for its round: trials begun, values, failures.
        self._new_begun: Counter[int] = Counter()
        self._new_values: dict[int, _Value] = {}
        self._new_failures: Counter[int] = Counter()
        # By point, what was taken over.
        self._begun: Counter[int] = Counter()
        self._failures: Counter[int] = Counter()
        self._told: set[int] = set()
        self._again: list[int] = []

    def params(self, x: Any) -> dict[str, float]:
        """Give a point as values of the parameters."""
        shares = np.asarray(x).tolist()
        return {
            name: axis.value(share)
            for name, axis, share in zip(self.space, self._axes, shares, strict=True)
        }

    def recommended(self) -> dict[str, float]:
        """Give the values to use."""
        return self.params(self.turns.current().recommendation().x)

    def next(self, trial_number: int) -> Candidate | None:
        """Hand out a point, first those that failed; None if there is none for this trial."""
        candidate = self._next_failed() or self.turns.next()
        if candidate is not None:
            self._mine.add(trial_number)
            self._begun[candidate.id] += 1
        return candidate

    def _next_failed(self) -> Candidate | None:
        while self._again:
            number = self._again.pop(0)
            if number not in self.turns or number in self._told or self._is_under_way(number):
                continue
            if (candidate := self.turns.again(number)) is not None:
                return candidate
            self._tell(number, math.nan)  # the budget has no room to try it again
        return None

    def _is_under_way(self, number: int) -> bool:
        return self._begun[number] > self._failures[number]

    def take(
        self, number: int, state: TrialState, values: Sequence[float] | None, params: dict[str, Any]
    ) -> bool:
        """Take what came of a trial; say whether it is in time."""
        if number not in self.turns or number in self._told:
            return False
        self._hear(number, state, values, params)
        self._advance()
        return True

    def sync(self, study: Study) -> None:
        """Take over what other processes, or an earlier one, have done."""
        # Whatever part of the study a pruner shows: numbers are places in the list of all trials.
        trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
        for number in [*self._watched, *range(self._seen, len(trials))]:
            if number in self._mine:
                self._watched.pop(number, None)
            else:
                self._look(trials[number])
        self._seen = len(trials)
        self._advance()

    def _look(self, trial: FrozenTrial) -> None:
        """Take down how far a trial of another process is."""
        number = trial.system_attrs.get(_POINT)
        if number is not None and not self._watched.get(trial.number):
            self._new_begun[number] += 1
        if not trial.state.is_finished():
            self._watched[trial.number] = number is not None
            return
        self._watched.pop(trial.number, None)
        if number is not None and _LATE not in trial.system_attrs:
            self._hear(number, trial.state, trial.values, trial.params)

    def _hear(
        self, number: int, state: TrialState, values: Sequence[float] | None, params: dict[str, Any]
    ) -> None:
        """Take down a value or a failure until its round is open."""
        counts = state == TrialState.COMPLETE or (
            state == TrialState.PRUNED and self._consider_pruned
        )
        if counts and values is not None and math.isfinite(values[0]):
            self._new_values.setdefault(number, _Value(self.sign * values[0], params))
        elif state == TrialState.PRUNED:
            self._new_failures[number] += self._retries + 1  # it would be pruned again
        else:
            self._new_failures[number] += 1

    def _advance(self) -> None:
        """Tell the method what there is for the open round, then for the one after it, and so on.

        Values come before failures: a point that has both had its value in time.
        """
        while True:
            closed = self.turns.optimizer.nit
            for number in self._of_round(self._new_begun):
                self._begin(number, self._new_begun.pop(number))
            for number in self._of_round(self._new_values):
                self._take_value(number, self._new_values.pop(number))
            if self.turns.optimizer.nit == closed:
                for number in self._of_round(self._new_failures):
                    self._take_failures(number, self._new_failures.pop(number))
            if self.turns.optimizer.nit == closed:
                return

    def _of_round(self, heard: Mapping[int, Any]) -> list[int]:
        return [number for number in heard if number in self.turns]

    def _begin(self, number: int, count: int) -> None:
        for _ in range(count):
            if self._begun[number]:
                self.turns.again(number)
            else:
                self.turns.note(number)
            self._begun[number] += 1

    def _take_value(self, number: int, value: _Value) -> None:
        if number not in self.turns or number in self._told:
            return
        asked = self.params(self.turns.point(number))
        if any(value.params.get(name, asked[name]) != asked[name] for name in asked):
            self._take_failures(number, 1)  # measured elsewhere, with bounds of its own
        else:
            self._tell(number, value.number)

    def _take_failures(self, number: int, count: int) -> None:
        if number not in self.turns or number in self._told:
            return
        self._failures[number] += count
        if self._is_under_way(number) and self._failures[number] <= self._retries:
            return
        if self._failures[number] > self._retries or not self.turns.room:
            self._tell(number, math.nan)
        else:
            self._again.append(number)

    def _tell(self, number: int, value: float) -> None:
        self._told.add(number)
        self.turns.tell(number, value)


class _Axis:
    """A float parameter between its values and shares of its range."""

    def __init__(self, distribution: BaseDistribution) -> None:
        self._low, self._high = distribution.low, distribution.high
        self._log = distribution.log

    def value(self, share: float) -> float:
        """Give the value at a share of the range."""
        if self._log:
            low, high = math.log(self._low), math.log(self._high)
            value = math.exp(low + share * (high - low))
        else:
            value = self._low + share * (self._high - self._low)
        return min(max(value, self._low), self._high)

    def share(self, value: float) -> float:
        """Give the share of the range at which a value lies.

        Raises
        ------
        ValueError
            If it lies outside.
        """
        if not self._low <= value <= self._high:
            raise ValueError(f"x0 must lie between {self._low} and {self._high}, not at {value!r}")
        if self._log:
            return math.log(value / self._low) / math.log(self._high / self._low)
        share: float = (value - self._low) / (self._high - self._low)
        return share


def _is_searchable(distribution: BaseDistribution) -> bool:
    return (
        isinstance(distribution, FloatDistribution)
        and distribution.step is None
        and not distribution.single()
    )


def _float_space(space: Mapping[str, BaseDistribution]) -> dict[str, BaseDistribution]:
    for name, distribution in space.items():
        if not _is_searchable(distribution):
            raise ValueError(
                f"search_space: {name!r} is {distribution}; the method searches float parameters"
                " without step whose range is not a single value"
            )
    if not space:
        raise ValueError("search_space is empty")
    return dict(sorted(space.items()))


def _first_space(study: Study) -> dict[str, BaseDistribution] | None:
    """Give the float parameters of the first finished trial; None if there is none yet."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        found = {
            name: distribution
            for name, distribution in trial.distributions.items()
            if _is_searchable(distribution)
        }
        if found:
            return _float_space(found)
    return None
