"""What the package claims, as experiments that anybody can run (``modicum demo testtime``).

`EXPERIMENTS` lists them; importing it loads none of the code that runs them. A new experiment is a
new module with a function ``run(ctx) -> Result`` and a line in the list.
"""

from importlib import import_module
from importlib.util import find_spec

from modicum.core.experiment import Experiment, Result, RunContext

PACKAGE = "modicum-testtime"


def _experiment(name: str, title: str, summary: str, *, networks: bool = False) -> Experiment:
    def run(ctx: RunContext) -> Result:
        if networks and (find_spec("torch") is None or find_spec("safetensors") is None):
            raise ImportError(f'{name} has networks: pip install "{PACKAGE}[torch]"')
        return import_module(f"{__name__}.{name}").run(ctx)

    return Experiment(name, PACKAGE, title, summary, run)


EXPERIMENTS = [
    _experiment(
        "separation",
        "Samples against the gap",
        "Votes need 1/gap^2 samples, a perfect verifier 1/gap, each on its worst instance.",
    ),
    _experiment(
        "stopping_validity",
        "Stopping rules under peeking",
        "How often each rule declares a wrong answer, and what its guarantee costs in samples.",
    ),
    _experiment(
        "order_bias",
        "Stopping on completion order",
        "What happens to the vote when wrong answers finish first.",
    ),
    _experiment(
        "noisy_verifier",
        "Best-of-n with a verifier that errs",
        "Exact accuracy, its plateau, and where votes overtake.",
    ),
    _experiment(
        "controllers",
        "Controllers of self-correction",
        "Rounds, regret and memory of controllers against the bounds.",
    ),
    _experiment(
        "glue",
        "One transformer that runs the controller",
        "Experts glued into one network, held to the experts and to the algorithm step by step.",
        networks=True,
    ),
    _experiment(
        "self_correcting_transformer",
        "A small transformer that corrects itself",
        "Dependent attempts against independent ones, with what happens without feedback.",
        networks=True,
    ),
    _experiment(
        "three_sat",
        "Copy or reverse by satisfiability",
        "The published synthetic task: first attempt and one correction.",
        networks=True,
    ),
]
