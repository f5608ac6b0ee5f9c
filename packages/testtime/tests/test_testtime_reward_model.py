"""Reward models of transformers: what is read, padding, batches, devices."""

from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from modicum.core.watermark.adapters.tiny_lm import tiny_path  # noqa: E402
from modicum.testtime.integrations.reward_model import RewardModel  # noqa: E402
from modicum.testtime.verifiers import PRM, Verifier, reward_model, score_pairs  # noqa: E402

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}"
    "<|endoftext|>{% endfor %}"
)
PAIRS = [
    ("What is two and two?", "It is four."),
    ("What is two and two?", "Five"),
    ("Say it.", ""),
    ("Say it.", "A longer answer, " * 6),
    ("Why?", "Because. " * 3),
    ("Why?", "."),
    ("And then they all went home and were never seen again, or so it is said", "No"),
]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tokenizer(chat_template=None, padding_side="left"):
    loaded = transformers.AutoTokenizer.from_pretrained(tiny_path("target"))
    loaded.chat_template = chat_template
    loaded.padding_side = padding_side
    return loaded


def tiny(family="Llama", *, num_labels=1, pad_token_id=None, **options):
    sizes = {
        "vocab_size": len(tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 160,
        "num_labels": num_labels,
        "pad_token_id": pad_token_id,
    }
    config = getattr(transformers, f"{family}Config")(**sizes | options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = transformers.AutoModelForSequenceClassification.from_config(config)
        # Larger weights than a fresh model's, or all rewards were nearly 0.
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.2)
    return model


def direct(model, tok, text, add_special_tokens):
    """Score one text with transformers alone."""
    inputs = tok(text, add_special_tokens=add_special_tokens, return_tensors="pt")
    with torch.inference_mode():
        return model.eval()(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
        ).logits[0].tolist()  # fmt: skip


FAMILIES = {
    "Llama": {},
    "Qwen2": {"num_key_value_heads": 2},
    "GPT2": {},
    "Bert": {"type_vocab_size": 1},
}
# A BERT cannot be without a padding token: its embeddings are built around it.
CASES = [
    (family, pad) for family in FAMILIES for pad in (None, 0, 3) if (family, pad) != ("Bert", None)
]


@pytest.mark.parametrize(("family", "pad"), CASES)
@pytest.mark.parametrize("chat", [None, TEMPLATE], ids=["plain", "chat"])
def test_batches_score_as_single_responses(family, pad, chat):
    model, tok = tiny(family, pad_token_id=pad, **FAMILIES[family]), tokenizer(chat)
    scorer = RewardModel(model, tok, batch_size=4)
    rewards = scorer.score_many(PAIRS)
    expected = [
        direct(model, tok, scorer.text(*pair), add_special_tokens=chat is None)[0] for pair in PAIRS
    ]
    assert rewards == pytest.approx(expected, abs=1e-5)
    assert max(rewards) - min(rewards) > 0.05
    alone = [scorer(prompt, [response])[0] for prompt, response in PAIRS]
    assert rewards == pytest.approx(alone, abs=1e-5)
    one_by_one = RewardModel(model, tok, batch_size=1).score_many(PAIRS)
    assert rewards == pytest.approx(one_by_one, abs=1e-5)
    assert model.config.pad_token_id == pad


def test_without_a_padding_token_the_last_token_is_read():
    # The template ends every text with token 0, which is also the tokenizer's padding token.
    model, tok = tiny(), tokenizer(TEMPLATE)
    scorer = RewardModel(model, tok, batch_size=8)
    ids = [tok(scorer.text(*pair), add_special_tokens=False)["input_ids"] for pair in PAIRS]
    assert all(tokens[-1] == tok.pad_token_id == 0 for tokens in ids)
    with torch.inference_mode():
        hidden = [model.model(input_ids=torch.tensor([tokens])).last_hidden_state for tokens in ids]
        at_the_end = [model.score(h[0, -1]).item() for h in hidden]
        before_it = [model.score(h[0, -2]).item() for h in hidden]
    assert scorer.score_many(PAIRS) == pytest.approx(at_the_end, abs=1e-5)
    # A model that calls this token padding reads the one before, as in training.
    model.config.pad_token_id = 0
    assert RewardModel(model, tok).score_many(PAIRS) == pytest.approx(before_it, abs=1e-5)


def test_a_missing_padding_token_is_restored_after_an_error():
    model = tiny()

    def fail(*arguments, **keywords):
        raise RuntimeError("out of memory")

    scorer = RewardModel(model, tokenizer())
    model.forward = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        scorer.score_many(PAIRS)
    assert model.config.pad_token_id is None


def test_batches_hold_neighbours_in_length():
    model = tiny()
    scorer = RewardModel(model, tokenizer(), batch_size=3)
    seen = []
    model.register_forward_pre_hook(
        lambda module, arguments, keywords: seen.append(keywords["attention_mask"].sum(1).tolist()),
        with_kwargs=True,
    )
    pairs = [("q", "word " * (number * 7 % 20)) for number in range(20)]
    rewards = scorer.score_many(pairs)
    assert [len(lengths) for lengths in seen] == [3] * 6 + [2]
    in_order = [length for lengths in seen for length in lengths]
    assert in_order == sorted(in_order, reverse=True) and len(set(in_order)) > 10
    # The rewards are in the order of the pairs, whatever the order of the batches.
    assert scorer.score_many(pairs[::-1]) == pytest.approx(rewards[::-1], abs=1e-5)
    assert scorer.score_many([]) == []


@pytest.mark.parametrize("chat", [None, TEMPLATE], ids=["plain", "chat"])
def test_the_tokenizers_padding_does_not_matter(chat):
    model = tiny()
    left = RewardModel(model, tokenizer(chat, "left")).score_many(PAIRS)
    tok = tokenizer(chat, "right")
    tok.pad_token = None
    assert RewardModel(model, tok).score_many(PAIRS) == left


def test_what_the_model_reads():
    scorer = RewardModel(tiny(), tokenizer(TEMPLATE), system="Be brief.")
    assert scorer.text("2 + 2", "4") == (
        "<system>Be brief.<|endoftext|><user>2 + 2<|endoftext|><assistant>4<|endoftext|>"
    )
    chat = [{"role": "user", "content": "2 + 2"}]
    assert scorer.text(chat, "4") == "<user>2 + 2<|endoftext|><assistant>4<|endoftext|>"
    plain = RewardModel(tiny(), tokenizer())
    assert plain.text("2 + 2 = ", "4") == "2 + 2 = 4"
    own = RewardModel(tiny(), tokenizer(), template=lambda prompt, response: f"{prompt}|{response}")
    assert own.text(chat, "4") == f"{chat}|4" and own(chat, ["4"]) == own.score_many([(chat, "4")])
    for scorer in (plain, RewardModel(tiny(), tokenizer(), system="Be brief.")):
        with pytest.raises(ValueError, match="no chat template"):
            scorer.text(chat if scorer is plain else "q", "4")
    with pytest.raises(ValueError, match="nothing to score"):
        plain("", [""])


def test_long_responses():
    model, tok = tiny(), tokenizer()
    long = "and on it goes " * 100
    size = len(tok(f"q {long}")["input_ids"])
    with pytest.raises(ValueError, match=f"have {size} tokens and max_length is 160"):
        RewardModel(model, tok)("q ", ["short", long])
    with pytest.raises(ValueError, match="max_length is 5"):
        RewardModel(model, tok, max_length=5)("q ", ["one two three four five six"])
    cut = RewardModel(model, tok, max_length=20, overlong="left")
    last = tok.decode(tok(f"q {long}")["input_ids"][-20:])
    (expected,) = direct(model, tok, last, add_special_tokens=True)
    assert cut("q ", [long]) == pytest.approx([expected], abs=1e-5)


def test_several_labels():
    model, tok = tiny(num_labels=3), tokenizer()
    logits = torch.tensor([direct(model, tok, "".join(pair), True) for pair in PAIRS])
    for label in range(3):
        plain = RewardModel(model, tok, label=label).score_many(PAIRS)
        assert plain == pytest.approx(logits[:, label].tolist(), abs=1e-5)
        shares = RewardModel(model, tok, label=label, activation="softmax").score_many(PAIRS)
        assert shares == pytest.approx(logits.softmax(1)[:, label].tolist(), abs=1e-5)
    with pytest.raises(ValueError, match="3 labels: say which one"):
        RewardModel(model, tok)
    with pytest.raises(ValueError, match=r"label must be in \[0, 3\), not 3"):
        RewardModel(model, tok, label=3)
    single = tiny()
    raw = torch.tensor(RewardModel(single, tok).score_many(PAIRS))
    squeezed = RewardModel(single, tok, activation="sigmoid").score_many(PAIRS)
    assert squeezed == pytest.approx(raw.sigmoid().tolist(), abs=1e-6)
    with pytest.raises(ValueError, match="softmax of one label"):
        RewardModel(single, tok, activation="softmax")


def test_dropout_is_off():
    model = tiny("Bert", pad_token_id=0, type_vocab_size=1, hidden_dropout_prob=0.5).train()
    scorer = RewardModel(model, tokenizer())
    assert scorer.score_many(PAIRS) == scorer.score_many(PAIRS)


def test_by_name_and_dtype(tmp_path):
    model, tok = tiny(), tokenizer(TEMPLATE)
    model.save_pretrained(tmp_path)
    tok.save_pretrained(tmp_path)
    rewards = RewardModel(model, tok).score_many(PAIRS)
    for name in (tmp_path, str(tmp_path)):
        loaded = reward_model(name, device="cpu")
        assert loaded.model.dtype == torch.float32
        assert loaded.score_many(PAIRS) == pytest.approx(rewards, abs=1e-5)
    assert RewardModel(model, str(tmp_path)).score_many(PAIRS) == rewards
    half = RewardModel(str(tmp_path), device="cpu", dtype="bf16")
    assert half.model.dtype == torch.bfloat16
    assert half.score_many(PAIRS) == pytest.approx(rewards, abs=0.2 * max(map(abs, rewards)))
    # A model that is given stays as it is unless something else is asked for.
    double = RewardModel(tiny().double(), tok)
    assert double.model.dtype == torch.float64
    assert RewardModel(tiny(), tok, dtype="float64").score_many(PAIRS) == pytest.approx(
        double.score_many(PAIRS), abs=1e-12
    )
    with pytest.raises(ValueError, match="needs its tokenizer"):
        RewardModel(model)


def test_process_rewards_from_prefixes():
    scorer = RewardModel(tiny(), tokenizer())
    steps = ["First.", "Second.", "Third."]
    prefixes = ["First.", "First.\n\nSecond.", "First.\n\nSecond.\n\nThird."]
    expected = scorer("q ", prefixes)
    assert scorer.score_steps("q ", steps) == pytest.approx(expected, abs=1e-5)
    response = "\n\n".join(steps)
    assert PRM(scorer.score_steps, "min")("q ", [response]) == pytest.approx(
        [min(expected)], abs=1e-5
    )
    assert PRM(scorer.score_steps)("q ", [response]) == pytest.approx(
        scorer("q ", [response]), abs=1e-5
    )


def test_is_a_verifier_in_any_thread():
    scorer = RewardModel(tiny(), tokenizer(), batch_size=2)
    assert isinstance(scorer, Verifier) and not scorer.returns_text
    expected = score_pairs(scorer, PAIRS)
    with ThreadPoolExecutor(4) as threads:
        for rewards in threads.map(lambda _: scorer.score_many(PAIRS), range(8)):
            assert rewards == expected
    assert scorer.model.config.pad_token_id is None


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 0}, {"max_length": 0}, {"overlong": "right"}, {"activation": "tanh"}],
)
def test_bad_settings(options):
    (name,) = options
    with pytest.raises(ValueError, match=name):
        RewardModel(tiny(), tokenizer(), **options)


@pytest.mark.gpu
def test_on_a_gpu(tmp_path):
    model, tok = tiny(), tokenizer(TEMPLATE)
    model.save_pretrained(tmp_path)
    tok.save_pretrained(tmp_path)
    rewards = RewardModel(model, tok).score_many(PAIRS)
    single = RewardModel(str(tmp_path), device="cuda", dtype="float32", batch_size=3)
    assert single.model.device.type == "cuda"
    assert single.score_many(PAIRS) == pytest.approx(rewards, abs=1e-3)
    alone = [single(prompt, [response])[0] for prompt, response in PAIRS]
    assert single.score_many(PAIRS) == pytest.approx(alone, abs=1e-4)
    automatic = RewardModel(str(tmp_path))
    assert automatic.model.device.type == "cuda"
    assert automatic.model.dtype in (torch.bfloat16, torch.float16)
    assert automatic.score_many(PAIRS) == pytest.approx(rewards, abs=0.2 * max(map(abs, rewards)))
    # What is given as an object is moved only on request.
    assert RewardModel(tiny(), tok).model.device.type == "cpu"
    assert RewardModel(tiny(), tok, device="cuda").model.device.type == "cuda"
