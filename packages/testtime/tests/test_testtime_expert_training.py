"""The experts that the package brings are right on every string, by a margin."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from modicum.core.device import one_thread
from modicum.testtime.experiments.expert_training import (
    CHECKPOINT,
    END_OF_INPUT,
    LENGTH,
    RECIPES,
    TASKS,
    all_strings,
    load_experts,
    main,
    mistakes,
    rows,
    train_experts,
)


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


def test_all_strings_are_all_strings():
    strings = all_strings()
    assert strings.shape == (256, 8)
    assert {tuple(s) for s in strings.tolist()} == {
        tuple(int(bit) for bit in f"{number:08b}") for number in range(256)
    }


def test_tasks_say_what_they_do():
    string = np.array([[1, 0, 0, 1, 1, 0, 1, 0]])
    wanted = {
        "copy": [1, 0, 0, 1, 1, 0, 1, 0],
        "reverse": [0, 1, 0, 1, 1, 0, 0, 1],
        "complement": [0, 1, 1, 0, 0, 1, 0, 1],
        "sort": [0, 0, 0, 0, 1, 1, 1, 1],
    }
    assert {task: rule(string)[0].tolist() for task, rule in TASKS.items()} == wanted
    taught = rows("complement", string)
    assert taught.ids_BT.tolist() == [[*string[0], END_OF_INPUT, *wanted["complement"]]]
    assert taught.learned_BT[0].tolist() == [False] * 9 + [True] * 8


@pytest.mark.parametrize("task", list(TASKS))
def test_expert_is_right_on_every_string_by_a_margin(task):
    expert = load_experts()[task]
    assert mistakes(expert, task) == 0
    ids = torch.from_numpy(rows(task, all_strings()).ids_BT)
    with torch.no_grad():
        logits = expert(ids[:, :-1])[:, LENGTH:]
    wanted = ids[:, LENGTH + 1 :, None]
    rival = logits.scatter(2, wanted, -torch.inf).amax(dim=-1)
    # Far beyond what rounding on another machine can move.
    assert (logits.gather(2, wanted)[..., 0] - rival).min() > 1
    for other in TASKS:
        assert (mistakes(expert, other) == 0) == (other == task)


def test_the_file_is_small_and_says_how_it_was_made():
    assert CHECKPOINT.stat().st_size < 300_000
    with safe_open(CHECKPOINT, framework="pt") as file:
        metadata = file.metadata()
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    assert metadata["command"].startswith("python -m modicum.testtime.experiments.expert_training")
    for task, recipe in zip(TASKS, RECIPES, strict=True):
        made = json.loads(metadata[task])
        assert made["recipe"] == recipe.name
        assert made["steps"] == str(recipe.steps)
        assert float(made["loss"]) < 0.01


def test_training_is_repeatable_and_short_training_is_not_enough(tmp_path, capsys):
    wrong = train_experts(tmp_path / "one", seed=1, steps=3)
    main(["--out", str(tmp_path / "two"), "--seed", "1", "--steps", "3"])
    one, two = (load_experts(tmp_path / name) for name in ("one", "two"))
    for task in TASKS:
        for left, right in zip(one[task].parameters(), two[task].parameters(), strict=True):
            assert torch.equal(left, right)
    assert min(wrong.values()) > 0
    assert capsys.readouterr().out.splitlines()[0] == f"copy: {wrong['copy']} of 256 strings wrong"
    assert load_experts(tmp_path / "one", dtype=torch.float64)["sort"].lm_head.weight.dtype == (
        torch.float64
    )
