"""The tiny model: its task, the network, training that goes on where it was cut off."""

import itertools
from pathlib import Path

import pytest
import torch

from modicum.core.device import torch_generator
from modicum.pvf import PVF, MaskPredictor, Threshold, generate, tiny
from modicum.pvf.tiny import (
    ANSWER_LENGTH,
    CHECKPOINTS,
    PROMPT_LENGTH,
    STYLE_IDS,
    TinyConfig,
    TinyMDLM,
    TinyTokenizer,
    draw_items,
    is_exact,
    load_checkpoint,
    load_tiny,
    train,
)
from modicum.pvf.tiny.task import LETTERS, STYLES, VOCABULARY
from modicum.pvf.tiny.train import (
    BATCH_SIZE,
    LEARNING_RATE,
    STEPS,
    _Run,
    learning_rate,
    masked_batch,
)

SMALL = TinyConfig(layers=1, width=16, heads=2, inner=24)
PROMPT = "a 3 , k 7 , m 1 , t 5 ,"


def items(count=200, held_out=False, seed=0):
    return draw_items(count, torch_generator(seed, "cpu", "items"), held_out)


# The task ----------------------------------------------------------------------------------------


def test_an_answer_retells_the_prompt_line_by_line():
    tokenizer = TinyTokenizer()
    prompt = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    text = "if a = 3 + 0 ) with k is 7 from 3 . for m in 1 while 7 : if t = 5 + 1 ) pass 5 : <eos>"
    answer = torch.tensor([tokenizer.encode(text)])
    assert answer.shape == (1, ANSWER_LENGTH) and prompt.shape == (1, PROMPT_LENGTH)
    assert is_exact(prompt, answer).item()
    assert tokenizer.decode(answer[0].tolist()) == text


def test_drawn_answers_are_exact_and_a_changed_token_is_not():
    prompt, answer = items(100)
    assert is_exact(prompt, answer).all()
    generator = torch.Generator().manual_seed(0)
    for column in range(ANSWER_LENGTH):
        changed = answer.clone()
        shift = torch.randint(1, len(VOCABULARY), (len(answer),), generator=generator)
        changed[:, column] = (changed[:, column] + shift) % len(VOCABULARY)
        assert not is_exact(prompt, changed).any()


def test_styles_change_between_lines_and_not_within_one():
    prompt = items(1).prompt_BP
    texts = set()
    found = items(4000).answer_BG
    for line in range(5):
        head = found[:, 7 * line]
        counts = [int((head == STYLE_IDS[5 * s + 4 * (line == 4)]).sum()) for s in range(3)]
        # Each is binomial with 1/3 of 4000: seven standard deviations, below 1e-10 for all.
        assert sum(counts) == 4000 and all(abs(count - 4000 / 3) < 210 for count in counts)
        texts.add(tuple(counts))
    assert len(texts) == 5
    with pytest.raises(ValueError, match="shape"):
        is_exact(prompt, found[:1, :-1])


def test_held_out_prompts_are_never_trained_on():
    digits = items(3000).prompt_BP[:, 1::3] - 3
    held = items(3000, held_out=True).prompt_BP[:, 1::3] - 3
    assert (digits.sum(-1) % 10 != 0).all() and (held.sum(-1) % 10 == 0).all()
    # Digits by themselves are uniform in both: 7 standard deviations of 300 counts.
    for drawn in (digits, held):
        counts = torch.stack([(drawn == digit).sum(0) for digit in range(10)])
        assert (counts - 300).abs().max() < 116
    trained = torch.cat([masked_batch(0, step)[0] for step in range(20)])
    assert ((trained[:, 1:PROMPT_LENGTH:3] - 3).sum(-1) % 10 != 0).all()


def test_the_vocabulary_has_each_word_once():
    assert len(set(VOCABULARY)) == len(VOCABULARY) == 32
    words = [word for style in STYLES for word in style]
    assert [VOCABULARY[number] for number in STYLE_IDS] == words
    tokenizer = TinyTokenizer()
    assert tokenizer.decode(tokenizer.encode(PROMPT)) == PROMPT
    assert tokenizer.encode(PROMPT, add_special_tokens=True)[-1] == tokenizer.eos_token_id
    assert tokenizer.get_vocab() == {word: number for number, word in enumerate(VOCABULARY)}
    assert tokenizer.batch_decode([[3, 4], [13]]) == ["0 1", LETTERS[0]]


def test_a_prompt_of_other_words_is_refused():
    tokenizer = TinyTokenizer()
    with pytest.raises(ValueError, match="the words z 12; those there are"):
        tokenizer("z 12 , a 3")
    assert tokenizer.encode("z 3") == [tokenizer.mask_token_id, 6]


# The network -------------------------------------------------------------------------------------


def test_the_network_is_a_mask_predictor_of_a_third_of_a_million_parameters():
    model = TinyMDLM()
    assert isinstance(model, MaskPredictor)
    assert sum(parameter.numel() for parameter in model.parameters()) == 338_592
    assert model.device == torch.device("cpu") and model.vocab_size == 32


def test_logits_at_positions_are_those_of_the_whole_and_see_both_sides():
    model = TinyMDLM(SMALL, seed=1)
    ids = items(3).answer_BG
    whole = model(ids)
    positions = torch.tensor([[0, 5, 31], [7, 7, 2], [30, 1, 0]])
    picked = model(ids, None, positions)
    assert torch.allclose(picked, whole[torch.arange(3)[:, None], positions], atol=1e-6)
    other = ids.clone()
    other[:, -1] = 5
    assert (model(other)[:, 0] != whole[:, 0]).any()


@pytest.mark.parametrize("behind", [True, False])
def test_padding_is_not_seen(behind):
    model = TinyMDLM(SMALL, seed=1)
    ids = items(4).answer_BG
    padding = torch.randint(32, (4, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(4, 38, dtype=torch.bool)
    where = slice(32, None) if behind else slice(0, 6)
    mask[:, where] = False
    padded = torch.cat([ids, padding] if behind else [padding, ids], 1)
    found = model(padded, mask)[mask].view(4, 32, -1)
    assert torch.allclose(found, model(ids), atol=1e-5)


def test_it_is_a_llama_that_sees_both_sides():
    transformers = pytest.importorskip("transformers")
    ours = TinyMDLM(SMALL, seed=2)
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=SMALL.width,
        intermediate_size=SMALL.inner,
        num_hidden_layers=SMALL.layers,
        num_attention_heads=SMALL.heads,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=False,
    )
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.load_state_dict(ours.state_dict())
    ids = items(3).answer_BG
    everything = torch.ones(3, 1, 32, 32, dtype=torch.bool)
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=everything).logits
        assert torch.allclose(ours(ids), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "message"), [({"layers": 0}, "layers"), ({"width": 20, "heads": 4}, "multiple of 8")]
)
def test_sizes_that_make_no_network_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        TinyConfig(**sizes)


def test_a_checkpoint_comes_back(tmp_path):
    model = TinyMDLM(SMALL, seed=3)
    path = tmp_path / "model.safetensors"
    path.write_bytes(model.checkpoint({"steps": "7"}))
    found, metadata = load_checkpoint(path)
    assert found.config == SMALL and metadata["steps"] == "7"
    ids = items(2).answer_BG
    assert torch.equal(found(ids), model(ids))
    assert not any(parameter.requires_grad for parameter in found.parameters())


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not a TinyMDLM"):
        load_checkpoint(tmp_path / "other.safetensors")
    config = {"config": '{"layers": 2, "width": 16, "heads": 2, "inner": 24}'}
    save_file(TinyMDLM(SMALL).state_dict(), tmp_path / "deeper.safetensors", config)
    with pytest.raises(ValueError, match="disagree"):
        load_checkpoint(tmp_path / "deeper.safetensors")
    with pytest.raises(ValueError, match="name"):
        load_tiny("untrained")


# Training ----------------------------------------------------------------------------------------


class CutOff:
    """A progress task that ends the run after a number of steps."""

    def __init__(self, after):
        self.left = after

    def advance(self, n=1):
        self.left -= n
        if self.left < 0:
            raise KeyboardInterrupt


def trained(out, **options):
    settings = {"seed": 1, "steps": 9, "device": "cpu", "half": False, "config": SMALL}
    return load_checkpoint(train(out, **{**settings, **options}))


@pytest.mark.parametrize("after", [0, 1, 6])
def test_a_run_that_was_cut_off_ends_with_the_same_weights(tmp_path, after):
    whole, expected = trained(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", progress=CutOff(after), save_seconds=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.state", "whole"]
    state = torch.load(tmp_path / "cut.state", weights_only=True)
    assert state["step"] == after + 1 == len(state["losses"])
    found, metadata = trained(tmp_path / "cut")
    assert metadata == expected
    for name, weight in whole.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight)
    assert not (tmp_path / "cut.state").exists()


def test_the_state_of_another_run_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "x", progress=CutOff(1), save_seconds=0)
    with pytest.raises(ValueError, match="seed = 1, not 2"):
        trained(tmp_path / "x", seed=2)
    with pytest.raises(ValueError, match="steps"):
        trained(tmp_path / "y", steps=0)
    with pytest.raises(ValueError, match="save_seconds"):
        trained(tmp_path / "y", save_seconds=-1.0)


def test_seed_and_steps_matter_and_half_is_rounding(tmp_path):
    runs = [
        trained(tmp_path / f"{number}", **options)[0].lm_head.weight
        for number, options in enumerate([{}, {"seed": 2}, {"steps": 10}, {"half": True}])
    ]
    for one, other in itertools.combinations(runs, 2):
        assert not torch.equal(one, other)
    assert torch.equal(runs[3], runs[0].half().float())


def test_the_learning_rate_rises_holds_and_falls():
    rates = [learning_rate(step, 1000) for step in range(1000)]
    assert rates[0] == LEARNING_RATE / 100 and rates[99] == rates[500] == LEARNING_RATE
    assert rates[750] == LEARNING_RATE / 2 and rates[-1] == pytest.approx(LEARNING_RATE / 500)


def test_masks_come_with_the_probability_that_they_are_weighted_by():
    steps = [masked_batch(0, step)[1:] for step in range(300)]
    mask = torch.cat([step[0] for step in steps])
    t = torch.cat([step[1] for step in steps])
    assert mask.shape == (300 * BATCH_SIZE, ANSWER_LENGTH)
    assert 0.001 <= t.min() and t.max() <= 1
    # The weighted share has mean 1. Each answer's has variance E[(1 - t) / t] / 32, about 0.18:
    # 0.03 is nine standard errors.
    assert (mask / t).mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(masked_batch(0, 7)[0], masked_batch(0, 7)[0])
    assert not torch.equal(masked_batch(0, 7)[0], masked_batch(1, 7)[0])


def test_a_model_that_says_nothing_has_the_loss_of_a_uniform_guess(tmp_path):
    run = _Run(SMALL, 0, 1, "cpu", tmp_path / "none")
    torch.nn.init.zeros_(run.model.lm_head.weight)
    ids, mask, t = masked_batch(0, 0)
    expected = float((mask / t).mean() * torch.tensor(32.0).log())
    with torch.no_grad():
        assert float(run._loss(ids, mask, t)) == pytest.approx(expected, rel=1e-5)


def test_steps_lower_the_loss(tmp_path):
    run = _Run(TinyConfig(1, 48, 2, 96), 0, 100, "cpu", tmp_path / "none")
    losses = []
    for count in (50, 0):
        with torch.no_grad():
            losses.append(float(run._loss(*masked_batch(5, 0))))
        for _ in range(count):
            run.take_step()
    assert losses[1] < losses[0] - 0.1


# What the package brings -------------------------------------------------------------------------


DATA = Path(tiny.__file__).parent / "data"


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_files_say_what_trained_them(name):
    path = DATA / f"{name}.safetensors"
    metadata = load_checkpoint(path)[1]
    command = f"{name}.safetensors --seed {metadata['seed']} --steps {metadata['steps']}"
    text = (DATA / "README.md").read_text("utf-8")
    assert f"modicum pvf train-tiny --out {command} --device cpu\n" in text
    assert f"torch {metadata['torch']}" in text
    assert path.stat().st_size < 1e6


def test_only_these_files_are_brought():
    files = {f"{name}.safetensors" for name in CHECKPOINTS} | {"README.md"}
    assert {path.name for path in DATA.iterdir()} == files


def test_the_default_training_is_that_of_the_trained_model():
    assert load_checkpoint(DATA / "trained.safetensors")[1]["steps"] == str(STEPS)


@pytest.mark.parametrize(
    ("strategy", "calls"), [(Threshold(0.9), 11), (PVF(unlock_threshold=0), 6)]
)
def test_the_trained_model_solves_its_task(strategy, calls):
    prompt = items(50, held_out=True, seed=7).prompt_BP
    out = generate(
        load_tiny(), prompt, strategy=strategy, gen_length=32, block_length=16, batch_size=50
    )
    assert is_exact(prompt, out.generated).float().mean() >= 0.98
    assert sum(stats.nfe for stats in out.stats) / 50 == pytest.approx(calls, abs=0.2)


def test_content_is_certain_and_style_is_a_third_each():
    """Before anything is answered, as the task says."""
    prompt, answer = items(25, held_out=True, seed=8)
    canvas = torch.cat([prompt, torch.zeros_like(answer)], 1)
    columns = torch.arange(PROMPT_LENGTH, PROMPT_LENGTH + ANSWER_LENGTH).expand(25, -1)
    probability = load_tiny()(canvas, None, columns).softmax(-1)
    is_style = torch.isin(answer, torch.tensor(STYLE_IDS))
    said = probability.gather(-1, answer[..., None])[..., 0]
    assert said[~is_style].min() > 0.9
    of_styles = probability[is_style].view(-1, 32)[:, list(STYLE_IDS)]
    assert (of_styles.max(-1).values < 0.45).all()


def test_it_takes_texts_and_words_as_planning_tokens():
    out = generate(load_tiny(), PROMPT, gen_length=32, block_length=16)
    prompt = torch.tensor([TinyTokenizer()(PROMPT)["input_ids"]])
    assert is_exact(prompt, out.generated).item()
    assert out.texts == [TinyTokenizer().decode(out.generated[0, :-1].tolist())]
    assert out.stats[0].committed["P"] > 0
    with pytest.raises(ValueError, match="140 tokens, the model takes 44"):
        generate(load_tiny(), PROMPT)


def test_the_undertrained_model_is_worse():
    prompt = items(40, held_out=True, seed=9).prompt_BP
    out = generate(
        load_tiny("undertrained"), prompt, strategy="threshold", gen_length=32, block_length=16
    )
    assert 0 < is_exact(prompt, out.generated).float().mean() < 0.6
