"""The neural corrector: ids, network, targets, runs that go on, and what it can learn."""

import itertools
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from modicum.huper import corrector_training
from modicum.huper.corrector import Correction, Corrector, CorrectorConfig, collate
from modicum.huper.corrector_audio import AudioFrontend, kmeans, stride_of
from modicum.huper.corrector_training import (
    CorrectorTraining,
    Example,
    examples,
    labels,
    programs,
    warmup_cosine,
)
from modicum.huper.edits import EditProgram, apply, encode
from modicum.huper.emissions import Emissions
from modicum.huper.g2p import Dict
from modicum.huper.phones import CORRECTOR_INSERTIONS, CORRECTOR_OPS, PhoneSet
from modicum.huper.recognizer import Recognizer
from modicum.huper.simulate import RULES, EspeakWorld

WORLD = Path(__file__).parent / "data" / "huper_world"
SMALL = {"layers": 2, "width": 32, "heads": 4, "feed_forward": 64, "max_positions": 400}


def small(phones=None, seed=0, **changes):
    return Corrector(phones, CorrectorConfig(**{**SMALL, **changes}), seed)


def frames(rng, length, columns=44):
    logits = 2 * rng.normal(size=(length, columns))
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def drawn(rng, count, alphabet=("AA", "S", "K", "T", "IY")):
    return tuple(rng.choice(alphabet, count))


def corpus(rng, count=12):
    """Random frames and phones: something to go through the motions with."""
    return [
        (frames(rng, int(rng.integers(8, 30))), drawn(rng, int(rng.integers(1, 8))), drawn(rng, 5))
        for _ in range(count)
    ]


# Ids and sizes ----------------------------------------------------------------------------------


def test_ids_are_those_of_the_public_corrector():
    found = small(PhoneSet.arpabet40())
    assert found.ops == CORRECTOR_OPS and found.insertions == CORRECTOR_INSERTIONS
    assert [found.op_id(op) for op in ("KEEP", "DEL", "SUB:AA", "SUB:ZH")] == [0, 1, 3, 42]
    assert [found.insertion_id(phone) for phone in ("AA", "ZH")] == [2, 41]
    for number, op in enumerate(CORRECTOR_OPS):
        assert op == "SUB:<PAD>" or found.op_id(op) == number
    assert (found.head_op.out_features, found.op_width, found.insertion_width) == (44, 44, 42)
    assert found.text_ids(["AA", "ZH"]).tolist() == [2, 41, 0]
    reference = small(PhoneSet.arpabet40(), scheme="reference")
    assert reference.text_ids(["AA", "ZH"]).tolist() == [2, 41]
    assert found.head_ins.out_features == 2 * 42 and reference.head_ins.out_features == 42


def test_the_published_configuration_has_its_size():
    found = Corrector(PhoneSet.arpabet40(), CorrectorConfig.published())
    trained = sum(weight.numel() for weight in found.parameters())
    assert round(trained / 1e6, 2) == 34.75
    assert round((trained + found.pos_encoder.pe.numel()) / 1e6, 2) == 37.31
    assert (
        len(found.transformer.layers) == 8 and found.transformer.layers[0].self_attn.num_heads == 8
    )
    assert found.audio.audio_embedding.weight.shape == (2048, 512) and found.audio.stride == 2
    ours = Corrector()
    assert "33.7 million" in Corrector.__doc__
    assert round(sum(weight.numel() for weight in ours.parameters()) / 1e6, 1) == 33.7


class PublicLayout(nn.Module):
    """The network as the public code names and calls its parts, with the layers of torch."""

    def __init__(self, vocabulary, tokens, width, layers, heads):
        super().__init__()
        self.text_embedding = nn.Embedding(vocabulary, width)
        self.audio_embedding = nn.Embedding(tokens, width)
        self.pos_encoder = nn.Module()
        place = torch.arange(5000.0)[:, None]
        rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
        table = torch.stack([torch.sin(place * rate), torch.cos(place * rate)], -1).flatten(1)
        self.pos_encoder.register_buffer("pe", table[None])
        layer = nn.TransformerDecoderLayer(width, heads, batch_first=True)
        self.transformer = nn.TransformerDecoder(layer, layers)
        self.head_op = nn.Linear(width, vocabulary + 2)
        self.head_ins = nn.Linear(width, vocabulary)

    def forward(self, text, audio):
        table = self.pos_encoder.pe
        text = self.text_embedding(text) + table[:, : text.shape[1]]
        audio = self.audio_embedding(audio) + table[:, : audio.shape[1]]
        found = self.transformer(text, audio)
        return self.head_op(found), self.head_ins(found)


@pytest.mark.parametrize("kind", ["lightning", "weights", "safetensors"])
def test_a_checkpoint_of_the_public_layout_loads_and_says_the_same(tmp_path, kind):
    torch.manual_seed(1)
    theirs = PublicLayout(42, 64, 32, 2, 4).eval()
    path = tmp_path / f"last.{'safetensors' if kind == 'safetensors' else 'ckpt'}"
    if kind == "safetensors":
        import safetensors.torch

        safetensors.torch.save_file(theirs.state_dict(), path)
    elif kind == "weights":
        torch.save(theirs.state_dict(), path)
    else:
        settings = {"nhead": 4, "dropout": 0.3}
        content = {"state_dict": theirs.state_dict(), "hyper_parameters": settings, "epoch": 3}
        torch.save(content, path)
    ours = Corrector.from_public(path, heads=None if kind == "lightning" else 4)
    assert ours.config.scheme == "reference" and ours.config.feed_forward == 2048
    assert ours.config.dropout == (0.3 if kind == "lightning" else 0.2)
    canonical = ("L", "AE", "S", "T", "AO")
    tokens = np.random.default_rng(0).integers(0, 64, 31)
    with torch.no_grad():
        text, units = ours.text_ids(canonical)[None], ours.audio.units(tokens)[None]
        assert units.shape == (1, 16) and units[0].tolist() == tokens[::2].tolist()
        op, insertion = ours(text, units, torch.tensor([5]), torch.tensor([16]))
        their_op, their_insertion = theirs(text, units)
    assert torch.allclose(op, their_op, atol=1e-5)
    assert torch.allclose(insertion[:, :, 0], their_insertion, atol=1e-5)
    answer = ours.correct(tokens, canonical)
    their_op[..., [2, 43]] = -torch.inf
    names = [CORRECTOR_OPS[at] for at in their_op[0].argmax(-1)]
    names = ["KEEP" if op == f"SUB:{p}" else op for op, p in zip(names, canonical, strict=True)]
    assert list(answer.program.ops) == names


def test_other_files_are_no_checkpoints(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Corrector.from_public(tmp_path / "nowhere.ckpt")
    torch.save({"a.weight": torch.zeros(2)}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="no checkpoint of the corrector"):
        Corrector.from_public(tmp_path / "other.ckpt")
    torch.save([1], tmp_path / "list.ckpt")
    with pytest.raises(ValueError, match="holds a list"):
        Corrector.from_public(tmp_path / "list.ckpt")
    (tmp_path / "code.ckpt").write_bytes(pickle.dumps(Path, protocol=2))
    with pytest.raises(ValueError, match="without running its code"):
        Corrector.from_public(tmp_path / "code.ckpt")
    torch.save(PublicLayout(42, 8, 32, 1, 4).state_dict(), tmp_path / "good.ckpt")
    with pytest.raises(ValueError, match=r"has 42 ids, and 39 phones have 41"):
        Corrector.from_public(tmp_path / "good.ckpt", phones=PhoneSet.arpabet39(), heads=4)
    with pytest.raises(ValueError, match="multiple of heads"):
        Corrector.from_public(tmp_path / "good.ckpt", heads=5)


# Audio ------------------------------------------------------------------------------------------


def test_units_of_each_front_end():
    rng = np.random.default_rng(0)
    logprobs = frames(rng, 7, 5)
    logprobs[0] = [0, *[-np.inf] * 4]
    front = AudioFrontend("posterior", 5, 9, 8, 1)
    units = front.units(logprobs)
    assert units.dtype == torch.float32 and units.isfinite().all()
    assert units[0].tolist() == [1, 0, 0, 0, 0]
    assert units[1:].numpy() == pytest.approx(np.maximum(logprobs[1:], -10) / 10 + 1, abs=1e-6)
    halved = AudioFrontend("posterior", 5, 9, 8, 3).units(logprobs)
    assert halved.numpy() == pytest.approx(
        np.stack([units[:3].mean(0), units[3:6].mean(0), units[6]]), abs=1e-6
    )
    features = rng.normal(size=(7, 5)).astype(np.float32)
    assert np.array_equal(AudioFrontend("continuous", 5, 9, 8, 1).units(features), features)
    tokens = AudioFrontend("argmax", None, 9, 8, 2)
    assert tokens.units(features).tolist() == features.argmax(1)[::2].tolist()
    assert tokens.units([3, 1, 8]).tolist() == [3, 8]
    assert tokens(tokens.units([3, 1, 8])[None]).shape == (1, 2, 8)
    nearest = AudioFrontend("kmeans", 5, 3, 8, 1)
    assert nearest.needs_fit
    with pytest.raises(ValueError, match="never fitted"):
        nearest.units(features)
    nearest.fit([features, features + 3], 0)
    assert not nearest.needs_fit
    distance = ((features[:, None] - nearest.centroids_KC.numpy()) ** 2).sum(-1)
    assert nearest.units(features).tolist() == distance.argmin(1).tolist()
    with pytest.raises(ValueError, match="no centroids"):
        AudioFrontend("kmeans", None, 3, 8, 1).units(features)
    assert AudioFrontend("kmeans", None, 3, 8, 1).units([0, 2]).tolist() == [0, 2]


def test_centroids_find_clusters_and_are_the_same_every_time():
    rng = np.random.default_rng(0)
    middles = np.array([[0, 0], [50, 0], [0, 50], [50, 50]], np.float32)
    points = np.concatenate([middles[at % 4] + rng.normal(size=(40, 2)) for at in range(4)])
    found = kmeans(points, 4, seed=3)
    assert torch.equal(found, kmeans(points, 4, seed=3))
    # Lloyd's algorithm stops where every centroid is the mean of its points.
    token = ((points[:, None] - found.numpy()) ** 2).sum(-1).argmin(1)
    for k in range(4):
        assert found[k].numpy() == pytest.approx(points[token == k].mean(0), abs=1e-3)
    with pytest.raises(ValueError, match="5 centroids need as many frames, got 3"):
        kmeans(points[:3], 5)


def test_token_rates_divide_the_frames():
    assert [stride_of(0.02, rate) for rate in (None, 50, 25, 10)] == [1, 1, 2, 5]
    for rate in (100, 30, 0, -25):
        with pytest.raises(ValueError, match=f"token_rate .*{rate}"):
            stride_of(0.02, rate)


# The network ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["slots", "reference"])
def test_a_batch_is_what_each_alone_is(scheme):
    rng = np.random.default_rng(4)
    model = small(scheme=scheme, seed=2)
    given = [(frames(rng, n), drawn(rng, m)) for n, m in ((9, 3), (31, 1), (1, 8), (20, 5), (3, 0))]
    batch = model.correct_many([a for a, _ in given], [c for _, c in given], batch_size=3)
    for (audio, canonical), one in zip(given, batch, strict=True):
        alone = model.correct(audio, canonical)
        assert alone.program == one.program and alone.overruled == one.overruled
        assert alone.op_probabilities == pytest.approx(one.op_probabilities, abs=1e-5)
    rows = [model.prepared(*one, "x")[1:] for one in given[:4]]
    with torch.no_grad():
        op, insertion = model(*collate(rows))
        for at, row in enumerate(rows):
            op_alone, insertion_alone = model(*collate([row]))
            size = len(row[0])
            assert torch.allclose(op[at, :size], op_alone[0], atol=1e-5)
            assert torch.allclose(insertion[at, :size], insertion_alone[0], atol=1e-5)


def test_there_is_no_causal_mask_and_the_audio_counts():
    rng = np.random.default_rng(0)
    model = small()
    audio, other = frames(rng, 20), frames(rng, 20)
    one = model.prepared(audio, ("S", "AA", "T"), "x")[1:]
    two = model.prepared(audio, ("S", "AA", "K"), "x")[1:]
    three = model.prepared(other, ("S", "AA", "T"), "x")[1:]
    with torch.no_grad():
        scores = [model(*collate([row]))[0][0, 0] for row in (one, two, three)]
    # The first position sees the last phone, and the frames.
    assert (scores[0] - scores[1]).abs().max() > 1e-4
    assert (scores[0] - scores[2]).abs().max() > 1e-4


def test_weights_come_from_the_seed_and_leave_others_numbers_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one = small(seed=5)
    assert torch.equal(torch.rand(3), expected)
    two, three = small(seed=5), small(seed=6)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.head_op.weight, three.head_op.weight)
    # Layers that start alike would be clones of each other.
    first, second = (
        one.transformer.layers[0].linear1.weight,
        one.transformer.layers[1].linear1.weight,
    )
    assert not torch.equal(first, second)


# Reading the heads ------------------------------------------------------------------------------


def scores_of(model, canonical, op_rows, insertion_rows):
    """Scores in which these ids have these probabilities, and the others share the rest."""
    positions = len(model.text_ids(canonical))
    op = torch.full((positions, model.op_width), 1e-6)
    insertion = torch.full((positions, model.config.insertions, model.insertion_width), 1e-6)
    for at, row in enumerate(op_rows):
        for name, share in row.items():
            op[at, name if isinstance(name, int) else model.op_id(name)] = share
    for at in range(positions):
        for k in range(model.config.insertions):
            row = insertion_rows.get((at, k), {0: 0.99})
            for name, share in row.items():
                number = name if isinstance(name, int) else model.insertion_id(name)
                insertion[at, k, number] = share
    return op.log(), insertion.log()


def test_the_likeliest_of_each_head_is_carried_out():
    model = small()
    canonical = ("T", "AA", "K")
    op, insertion = scores_of(
        model,
        canonical,
        [{"SUB:DX": 0.6, "KEEP": 0.4}, {"DEL": 0.55, "KEEP": 0.4}, {"SUB:K": 0.6, "DEL": 0.4}],
        {
            (0, 0): {"S": 0.9, 0: 0.1},
            (3, 0): {"IY": 0.7, 0: 0.3},
            (3, 1): {"T": 0.6, 0: 0.4},
            # Nothing, then something: nothing.
            (1, 0): {0: 0.9},
            (1, 1): {"S": 0.9},
        },
    )
    found = model.read(canonical, op, insertion)
    assert found.program.ops == ("SUB:DX", "DEL", "KEEP")
    assert found.program.insertions == (("S",), (), (), ("IY", "T"))
    assert found.phones == ("S", "DX", "K", "IY", "T") == apply(found.program)
    assert found.op_probabilities == pytest.approx((0.6, 0.55, 0.6), abs=0.06)
    assert found.keep_probabilities[:2] == pytest.approx((0.4, 0.4), abs=0.06)
    assert found.insertion_probabilities[3] == pytest.approx((0.7, 0.6), abs=1e-3)
    assert found.overruled == 0
    careful = model.read(canonical, op, insertion, 0.65)
    assert careful.program.ops == ("KEEP", "KEEP", "KEEP")
    assert careful.program.insertions == (("S",), (), (), ("IY",))
    assert careful.overruled == 3
    assert careful.op_probabilities == pytest.approx(
        (found.keep_probabilities[0], found.keep_probabilities[1], found.op_probabilities[2])
    )
    assert model.read(canonical, op, insertion, 1.0).phones == canonical
    # Padding and the operation without a name are never said.
    op, insertion = scores_of(
        model, ("T",), [{2: 0.5, model.op_width - 1: 0.4, "DEL": 0.1}], {(0, 0): {1: 0.9, 0: 0.1}}
    )
    found = model.read(("T",), op, insertion)
    assert found.program == EditProgram(("T",), ("DEL",), ((), ()))


def test_results_go_to_json_and_back():
    found = small().correct(frames(np.random.default_rng(0), 12), ("T", "AA", "K"))
    assert Correction.from_dict(json.loads(found.to_json())) == found
    assert pickle.loads(pickle.dumps(found)) == found


# Targets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("scheme", ["slots", "reference"])
def test_reading_the_targets_gives_the_realized_phones_back(seed, scheme):
    rng = np.random.default_rng(seed)
    model = small(scheme=scheme, max_ins=3)
    canonical, realized = drawn(rng, int(rng.integers(1, 8))), drawn(rng, int(rng.integers(0, 9)))
    (program,), lost = programs(model, [(None, canonical, realized)])
    op, insertion = labels(model, program)
    assert len(op) == len(insertion) == len(canonical) + (scheme == "slots")
    perfect_op = nn.functional.one_hot(op.clamp(min=0), model.op_width) * 50.0
    perfect_insertion = nn.functional.one_hot(insertion, model.insertion_width) * 50.0
    found = model.read(canonical, perfect_op, perfect_insertion)
    assert found.program.ops == program.ops and found.program.insertions == program.insertions
    if lost == 0:
        assert found.phones == realized


def test_targets_that_lose_phones_say_how_many():
    said = ("S", "S", "S", "AA", "T", "K")
    kept, lost = programs(small(), [(None, ("AA", "T"), said), (None, ("AA",), ("AA",))])
    assert lost == 1 == kept[0].lost and kept[1].lost == 0
    _, theirs = programs(small(scheme="reference"), [(None, ("AA", "T"), said)])
    with pytest.warns(UserWarning):
        assert theirs == encode(("AA", "T"), said, "reference").lost == 4
    with pytest.warns(UserWarning, match="cannot hold 1 inserted"):
        report = small().fit(
            [(frames(np.random.default_rng(0), 9), ("AA", "T"), said)],
            CorrectorTraining(epochs=1),
            device="cpu",
        )
    assert report.lost == 1


def test_phones_of_the_first_pass_become_targets():
    rng = np.random.default_rng(0)
    phones = PhoneSet.arpabet39()
    emissions = Emissions(torch.from_numpy(frames(rng, 20))[None], [15], 0.02, phones)
    (found,) = examples(emissions, [("K", "AE", "T")])
    assert found.realized == phones.decode(emissions.greedy()[0][0]) and len(found.audio) == 15
    (given,) = examples([found.audio], [("K",)], [("T",)])
    assert given.canonical == ("K",) and given.realized == ("T",)
    with pytest.raises(ValueError, match="read off an Emissions"):
        examples([found.audio], [("K",)])
    with pytest.raises(ValueError, match="got 2 and 1"):
        examples(emissions, [("K",), ("T",)])


# Training ---------------------------------------------------------------------------------------


def test_the_schedule_goes_up_a_line_and_down_half_a_cosine():
    rates = [warmup_cosine(step, 110, 2.0, 0.1) for step in range(111)]
    assert rates[:12] == pytest.approx([2 * step / 11 for step in range(12)])
    # A cosine is odd about the middle of its way down.
    middle = 11 + 99 // 2
    assert [a + b for a, b in zip(rates[11:], rates[:10:-1], strict=True)] == pytest.approx(
        [2] * 100
    )
    assert rates[middle] > 1 > rates[middle + 1] and rates[-1] == pytest.approx(0)
    assert warmup_cosine(0, 1, 1.0, 0.1) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "warmup"), [(40, 0.1), (311, 0.3), (7, 0.1), (1, 0.1), (5, 0.0)])
def test_the_schedule_is_that_of_transformers(steps, warmup):
    transformers = pytest.importorskip("transformers.optimization")
    optimiser = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=3e-4)
    theirs = transformers.get_cosine_schedule_with_warmup(
        optimiser, max(1, int(steps * warmup)), steps
    )
    for step in range(steps):
        expected = optimiser.param_groups[0]["lr"]
        assert warmup_cosine(step, steps, 3e-4, warmup) == pytest.approx(expected, abs=1e-15)
        optimiser.step()
        theirs.step()


@pytest.mark.filterwarnings("ignore:the targets cannot hold")
def test_the_loss_is_the_sum_of_both_mean_entropies():
    rng = np.random.default_rng(0)
    model = small(dropout=0.0, layer_dropout=0.0, max_ins=1)
    items = corpus(rng, 5)
    report = model.fit(
        items, CorrectorTraining(epochs=1, validation=0.0, learning_rate=1e-30), device="cpu"
    )
    op_terms, insertion_terms = [], []
    for audio, canonical, realized in items:
        (program,), _ = programs(model, [(audio, canonical, realized)])
        op, insertion = labels(model, program)
        with torch.no_grad():
            op_scores, insertion_scores = model(
                *collate([model.prepared(audio, canonical, "")[1:]])
            )
        chances = op_scores[0].log_softmax(-1)
        op_terms += [-chances[at, number].item() for at, number in enumerate(op) if number >= 0]
        chances = insertion_scores[0, :, 0].log_softmax(-1)
        insertion_terms += [
            -chances[at, number].item() for at, number in enumerate(insertion[:, 0])
        ]
    assert report.losses == pytest.approx([np.mean(op_terms) + np.mean(insertion_terms)], rel=1e-5)


RECIPE = CorrectorTraining(epochs=3, batch_size=4, learning_rate=1e-3, validation=0.2, seed=3)


@pytest.mark.filterwarnings("ignore:the targets cannot hold")
@pytest.mark.parametrize(("select", "stops"), [("last", (2, 7)), ("best", (4,))])
def test_a_run_that_was_cut_off_ends_the_same(tmp_path, monkeypatch, select, stops):
    items = corpus(np.random.default_rng(1))
    recipe = CorrectorTraining(**{**RECIPE.__dict__, "select": select})
    whole = small()
    expected = whole.fit(items, recipe, device="cpu")
    assert (expected.utterances, expected.kept_out, expected.steps) == (10, 2, 9)
    assert len(expected.validation_loss) == len(expected.validation_per) == 3
    original = corrector_training._Run.take_step
    for stop in stops:
        left = iter(range(stop))

        def step(run, left=left):
            if next(left, None) is None:
                raise KeyboardInterrupt
            original(run)

        folder = tmp_path / str(stop)
        with monkeypatch.context() as patch:
            patch.setattr(corrector_training._Run, "take_step", step)
            with pytest.raises(KeyboardInterrupt):
                small().fit(items, recipe, folder=folder, device="cpu", save_seconds=0)
        again = small()
        report = again.fit(items, recipe, folder=folder, device="cpu")
        for name, weight in whole.state_dict().items():
            assert torch.equal(weight, again.state_dict()[name]), name
        assert report.losses == expected.losses and report.chosen == expected.chosen
        assert report.validation_loss == expected.validation_loss
        # A third call reads the result.
        monkeypatch.setattr(corrector_training._Run, "take_step", None)
        third = small()
        assert third.fit(items, recipe, folder=folder, device="cpu").losses == expected.losses
        assert torch.equal(third.head_op.weight, whole.head_op.weight) and not third.training
        monkeypatch.setattr(corrector_training._Run, "take_step", original)
    with pytest.raises(ValueError, match=r"learning_rate = 0.001, not 0.5"):
        changed = CorrectorTraining(**{**recipe.__dict__, "learning_rate": 0.5})
        small().fit(items, changed, folder=folder, device="cpu")
    with pytest.raises(ValueError, match="with data = "):
        small().fit(items[::-1], recipe, folder=folder, device="cpu")


@pytest.mark.filterwarnings("ignore:the targets cannot hold")
def test_the_best_epoch_is_kept():
    items = corpus(np.random.default_rng(1))
    recipe = CorrectorTraining(**{**RECIPE.__dict__, "select": "best", "learning_rate": 0.3})
    model = small()
    report = model.fit(items, recipe, device="cpu")
    best = int(np.argmin(report.validation_loss))
    assert report.chosen == best + 1
    short = small()
    # The schedule depends on the length of the run, so that the run is stopped and not shortened.
    run = corrector_training._Run(
        short, items, recipe, corrector_training.PlainEngine("cpu", "fp32"), None
    )
    for _ in range((best + 1) * run.per_epoch):
        run.take_step()
    assert torch.equal(short.head_op.weight, model.head_op.weight)


def test_four_utterances_are_learnt_by_heart_and_saved(tmp_path):
    """Over the shipped recognizer's frames of real audio, every operation comes out right."""
    rows = [json.loads(one) for one in (WORLD / "labelled.jsonl").read_text().splitlines()][:4]
    emissions = Recognizer.from_pretrained("tiny", device="cpu").emissions(
        [WORLD / one["audio_path"] for one in rows]
    )
    canonical = [one["phonemes"] for one in rows]
    realized = [tuple(one["real_phonemes"]) for one in rows]
    model = small(dropout=0.0, layer_dropout=0.0, width=48, layers=1)
    before = [one.phones for one in model.correct_many(emissions, canonical)]
    recipe = CorrectorTraining(epochs=60, learning_rate=5e-3, validation=0.0)
    report = model.fit(examples(emissions, canonical, realized), recipe, device="cpu")
    found = model.correct_many(emissions, canonical)
    assert before != realized and [one.phones for one in found] == realized
    assert report.losses[-1] < 0.05 < 1 < report.losses[0]
    model.save_pretrained(tmp_path)
    again = Corrector.from_pretrained(tmp_path)
    assert again.config == model.config and again.phones == model.phones
    assert again.correct_many(emissions, canonical) == found
    assert again.correct(emissions.utterance(0), canonical[0]).phones == realized[0]


def test_centroids_are_fitted_and_saved(tmp_path):
    rng = np.random.default_rng(2)
    items = [(rng.normal(size=(20, 6)), drawn(rng, 3), drawn(rng, 3)) for _ in range(4)]
    model = small(audio_frontend="kmeans", features=6, audio_vocabulary=8)
    with pytest.raises(ValueError, match="utterance 0: the centroids were never fitted"):
        model.correct(items[0][0], ("S",))
    model.fit(items, CorrectorTraining(epochs=1, validation=0.0), device="cpu")
    assert torch.equal(
        model.audio.centroids_KC, kmeans(np.concatenate([one[0] for one in items]), 8, 0)
    )
    model.save_pretrained(tmp_path)
    again = Corrector.from_pretrained(tmp_path)
    assert again.correct(items[0][0], ("S",)) == model.correct(items[0][0], ("S",))


@pytest.mark.slow
def test_flapping_is_learnt_from_speakers_half_of_whom_flap():
    """Whether a T is flapped is in the frames alone: no rule about phones can know it."""
    parts = (("B", "K", "L", "S", "M"), ("AA", "EH", "OW", "IY"), ("T", "D", "K"))
    parts = (*parts, ("AH", "IY", "ER", "UW"), ("N", "S", "L", "Z"))
    words = Dict({"".join(one).lower(): [one] for one in itertools.product(*parts)})
    world = EspeakWorld(
        words, rules=RULES[:1], rule_probability=0.5, seed=1, length=(1, 2), words=900, heldout=200
    )
    phones, rng = PhoneSet.arpabet39(), np.random.default_rng(0)

    def heard(said):
        path = [phones.blank]
        for phone in said:
            path += [phones.id(phone)] * int(rng.integers(1, 4))
            path += [phones.blank] * int(rng.integers(1, 3))
        logits = rng.normal(size=(len(path), len(phones)))
        logits[np.arange(len(path)), path] += 6
        return logits - np.log(np.exp(logits).sum(1, keepdims=True))

    model = small(width=64, feed_forward=128, dropout=0.0, layer_dropout=0.0)
    items = [
        (heard(one.real_phonemes), one.phonemes, one.real_phonemes)
        for one in world.utterances("train", 500)
    ]
    recipe = CorrectorTraining(epochs=30, batch_size=32, learning_rate=2e-3)
    model.fit(items, recipe, device="cpu")
    test = world.utterances("test", 150)
    answers = model.correct_many(
        [heard(one.real_phonemes) for one in test], [one.phonemes for one in test]
    )
    hits = misses = false = 0
    for one, answer in zip(test, answers, strict=True):
        truth = [op for word in one.ops for op in word]
        for op, found in zip(truth, answer.program.ops, strict=True):
            hits += op == found == "SUB:DX"
            misses += op == "SUB:DX" != found
            false += found == "SUB:DX" != op
    assert hits + misses > 50 and hits > 0.9 * (hits + misses) and false < 0.1 * hits


@pytest.mark.gpu
def test_a_gpu_says_and_learns_what_the_cpu_does():
    rng = np.random.default_rng(0)
    model = small()
    audio = [frames(rng, length) for length in (20, 9)]
    canonical = [drawn(rng, 5), drawn(rng, 3)]
    expected = model.correct_many(audio, canonical)
    found = model.cuda().correct_many(audio, canonical)
    for one, two in zip(found, expected, strict=True):
        assert one.op_probabilities == pytest.approx(two.op_probabilities, abs=2e-3)
    items = list(zip(audio, canonical, canonical, strict=True))
    recipe = CorrectorTraining(epochs=80, learning_rate=5e-3, validation=0.0)
    report = model.fit(items, recipe, device="cuda")
    assert report.losses[-1] < 0.1 < report.losses[0]
    assert [one.phones for one in model.correct_many(audio, canonical)] == canonical


# The public door --------------------------------------------------------------------------------


def test_bad_calls_say_what_is_wrong(tmp_path):
    rng = np.random.default_rng(0)
    model, audio = small(), frames(rng, 10)
    with pytest.raises(ValueError, match=r"utterance 0: .*'XX'"):
        model.correct(audio, ("K", "XX"))
    with pytest.raises(TypeError, match="not the string 'K AE'"):
        model.correct(audio, "K AE")
    with pytest.raises(ValueError, match=r"\(T, 44\), got \(10, 3\)"):
        model.correct(audio[:, :3], ("K",))
    with pytest.raises(ValueError, match="no frame"):
        model.correct(audio[:0], ("K",))
    with pytest.raises(ValueError, match="must be log-probabilities"):
        model.correct(np.exp(audio), ("K",))
    with pytest.raises(ValueError, match="401 units of audio are more than max_positions = 400"):
        model.correct(frames(rng, 401), ("K",))
    with pytest.raises(ValueError, match=r"min_confidence must be in \[0, 1\], not 1.5"):
        model.correct(audio, ("K",), min_confidence=1.5)
    with pytest.raises(ValueError, match=r"2 recordings .* got 1"):
        model.correct_many([audio, audio], [("K",)])
    with pytest.raises(ValueError, match="batch_size must be positive, not 0"):
        model.correct_many([audio], [("K",)], batch_size=0)
    slow = Emissions(torch.from_numpy(audio), [10], 0.04, PhoneSet.arpabet39())
    with pytest.raises(ValueError, match="frames 20 ms apart, the emissions' are 40 ms apart"):
        model.correct_many(slow, [("K",)])
    with pytest.raises(ValueError, match="40 ms apart"):
        model.correct(slow, ("K",))
    with pytest.raises(ValueError, match="call eval"):
        small().train().correct(audio, ("K",))
    features = small(audio_frontend="continuous", features=44)
    with pytest.raises(ValueError, match="must be finite"):
        features.correct(np.full((4, 44), np.nan), ("K",))
    tokens = small(audio_frontend="argmax", audio_vocabulary=8)
    with pytest.raises(ValueError, match=r"tokens must be in \[0, 8\), got 1 to 8"):
        tokens.correct([1, 8], ("K",))
    with pytest.raises(ValueError, match="no utterance to learn from"):
        model.fit([], device="cpu")
    with pytest.raises(ValueError, match="utterance 1: there is no canonical phone"):
        model.fit([(audio, ("K",), ("K",)), (audio, (), ("K",))], device="cpu")
    with pytest.raises(ValueError, match="a7: phone 'XX'"):
        model.fit([Example(audio, ("K",), ("XX",), "a7")], device="cpu")
    with pytest.raises(TypeError, match="not the string 'K AE'"):
        model.fit([(audio, ("K",), "K AE")], device="cpu")
    with pytest.raises(FileNotFoundError, match="no saved Corrector"):
        Corrector.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "corrector.json").read_text())
    (tmp_path / "corrector.json").write_text(json.dumps({**settings, "width": 64}))
    with pytest.raises(ValueError, match="does not fit its config"):
        Corrector.from_pretrained(tmp_path)
    (tmp_path / "corrector.json").write_text(json.dumps({**settings, "model_type": "other"}))
    with pytest.raises(ValueError, match="does not describe"):
        Corrector.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "layers must be positive, not 0"),
        ({"width": 30}, "multiple of heads, not 30"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), not 1.0"),
        ({"audio_frontend": "hubert"}, "not 'hubert'"),
        ({"audio_frontend": "continuous"}, "needs features"),
        ({"features": 0}, "features must be positive, not 0"),
        ({"scheme": "tags"}, "not 'tags'"),
        ({"token_rate": 30}, "must divide the 50 frames per second, not 30"),
    ],
)
def test_bad_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        CorrectorConfig(**{**SMALL, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be positive, not 0"),
        ({"warmup": 1.0}, "warmup must be in .* not 1.0"),
        ({"validation": -0.1}, "validation must be in .* not -0.1"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative, not -1.0"),
        ({"betas": (0.9, 1.0)}, "betas are two numbers"),
        ({"select": "first"}, "not 'first'"),
        ({"precision": "int8"}, "not 'int8'"),
        ({"cost": "free"}, "not 'free'"),
        ({"select": "best", "validation": 0.0}, "kept out"),
    ],
)
def test_bad_recipes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        CorrectorTraining(**changes)
