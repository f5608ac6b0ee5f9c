"""Sellers and a buyer as commands: processes that know each other by files and addresses only."""

import json
import signal
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest
from typer.testing import CliRunner

from modicum.daved.cli.serving import app
from modicum.daved.errors import InfeasibleBudgetError
from modicum.daved.integrations.tables import read_table, write_table
from modicum.daved.pool import ArrayPool
from modicum.daved.solvers.base import Problem
from modicum.daved.solvers.frank_wolfe import FrankWolfe

RNG = np.random.default_rng(21)
NAMES = ("a", "b", "c", "d")
EDGES = (0, 40, 41, 90)
N = EDGES[-1]
ROWS = RNG.normal(size=(N, len(NAMES))) * [1, 3, 0.2, 5] + 1
LABELS = ROWS.sum(axis=1)
PRICES = RNG.integers(1, 5, size=N).astype(float)
QUERIES = RNG.normal(size=(2, len(NAMES)))
RUN = [sys.executable, "-c", "from modicum.daved.cli.serving import app; app()"]


def _files(folder):
    """One seller in CSV, one in Parquet with its columns in another order, one in arrays."""
    for place, ending in enumerate(("csv", "parquet")):
        own = slice(EDGES[place], EDGES[place + 1])
        columns = {name: ROWS[own, i] for i, name in enumerate(NAMES)}
        if ending == "parquet":
            columns = dict(reversed(columns.items()))
        others = {"price": PRICES[own], "y": LABELS[own]}
        write_table(folder / f"{place}.{ending}", {"note": LABELS[own] * 0, **columns, **others})
    own = slice(EDGES[2], N)
    for name, values in (("rows", ROWS), ("prices", PRICES), ("labels", LABELS)):
        np.save(folder / f"{name}.npy", values[own])
    np.save(folder / "queries.npy", QUERIES)
    columns = {name: ROWS[:, i] for i, name in enumerate(NAMES)}
    write_table(folder / "sample.csv", columns)
    named = {name: QUERIES[:, i] for i, name in enumerate(NAMES)}
    write_table(folder / "queries.csv", dict(sorted(named.items(), key=lambda item: item[0][::-1])))


def _options(folder, place):
    if place < 2:
        file = next(folder.glob(f"{place}.*"))
        return ["--records", file, "--price-col", "price", "--label-col", "y", "--drop", "note"]
    arrays = {name: folder / f"{name}.npy" for name in ("rows", "prices", "labels")}
    return ["--records", arrays["rows"], "--prices", arrays["prices"], "--labels", arrays["labels"]]


class _Market:
    """The processes of the sellers."""

    def __init__(self, folder):
        self.folder, self.running, self.about, self.features = folder, {}, {}, "identity"

    def start(self, place, *options):
        port = self.about[place]["url"].rsplit(":", 1)[1] if place in self.about else "0"
        words = ["serve-seller", *_options(self.folder, place), "--features", self.features]
        words += ["--secret", self.folder / f"{place}.secret", "--port", port, "--json", *options]
        process = subprocess.Popen([*RUN, *map(str, words)], stdout=subprocess.PIPE, text=True)
        self.running[place] = process
        text = ""
        while not text.rstrip().endswith("}"):
            line = process.stdout.readline()
            assert line, "the seller ended"
            text += line
        self.about[place] = json.loads(text)

    def stop(self, place, how=signal.SIGKILL):
        process = self.running.pop(place)
        process.send_signal(how)
        status = process.wait()
        process.stdout.close()
        return status

    @property
    def sellers(self):
        return [
            word for place in sorted(self.about) for word in ("--sellers", self.about[place]["url"])
        ]


@pytest.fixture
def market(tmp_path):
    _files(tmp_path)
    found = _Market(tmp_path)
    try:
        yield found
    finally:
        for place in list(found.running):
            found.stop(place)


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def printed(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def _central(rows, queries):
    return FrankWolfe(max_iter=60).solve(Problem(ArrayPool(rows, PRICES**-0.5), queries))


def test_a_purchase_by_commands_is_the_central_one_though_a_seller_is_killed(market):
    folder = market.folder
    printed("share-features", "--records", folder / "sample.csv", "--out", folder / "map.json")
    market.features = str(folder / "map.json")
    for place in range(3):
        market.start(place)
    words = ["serve-buyer", "--queries", folder / "queries.csv", *market.sellers]
    words += ["--budget", 20, "--features", market.features, "--max-iter", 60, "--json"]
    words += ["--out", folder / "plan.parquet", "--delivered", folder / "bought.csv"]
    buyer = subprocess.Popen([*RUN, *map(str, words)], stdout=subprocess.PIPE, text=True)
    # Whenever it happens, the purchase has to be the same.
    restart = threading.Timer(1.5, lambda: (market.stop(0), market.start(0)))
    restart.start()
    output, _ = buyer.communicate(timeout=100)
    restart.join()
    assert buyer.returncode == 0
    found = json.loads(output)

    scaled = (ROWS - ROWS.mean(axis=0)) / ROWS.std(axis=0)
    central = _central(scaled, (QUERIES - ROWS.mean(axis=0)) / ROWS.std(axis=0))
    assert found["objective"] == pytest.approx(central.objective, rel=1e-12)
    assert found["iterations"] == len(central.history) > 10
    urls = [market.about[place]["url"] for place in range(3)]
    bought = [EDGES[urls.index(line["seller"])] + line["row"] for line in found["purchase"]]
    weights = central.weights / PRICES
    assert set(bought) <= set(central.picks.tolist())
    assert bought == sorted(bought, key=lambda row: -weights[row])
    assert found["spent"] == PRICES[bought].sum() <= 20
    assert found["commitments"] == {
        url: about["commitment"]
        for url, about in zip(urls, (market.about[place] for place in range(3)), strict=True)
    }
    plan = read_table(folder / "plan.parquet", label="seller")
    assert plan.columns == ("row", "price", "spent", "weight") and len(plan.values) == len(bought)
    delivered = read_table(folder / "bought.csv", label="seller")
    at = delivered.columns.index("feature_0")
    np.testing.assert_allclose(delivered.values[:, at : at + 4], scaled[bought], atol=1e-12)
    np.testing.assert_array_equal(delivered.values[:, -1], LABELS[bought])
    assert len(found["bytes_by_round"]) == found["rounds"] + 1
    total = found["bytes"][-1]
    assert total["request"] == "all" and total["frames"] > 3 * found["rounds"]
    assert [total["to sellers"], total["from sellers"]] == np.sum(
        found["bytes_by_round"], axis=0
    ).tolist()


def test_masked_sums_by_commands_and_what_people_read(market):
    folder = market.folder
    for place in range(3):
        market.start(place, "--masked-only")
    words = ["serve-buyer", "--queries", folder / "queries.npy", *market.sellers, "--budget", 12]
    # Files with names of columns and arrays without make different features.
    result = invoke(*words, "--protocol", "aggregate")
    assert isinstance(result.exception, ValueError)
    assert "must use the same fitted feature map" in str(result.exception)
    market.stop(2)
    del market.about[2]
    words = ["serve-buyer", "--queries", folder / "queries.csv", *market.sellers, "--budget", 12]
    text = printed(*words, "--protocol", "aggregate", "--max-iter", 8)
    assert "certificate" in text and "8 rounds of" in text and "aggregate" in text
    assert "weight" not in text
    result = invoke(*words)
    assert result.exit_code == 1 and "refuses: a seller has no answer to 'gram'" in result.output
    result = invoke(*words[:-1], 0.5)
    assert isinstance(result.exception, InfeasibleBudgetError)


def test_a_seller_makes_its_secret_once_for_itself_alone_and_ends_when_told(market):
    market.start(0)
    file = market.folder / "0.secret"
    before, root = file.read_bytes(), market.about[0]["commitment"]
    assert len(before) == 32 and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert market.stop(0, signal.SIGINT) == 130
    market.start(0)
    assert file.read_bytes() == before and market.about[0]["commitment"] == root
    market.stop(0)
    file.write_bytes(b"another secret, long enough")
    market.start(0)
    assert market.about[0]["commitment"] != root


def test_a_rotation_is_shared_by_a_file(market):
    folder, file = market.folder, market.folder / "map.json"
    text = printed(
        *("share-features", "--records", folder / "sample.csv", "--features", "identity"),
        *("--rotate", "--out", file),
    )
    market.features = str(file)
    for place in range(3):
        market.start(place, "--no-gram")
    assert f"features {market.about[0]['fingerprint']}" in text
    words = ["serve-buyer", "--queries", folder / "queries.npy", *market.sellers]
    words += ["--features", file, "--budget", 15, "--max-iter", 60, "--init", "masked", "--json"]
    found = json.loads(printed(*words))
    assert found["objective"] == pytest.approx(_central(ROWS, QUERIES).objective, rel=1e-4)
    # Another file, though of the same records, has another seed.
    printed("share-features", "--records", folder / "sample.csv", "--rotate", "--out", file)
    assert "must use the same fitted feature map" in str(invoke(*words).exception)


@pytest.mark.parametrize(
    "words, error",
    [
        (["serve-seller", "--host", "0.0.0.0"], "is not this machine alone.*--allow-remote"),
        (["serve-seller", "--prices", "p.npy"], "prices are in --price-col or in --prices"),
        (["serve-seller", "--labels", "p.npy"], "labels are in --label-col or in --labels"),
        (["serve-seller", "--features", "standardize"], "identity or a file that share-features"),
        (["serve-seller", "--epsilon", "1"], "needs a max_norm"),
        (["serve-buyer", "--sellers", "http://192.0.2.1:80"], "is not this machine alone"),
        (["serve-buyer", "--sellers", "here"], "URL is like"),
        (["serve-buyer", "--protocol", "public"], "--protocol must be one of 'reveal', 'aggreg"),
        (["serve-buyer", "--protocol", "aggregate", "--init", "masked"], "--init masked is for"),
        (
            ["serve-buyer", "--protocol", "aggregate", "--batch-rounds", "2"],
            "--batch-rounds 2 is for --protocol reveal",
        ),
        (["serve-buyer", "--tol", "-1"], "tol must be a number"),
        (["serve-buyer", "--budget", "-1"], "--budget must be positive"),
        (["serve-buyer", "--out", "plan.txt"], "cannot write plan.txt"),
        (["share-features", "--rotate", "--sketch", "2"], "--rotate and --sketch"),
        (["share-features", "--out", "map.csv"], "cannot write map.csv"),
    ],
)
def test_what_cannot_be_is_said_at_once(tmp_path, words, error):
    _files(tmp_path)
    command, *rest = words
    given = {
        "serve-seller": [str(word) for word in _options(tmp_path, 0)],
        "serve-buyer": ["--queries", str(tmp_path / "queries.csv"), "--budget", "3"]
        + ([] if "--sellers" in rest else ["--sellers", "http://127.0.0.1:9"]),
        "share-features": ["--records", str(tmp_path / "sample.csv")]
        + ([] if "--out" in rest else ["--out", str(tmp_path / "map.json")]),
    }[command]
    result = invoke(command, *given, *rest)
    assert isinstance(result.exception, ValueError)
    with pytest.raises(ValueError, match=error):
        raise result.exception


def test_a_file_that_is_no_map_is_named(tmp_path):
    _files(tmp_path)
    (tmp_path / "map.json").write_text('{"kind": "other"}')
    result = invoke(
        *("serve-buyer", "--queries", tmp_path / "queries.csv", "--budget", 3),
        *("--sellers", "http://127.0.0.1:9", "--features", tmp_path / "map.json"),
    )
    assert "is no file that share-features wrote" in str(result.exception)
