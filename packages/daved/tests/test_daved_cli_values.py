"""The commands score and quote: the numbers of the functions, at the records they belong to."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from modicum.daved.cli import app
from modicum.daved.integrations.tables import read_table, write_table
from modicum.daved.select import score, select

RNG = np.random.default_rng(2)
ROWS = RNG.normal(size=(80, 3))
PRICES = RNG.uniform(1, 4, 80)
QUERIES = RNG.normal(size=(2, 3))
IDS = [f"r{i}" for i in range(80)]


@pytest.fixture
def common(tmp_path: Path) -> tuple[Any, ...]:
    for name, part in (("a.csv", slice(0, 50)), ("b.parquet", slice(50, 80))):
        features = {f"f{i}": ROWS[part, i] for i in range(3)}
        write_table(tmp_path / name, {"id": IDS[part], **features, "price": PRICES[part]})
    write_table(tmp_path / "q.csv", {f"f{i}": QUERIES[:, i] for i in range(3)})
    sellers = ("--sellers", tmp_path / "a.csv", tmp_path / "b.parquet")
    return (*sellers, "--buyers", tmp_path / "q.csv", "--price-col", "price", "--id-col", "id")


def invoke(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def printed(*arguments: Any) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return str(result.stdout)


@pytest.mark.parametrize("solver", ["one_step", "fw", "multiplicative"])
def test_scores_stand_at_their_records(
    common: tuple[Any, ...], tmp_path: Path, solver: str
) -> None:
    out = tmp_path / "scores.parquet"
    text = printed("score", *common, "--solver", solver, "--max-iter", 30, "--out", out)
    table = read_table(out, label="id", group="file", price="price")
    expected = score(ROWS, QUERIES, costs=PRICES, solver=solver, max_iter=30)
    assert table.columns == ("item", "row", "score")
    np.testing.assert_allclose(np.asarray(table.values)[:, 2], expected, rtol=1e-6)
    assert table.labels is not None and table.labels.tolist() == IDS
    np.testing.assert_array_equal(table.prices, PRICES)  # type: ignore[arg-type]
    # People see the most valuable first.
    first = text.splitlines()[3].split()
    assert first[1] == IDS[int(np.argmax(expected))] and "and 60 more" in text


def test_quotes_are_the_fair_prices_of_the_design(common: tuple[Any, ...], tmp_path: Path) -> None:
    out = tmp_path / "quotes.csv"
    printed("quote", *common, "--out", out)
    with out.open() as file:
        rows = list(csv.DictReader(file))
    bought = select(
        ROWS, QUERIES, 17, costs=PRICES, solver="multiplicative", max_iter=1000, tol=1e-3
    )
    fair = np.array([float(row["fair_price"]) for row in rows])
    np.testing.assert_allclose(fair, bought.fair_price, rtol=1e-9)
    assert [row["id"] for row in rows] == IDS
    # Near the optimum no record on offer is worth more than it costs.
    assert max(float(row["fair_over_price"]) for row in rows) < 1.002


def test_records_that_are_not_on_offer_are_quoted(common: tuple[Any, ...], tmp_path: Path) -> None:
    pool = json.loads(printed("quote", *common, "--json"))
    assert pool["efficiency"] > 0.99
    expected = [line["fair_price"] for line in pool["values"][50:]]
    new = json.loads(printed("quote", *common, "--new", tmp_path / "b.parquet", "--json"))
    assert [line["id"] for line in new["values"]] == IDS[50:]
    np.testing.assert_allclose([line["fair_price"] for line in new["values"]], expected, rtol=1e-8)
    # Twice as long a row is worth four times as much; price, name and order of columns are free.
    columns = {f"f{i}": 2 * ROWS[50:, i] for i in (2, 0, 1)}
    write_table(tmp_path / "c.csv", columns)
    twice = json.loads(printed("quote", *common, "--new", tmp_path / "c.csv", "--json"))
    assert set(twice["values"][0]) == {"item", "file", "row", "fair_price"}
    found = [line["fair_price"] for line in twice["values"]]
    np.testing.assert_allclose(found, 4 * np.array(expected), rtol=1e-8)


def test_a_cheaper_record_of_fair_price_above_its_price_lowers_the_error(
    common: tuple[Any, ...], tmp_path: Path
) -> None:
    # The error that is promised for a budget falls if and only if the price is below the quote.
    new = 1.5 * QUERIES[:1]
    write_table(tmp_path / "c.csv", {f"f{i}": new[:, i] for i in range(3)})
    found = json.loads(printed("quote", *common, "--new", tmp_path / "c.csv", "--json"))
    (line,) = found["values"]

    def least_error(price: float | None) -> float:
        rows = ROWS if price is None else np.vstack([ROWS, new])
        costs = PRICES if price is None else np.append(PRICES, price)
        settings: dict[str, Any] = {"solver": "multiplicative", "max_iter": 5000, "tol": 1e-6}
        return select(rows, QUERIES, 20, costs=costs, **settings).objective

    without = least_error(None)
    assert least_error(0.8 * line["fair_price"]) < without * (1 - 1e-3)
    assert least_error(1.2 * line["fair_price"]) == pytest.approx(without, rel=1e-4)


def test_what_cannot_be_quoted(common: tuple[Any, ...], tmp_path: Path) -> None:
    result = invoke("quote", *common, "--solver", "greedy")
    assert "--solver must be one of 'fw', 'multiplicative', 'exact'" in str(result.exception)
    result = invoke("score", *common, "--solver", "greedy")
    assert "solver must be one of" in str(result.exception)
    write_table(tmp_path / "c.csv", {"f0": [1.0], "f1": [1.0]})
    result = invoke("quote", *common, "--new", tmp_path / "c.csv")
    assert "c.csv has other features than the sellers: missing ['f2']" in str(result.exception)
    assert "--out" not in str(invoke("score", *common, "--out", tmp_path / "x.csv").exception)
    result = invoke("score", *common, "--out", tmp_path / "x.txt")
    assert "x.txt: the ending has to be .csv or .parquet" in str(result.exception)
