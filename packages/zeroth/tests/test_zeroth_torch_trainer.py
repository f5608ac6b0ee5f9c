"""The real Trainer, PEFT, Accelerate and TRL on tiny random models, on the CPU."""

import json
import math
import os
import socket
import subprocess
import sys

import pytest
import torch
from torch.utils.data import Dataset

from modicum.zeroth.torch import TrajectoryWriter, ZOOptimizer, read_trajectory, replay

transformers = pytest.importorskip("transformers")

from modicum.zeroth.integrations.transformers import ZOTrainer, ZOTrainerMixin  # noqa: E402

# What the engines warn of is theirs: deprecations between them, and training on a CPU.
pytestmark = pytest.mark.filterwarnings("ignore")

VOCABULARY, LENGTH = 24, 6


class Tokens(Dataset):
    def __init__(self, size=32):
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(0, VOCABULARY, (size, LENGTH), generator=generator)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


def make_model(dropout=0.1):
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=16, n_layer=2, n_head=2,
        resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return transformers.GPT2LMHeadModel(config)


def make_arguments(folder, **changes):
    settings = {
        "output_dir": str(folder), "max_steps": 6, "per_device_train_batch_size": 4,
        "learning_rate": 0.01, "weight_decay": 0.1, "lr_scheduler_type": "cosine", "seed": 11,
        "logging_steps": 1, "save_strategy": "no", "report_to": [], "use_cpu": True,
        "disable_tqdm": True, "dataloader_pin_memory": False,
    }  # fmt: skip
    return transformers.TrainingArguments(**(settings | changes))


def bits(module):
    return {name: value.clone().view(torch.uint8) for name, value in module.state_dict().items()}


def same_bits(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


OPTIONS = {"epsilon": 0.02, "pairs": 2}


def test_steps_are_those_of_the_optimizer(tmp_path):
    """The same batches, rates and dropout through the optimizer alone give the same bits."""
    seen = []

    class Watching(ZOTrainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            rates = [group["lr"] for group in self.zo_optimizer.param_groups]
            counted = {**inputs, "num_items_in_batch": num_items_in_batch}
            seen.append((rates, counted, torch.get_rng_state()))
            return super().training_step(model, inputs, num_items_in_batch)

    model = make_model()
    trainer = Watching(
        model=model, args=make_arguments(tmp_path), train_dataset=Tokens(), zo_options=OPTIONS
    )
    result = trainer.train()
    assert result.global_step == 6
    assert trainer.zo_optimizer.steps == 6

    twin = make_model().train()
    decayed = set(trainer.get_decay_parameter_names(twin))
    named = list(twin.named_parameters())
    assert {name.split(".")[-2] for name, _ in named if name not in decayed} >= {"ln_1", "ln_f"}
    groups = [
        {"params": [p for n, p in named if n in decayed], "weight_decay": 0.1},
        {"params": [p for n, p in named if n not in decayed], "weight_decay": 0.0},
    ]
    optimizer = ZOOptimizer(groups, 0.01, seed=11, **OPTIONS)
    losses = []
    for rates, inputs, state in seen:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        torch.set_rng_state(state)
        losses.append(optimizer.step(lambda inputs=inputs: twin(**inputs).loss).item())
    assert same_bits(bits(model), bits(twin))
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["loss"] for entry in logged] == pytest.approx(losses, abs=1e-3)
    assert all(entry["grad_norm"] > 0 for entry in logged)
    assert seen[0][0] != seen[-1][0]


def test_training_lowers_the_loss(tmp_path):
    model = make_model(dropout=0.0)
    data = Tokens(4)
    batch = {name: torch.stack([data[i][name] for i in range(4)]) for name in data[0]}
    before = model(**batch).loss.item()
    trainer = ZOTrainer(
        model=model,
        args=make_arguments(tmp_path, max_steps=30, learning_rate=4e-3, weight_decay=0.0),
        train_dataset=data,
        zo_options={"epsilon": 1e-3, "pairs": 4, "momentum": 0.5},
    )
    trainer.train()
    assert model.eval()(**batch).loss.item() < before - 0.1


def test_batches_of_a_step_are_one_loss(tmp_path):
    """Four batches of two and one of eight are the same step."""
    results = []
    for size, accumulated in ((8, 1), (2, 4)):
        model = make_model(dropout=0.0)
        trainer = ZOTrainer(
            model=model,
            args=make_arguments(
                tmp_path, per_device_train_batch_size=size,
                gradient_accumulation_steps=accumulated, max_steps=3,
            ),
            train_dataset=Tokens(),
            zo_options=OPTIONS,
        )  # fmt: skip
        trainer.train()
        assert trainer.zo_optimizer.steps == 3
        logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        results.append((logged, trainer.zo_optimizer.last.scalars, model.state_dict()))
    assert results[0][0] == pytest.approx(results[1][0], abs=2e-3)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-2, abs=1e-3)
    for name, value in results[0][2].items():
        torch.testing.assert_close(value, results[1][2][name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_going_on_from_a_checkpoint_changes_no_bit(momentum, tmp_path):
    options = OPTIONS | {"momentum": momentum}

    def make(folder):
        model = make_model()
        trainer = ZOTrainer(
            model=model,
            args=make_arguments(folder, save_strategy="steps", save_steps=3),
            train_dataset=Tokens(),
            zo_options=options,
            trajectory=tmp_path / "run.zo.jsonl",
        )
        return model, trainer

    model, trainer = make(tmp_path / "whole")
    trainer.train()
    whole = [record for _, record in read_trajectory(tmp_path / "run.zo.jsonl").steps]
    resumed, second = make(tmp_path / "resumed")
    second.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert same_bits(bits(model), bits(resumed))
    lines = [json.loads(line) for line in (tmp_path / "run.zo.jsonl").read_text().splitlines()]
    assert lines[7] == {"rewind": 3}
    after = [record for _, record in read_trajectory(tmp_path / "run.zo.jsonl").steps]
    assert [r.scalars for r in after] == [r.scalars for r in whole]
    again = make_model()
    assert replay(again, tmp_path / "run.zo.jsonl").steps == 6
    assert same_bits(bits(again), bits(model))


def test_only_adapters_are_trained(tmp_path):
    peft = pytest.importorskip("peft")

    def adapted():
        config = peft.LoraConfig(
            r=2, lora_alpha=4, target_modules=["c_attn"], task_type="CAUSAL_LM",
            fan_in_fan_out=True,
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return peft.get_peft_model(make_model(), config)

    model = adapted()
    before = bits(model)
    trainer = ZOTrainer(
        model=model,
        args=make_arguments(tmp_path, save_strategy="steps", save_steps=4),
        train_dataset=Tokens(),
        zo_options={"epsilon": 0.05, "perturb": "streamed"},
        trajectory=tmp_path / "lora.zo.jsonl",
    )
    trainer.train()
    after = bits(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all("lora_" in name for name in moved)
    assert trainer.zo_optimizer.dimension == model.get_nb_trainable_parameters()[0]
    assert (tmp_path / "checkpoint-4" / "adapter_model.safetensors").exists()
    again = adapted()
    replay(again, tmp_path / "lora.zo.jsonl")
    assert same_bits(after, bits(again))
    merged = again.merge_and_unload()
    ids = Tokens(2).ids
    expected = model.eval()(ids).logits
    torch.testing.assert_close(merged.eval()(ids).logits, expected, rtol=1e-4, atol=1e-4)


def test_trajectory_is_closed_when_training_fails(tmp_path):
    class Broken(ZOTrainer):
        def compute_loss(self, *args, **kwargs):
            if self.state.global_step == 2:
                raise KeyError("broken")
            return super().compute_loss(*args, **kwargs)

    model = make_model()
    trainer = Broken(
        model=model, args=make_arguments(tmp_path), train_dataset=Tokens(), zo_options=OPTIONS,
        trajectory=tmp_path / "run.zo.jsonl",
    )  # fmt: skip
    with pytest.raises(KeyError):
        trainer.train()
    again = make_model()
    assert replay(again, tmp_path / "run.zo.jsonl").steps == 2
    assert same_bits(bits(model), bits(again))


@pytest.mark.parametrize(
    ("arguments", "others", "message"),
    [
        ({"fp16": True}, {}, "fp16=True scales losses"),
        ({}, {"optimizers": True}, "makes its own optimizer"),
    ],
)
def test_what_needs_gradients_is_refused(arguments, others, message, tmp_path):
    model = make_model()
    if others:
        others = {"optimizers": (torch.optim.SGD(model.parameters(), 0.1), None)}
    with pytest.raises(ValueError, match=message):
        ZOTrainer(model=model, args=make_arguments(tmp_path, **arguments), **others)


def test_evaluation_and_prediction_are_the_trainers(tmp_path):
    trainer = ZOTrainer(
        model=make_model(),
        args=make_arguments(tmp_path, max_steps=2, eval_strategy="steps", eval_steps=1),
        train_dataset=Tokens(),
        eval_dataset=Tokens(8),
        zo_options=OPTIONS,
    )
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(losses) == 2 and all(math.isfinite(loss) for loss in losses)
    assert trainer.predict(Tokens(3)).predictions.shape == (3, LENGTH, VOCABULARY)


def test_a_loop_of_accelerate(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    accelerate.utils.set_seed(0)
    accelerator = accelerate.Accelerator(cpu=True)
    model = make_model().train()
    optimizer = ZOOptimizer(model.named_parameters(), 0.01, **OPTIONS)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 10)
    loader = torch.utils.data.DataLoader(Tokens(), batch_size=8)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    inner = optimizer.optimizer
    with TrajectoryWriter(tmp_path / "a.zo.jsonl", inner, accelerator.unwrap_model(model)):
        for step, batch in enumerate(loader):
            if step == 2:
                accelerator.save_state(str(tmp_path / "state"))
                middle = bits(model)
            optimizer.step(lambda batch=batch: model(**batch).loss)
            scheduler.step()
            optimizer.zero_grad()
    assert inner.steps == 4 and inner.param_groups[0]["lr"] < 0.01
    again = make_model()
    replay(again, tmp_path / "a.zo.jsonl")
    assert same_bits(bits(again), bits(accelerator.unwrap_model(model)))
    accelerator.load_state(str(tmp_path / "state"))
    assert same_bits(middle, bits(model))
    assert inner.steps == 2


@pytest.mark.slow  # loading trl and datasets
def test_losses_of_trl(tmp_path):
    """The mixin before a descendant of Trainer, whose loss and data handling stay its own."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: index for index, word in enumerate(["<pad>", *"abcdefghij"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<pad>", unk_token="<pad>"
    )

    class ZOSFTTrainer(ZOTrainerMixin, trl.SFTTrainer):
        pass

    model = make_model()
    before = bits(model)
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=2, learning_rate=0.01,
        logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
        max_length=LENGTH, bf16=False, dataloader_pin_memory=False, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = ZOSFTTrainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict({"text": ["a b c d e", "f g h i j", "a c e g"]}),
        processing_class=fast,
        zo_options=OPTIONS,
        trajectory=tmp_path / "sft.zo.jsonl",
    )
    trainer.train()
    assert trainer.zo_optimizer.steps == 3
    assert not same_bits(before, bits(model))
    again = make_model()
    replay(again, tmp_path / "sft.zo.jsonl")
    assert same_bits(bits(again), bits(model))


PROCESS = """
import importlib.util, json, sys, warnings
warnings.simplefilter("ignore")
spec = importlib.util.spec_from_file_location("cases", sys.argv[1])
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)
folder = sys.argv[2]
model = cases.make_model()
trainer = cases.ZOTrainer(
    model=model, args=cases.make_arguments(folder, ddp_backend="gloo"),
    train_dataset=cases.Tokens(), zo_options=cases.OPTIONS, trajectory=f"{folder}/run.zo.jsonl",
)
trainer.train()
cases.torch.save(model.state_dict(), f"{folder}/{trainer.args.process_index}.pt")
"""


@pytest.mark.slow
def test_two_processes_share_the_directions(tmp_path):
    """The real thing over gloo: each its own batches, both the same weights, in one file."""
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), __file__, str(tmp_path)],
            env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=240) for process in processes] == [0, 0]
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    again = make_model()
    assert replay(again, tmp_path / "run.zo.jsonl").steps == 6
    assert all(torch.equal(one[name], value) for name, value in again.state_dict().items())
    assert len(read_trajectory(tmp_path / "run.zo.jsonl").steps[0][1].scalars) == 4


@pytest.mark.gpu
def test_training_on_a_device(tmp_path):
    model = make_model()
    trainer = ZOTrainer(
        model=model,
        args=make_arguments(tmp_path, use_cpu=False, bf16=True),
        train_dataset=Tokens(),
        zo_options=OPTIONS,
        trajectory=tmp_path / "run.zo.jsonl",
    )
    trainer.train()
    again = make_model()
    replay(again, tmp_path / "run.zo.jsonl")
    assert same_bits(bits(model.cpu()), bits(again))
