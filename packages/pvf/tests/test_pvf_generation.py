"""Prompts in, answers out: layouts, batches, infilling, streams, draws, guidance."""

import numpy as np
import pytest
import torch
from pvf_models import EOS, MASK, VOCABULARY, random_logits, random_predictor

from modicum.pvf import (
    KLASS,
    PVF,
    CallablePredictor,
    DraftVerify,
    EarlyCommit,
    EntropyBound,
    ExtraToken,
    Factor,
    Threshold,
    TopK,
    generate,
    infill,
    stream,
)
from modicum.pvf.canvases import text_of

PLAN = PVF(threshold=0.6, plan_high=0.5, plan_vocab=range(20))
PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10], [11], [5, 4, 3, 2, 1]]


def padded_predictor(seed):
    """Give a predictor whose columns do not see padding: it is cut off row by row."""
    logits = random_logits(seed)

    def function(ids, mask=None):
        if mask is None:
            return logits(ids)
        out = torch.zeros(*ids.shape, VOCABULARY)
        for row, keep in enumerate(mask):
            out[row, keep] = logits(ids[row, keep][None])[0]
        return out

    return CallablePredictor(function, MASK, VOCABULARY, eos_id=EOS)


def test_ragged_prompts_are_as_if_alone():
    model = padded_predictor(1)
    options = {"strategy": PLAN, "gen_length": 20, "block_length": 8}
    together = generate(model, PROMPTS, batch_size=3, **options)
    for number, prompt in enumerate(PROMPTS):
        alone = generate(model, prompt, **options)
        assert torch.equal(alone.generated[0], together.generated[number])
        assert alone.stats[0].nfe == together.stats[number].nfe
        assert together.sequences[number, : len(prompt)].tolist() == prompt


def test_padding_on_the_left_is_taken_away():
    model = padded_predictor(1)
    width = max(map(len, PROMPTS))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in PROMPTS])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in PROMPTS])
    options = {"strategy": PLAN, "gen_length": 12, "block_length": 6}
    padded = generate(model, ids, attention_mask=mask, **options)
    assert torch.equal(padded.generated, generate(model, PROMPTS, **options).generated)
    with pytest.raises(ValueError, match="left"):
        generate(model, ids, attention_mask=mask.flip(1), **options)


@pytest.mark.parametrize("strategy", [PLAN, Threshold(0.5)])
def test_infill_keeps_what_is_given(strategy):
    generator = torch.Generator().manual_seed(0)
    canvas = torch.randint(1, MASK, (6, 30), generator=generator)
    holes = torch.rand(6, 30, generator=generator) < 0.5
    canvas[holes] = MASK
    out = infill(random_predictor(2), canvas, strategy=strategy, block_length=9)
    assert torch.equal(out.sequences[~holes], canvas[~holes])
    assert not (out.sequences == MASK).any()
    assert [stats.tokens for stats in out.stats] == holes.sum(-1).tolist()
    with pytest.raises(ValueError, match="canvas 1 has no mask"):
        infill(random_predictor(2), [[1, MASK], [2, 3]])


def test_stream_gives_the_same_as_generate():
    model = random_predictor(4)
    events = list(stream(model, [3, 4, 5], strategy=PLAN, gen_length=16, block_length=8))
    out = generate(model, [3, 4, 5], strategy=PLAN, gen_length=16, block_length=8)
    assert torch.equal(events[-1].canvas, out.sequences[0])
    assert sum(len(event.commit.positions) for event in events) == 16


def test_draws_belong_to_a_prompt_and_not_to_its_batch():
    options = {"strategy": Threshold(0.5), "gen_length": 16, "block_length": 8, "temperature": 1.0}
    model = random_predictor(6, eos=None)
    prompts = [[1, 2], [3, 4], [5, 6], [7, 8]]
    outs = [
        generate(model, prompts, batch_size=size, seed=7, **options).generated for size in (1, 3, 4)
    ]
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])
    assert not torch.equal(outs[0], generate(model, prompts, seed=8, **options).generated)
    cold = generate(model, prompts, strategy=Threshold(0.5), gen_length=16, block_length=8)
    assert not torch.equal(outs[0], cold.generated)


def test_draws_have_the_probabilities_of_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 5.0])
    model = CallablePredictor(lambda ids: logits.expand(*ids.shape, 5), 4, 5)
    out = generate(
        model,
        [[0]] * 40,
        # In another order draws would be committed by how likely they are.
        strategy="random",
        gen_length=100,
        block_length=100,
        temperature=0.8,
        batch_size=40,
    )
    counts = torch.bincount(out.generated.flatten(), minlength=5).double()
    expected = (logits[:4] / 0.8).double().softmax(-1) * 4000
    assert counts[4] == 0
    # Chi-squared with 3 degrees of freedom exceeds 21.1 with probability 1e-4.
    assert ((counts[:4] - expected) ** 2 / expected).sum() < 21.1


@pytest.mark.parametrize("routes", [("fill",), ("plan", "fill")])
@pytest.mark.parametrize("reuse", [True, False])
def test_drafts_that_are_drawn_and_never_hold_do_not_stop_a_decoding(routes, reuse):
    # Five tokens are about as likely as each other: a draft is the most likely one once in five.
    logits = torch.tensor([0.0, 0.1, 0.2, 0.15, 0.05, -30.0])
    model = CallablePredictor(lambda ids: logits.expand(*ids.shape, 6), 5, 6)
    strategy = PVF(plan_vocab=[1], routes=routes, reuse_base_row=reuse)
    out = generate(
        model, [[1]] * 8, strategy=strategy, gen_length=24, block_length=8, temperature=1.0
    )
    assert not (out.generated == 5).any()
    assert all(stats.nfe <= 3 * 24 + 1 for stats in out.stats)
    assert sum(stats.committed["X"] for stats in out.stats) > 0
    assert sum(stats.committed["F"] for stats in out.stats) > 0


def test_what_is_suppressed_is_never_drawn():
    logits = torch.tensor([2.0, 1.0, 0.0, 0.0, 5.0])
    model = CallablePredictor(lambda ids: logits.expand(*ids.shape, 5), 4, 5, eos_id=0)
    options = {"strategy": "random", "gen_length": 60, "block_length": 60, "temperature": 1.0}
    free = generate(model, [1, 2], eos_early_stop=False, **options)
    assert (free.generated == 0).any()
    out = generate(model, [1, 2], suppress_eos=True, **options)
    assert sorted(set(out.generated.flatten().tolist())) == [1, 2, 3]


@pytest.mark.parametrize("strategy", [PLAN, "klass"])
def test_a_call_in_parts_is_one_call(strategy):
    seen = []

    def function(ids):
        seen.append(len(ids))
        return random_logits(8)(ids)

    model = CallablePredictor(function, MASK, VOCABULARY, eos_id=EOS)
    options = {"strategy": strategy, "gen_length": 16, "block_length": 8}
    prompts = [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]
    whole = generate(model, prompts, **options)
    most = max(seen)
    seen.clear()
    parts = generate(model, prompts, max_rows=2, **options)
    # The rows of one sequence, base and three drafts, are not taken apart.
    assert max(seen) <= 4 < most
    assert torch.equal(whole.sequences, parts.sequences)
    for one, other in zip(whole.stats, parts.stats, strict=True):
        assert (one.nfe, one.rows, one.token_evals) == (other.nfe, other.rows, other.token_evals)
    with pytest.raises(ValueError, match="max_rows must be an integer of at least 1, not 0"):
        generate(model, prompts, max_rows=0, **options)


def test_a_refresh_needs_a_cache():
    model = random_predictor(3)
    with pytest.raises(ValueError, match="refresh_every=3 needs a cache"):
        generate(model, [1, 2], strategy=PLAN, refresh_every=3)
    with pytest.raises(ValueError, match="refresh_every must be an integer of at least 1, not 0"):
        generate(model, [1, 2], strategy=PLAN, refresh_every=0)


def test_guidance_is_the_formula_and_costs_two_rows():
    model = random_predictor(3, eos=None)
    logits = random_logits(3)

    def guided(ids):
        bare = ids.clone()
        bare[:, :3] = MASK
        without = logits(bare)
        return without + 2.5 * (logits(ids) - without)

    by_hand = CallablePredictor(guided, MASK, VOCABULARY)
    options = {"strategy": Threshold(0.7), "gen_length": 12, "block_length": 6}
    out = generate(model, [[1, 2, 3], [4, 5, 6]], cfg_scale=1.5, **options)
    expected = generate(by_hand, [[1, 2, 3], [4, 5, 6]], **options)
    assert torch.equal(out.generated, expected.generated)
    assert [stats.rows for stats in out.stats] == [2 * stats.rows for stats in expected.stats]


def test_end_tokens_can_be_forbidden_or_put_off():
    end = 24
    model = random_predictor(0, eos=end)
    prompts = [[number] for number in range(1, 20)]
    options = {
        "strategy": "topk",
        "gen_length": 10,
        "block_length": 10,
        "eos_early_stop": False,
        "return_trace": True,
    }

    def order_of_ends(out):
        return [[commit.tokens[0] == end for commit in commits] for commits in out.trace]

    plain = generate(model, prompts, **options)
    assert sum(map(sum, order_of_ends(plain))) > 19
    assert not (generate(model, prompts, suppress_eos=True, **options).generated == end).any()
    late = generate(model, prompts, eos_confidence_inf=True, **options)
    orders = order_of_ends(late)
    assert any(order != sorted(order) for order in order_of_ends(plain))
    assert sum(order == sorted(order) for order in orders) > 10


@pytest.mark.parametrize(
    "strategy",
    ["margin", "entropy", "random", "draft", EntropyBound(0.5), DraftVerify(3, "margin")],
)
def test_end_tokens_come_last_by_every_rank(strategy):
    # Column by column the end token is the surest or one like others, and others are less sure.
    logits = torch.full((12, 6), -3.0)
    token = [1, 0, 2, 0, 3, 0, 4, 1, 0, 2, 3, 4]
    logits[torch.arange(12), token] = torch.tensor([0.0, 5, 1, 5, 2, 1, 0, 3, 5, 2, 1, 0])
    model = CallablePredictor(lambda ids: logits.expand(len(ids), 12, 6), 5, 6, eos_id=0)
    options = {"strategy": strategy, "block_length": 12, "gen_length": 12, "return_trace": True}

    def order(**changes):
        out = generate(model, [[]], eos_early_stop=False, **options, **changes)
        assert out.generated[0].tolist() == token
        return [token for commit in out.trace[0] for token in sorted(commit.tokens, reverse=True)]

    assert order(eos_confidence_inf=True)[-4:] == [0] * 4
    assert order()[-4:] != [0] * 4


@pytest.mark.parametrize("block_length", [7, 30, 64])
def test_early_commit_is_one_token_for_each_call_until_it_is_decided(block_length):
    options = {"gen_length": 30, "block_length": block_length}
    for seed in range(2):
        model, prompts = random_predictor(seed, eos=None), [[1, 2], [3, 4]]
        never = generate(model, prompts, strategy=EarlyCommit((1e9,) * 3), **options)
        static = generate(model, prompts, strategy="topk", **options)
        assert torch.equal(never.generated, static.generated)
        assert [stats.nfe for stats in never.stats] == [30, 30]
        at_once = generate(model, prompts, strategy=EarlyCommit((1e-9,) * 3), **options)
        assert [stats.nfe for stats in at_once.stats] == [1, 1]


@pytest.mark.parametrize("strategy", [TopK, Factor, EntropyBound, KLASS, EarlyCommit, ExtraToken])
def test_a_negative_number_of_masks_opens_no_block(strategy):
    with pytest.raises(ValueError, match="unlock_threshold must be an integer of at least 0"):
        strategy(unlock_threshold=-1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gen_length": 0}, "gen_length must be an integer of at least 1, not 0"),
        ({"block_length": -3}, "block_length must be an integer of at least 1, not -3"),
        ({"strategy": "treshold"}, "did you mean 'threshold'"),
        ({"cache": "both"}, "cache must be one of none, prefix, dual, not 'both'"),
        ({"cache": "dual"}, "keeps no keys and values"),
        ({"temperature": -1}, "temperature must not be negative, and finite, not -1"),
        ({"cfg_scale": -0.5}, "cfg_scale must not be negative, and finite, not -0.5"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, not 0"),
        ({"prompts": []}, "prompts is empty"),
        ({"prompts": [[1, MASK]]}, "holds the mask token"),
        ({"prompts": [[1, 99]]}, r"holds 99, not in \[0, 40\)"),
        ({"prompts": "text"}, "no tokenizer"),
        ({"prompts": {"role": "user", "content": "text"}}, "no tokenizer"),
        ({"prompts": 3}, "prompts must be texts or token ids, not 3"),
        ({"prompts": torch.tensor(3)}, "prompts must be texts or token ids, not 3"),
        ({"temperature": float("nan")}, "temperature must not be negative, and finite, not nan"),
        ({"temperature": float("inf")}, "temperature must not be negative, and finite, not inf"),
        ({"cfg_scale": float("nan")}, "cfg_scale must not be negative, and finite, not nan"),
        ({"attention_mask": torch.ones(1)}, r"the prompts' shape \(1, 1\), not \(1,\)"),
        (
            {"prompts": [[1], [1, 2]], "attention_mask": torch.ones(2, 2)},
            r"attention_mask needs prompts of one length, not of \[1, 2\]",
        ),
        (
            {"logits_hook": lambda logits, rows: logits[:, :1]},
            r"logits_hook must give logits of shape \(1, 4, 40\), not \(1, 1, 40\)",
        ),
    ],
)
def test_bad_input_is_named(changes, message):
    options = {"prompts": [[1]], "strategy": "threshold", "gen_length": 4, "block_length": 4}
    with pytest.raises(ValueError, match=message):
        generate(random_predictor(0), **{**options, **changes})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 1.2}, r"threshold must be a number in \[0, 1\], not 1.2"),
        ({"plan_low": 0.7}, "plan_low < plan_high <= threshold"),
        ({"plan_high": 0.95}, "plan_low < plan_high <= threshold"),
        ({"fill_threshold": float("nan")}, "fill_threshold must not be negative, not nan"),
        ({"num_drafts": -1}, "num_drafts must be an integer of at least 0, not -1"),
        ({"fill_verify": "some"}, "fill_verify must be one of"),
        ({"routes": ("plan",), "plan_vocab": []}, "plan_vocab is empty"),
        ({"unlock_threshold": -1}, "unlock_threshold"),
        ({"plan_vocab": [-4]}, "token id -4"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        PVF(**settings)


def test_special_ids_must_be_tokens():
    with pytest.raises(ValueError, match="mask_id is None"):
        CallablePredictor(random_logits(0), None, VOCABULARY)
    with pytest.raises(ValueError, match=r"eos_id must be in \[0, 40\), not 40"):
        CallablePredictor(random_logits(0), MASK, VOCABULARY, eos_id=40)
    with pytest.raises(ValueError, match="eos_id and mask_id must differ, and both are 39"):
        CallablePredictor(random_logits(0), MASK, VOCABULARY, eos_id=MASK)
    with pytest.raises(TypeError, match="CallablePredictor"):
        generate(random_logits(0), [[1]])
    model = random_predictor(0)
    for mask_id, message in ((None, "mask_id is None"), (40, r"mask_id must be in \[0, 40\)")):
        model.mask_id = mask_id
        with pytest.raises(ValueError, match=message):
            generate(model, [[1]], strategy="threshold")


def test_classes_are_no_strategies():
    for strategy in (PVF, Threshold):
        with pytest.raises(TypeError, match="strategy must be a name or a Strategy, not a"):
            generate(random_predictor(0), [[1]], strategy=strategy)


def test_padding_is_no_mask():
    logits = random_logits(0)
    model = CallablePredictor(lambda ids, mask=None: logits(ids), 0, VOCABULARY)
    options = {"strategy": "threshold", "gen_length": 4}
    out = generate(model, [[1, 2], [3]], **options)
    assert not (out.sequences == 0).any()
    model.pad_id = 0
    with pytest.raises(ValueError, match="pad_id and mask_id are both 0"):
        generate(model, [[1, 2], [3]], **options)
    assert torch.equal(generate(model, [[1, 2]], **options).sequences[0], out.sequences[0])


def test_an_attention_mask_of_infill_has_the_canvases_shape():
    for shape in ((1, 2), (2, 3)):
        with pytest.raises(ValueError, match=r"the prompts' shape \(2, 2\)"):
            infill(random_predictor(0), [[1, MASK], [2, MASK]], attention_mask=torch.ones(shape))


def test_logits_of_a_wrong_shape_are_refused_under_guidance_too():
    model = random_predictor(0)
    forward = model.forward
    model.forward = lambda *given: forward(*given)[:, :-1]
    with pytest.raises(ValueError, match="the predictor must give logits of shape"):
        generate(model, [[1]], strategy="threshold", gen_length=4, cfg_scale=1.0)


def test_a_function_of_prefixes_takes_no_mask_without_padding():
    seen = []

    def function(ids):
        seen.append(ids.shape[1])
        return random_logits(0)(ids)

    model = CallablePredictor(function, MASK, VOCABULARY, canvas="prefix")
    generate(model, [[1, 2]], strategy="topk", gen_length=8, block_length=4)
    assert seen == [6] * 4 + [10] * 4


def test_arrays_and_lists_of_tensors_are_prompts():
    options = {"strategy": "threshold", "gen_length": 4}
    expected = generate(random_predictor(0), [[1, 2], [3, 4]], **options).sequences
    for prompts in (np.array([[1, 2], [3, 4]]), [torch.tensor([1, 2]), torch.tensor([3, 4])]):
        assert torch.equal(generate(random_predictor(0), prompts, **options).sequences, expected)


class Chat:
    """A tokenizer whose tokens are how long words are."""

    all_special_ids = (7, EOS, MASK)

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [len(word) for word in text.split()]}

    def apply_chat_template(self, messages, add_generation_prompt, tokenize):
        return " ".join(f"{message['role']} {message['content']}" for message in messages)

    def decode(self, tokens):
        return " ".join(map(str, tokens))


def test_a_list_of_messages_is_one_conversation():
    model = random_predictor(0)
    model.tokenizer = Chat()
    system, user = {"role": "system", "content": "a bb"}, {"role": "user", "content": "ccc"}
    options = {"strategy": "threshold", "gen_length": 2}

    def prompts(given):
        out = generate(model, given, eos_early_stop=False, batch_size=1, **options)
        ends = [len(row) - 2 for row in out.sequences]
        return [row[:end].tolist() for row, end in zip(out.sequences, ends, strict=True)]

    assert prompts(user) == prompts([user]) == prompts([[user]]) == [[4, 3]]
    assert prompts([system, user]) == prompts([[system, user]]) == [[6, 1, 2, 4, 3]]
    assert prompts([[user], [user]]) == [[4, 3], [4, 3]]


def test_texts_hold_no_special_tokens():
    model = random_predictor(0)
    model.tokenizer = Chat()
    assert text_of(model, torch.tensor([1, 7, 2, MASK, 3, EOS, 4])) == "1 2 3"


def test_a_streams_canvas_is_that_after_its_commit():
    is_cut = False
    for seed in range(8):
        canvas = None
        options = {"strategy": Threshold(0.4), "gen_length": 16, "block_length": 8}
        for event in stream(random_predictor(seed), [3, 4, 5], **options):
            if canvas is None:
                canvas = torch.tensor([3, 4, 5, *[MASK] * 16])
            canvas[list(event.commit.positions)] = torch.tensor(event.commit.tokens)
            assert torch.equal(event.canvas, canvas)
            is_cut |= "E" in event.commit.reasons
    assert is_cut
