"""Arguments and options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

KeyFile = Annotated[Path, typer.Option(help="File that holds the secret key; see keygen.")]
Record = Annotated[Path, typer.Option(help="Watermark record (JSON) with all parameters.")]
Tokenizer = Annotated[str, typer.Option(help="Folder of a tokenizer, or 'tiny'.")]
Surrogate = Annotated[
    str | None,
    typer.Option(
        help="Model asked at detection: 'none', 'uniform', 'tiny' (a smaller relative of the tiny "
        "model), an n-gram file, a model's folder, or 'self': the model beside the tokenizer, "
        "which reads everything before a token. Never makes a p-value wrong. By default 'none', "
        "or 'tiny' where the record needs one.",
    ),
]
Window = Annotated[int, typer.Option(help="Tokens that a surrogate other than 'self' reads.")]
Prompt = Annotated[
    str | None, typer.Option(help="Prompt that the surrogate reads in front ('self' or a folder).")
]
Temperature = Annotated[float, typer.Option(help="Temperature of the generation.")]
TopP = Annotated[float, typer.Option(help="Nucleus mass of the generation.")]
StatisticName = Annotated[
    str, typer.Option("--statistic", help="'auto', 'sum', 'combined', 'weighted-pivot', …")
]
Weights = Annotated[
    str | None, typer.Option(help="Weights of the statistic: one number, or two with a comma.")
]
Calibration = Annotated[Path | None, typer.Option(help="Table of 'learned' (.npz); see calibrate.")]
Logprobs = Annotated[
    Path | None,
    typer.Option(
        help="JSON lines with the log-probability of every token, in place of a surrogate."
    ),
]
Skip = Annotated[int, typer.Option(help="Tokens of the log-probabilities to leave out in front.")]
Alpha = Annotated[float, typer.Option(help="Bound on the false-alarm probability.")]
Beta = Annotated[float, typer.Option(help="Share of texts that may be missed.")]
Ids = Annotated[bool, typer.Option("--ids", help="The input is token ids, not text.")]
Device = Annotated[str, typer.Option(help="'auto', 'cpu', 'cuda', …")]
ModelName = Annotated[str, typer.Option(help="Folder of a causal model, or 'tiny'.")]
Law = Annotated[
    list[float] | None, typer.Argument(help="Probabilities of the outputs; they sum to 1.")
]
LawFile = Annotated[
    Path | None, typer.Option("--file", help="Numbers in a file instead, or - for standard input.")
]
Epsilon = Annotated[float, typer.Option(help="Total variation that may be spent.")]
Entropy = Annotated[
    float | None, typer.Option("--h", help="Entropy in nats per token (a two-token reference).")
]
TextLike = Annotated[
    Path | None, typer.Option(help="Text like that to be marked; laws are read off the model.")
]
Schemes = Annotated[str, typer.Option(help="'all', or names with commas.")]
TokenLaw = Annotated[
    str | None,
    typer.Option(
        help="Law of a token: the probability of symbol 1 of two, or all of them with commas; "
        "uniform by default."
    ),
]
