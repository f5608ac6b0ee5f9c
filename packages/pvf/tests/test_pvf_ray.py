"""Prompts in batches, on plain dictionaries and as a stage of a real Ray Data pipeline."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pvf_checkpoints import write_llada, write_tokenizer
from pvf_models import EOS, MASK, VOCABULARY

from modicum.pvf import PVF, CallablePredictor, generate
from modicum.pvf.integrations.ray import GenerateBatch
from modicum.pvf.loading import load_mask_predictor
from modicum.pvf.testing import NoisyPredictor

PLAN = PVF(plan_vocab=tuple(range(10)), unlock_threshold=2)
OPTIONS = {"strategy": PLAN, "gen_length": 12, "block_length": 4}


def noisy_predictor(seed=0):
    """Give a predictor that says something else of every canvas, whatever its padding."""
    flat = CallablePredictor(
        lambda ids, *padding: torch.zeros(*ids.shape, VOCABULARY), MASK, VOCABULARY, eos_id=EOS
    )
    return NoisyPredictor(flat, sigma=4.0, seed=seed)


def ragged(*rows):
    found = np.empty(len(rows), dtype=object)
    found[:] = [np.array(row) for row in rows]
    return found


def test_a_batch_gets_answers_and_costs():
    stage = GenerateBatch(noisy_predictor, column="ids", model_options={"seed": 3}, **OPTIONS)
    batch = {"ids": ragged([1, 2, 3], [4]), "name": np.array(["a", "b"])}
    found = stage(batch)
    expected = generate(noisy_predictor(3), [[1, 2, 3], [4]], **OPTIONS)
    assert list(found) == ["ids", "name", "generated_ids", "nfe", "rows", "token_evals"]
    np.testing.assert_array_equal(found["generated_ids"], expected.generated.numpy())
    for name in ("nfe", "rows", "token_evals"):
        assert found[name].tolist() == [getattr(item, name) for item in expected.stats]
    assert list(batch) == ["ids", "name"]
    with pytest.raises(ValueError, match=r"no column 'ids'; it has \['prompt'\]"):
        stage({"prompt": np.array(["a"])})


def test_texts_and_checkpoints(tmp_path):
    path = write_llada(tmp_path / "model")
    write_tokenizer(path)
    options = {"device": "cpu", "dtype": "float64"}
    stage = GenerateBatch(path, model_options=options, **OPTIONS)
    found = stage({"prompt": np.array(["w1 w2", "w3"])})
    expected = generate(load_mask_predictor(path, **options), ["w1 w2", "w3"], **OPTIONS)
    assert found["generated_text"].tolist() == expected.texts


def test_draws_belong_to_a_batch():
    stage = GenerateBatch(
        lambda: noisy_predictor(0), column="ids", seed=1, temperature=1.0, **OPTIONS
    )
    same = ragged([1, 2], [1, 2])

    def drawn(**others):
        return stage({"ids": same, **others})["generated_ids"].tolist()

    assert drawn() == drawn()
    # 12 columns at a temperature of 1 agree by chance with a probability below 1e-6.
    assert drawn(number=np.array([0, 1])) != drawn(number=np.array([2, 3]))
    first, second = drawn()
    assert first != second


PIPELINE = """
import sys
sys.path.insert(0, sys.argv[1])
import ray
from modicum.pvf.integrations.ray import GenerateBatch
from test_pvf_ray import noisy_predictor

ray.init(
    num_cpus=2, include_dashboard=False, log_to_driver=False,
    runtime_env={"env_vars": {"PYTHONPATH": sys.argv[1]}},
)
rows = [{"number": n, "ids": [1 + n, 2, 3 + n % 5][: 1 + n % 3]} for n in range(12)]
found = ray.data.from_items(rows).map_batches(
    GenerateBatch,
    fn_constructor_kwargs={
        "model": noisy_predictor, "model_options": {"seed": 3}, "column": "ids",
        "strategy": "threshold", "gen_length": 12, "block_length": 4,
    },
    batch_format="numpy", batch_size=4, concurrency=2,
)
for row in sorted(found.take_all(), key=lambda row: row["number"]):
    print("ROW", row["number"], *row["generated_ids"], row["nfe"])
ray.shutdown()
"""


@pytest.mark.slow
def test_a_pipeline_of_ray_data(tmp_path):
    """In a process of its own: Ray starts others and is gone with them."""
    pytest.importorskip("ray")
    script = tmp_path / "pipeline.py"
    script.write_text(PIPELINE)
    done = subprocess.run(
        [sys.executable, str(script), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("ROW")]
    prompts = [[1 + n, 2, 3 + n % 5][: 1 + n % 3] for n in range(12)]
    options = {"strategy": "threshold", "gen_length": 12, "block_length": 4}
    expected = generate(noisy_predictor(3), prompts, **options)
    for number, line in enumerate(lines):
        values = [number, *expected.generated[number].tolist(), expected.stats[number].nfe]
        assert [int(value) for value in line] == values
    assert len(lines) == 12
