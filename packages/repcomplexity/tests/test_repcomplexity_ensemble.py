"""Networks trained together against the same networks trained alone by torch."""

import numpy as np
import pytest
import torch

from modicum.repcomplexity.ensemble import (
    MLPEnsemble,
    NetworkSpec,
    Problem,
    batches,
    parameter_count,
)


def problems(n=200, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    narrow = np.ascontiguousarray(x[:, :3])
    return [
        Problem(x, np.stack([np.sin(x[:, 0]), x[:, 1] * x[:, 2], x[:, 3]], axis=1)),
        Problem(x, np.abs(x[:, :1])),
        Problem(narrow, np.tanh(narrow[:, :2])),
    ]


SPECS = [NetworkSpec(k, width, seed) for k in range(3) for width in (3, 8) for seed in (0, 4)]


def train_alone(ensemble, problem, spec, steps, size, *, drop_last=True, device="cpu"):
    network = ensemble.network(SPECS.index(spec)).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=ensemble.lr)
    x = torch.from_numpy(np.float32(problem.inputs)).to(device)
    y = torch.from_numpy(np.float32(problem.targets)).to(device)
    losses = []
    for rows in batches(len(x), size, steps, spec.seed, drop_last=drop_last):
        loss = torch.nn.functional.mse_loss(network(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return network, losses


def check_against_alone(depth, drop_last, device):
    given = problems()
    ensemble = MLPEnsemble(given, SPECS, depth=depth, lr=3e-3, device=device)
    alone = [
        train_alone(ensemble, given[s.problem], s, 60, 64, drop_last=drop_last, device=device)
        for s in SPECS
    ]
    losses = ensemble.fit(60, 64, drop_last=drop_last).cpu().numpy()
    for index, (network, expected) in enumerate(alone):
        np.testing.assert_allclose(losses[:, index], expected, rtol=2e-4, atol=1e-6)
        for ours, theirs in zip(
            ensemble.network(index).parameters(), network.parameters(), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-5)
    for index, (network, _) in enumerate(alone):
        x = torch.from_numpy(np.float32(given[SPECS[index].problem].inputs)).to(device)
        expected = network(x).detach().cpu().numpy()
        np.testing.assert_allclose(ensemble.predict(index), expected, rtol=1e-3, atol=1e-4)
        some = given[SPECS[index].problem].inputs[5:9]
        np.testing.assert_array_equal(ensemble.predict(index, some).shape, expected[5:9].shape)
        np.testing.assert_allclose(ensemble.predict(index, some), expected[5:9], atol=1e-3)


@pytest.mark.parametrize(("depth", "drop_last"), [(1, True), (2, True), (2, False), (3, True)])
def test_each_network_learns_what_it_would_alone(depth, drop_last):
    check_against_alone(depth, drop_last, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("drop_last", [True, False])
def test_each_network_learns_what_it_would_alone_on_a_gpu(drop_last):
    check_against_alone(2, drop_last, "cuda")


@pytest.mark.gpu
def test_one_seed_is_one_start_on_every_device():
    here, there = (MLPEnsemble(problems(), SPECS, device=name) for name in ("cpu", "cuda"))
    for index in range(len(SPECS)):
        for one, other in zip(
            here.network(index).parameters(), there.network(index).parameters(), strict=True
        ):
            assert torch.equal(one, other.cpu())


def test_padding_stays_zero():
    ensemble = MLPEnsemble(problems(), SPECS, device="cpu")
    ensemble.fit(40, 32)
    real = sum(ensemble.parameter_count(index) for index in range(len(ensemble)))
    assert int((ensemble._flat != 0).sum()) == real
    assert ensemble._flat.numel() > real


def test_company_changes_nothing():
    given = problems()
    together = MLPEnsemble(given, SPECS, device="cpu")
    together.fit(30, 50)
    for index in (0, 5, 11):
        alone = MLPEnsemble(given, [SPECS[index]], device="cpu")
        alone.fit(30, 50)
        for one, other in zip(
            together.network(index).parameters(), alone.network(0).parameters(), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_networks_of_one_seed_share_hidden_layers_and_batches_over_targets():
    specs = [NetworkSpec(0, 6, 3), NetworkSpec(1, 6, 3), NetworkSpec(0, 6, 5)]
    ensemble = MLPEnsemble(problems(), specs, depth=2, device="cpu")
    first, second, other = (list(ensemble.network(index).parameters()) for index in range(3))
    for index in range(4):
        assert torch.equal(first[index], second[index])
    assert not torch.equal(first[0], other[0])
    assert [list(rows) for rows in batches(9, 3, 5, 1)] == [
        list(rows) for rows in batches(9, 3, 5, 1)
    ]


def test_start_is_that_of_torch():
    ensemble = MLPEnsemble(problems(), [NetworkSpec(0, 4000, 0)], device="cpu", depth=1)
    for layer, fan_in in ((0, 5), (2, 4000)):
        weight = ensemble.network(0)[layer].weight
        bound = fan_in**-0.5
        assert weight.abs().max() <= bound
        # 12000 uniform numbers or more: a standard deviation 3 % off has odds below 1e-6.
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)


@pytest.mark.parametrize(("width", "depth", "outputs"), [(8, 2, 3), (1, 1, 1), (32, 3, 17)])
def test_parameters_are_counted(width, depth, outputs):
    given = [Problem(np.zeros((4, 5)), np.zeros((4, outputs)))]
    ensemble = MLPEnsemble(given, [NetworkSpec(0, width, 0)], depth=depth, device="cpu")
    counted = sum(values.numel() for values in ensemble.network(0).parameters())
    assert ensemble.parameter_count(0) == counted == parameter_count(5, outputs, width, depth)


def test_every_pass_takes_every_row_once():
    for drop_last, per_pass in ((True, 20), (False, 23)):
        steps = 2 * (5 if drop_last else 6)
        rows = np.concatenate(list(batches(23, 4, steps, 0, drop_last=drop_last)))
        for one_pass in np.split(rows, 2):
            assert len(one_pass) == len(set(one_pass)) == per_pass
    assert [len(rows) for rows in batches(5, 64, 3, 0)] == [5, 5, 5]
    assert len(list(batches(23, 4, 3, 0))) == 3


def test_learning_learns():
    given = problems(1000)
    ensemble = MLPEnsemble(given, [NetworkSpec(1, 32, 0)], lr=1e-2, device="cpu")
    told = []
    losses = ensemble.fit(250, 128, on_step=told.append)
    assert losses[-20:].mean() < 0.02 * given[1].targets.var()
    assert sum(told) == 250


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, "depth and widths"),
        ({"specs": [NetworkSpec(0, 0, 0)]}, "depth and widths"),
        ({"specs": [NetworkSpec(3, 4, 0)]}, r"problem must be in \[0, 3\)"),
        ({"specs": []}, "needs a problem and a network"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"problems": [Problem(np.zeros((3, 1)), np.zeros((4, 1)))]}, "the same rows"),
    ],
)
def test_refused(change, message):
    arguments = {"problems": problems(), "specs": SPECS, "device": "cpu"} | change
    with pytest.raises(ValueError, match=message):
        MLPEnsemble(arguments.pop("problems"), arguments.pop("specs"), **arguments)


def test_refused_steps():
    with pytest.raises(ValueError, match="steps and batch_size"):
        MLPEnsemble(problems(), SPECS, device="cpu").fit(0)


def test_other_targets_go_on_from_what_was_learnt():
    given = problems()
    ensemble = MLPEnsemble(given, SPECS, device="cpu")
    ensemble.fit(30, 64)
    before = [ensemble.predict(index) for index in range(len(SPECS))]
    ensemble.retarget(1, before[SPECS.index(NetworkSpec(1, 8, 4))])
    for index, expected in enumerate(before):
        np.testing.assert_array_equal(ensemble.predict(index), expected)
    whole = ensemble.fit(1, 200).cpu().numpy()[0]
    # The network that is asked for what it gives already has no error, the other problems theirs.
    assert whole[SPECS.index(NetworkSpec(1, 8, 4))] < 1e-12
    errors = np.mean((before[0] - given[0].targets) ** 2)
    assert whole[0] == pytest.approx(errors, rel=1e-4)


def test_other_targets_are_checked():
    ensemble = MLPEnsemble(problems(), SPECS, device="cpu")
    with pytest.raises(ValueError, match=r"problem must be in \[0, 3\), not 3"):
        ensemble.retarget(3, np.zeros((200, 1)))
    with pytest.raises(ValueError, match=r"targets must have the shape \(200, 1\), not \(200, 2\)"):
        ensemble.retarget(1, np.zeros((200, 2)))
