"""Our decoder in ``model.generate``: configurations, criteria and streamers, both families."""

import queue

import pytest
import torch
import transformers
from pvf_checkpoints import EOS, MASK, write_dream, write_llada, write_tokenizer
from transformers.generation import (
    EosTokenCriteria,
    GenerateDecoderOnlyOutput,
    GenerationConfig,
    MaxLengthCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
)

from modicum.pvf import PVF, Threshold, generate
from modicum.pvf.integrations.transformers import hf_generate
from modicum.pvf.loading import load_mask_predictor

PLAN = PVF(plan_vocab=tuple(range(10)), unlock_threshold=2)
OPTIONS = {"strategy": PLAN, "block_length": 4}
IDS = torch.tensor([[1, 2, 3]])


@pytest.fixture(params=[write_llada, write_dream])
def predictor(request, tmp_path):
    path = request.param(tmp_path / "model")
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    tokenizer.padding_side = "left"
    # Float64: no tie is decided by rounding.
    return load_mask_predictor(path, device="cpu", dtype="float64", tokenizer=tokenizer)


def decode(predictor, ids=IDS, **options):
    return predictor.model.generate(ids, custom_generate=hf_generate, **{**OPTIONS, **options})


class TestConfiguration:
    """Lengths and ends come from the generation config, the model's own or one that is given."""

    def test_one_that_is_given(self, predictor):
        config = GenerationConfig(max_new_tokens=16, eos_token_id=EOS, pad_token_id=EOS)
        found = decode(predictor, generation_config=config)
        expected = generate(predictor, IDS, gen_length=16, **OPTIONS)
        assert torch.equal(found[:, 3:], expected.generated)

    def test_that_of_the_model(self, predictor):
        predictor.model.generation_config.max_new_tokens = 8
        found = decode(predictor)
        expected = generate(predictor, IDS, gen_length=8, **OPTIONS)
        assert torch.equal(found[:, 3:], expected.generated)

    def test_arguments_go_before_it(self, predictor):
        config = GenerationConfig(max_new_tokens=16, eos_token_id=EOS, pad_token_id=EOS)
        found = decode(predictor, generation_config=config, max_new_tokens=4)
        expected = generate(predictor, IDS, gen_length=4, **OPTIONS)
        assert torch.equal(found[:, 3:], expected.generated)

    def test_a_length_with_the_prompt(self, predictor):
        found = decode(predictor, max_length=11)
        expected = generate(predictor, IDS, gen_length=8, **OPTIONS)
        assert torch.equal(found[:, 3:], expected.generated)

    def test_another_end_token(self, predictor):
        plain = generate(predictor, IDS, gen_length=16, eos_early_stop=False, **OPTIONS)
        end = plain.generated[0, 5].item()
        found = decode(predictor, max_new_tokens=16, eos_token_id=end)[0, 3:].tolist()
        first = found.index(end)
        assert set(found[first:]) == {end}
        assert decode(predictor, max_new_tokens=16, eos_token_id=end, eos_early_stop=False).shape
        # The predictor that the model came from keeps its own.
        assert predictor.eos_id == EOS

    def test_no_end_token(self, predictor):
        predictor.model.generation_config.eos_token_id = None
        found = decode(predictor, max_new_tokens=16)
        expected = generate(predictor, IDS, gen_length=16, eos_early_stop=False, **OPTIONS)
        assert torch.equal(found[:, 3:], expected.generated)

    def test_several_answers_to_a_prompt(self, predictor):
        options = {"strategy": Threshold(0.9), "block_length": 4, "seed": 3}
        found = decode(
            predictor, max_new_tokens=8, do_sample=True, temperature=2.0, top_k=0,
            num_return_sequences=3, **options,
        )  # fmt: skip
        expected = generate(
            predictor, IDS.repeat(3, 1), gen_length=8, temperature=2.0, **options
        ).generated
        assert torch.equal(found[:, 3:], expected)
        assert len({tuple(row) for row in expected.tolist()}) == 3

    def test_dictionaries(self, predictor):
        out = decode(predictor, max_new_tokens=8, return_dict_in_generate=True)
        assert isinstance(out, GenerateDecoderOnlyOutput)
        assert torch.equal(out.sequences, decode(predictor, max_new_tokens=8))


class TestInputs:
    """Batches as tokenizers make them."""

    def test_texts(self, predictor):
        texts = ["w1 w2 w3 w4", "w5"]
        inputs = predictor.tokenizer(
            texts, return_tensors="pt", padding=True, return_token_type_ids=False
        )
        found = predictor.model.generate(
            **inputs, custom_generate=hf_generate, max_new_tokens=12, **OPTIONS
        )
        expected = generate(predictor, texts, gen_length=12, **OPTIONS)
        assert torch.equal(found[:, 4:], expected.generated)

    def test_a_mask_in_the_prompt_is_refused(self, predictor):
        with pytest.raises(ValueError, match="mask token"):
            decode(predictor, torch.tensor([[1, MASK]]), max_new_tokens=4)

    def test_unknown_arguments_are_refused(self, predictor):
        with pytest.raises(ValueError, match="blocklength"):
            decode(predictor, max_new_tokens=4, blocklength=4)


class Never(StoppingCriteria):
    """Looks at what was generated so far."""

    def __call__(self, input_ids, scores, **kwargs):
        return torch.zeros(len(input_ids), dtype=torch.bool)


class TestStoppingCriteria:
    """Lengths and end tokens are understood, what looks at one next token is not."""

    def test_those_of_others_are_refused(self, predictor):
        with pytest.raises(ValueError, match="Never"):
            decode(predictor, max_new_tokens=4, stopping_criteria=StoppingCriteriaList([Never()]))

    def test_a_length(self, predictor):
        criteria = StoppingCriteriaList([MaxLengthCriteria(max_length=7)])
        found = decode(predictor, max_new_tokens=16, stopping_criteria=criteria)
        expected = generate(predictor, IDS, gen_length=4, **OPTIONS)
        assert torch.equal(found[:, 3:], expected.generated)

    def test_an_end_token(self, predictor):
        end = generate(predictor, IDS, gen_length=16, **OPTIONS).generated[0, 3].item()
        criteria = StoppingCriteriaList([EosTokenCriteria(eos_token_id=end)])
        found = decode(predictor, max_new_tokens=16, stopping_criteria=criteria)
        expected = decode(predictor, max_new_tokens=16, eos_token_id=end)
        assert torch.equal(found, expected)
        assert found[0, -1] == end


class TestStreamers:
    """What a streamer of transformers gets."""

    def test_the_prompt_only(self, predictor):
        class Kept:
            def __init__(self):
                self.values, self.ended = [], False

            def put(self, value):
                self.values.append(value.tolist())

            def end(self):
                self.ended = True

        streamer = Kept()
        decode(predictor, max_new_tokens=8, streamer=streamer)
        # transformers hands a streamer to its own methods and to no other.
        assert streamer.values == [IDS.tolist()]
        assert not streamer.ended

    def test_an_iterator_over_texts_has_to_have_a_timeout(self, predictor):
        streamer = transformers.TextIteratorStreamer(
            predictor.tokenizer, skip_prompt=True, timeout=0.01
        )
        decode(predictor, max_new_tokens=8, streamer=streamer)
        with pytest.raises(queue.Empty):
            next(streamer)
