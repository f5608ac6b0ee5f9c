"""The model of lm-eval: real tasks from local files, and log-likelihoods against exact ones."""

import importlib
import json
import logging
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from pvf_checkpoints import write_llada, write_tokenizer

from modicum.pvf import PVF, CallablePredictor, Threshold, generate
from modicum.pvf.integrations.lm_eval import MaskedDiffusionLM, masked_log_likelihood
from modicum.pvf.loading import load_mask_predictor
from modicum.pvf.testing import EnumerationOracle, ledger
from modicum.pvf.tiny import STYLE_IDS, TinyTokenizer, load_tiny
from modicum.pvf.tiny.task import draw_items

PLAN = PVF(plan_vocab=tuple(range(10)), unlock_threshold=2)
QUESTIONS = ["w1 w2 w3", "w4 w5", "w6", "w7 w8 w9 w10"]

TASK = """
task: words
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
  cache_dir: {cache}
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["w0 w0", "\\n"], max_gen_toks: 12, do_sample: false}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""
CHOICE = """
task: choices
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
  cache_dir: {cache}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["w1 w2", "w3 w4 w5"]
doc_to_target: 0
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
TINY = """
task: pairs
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
  cache_dir: {cache}
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: [], max_gen_toks: 32}}
filter_list:
  - name: last
    filter:
      - {{function: regex, regex_pattern: "(?:finally|pass|return) ([0-9])"}}
      - {{function: take_first}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = write_llada(tmp_path_factory.mktemp("model"))
    write_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def predictor(checkpoint):
    # Float64: no tie is decided by rounding.
    return load_mask_predictor(checkpoint, device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def harness(predictor, tmp_path_factory):
    """lm-eval with three tasks in a folder of YAML files."""
    folder = tmp_path_factory.mktemp("tasks")
    expected = generate(predictor, QUESTIONS, strategy=PLAN, gen_length=12, block_length=4)
    # The last answer is wrong.
    answers = [*expected.texts[:3], "w0"]
    data = folder / "words.jsonl"
    lines = [{"question": q, "answer": a} for q, a in zip(QUESTIONS, answers, strict=True)]
    data.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    pairs = folder / "pairs.jsonl"
    items = draw_items(4, torch.Generator().manual_seed(0), held_out=True)
    lines = []
    for prompt in items.prompt_BP.tolist():
        question = TinyTokenizer().decode(prompt)
        # The last digit of a prompt stands before its last comma, and in the answer's last line.
        lines.append({"question": question, "answer": question.split()[-2]})
    pairs.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for name, task, file in (
        ("words", TASK, data),
        ("choices", CHOICE, data),
        ("pairs", TINY, pairs),
    ):
        text = task.format(data=file, cache=folder / "cache")
        (folder / f"{name}.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            patch.setenv(name, "1")
        import lm_eval
        from lm_eval.tasks import TaskManager

        # It describes the machine, which takes seconds.
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
        # It looks for lm-eval's thousands of tasks unless told not to.
        manager = TaskManager(include_path=str(folder), include_defaults=False)

        def evaluate(model, task, **options):
            return lm_eval.simple_evaluate(
                model, tasks=[task], task_manager=manager, bootstrap_iters=0, **options
            )

        yield SimpleNamespace(evaluate=evaluate, expected=expected, folder=folder)


def request(*args):
    return SimpleNamespace(args=args)


def test_a_task_by_the_name_of_the_model(harness, checkpoint):
    results = harness.evaluate(
        "modicum-pvf",
        "words",
        model_args=f"pretrained={checkpoint},dtype=float64,strategy=fill,num_drafts=2,block_length=4",
        batch_size=2,
        device="cpu",
        log_samples=True,
    )
    predictor = load_mask_predictor(checkpoint, device="cpu", dtype="float64")
    expected = generate(
        predictor, QUESTIONS, strategy=PVF(routes=("fill",), num_drafts=2), gen_length=12,
        block_length=4,
    )  # fmt: skip
    found = [sample["resps"][0][0] for sample in results["samples"]["words"]]
    assert found == [text.split("w0 w0")[0] for text in expected.texts]


def test_a_task_scores_what_generate_gives(harness, predictor):
    model = MaskedDiffusionLM(predictor, strategy=PLAN, block_length=4)
    results = harness.evaluate(model, "words")
    assert results["results"]["words"]["exact_match,none"] == 0.75
    assert [item.nfe for item in model.stats] == [item.nfe for item in harness.expected.stats]


def test_the_trained_model_solves_its_task(harness):
    strategy = PVF(plan_vocab=STYLE_IDS)
    model = MaskedDiffusionLM(load_tiny(), strategy=strategy, block_length=16)
    results = harness.evaluate(model, "pairs")
    assert results["results"]["pairs"]["exact_match,last"] == 1.0
    assert max(item.nfe for item in model.stats) <= 10


def test_choices_are_compared_by_log_likelihood(harness, predictor):
    with pytest.raises(NotImplementedError, match="log_likelihood_samples"):
        harness.evaluate(MaskedDiffusionLM(predictor, strategy=PLAN), "choices")
    model = MaskedDiffusionLM(predictor, strategy=PLAN, log_likelihood_samples=16, seed=3)
    results = harness.evaluate(model, "choices", log_samples=True)
    for sample in results["samples"]["choices"]:
        prompt = predictor.tokenizer(sample["doc"]["question"])["input_ids"]
        values = [
            masked_log_likelihood(predictor, prompt, answer, samples=16, seed=3)
            for answer in ([1, 2], [3, 4, 5])
        ]
        assert [value for value, _ in sample["filtered_resps"]] == pytest.approx(values)
        assert sample["acc"] == float(values[0] > values[1])


class TestGenerateUntil:
    """Lengths, temperatures, stop strings and long contexts."""

    def test_lengths_and_stop_strings(self, predictor):
        model = MaskedDiffusionLM(predictor, strategy=PLAN, block_length=4)
        asked = [
            request("w1 w2", {"until": [], "max_gen_toks": 8}),
            request("w3", {"until": "w5", "max_gen_toks": 12}),
            request("w4", {"max_gen_toks": 8}),
        ]
        found = model.generate_until(asked, disable_tqdm=True)
        for (context, options), text in zip((item.args for item in asked), found, strict=True):
            (expected,) = generate(
                predictor, context, strategy=PLAN, gen_length=options["max_gen_toks"],
                block_length=4,
            ).texts  # fmt: skip
            assert text == (expected.split("w5")[0] if options.get("until") else expected)
        fixed = MaskedDiffusionLM(predictor, strategy=PLAN, gen_length=4, eos_early_stop=False)
        fixed.generate_until(asked, disable_tqdm=True)
        assert [item.tokens for item in fixed.stats] == [4, 4, 4]

    def test_temperatures(self, predictor):
        model = MaskedDiffusionLM(predictor, strategy=Threshold(0.9), seed=5)
        context = "w1 w2"
        drawing = {"max_gen_toks": 8, "do_sample": True, "temperature": 2.0}
        greedy = {"max_gen_toks": 8, "do_sample": False, "temperature": 2.0, "top_p": 0.5}
        found = model.generate_until([request(context, o) for o in (drawing, drawing, greedy)])
        options = {"strategy": Threshold(0.9), "gen_length": 8, "seed": 5}
        expected = generate(predictor, [context] * 2, temperature=2.0, **options).texts
        assert found == [*expected, *generate(predictor, context, **options).texts]
        assert found[0] != found[1]
        with pytest.raises(ValueError, match="top_k=3"):
            model.generate_until([request(context, {**drawing, "top_k": 3})])

    def test_long_contexts_lose_their_beginning(self, predictor, caplog):
        model = MaskedDiffusionLM(predictor, strategy=PLAN)
        words = [f"w{number % 50}" for number in range(200)]
        with caplog.at_level(logging.WARNING):
            (found,) = model.generate_until([request(" ".join(words), {"max_gen_toks": 16})])
        assert "200 tokens" in caplog.text
        kept = " ".join(words[-(96 - 16) :])
        assert [found] == generate(predictor, kept, strategy=PLAN, gen_length=16).texts

    def test_chats(self, checkpoint):
        predictor = load_mask_predictor(checkpoint, device="cpu")
        model = MaskedDiffusionLM(predictor, strategy=PLAN)
        assert model.chat_template() == ""
        template = "w9 {% for m in messages %}{{ m.content }} {% endfor %}"
        predictor.tokenizer.chat_template = template
        assert model.chat_template() == template
        assert model.apply_chat_template([{"role": "user", "content": "w1"}]) == "w9 w1 "
        assert model.tokenizer_name


class TestLogLikelihood:
    """For coherent conditionals the estimate has the log-likelihood as its mean."""

    def test_its_mean_is_the_log_likelihood(self):
        task = ledger(0, right=0.7)
        oracle = task.oracle
        number = int(oracle.weights_S.argmin())
        sequence = oracle.sequences_SL[number].tolist()
        samples, groups = 200, 16
        values = torch.tensor(
            [
                masked_log_likelihood(
                    oracle, [], sequence, samples=samples, seed=seed, batch_size=64
                )
                for seed in range(groups)
            ]
        )
        expected = math.log(float(oracle.weights_S[number]))
        error = float((values.mean() - expected).abs())
        # Means of 200 samples are as good as normal: t with 15 degrees of freedom is beyond 8 with
        # a probability of 9e-7.
        assert error < 8 * float(values.std()) / math.sqrt(groups)
        assert error < 0.1 * abs(expected)

    def test_one_token_is_exact(self):
        sequences = torch.tensor([[1, 2, 3], [1, 2, 4]])
        oracle = EnumerationOracle(sequences, torch.tensor([3.0, 1.0]), 0, 5)
        assert masked_log_likelihood(oracle, [1, 2], [4], samples=1) == pytest.approx(
            math.log(0.25)
        )

    def test_independent_columns_are_exact_with_all_counts(self):
        probabilities = torch.tensor([0.0, 0.1, 0.3, 0.6])
        model = CallablePredictor(
            lambda ids: probabilities.log().expand(*ids.shape, 4).clone(), 0, 4
        )
        # One token masked counts three times, all three count once: equal columns, equal sums.
        found = masked_log_likelihood(model, [1], [3, 3, 3], samples=6)
        assert found == pytest.approx(3 * math.log(0.6), rel=1e-6)

    def test_what_is_greedy_and_rolling(self, predictor):
        model = MaskedDiffusionLM(
            predictor, strategy=PLAN, block_length=4, log_likelihood_samples=4, batch_size=3
        )
        out = generate(
            predictor, "w1 w2", strategy=PLAN, gen_length=4, block_length=4, eos_early_stop=False
        )
        said = predictor.tokenizer.decode(out.generated[0].tolist())
        other = "w1 w1 w1 w1"
        found = model.loglikelihood(
            [request("w1 w2", f" {text}") for text in (said, other)], disable_tqdm=True
        )
        assert [is_greedy for _, is_greedy in found] == [True, said == other]
        words = [f"w{number % 50}" for number in range(100)]
        (rolling,) = model.loglikelihood_rolling([request(" ".join(words))])
        ids = predictor.tokenizer(" ".join(words))["input_ids"]
        parts = [
            masked_log_likelihood(predictor, [], ids[begin : begin + 96], samples=4, batch_size=3)
            for begin in (0, 96)
        ]
        assert rolling == pytest.approx(sum(parts))

    def test_bad_arguments(self, predictor):
        with pytest.raises(ValueError, match="answer is empty"):
            masked_log_likelihood(predictor, [1], [])
        with pytest.raises(ValueError, match="samples"):
            masked_log_likelihood(predictor, [1], [2], samples=0)


def test_bad_models(predictor):
    bare = CallablePredictor(lambda ids: torch.zeros(*ids.shape, 4), 0, 4)
    with pytest.raises(ValueError, match="tokenizer"):
        MaskedDiffusionLM(bare)
    with pytest.raises(ValueError, match="batch_size must be a number, not 'auto'"):
        MaskedDiffusionLM(predictor, batch_size="auto")
    with pytest.raises(ValueError, match="gen_length"):
        MaskedDiffusionLM(predictor, gen_length=0)


def test_without_lm_eval_it_is_said_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "modicum.pvf.integrations.lm_eval")
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(ImportError, match=r"modicum-pvf\[lm-eval\]"):
        importlib.import_module("modicum.pvf.integrations.lm_eval")


@pytest.mark.slow
def test_the_command(harness, checkpoint):
    """The command of lm-eval, started with the model registered."""
    done = subprocess.run(
        [
            sys.executable, "-m", "modicum.pvf.integrations.lm_eval", "run",
            "--model", "modicum-pvf",
            "--model_args", f"pretrained={checkpoint},strategy=threshold,threshold=0.5",
            "--tasks", "words", "--include_path", str(harness.folder), "--device", "cpu",
        ],
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "words" in done.stdout and "exact_match" in done.stdout
