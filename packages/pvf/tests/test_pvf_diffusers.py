"""The pipeline of diffusers: its tokens are those of diffusers' own, its calls are understood."""

import pytest
import torch
import transformers
from diffusers import BlockRefinementScheduler, LLaDA2Pipeline
from pvf_checkpoints import EOS, MASK, VOCABULARY, write_dream, write_llada, write_tokenizer
from pvf_models import random_predictor

from modicum.pvf import PVF, EarlyCommit, Threshold, generate
from modicum.pvf.integrations.diffusers import PVFPipeline, PVFPipelineOutput
from modicum.pvf.integrations.transformers import BlockCausalPredictor
from modicum.pvf.loading import load_mask_predictor

PLAN = PVF(plan_vocab=tuple(range(10)), unlock_threshold=2)


class BlockLlama(transformers.LlamaForCausalLM):
    """A Llama of random weights whose columns see their own block and those before.

    The mask token has no probability, as in a trained model.
    """

    block_length = 8

    def forward(self, input_ids, attention_mask, position_ids):
        self.calls = getattr(self, "calls", 0) + 1
        block_L = torch.arange(input_ids.shape[1]) // self.block_length
        sees = (block_L[:, None] >= block_L) & attention_mask[:, None].bool()
        out = super().forward(
            input_ids=input_ids, attention_mask=sees[:, None], position_ids=position_ids
        )
        out.logits[..., MASK] = -1e9
        return out


def block_llama(seed, block_length):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, initializer_range=0.4, max_position_embeddings=128,
        eos_token_id=EOS, mask_token_id=MASK, attn_implementation="sdpa",
    )  # fmt: skip
    # Float64: no tie is decided by rounding.
    model = BlockLlama(config).double().eval()
    model.block_length = block_length
    return model


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def peer_answer(model, ids, gen_length, block_length, threshold, **options):
    """Decode with diffusers; gives sequences and how many calls had a mask to fill."""
    filling = []

    def note(pipeline, step, timestep, tensors):
        filling.append(bool(tensors["active_block"].any()))
        return {}

    peer = quiet(LLaDA2Pipeline(model=model, scheduler=BlockRefinementScheduler()))
    out = peer(
        input_ids=ids, gen_length=gen_length, block_length=block_length, threshold=threshold,
        num_inference_steps=block_length, editing_threshold=None, sampling_method="greedy",
        mask_token_id=MASK, eos_token_id=EOS, output_type="seq", callback_on_step_end=note,
        callback_on_step_end_tensor_inputs=["active_block"], **options,
    )  # fmt: skip
    return out.sequences, sum(filling)


def up_to_the_end(sequences):
    rows = sequences.tolist()
    return [row[: row.index(EOS) + 1] if EOS in row else row for row in rows]


class TestParity:
    """Threshold decoding by blocks gives the tokens of `LLaDA2Pipeline` in as many calls."""

    @pytest.mark.parametrize("threshold", [0.3, 0.9])
    @pytest.mark.parametrize(
        "prompt, length, block", [(8, 24, 8), (5, 27, 8), (3, 13, 4), (16, 32, 16)]
    )
    def test_one_sequence(self, prompt, length, block, threshold):
        skipped = 0
        for seed in range(3):
            model = block_llama(seed, block)
            ids = torch.randint(0, MASK, (1, prompt))
            expected, calls = peer_answer(
                model, ids, length, block, threshold, eos_early_stop=False
            )
            all_calls, model.calls = model.calls, 0
            out = quiet(PVFPipeline(BlockCausalPredictor(model)))(
                input_ids=ids, gen_length=length, block_length=block, strategy="threshold",
                threshold=threshold, eos_early_stop=False,
            )  # fmt: skip
            assert torch.equal(out.sequences, expected)
            assert out.stats[0].nfe == model.calls == calls
            # The peer looks at a block once more unless it took a call for each of its tokens.
            skipped += all_calls - calls
        assert threshold > 0.8 or skipped > 0

    def test_a_batch(self):
        for seed in range(2):
            model = block_llama(seed, 8)
            ids = torch.randint(0, MASK, (3, 11))
            expected, _ = peer_answer(model, ids, 29, 8, 0.4, eos_early_stop=False)
            out = quiet(PVFPipeline(BlockCausalPredictor(model)))(
                input_ids=ids, gen_length=29, block_length=8, strategy="threshold", threshold=0.4,
                eos_early_stop=False,
            )  # fmt: skip
            assert torch.equal(out.sequences, expected)

    def test_up_to_the_end_token(self):
        ended = 0
        for seed in range(8):
            model = block_llama(seed, 8)
            with torch.no_grad():
                model.lm_head.weight[EOS] *= 2
            ids = torch.randint(0, MASK, (1, 5))
            expected, calls = peer_answer(model, ids, 35, 8, 0.3)
            out = quiet(PVFPipeline(BlockCausalPredictor(model)))(
                input_ids=ids, gen_length=35, block_length=8, strategy="threshold", threshold=0.3
            )
            assert up_to_the_end(out.sequences) == up_to_the_end(expected)
            assert out.stats[0].nfe <= calls
            ended += EOS in out.sequences
        assert ended >= 2

    def test_what_is_left_of_a_block_behind_the_answer_is_not_filled(self):
        model = block_llama(1, 16)
        ids = torch.randint(0, MASK, (1, 5))
        expected, calls = peer_answer(model, ids, 20, 16, 0.5, eos_early_stop=False)
        out = quiet(PVFPipeline(BlockCausalPredictor(model)))(
            input_ids=ids, gen_length=20, block_length=16, strategy="threshold", threshold=0.5,
            eos_early_stop=False,
        )  # fmt: skip
        assert torch.equal(out.sequences, expected)
        assert out.stats[0].nfe < calls

    def test_the_end_of_a_prompt_is_no_end_of_the_answer(self):
        model = block_llama(2, 8)
        ids = torch.tensor([[1, 2, EOS]])
        out = quiet(PVFPipeline(BlockCausalPredictor(model)))(
            input_ids=ids, gen_length=13, block_length=8, strategy=PLAN
        )
        assert out.stats[0].tokens == 13
        assert MASK not in out.sequences


def tokenizer(tmp_path, template=None):
    found = write_tokenizer(tmp_path / "tokenizer")
    found.chat_template = template
    return found


class TestPipeline:
    """It is a pipeline of diffusers, and gives what `generate` gives."""

    @pytest.mark.parametrize("write", [write_llada, write_dream])
    def test_saved_and_loaded(self, write, tmp_path):
        predictor = load_mask_predictor(
            write(tmp_path / "model"), device="cpu", eos_id=7, tokenizer=tokenizer(tmp_path)
        )
        pipeline = quiet(PVFPipeline(predictor))
        options = {"gen_length": 16, "block_length": 8, "strategy": PLAN}
        expected = pipeline("w1 w2 w3", **options)
        pipeline.save_pretrained(tmp_path / "saved")
        loaded = quiet(PVFPipeline.from_pretrained(tmp_path / "saved"))
        found = loaded("w1 w2 w3", **options)
        assert torch.equal(found.sequences, expected.sequences)
        assert found.texts == expected.texts
        assert loaded.predictor.right_shift == predictor.right_shift
        assert (loaded.predictor.mask_id, loaded.predictor.eos_id) == (MASK, 7)

    def test_prompts_of_all_kinds(self, tmp_path):
        template = (
            "{% for m in messages %}w9 {{ m.content }} {% endfor %}"
            "{% if add_generation_prompt %}w8{% endif %}"
        )
        predictor = load_mask_predictor(
            write_llada(tmp_path / "model"), device="cpu", tokenizer=tokenizer(tmp_path, template)
        )
        pipeline = quiet(PVFPipeline(predictor))
        options = {"gen_length": 12, "block_length": 4, "strategy": PLAN}
        plain = generate(predictor, [[1, 2], [3]], **options)
        chats = generate(predictor, [[9, 1, 2, 8], [9, 3, 8]], **options)
        padded = {
            "input_ids": torch.tensor([[1, 2], [EOS, 3]]),
            "attention_mask": torch.tensor([[1, 1], [0, 1]]),
        }
        messages = [[{"role": "user", "content": text}] for text in ("w1 w2", "w3")]
        for given, expected in (
            ({"prompt": ["w1 w2", "w3"], "use_chat_template": False}, plain),
            (padded, plain),
            ({"prompt": ["w1 w2", "w3"]}, chats),
            ({"messages": messages}, chats),
        ):
            out = pipeline(**given, **options)
            assert isinstance(out, PVFPipelineOutput)
            assert torch.equal(out.sequences, expected.generated)
            assert [item.nfe for item in out.stats] == [item.nfe for item in expected.stats]
        assert out.texts is not None and EOS not in predictor.tokenizer(out.texts[0])["input_ids"]
        one = pipeline(messages=messages[0], add_generation_prompt=False, **options)
        bare = generate(predictor, [9, 1, 2], **options)
        assert torch.equal(one.sequences, bare.generated)
        sequences, texts = pipeline("w1 w2", output_type="seq", return_dict=False, **options)
        assert torch.equal(sequences, chats.generated[:1])
        assert texts is None

    def test_predictors_and_strategies_of_all_kinds(self):
        predictor = random_predictor(0)
        pipeline = quiet(PVFPipeline(predictor))
        ids = torch.tensor([[4, 5, 6]])
        for strategy in (PLAN, Threshold(0.5), EarlyCommit(), "topk"):
            options = {"gen_length": 16, "block_length": 8, "strategy": strategy}
            out = pipeline(input_ids=ids, **options)
            assert torch.equal(out.sequences, generate(predictor, ids, **options).generated)
            assert out.texts is None

    def test_drawing(self):
        pipeline = quiet(PVFPipeline(random_predictor(0)))
        options = {
            "input_ids": torch.tensor([[4, 5, 6]] * 2), "gen_length": 16, "strategy": "threshold",
            "temperature": 1.0, "eos_early_stop": False,
        }  # fmt: skip

        def draw(seed):
            return pipeline(generator=torch.Generator().manual_seed(seed), **options).sequences

        # 16 columns at a temperature of 1 agree by chance with a probability below 1e-6.
        assert torch.equal(draw(1), draw(1))
        assert not torch.equal(draw(1), draw(2))
        assert not torch.equal(*draw(1))

    def test_callbacks(self):
        pipeline = quiet(PVFPipeline(random_predictor(0)))
        seen = []

        def note(given, step, left, tensors):
            seen.append((given, step, left, tensors))
            return tensors

        out = pipeline(
            input_ids=torch.tensor([[4, 5, 6]]), gen_length=16, block_length=8, strategy=PLAN,
            eos_early_stop=False, callback_on_step_end=note,
            callback_on_step_end_tensor_inputs=["block_x", "transfer_index", "active_block"],
        )  # fmt: skip
        assert [step for _, step, _, _ in seen] == list(range(len(seen)))
        lefts = [16, *(left for _, _, left, _ in seen)]
        for before, (given, _, left, tensors) in zip(lefts, seen, strict=False):
            assert given is pipeline
            assert int(tensors["active_block"].sum()) == before
            assert int(tensors["transfer_index"].sum()) == before - left
        assert lefts[-1] == 0
        assert torch.equal(seen[-1][3]["block_x"][:, 3:], out.sequences)

    def test_a_callback_does_not_edit(self):
        def edit(pipeline, step, left, tensors):
            return {"block_x": torch.zeros_like(tensors["block_x"])}

        with pytest.raises(ValueError, match="block_x"):
            quiet(PVFPipeline(random_predictor(0)))(
                input_ids=torch.tensor([[4, 5, 6]]), gen_length=16, strategy="threshold",
                callback_on_step_end=edit,
            )  # fmt: skip

    @pytest.mark.parametrize(
        "given, message",
        [
            ({}, "prompt, messages and input_ids, not none"),
            ({"prompt": "a", "messages": []}, "not prompt and messages"),
            ({"prompt": "a"}, "tokenizer"),
            ({"input_ids": torch.ones(1, 2)}, "int64"),
            ({"input_ids": torch.ones(1, 2).long(), "attention_mask": torch.ones(2)}, "shape"),
            ({"input_ids": torch.tensor([1, 39])}, "mask token"),
            ({"input_ids": torch.tensor([1]), "gen_length": 0}, "gen_length"),
            ({"input_ids": torch.tensor([1]), "block_length": 0}, "block_length"),
            ({"input_ids": torch.tensor([1]), "output_type": "latent"}, "output_type"),
            ({"input_ids": torch.tensor([1]), "temperature": -1.0}, "temperature"),
            ({"input_ids": torch.tensor([1]), "temperature": float("nan")}, "not nan"),
            ({"input_ids": torch.tensor([1, 40])}, "prompt 0 holds 40"),
            ({"input_ids": torch.ones(0, 2).long()}, "input_ids is empty"),
            ({"prompt": []}, "prompt is empty"),
            ({"messages": []}, "messages is empty"),
            ({"input_ids": torch.tensor([1]), "mask_token_id": 40}, "mask_id must be in"),
            ({"input_ids": torch.tensor([1]), "eos_token_id": -1}, "eos_id must be in"),
            ({"input_ids": torch.tensor([1]), "threshold": 1.5}, "threshold"),
            (
                {"input_ids": torch.tensor([1]), "callback_on_step_end_tensor_inputs": ["x"]},
                "block_x, transfer_index, active_block",
            ),
        ],
    )
    def test_bad_arguments(self, given, message):
        pipeline = quiet(PVFPipeline(random_predictor(0)))
        with pytest.raises(ValueError, match=message):
            pipeline(**{"strategy": "threshold", "gen_length": 8, **given})

    def test_special_tokens_that_are_none(self):
        with pytest.raises(ValueError, match="mask_id must be in"):
            PVFPipeline(random_predictor(0), mask_token_id=40)

    def test_nothing_to_continue_is_a_prompt(self):
        pipeline = quiet(PVFPipeline(random_predictor(0)))
        out = pipeline(
            input_ids=torch.ones(0).long(), gen_length=8, block_length=4, strategy="threshold"
        )
        assert out.sequences.shape == (1, 8)

    def test_too_long(self):
        pipeline = quiet(PVFPipeline(BlockCausalPredictor(block_llama(0, 8))))
        with pytest.raises(ValueError, match="128"):
            pipeline(input_ids=torch.tensor([1]), gen_length=128, strategy="threshold")
