import math

import numpy as np
import pytest
import torch
from torch import nn

from modicum.daved.features import make_features
from modicum.daved.features_torch import (
    ENTKFeatures,
    HookFeatures,
    SignProjection,
    SparseProjection,
    digest_of_state,
)


def net(outputs=1, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    layers = (nn.Linear(3, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, outputs))
    return nn.Sequential(*layers).to(dtype)


def records(n=7, d=3):
    return np.random.default_rng(0).normal(size=(n, d))


def one_by_one(module, rows, output=0):
    """Gradients by backward passes, one record after the other."""
    module = module.eval()
    found = []
    for row in torch.as_tensor(rows):
        module.zero_grad()
        module(row.unsqueeze(0)).flatten()[output].backward()
        found.append(torch.cat([p.grad.flatten() for p in module.parameters()]).numpy())
    module.zero_grad()
    return np.array(found)


# Hooks.


def test_a_hook_gives_the_input_of_the_last_layer_whatever_the_batches():
    module, rows = net(), records()
    expected = torch.tanh(module[0](torch.as_tensor(rows))).detach().numpy()
    for batch_size in (1, 3, 100):
        found = HookFeatures(module, "3", take="input", batch_size=batch_size).transform(rows)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(HookFeatures(module, "1").transform(rows), expected, rtol=1e-12)


def test_a_linear_model_on_the_features_of_the_last_layer_is_the_module():
    module, rows = net(), records()
    features = HookFeatures(module, "3", take="input").transform(rows)
    expected = module.eval()(torch.as_tensor(rows)).detach().numpy()
    weight, bias = (values.detach().numpy() for values in module[3].parameters())
    np.testing.assert_allclose(features @ weight.T + bias, expected, rtol=1e-12)


@pytest.mark.parametrize("make", [lambda m: HookFeatures(m, "2"), lambda m: ENTKFeatures(m, 8)])
def test_a_module_is_left_as_it_was_found(make):
    module = net()
    module.train()
    module[1].eval()
    before = digest_of_state(module)
    features = make(module)
    first, again = features.transform(records()), features.transform(records())
    np.testing.assert_array_equal(first, again)
    assert module.training and module[2].training and not module[1].training
    assert digest_of_state(module) == before
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    assert not any(part._forward_hooks for part in module.modules())


def test_a_failing_module_is_left_as_it_was_found():
    module = net()
    with pytest.raises(RuntimeError):
        HookFeatures(module, "0").transform(records(d=4))
    assert module.training
    assert not module[0]._forward_hooks


def test_pooling_over_tokens_and_space():
    tokens, image = np.arange(24.0).reshape(2, 4, 3), np.arange(48.0).reshape(2, 3, 2, 4)
    module = nn.Sequential(nn.Identity())
    found = HookFeatures(module, "0", pooling="tokens").transform(tokens)
    np.testing.assert_allclose(found, tokens.mean(1))
    found = HookFeatures(module, "0", pooling="space").transform(image)
    np.testing.assert_allclose(found, image.mean((2, 3)))
    assert HookFeatures(module, "0").transform(image).shape == (2, 24)


def test_keyword_inputs_and_integer_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.out = nn.Embedding(4, 2), nn.Linear(2, 1)

        def forward(self, token, weight):
            return self.out(self.table(token) * weight[:, None])

    module = Two().double()
    given = {"token": np.array([0, 3, 1]), "weight": np.array([1.0, 0.5, 2.0])}
    table = module.table.weight.detach().numpy()
    expected = table[given["token"]] * given["weight"][:, None]
    found = HookFeatures(module, "out", take="input", batch_size=2).transform(given)
    np.testing.assert_allclose(found, expected)
    # The output is linear in out's weights, whose gradient is its input.
    gradients = ENTKFeatures(
        module, projection="none", parameters=lambda name: name == "out.weight"
    ).transform(given)
    np.testing.assert_allclose(gradients, expected)
    with pytest.raises(ValueError, match=r"as many records, got \[2, 3\]"):
        HookFeatures(module, "out").transform({**given, "weight": np.ones(2)})


def test_a_memory_map_that_cannot_be_written_to_is_taken(tmp_path):
    np.save(tmp_path / "rows.npy", records())
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    for features in (HookFeatures(net(), "1"), ENTKFeatures(net(), 8)):
        np.testing.assert_array_equal(features.transform(mapped), features.transform(records()))


def test_mistakes_with_hooks_are_named():
    with pytest.raises(ValueError, match="no layer 'head'; it has 0, 1, 2, 3"):
        HookFeatures(net(), "head")
    with pytest.raises(ValueError, match="take is output or input"):
        HookFeatures(net(), "0", take="gradient")
    with pytest.raises(ValueError, match="pooling is one of"):
        HookFeatures(net(), "0", pooling="max")
    with pytest.raises(ValueError, match="batch_size"):
        HookFeatures(net(), "0", batch_size=0)
    with pytest.raises(ValueError, match="no records"):
        HookFeatures(net(), "0").transform(np.ones((0, 3)))
    with pytest.raises(ValueError, match="give module="):
        make_features("hook:0")
    shared = nn.Identity()
    twice = nn.Sequential(shared, shared)
    with pytest.raises(ValueError, match="ran 2 times"):
        HookFeatures(twice, "0").transform(records())


# Gradients.


def test_gradients_equal_backward_passes_one_by_one():
    module, rows = net(), records()
    expected = one_by_one(module, rows)
    for batch_size in (None, 1, 4):
        found = ENTKFeatures(module, projection="none", batch_size=batch_size).transform(rows)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)


def test_a_chosen_output_and_a_function_of_outputs():
    module, rows = net(outputs=3), records()
    found = ENTKFeatures(module, projection="none", output=1).transform(rows)
    np.testing.assert_allclose(found, one_by_one(module, rows, 1), rtol=1e-10, atol=1e-14)
    summed = ENTKFeatures(module, projection="none", output=lambda values: values.sum())
    expected = sum(one_by_one(module, rows, number) for number in range(3))
    np.testing.assert_allclose(summed.transform(rows), expected, rtol=1e-10, atol=1e-14)


def test_gradients_are_the_rows_of_a_linear_module():
    module = nn.Linear(3, 1).double()
    found = ENTKFeatures(module, projection="none").transform(records())
    np.testing.assert_allclose(found, np.column_stack([records(), np.ones(7)]))


def test_normalised_batches_use_the_running_statistics():
    torch.manual_seed(0)
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)).double()
    module(torch.as_tensor(records(50)))
    rows = records()
    found = ENTKFeatures(module, projection="none", batch_size=3).transform(rows)
    np.testing.assert_allclose(found, one_by_one(module, rows), rtol=1e-10, atol=1e-14)
    assert module[0].num_batches_tracked == 1


def test_frozen_parameters_do_not_count():
    module = net()
    module[0].requires_grad_(False)
    features = ENTKFeatures(module, projection="none")
    assert features.names == ["3.weight", "3.bias"]
    inputs = HookFeatures(module, "3", take="input").transform(records())
    np.testing.assert_allclose(features.transform(records())[:, :5], inputs, rtol=1e-12)
    with pytest.raises(ValueError, match="no parameter counts"):
        ENTKFeatures(module.requires_grad_(False))


def test_mistakes_with_gradients_are_named():
    with pytest.raises(ValueError, match="a record has 2 outputs"):
        ENTKFeatures(net(outputs=2)).transform(records())
    with pytest.raises(ValueError, match="projection is one of"):
        ENTKFeatures(net(), projection="gauss")
    with pytest.raises(ValueError, match="asked for 0"):
        ENTKFeatures(net(), 0)
    with pytest.raises(ValueError, match="batch_size"):
        ENTKFeatures(net(), batch_size=0)


# Projections.


@pytest.mark.parametrize("kind", [SignProjection, SparseProjection])
def test_a_projection_is_linear_and_a_party_with_the_seed_draws_the_same(kind, monkeypatch):
    monkeypatch.setattr("modicum.daved.features_torch._PARAMETERS_OF_A_BLOCK", 16)
    values = torch.as_tensor(np.random.default_rng(0).normal(size=(4, 50)))
    matrix = kind(32, seed=1)(torch.eye(50, dtype=torch.float64))
    torch.testing.assert_close(kind(32, seed=1)(values), values @ matrix)
    assert not torch.equal(kind(32, seed=2)(torch.eye(50, dtype=torch.float64)), matrix)
    assert len(torch.unique(matrix, dim=0)) == 50


@pytest.mark.parametrize("kind", [SignProjection, SparseProjection])
def test_a_projection_keeps_inner_products_on_average(kind):
    x, z = torch.as_tensor(np.random.default_rng(5).normal(size=(2, 60)))
    dim, draws = 64, 400
    products = []
    for seed in range(draws):
        projected = kind(dim, seed)(torch.stack([x, z]))
        products.append(float(projected[0] @ projected[1]))
    # Var <Sx, Sz> = (‖x‖²‖z‖² + <x,z>² - 2 Σ x²z²) / D for signs; the sparse one with s draws per
    # value adds at most 2 Σ x²z² / D (two of a value's draws in one feature). Six standard errors
    # of the mean of 400: 2e-9 by chance.
    variance = float((x @ x) * (z @ z) + (x @ z) ** 2) / dim
    assert abs(np.mean(products) - float(x @ z)) < 6 * math.sqrt(variance / draws)
    assert np.var(products) < 2 * variance


def test_signs_are_all_of_one_size():
    matrix = SignProjection(16)(torch.eye(5000, dtype=torch.float64))
    np.testing.assert_allclose(matrix.abs().numpy(), 0.25)
    # A sum of 80 000 signs beyond 6 standard deviations: 2e-9 by chance.
    assert abs(float(matrix.sum()) * 4) < 6 * math.sqrt(80_000)


@pytest.mark.parametrize("projection", ["rademacher", "sparse"])
def test_projected_gradients_are_projections_of_gradients(projection):
    kind = {"rademacher": SignProjection, "sparse": SparseProjection}[projection]
    found = ENTKFeatures(net(), 16, projection, seed=4, batch_size=2).transform(records())
    expected = kind(16, 4)(torch.as_tensor(one_by_one(net(), records())))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-9, atol=1e-12)


# Names and fingerprints.


def test_names_make_the_maps():
    module = net()
    made = make_features("entk:8", module=module, seed=3, normalize="l2", fit_intercept=True)
    found = made.transform(records())
    assert found.shape == (7, 9)
    np.testing.assert_allclose(np.linalg.norm(found[:, :8], axis=1), 1)
    assert made.base.seed == 3
    assert make_features("entk", module=module, dim=6).dim == 6
    made = make_features("hook:3", module=module, take="input")
    assert made.transform(records()).shape == (7, 5)


def test_fingerprints_tell_weights_forms_and_settings_apart():
    module = net()
    relu = nn.Sequential(module[0], nn.ReLU(), module[2], module[3])
    made = [
        HookFeatures(module, "1"),
        HookFeatures(module, "2"),
        HookFeatures(module, "2", take="input"),
        HookFeatures(module, "1", pooling="tokens"),
        HookFeatures(net(seed=1), "1"),
        HookFeatures(net(dtype=torch.float32), "1"),
        HookFeatures(relu, "1"),
        ENTKFeatures(module, 8),
        ENTKFeatures(module, 8, "sparse"),
        ENTKFeatures(module, 8, seed=1),
        ENTKFeatures(module, 8, output=0),
        ENTKFeatures(module, 8, parameters=lambda name: name.startswith("3")),
        ENTKFeatures(module, 9),
    ]
    assert len({features.fingerprint() for features in made}) == len(made)
    # Batches are not part of what a record's features are.
    assert HookFeatures(net(), "1", batch_size=2).fingerprint() == made[0].fingerprint()
    with pytest.raises(ValueError, match="no name that parties can compare"):
        ENTKFeatures(module, output=lambda values: values.sum()).fingerprint()


def test_single_and_brain_precision_leave_as_single():
    for dtype in (torch.float32, torch.bfloat16):
        module = net(dtype=dtype)
        assert HookFeatures(module, "1").transform(records()).dtype == np.float32
        assert digest_of_state(module) != digest_of_state(net())
    assert ENTKFeatures(net(dtype=torch.float32), 8).transform(records()).dtype == np.float32


@pytest.mark.gpu
@pytest.mark.parametrize("projection", ["rademacher", "sparse", "none"])
def test_a_device_gives_the_features_of_the_host(projection):
    host = ENTKFeatures(net(), 32, projection, seed=1).transform(records())
    device = ENTKFeatures(net().cuda(), 32, projection, seed=1).transform(records())
    np.testing.assert_allclose(device, host, rtol=1e-9, atol=1e-11)
    host = HookFeatures(net(), "1").transform(records())
    np.testing.assert_allclose(HookFeatures(net().cuda(), "1").transform(records()), host)
