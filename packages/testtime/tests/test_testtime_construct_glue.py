"""The glued transformer gives the logits of its experts, whatever they are, and runs none."""

import copy
import dataclasses
import functools
import math

import pytest
import torch

from modicum.core.device import one_thread, torch_generator
from modicum.testtime.construct import AttentionOnlyLM, GluedTransformer, attention_leak, glue
from modicum.testtime.construct.blocks import GlueConfig
from modicum.testtime.construct.codes import CODES, turn_codes
from modicum.testtime.construct.experts import read_expert
from modicum.testtime.construct.stream import FEEDBACK, PROMPT, TURN
from modicum.testtime.tinygpt import TinyGPT, TinyGPTConfig

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10}


@pytest.fixture(autouse=True)
def _one_thread():
    # Networks this small lose more to waiting for threads than they gain from them.
    with one_thread():
        yield


def gpt2(seed, **sizes):
    """A GPT-2 of transformers with weights of a trained model's size, biases included."""
    return copy.deepcopy(made_gpt2(seed, **sizes))


@functools.cache
def made_gpt2(seed, *, width=24, layers=2, heads=3, vocab=30, positions=40, spread=0.2, **settings):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=vocab, n_positions=positions, n_embd=width, n_layer=layers, n_head=heads,
        bos_token_id=None, eos_token_id=None, **settings,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.GPT2LMHeadModel(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(spread * torch.randn_like(parameter))
    return model


def logits_of(expert, ids_BN):
    with torch.no_grad():
        given = expert(ids_BN)
    return getattr(given, "logits", given)


def random_streams(model, count, turns, seed, prompt=5, response=4):
    """Streams of one length in which random experts answer with random words."""
    generator, layout = torch_generator(seed), model.layout

    def words(expert, number):
        size = layout.vocab_sizes[expert]
        drawn = torch.randint(0, size, (number,), generator=generator)
        return (drawn + layout.first_word(expert)).tolist()

    rows = []
    for _ in range(count):
        smallest = layout.vocab_sizes.index(min(layout.vocab_sizes))
        ids = [layout.sink]
        for source in range(layout.num_experts) if layout.disjoint else [smallest]:
            ids += words(source, prompt)
        for turn in range(turns):
            expert = int(torch.randint(0, layout.num_experts, (1,), generator=generator))
            ids += [layout.action(expert), *words(expert, response), layout.feedback(turn % 2)]
        rows.append(ids)
    return torch.tensor(rows)


def compare(model, experts, ids_BN, logits_BNV):
    """Return the largest difference to the experts alone and how many arg-maxes differ."""
    layout, ends = model.layout, model.config.end_of_input
    code = model.read(ids_BN)
    alone_of, glued_of = {}, {}
    for row, ids in enumerate(ids_BN):
        for turn in range(1, int(code.turn_BN.max()) + 1):
            at_N = ((code.turn_BN[row] == turn) & (code.kind_BN[row] == TURN)).nonzero()[:, 0]
            expert = int(code.action_BN[row, at_N[0]])
            first = layout.first_word(expert)
            reads_N = (code.kind_BN[row] == PROMPT) & ~code.inactive_BNK[row, :, expert]
            sequence = [*(ids[reads_N] - first), ends[expert], *(ids[at_N[1:]] - first)]
            alone_of.setdefault(expert, []).append(torch.tensor(sequence))
            glued_of.setdefault(expert, []).append(logits_BNV[row, at_N])
    worst, differ, seen = 0.0, 0, 0
    for expert, sequences in alone_of.items():
        first, size = layout.first_word(expert), layout.vocab_sizes[expert]
        glued = torch.stack(glued_of[expert])
        alone = logits_of(experts[expert], torch.stack(sequences))[:, -glued.shape[1] :]
        worst = max(worst, float((glued[..., first : first + size] - alone).abs().max()))
        # Over all tokens of the layout: no action and no foreign word may win.
        differ += int((glued.argmax(dim=-1) != alone.argmax(dim=-1) + first).sum())
        seen += glued.shape[0] * glued.shape[1]
    assert seen == int((code.kind_BN == TURN).sum())
    return worst, differ


CASES = [
    # widths, layers, heads and vocabularies of the experts, seeds
    ([(24, 2, 3, 30)] * 3, 0),
    ([(16, 1, 1, 11)] * 2, 5),
    ([(32, 3, 4, 50), (24, 1, 2, 50), (8, 2, 4, 50), (12, 2, 1, 50)], 7),
    ([(20, 2, 5, 40), (20, 2, 5, 17)], 11),
    ([(16, 4, 2, 9)], 13),
]


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(
    ("shapes", "seed", "codes"),
    [(*case, "onehot") for case in CASES] + [(*CASES[2], "binary"), (*CASES[3], "orthogonal")],
)
def test_logits_are_those_of_the_experts_alone(shapes, seed, codes, dtype):
    experts = [
        gpt2(seed + i, width=d, layers=n, heads=h, vocab=v).to(dtype)
        for i, (d, n, h, v) in enumerate(shapes)
    ]
    model = glue(
        experts, 4, end_of_input=[v - 1 - i for i, (*_, v) in enumerate(shapes)], codes=codes
    )
    ids_BN = random_streams(model, 8, 4, seed)
    with torch.no_grad():
        dense_BNV = model(ids_BN)
    worst, differ = compare(model, experts, ids_BN, dense_BNV)
    assert worst < TOLERANCE[dtype]
    assert differ == 0
    model.mode = "routed"
    with torch.no_grad():
        routed_BNV = model(ids_BN)
    assert (dense_BNV - routed_BNV).abs().max() < TOLERANCE[dtype]
    coordinates = {"onehot": 5, "binary": 6}.get(codes, model.query_code_TC.shape[1])
    width = sum(d for d, *_ in shapes) + 2 * coordinates + 1 + len(shapes)
    assert model.width == width == model.blocks[0].query_DI.shape[0]


@pytest.mark.parametrize("spread", [0.0, 0.2, 0.5])
def test_single_precision_costs_no_more_than_it_costs_the_experts(spread):
    # From transformers' initial weights, where logits are tiny, to saturated attention.
    experts = [gpt2(i, spread=spread) for i in range(3)]
    exact = [gpt2(i, spread=spread).double() for i in range(3)]
    model = glue(experts, 4, end_of_input=29)
    ids_BN = random_streams(model, 20, 4, 3)
    with torch.no_grad():
        ours, _ = compare(model, exact, ids_BN, model(ids_BN))
        mix = glue(exact, 4, end_of_input=29)
        # The experts' own rounding, by the network that repeats them to 1e-10.
        theirs, _ = compare(mix, experts, ids_BN, mix(ids_BN))
    assert ours < 4 * theirs + 1e-7


def test_variants_of_gpt2():
    settings = [
        {"tie_word_embeddings": False},
        {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
        {"scale_attn_weights": False, "layer_norm_epsilon": 1e-3, "n_inner": 17},
    ]
    experts = [gpt2(20 + i, **chosen) for i, chosen in enumerate(settings)]
    assert not torch.equal(experts[0].lm_head.weight, experts[0].transformer.wte.weight)
    model = glue(experts, 4, end_of_input=0)
    ids_BN = random_streams(model, 12, 4, 4)
    with torch.no_grad():
        worst, differ = compare(model, experts, ids_BN, model(ids_BN))
    assert worst < 2e-5
    assert differ == 0
    for activation in ("relu", "gelu"):
        experts = [gpt2(30, activation_function=activation)]
        model = glue(experts, 2, end_of_input=0)
        with torch.no_grad():
            ids_BN = random_streams(model, 6, 2, 5)
            assert compare(model, experts, ids_BN, model(ids_BN))[0] < 2e-5


def test_tinygpt_is_an_expert_like_any_other():
    config = TinyGPTConfig(vocab_size=9, n_positions=20, n_embd=16, n_layer=2, n_head=2)
    experts = [TinyGPT(config, seed=0).eval(), gpt2(1, width=16, heads=2, vocab=9)]
    model = glue(experts, 3, end_of_input=8)
    ids_BN = random_streams(model, 10, 3, 6)
    with torch.no_grad():
        worst, differ = compare(model, experts, ids_BN, model(ids_BN))
    assert worst < 2e-5
    assert differ == 0


@pytest.mark.parametrize("codes", CODES)
def test_disjoint_vocabularies(codes):
    experts = [gpt2(40, vocab=12), gpt2(41, vocab=7, width=16, heads=2), gpt2(42, vocab=9)]
    model = glue(experts, 5, end_of_input=[11, 6, 8], codes=codes, vocabularies="disjoint")
    assert model.layout.num_words == 28
    ids_BN = random_streams(model, 10, 5, 8, prompt=3)
    # The prompts of the three experts in any order, word by word.
    generator = torch_generator(9)
    for row in range(len(ids_BN)):
        ids_BN[row, 1:10] = ids_BN[row, 1:10][torch.randperm(9, generator=generator)]
    with torch.no_grad():
        dense_BNV = model(ids_BN)
        worst, differ = compare(model, experts, ids_BN, dense_BNV)
        model.mode = "routed"
        routed_BNV = model(ids_BN)
    assert worst < 2e-5
    assert differ == 0
    assert (dense_BNV - routed_BNV).abs().max() < 2e-5


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_attention_only_experts_of_the_paper(dtype):
    experts = [
        AttentionOnlyLM(
            10, 24, n_embd=16, n_layer=layers, n_head=2, generator=torch_generator(layers)
        ).to(dtype)
        for layers in (1, 2, 3)
    ]
    model = glue(experts, 4, end_of_input=9, strict=True)
    assert model.blocks[0].up_DF.shape[1] == 0
    ids_BN = random_streams(model, 20, 4, 10)
    with torch.no_grad():
        dense_BNV = model(ids_BN)
        worst, differ = compare(model, experts, ids_BN, dense_BNV)
        model.mode = "routed"
        assert (dense_BNV - model(ids_BN)).abs().max() < TOLERANCE[dtype]
    assert worst < TOLERANCE[dtype]
    assert differ == 0
    with pytest.raises(ValueError, match="strict=True takes experts whose blocks are attention"):
        glue([experts[0], gpt2(0)], 4, end_of_input=9, strict=True)


def test_attention_only_and_gpt2_experts_go_together():
    experts = [
        AttentionOnlyLM(10, 24, n_embd=8, n_layer=2, n_head=1, generator=torch_generator(0)),
        gpt2(1, vocab=10),
    ]
    model = glue(experts, 3, end_of_input=9)
    ids_BN = random_streams(model, 10, 3, 11)
    with torch.no_grad():
        dense_BNV = model(ids_BN)
        worst, differ = compare(model, experts, ids_BN, dense_BNV)
        model.mode = "routed"
        assert (dense_BNV - model(ids_BN)).abs().max() < 2e-5
    assert worst < 2e-5
    assert differ == 0


@pytest.mark.parametrize("codes", CODES)
def test_the_sink_has_the_value_zero_and_inactive_slices_see_nothing_else(codes):
    experts = [gpt2(i) for i in range(3)]
    model = glue(experts, 4, end_of_input=29, codes=codes)
    ids_BN = random_streams(model, 4, 4, 12)
    code = model.read(ids_BN)
    slices = sum(model.config.widths)
    with torch.no_grad():
        x_BND = model.embed(ids_BN, code)
        for block in model.blocks:
            normed_BND = block.norm(x_BND)
            assert (block.values(normed_BND)[:, :, 0] == 0).all()
            weights_BHNN = block.attention_weights(normed_BND)
            inactive_BHN = code.inactive_BNK.transpose(1, 2).repeat_interleave(3, dim=1)
            assert (weights_BHNN[..., 0][inactive_BHN] == 1).all()
            mixed_BHNE = weights_BHNN @ block.values(normed_BND)
            before_BND = x_BND
            after_BND = x_BND + mixed_BHNE.transpose(1, 2).flatten(2) @ block.out_ID
            for expert in range(3):
                # No attention branch writes into a slice that is silenced.
                columns = model.channels.expert(expert)
                silent_BN = code.inactive_BNK[..., expert]
                difference = (after_BND - before_BND)[..., columns][silent_BN]
                assert difference.abs().max() < 1e-12
            x_BND = block(x_BND)
            assert (x_BND[:, 0, :slices] == 0).all()
            # The position code passes through every block as it is.
            assert torch.equal(x_BND[..., slices:], before_BND[..., slices:])
    assert attention_leak(model, ids_BN) < 1e-12


@pytest.mark.parametrize("controller", ["ucb1", "hedge"])
def test_every_phase_has_its_tokens(controller):
    experts = [gpt2(i, vocab=v) for i, v in enumerate((30, 12, 20))]
    model = glue(experts, 4, controller, end_of_input=3)
    layout = model.layout
    ids_BN = random_streams(model, 10, 4, 13)
    code = model.read(ids_BN)
    for mode in ("dense", "routed"):
        model.mode = mode
        with torch.no_grad():
            prob_BNV = model(ids_BN).double().softmax(dim=-1)
        in_turn_BN = code.kind_BN == TURN
        actions = slice(layout.action(0), layout.action(2) + 1)
        assert prob_BNV[in_turn_BN][:, layout.num_words :].max() == 0
        torch.testing.assert_close(
            prob_BNV[~in_turn_BN][:, actions].sum(dim=-1),
            torch.ones(int((~in_turn_BN).sum())).double(),
        )
        short_BN = in_turn_BN & (code.action_BN == 1)
        assert prob_BNV[short_BN][:, 12:].max() == 0
        # Exactly nothing of the experts is heard between turns.
        with torch.no_grad():
            logits_BNK = model(ids_BN)[..., actions]
        given = model.action_logits(ids_BN)
        assert torch.equal(logits_BNK[~in_turn_BN], given[~in_turn_BN])


@pytest.mark.parametrize("controller", ["ucb1", "hedge"])
def test_logits_of_the_next_token_are_the_last_of_all(controller):
    experts = [gpt2(i, vocab=v, width=w) for i, (v, w) in enumerate(((30, 24), (12, 12)))]
    model = glue(experts, 3, controller, end_of_input=3)
    ids_BN = random_streams(model, 6, 3, 21)
    layout = model.layout
    # In one batch a stream that ends within a turn and one that ends between turns.
    mixed_BN = torch.tensor(
        [
            [layout.sink, 1, layout.action(0), 2, 3],
            [layout.sink, 1, layout.action(1), 2, layout.feedback(1)],
        ]
    )
    for part_BN in (*(ids_BN[:, :length] for length in (1, 4, 7, 10, 12)), ids_BN, mixed_BN):
        with torch.no_grad():
            wanted_BV = model(part_BN)[:, -1]
        for mode in ("dense", "routed"):
            model.mode = mode
            assert (model.next_logits(part_BN) - wanted_BV).abs().max() < 2e-5
        model.mode = "dense"


def test_later_tokens_change_nothing_before_them():
    experts = [gpt2(i) for i in range(2)]
    model = glue(experts, 3, end_of_input=29)
    ids_BN = random_streams(model, 3, 3, 14)
    with torch.no_grad():
        whole_BNV = model(ids_BN)
        for length in (1, 6, 8, 12, 17):
            part_BNV = model(ids_BN[:, :length])
            assert (part_BNV - whole_BNV[:, :length]).abs().max() < 1e-5


def test_no_expert_is_run_and_each_slice_depends_on_its_expert_alone():
    def never(*args, **kwargs):
        raise AssertionError("an expert was run")

    def glued(*seeds):
        experts = [gpt2(seed) for seed in seeds]
        for expert in experts:
            for part in expert.modules():
                part.forward = never
        return glue(experts, 3, end_of_input=29, bound=300.0, gate=256.0)

    one, two = glued(1, 2), glued(1, 3)
    assert one.config == two.config
    columns = one.channels.expert(0)
    for name, left in one.state_dict().items():
        right = two.state_dict()[name]
        changed = left != right
        if name.endswith(("query_DI", "key_DI", "value_DI")):
            block = one.blocks[0]
            by_head = changed.unflatten(-1, (block.num_heads, block.head_width))
            # Only the second expert's heads; of them only its rows and the sink's (minus biases).
            assert not by_head[:, :3].any()
            assert not by_head[:, 3:, block.config.head_width :].any()
            rows = changed.any(dim=1).nonzero()[:, 0].tolist()
            allowed = {*range(24, 48), one.channels.sink}
            assert set(rows) <= allowed and len(rows) >= 24
        elif name.endswith("out_ID"):
            assert changed.any() and not changed[:, columns].any()
        elif name.endswith(("up_DF", "gate_DG")):
            assert changed.any() and not changed[columns].any()
        elif name in ("token_VD", "position_PD"):
            assert changed.any() and not changed[:, columns].any()
        elif name.startswith("controller") or "code" in name or name in ("bound", "penalty"):
            assert not changed.any(), name


@pytest.mark.parametrize(("seed", "spread"), [(0, 0.1), (1, 0.5), (2, 1.5)])
def test_bounds_hold_for_what_the_experts_compute(seed, spread):
    expert = gpt2(seed, spread=spread).double()
    weights = read_expert(expert)
    ids = torch.randint(30, (30, 20), generator=torch_generator(seed))
    scores, states = [], []

    def note_scores(module, inputs, output):
        query, key, _ = (part.unflatten(-1, (3, 8)) for part in output.split(24, dim=-1))
        scores.append(torch.einsum("bnhe,bmhe->bhnm", query, key).abs().max() / math.sqrt(8))

    for block in expert.transformer.h:
        block.attn.c_attn.register_forward_hook(note_scores)
    expert.transformer.ln_f.register_forward_hook(lambda _, __, output: states.append(output))
    logits = logits_of(expert, ids)
    assert max(scores) <= weights.score_bound()
    assert states[0].abs().max() <= weights.output_bound()
    assert logits.abs().max() <= weights.logit_bound()
    # Bounds that mean something: not orders of magnitude above.
    assert weights.score_bound() <= 30 * max(scores)
    assert weights.logit_bound() <= 10 * logits.abs().max()
    model = glue([expert], 2, end_of_input=0)
    assert float(model.bound) >= 2 * weights.score_bound() + 40


def test_bounds_hold_without_norms():
    expert = AttentionOnlyLM(10, 24, n_embd=16, n_layer=3, n_head=2, generator=torch_generator(1))
    weights = read_expert(expert.double())
    states = []
    for part in [*expert.transformer.h, expert.lm_head]:
        target = part if part is expert.lm_head else part.attn.c_attn
        target.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
    logits = logits_of(expert, torch.randint(10, (40, 24), generator=torch_generator(2)))
    for state, radius in zip(states, weights.radii(), strict=True):
        assert state.norm(dim=-1).max() <= radius
    assert logits.abs().max() <= weights.logit_bound()


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_too_small_a_bound_is_found_by_the_probe(dtype):
    experts = [gpt2(i).to(dtype) for i in range(2)]
    with pytest.raises(ValueError, match=r"bound=3 is too small: .*bound=\"auto\" is enough"):
        glue(experts, 3, end_of_input=29, bound=3.0)
    # Less than the worst case over all weights and inputs may do, and then says so.
    model = glue(experts, 3, end_of_input=29, bound=60.0)
    ids_BN = random_streams(model, 10, 3, 15)
    assert attention_leak(model, ids_BN) < 1e-12
    with torch.no_grad():
        worst, differ = compare(model, experts, ids_BN, model(ids_BN))
    assert worst < TOLERANCE[dtype]
    assert differ == 0


def test_leak_is_attention_in_the_wrong_place():
    # With B = 0 nothing is told apart: what leaks is found by hand in the first layer.
    experts = [gpt2(0, layers=1)]
    model = glue(experts, 2, end_of_input=29)
    block, sink = model.blocks[0], model.channels.sink
    code = slice(model.config.head_width, model.config.head_width + 3)
    with torch.no_grad():
        query = block.query_DI.unflatten(-1, (3, -1))
        query[model.channels.query_code, :, code] = 0
        query[model.channels.inactive.start, :, code.stop] = 0
    ids_BN = random_streams(model, 2, 2, 16)
    position_code = model.read(ids_BN)
    with torch.no_grad():
        x_BND = model.embed(ids_BN, position_code)
        weights_BHNN = block.attention_weights(block.norm(x_BND))
    last_turn_N = (position_code.turn_BN[0] == 2) & (position_code.kind_BN[0] == TURN)
    right_N = last_turn_N | (position_code.kind_BN[0] == PROMPT)
    at = int(last_turn_N.nonzero()[-1])
    astray = float(weights_BHNN[0, :, at, ~right_N].sum(dim=-1).max())
    assert attention_leak(model, ids_BN) >= astray > 0.05
    # Feedback looks at everything instead of the sink only.
    end = int((position_code.kind_BN[0] == FEEDBACK).nonzero()[-1])
    assert attention_leak(model, ids_BN) >= float(1 - weights_BHNN[0, :, end, 0].min()) - 1e-6
    assert x_BND[0, 0, sink] == 1


@pytest.mark.parametrize("controller", ["ucb1", "hedge"])
def test_weights_survive_saving_and_loading(tmp_path, controller):
    experts = [gpt2(i, vocab=v).double() for i, v in ((0, 30), (1, 20))]
    model = glue(experts, 3, controller, end_of_input=7, codes="orthogonal")
    ids_BN = random_streams(model, 4, 3, 17)
    with torch.no_grad():
        wanted_BNV = model(ids_BN)
    fresh = GluedTransformer(model.config).double()
    fresh.load_state_dict(model.state_dict())
    model.save(tmp_path / "glued.safetensors")
    loaded = GluedTransformer.load(tmp_path / "glued.safetensors", mode="routed")
    assert loaded.mode == "routed" and loaded.config == model.config
    with torch.no_grad():
        assert torch.equal(fresh(ids_BN), wanted_BNV)
        assert (loaded(ids_BN) - wanted_BNV).abs().max() < 1e-10
    assert loaded.full_information == (controller == "hedge")
    assert GlueConfig.from_json(model.config.to_json()) == model.config
    config = TinyGPTConfig(3, 4, n_embd=4, n_layer=1, n_head=1)
    (tmp_path / "other.safetensors").write_bytes(TinyGPT(config).checkpoint())
    with pytest.raises(ValueError, match=r"other.safetensors is not a glued transformer"):
        GluedTransformer.load(tmp_path / "other.safetensors")


def test_no_parameter_asks_for_a_gradient_and_dense_is_differentiable():
    model = glue([gpt2(0)], 2, end_of_input=29)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    model.token_VD.requires_grad_()
    model(random_streams(model, 1, 2, 18)).sum().backward()
    assert model.token_VD.grad.abs().sum() > 0


def llama(**settings):
    transformers = pytest.importorskip("transformers")
    sizes = dict(
        vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**(sizes | settings))).eval()


def test_other_architectures_are_refused_by_name():
    transformers = pytest.importorskip("transformers")
    with pytest.raises(TypeError, match=r"LlamaForCausalLM is not a GPT-2 \(rotary.*grouped-query"):
        glue([llama()], 2, end_of_input=0)
    with pytest.raises(TypeError, match=r"LlamaForCausalLM is not a GPT-2 \(rotary positions, no"):
        glue([llama(num_key_value_heads=4)], 2, end_of_input=0)
    sizes = dict(vocab_size=20, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    ends = dict(bos_token_id=None, eos_token_id=None)
    with pytest.raises(
        TypeError, match=r"GPTJForCausalLM is not a GPT-2 \(rotary.*transformer.wpe"
    ):
        glue(
            [transformers.GPTJForCausalLM(transformers.GPTJConfig(**sizes, **ends, rotary_dim=4))],
            2,
            end_of_input=0,
        )
    with pytest.raises(TypeError, match=r"GPTBigCodeForCausalLM is not .*grouped-query attention"):
        config = transformers.GPTBigCodeConfig(**sizes, **ends)
        glue([transformers.GPTBigCodeForCausalLM(config)], 2, end_of_input=0)
    with pytest.raises(TypeError, match=r"GPTNeoForCausalLM is not a GPT-2: block 0 has no attn"):
        config = transformers.GPTNeoConfig(
            vocab_size=20, hidden_size=16, num_layers=1, num_heads=2, **ends,
            attention_types=[[["global"], 1]], max_position_embeddings=16,
        )  # fmt: skip
        glue([transformers.GPTNeoForCausalLM(config)], 2, end_of_input=0)
    with pytest.raises(TypeError, match=r"Linear is not a GPT-2"):
        glue([torch.nn.Linear(2, 2)], 2, end_of_input=0)


def test_what_an_expert_may_not_have():
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel drops out: call expert.eval"):
        glue([gpt2(0).train()], 2, end_of_input=0)
    quiet = gpt2(0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0).train()
    glue([quiet], 2, end_of_input=0)
    with pytest.raises(ValueError, match="cross-attention"):
        glue([gpt2(0, add_cross_attention=True)], 2, end_of_input=0)
    with pytest.raises(ValueError, match="activation 'silu'"):
        glue([gpt2(0, activation_function="silu")], 2, end_of_input=0)
    with pytest.raises(ValueError, match="one activation in common, not gelu_new, relu"):
        glue([gpt2(0), gpt2(1, activation_function="relu")], 2, end_of_input=0)
    biased = copy.deepcopy(gpt2(0))
    biased.lm_head = torch.nn.Linear(24, 30)
    with pytest.raises(ValueError, match="bias in its output head"):
        glue([biased], 2, end_of_input=0)
    partly = gpt2(0)
    partly.transformer.h[1].ln_1 = torch.nn.Identity()
    with pytest.raises(ValueError, match="in some places only"):
        glue([partly], 2, end_of_input=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"end_of_input": 30}, r"expert 0 has no word 30 .*0 … 29"),
        ({"end_of_input": None}, r"expert 0 has no word None"),
        ({"end_of_input": [1]}, r"1 words for 2 experts"),
        ({"turns": 0}, "turns must be at least 1, not 0"),
        ({"turns": 447}, "more than max_table=200,000"),
        ({"turns": 10, "max_table": 100}, "at most 9 turns"),
        ({"codes": "gray"}, "codes must be one of"),
        ({"vocabularies": "joint"}, "vocabularies must be"),
        ({"mode": "sparse"}, 'mode must be "dense" or "routed"'),
        ({"bound": -1.0}, "bound must be positive"),
        ({"bound": "large"}, "bound must be positive"),
        ({"gate": 0.1}, 'gate must be "auto" or above'),
        ({"dtype": torch.float16}, "dtype must be torch.float32"),
        ({"controller": "greedy"}, "controller must be one of"),
    ],
)
def test_bad_arguments_are_refused(changes, message):
    arguments = {"turns": 3, "controller": "ucb1", "end_of_input": 0} | changes
    with pytest.raises(ValueError, match=message):
        glue([gpt2(0, layers=1), gpt2(1, layers=1)], **arguments)


def test_no_experts_and_streams_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="at least one model"):
        glue([], 2)
    model = glue([gpt2(0, positions=8), gpt2(1)], 2, end_of_input=29)
    first, second, fed = model.layout.action(0), model.layout.action(1), model.layout.feedback(0)
    sink = model.layout.sink
    model(torch.tensor([[sink, 1, 2, 3, first, 4, 5, 6, 7]]))
    with pytest.raises(ValueError, match=r"have 9 tokens, more than an expert has positions: \(8"):
        model(torch.tensor([[sink, 1, 2, 3, first, 4, 5, 6, 7, 8]]))
    # The other expert has more of them.
    model(torch.tensor([[sink, 1, 2, 3, second, 4, 5, 6, 7, 8]]))
    with pytest.raises(ValueError, match=r"has 3 turns and the network 2: glue with turns=3"):
        model(torch.tensor([[sink, first, fed, second, fed, first]]))
    with pytest.raises(ValueError, match="feedback must be None"):
        model(torch.tensor([[sink, first, fed]]), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"feedback must have the shape .*\[1, 3\], not \[3\]"):
        soft = glue([gpt2(0), gpt2(1)], 2, "hedge", end_of_input=29)
        soft(torch.tensor([[sink, first, fed]]), torch.zeros(3))
    with pytest.raises(ValueError, match="feedback must be finite"):
        soft(torch.tensor([[sink, first, fed]]), torch.tensor([[0, 0, math.nan]]))
    weighing = glue([gpt2(0), gpt2(1)], 2, "exp3", end_of_input=29)
    weighing(torch.tensor([[sink, first]]))
    with pytest.raises(ValueError, match=r"weighs rewards by probabilities.*give feedback"):
        weighing(torch.tensor([[sink, first, fed]]))


def test_end_of_input_is_taken_from_the_configuration():
    expert = gpt2(0)
    expert.config.eos_token_id = 17
    assert glue([expert, expert], 2).config.end_of_input == (17, 17)


def test_logarithmic_codes_are_narrower():
    def widths(turns):
        config = glue([gpt2(0, layers=1)], turns, "hedge", end_of_input=0).config
        return {
            codes: GluedTransformer(dataclasses.replace(config, codes=codes)).width
            for codes in CODES
        }

    short, long = widths(10), widths(200)
    assert long["onehot"] - short["onehot"] == 2 * 190
    assert long["binary"] - short["binary"] == 4 * (8 - 4)
    per_turn = {turns: turn_codes("orthogonal", turns).num_coordinates for turns in (10, 200)}
    assert long["orthogonal"] - short["orthogonal"] == 2 * (per_turn[200] - per_turn[10])
    assert long["binary"] < long["orthogonal"] < long["onehot"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_on_a_gpu(dtype):
    experts = [gpt2(i).to(dtype) for i in range(3)]
    for controller in ("ucb1", "hedge"):
        model = glue(experts, 6, controller, end_of_input=29, device="cuda")
        ids_BN = random_streams(model, 20, 6, 19)
        with torch.no_grad():
            dense_BNV = model(ids_BN.cuda())
            model.mode = "routed"
            routed_BNV = model(ids_BN.cuda())
        given = model.action_logits(ids_BN.cuda()).cpu()
        model = model.cpu()
        assert (dense_BNV - routed_BNV).abs().max() < TOLERANCE[dtype]
        worst, differ = compare(model, experts, ids_BN, dense_BNV.cpu())
        assert worst < TOLERANCE[dtype]
        assert differ == 0
        if controller == "ucb1":
            assert torch.equal(given, model.action_logits(ids_BN))
