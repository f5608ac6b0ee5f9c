"""What the package claims, as experiments that anybody can run (``modicum demo repcomplexity``).

`EXPERIMENTS` lists them; importing it loads none of the code that runs them. A new experiment is a
new module with a function ``run(ctx) -> Result`` and a line in the list.
"""

from importlib import import_module
from importlib.util import find_spec

from modicum.core.experiment import Experiment, Result, RunContext

PACKAGE = "modicum-repcomplexity"


def _experiment(
    name: str, title: str, summary: str, *, needs: tuple[str, ...] = (), extras: str = ""
) -> Experiment:
    """Make the experiment of the module `name`; `extras` bring the modules that it `needs`."""

    def run(ctx: RunContext) -> Result:
        missing = [module for module in needs if find_spec(module) is None]
        if missing:
            raise ImportError(
                f'{name} needs {" and ".join(missing)}: pip install "{PACKAGE}[{extras}]"'
            )
        return import_module(f"{__name__}.{name}").run(ctx)

    return Experiment(name, PACKAGE, title, summary, run)


EXPERIMENTS = [
    _experiment(
        "separation",
        "Exact sizes of model and optimal Q-function",
        "Minimal DNF, constant-depth circuits, influence and spectrum of the Majority and Parity"
        " MDPs, over n; and what does not separate them.",
    ),
    _experiment(
        "closed_form",
        "Closed forms beside dynamic programming",
        "Optimal values by formula and by backward induction, equal on every state.",
    ),
    _experiment(
        "trees",
        "What regression trees learn of the model and of the optimal Q-function",
        "Error on held-out rows over the number of leaves, for 8, 16 and 32 bits.",
        needs=("sklearn",),
        extras="trees",
    ),
    _experiment(
        "networks",
        "What small networks learn of the model and of the optimal Q-function",
        "Equal networks, data and steps; and the network that represents Q exactly.",
        needs=("torch",),
        extras="torch",
    ),
    _experiment(
        "metric_audit",
        "What units and offsets do to published error measures",
        "Fixed predictions, rescaled and shifted targets: which metrics move.",
    ),
    _experiment(
        "mujoco",
        "Transition, reward and Q-function of MuJoCo's robots",
        "Experts, one set of rows, small networks; published metrics beside scale-free ones.",
        needs=("torch", "gymnasium", "mujoco", "stable_baselines3"),
        extras="mujoco,sb3",
    ),
    _experiment(
        "sample_efficiency",
        "Does representation complexity predict sample efficiency?",
        "Fitted Q-iteration beside planning in a learned model, over the number of samples.",
        needs=("torch",),
        extras="torch",
    ),
    _experiment(
        "controls",
        "Negative controls of the report",
        "An MDP whose Q-function is the easy part, and random MDPs without a gap.",
    ),
]
