"""Fine-tuning with the Trainer of transformers: what learns when, the loss, and that it learns."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from modicum.huper.integrations.finetuning import (
    CTCCollator,
    HeadOnlyWarmup,
    error_rate,
    examples,
    fine_tune,
    training_arguments,
)
from modicum.huper.integrations.transformers import TransformersCTC, transformers
from modicum.huper.phones import PhoneSet
from modicum.huper.training import Labelled

# Of torch, about how WavLM of transformers calls its attention.
pytestmark = pytest.mark.filterwarnings("ignore:.*mismatched key_padding_mask")

FOLDER = Path(__file__).parent / "data" / "huper_world"
PLAIN = {
    "apply_spec_augment": False,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.0,
    "layerdrop": 0.0,
}
PHONES = PhoneSet.arpabet39()
SIZES = {
    "vocab_size": 44,
    "pad_token_id": 0,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
CONVOLUTIONS = {
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
}


def _fixture(count, split="labelled"):
    lines = (FOLDER / f"{split}.jsonl").read_text().splitlines()[:count]
    return [
        Labelled(FOLDER / line["audio_path"], tuple(line["real_phonemes"]), id=line["id"])
        for line in map(json.loads, lines)
    ]


def _model(kind="WavLM", **changes):
    sizes = SIZES if kind == "Wav2Vec2Bert" else SIZES | CONVOLUTIONS | PLAIN
    config = getattr(transformers, f"{kind}Config")(**(sizes | changes))
    torch.manual_seed(0)
    network = getattr(transformers, f"{kind}ForCTC")(config).eval()
    return TransformersCTC(network, phones=PHONES)


def _arguments(folder, **changes):
    settings = {
        "per_device_train_batch_size": 2,
        "max_steps": 10,
        "learning_rate": 1e-2,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    return training_arguments(folder, **(settings | changes))


class Watch(transformers.TrainerCallback):
    """Notes the weights of three parts after each step."""

    def __init__(self):
        self.seen, self.rates = [], []

    def on_train_begin(self, args, state, control, **kwargs):
        self._note(kwargs["model"])

    def on_step_end(self, args, state, control, **kwargs):
        self._note(kwargs["model"])
        self.rates.append({group["lr"] for group in kwargs["optimizer"].param_groups})

    def _note(self, model):
        base = model.base_model
        self.seen.append(
            {
                "head": model.lm_head.weight.detach().clone(),
                "encoder": torch.cat(
                    [one.detach().flatten() for one in base.encoder.layers.parameters()]
                ),
                "convolutions": base.feature_extractor.conv_layers[0].conv.weight.detach().clone(),
                "projection": base.feature_projection.projection.weight.detach().clone(),
            }
        )

    def moved(self, part):
        return [
            not torch.equal(before[part], after[part])
            for before, after in zip(self.seen, self.seen[1:], strict=False)
        ]


def test_only_the_head_learns_at_first_and_the_feature_encoder_never(tmp_path):
    model, watch = _model(), Watch()
    trainer = fine_tune(
        model, _fixture(4), _arguments(tmp_path), head_only_ratio=0.25, callbacks=[watch]
    )
    trainer.train()
    head_only = math.ceil(0.25 * 10)
    # The first step of a schedule that rises from 0 has the learning rate 0.
    assert watch.moved("head") == [False] + [True] * 9
    assert watch.moved("encoder") == [False] * head_only + [True] * (10 - head_only)
    assert watch.moved("convolutions") == watch.moved("projection") == [False] * 10
    # Every group follows the schedule: up over a tenth of the steps, then constant.
    assert all(len(rates) == 1 for rates in watch.rates)
    assert {round(rate, 9) for rates in watch.rates for rate in rates} == {1e-2}
    assert model.model.config.ctc_zero_infinity and not model.model.accepts_loss_kwargs
    assert all(one.requires_grad for one in model.model.base_model.encoder.parameters())


def test_freezing_everything_or_nothing(tmp_path):
    for freeze, parts in (("base", ["head"]), ("nothing", ["head", "encoder", "projection"])):
        model, watch = _model(), Watch()
        trainer = fine_tune(
            model,
            _fixture(2),
            _arguments(tmp_path, max_steps=2),
            head_only_ratio=0.0,
            freeze=freeze,
            callbacks=[watch],
        )
        trainer.train()
        moved = {part for part in watch.seen[0] if any(watch.moved(part))}
        assert moved >= set(parts) and ("encoder" in moved) == (freeze == "nothing")
        assert ("convolutions" in moved) == (freeze == "nothing")


def test_masking_gradients_gives_the_same_weights_as_freezing(tmp_path):
    """With several processes gradients are masked; the rest of the step is the same."""
    found = []
    for mask in (False, True):
        model = _model()
        arguments = _arguments(tmp_path, max_steps=6, optim="sgd", weight_decay=0.1, seed=3)
        trainer = fine_tune(model, _fixture(4), arguments)
        trainer.remove_callback(HeadOnlyWarmup)
        callback = HeadOnlyWarmup(0.5, mask=mask)
        trainer.add_callback(callback)
        trainer.train()
        assert not callback._waiting and not callback._hooks
        found.append({name: one.clone() for name, one in model.model.state_dict().items()})
    start = _model().model.state_dict()
    for name in start:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-4, atol=1e-6)
    moved = found[0]["wavlm.encoder.layers.0.attention.q_proj.weight"]
    assert (moved - start["wavlm.encoder.layers.0.attention.q_proj.weight"]).abs().max() > 1e-5


def test_several_batches_a_step_are_one_batch(tmp_path):
    """The gradient of two halves is that of the whole, not twice as large."""
    found = []
    for size, steps in ((4, 1), (2, 2)):
        model = _model()
        trainer = fine_tune(
            model,
            _fixture(4),
            _arguments(
                tmp_path,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=steps,
                max_steps=1,
                optim="sgd",
                weight_decay=0.0,
                max_grad_norm=0.0,
                warmup_steps=0,
                seed=1,
            ),
            head_only_ratio=0.0,
        )
        before = model.model.lm_head.weight.detach().clone()
        trainer.train()
        found.append(model.model.lm_head.weight.detach() - before)
    assert found[0].abs().max() > 1e-5
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-7)


def test_an_optimiser_without_the_encoder_is_refused(tmp_path):
    model = _model()
    trainer = fine_tune(model, _fixture(2), _arguments(tmp_path))
    trainer.optimizer = torch.optim.SGD(model.model.lm_head.parameters(), 1e-2)
    with pytest.raises(ValueError, match=r"lacks \d+ parameters"):
        trainer.train()


@pytest.mark.parametrize(("kind", "norm"), [("WavLM", "layer"), ("Wav2Vec2", "group")])
def test_batches_have_masks_where_they_mean_something(kind, norm):
    model = _model(kind, feat_extract_norm=norm, do_stable_layer_norm=norm == "layer")
    items = examples(model, _fixture(3))
    batch = CTCCollator(model)(items)
    assert ("attention_mask" in batch) == (norm == "layer")
    assert batch["labels"].shape == (3, max(len(one["labels"]) for one in items))
    for number, one in enumerate(items):
        labels = batch["labels"][number]
        assert labels[labels >= 0].tolist() == one["labels"].tolist()
        values = batch["input_values"][number, : one["length"]]
        assert abs(float(values.mean())) < 1e-4 and abs(float(values.std()) - 1) < 1e-3
        assert not batch["input_values"][number, one["length"] :].any()


def test_the_loss_is_that_of_torch():
    model = _model()
    items = examples(model, _fixture(3))
    with torch.no_grad():
        found = model.model(**CTCCollator(model)(items)).loss
        logprobs = model.emissions([one["samples"] for one in items], 16_000)
        wanted = torch.nn.functional.ctc_loss(
            logprobs.logprobs.transpose(0, 1),
            torch.cat([torch.as_tensor(one["labels"]) for one in items]),
            logprobs.lengths,
            torch.tensor([len(one["labels"]) for one in items]),
            reduction=model.model.config.ctc_loss_reduction,
        )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_wav2vec2_bert_learns_from_features(tmp_path):
    bert = _model("Wav2Vec2Bert", apply_spec_augment=False)
    before = bert.model.lm_head.weight.detach().clone()
    fine_tune(bert, _fixture(2), _arguments(tmp_path, max_steps=2)).train()
    assert not torch.equal(before, bert.model.lm_head.weight)


def test_bad_settings_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\[0, 1\], not 2"):
        HeadOnlyWarmup(2)
    with pytest.raises(ValueError, match="'head'"):
        HeadOnlyWarmup(freeze="head")
    model = _model()
    with pytest.raises(ValueError, match="no utterance"):
        fine_tune(model, [], _arguments(tmp_path))
    noise = np.zeros(8000, np.float32)
    with pytest.raises(ValueError, match=r"utterance a: .*'ʘ'"):
        examples(model, [Labelled(noise, ("ʘ",), id="a")])
    with pytest.raises(ValueError, match=r"utterance number 0 has the weight 0\.5"):
        examples(model, [Labelled(noise, ("AA",), weight=0.5)])
    with pytest.raises(ValueError, match="no phone"):
        error_rate(model.model.eval() and model, [Labelled(noise, ())])


@pytest.mark.slow
def test_four_utterances_are_learnt_by_heart(tmp_path):
    """A randomly initialised WavLM of two layers of width 64 reaches a phone error rate of 0."""
    changes = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
    model = _model(conv_dim=(24,) * 7, **changes)
    utterances = _fixture(4)
    arguments = _arguments(
        tmp_path, per_device_train_batch_size=4, max_steps=180, learning_rate=3e-3
    )
    trainer = fine_tune(model, utterances, arguments, freeze="nothing")
    assert error_rate(model, utterances) > 0.5
    trainer.train()
    model.model.eval()
    assert error_rate(model, utterances) == 0
