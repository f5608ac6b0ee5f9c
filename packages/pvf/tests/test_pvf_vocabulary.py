"""Planning vocabularies: words in a tokenizer's ids, rules, names, and what is refused."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pvf_models import MASK, random_predictor
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from modicum.pvf import PVF, ExtraToken, PlanVocabulary, generate
from modicum.pvf.strategies.registry import as_strategy
from modicum.pvf.vocabulary import (
    PlanWords,
    as_plan_vocabulary,
    bound_vocabulary,
    tokenizer_hash,
    word_list,
)

CORPUS = [
    "def add(self, a, b): return a + b if a is not None else b",
    "for item in range(len(items)): print(item); while True: break",
    "The sum of Alice and Bob is 12. A is true, B is not. Therefore the answer is A",
    "isinstance(value, list) and not isinstance(value, dict) or 2 >= 1",
] * 20


@pytest.fixture(scope="module")
def tokenizer():
    """Give a byte-level BPE of 400 tokens with a mask and an end token."""
    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<End>", "<Mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    engine.train_from_iterator(CORPUS, trainer)
    return engine


def texts(tokenizer, vocabulary):
    return {tokenizer.decode([token]) for token in vocabulary.ids}


def model_with(tokenizer, eos_id=None):
    size = 400 if tokenizer is None else tokenizer.get_vocab_size()
    return SimpleNamespace(tokenizer=tokenizer, eos_id=eos_id, vocab_size=size)


def view_of(tokens):
    return SimpleNamespace(seen=SimpleNamespace(token=torch.tensor(tokens)))


def test_word_lists_differ_by_one_group_each():
    default, paper, code = (set(word_list(name)) for name in ("default", "paper", "code"))
    assert default - code == {"@"} and default - paper == {"self", "None", "True", "False"}
    assert len(word_list()) == len(default) == 123
    assert all(word == word.strip() and word for word in default)
    with pytest.raises(ValueError, match="plan_vocab must be one of default, paper, code"):
        word_list("papers")


def test_words_by_themselves_and_after_a_space(tokenizer):
    found = texts(tokenizer, PlanVocabulary.from_tokenizer(tokenizer, capitalised=False))
    assert {"is", " is", " if", "(", ":", " not", " and"} <= found
    # A word of several tokens is left out and none of its pieces comes in.
    assert len(tokenizer.encode("enumerate", add_special_tokens=False).ids) > 1
    assert {text.strip() for text in found} <= set(word_list())


def test_all_tokens_of_words_of_several(tokenizer):
    skipped = PlanVocabulary.from_tokenizer(tokenizer, capitalised=False)
    every = PlanVocabulary.from_tokenizer(tokenizer, capitalised=False, multi_token="all")
    assert set(skipped.ids) < set(every.ids)
    pieces = tokenizer.encode("enumerate", add_special_tokens=False).ids
    assert set(pieces) <= set(every.ids)
    assert all(text.strip() for text in texts(tokenizer, every))


def test_capitals_without_answer_letters_and_special_tokens(tokenizer):
    with_letters = PlanVocabulary.from_tokenizer(tokenizer, (), exclude_single_letters=False)
    found = texts(tokenizer, with_letters)
    assert {" Alice", "A", " A", "B", "The"} <= found
    assert all(text.strip()[0].isupper() for text in found)
    without = texts(tokenizer, PlanVocabulary.from_tokenizer(tokenizer, ()))
    assert {text for text in found if len(text.strip()) > 1} == without
    # "<Mask>" and "<End>" are no texts, whatever they look like.
    assert tokenizer.token_to_id("<Mask>") not in with_letters.ids


def test_the_end_token_comes_when_it_is_wanted_and_known(tokenizer):
    end = tokenizer.token_to_id("<End>")
    assert end not in PlanVocabulary.from_tokenizer(tokenizer).ids
    assert end in PlanVocabulary.from_tokenizer(tokenizer, include_eos=True, eos_id=end).ids
    with pytest.raises(ValueError, match="include_eos=True"):
        PlanVocabulary.from_tokenizer(tokenizer, include_eos=True)


def test_tokenizers_of_transformers_give_the_same(tokenizer):
    transformers = pytest.importorskip("transformers")
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<End>", mask_token="<Mask>"
    )
    assert PlanVocabulary.from_tokenizer(wrapped).ids == (
        PlanVocabulary.from_tokenizer(tokenizer).ids
    )
    assert wrapped.eos_token_id in PlanVocabulary.from_tokenizer(wrapped, include_eos=True).ids


def test_tokens_are_looked_at_once_for_each_tokenizer(tokenizer):
    copy = Tokenizer.from_str(tokenizer.to_str())
    assert tokenizer_hash(copy) == tokenizer_hash(tokenizer)
    assert PlanVocabulary.from_tokenizer(copy) is PlanVocabulary.from_tokenizer(tokenizer)
    before = tokenizer_hash(copy)
    copy.add_tokens(["Zebra"])
    assert tokenizer_hash(copy) != before
    changed = PlanVocabulary.from_tokenizer(copy)
    assert set(changed.ids) - set(PlanVocabulary.from_tokenizer(tokenizer).ids) == {
        copy.token_to_id("Zebra")
    }


def test_membership_is_that_of_the_ids():
    vocabulary = PlanVocabulary((3, 1, 3, 7))
    assert vocabulary.ids == (1, 3, 7)
    found = vocabulary(view_of([[0, 1, 2, 3], [6, 7, 8, 400]]))
    assert found.tolist() == [[False, True, False, True], [False, True, False, False]]
    assert not PlanVocabulary()(view_of([[0, 1]])).any()
    assert PlanVocabulary((1,)) == PlanVocabulary((1, 1))


@pytest.mark.parametrize(
    "given",
    [
        [1, 4],
        (4, 1, 1),
        {1, 4},
        torch.tensor([1, 4]),
        np.array([4, 1]),
        torch.tensor([False, True, False, False, True]),
        np.array([False, True, False, False, True]),
        PlanVocabulary((1, 4)),
    ],
)
def test_ids_and_masks_are_vocabularies(given):
    assert as_plan_vocabulary(given).ids == (1, 4)


def test_words_stand_for_ids_until_there_is_a_tokenizer(tokenizer):
    words = as_plan_vocabulary(["is", " not"])
    assert words == PlanWords(("is", " not"), capitalised=False)
    bound = bound_vocabulary(words, model_with(tokenizer))
    assert {"is", " is", " not"} <= texts(tokenizer, bound) <= {"is", " is", " not", "  not"}
    named = bound_vocabulary(as_plan_vocabulary("default"), model_with(tokenizer))
    assert named == PlanVocabulary.from_tokenizer(tokenizer)
    assert named.name == "default"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("defaults", ValueError, "did you mean 'default'"),
        ([1, "is"], TypeError, "plan_vocab must be ids, a mask, words"),
        ([1.5], TypeError, "plan_vocab must be ids"),
        ([True, False], TypeError, "plan_vocab must be ids"),
        (3.5, TypeError, "plan_vocab must be ids"),
        ([-1], ValueError, "token id -1, which is negative"),
        ([" "], ValueError, "words of plan_vocab must be texts, not ' '"),
        (torch.zeros(2, 3, dtype=torch.bool), ValueError, r"shape \(V,\), not \(2, 3\)"),
    ],
)
def test_anything_else_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        as_plan_vocabulary(given)
    with pytest.raises(error, match=message):
        PVF(plan_vocab=given)


def test_multi_token_is_one_of_two():
    with pytest.raises(ValueError, match="multi_token must be one of skip, all, not 'none'"):
        PlanWords(multi_token="none")


def test_binding_looks_words_up_and_leaves_the_strategy_as_it_was(tokenizer):
    strategy = PVF()
    bound = strategy.bind(model_with(tokenizer))
    assert bound is not strategy and strategy.plan_vocab == PlanWords()
    assert bound.plan_vocab == PlanVocabulary.from_tokenizer(tokenizer)
    assert bound.bind(model_with(tokenizer)) is bound
    extra = ExtraToken(plan_vocab=["is"]).bind(model_with(tokenizer))
    assert "is" in texts(tokenizer, extra.plan_vocab)
    assert as_strategy("bin_plan").plan_vocab == PlanWords()
    assert as_strategy("bin_random").plan_vocab == PlanVocabulary(name="none")


def test_without_a_tokenizer_it_says_what_to_give():
    for strategy in ("pvf", "plan", "bin_plan"):
        with pytest.raises(ValueError, match=r"'default' needs a tokenizer.*ids, or None"):
            generate(random_predictor(0), [[1]], strategy=strategy, gen_length=4)
    # Where no planning token is ever looked for, none has to be known.
    for strategy in ("fill", PVF(num_drafts=0), PVF(plan_vocab=None), "bin_random"):
        out = generate(random_predictor(0), [[1]], strategy=strategy, gen_length=4)
        assert not (out.generated == MASK).any()
    with pytest.raises(ValueError, match="no tokenizer yet"):
        PlanWords()(view_of([[0]]))


def test_ids_of_another_tokenizer_are_refused():
    with pytest.raises(ValueError, match=r"token id 40, not in \[0, 40\)"):
        generate(random_predictor(0), [[1]], strategy=PVF(plan_vocab=[3, 40]), gen_length=4)
    with pytest.raises(ValueError, match="another tokenizer"):
        generate(random_predictor(0), [[1]], strategy=ExtraToken(plan_vocab=[99]), gen_length=4)


@pytest.mark.parametrize(
    "strategy",
    [
        PVF(),
        PVF(plan_vocab=[5, 2], routes=("plan",), num_drafts=1),
        PVF(plan_vocab=["so", "then"]),
        PVF.preset("code", plan_vocab=None),
        PVF.paper_parity("math"),
        PVF.official_code(threshold=0.95),
    ],
)
def test_settings_go_to_json_and_back(strategy):
    assert PVF.from_dict(json.loads(json.dumps(strategy.to_dict()))) == strategy


def test_a_function_has_to_be_given_again():
    def everything(view):
        return torch.ones_like(view.open)

    values = json.loads(json.dumps(PVF(plan_vocab=everything).to_dict()))
    assert "everything" in values["plan_vocab"]["function"]
    with pytest.raises(ValueError, match=r"everything'?: give it again"):
        PVF.from_dict(values)
    assert PVF.from_dict(values, plan_vocab=everything) == PVF(plan_vocab=everything)
    assert "everything" in ExtraToken(plan_vocab=everything).to_dict()["plan_vocab"]["function"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "threshold"}, "strategy must be 'pvf', not 'threshold'"),
        ({"drafts": 3}, "'pvf' has no setting drafts"),
        ({"plan_vocab": {"name": "x"}}, "no description of a vocabulary"),
    ],
)
def test_other_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        PVF.from_dict({**PVF().to_dict(), **changes})


def test_parity_is_what_differs(tokenizer):
    paper, code = PVF.paper_parity(), PVF.official_code("math")
    assert not paper.strict_impact and paper.reuse_base_row
    assert paper.plan_vocab.include_eos and not code.plan_vocab.include_eos
    assert code.strict_impact and not code.reuse_base_row and code.fill_threshold == 0.35
    end = tokenizer.token_to_id("<End>")
    bound = paper.bind(model_with(tokenizer, end))
    assert {end, tokenizer.token_to_id("A")} <= set(bound.plan_vocab.ids)
