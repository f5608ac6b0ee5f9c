"""What the commands read, in every format, and what they say of files that do not fit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from typer.testing import CliRunner

from modicum.daved.cli import app
from modicum.daved.cli.inputs import Reader, places
from modicum.daved.cli.options import Inputs, Making, Terms
from modicum.daved.integrations.tables import ImageFiles, read_table, read_vector, write_table
from modicum.daved.select import select

RNG = np.random.default_rng(1)
ROWS = RNG.normal(size=(30, 3))
PRICES = RNG.uniform(1, 3, 30)
QUERIES = RNG.normal(size=(1, 3))


def invoke(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def bought_by(*arguments: Any) -> list[int]:
    result = invoke("select", *arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return [line["item"] for line in json.loads(result.stdout)["purchase"]]


def write(path: Path, rows: np.ndarray = ROWS, prices: np.ndarray = PRICES) -> Path:
    """Write rows with prices in the format of the path's ending."""
    if path.suffix in (".csv", ".parquet"):
        features = {f"f{i}": rows[:, i] for i in range(rows.shape[1])}
        return write_table(path, {**features, "price": prices})
    if path.suffix == ".npy":
        np.save(path, rows)
    elif path.suffix == ".npz":
        np.savez(path, X=rows, price=prices)
    else:
        safetensors.numpy.save_file({"X": rows, "price": prices}, path)
    return path


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".npz", ".safetensors"])
def test_every_format_gives_the_same_purchase(tmp_path: Path, ending: str) -> None:
    sellers, buyers = write(tmp_path / f"s{ending}"), write(tmp_path / "q.npy", QUERIES)
    expected = select(ROWS, QUERIES, 9, costs=PRICES).indices.tolist()
    common = ("--sellers", sellers, "--buyers", buyers, "--budget", 9)
    assert bought_by(*common, "--price-col", "price") == expected


def test_names_of_any_type_are_kept(tmp_path: Path) -> None:
    days = np.arange("2024-01-01", "2024-01-31", dtype="datetime64[D]")
    expected = select(ROWS, QUERIES, 4).indices
    buyers = write(tmp_path / "q.npy", QUERIES)
    for name, ids in (
        ("days", days),
        ("numbers", np.arange(30)),
        ("texts", np.char.zfill(np.arange(30).astype(str), 3)),
    ):
        columns = {f"f{i}": ROWS[:, i] for i in range(3)}
        sellers, manifest = tmp_path / f"{name}.parquet", tmp_path / f"{name}.json"
        write_table(sellers, {**columns, "id": ids})
        words = ("--sellers", sellers, "--buyers", buyers, "--id-col", "id", "--budget", 4)
        out = tmp_path / f"{name}-bought.parquet"
        result = invoke("select", *words, "--json", "--out", out, "--manifest", manifest)
        assert result.exit_code == 0, result.exception
        found = json.loads(result.stdout)["purchase"]
        assert [line["id"] for line in found] == [
            int(ids[number]) if name == "numbers" else str(ids[number]) for number in expected
        ]
        bought = read_table(out, label="id", drop=["file"]).labels
        assert bought is not None and bought.tolist() == ids[expected].tolist()


def test_shards_of_arrays_stay_on_the_disk_with_prices_beside_them(tmp_path: Path) -> None:
    folder = tmp_path / "sellers"
    folder.mkdir()
    paths = [write(folder / f"{i}.npy", part) for i, part in enumerate(np.split(ROWS, [7, 19]))]
    buyers, prices = write(tmp_path / "q.npy", QUERIES), tmp_path / "p.npy"
    np.save(prices, PRICES)
    expected = select(ROWS, QUERIES, 9, costs=PRICES).indices.tolist()
    for sellers in ([folder], paths):
        common = ("--sellers", *sellers, "--buyers", buyers, "--prices", prices)
        assert bought_by(*common, "--budget", 9) == expected
    market = Reader(
        Inputs(sellers=[folder], buyers=[buyers], prices=prices), Making(), Terms()
    ).market()
    assert all(isinstance(shard.base, np.memmap) for shard in market.rows)
    where = places(market.table, np.array([0, 7, 29]))
    assert where["file"] == [str(paths[0]), str(paths[1]), str(paths[2])]
    assert where["row"] == [0, 0, 10]
    assert [role for role, _ in market.files] == [*["sellers"] * 3, "buyers", "prices"]


def test_features_may_be_chosen_and_other_columns_left_aside(tmp_path: Path) -> None:
    columns = {f"f{i}": ROWS[:, i] for i in range(3)}
    town = ["Oslo"] * 30
    write_table(tmp_path / "s.csv", {**columns, "price": PRICES, "town": town, "y": PRICES})
    write_table(tmp_path / "q.csv", {"name": ["q"], "f2": QUERIES[:, 2], "f0": QUERIES[:, 0]})
    common = ("--sellers", tmp_path / "s.csv", "--buyers", tmp_path / "q.csv", "--budget", 9)
    common = (*common, "--price-col", "price")
    used = [0, 2]
    expected = select(ROWS[:, used], QUERIES[:, used], 9, costs=PRICES).indices.tolist()
    assert bought_by(*common, "--feature-cols", "f0", "f2") == expected
    # Columns that only one side has are named all the same.
    assert bought_by(*common, "--drop", "town", "name", "f1", "--label-col", "y") == expected


# Layer normalisation takes a dimension away.
@pytest.mark.filterwarnings("ignore:the sellers' rows have rank:modicum.daved.errors.DAVEDWarning")
def test_texts_are_embedded(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    import torch

    from modicum.daved.integrations.transformers import TextFeatures

    words = ["[UNK]", "[PAD]", "good", "bad", "drug", "sleep", "pain", "none"]
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=8, unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(tmp_path / "model")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        vocab_size=len(words), max_position_embeddings=8,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(tmp_path / "model")
    texts = [" ".join(RNG.choice(words[2:], 4)) for _ in range(20)]
    write_table(tmp_path / "s.csv", {"text": texts, "stars": range(20)})
    write_table(tmp_path / "q.csv", {"text": ["good sleep none"]})
    common = ("--sellers", tmp_path / "s.csv", "--buyers", tmp_path / "q.csv", "--budget", 3)
    options = ("--features", f"hf:{tmp_path / 'model'}", "--record-col", "text", "--intercept")
    embed = TextFeatures(str(tmp_path / "model")).transform
    rows, queries = (
        np.hstack([embed(t), np.ones((len(t), 1))]) for t in (texts, ["good sleep none"])
    )
    assert bought_by(*common, *options) == select(rows, queries, 3).indices.tolist()


def test_images_are_read_when_asked_for(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "a.png"
    image.new("RGB", (3, 2), (1, 2, 3)).save(path)
    images = ImageFiles([str(path), str(tmp_path / "absent.png")])
    assert len(images) == 2 and images[0].size == (3, 2) and images[0].getpixel((0, 0)) == (1, 2, 3)
    with pytest.raises(FileNotFoundError, match="absent"):
        _ = images[1]


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """A market that can be bought from; a test changes one thing of it."""
    write(tmp_path / "s.csv")
    write(tmp_path / "q.csv", QUERIES, PRICES[:1])
    return {
        "--sellers": tmp_path / "s.csv",
        "--buyers": tmp_path / "q.csv",
        "--price-col": "price",
        "--budget": 9,
    }


def refused(options: dict[str, Any], status: int = 2, name: str = "select") -> str:
    """Run a command that must end with a status; give its message, of one line."""
    words = [part for pair in options.items() if pair[1] is not None for part in pair]
    result = invoke(name, *words)
    if status != 2:
        assert result.exit_code == status, result.output
        return str(result.stderr)
    # The program makes status 2 of these, and of nothing else.
    assert isinstance(result.exception, ValueError | OSError | ImportError), result.output
    return str(result.exception)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"--price-col": "cost"}, "s.csv has no column ['cost']"),
    ({"--id-col": "id"}, "no column ['id']"),
    ({"--group-col": "lot"}, "no column ['lot']"),
    ({"--noise-col": "noise"}, "no column ['noise']"),
    ({"--label-col": "y"}, "columns that no file has: ['y']"),
    ({"--drop": "z"}, "columns that no file has: ['z']"),
    ({"--feature-cols": "f9"}, "no column ['f9']"),
    ({"--budget": -1}, "--budget must be positive and finite, not -1.0"),
    ({"--budget": 0}, "--budget must be positive and finite, not 0.0"),
    ({"--budget": "nan"}, "--budget must be positive and finite, not nan"),
    ({"--solver": "simplex"}, "'fw', 'one_step', 'greedy', 'multiplicative', 'exact'"),
    ({"--rounding": "floor"}, "'topk', 'sample', 'greedy'"),
    ({"--step": "newton"}, "'line_search', 'open_loop', 'herding'"),
    ({"--step": "1.5"}, "step must be a name or a number in (0, 1), not 1.5"),
    ({"--max-iter": "many"}, "max_iter must be 'auto' or an integer, not 'many'"),
    ({"--features": "pca"}, "features is one of identity, standardize"),
    ({"--features": "entk"}, "torch module"),
    ({"--features": "hf:x"}, "needs --record-col"),
    ({"--record-col": "f0"}, "--record-col is for"),
    ({"--sigma2": 0}, "--sigma2 must be positive"),
    ({"--max-per-group": 2}, "need groups"),
    ({"--device": "abacus"}, "abacus"),
    ({"--dtype": "int8"}, "dtype must be one of"),
    ({"--weight-col": "weight"}, "no column ['weight']"),
    ({"--out": "picks.txt"}, "picks.txt: the ending has to be .csv or .parquet"),
    ({"--manifest": "run.yaml"}, "run.yaml: the ending has to be .json"),
    ({"--report": "run.pdf"}, "run.pdf: the ending has to be .html"),
    ({"--sellers": "absent.csv"}, "absent.csv does not exist"),
    ({"--buyers": "absent.csv"}, "absent.csv does not exist"),
    ({"--prices": "p.npy"}, "not in both"),
]


@pytest.mark.parametrize(("change", "words"), BAD)
def test_what_cannot_be_is_named(
    options: dict[str, Any], change: dict[str, Any], words: str
) -> None:
    assert words in refused({**options, **change})


def test_columns_that_do_not_match(options: dict[str, Any], tmp_path: Path) -> None:
    write_table(tmp_path / "q.csv", {"f0": [1.0], "f1": [2.0], "g": [3.0]})
    message = refused(options)
    assert "q.csv has other features than the sellers: missing ['f2'], unknown ['g']" in message
    assert "--label-col" in message
    np.save(tmp_path / "q.npy", QUERIES[:, :2])
    message = refused({**options, "--buyers": tmp_path / "q.npy"})
    assert "q.npy has 2 features, but the sellers have 3" in message
    # A price that was not named looks like a feature of both.
    write_table(tmp_path / "q.csv", {f"f{i}": QUERIES[:, i] for i in range(3)})
    assert "missing ['price']" in refused({**options, "--price-col": None})


def test_numbers_that_are_none(options: dict[str, Any], tmp_path: Path) -> None:
    rows = ROWS.copy()
    rows[4, 1] = np.nan
    write(tmp_path / "s.csv", rows)
    assert "s.csv has 1 values that are NaN or infinite, the first at (4, 1)" in refused(options)
    write(tmp_path / "s.csv")
    write(tmp_path / "q.csv", np.full((1, 3), np.inf), PRICES[:1])
    assert "q.csv has 3 values that are NaN" in refused(options)
    write(tmp_path / "q.csv", np.zeros((1, 3)), PRICES[:1])
    assert "rows of zeros" in refused(options)
    write(tmp_path / "q.csv", QUERIES, PRICES[:1])
    for price, words in ((np.nan, "column 'price' has 1 values that are NaN"), (-1, "above 0")):
        write(tmp_path / "s.csv", prices=np.where(np.arange(30) == 2, price, PRICES))
        assert words in refused(options)
    lines = (tmp_path / "s.csv").read_text().splitlines()
    (tmp_path / "s.csv").write_text("\n".join([*lines[:3], "1,Oslo,2,3"]))
    assert "column 'f1' holds 'Oslo', not a number" in refused(options)
    (tmp_path / "s.csv").write_text(lines[0])
    assert "0 sample(s)" in refused(options)


def test_unknown_endings_and_prices_of_another_length(
    options: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "s.xlsx").write_bytes(b"")
    assert "s.xlsx: the ending has to be" in refused({**options, "--sellers": tmp_path / "s.xlsx"})
    np.save(tmp_path / "p.npy", PRICES[:5])
    change = {"--price-col": None, "--drop": "price", "--prices": tmp_path / "p.npy"}
    assert "one price for each of the 30 records" in refused({**options, **change})


def test_a_budget_below_every_price_has_a_status_of_its_own(options: dict[str, Any]) -> None:
    message = refused({**options, "--budget": 0.5}, status=3)
    assert "budget 0.5 buys nothing: the cheapest price is" in message and message.count("\n") == 1
    plan = {name: word for name, word in options.items() if name != "--budget"}
    assert "buys nothing" in refused({**plan, "--budgets": 0.5}, status=3, name="plan")


def test_nothing_is_written_where_something_is_wrong(
    options: dict[str, Any], tmp_path: Path
) -> None:
    out, manifest = tmp_path / "o.csv", tmp_path / "o.json"
    refused({**options, "--budget": 0.5, "--out": out, "--manifest": manifest}, status=3)
    refused({**options, "--out": out, "--manifest": tmp_path / "o.txt"})
    assert not out.exists() and not manifest.exists()


def test_vectors_and_tables_with_roles(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", PRICES[:, None])
    np.testing.assert_array_equal(read_vector(tmp_path / "p.npy"), PRICES)
    write_table(tmp_path / "p.csv", {"p": PRICES, "q": PRICES})
    with pytest.raises(ValueError, match=r"p\.csv has shape \(30, 2\)"):
        read_vector(tmp_path / "p.csv")
    write_table(tmp_path / "t.parquet", {"a": [1.0], "n": [0.5], "text": ["x"], "b": [2.0]})
    table = read_table(
        tmp_path / "t.parquet", noise="n", record="text", features=["b"], ignore=["a", "z"]
    )
    assert np.asarray(table.values).tolist() == [[2.0]] and table.columns == ("b",)
    assert table.noise is not None and table.noise.tolist() == [0.5]
    assert table.records is not None and table.records.tolist() == ["x"]
    assert table.ignored == {"a"}
    bare = {"record": "text", "features": ()}
    assert np.asarray(read_table(tmp_path / "t.parquet", **bare).values).shape == (1, 0)  # type: ignore[arg-type]
    np.savez(tmp_path / "t.npz", text=np.array(["x", "y"]), X=np.ones((2, 3)))
    assert np.asarray(read_table(tmp_path / "t.npz", **bare).values).shape == (2, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="say with key"):
        read_table(tmp_path / "t.npz", features=["X"])
    with pytest.raises(ValueError, match=r"no column \['a'\]"):
        np.save(tmp_path / "t.npy", ROWS)
        read_table(tmp_path / "t.npy", features=["a"])
