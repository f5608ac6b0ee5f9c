"""Prompts over processes: the answers of one process, in their order, with gloo on this machine."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pvf_models import EOS, MASK, VOCABULARY

from modicum.pvf import PVF, CallablePredictor, generate
from modicum.pvf.canvases import each_prompt
from modicum.pvf.integrations.distributed import generate_distributed
from modicum.pvf.testing import NoisyPredictor

PLAN = PVF(plan_vocab=tuple(range(10)), unlock_threshold=2)
OPTIONS = {"strategy": PLAN, "gen_length": 12, "block_length": 4, "batch_size": 2}
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]

PROCESS = """
import sys
import torch
from torch import distributed
rank, store, tests, out = int(sys.argv[1]), *sys.argv[2:]
sys.path.insert(0, tests)
torch.set_num_threads(1)
import test_pvf_distributed as cases
distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
torch.save(cases.in_a_process(rank), f"{out}/{rank}")
distributed.destroy_process_group()
"""


def noisy_predictor(seed=0):
    """Give a predictor that says something else of every canvas, whatever its padding."""
    flat = CallablePredictor(
        lambda ids, *padding: torch.zeros(*ids.shape, VOCABULARY), MASK, VOCABULARY, eos_id=EOS
    )
    return NoisyPredictor(flat, sigma=4.0, seed=seed)


def in_a_process(rank):
    """Run what every process runs; gives plain values."""
    model = noisy_predictor(0)
    seen = []
    many = generate_distributed(
        model, PROMPTS, return_trace=True, on_step=lambda commits: seen.extend(commits), **OPTIONS
    )
    one = generate_distributed(model, PROMPTS[:1], **OPTIONS)
    padded = generate_distributed(
        model,
        torch.tensor([[0, 1, 2], [3, 4, 5], [0, 0, 6]]),
        attention_mask=torch.tensor([[0, 1, 1], [1, 1, 1], [0, 0, 1]]),
        **OPTIONS,
    )
    drawn = [
        generate_distributed(model, [[1, 2]] * 4, seed=seed, temperature=1.0, **OPTIONS).generated
        for seed in (3, 3, 4)
    ]
    try:
        generate_distributed(model, [[1], [99]], **OPTIONS)
        error = None
    except (RuntimeError, ValueError) as raised:
        error = f"{type(raised).__name__}: {raised}"
    return {
        "many": plain(many),
        "trace": [[commit.to_dict() for commit in commits] for commits in many.trace],
        "seen": [commit.to_dict() for commit in seen],
        "one": plain(one),
        "padded": plain(padded),
        "drawn": drawn,
        "error": error,
    }


def plain(out):
    return {
        "sequences": out.sequences.tolist(),
        "generated": out.generated.tolist(),
        "cost": [(item.nfe, item.rows, item.committed) for item in out.stats],
    }


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What each of two processes gave."""
    folder = tmp_path_factory.mktemp("processes")
    script = folder / "process.py"
    script.write_text(PROCESS)
    tests = str(Path(__file__).parent)
    started = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(folder / "store"), tests, str(folder)]
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=240) for process in started] == [0, 0]
    return [torch.load(folder / str(rank)) for rank in range(2)]


def test_two_processes_give_the_answers_of_one(processes):
    model = noisy_predictor(0)
    expected = generate(model, PROMPTS, return_trace=True, **OPTIONS)
    one = generate(model, PROMPTS[:1], **OPTIONS)
    padded = generate(model, [[1, 2], [3, 4, 5], [6]], **OPTIONS)
    trace = [[commit.to_dict() for commit in commits] for commits in expected.trace]
    for found in processes:
        assert found["many"] == plain(expected)
        assert found["trace"] == trace
        assert found["one"] == plain(one)
        assert found["padded"] == plain(padded)


def test_each_process_tells_of_its_own_prompts(processes):
    numbers = [{commit["sequence"] for commit in found["seen"]} for found in processes]
    assert numbers == [{0, 1}, {2, 3, 4}]


def test_shares_draw_what_one_process_draws(processes):
    model = noisy_predictor(0)
    first, second = (found["drawn"] for found in processes)
    for ours, theirs in zip(first, second, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    alone = generate(model, [[1, 2]] * 4, seed=3, temperature=1.0, **OPTIONS)
    assert torch.equal(first[0], alone.generated)
    # Prompts that are alike have other answers in both shares.
    assert len({tuple(row) for row in first[0].tolist()}) == 4


def test_an_error_of_one_process_is_raised_in_all(processes):
    first, second = (found["error"] for found in processes)
    assert second.startswith("ValueError: prompt 0 holds 99")
    assert first.startswith("RuntimeError: process 1 failed: ValueError")
    assert "prompt 0 holds 99" in first


def test_one_process_is_generate(monkeypatch):
    model = noisy_predictor(0)
    expected = generate(model, PROMPTS, temperature=0.7, seed=5, **OPTIONS)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    found = generate_distributed(model, PROMPTS, temperature=0.7, seed=5, **OPTIONS)
    assert torch.equal(found.sequences, expected.sequences)
    assert torch.equal(found.generated, expected.generated)
    assert found.trace is None and found.texts is None
    single = generate_distributed(model, [1, 2], **OPTIONS)
    assert torch.equal(single.generated, generate(model, [1, 2], **OPTIONS).generated)
    with pytest.raises(ValueError, match="prompts is empty"):
        generate_distributed(model, [], **OPTIONS)


def test_shares_hold_whole_conversations():
    message = {"role": "user", "content": "text"}
    assert each_prompt([message, message]) == [[message, message]]
    assert each_prompt([[message], [message]]) == [[message], [message]]
    assert each_prompt(message) == [message] and each_prompt("text") == ["text"]
    assert each_prompt(torch.tensor([[1, 2], [3, 4]])) == [[1, 2], [3, 4]]
    assert each_prompt((1, 2)) == [[1, 2]] and each_prompt(["a", "b"]) == ["a", "b"]


def test_a_launcher_without_a_group_is_noticed(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="init_process_group"):
        generate_distributed(noisy_predictor(0), PROMPTS, **OPTIONS)
