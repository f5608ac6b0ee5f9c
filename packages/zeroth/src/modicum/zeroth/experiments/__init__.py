"""What the package claims, as experiments that anybody can run (``modicum demo zeroth``).

`EXPERIMENTS` lists them; importing it loads none of the code that runs them. A new experiment is a
new module with a function ``run(ctx) -> Result`` and a line in the list.
"""

from importlib import import_module
from importlib.util import find_spec

from modicum.core.experiment import Experiment, Result, RunContext

PACKAGE = "modicum-zeroth"


def _experiment(name: str, title: str, summary: str, *, networks: bool = False) -> Experiment:
    def run(ctx: RunContext) -> Result:
        if networks and find_spec("torch") is None:
            raise ImportError(f'{name} needs torch: pip install "{PACKAGE}[torch]"')
        return import_module(f"{__name__}.{name}").run(ctx)

    return Experiment(name, PACKAGE, title, summary, run)


EXPERIMENTS = [
    _experiment(
        "two_stage_rate",
        "Regret against the budget, constants known",
        "The two-stage algorithm's simple regret falls as T^(-2/3).",
    ),
    _experiment(
        "dimension",
        "Regret against the dimension",
        "Random directions on a sphere against coordinate differences, each at its best radius.",
    ),
    _experiment(
        "radius_curve",
        "What a wrong radius costs",
        "Regret of the gradient estimator over sampling radii, beside the formula.",
    ),
    _experiment(
        "adaptive_rate",
        "Regret against the budget, nothing known",
        "The default method with and without the constants, beside the predicted regret.",
    ),
    _experiment(
        "scaling_laws",
        "Regret against noise and curvature change",
        "Exponents in the noise level and in the Lipschitz constant of the Hessian.",
    ),
    _experiment(
        "far_start",
        "Starts far away, curvature without bound",
        "Nothing diverges and a far start costs little.",
    ),
    _experiment(
        "lower_bound",
        "The hardest instance",
        "Regret on the instance of the lower bound, between the two bounds.",
    ),
    _experiment(
        "baselines",
        "Beside streaming methods",
        "The default method against stochastic-gradient and SPSA baselines at equal budget.",
    ),
    _experiment(
        "fine_tuning",
        "Fine-tuning without gradients",
        "A small transformer: radius, paired batches, and replay of the weights from seeds.",
        networks=True,
    ),
    _experiment(
        "device_batch",
        "A million mini-batch evaluations in tensors",
        "Logistic regression with mini-batch noise, evaluated in one call per round.",
        networks=True,
    ),
]
