"""The batch gives what one utterance at a time gives, and its gradient is the occupancy."""

import numpy as np
import pytest
import torch

from modicum.huper.channel import Weights
from modicum.huper.graph import batched, fused_decode
from modicum.huper.graph.posteriors import forward_backward
from modicum.huper.graph.viterbi import best_path

SHAPES = [(9, 3), (4, 6), (0, 1), (1, 4), (23, 11), (2, 0), (0, 0), (12, 12), (3, 9), (17, 1)]


def random_batch(seed, shapes=SHAPES, classes=6, holes=False):
    rng = np.random.default_rng(seed)
    logprobs, weights = [], []
    for frames, length in shapes:
        logits = rng.normal(size=(frames, classes)) * 2
        logprobs.append(logits - np.log(np.exp(logits).sum(1, keepdims=True)))
        item = Weights(
            rng.integers(1, classes, size=length),
            rng.normal(-2, 1, (length, classes)),
            rng.normal(-2, 1, length),
            rng.normal(-2.5, 1, (length + 1, classes)),
        )
        if holes:
            for table in (item.sub, item.dele, item.ins):
                table[rng.uniform(size=table.shape) < 0.4] = -np.inf
        weights.append(item)
    return logprobs, weights


@pytest.mark.parametrize("maxdel", [0, 1, 3])
@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("holes", [False, True])
def test_best_paths_equal_the_single_ones(maxdel, lam, holes):
    for seed in range(4):
        logprobs, weights = random_batch([seed, maxdel], holes=holes)
        found = batched.best_paths(logprobs, weights, lam, maxdel, dtype=torch.float64)
        missing = 0
        for item, edits, path in zip(logprobs, weights, found, strict=True):
            expected = best_path(item, edits, 0, lam, maxdel)
            if expected is None:
                missing += 1
                assert path is None
                continue
            assert path.score == pytest.approx(expected.score, abs=1e-6)
            if lam:  # without the weights many edits tie
                for name in ("ids", "kinds", "positions", "deleted", "starts", "ends", "trailing"):
                    assert getattr(path, name) == getattr(expected, name), name
        assert missing < len(found)


def test_two_classes_and_another_blank():
    for blank, classes in ((0, 2), (1, 2), (3, 4)):
        logprobs, weights = random_batch([7, blank], classes=classes)
        found = batched.best_paths(logprobs, weights, 1.0, 2, blank, dtype=torch.float64)
        for item, edits, path in zip(logprobs, weights, found, strict=True):
            expected = best_path(item, edits, blank, 1.0, 2)
            assert (path is None) == (expected is None)
            if path is not None:
                assert path.score == pytest.approx(expected.score, abs=1e-6)
                assert blank not in path.ids and path.ids == expected.ids


def test_float32_is_close():
    logprobs, weights = random_batch(11, [(60, 20), (40, 25), (75, 9)], classes=20)
    for path, item, edits in zip(
        batched.best_paths(logprobs, weights), logprobs, weights, strict=True
    ):
        assert path.score == pytest.approx(best_path(item, edits).score, rel=1e-5)
    found = batched.forward_backward(batched.pad(logprobs, weights))
    for b, (item, edits) in enumerate(zip(logprobs, weights, strict=True)):
        expected = forward_backward(item, edits)
        assert float(found.log_likelihood[b]) == pytest.approx(expected.log_likelihood, rel=1e-5)
        length = len(edits)
        np.testing.assert_allclose(found.sub[b, :length].numpy(), expected.sub, atol=2e-4)


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("lam", [0.0, 0.6])
def test_posteriors_equal_the_single_ones(lam, holes):
    logprobs, weights = random_batch([5, int(holes)], holes=holes)
    found = batched.forward_backward(batched.pad(logprobs, weights, lam, dtype=torch.float64))
    for b, (item, edits) in enumerate(zip(logprobs, weights, strict=True)):
        expected = forward_backward(item, edits, 0, lam)
        length, frames = len(edits), len(item)
        if expected.log_likelihood == -np.inf:
            assert float(found.log_likelihood[b]) < -1e8
        else:
            assert float(found.log_likelihood[b]) == pytest.approx(
                expected.log_likelihood, abs=1e-6
            )
        for name, size in (("sub", length), ("dele", length), ("ins", length + 1)):
            table = getattr(found, name)[b].numpy()
            np.testing.assert_allclose(table[:size], getattr(expected, name), atol=1e-6)
            assert (table[size:] == 0).all()
        np.testing.assert_allclose(
            found.occupancy[b, :frames].numpy(), expected.occupancy, atol=1e-6
        )
        assert (found.occupancy[b, frames:] == 0).all()


def leaves(batch):
    return [
        tensor.clone().requires_grad_()
        for tensor in (batch.logprobs, batch.sub, batch.dele, batch.ins)
    ]


def test_gradient_is_the_occupancy_and_agrees_with_differences():
    logprobs, weights = random_batch(3, [(5, 2), (3, 3), (6, 1)], classes=4)
    batch = batched.pad(logprobs, weights, dtype=torch.float64)
    found = batched.forward_backward(batch)
    tensors = leaves(batch)

    def likelihood(logprobs, sub, dele, ins):
        return batched.log_likelihood(
            batched.Batch(logprobs, batch.frames, sub, dele, ins, batch.lengths, batch.blank)
        )

    scale = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    (likelihood(*tensors) * scale).sum().backward()
    torch.testing.assert_close(tensors[0].grad, found.occupancy * scale[:, None, None])
    torch.testing.assert_close(tensors[1].grad, found.sub * scale[:, None, None])
    torch.testing.assert_close(tensors[2].grad, found.dele * scale[:, None])
    # Central differences at the entries that are not padding.
    step = 1e-5
    for which in range(4):
        base = [tensor.detach().clone() for tensor in tensors]
        flat = base[which].view(-1)
        for index in torch.nonzero(flat > -1e8).flatten()[::7].tolist():
            before = flat[index].item()
            flat[index] = before + step
            up = (likelihood(*base) * scale).sum()
            flat[index] = before - step
            down = (likelihood(*base) * scale).sum()
            flat[index] = before
            slope = float(up - down) / (2 * step)
            assert float(tensors[which].grad.view(-1)[index]) == pytest.approx(slope, abs=1e-6)


def test_ctc_loss_of_torch_is_the_case_without_edits():
    rng = np.random.default_rng(9)
    logprobs, weights, targets = [], [], []
    for frames, length in ((9, 3), (14, 6), (6, 1)):
        item = rng.normal(size=(frames, 5))
        logprobs.append(item - np.log(np.exp(item).sum(1, keepdims=True)))
        target = rng.integers(1, 5, size=length)
        sub = np.full((length, 5), -np.inf)
        sub[np.arange(length), target] = 0.0
        weights.append(
            Weights(target, sub, np.full(length, -np.inf), np.full((length + 1, 5), -np.inf))
        )
        targets.append(torch.tensor(target))
    batch = batched.pad(logprobs, weights, dtype=torch.float64)
    expected = -torch.nn.functional.ctc_loss(
        batch.logprobs.transpose(0, 1),
        torch.cat(targets),
        batch.frames,
        batch.lengths,
        reduction="none",
    )
    torch.testing.assert_close(batched.log_likelihood(batch), expected)


def test_decoder_takes_the_torch_backend():
    logprobs, weights = random_batch(2, [(12, 4)])
    canonical = weights[0].canonical.tolist()
    one = fused_decode(logprobs[0], canonical, weights[0], backend="numpy")
    two = fused_decode(logprobs[0], canonical, weights[0], backend="torch")
    assert (one.ids, one.ops, one.spans, one.edits) == (two.ids, two.ops, two.spans, two.edits)
    with pytest.raises(ValueError, match="numpy"):
        fused_decode(logprobs[0], canonical, weights[0], backend="torch", repeat=-1.0)


def test_bad_inputs_are_named():
    logprobs, weights = random_batch(0, [(3, 1), (2, 2)])
    assert batched.best_paths([], []) == []
    with pytest.raises(ValueError, match="as many weights"):
        batched.pad(logprobs, weights[:1])
    with pytest.raises(ValueError, match="columns"):
        batched.pad([logprobs[0], logprobs[1][:, :4]], weights)
    with pytest.raises(ValueError, match="maxdel"):
        batched.best_paths(logprobs, weights, maxdel=-1)
    with pytest.raises(ValueError, match="lam"):
        batched.pad(logprobs, weights, lam=-1.0)


@pytest.mark.gpu
def test_gpu_equals_cpu():
    logprobs, weights = random_batch(21, [(60, 20), (40, 25), (75, 9), (3, 9), (0, 2)], classes=20)
    cpu = batched.best_paths(logprobs, weights, dtype=torch.float64)
    gpu = batched.best_paths(logprobs, weights, device="cuda", dtype=torch.float64)
    for one, two in zip(cpu, gpu, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            assert (one.ids, one.starts, one.positions) == (two.ids, two.starts, two.positions)
    one = batched.forward_backward(batched.pad(logprobs, weights, dtype=torch.float64))
    two = batched.forward_backward(
        batched.pad(logprobs, weights, device="cuda", dtype=torch.float64)
    )
    for name in ("sub", "dele", "ins", "occupancy", "log_likelihood"):
        torch.testing.assert_close(getattr(two, name).cpu(), getattr(one, name))
