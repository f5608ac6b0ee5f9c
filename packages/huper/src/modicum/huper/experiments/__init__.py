"""What the package claims, as experiments that anybody can run (``modicum demo huper``).

`EXPERIMENTS` lists them; importing it loads none of the code that runs them. A new experiment is a
new module with a function ``run(ctx) -> Result`` and a line in the list.
"""

from importlib import import_module
from importlib.util import find_spec

from modicum.core.experiment import Experiment, Result, RunContext

PACKAGE = "modicum-huper"


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
        "decoder",
        "The decoder is exact, and what that costs",
        "Best paths and posteriors beside enumeration, the batch beside single utterances, and"
        " throughput beside forced alignment.",
    ),
    _experiment(
        "labels",
        "Labels of ear and dictionary together, beside either alone",
        "Error of labels by what they are made of, and of the networks that learn from them, over"
        " worlds of synthetic speech.",
    ),
    _experiment(
        "doubly_robust",
        "The doubly robust risk has two ways to be right",
        "Estimates beside exact means, and recognizers where mostly one kind of speaker was"
        " labelled.",
    ),
    _experiment(
        "languages",
        "Languages that the networks have never heard",
        "Feature error of networks of realized, canonical and few labels on languages that"
        " espeak-ng speaks, beside fresh weights and an empty answer.",
        needs=("panphon",),
        extras="panphon",
    ),
    _experiment(
        "routing",
        "Whether to trust the ear or the text",
        "Error of the ear, the dictionary, both joined and calibrated rules over noise, rooms and"
        " codecs, with right and with wrong texts.",
    ),
    _experiment(
        "pronunciation",
        "Errors of learners among the reductions of native speakers",
        "Log-odds against what native speakers do beside the goodness of pronunciation: area under"
        " the ROC, false alarms, and flaps that are flagged.",
    ),
    _experiment(
        "architecture",
        "Real architectures through the whole pipeline",
        "Batches beside single recordings, files and public vocabularies for models of five"
        " architectures, and utterances learnt by heart; all with random weights.",
        needs=("transformers", "accelerate"),
        extras="transformers,train",
    ),
]
