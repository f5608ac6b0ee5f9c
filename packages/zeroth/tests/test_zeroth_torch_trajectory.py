"""Trajectory files: what is in them, going on after accidents, and the way back to the weights."""

import json
import math
import os

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modicum.zeroth.errors import ZerothWarning
from modicum.zeroth.torch import (
    AutoRadius,
    TrajectoryWriter,
    ZOOptimizer,
    decay_groups,
    read_trajectory,
    replay,
)


def make_module(dtype=torch.float32, width=8):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(6, width), nn.LayerNorm(width), nn.Tanh(), nn.Linear(width, 3)
        ).to(dtype)


def closure_of(module, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, 6, generator=generator).to(dtype)
    y = torch.randint(0, 3, (16,), generator=generator)
    return lambda: F.cross_entropy(module(x).float(), y).detach()


def bits(module):
    return {name: value.clone().view(torch.uint8) for name, value in module.state_dict().items()}


def same_bits(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.zo.jsonl"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "options",
    [
        {"epsilon": 0.02},
        {"epsilon": 0.02, "pairs": 3, "momentum": 0.9, "directions": "sphere"},
        {"epsilon": 0.02, "precond": "diag", "pairs": 2, "perturb": "streamed"},
        {"radius": AutoRadius(start=0.01, directions=2, rounds=2, every=5)},
    ],
)
def test_replay_gives_the_weights_bit_for_bit(dtype, options, path):
    module = make_module(dtype)
    optimizer = ZOOptimizer(decay_groups(module, 0.1), 0.05, seed=2**64 - 9, **options)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    after = [bits(module)]
    with TrajectoryWriter(path, optimizer, module):
        for step in range(12):
            if step == 6:
                optimizer.param_groups[0]["weight_decay"] = 0.3
                module[0].bias.requires_grad_(False)
            if step == 9:
                module[0].bias.requires_grad_(True)
            optimizer.step(closure_of(module, dtype))
            scheduler.step()
            after.append(bits(module))
    for steps in (None, 7, 0):
        again = make_module(dtype).requires_grad_(False)
        finished = replay(again, path, steps=steps)
        assert same_bits(bits(again), after[-1 if steps is None else steps])
        assert not any(p.requires_grad for p in again.parameters())
        assert finished.steps == (12 if steps is None else steps)
    assert not same_bits(after[0], after[-1])


def test_a_step_takes_some_twenty_bytes(path):
    module = make_module()
    optimizer = ZOOptimizer(module.parameters(), 1e-4, epsilon=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    with TrajectoryWriter(path, optimizer, module):
        start = path.stat().st_size
        for _ in range(100):
            optimizer.step(closure_of(module))
        constant = path.stat().st_size - start
        for _ in range(100):
            scheduler.step()
            optimizer.step(closure_of(module))
        changing = path.stat().st_size - start - constant
    assert 10 < constant / 100 < 24
    assert 20 < changing / 100 < 40


def test_lines_say_what_a_step_was(path):
    module = make_module()
    groups = [{"params": [module[0].weight]}, {"params": [module[3].weight], "lr": 0.25}]
    optimizer = ZOOptimizer(groups, 0.125, epsilon=0.1, pairs=2, seed=5)
    with TrajectoryWriter(path, optimizer, module):
        for _ in range(2):
            optimizer.step(closure_of(module))
        optimizer.param_groups[0]["lr"] = 0.25
        optimizer.step(closure_of(module))
        optimizer.param_groups[1]["momentum"] = 0.5
        optimizer.step(closure_of(module))
    header, first, second, third, change, fourth = lines_of(path)
    assert header["tensors"] == [["0.weight", [8, 6], "float32"], ["3.weight", [3, 8], "float32"]]
    assert (header["seed"], header["sizes"], header["version"]) == (5, [1, 1], 1)
    assert header["groups"] == [[0.0, 0.0]] * 2 and header["trained"] == [0, 1]
    assert first[0] == 0 and first[2:] == [[0.125, 0.25], 0.1]
    assert second[0] == 2 and len(second) == 2 and len(second[1]) == 2
    assert third[2:] == [0.25]
    assert change == {"groups": [[0.0, 0.0], [0.0, 0.5]], "trained": [0, 1]}
    assert fourth[0] == 6 and len(fourth) == 2
    file = read_trajectory(path)
    assert [record.lr for _, record in file.steps] == [(0.125, 0.25)] * 2 + [(0.25, 0.25)] * 2
    assert file.steps[-1][1].scalars == optimizer.last.scalars
    assert file.steps[-1][0].groups == ((0.0, 0.0), (0.0, 0.5))


def test_numbers_survive_the_file(path):
    module = make_module()
    values = iter([1e30, 0.0, 1e-30, 2e-30, 1.0, 1.0, 3.0, 1.0, math.nan, 1.0])
    optimizer = ZOOptimizer(module.parameters(), 1e-3, epsilon=0.5, pairs=5)
    with TrajectoryWriter(path, optimizer, module):
        optimizer.step(lambda: next(values))
    ((_, record),) = read_trajectory(path).steps
    assert record.scalars == optimizer.last.scalars
    assert record.scalars[1] < 0 < record.scalars[0]
    assert record.scalars[2:] == (0.0, 2.0, None)
    assert (record.lr, record.epsilon) == (optimizer.last.lr, 0.5)


def test_a_step_without_pairs_is_replayed(path):
    module = make_module()
    optimizer = ZOOptimizer(module.parameters(), 0.1, epsilon=0.1)
    with TrajectoryWriter(path, optimizer, module):
        optimizer.step(closure_of(module))
        with pytest.warns(ZerothWarning):
            optimizer.step(lambda: math.nan)
        optimizer.step(closure_of(module))
    again = make_module()
    with pytest.warns(ZerothWarning, match="no pair of step 1"):
        assert replay(again, path).dropped == 1
    assert same_bits(bits(module), bits(again))


# Accidents ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 5, 9])
def test_a_last_line_that_was_cut_off_does_not_count(cut, path):
    module = make_module()
    optimizer = ZOOptimizer(module.parameters(), 0.05, epsilon=0.02)
    states = []
    with TrajectoryWriter(path, optimizer, module):
        for _ in range(5):
            optimizer.step(closure_of(module))
            model = {name: value.clone() for name, value in module.state_dict().items()}
            states.append((bits(module), model, optimizer.state_dict()))
    os.truncate(path, path.stat().st_size - cut)
    assert len(read_trajectory(path).steps) == 4
    again = make_module()
    replay(again, path)
    assert same_bits(bits(again), states[3][0])

    # From the checkpoint of step 4 the run goes on in the same file.
    resumed = make_module()
    resumed.load_state_dict(states[3][1])
    second = ZOOptimizer(resumed.parameters(), 0.05, epsilon=0.02)
    second.load_state_dict(states[3][2])
    with TrajectoryWriter(path, second, resumed):
        second.step(closure_of(resumed))
    assert same_bits(bits(resumed), states[4][0])
    again = make_module()
    replay(again, path)
    assert same_bits(bits(again), states[4][0])


def test_going_on_from_an_earlier_checkpoint_rewinds(path):
    module = make_module()
    optimizer = ZOOptimizer(module.parameters(), 0.05, epsilon=0.02, momentum=0.5)
    with TrajectoryWriter(path, optimizer, module):
        for step in range(6):
            if step == 2:
                model = {name: value.clone() for name, value in module.state_dict().items()}
                saved = {
                    "state": {
                        key: {n: v.clone() for n, v in value.items()}
                        for key, value in optimizer.state_dict()["state"].items()
                    }
                }
                saved = optimizer.state_dict() | saved
            if step == 4:
                optimizer.param_groups[0]["weight_decay"] = 0.1
            optimizer.step(closure_of(module))
    resumed = make_module()
    resumed.load_state_dict(model)
    second = ZOOptimizer(resumed.parameters(), 0.05, epsilon=0.02, momentum=0.5)
    second.load_state_dict(saved)
    second.param_groups[0]["lr"] = 0.02
    with TrajectoryWriter(path, second, resumed):
        for _ in range(2):
            second.step(closure_of(resumed))
    assert {"rewind": 2} in lines_of(path)
    assert len(read_trajectory(path).steps) == 4
    again = make_module()
    replay(again, path)
    assert same_bits(bits(again), bits(resumed))
    assert not same_bits(bits(again), bits(module))


def test_starting_anew_rewinds_everything(path):
    for lr in (0.05, 0.01):
        module = make_module()
        optimizer = ZOOptimizer(module.parameters(), lr, epsilon=0.02)
        with TrajectoryWriter(path, optimizer, module):
            for _ in range(3):
                optimizer.step(closure_of(module))
    again = make_module()
    assert replay(again, path).steps == 3
    assert same_bits(bits(again), bits(module))


def test_checkpoints_force_the_file_to_disk(path, monkeypatch):
    module = make_module()
    optimizer = ZOOptimizer(module.parameters(), 0.05, epsilon=0.02)
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    writer = TrajectoryWriter(path, optimizer, module)
    optimizer.step(closure_of(module))
    assert synced == []
    optimizer.state_dict()
    assert synced == [path.stat().st_size]
    writer.close()
    writer.close()
    size = path.stat().st_size
    optimizer.step(closure_of(module))
    assert path.stat().st_size == size


def test_missing_steps_are_refused(path):
    module = make_module()
    optimizer = ZOOptimizer(module.parameters(), 0.05, epsilon=0.02)
    optimizer.step(closure_of(module))
    with pytest.raises(ValueError, match="has no steps, but the optimizer has made 1"):
        TrajectoryWriter(path, optimizer, module)
    fresh_module = make_module()
    fresh = ZOOptimizer(fresh_module.parameters(), 0.05, epsilon=0.02)
    with TrajectoryWriter(path, fresh, fresh_module):
        pass
    with pytest.raises(ValueError, match="has 0 steps, but the optimizer has made 1"):
        TrajectoryWriter(path, optimizer, module)


# Other models -------------------------------------------------------------------------------------


@pytest.fixture
def recorded(path):
    module = make_module()
    module.register_buffer("offset", torch.zeros(3))
    optimizer = ZOOptimizer(
        [p for p in module.parameters() if p.ndim > 1], 0.05, epsilon=0.02, seed=3
    )
    with TrajectoryWriter(path, optimizer, module):
        for _ in range(2):
            optimizer.step(closure_of(module))
    return path


def base():
    module = make_module()
    module.register_buffer("offset", torch.zeros(3))
    return module


def test_replay_needs_only_the_tensors_it_moves(recorded):
    assert replay(base(), recorded).steps == 2


def test_another_base_model_is_refused_by_name(recorded):
    changed = base()
    with torch.no_grad():
        changed[0].weight[0, 0] += 1e-6
    frozen = base()
    with torch.no_grad():
        frozen[0].bias[0] += 1e-6
    buffered = base()
    buffered.offset += 1
    renamed = nn.ModuleDict({"net": base()})
    for module, message in (
        (changed, "parameters_hash: the parameters of the module"),
        (frozen, "frozen_hash: the weights beside the trained tensors"),
        (buffered, "frozen_hash"),
        (make_module(width=9), r"shape of '0\.weight': the file has \[8, 6\], the module \[9, 6\]"),
        (make_module(torch.float64), r"dtype of '0\.weight': the file has torch\.float32, not"),
        (renamed, r"tensors: the module has no parameter '0\.weight'"),
    ):
        before = bits(module)
        with pytest.raises(ValueError, match=message):
            replay(module, recorded)
        assert same_bits(before, bits(module))
    with pytest.raises(ValueError, match=r"steps must be in \[0, 2\], got 3"):
        replay(base(), recorded, steps=3)


def edit_header(path, **changes):
    header, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(header) | changes), *rest]) + "\n")


def test_another_generator_or_version_is_refused(recorded):
    edit_header(recorded, rng="mersenne")
    with pytest.raises(ValueError, match="rng: the file has 'mersenne'"):
        replay(base(), recorded)
    edit_header(recorded, version=2)
    with pytest.raises(ValueError, match="is 2, known here: 1"):
        read_trajectory(recorded)
    edit_header(recorded, format="csv")
    with pytest.raises(ValueError, match="is no trajectory"):
        read_trajectory(recorded)


def test_damaged_lines_are_named(recorded):
    header, first, second = recorded.read_text().splitlines()
    for line, message in (
        ("nonsense", "line 2 of .* is not JSON"),
        ("[0]", "line 2 of .* is no step"),
        ("[0,1.0]", "line 2 of .* is no step"),
        ('{"else": 1}', "line 2 of .* is no step"),
    ):
        recorded.write_text("\n".join([header, line, second]) + "\n")
        with pytest.raises(ValueError, match=message):
            read_trajectory(recorded)
    recorded.write_text("")
    with pytest.raises(ValueError, match="is no trajectory"):
        read_trajectory(recorded)
    assert first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "seed is 3 there and 4 here"),
        ({"precond": "diag"}, "precond is 'none' there and 'diag' here"),
        ({"everything": True}, r"tensor 1 is \['3\.weight', .* there and \['0\.bias', \[8\]"),
        ({"dtype": torch.float64}, r"tensor 0 is .*'float32'\] there and .*'float64'\] here"),
        ({"nudge": True}, "parameters_hash"),
    ],
)
def test_another_run_does_not_go_on(recorded, change, message):
    module = base().to(change.pop("dtype", torch.float32))
    everything = change.pop("everything", False)
    if change.pop("nudge", False):
        module[3].weight.data += 1
    optimizer = ZOOptimizer(
        [p for p in module.parameters() if everything or p.ndim > 1],
        0.05,
        epsilon=0.02,
        **({"seed": 3} | change),
    )
    size = recorded.stat().st_size
    with pytest.raises(ValueError, match=message):
        TrajectoryWriter(recorded, optimizer, module)
    assert recorded.stat().st_size == size


def test_parameters_of_another_module_are_refused(path):
    optimizer = ZOOptimizer(make_module().parameters(), 0.1, epsilon=0.1)
    with pytest.raises(ValueError, match=r"parameter '0' .* is not one of the module"):
        TrajectoryWriter(path, optimizer, make_module())


def test_tied_parameters_are_one(path):
    def tied():
        module = nn.ModuleDict({"embed": nn.Embedding(5, 4), "head": nn.Linear(4, 5, bias=False)})
        module["head"].weight = module["embed"].weight
        with torch.no_grad():
            module["embed"].weight.copy_(torch.arange(20.0).view(5, 4) / 20)
        return module

    ids = torch.arange(5)
    module = tied()
    optimizer = ZOOptimizer(module.parameters(), 0.1, epsilon=0.1)
    with TrajectoryWriter(path, optimizer, module):
        for _ in range(3):
            optimizer.step(
                lambda: F.cross_entropy(module["head"](module["embed"](ids)), ids).detach()
            )
    again = tied()
    replay(again, path)
    assert torch.equal(again["head"].weight, module["embed"].weight)


def test_replay_goes_on(path):
    """What replay returns can make further steps, which a writer appends."""
    module = make_module()
    optimizer = ZOOptimizer(module.parameters(), 0.05, epsilon=0.02, momentum=0.9)
    with TrajectoryWriter(path, optimizer, module):
        for _ in range(3):
            optimizer.step(closure_of(module))
    again = make_module()
    second = replay(again, path)
    for one, group in zip((optimizer, second), ([0.05], [0.05]), strict=True):
        one.param_groups[0]["lr"] = group[0]
    with TrajectoryWriter(path, second, again):
        second.step(closure_of(again))
    optimizer.step(closure_of(module))
    assert same_bits(bits(again), bits(module))
    third = make_module()
    assert replay(third, path).steps == 4
    assert same_bits(bits(third), bits(module))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_weights_trained_on_a_device_come_back_on_the_host(dtype, momentum, path):
    module = make_module(dtype).cuda()
    optimizer = ZOOptimizer(
        decay_groups(module, 0.1), 0.05, epsilon=0.02, pairs=2, momentum=momentum
    )
    inner = closure_of(lambda x: module(x.cuda()).cpu(), dtype)
    with TrajectoryWriter(path, optimizer, module):
        for _ in range(5):
            optimizer.step(inner)
    again = make_module(dtype)
    replay(again, path)
    assert same_bits(bits(again), bits(module.cpu()))
