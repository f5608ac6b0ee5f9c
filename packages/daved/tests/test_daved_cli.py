"""The command line: files in, a purchase out, equal to that of the function on the same arrays."""

import csv
import json
import os
import pty
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from modicum.daved.cli import app
from modicum.daved.cli.options import _repeated
from modicum.daved.integrations.tables import read_table, write_table
from modicum.daved.select import select
from modicum.daved.selection import Selection

RNG = np.random.default_rng(0)
NAMES = ("u", "v", "w", "x")
ROWS = RNG.normal(size=(100, 4))
PRICES = RNG.integers(1, 6, 100).astype(float)
IDS = [f"r{i}" for i in range(100)]
LOTS = np.arange(100) // 10
QUERIES = RNG.normal(size=(2, 4))
SHARDS = {"a.csv": slice(0, 60), "b.parquet": slice(60, 100)}

Files = dict[str, Path]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Two files of sellers, with the columns in another order, and one of queries, in a third."""
    folder = tmp_path_factory.mktemp("market")
    for name, part in SHARDS.items():
        features = {key: ROWS[part, i] for i, key in enumerate(NAMES)}
        if name == "b.parquet":
            features = dict(reversed(features.items()))
        others = {"price": PRICES[part], "id": IDS[part], "lot": LOTS[part], "y": ROWS[part, 0] > 0}
        write_table(folder / name, {**features, **others})
    columns = {key: QUERIES[:, i] for i, key in enumerate(NAMES)}
    write_table(folder / "q.csv", {"y": [1, 2], **dict(reversed(columns.items()))})
    return {path.stem: path for path in folder.iterdir()}


def invoke(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def printed(*arguments: Any) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return str(result.stdout)


def market(files: Files) -> tuple[Any, ...]:
    """Options that every command takes; the lots are left aside."""
    return (
        *("--sellers", files["a"], files["b"], "--buyers", files["q"]),
        *("--price-col", "price", "--id-col", "id", "--label-col", "y"),
    )


def single(files: Files) -> tuple[Any, ...]:
    return (*market(files), "--drop", "lot")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_options_take_several_values_in_a_row() -> None:
    words = ["--a", "1", "2", "--b", "3", "4", "--a", "5", "-q", "6"]
    assert _repeated(words, {"--a"}) == [
        *("--a", "1", "--a", "2", "--b", "3", "4", "--a", "5", "-q", "6"),
    ]


def test_the_commands_that_there_are() -> None:
    text = printed("--help")
    for name in (
        *("select", "plan", "score", "quote", "report"),
        *("serve-seller", "serve-buyer", "share-features"),
    ):
        assert f" {name} " in text
        assert "Usage" in printed(name, "--help")


def test_entry_points() -> None:
    found = entry_points(name="daved")
    assert next(iter(found.select(group="modicum.commands"))).load() is app
    experiments = next(iter(found.select(group="modicum.experiments"))).load()
    assert {item.package for item in experiments} == {"modicum-daved"}


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@pytest.mark.parametrize("solver", ["fw", "greedy", "multiplicative", "one_step"])
def test_a_plan_is_what_select_buys(files: Files, tmp_path: Path, solver: str, ending: str) -> None:
    out = tmp_path / f"plan{ending}"
    text = printed("select", *single(files), "--budget", 20, "--solver", solver, "--out", out)
    bought = select(ROWS, QUERIES, 20, costs=PRICES, solver=solver)
    table = read_table(out, label="id", group="file")
    assert table.columns == (
        *("item", "row", "price", "marginal_benefit", "spent", "predicted_error"),
    )
    item, row, price, benefit, spent, error = np.asarray(table.values).T
    np.testing.assert_array_equal(item, bought.indices)
    np.testing.assert_array_equal(price, PRICES[bought.indices])
    np.testing.assert_allclose(benefit, bought.marginal_benefit, rtol=1e-9)
    np.testing.assert_allclose(spent, np.cumsum(PRICES[bought.indices]))
    np.testing.assert_allclose(error, bought.predicted_error, rtol=1e-9)
    assert table.labels is not None and table.groups is not None
    assert table.labels.tolist() == [IDS[number] for number in bought.indices]
    late = bought.indices >= 60
    assert table.groups.tolist() == [str(files["b" if there else "a"]) for there in late]
    np.testing.assert_array_equal(row, bought.indices - 60 * late)
    assert f"{len(bought)} of 100 records for 20 of 20" in text and str(out) in text


SETTINGS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (("--step", "herding", "--max-iter", 30), {"step": "herding", "max_iter": 30}),
    (("--step", "0.1", "--no-fill"), {"step": 0.1, "fill": False}),
    (("--cost-mode", "paper", "--tol", 0.2), {"cost_mode": "paper", "tol": 0.2}),
    (("--rounding", "sample", "--seed", 5), {"rounding": "sample", "random_state": 5}),
    (("--rounding", "greedy", "--prior", 0.5), {"rounding": "greedy", "prior": 0.5}),
    (("--compat", "reference", "--reg-lambda", 0.3), {"compat": "reference", "reg_lambda": 0.3}),
    (("--reg-lambda", 0.3, "--ridge", "fixed"), {"reg_lambda": 0.3, "ridge": "fixed"}),
    (("--normalize", "l2", "--intercept"), {"normalize": "l2", "fit_intercept": True}),
    (("--features", "standardize", "--max-norm", 2), {"features": "standardize", "max_norm": 2}),
    (("--features", "rff:8", "--unique"), {"features": "rff:8", "unique": True}),
]


@pytest.mark.parametrize(("options", "arguments"), SETTINGS)
@pytest.mark.filterwarnings("ignore::modicum.daved.errors.DAVEDWarning")
def test_options_reach_the_function(
    files: Files, options: tuple[Any, ...], arguments: dict[str, Any]
) -> None:
    found = json.loads(printed("select", *single(files), "--budget", 20, *options, "--json"))
    bought = select(ROWS, QUERIES, 20, costs=PRICES, **arguments)
    assert [line["item"] for line in found["purchase"]] == bought.indices.tolist()
    assert found["design_error"] == pytest.approx(bought.objective, rel=1e-6)
    assert found["bought"] == len(bought) and found["spent"] == bought.spent


def test_lots_and_quotas(files: Files, tmp_path: Path) -> None:
    common = (*market(files), "--group-col", "lot", "--json")
    bought = select(ROWS, QUERIES, 9, costs=PRICES, groups=LOTS, max_per_group=1)
    found = json.loads(printed("select", *common, "--budget", 9, "--max-per-group", 1))
    assert [line["item"] for line in found["purchase"]] == bought.indices.tolist()
    assert [line["group"] for line in found["purchase"]] == list(map(str, LOTS[bought.indices]))
    # One price for the records of a lot, that of all of it.
    (tmp_path / "prices.csv").write_text("price\n" + "".join(f"{3 + lot}\n" for lot in LOTS))
    arguments = [word for word in common if word not in ("--price-col", "price")]
    found = json.loads(
        printed("select", *arguments, "--drop", "price", "--prices", tmp_path / "prices.csv",
                "--budget", 12)
    )  # fmt: skip
    bought = select(ROWS, QUERIES, 12, costs=3.0 + LOTS, groups=LOTS)
    assert [line["item"] for line in found["purchase"]] == bought.indices.tolist()
    assert found["spent"] == pytest.approx(bought.spent) and len(bought) % 10 == 0


def test_noise_weights_and_owned_records(files: Files, tmp_path: Path) -> None:
    noise = RNG.uniform(0.5, 2, 100)
    weights = RNG.uniform(0, 1, 100)
    columns = {name: ROWS[:, i] for i, name in enumerate(NAMES)}
    write_table(tmp_path / "s.csv", {**columns, "noise": noise, "weight": weights})
    write_table(tmp_path / "owned.csv", {name: ROWS[:5, i] for i, name in enumerate(NAMES)})
    found = json.loads(
        printed("select", "--sellers", tmp_path / "s.csv", "--buyers", files["q"], "--label-col",
                "y", "--noise-col", "noise", "--weight-col", "weight", "--owned",
                tmp_path / "owned.csv", "--solver", "greedy", "--budget", 5, "--json", "--sigma2",
                2)
    )  # fmt: skip
    known: dict[str, Any] = {"noise_var": noise, "row_weight": weights, "X_owned": ROWS[:5]}
    bought = select(ROWS, QUERIES, 5, **known, solver="greedy")
    assert [line["item"] for line in found["purchase"]] == bought.indices.tolist()
    assert found["predicted_error"] == pytest.approx(2 * bought.predicted_error[-1])
    assert found["error_before"] == pytest.approx(2 * bought.prior_error)
    assert found["design_error"] is None and found["efficiency"] is None


def test_json_is_alone_on_standard_output_and_warnings_are_said_once(
    files: Files, tmp_path: Path
) -> None:
    inflated = np.where(np.arange(100) == 3, 50, 1)
    write_table(tmp_path / "s.csv", {"u": ROWS[:, 0] * inflated, "v": ROWS[:, 1] * inflated})
    write_table(tmp_path / "q.csv", {"u": [1.0], "v": [2.0]})
    common = ("--sellers", tmp_path / "s.csv", "--buyers", tmp_path / "q.csv", "--budget", 3)
    result = invoke("select", *common, "--solver", "greedy", "--json")
    found = json.loads(result.stdout)
    assert len(found["warnings"]) == 1 and "may be inflated" in found["warnings"][0]
    assert result.stderr == f"warning: {found['warnings'][0]}\n"
    result = invoke("plan", *common[:-2], "--budgets", 2, 3, 4, "--solver", "greedy")
    assert result.stderr.count("may be inflated") == 1
    result = invoke("select", *common, "--quiet", "--solver", "greedy")
    assert result.output == ""


def test_runs_repeat_byte_by_byte(files: Files, tmp_path: Path) -> None:
    for number in range(2):
        printed(
            "select", *single(files), "--budget", 20, "--rounding", "sample", "--seed", 3,
            "--out", tmp_path / f"{number}.parquet", "--manifest", tmp_path / f"{number}.json",
            "--quiet",
        )  # fmt: skip
    assert (tmp_path / "0.parquet").read_bytes() == (tmp_path / "1.parquet").read_bytes()
    one, other = (
        [
            line
            for line in (tmp_path / f"{number}.json").read_text().splitlines()
            if not line.startswith((' "started"', ' "seconds"'))
        ]
        for number in range(2)
    )
    assert one == other and len(one) > 500


def test_manifest_says_what_was_read_and_how(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run.json"
    printed("select", *single(files), "--budget", 20, "--seed", 7, "--manifest", path)
    found = json.loads(path.read_text())
    digest = subprocess.run(["sha256sum", files["b"]], capture_output=True, text=True, check=True)
    assert [item["role"] for item in found["inputs"]] == ["sellers", "sellers", "buyers"]
    assert found["inputs"][1]["sha256"] == digest.stdout.split()[0]
    assert found["inputs"][1]["bytes"] == files["b"].stat().st_size
    assert found["parameters"]["seed"] == 7 and found["parameters"]["budget"] == 20
    assert found["parameters"]["sellers"] == [str(files["a"]), str(files["b"])]
    assert found["versions"]["numpy"] == np.__version__
    assert found["features"]["columns"] == list(NAMES)
    bought = Selection.from_dict(found["selection"])
    expected = select(ROWS, QUERIES, 20, costs=PRICES)
    np.testing.assert_array_equal(bought.indices, expected.indices)
    assert bought.gap == pytest.approx(expected.gap) and bought.spent == expected.spent
    assert len(bought.history) == len(expected.history)
    assert bought.bought_labels.tolist() == [IDS[number] for number in expected.indices]


def test_a_report_needs_the_manifest_only(files: Files, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "market"
    shutil.copytree(files["a"].parent, folder)
    here = {name: folder / path.name for name, path in files.items()}
    run, direct, later = (tmp_path / name for name in ("run.json", "direct.html", "later.html"))
    printed(
        "select", *single(here), "--budget", 20, "--manifest", run, "--report", direct, "--quiet"
    )  # fmt: skip
    shutil.rmtree(folder)
    bought = select(ROWS, QUERIES, 20, costs=PRICES)
    assert str(later) in printed("report", run, "--out", later)
    for page in (direct, later):
        text = page.read_text(encoding="utf-8")
        assert "<html" in text and str(here["a"]) in text and str(here["b"]) in text
        assert all(f">{IDS[number]}<" in text for number in bought.indices)


def test_a_report_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    for text in ("no", "[]", '{"kind": "another"}'):
        path.write_text(text)
        assert "is no manifest of a purchase" in str(invoke("report", path).exception)
    path.write_text('{"kind": "modicum-daved run", "format": 99}')
    assert "has the layout 99" in str(invoke("report", path).exception)
    path.write_text('{"kind": "modicum-daved run", "format": 1}')
    assert "no whole manifest: it has no 'selection'" in str(invoke("report", path).exception)
    result = invoke("report", tmp_path / "absent.json")
    assert isinstance(result.exception, FileNotFoundError)
    assert "ending has to be .html" in str(invoke("report", path, "--out", "x.pdf").exception)


def test_a_plan_of_budgets_is_what_select_would_buy(files: Files, tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    common = (*single(files), "--budgets", 20, 5, "0.5")
    text = printed("plan", *common, "--out", out)
    assert "100 records, 4 features, 2 queries" in text and "what each file gets" in text
    found = json.loads(out.read_text())
    assert [line["budget"] for line in found["budgets"]] == [0.5, 5, 20]
    nothing, *lines = found["budgets"]
    assert nothing["items"] == [] and nothing["predicted_error"] == found["error_before"]
    for line in lines:
        bought = select(ROWS, QUERIES, line["budget"], costs=PRICES)
        assert line["items"] == [IDS[number] for number in bought.indices]
        assert line["spent"] == bought.spent == sum(part["spent"] for part in line["files"])
        assert line["predicted_error"] == pytest.approx(bought.predicted_error[-1])
        assert line["least_error"] == pytest.approx(bought.objective - bought.gap)
        assert line["shadow_price"] == pytest.approx(bought.objective / line["budget"])
        late = bought.indices >= 60
        assert [part["records"] for part in line["files"]] == [(~late).sum(), late.sum()]
    assert json.loads(printed("plan", *common, "--json"))["budgets"][1:] == lines


def test_the_shadow_price_is_what_one_more_unit_saves(files: Files, tmp_path: Path) -> None:
    owned = tmp_path / "owned.csv"
    write_table(owned, {name: ROWS[:5, i] for i, name in enumerate(NAMES)})
    settings = ("--solver", "multiplicative", "--max-iter", 5000, "--tol", 1e-7, "--json")
    for more in ((), ("--owned", owned)):
        found = json.loads(
            printed("plan", *single(files), *settings, "--budgets", 20, 20.01, 19.99, *more)
        )
        lower, here, upper = found["budgets"]
        saved = (lower["design_error"] - upper["design_error"]) / 0.02
        assert here["shadow_price"] == pytest.approx(saved, rel=1e-3)


def test_a_plan_as_a_table_has_a_line_per_budget(files: Files, tmp_path: Path) -> None:
    printed("plan", *single(files), "--out", tmp_path / "plan.csv", "--solver", "greedy")
    rows = rows_of(tmp_path / "plan.csv")
    budgets = [float(row["budget"]) for row in rows]
    assert len(rows) == 8 and budgets[0] == np.median(PRICES)
    assert budgets[-1] == pytest.approx(2 * 4 * np.median(PRICES))
    errors = [float(row["predicted_error"]) for row in rows]
    assert errors == sorted(errors, reverse=True)
    for row in rows:
        assert len(row["items"].split()) == int(row["bought"])
        parts = [float(row[f"spent {files[name]}"]) for name in ("a", "b")]
        assert sum(parts) == float(row["spent"]) <= float(row["budget"])
        assert row["efficiency"] == "nan"


def test_a_plan_without_prices_counts_records(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", ROWS)
    np.save(tmp_path / "q.npy", QUERIES)
    found = json.loads(
        printed("plan", "--sellers", tmp_path / "s.npy", "--buyers", tmp_path / "q.npy", "--json")
    )
    budgets = [line["budget"] for line in found["budgets"]]
    assert budgets == [1, 2, 3, 4, 5, 6, 8]
    assert [line["bought"] for line in found["budgets"]] == budgets


def run(*arguments: Any, **settings: Any) -> subprocess.CompletedProcess[str]:
    program = "from modicum.{}.cli import main; main()"
    package = "core" if arguments[0] == "daved" else "daved"
    command = [sys.executable, "-c", program.format(package), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **settings)


def test_the_programs_and_their_exit_statuses(files: Files) -> None:
    done = run("select", *single(files), "--budget", 20, "--json")
    assert done.returncode == 0 and done.stderr == ""
    assert json.loads(done.stdout)["spent"] == 20
    for prefix in ((), ("daved",)):
        done = run(*prefix, "select", *single(files), "--budget", 0.5)
        assert done.returncode == 3 and done.stdout == ""
        assert "budget 0.5 buys nothing: the cheapest price is 1.0" in done.stderr
        done = run(*prefix, "select", *single(files), "--budget", 20, "--solver", "gredy")
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert "'multiplicative'" in done.stderr and "did you mean 'greedy'?" in done.stderr


def test_a_bar_is_shown_on_a_terminal_only(files: Files) -> None:
    primary, secondary = pty.openpty()
    code = "from modicum.daved.cli import main; main()"
    words = ("select", *single(files), "--budget", 20, "--json", "--max-iter", 400, "--tol", 1e-9)
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=secondary,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(secondary)
    shown = b""
    try:
        while chunk := os.read(primary, 1 << 16):
            shown += chunk
    except OSError:  # the other end was closed
        pass
    os.close(primary)
    output, _ = process.communicate()
    assert process.returncode == 0 and json.loads(output)["iterations"] > 0
    assert b"fw" in shown and b"\x1b[" in shown


def test_importing_the_commands_loads_no_engine() -> None:
    code = (
        "import sys, modicum.daved.cli; heavy = ('torch', 'sklearn', 'scipy', 'pandas', 'pyarrow',"
        "'matplotlib', 'transformers', 'flwr'); print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
