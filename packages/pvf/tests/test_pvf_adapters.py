"""Models of transformers as mask predictors, held to a network written in plain torch."""

import json

import pytest
import torch
import transformers
from pvf_checkpoints import (
    DREAM_CONFIG,
    EOS,
    LLADA_CONFIG,
    MASK,
    SIZES,
    VOCABULARY,
    random_ids,
    random_weights,
    reference,
    shifted,
    write_dream,
    write_llada,
    write_tokenizer,
)

from modicum.pvf import PVF, MaskPredictor, Threshold, generate
from modicum.pvf.integrations import transformers as adapters
from modicum.pvf.integrations.dream import qwen2_config
from modicum.pvf.integrations.llada import llama_config
from modicum.pvf.integrations.transformers import (
    BidirectionalPredictor,
    EncoderPredictor,
    hf_generate,
)
from modicum.pvf.loading import check_sees_both_sides, load_mask_predictor

FAMILIES = {"llada": write_llada, "dream": write_dream}
PLAN = PVF(threshold=0.6, plan_high=0.5, plan_vocab=range(30))


def load(path, **options):
    return load_mask_predictor(path, device="cpu", dtype="float32", **options)


def all_columns(ids):
    return torch.arange(ids.shape[1]).expand_as(ids)


@torch.no_grad()
def logits_of(model, ids, mask=None, columns=None):
    return model.forward(ids, mask, all_columns(ids) if columns is None else columns)


def weights_of(family, seed=0, key_heads=SIZES["key_heads"]):
    return random_weights(seed, bias=family == "dream", key_heads=key_heads)


def heads_of(family, key_heads):
    return {"n_kv_heads" if family == "llada" else "num_key_value_heads": key_heads}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_every_layer_is_that_of_the_reference(tmp_path, family, key_heads, attention):
    weights = weights_of(family, 5, key_heads)
    config = heads_of(family, key_heads)
    path = FAMILIES[family](tmp_path, config=config, weights=weights)
    model = load(path, attn_implementation=attention)
    ids = random_ids(3, 2, 23)
    states, logits = reference(weights, ids, key_heads=key_heads)
    out = model.model(input_ids=ids, output_hidden_states=True)
    # The last state that transformers gives is behind the final norm: it is looked at in logits.
    for ours, theirs in zip(states[:-1], out.hidden_states[:-1], strict=True):
        assert (ours - theirs).abs().max() <= 1e-5
    assert (logits - out.logits).abs().max() <= 1e-5
    expected = shifted(logits) if family == "dream" else logits
    assert (logits_of(model, ids) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing(tmp_path, family, attention):
    model = load(FAMILIES[family](tmp_path), attn_implementation=attention)
    lengths = [9, 21, 14]
    ids = torch.full((3, 21), EOS)
    mask = torch.arange(21) < torch.tensor(lengths)[:, None]
    for row, length in enumerate(lengths):
        ids[row, :length] = random_ids(row, 1, length)
    together = logits_of(model, ids, mask)
    for row, length in enumerate(lengths):
        alone = logits_of(model, ids[row : row + 1, :length])
        assert (together[row, :length] - alone[0]).abs().max() <= 1e-5
    # The same with the padding in front: columns are numbered without it.
    left = torch.stack([row.roll(21 - length) for row, length in zip(ids, lengths, strict=True)])
    flipped = logits_of(model, left, mask.flip(1))
    for row, length in enumerate(lengths):
        wanted = together[row, int(model.right_shift) : length]
        assert (flipped[row, 21 - len(wanted) :] - wanted).abs().max() <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_columns_asked_for_go_through_the_head(tmp_path, family, monkeypatch):
    model = load(FAMILIES[family](tmp_path))
    ids = random_ids(1, 3, 20)
    columns = torch.tensor([[0, 1, 2], [17, 18, 19], [5, 5, 4]])
    seen = []
    model.model.lm_head.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    found = logits_of(model, ids, columns=columns)
    assert seen == [(3, 3, SIZES["width"])]
    everything = logits_of(model, ids)
    for row in range(3):
        assert (found[row] - everything[row, columns[row]]).abs().max() <= 1e-5
    # In pieces where there are very many logits.
    monkeypatch.setattr(adapters, "_MOST_LOGITS", 4 * VOCABULARY)
    del seen[:]
    assert (logits_of(model, ids, columns=columns) - found).abs().max() <= 1e-5
    assert [shape[0] for shape in seen] == [4, 4, 1]


def test_decoders_that_were_converted(tmp_path):
    """Llama, Qwen2 and Qwen3 under dLLM's model types, and what a configuration must say."""
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "eos_token_id": EOS,
        "pad_token_id": EOS,
    }
    for name in ("Llama", "Qwen2", "Qwen3"):
        path = tmp_path / name
        model = getattr(transformers, f"{name}ForCausalLM")(
            getattr(transformers, f"{name}Config")(**sizes)
        )
        model.save_pretrained(path)
        with pytest.raises(ValueError, match="bidirectional=True"):
            load(path)
        with pytest.raises(ValueError, match="mask_id is None"):
            load(path, bidirectional=True)
        told = load(path, bidirectional=True, mask_id=MASK)
        given = json.loads((path / "config.json").read_text())
        given |= {"model_type": f"a2d-{name.lower()}", "auto_map": {"AutoModel": "modeling.A2D"}}
        (path / "config.json").write_text(json.dumps(given))
        write_tokenizer(path)
        converted = load(path)
        assert converted.mask_id == MASK and not converted.right_shift
        ids = random_ids(1, 2, 12)
        assert torch.equal(logits_of(told, ids), logits_of(converted, ids))


def encoder(kind, **config):
    torch.manual_seed(0)
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 40,
        "pad_token_id": 1,
    }
    special = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    wide = {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}
    if kind == "DistilBert":
        sizes |= wide
    if kind == "ModernBert":
        sizes |= special
    made = getattr(transformers, f"{kind}Config")(**sizes, **config)
    return getattr(transformers, f"{kind}ForMaskedLM")(made).eval()


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "ModernBert", "DistilBert"])
def test_encoders_are_what_transformers_compute(tmp_path, kind):
    network = encoder(kind)
    network.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    model = load(tmp_path, pad_id=1)
    assert model.mask_id == MASK
    assert model.max_length == (38 if kind == "Roberta" else 40)
    ids = random_ids(1, 2, 15).clamp(min=4)
    with torch.no_grad():
        expected = network(ids).logits
    assert (logits_of(model, ids) - expected).abs().max() <= 1e-5
    columns = torch.tensor([[3, 4], [9, 14]])
    found = logits_of(model, ids, columns=columns)
    assert (found[1] - expected[1, columns[1]]).abs().max() <= 1e-5
    # Padding behind the tokens.
    padded, mask = ids.clone(), torch.ones(2, 15, dtype=torch.bool)
    padded[0, 10:], mask[0, 10:] = 1, False
    alone = logits_of(model, ids[:1, :10])
    assert (logits_of(model, padded, mask)[0, :10] - alone[0]).abs().max() <= 1e-5
    with pytest.raises(ValueError, match="padding before tokens"):
        logits_of(model, padded, mask.flip(1))
    prompts = [[5, 6, 7], [8, 9]]
    out = generate(model, prompts, strategy=PLAN, gen_length=12, block_length=6, batch_size=2)
    for number, prompt in enumerate(prompts):
        single = generate(model, prompt, strategy=PLAN, gen_length=12, block_length=6)
        assert torch.equal(single.generated[0], out.generated[number])
    with pytest.raises(ValueError, match="keeps no keys and values"):
        generate(model, [[5]], strategy=PLAN, gen_length=4, cache="dual")


@pytest.mark.parametrize("kind", ["Bert", "Albert"])
def test_encoders_published_with_other_heads_are_taken_without_them(tmp_path, kind):
    config = encoder(kind).config
    published = getattr(transformers, f"{kind}ForPreTraining")(config).eval()
    published.save_pretrained(tmp_path)
    given = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**given, "architectures": [f"{kind}ForMaskedLM"]})
    )
    model = load(tmp_path, mask_id=MASK)
    ids = random_ids(1, 2, 15)
    with torch.no_grad():
        expected = published(ids).prediction_logits
    assert (logits_of(model, ids) - expected).abs().max() <= 1e-5
    network = encoder(kind)
    lost = {name: value for name, value in network.state_dict().items() if "query" not in name}
    network.save_pretrained(tmp_path / "lost", state_dict=lost)
    with pytest.raises(ValueError, match=r"missing keys.*query"):
        load(tmp_path / "lost", mask_id=MASK)


@pytest.mark.parametrize("kind", ["Roberta", "MPNet", "Data2VecText", "Esm", "Bert", "Electra"])
def test_as_many_columns_as_an_encoder_takes(kind):
    model = EncoderPredictor(encoder(kind), mask_id=MASK)
    ids = random_ids(1, 1, model.max_length).clamp(min=4)
    assert logits_of(model, ids).isfinite().all()
    # The model's own limit: with one more it has no position for the last.
    with pytest.raises((IndexError, RuntimeError)):
        model.model(torch.cat([ids, ids[:, :1]], dim=1))


def test_models_that_see_one_side_are_refused(tmp_path):
    encoder("Bert", is_decoder=True).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="causal"):
        load(tmp_path)
    with pytest.raises(ValueError, match="right_shift=True is for decoders"):
        load(tmp_path, right_shift=True)
    check_sees_both_sides(EncoderPredictor(encoder("Bert"), mask_id=MASK))


def test_models_that_cannot_be_turned(tmp_path):
    gpt = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=64, n_embd=8, n_layer=1, n_head=1)
    )
    with pytest.raises(ValueError, match="'gpt2'"):
        BidirectionalPredictor(gpt.eval(), mask_id=MASK)
    sliding = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    with pytest.raises(ValueError, match="use_sliding_window"):
        load(write_dream(tmp_path, config=sliding))
    config = transformers.Qwen2Config(
        vocab_size=64, hidden_size=8, num_hidden_layers=2, num_attention_heads=1,
        num_key_value_heads=1, intermediate_size=8, **sliding,
    )  # fmt: skip
    with pytest.raises(ValueError, match="use_sliding_window"):
        BidirectionalPredictor(transformers.Qwen2ForCausalLM(config).eval(), mask_id=MASK)
    training = load(write_llada(tmp_path / "llada")).model.train()
    with pytest.raises(ValueError, match="training"):
        BidirectionalPredictor(training)


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_in_a_batch_is_decoding_alone(tmp_path, family):
    # Float64: no tie is decided by rounding.
    model = load_mask_predictor(
        FAMILIES[family](tmp_path), device="cpu", dtype="float64", eos_id=None
    )
    assert isinstance(model, MaskPredictor)
    prompts = [[1, 2, 3, 4, 5], [9], [7, 8, 9, 10, 11, 12, 13]]
    options = {"strategy": PLAN, "gen_length": 20, "block_length": 8}
    together = generate(model, prompts, batch_size=3, **options)
    for number, prompt in enumerate(prompts):
        alone = generate(model, prompt, **options)
        assert torch.equal(alone.generated[0], together.generated[number])
        assert alone.stats[0].nfe == together.stats[number].nfe


class TestHFGenerate:
    """The decoder inside ``model.generate``."""

    @pytest.fixture
    def model(self, tmp_path):
        return load_mask_predictor(write_dream(tmp_path), device="cpu", dtype="float64")

    def test_it_gives_what_generate_gives(self, model):
        ids = torch.tensor([[EOS, EOS, 5, 6], [1, 2, 3, 4]])
        mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
        options = {"strategy": PLAN, "block_length": 8}
        out = model.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=16,
            custom_generate=hf_generate,
            **options,
        )
        expected = generate(model, [[5, 6], [1, 2, 3, 4]], gen_length=16, **options)
        assert torch.equal(out[:, :4], ids)
        assert torch.equal(out[:, 4:], expected.generated)

    def test_caches_dictionaries_temperatures_and_ends(self, model):
        ids = torch.tensor([[1, 2, 3]])
        options = {"max_new_tokens": 12, "block_length": 4, "strategy": Threshold(0.7)}
        out = model.model.generate(
            ids, custom_generate=hf_generate, cache="dual", return_dict_in_generate=True, **options
        )
        expected = generate(
            model, ids, gen_length=12, block_length=4, strategy=Threshold(0.7), cache="dual"
        )
        assert torch.equal(out.sequences[:, 3:], expected.generated)
        drawn = model.model.generate(
            ids, custom_generate=hf_generate, do_sample=True, top_k=0, temperature=0.5, seed=3,
            eos_token_id=9, **options,
        )  # fmt: skip
        model.eos_id = 9
        expected = generate(
            model, ids, gen_length=12, block_length=4, strategy=Threshold(0.7), temperature=0.5,
            seed=3,
        )  # fmt: skip
        assert torch.equal(drawn[:, 3:], expected.generated)

    def test_what_has_no_meaning_is_refused(self, model):
        ids = torch.tensor([[1, 2, 3]])
        options = {"max_new_tokens": 4, "custom_generate": hf_generate, "strategy": Threshold(0.7)}
        with pytest.raises(ValueError, match="RepetitionPenalty"):
            model.model.generate(ids, repetition_penalty=1.5, **options)
        with pytest.raises(ValueError, match="TopK"):
            model.model.generate(ids, do_sample=True, top_k=3, **options)
        with pytest.raises(ValueError, match="num_beams=2"):
            model.model.generate(ids, num_beams=2, **options)
        with pytest.raises(ValueError, match="left"):
            model.model.generate(ids, attention_mask=torch.tensor([[1, 1, 0]]), **options)
        with pytest.raises(ValueError, match="MaxTime"):
            model.model.generate(ids, max_time=1.0, **options)
        plain = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=64, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                intermediate_size=8,
            )
        )  # fmt: skip
        with pytest.raises(ValueError, match="load_mask_predictor"):
            plain.eval().generate(ids, **options)


REMOTE = """
import torch
from torch import nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class BlockConfig(PretrainedConfig):
    model_type = "block_model"

    def __init__(self, vocab_size=64, width=16, block_length=4, **rest):
        self.vocab_size, self.width, self.block_length = vocab_size, width, block_length
        super().__init__(**rest)


class BlockModel(PreTrainedModel, GenerationMixin):
    config_class = BlockConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.place = nn.Embedding(64, config.width)
        self.lm_head = nn.Linear(config.width, config.vocab_size)
        self.post_init()

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids, attention_mask=None, position_ids=None, **rest):
        x = self.embed(input_ids) + self.place(position_ids)
        block = torch.arange(input_ids.shape[1]) // self.config.block_length
        sees = (block[:, None] >= block[None]) & attention_mask[:, None].bool()
        weights = (x @ x.transpose(1, 2) / 16).masked_fill(~sees, -1e30).softmax(-1)
        return CausalLMOutputWithPast(logits=self.lm_head(torch.tanh(weights @ x) + x))
"""


def test_a_model_with_its_own_code_runs_only_when_it_may(tmp_path):
    (tmp_path / "modeling_block.py").write_text(REMOTE)
    given = {
        "model_type": "block_model",
        "architectures": ["BlockModel"],
        "auto_map": {
            "AutoConfig": "modeling_block.BlockConfig",
            "AutoModelForCausalLM": "modeling_block.BlockModel",
        },
        "mask_token_id": MASK,
        "eos_token_id": EOS,
        "max_position_embeddings": 64,
    }
    (tmp_path / "config.json").write_text(json.dumps(given))
    from safetensors.torch import save_file

    torch.manual_seed(0)
    tensors = {
        "embed.weight": torch.randn(64, 16),
        "place.weight": torch.randn(64, 16),
        "lm_head.weight": torch.randn(64, 16),
        "lm_head.bias": torch.zeros(64),
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        load(tmp_path)
    model = load(tmp_path, trust_remote_code=True)
    assert model.canvas == "prefix"
    # What later blocks hold makes no difference, and the decoder does not even show them.
    ids = random_ids(0, 2, 12)
    assert (logits_of(model, ids)[:, :8] - logits_of(model, ids[:, :8])).abs().max() <= 1e-5
    out = generate(
        model, [[1, 2, 3, 4], [5] * 8], strategy=PLAN, gen_length=12, block_length=4, batch_size=2
    )
    alone = generate(model, [[1, 2, 3, 4]], strategy=PLAN, gen_length=12, block_length=4)
    assert torch.equal(out.generated[0], alone.generated[0])
    with pytest.raises(ValueError, match="keeps no keys and values"):
        generate(model, [[5]], strategy=PLAN, gen_length=4, cache="dual")


@pytest.mark.parametrize(
    ("family", "config", "parameters"),
    [
        (
            "llada",
            {
                "d_model": 4096,
                "n_heads": 32,
                "n_kv_heads": 32,
                "n_layers": 32,
                "mlp_hidden_size": 12288,
                "embedding_size": 126464,
            },
            8_015_581_184,
        ),
        (
            "dream",
            {
                "hidden_size": 3584,
                "num_attention_heads": 28,
                "num_key_value_heads": 4,
                "num_hidden_layers": 28,
                "intermediate_size": 18944,
                "vocab_size": 152064,
            },
            7_615_616_512,
        ),
    ],
)
def test_published_sizes_give_as_many_parameters_as_published(family, config, parameters):
    """LLaDA-8B and Dream-7B (whose sizes are Qwen2.5-7B's), without memory for them."""
    fields = {
        "llada": lambda: transformers.LlamaConfig(**llama_config({**LLADA_CONFIG, **config})),
        "dream": lambda: transformers.Qwen2Config(**qwen2_config({**DREAM_CONFIG, **config})),
    }[family]()
    with torch.device("meta"):
        network = transformers.AutoModelForCausalLM.from_config(fields)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_on_the_device_is_near_float32_on_the_cpu(tmp_path, family):
    path = FAMILIES[family](tmp_path, shards=2)
    exact = load(path)
    device = load_mask_predictor(path, device="cuda")
    assert device.model.dtype == torch.bfloat16 and device.device.type == "cuda"
    lengths = torch.tensor([40, 29, 33])
    ids = random_ids(1, 3, 40)
    mask = torch.arange(40) < lengths[:, None]
    columns = torch.tensor([[3, 9, 28]]).expand(3, -1)
    expected = logits_of(exact, ids, mask, columns)
    found = logits_of(device, ids.cuda(), mask.cuda(), columns.cuda()).float().cpu()
    # Three layers in bfloat16 (8 bits): 2^-8 relative for each of about ten roundings in a row.
    assert (found - expected).abs().max() <= 0.04 * expected.abs().max()
    double = load_mask_predictor(path, device="cuda", dtype="float32")
    close = logits_of(double, ids.cuda(), mask.cuda(), columns.cuda()).cpu()
    assert (close - expected).abs().max() <= 1e-4 * expected.abs().max()
