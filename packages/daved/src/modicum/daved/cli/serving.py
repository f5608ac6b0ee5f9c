"""The commands of federated purchases: ``serve-seller``, ``serve-buyer`` and ``share-features``.

A seller's process holds its rows and answers over HTTP; the buyer's asks all of them, and both read
the same feature map from a file. Everything that is said between them is in
`modicum.daved.federated`; this module reads files and options and prints what comes out.

Shapes: n records, d features, q labels of a record.
"""

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from modicum.core.experiment import dumps, loads, write_atomic
from modicum.daved.cli.options import Command, Output, command
from modicum.daved.cli.show import (
    cell,
    noted,
    print_columns,
    print_json,
    print_table,
    records_of,
    step_bar,
)
from modicum.daved.features import FeatureMap, Identity, digest_of, make_features
from modicum.daved.federated import (
    AggregateBuyer,
    Buyer,
    FederatedBuyer,
    HTTPTransport,
    Purchase,
    Seller,
)
from modicum.daved.federated.http import serve_seller as serve
from modicum.daved.federated.projections import RandomRotation, RandomSketch, map_from_dict
from modicum.daved.frames import align, is_shards
from modicum.daved.integrations.tables import (
    WRITABLE,
    Table,
    check_writable,
    read_table,
    read_vector,
    write_table,
)
from modicum.daved.validation import check_budget, check_one_of

__all__ = ["app", "serve_buyer", "serve_seller", "share_features"]

PROTOCOLS = ("reveal", "aggregate")

_OF_REVEAL: dict[str, Any] = {"tol": 1e-3, "batch_rounds": 1, "init": "gram", "dtype": "float64"}
"""Defaults of what only the revealing protocol has."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells count."""

_KIND = "modicum-daved features"
_SECRET_BYTES = 32


@dataclass(frozen=True)
class _SharedMap:
    """What all parties make rows of features with, and in which order it wants columns."""

    features: FeatureMap
    columns: tuple[str, ...] | None

    def rows(self, table: Table) -> np.ndarray:
        """Give the features of a table, (n, d)."""
        name = str(table.files[0]) if len(table.files) == 1 else "a file"
        made = self.features.transform(align(table.frame, self.columns, name).values)
        return np.concatenate(made) if is_shards(made) else made

    def fingerprint(self) -> str:
        """Give what parties compare: it covers the map and the names of its columns."""
        return digest_of({"columns": self.columns, **self.features.describe()})


def _shared_map(source: str, table: Table) -> _SharedMap:
    """Read a map, or take columns as they are: by name, so that files may order them otherwise."""
    if source == "identity":
        names = table.columns
        return _SharedMap(Identity(), None if names is None else tuple(sorted(names)))
    path = Path(source)
    if path.suffix != ".json":
        raise ValueError(
            f"--features is identity or a file that share-features wrote (.json), not {source!r}"
        )
    found = loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.get("kind") != _KIND:
        raise ValueError(f"{path} is no file that share-features wrote")
    columns = found["columns"]
    return _SharedMap(map_from_dict(found["features"]), None if columns is None else tuple(columns))


@command
def share_features(
    records: Annotated[
        list[Path],
        typer.Option(help="Records to fit to, such as a public sample.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Where the map goes (.json), for all parties.")],
    features: Annotated[
        str, typer.Option(help="identity, standardize, minmax or rff:D.")
    ] = "standardize",
    normalize: Annotated[str, typer.Option(help="none, or l2 for rows of norm 1.")] = "none",
    intercept: Annotated[
        bool, typer.Option("--intercept", help="Append a column of ones.")
    ] = False,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Turn the features by a random rotation.")
    ] = False,
    sketch: Annotated[
        int | None, typer.Option(min=1, help="Mix the features into so many random ones.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of what is random; by default one that nobody can guess."),
    ] = None,
    feature_cols: Annotated[
        list[str] | None, typer.Option(help="Columns that are the features; by default all.")
    ] = None,
    drop: Annotated[list[str] | None, typer.Option(help="Columns that are no features.")] = None,
) -> None:
    """Fit one feature map and write it to a file that all sellers and the buyer read.

    A rotation or a sketch hides what features mean from those who don't have the file.
    """
    check_writable(out, (".json",))
    if rotate and sketch is not None:
        raise ValueError("--rotate and --sketch are two ways to the same end: take one")
    table = read_table(records, features=feature_cols or None, drop=drop or ())
    seed = secrets.randbits(63) if seed is None else seed
    made = make_features(features, normalize=normalize, fit_intercept=intercept, seed=seed)
    if rotate:
        made = RandomRotation(made, seed)
    if sketch is not None:
        made = RandomSketch(made, sketch, seed)
    shared = _SharedMap(made.fit(table.values), table.columns)
    about = {"kind": _KIND, "columns": table.columns, "features": made.describe()}
    write_atomic(out, dumps(about))
    typer.echo(f"features {shared.fingerprint()}\nout {out}")


@command
def serve_seller(
    records: Annotated[
        list[Path],
        typer.Option(
            help="Records for sale: files (.csv, .parquet, .npy, .npz, .safetensors).",
            show_default=False,
        ),
    ],
    price_col: Annotated[
        str | None, typer.Option(help="Column of prices; without prices each record costs 1.")
    ] = None,
    prices: Annotated[
        Path | None, typer.Option(help="File with one price per record instead.")
    ] = None,
    label_col: Annotated[
        list[str] | None, typer.Option(help="Columns of labels, which go with what is paid for.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="File with one label per record instead.")
    ] = None,
    drop: Annotated[list[str] | None, typer.Option(help="Columns that are no features.")] = None,
    features: Annotated[
        str, typer.Option(help="identity, or a map that share-features wrote (.json).")
    ] = "identity",
    secret: Annotated[
        Path | None,
        typer.Option(
            help="File with the seller's secret, made if it isn't there; a seller that restarts "
            "needs the same to go on with a purchase."
        ),
    ] = None,
    max_norm: Annotated[
        float | None, typer.Option(help="Largest norm of a row; longer ones are shortened.")
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(help="Of Laplace noise on scores (experimental); needs --max-norm."),
    ] = None,
    max_top: Annotated[int, typer.Option(help="Most rows offered in one answer.")] = 16,
    max_reveals: Annotated[
        int | None, typer.Option(help="Most rows shown before they are paid for.")
    ] = None,
    gram: Annotated[
        bool, typer.Option("--gram/--no-gram", help="Tell the Gram matrix in clear, or not.")
    ] = True,
    masked_only: Annotated[
        bool, typer.Option("--masked-only", help="Take part in purchases by masked sums only.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 0,
    allow_remote: Annotated[
        bool,
        typer.Option(
            "--allow-remote", help="Listen where other machines can reach it, unencrypted."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the address as JSON.")] = False,
) -> None:
    """Sell records to a buyer who calls: only what it pays for leaves with its labels.

    Prints the address and the commitment to all records, then answers until it is interrupted. What
    a buyer learns nevertheless is said in the documentation of modicum.daved.federated.
    """
    if price_col is not None and prices is not None:
        raise ValueError("prices are in --price-col or in --prices, not in both")
    if label_col and labels is not None:
        raise ValueError("labels are in --label-col or in --labels, not in both")
    table = read_table(records, price=price_col, drop=[*(label_col or ()), *(drop or ())])
    shared = _shared_map(features, table)
    seller = Seller(
        shared.rows(table),
        _labels(records, label_col, labels),
        table.prices if prices is None else read_vector(prices),
        secret=None if secret is None else _secret(secret),
        features=shared.fingerprint(),
        max_norm=max_norm,
        epsilon=epsilon,
        max_top=max_top,
        max_reveals=max_reveals,
        clear_gram=gram,
        masked_only=masked_only,
    )
    with noted(quiet=False):
        server = serve(seller, host, port, allow_remote=allow_remote)
    about = {
        "url": server.url,
        "records": len(seller.rows),
        "features": seller.pool.d,
        "commitment": seller.tree.root.hex(),
        "fingerprint": seller.features,
    }
    if as_json:
        print_json(about)
    else:
        typer.echo("\n".join(f"{name} {value}" for name, value in about.items()))
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    finally:
        server.server_close()


def _labels(
    records: Sequence[Path], columns: Sequence[str] | None, file: Path | None
) -> np.ndarray | None:
    if file is not None:
        return read_vector(file)
    if not columns:
        return None
    values = read_table(records, features=columns).values
    return np.concatenate(values) if is_shards(values) else values


def _secret(path: Path) -> bytes:
    """Read a secret; make one that only its owner can read, where there is none."""
    try:
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(made, "wb") as file:
        file.write(secrets.token_bytes(_SECRET_BYTES))
    return path.read_bytes()


@command
def serve_buyer(
    output: Output,
    queries: Annotated[
        list[Path], typer.Option(help="The buyer's unlabelled queries: files.", show_default=False)
    ],
    sellers: Annotated[
        list[str], typer.Option(help="Addresses that serve-seller printed.", show_default=False)
    ],
    budget: Annotated[float, typer.Option(help="What may be spent, in the prices' currency.")],
    protocol: Annotated[
        str,
        typer.Option(help="reveal: winners show their rows. aggregate: nothing but masked sums."),
    ] = PROTOCOLS[0],
    features: Annotated[
        str, typer.Option(help="identity, or a map that share-features wrote (.json).")
    ] = "identity",
    drop: Annotated[list[str] | None, typer.Option(help="Columns that are no features.")] = None,
    max_iter: Annotated[
        int | None, typer.Option(min=0, help="Most iterations; 100, or 60 of masked sums.")
    ] = None,
    tol: Annotated[
        float, typer.Option(help="Stop when the certificate is below this share of the objective.")
    ] = _OF_REVEAL["tol"],
    batch_rounds: Annotated[
        int, typer.Option(min=1, help="Steps of one broadcast; more save rounds and show more.")
    ] = _OF_REVEAL["batch_rounds"],
    init: Annotated[
        str,
        typer.Option(
            help="Gram matrices in clear (gram), under masks (masked) or none (identity)."
        ),
    ] = _OF_REVEAL["init"],
    dtype: Annotated[str, typer.Option(help="On the wire: float64 or float32.")] = _OF_REVEAL[
        "dtype"
    ],
    max_norm: Annotated[
        float | None, typer.Option(help="Bound on rows that every seller must announce.")
    ] = None,
    accept_noise: Annotated[
        bool, typer.Option("--accept-noise", help="Buy from sellers with noisy scores.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for a seller's answer.")] = 60.0,
    retries: Annotated[
        int, typer.Option(min=0, help="How often a seller that is silent is called again.")
    ] = 8,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Call other machines than this.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the purchase plan (.csv, .parquet).")
    ] = None,
    delivered: Annotated[
        Path | None,
        typer.Option(help="Write features and labels of what was bought (.csv, .parquet)."),
    ] = None,
) -> None:
    """Buy from sellers who keep their records: print what was bought, and the bytes it took.

    Exit status 1 if a seller refuses, 3 if the budget buys nothing.
    """
    check_one_of("--protocol", protocol, PROTOCOLS)
    if protocol == PROTOCOLS[1]:
        _refuse_of_aggregate(tol=tol, batch_rounds=batch_rounds, init=init, dtype=dtype)
    check_budget(budget, name="--budget")
    for path in (out, delivered):
        if path is not None:
            check_writable(path, WRITABLE)
    table = read_table(queries, drop=drop or ())
    shared = _shared_map(features, table)
    common: dict[str, Any] = {
        "features": shared.fingerprint(),
        "max_norm": max_norm,
        "accept_noise": accept_noise,
    }
    if max_iter is not None:
        common["max_iter"] = max_iter
    rows_md = shared.rows(table)
    buyer: FederatedBuyer = (
        Buyer(rows_md, tol=tol, batch_rounds=batch_rounds, init=init, dtype=dtype, **common)
        if protocol == "reveal"
        else AggregateBuyer(rows_md, **common)
    )
    transport = HTTPTransport(sellers, timeout, retries, allow_remote=allow_remote)
    try:
        with step_bar(protocol, buyer.max_iter, output.quiet) as on_step:
            purchase = buyer.buy(transport, budget, on_step)
    except RuntimeError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    plan = _plan(purchase, transport.urls)
    if out is not None:
        write_table(out, plan)
    if delivered is not None:
        write_table(delivered, {**plan, **_records(purchase)})
    if output.as_json:
        print_json(_whole(purchase, transport.urls, budget, plan))
    elif not output.quiet:
        _print(purchase, budget, plan, {"out": out, "delivered": delivered})


def _refuse_of_aggregate(**given: float | str) -> None:
    """Refuse settings of the revealing protocol that masked sums would pass over."""
    for name, value in given.items():
        if value != _OF_REVEAL[name]:
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{option} {value} is for --protocol reveal, not for aggregate")


def _plan(purchase: Purchase, urls: Sequence[str]) -> dict[str, list[Any]]:
    """Give the columns of the purchase plan; masked sums show no weights."""
    found: dict[str, list[Any]] = {
        "seller": [urls[seller] for seller, _ in purchase.bought],
        "row": [index for _, index in purchase.bought],
        "price": purchase.prices_k.tolist(),
        "spent": np.cumsum(purchase.prices_k).tolist(),
    }
    if purchase.weights:
        found["weight"] = [purchase.weights[row] for row in purchase.bought]
    return found


def _records(purchase: Purchase) -> dict[str, list[float]]:
    """Give the columns of what was delivered."""
    features = {f"feature_{i}": column for i, column in enumerate(purchase.rows_kd.T.tolist())}
    labels = {f"label_{i}": column for i, column in enumerate(purchase.labels_kq.T.tolist())}
    return {**features, **labels}


def _bytes(purchase: Purchase) -> dict[str, list[Any]]:
    """Give the columns of the table of bytes: by kind of request, then all."""
    by_kind = purchase.bytes_by_kind()
    asked = {kind: 0 for kind in by_kind}
    for entry in purchase.traffic:
        asked[entry.kind] += entry.sellers
    down, up = (sum(pair[way] for pair in by_kind.values()) for way in (0, 1))
    return {
        "request": [*by_kind, "all"],
        "frames": [*asked.values(), sum(asked.values())],
        "to sellers": [*(pair[0] for pair in by_kind.values()), down],
        "from sellers": [*(pair[1] for pair in by_kind.values()), up],
    }


def _whole(
    purchase: Purchase, urls: Sequence[str], budget: float, plan: dict[str, list[Any]]
) -> dict[str, Any]:
    return {
        "budget": budget,
        "bought": len(purchase.bought),
        "spent": purchase.spent,
        "objective": purchase.objective,
        "gap": purchase.gap,
        "converged": purchase.converged,
        "iterations": len(purchase.history),
        "rounds": purchase.rounds,
        "purchase": records_of(plan),
        "commitments": {urls[seller]: root for seller, root in purchase.commitments.items()},
        "bytes": records_of(_bytes(purchase)),
        "bytes_by_round": [list(pair) for pair in purchase.bytes_by_round()],
    }


def _print(
    purchase: Purchase, budget: float, plan: dict[str, list[Any]], files: dict[str, Path | None]
) -> None:
    print_columns(plan)
    typer.echo(
        f"{len(purchase.bought):,} records for {cell(purchase.spent)} of {cell(budget)}; objective "
        f"{cell(purchase.objective)}, certificate {cell(purchase.gap)}, "
        f"{len(purchase.history)} iterations"
    )
    table = _bytes(purchase)
    print_table(list(table), list(zip(*table.values(), strict=True)), "bytes")
    first, *rounds = purchase.bytes_by_round()
    if rounds:
        mean = np.mean(rounds, axis=0)
        typer.echo(
            f"{len(rounds)} rounds of {mean[0]:,.0f} bytes to sellers and {mean[1]:,.0f} from "
            f"them; {sum(first):,} more for greeting and settlement"
        )
    for name, path in files.items():
        if path is not None:
            typer.echo(f"{name} {path}")


app = typer.Typer(
    help="Purchases from sellers who keep their records.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for served in (serve_seller, serve_buyer, share_features):
    app.command(cls=Command)(served)
