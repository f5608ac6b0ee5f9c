"""The commands ``circuits …``: files of circuits, smallest forms of a function, and bounds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modicum.repcomplexity.cli import options
from modicum.repcomplexity.cli.show import print_json, print_table

if TYPE_CHECKING:
    from modicum.repcomplexity.boolean.dnf import NormalForm
    from modicum.repcomplexity.boolean.truth_table import TruthTable
    from modicum.repcomplexity.circuits.circuit import Circuit
    from modicum.repcomplexity.circuits.synthesis import SizeInterval

__all__ = ["bounds", "build", "convert", "evaluate", "minimise", "show"]

FUNCTION = "Function"
TABLE_INPUTS = 16
"""Inputs up to which a truth table is printed."""
MAJORITY_CIRCUITS = {
    "model": "model_circuit",
    "reward": "reward_circuit",
    "value": "value_circuit",
    "q": "q_circuit",
}
PLAIN_CIRCUITS = {
    "parity": "parity_circuit",
    "majority-dnf": "majority_dnf",
    "majority-gate": "majority_gate",
    "majority-adders": "majority_adders",
}
"""Names on the command line, and builders of `modicum.repcomplexity.circuits`."""

CircuitFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="A circuit: .aag, .aig or .bench.")
]
Hex = Annotated[
    str | None,
    typer.Option(
        "--hex",
        help="Truth table in hexadecimal digits, the value at input 0 last: e8 is the majority of "
        "three.",
        rich_help_panel=FUNCTION,
    ),
]
Inputs = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Inputs of the table; by default as many as its digits say.",
        rich_help_panel=FUNCTION,
        show_default=False,
    ),
]
From = Annotated[
    Path | None,
    typer.Option(
        "--in",
        help="A circuit in place of a table: .aag, .aig or .bench.",
        rich_help_panel=FUNCTION,
    ),
]
Output = Annotated[
    int,
    typer.Option(min=0, help="Which output of the circuit, from 0.", rich_help_panel=FUNCTION),
]
Depth = Annotated[
    int | None,
    typer.Option(help="Levels of AND and OR, at least 2.", rich_help_panel=options.MEASURING),
]
WriteTo = Annotated[
    Path | None,
    typer.Option(help="Write the circuit: .aag, .aig or .bench.", rich_help_panel=options.OUTPUT),
]


def show(file: CircuitFile, as_json: options.AsJson = False) -> None:
    """Say how large and how deep a circuit is, of what gates, and what it computes.

    Size and depth do not count negations; lines below them do. Up to 16 inputs the truth table of
    each output is given in hexadecimal digits.
    """
    from modicum.repcomplexity.circuits.formats import read_circuit

    _tell(read_circuit(file), str(file), as_json)


def evaluate(
    file: CircuitFile,
    rows: Annotated[
        list[str] | None,
        typer.Argument(metavar="BITS…", help="Inputs such as 0110, input 0 first."),
    ] = None,
    rows_file: Annotated[
        Path | None, typer.Option("--rows", help="A file with such a line for each row.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Evaluate a circuit on rows of bits, 64 rows at a time."""
    import numpy as np

    from modicum.repcomplexity.circuits.bitparallel import evaluate_words, pack_rows, unpack_rows
    from modicum.repcomplexity.circuits.formats import read_circuit

    circuit = read_circuit(file)
    lines = list(rows or ())
    if rows_file is not None:
        lines += rows_file.read_text(encoding="utf-8").split()
    if not lines:
        raise ValueError("there is no row: give BITS or --rows FILE")
    for line in lines:
        if len(line) != circuit.n_inputs or set(line) - {"0", "1"}:
            raise ValueError(f"a row is {circuit.n_inputs} digits 0 and 1, not {line!r}")
    bits = np.array([[digit == "1" for digit in line] for line in lines], dtype=bool)
    bits = bits.reshape(len(lines), circuit.n_inputs)
    values = unpack_rows(evaluate_words(circuit, pack_rows(bits)), len(lines))
    found = ["".join("01"[int(value)] for value in row) for row in values]
    if as_json:
        print_json({"rows": lines, "outputs": found})
    else:
        typer.echo("\n".join(found))


def convert(
    file: CircuitFile,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where to: .aag, .aig or .bench.")],
    simplify: Annotated[
        bool, typer.Option(help="Propagate constants and share equal gates first.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Write a circuit in another format.

    AIGER has gates AND of two inputs only: larger gates, parities and thresholds are taken apart.
    """
    from modicum.repcomplexity.circuits.formats import read_circuit

    circuit = read_circuit(file)
    _write(circuit.simplify() if simplify else circuit, out)
    # What the file holds, which need not have the gates it was made from.
    _tell(read_circuit(out), str(out), as_json)


def build(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help=f"{', '.join(MAJORITY_CIRCUITS)} of the Majority MDP, or "
            f"{', '.join(PLAIN_CIRCUITS)}.",
        ),
    ],
    n: Annotated[int, typer.Option(help="Bits.", show_default=False)],
    step: Annotated[int, typer.Option(min=1, help="Step of value and q, from 1.")] = 1,
    depth: Annotated[int | None, typer.Option(help="Levels of parity; by default 2.")] = None,
    out: WriteTo = None,
    as_json: options.AsJson = False,
) -> None:
    """Build an explicit circuit of known size.

    Those of the Majority MDP have as inputs the n bits of the representation, the control bits and,
    but for value, the action; value and q count in unary.
    """
    from modicum.repcomplexity.circuits import arithmetic, builders

    settings: dict[str, int] = {}
    if kind in MAJORITY_CIRCUITS:
        make = getattr(builders, MAJORITY_CIRCUITS[kind])
        settings = {"h": step} if kind in ("value", "q") else {}
    elif kind in PLAIN_CIRCUITS:
        make = getattr(arithmetic, PLAIN_CIRCUITS[kind])
        settings = {"depth": 2 if depth is None else depth} if kind == "parity" else {}
    else:
        known = ", ".join([*MAJORITY_CIRCUITS, *PLAIN_CIRCUITS])
        raise ValueError(f"KIND must be one of {known}, not {kind!r}")
    if depth is not None and kind != "parity":
        raise ValueError("--depth is for parity")
    if step != 1 and "h" not in settings:
        raise ValueError("--step is for value and q")
    circuit = make(n, **settings)
    if out is not None:
        _write(circuit, out)
    _tell(circuit, f"{kind}, n = {n}", as_json)


def minimise(
    hex_digits: Hex = None,
    inputs: Inputs = None,
    file: From = None,
    output: Output = 0,
    basis: Annotated[
        str,
        typer.Option(
            help="Gates of two inputs: B2, or U2 without parities.",
            rich_help_panel=options.MEASURING,
        ),
    ] = "B2",
    depth: Depth = None,
    time_limit: options.TimeLimit = 60.0,
    out: WriteTo = None,
    as_json: options.AsJson = False,
) -> None:
    """Find the smallest normal forms and circuits of a function, with proof or as an interval.

    Each of the searches has the time limit for itself. --out writes the circuit of two-input gates,
    or with --depth that of so many levels.
    """
    table = _table_of(hex_digits, inputs, file, output)
    _check_time(time_limit)
    if out is not None:
        _check_suffix(out)
    forms = {"DNF terms": table.min_dnf(time_limit), "CNF clauses": table.min_cnf(time_limit)}
    found: dict[str, SizeInterval] = {}
    missing: dict[str, str] = {}
    _searched(found, missing, f"{basis} gates", out is None or depth is not None, table,
              time_limit, basis=basis)  # fmt: skip
    if depth is not None:
        _searched(found, missing, f"gates in {depth} levels", out is None, table,
                  time_limit, depth=depth)  # fmt: skip
    if out is not None:
        _write(list(found.values())[-1].circuit, out)
    rows = [
        *([name, form.lower, form.upper, form.proved] for name, form in forms.items()),
        *([name, size.lower, size.upper, size.proved] for name, size in found.items()),
    ]
    if as_json:
        sizes = {
            name: {"lower": low, "upper": high, "proved": sure} for name, low, high, sure in rows
        }
        terms = {name: _spelled(form) for name, form in forms.items()}
        print_json(
            {"hex": table.to_hex(), "inputs": table.n_inputs, "sizes": sizes, "forms": terms}
            | {"not_searched": missing}
        )
        return
    print_table(
        ["size", "at least", "at most", "proved"],
        [[name, low, high, "yes" if sure else "no"] for name, low, high, sure in rows],
        f"{table.to_hex()}, {table.n_inputs} inputs",
    )
    for name, form in forms.items():
        typer.echo(f"{name}: {_spelled(form)}")
    for name, why in missing.items():
        typer.echo(f"{name}: not searched, {why}")


def _searched(
    found: "dict[str, SizeInterval]",
    missing: dict[str, str],
    name: str,
    optional: bool,
    table: "TruthTable",
    time_limit: float,
    **how: Any,
) -> None:
    """Search for a circuit; what cannot be searched is said, unless a file is wanted of it."""
    from modicum.repcomplexity.bits import ComplexityLimitError
    from modicum.repcomplexity.circuits.synthesis import min_circuit, min_depth_circuit

    search = min_depth_circuit if "depth" in how else min_circuit
    try:
        found[name] = search(table, time_limit=time_limit, **how)
    except (ComplexityLimitError, ImportError) as error:
        if not optional:
            raise
        missing[name] = str(error)


def bounds(
    hex_digits: Hex = None,
    inputs: Inputs = None,
    file: From = None,
    output: Output = 0,
    n: Annotated[
        int | None,
        typer.Option(
            help="In place of a function: what is proved of parity and majority of n inputs.",
            rich_help_panel=FUNCTION,
        ),
    ] = None,
    depth: Annotated[
        int,
        typer.Option(
            min=2, help="Depth of the circuits that are bounded.", rich_help_panel=options.MEASURING
        ),
    ] = 3,
    as_json: options.AsJson = False,
) -> None:
    """Give certificates of a function and what they say of its smallest representations.

    Certificates, influence, spectrum, trees and diagrams are exact. Bounds on circuits of more than
    two levels are valid but small below thousands of inputs; Håstad's holds for large n only.
    """
    if n is not None:
        if hex_digits is not None or file is not None:
            raise ValueError("--n stands in place of --hex and --in")
        values = _bounds_of_families(n, depth)
    else:
        values = _bounds_of(_table_of(hex_digits, inputs, file, output), depth)
    if as_json:
        print_json(values)
        return
    rows = [[name, _listed(value)] for name, value in values.items()]
    print_table(["quantity", "value"], rows)


def _bounds_of(table: "TruthTable", depth: int) -> dict[str, Any]:
    from modicum.repcomplexity.bits import ComplexityLimitError
    from modicum.repcomplexity.boolean import bounds as formulas
    from modicum.repcomplexity.boolean.trees import tree_complexity

    spectrum = table.fourier()
    values: dict[str, Any] = {
        "inputs": table.n_inputs,
        "inputs it depends on": len(table.support()),
        "P[f = 1]": table.probability(),
        "total influence": float(table.influences().sum()),
        "degree": spectrum.degree,
        "spectral weight by degree": [float(weight) for weight in spectrum.weights],
        "DNF width at least": formulas.dnf_width(table),
        "CNF width at least": formulas.cnf_width(table),
        f"size at depth {depth} at least (Linial, Mansour, Nisan)": formulas.strongest_lmn_size(
            spectrum, depth
        ),
    }
    # Larger functions have the rest.
    costly = {
        "certificate of ones": lambda: table.certificate_complexity().ones,
        "certificate of zeros": lambda: table.certificate_complexity().zeros,
        "decision tree leaves": lambda: tree_complexity(table).leaves,
        "OBDD nodes, best order": lambda: table.obdd_size("best"),
        "approximate degree": lambda: formulas.approximate_degree(table).degree,
    }
    for name, take in costly.items():
        try:
            values[name] = take()
        except ComplexityLimitError:
            values[name] = None
    return values


def _bounds_of_families(n: int, depth: int) -> dict[str, Any]:
    from modicum.repcomplexity.boolean import bounds as formulas

    values: dict[str, Any] = {
        "inputs": n,
        "DNF terms of parity": formulas.parity_dnf_terms(n),
        "DNF terms of majority": formulas.majority_dnf_terms(n),
        f"log2 of parity's size at depth {depth}, for large n (Håstad)": formulas.hastad_parity(
            n, depth, log2=True
        ),
        f"log2 of parity's size at depth {depth} with MOD 3 gates (Smolensky)": (
            formulas.smolensky_size(n, depth, log2=True)
        ),
    }
    if n % 2:
        values["influence of majority"] = formulas.majority_influence(n)
    if n >= 2 and not n & (n - 1):
        values["DNF terms of V* > 0 in the Majority MDP at least"] = (
            formulas.majority_mdp_dnf_terms(n)
        )
    return values


def _table_of(
    digits: str | None, inputs: int | None, file: Path | None, output: int
) -> "TruthTable":
    from modicum.repcomplexity.boolean.truth_table import TruthTable
    from modicum.repcomplexity.circuits.formats import read_circuit

    if (digits is None) == (file is None):
        raise ValueError("give either --hex or --in")
    if file is not None:
        if inputs is not None:
            raise ValueError("--inputs is for --hex; a circuit says how many it has")
        circuit = read_circuit(file)
        if output >= circuit.n_outputs:
            raise ValueError(f"--output must be below {circuit.n_outputs}, not {output}")
        return TruthTable(circuit.truth_values()[:, output])
    text = str(digits).lower().removeprefix("0x")
    if not text or set(text) - set("0123456789abcdef"):
        raise ValueError(f"--hex takes hexadecimal digits, not {digits!r}")
    if inputs is None:
        inputs = (4 * len(text)).bit_length() - 1
        if 1 << inputs != 4 * len(text):
            raise ValueError(
                f"--hex has {len(text)} digits, which are no table: give a power of two of them, "
                "or --inputs"
            )
    try:
        return TruthTable.from_hex(text, inputs)
    except ValueError as error:
        raise ValueError(f"--hex {digits} is no table of {inputs} inputs: {error}") from error


def _spelled(form: "NormalForm") -> str:
    """Write a normal form: ``~`` is a negation; clauses are disjunctions in brackets."""
    conjunctive = form.form == "cnf"
    parts = []
    for care, polarity in zip(form.terms.care, form.terms.polarity, strict=True):
        names = [i for i in range(form.terms.n_inputs) if int(care) >> i & 1]
        # The terms of a CNF are those of the negation.
        positive = [bool(int(polarity) >> i & 1) != conjunctive for i in names]
        literals = [("" if yes else "~") + f"x{i}" for i, yes in zip(names, positive, strict=True)]
        if conjunctive:
            parts.append("(" + (" | ".join(literals) or "0") + ")")
        else:
            parts.append(" & ".join(literals) or "1")
    joined = (" & " if conjunctive else " | ").join(parts)
    return joined or ("1" if conjunctive else "0")


def _tell(circuit: "Circuit", name: str, as_json: bool) -> None:
    about: dict[str, Any] = {
        "inputs": circuit.n_inputs,
        "outputs": circuit.n_outputs,
        "class": circuit.circuit_class,
        "size": circuit.size,
        "depth": circuit.depth,
        "size with negations": circuit.size_with(count_not=True),
        "depth with negations": circuit.depth_with(count_not=True),
        "wires": circuit.size_with(count_wires=True),
        "gates": {str(kind): count for kind, count in circuit.gate_counts().items()},
    }
    if circuit.n_inputs <= TABLE_INPUTS:
        from modicum.repcomplexity.boolean.truth_table import TruthTable

        values = circuit.truth_values()
        about["hex"] = [TruthTable(values[:, k]).to_hex() for k in range(circuit.n_outputs)]
    if as_json:
        print_json({"name": name, **about})
        return
    gates = ", ".join(f"{count} {kind}" for kind, count in about["gates"].items())
    rows = [[key, gates if key == "gates" else value] for key, value in about.items()
            if key != "hex"]  # fmt: skip
    print_table(["", name], rows)
    if circuit.n_inputs <= TABLE_INPUTS // 2:
        for number, digits in enumerate(about["hex"]):
            typer.echo(f"output {number}: {digits}")


def _write(circuit: "Circuit", out: Path) -> None:
    from modicum.repcomplexity.circuits.formats import write_circuit

    write_circuit(circuit, out)


def _check_suffix(out: Path) -> None:
    from modicum.repcomplexity.circuits.formats import SUFFIXES

    if out.suffix not in SUFFIXES:
        raise ValueError(f"--out takes a file that ends in {', '.join(SUFFIXES)}, not {out}")


def _check_time(time_limit: float) -> None:
    if not time_limit > 0:
        raise ValueError(f"--time-limit must be positive, not {time_limit:g}")


def _listed(value: Any) -> Any:
    if isinstance(value, list):
        return " ".join(f"{one:.4g}" for one in value)
    return value
