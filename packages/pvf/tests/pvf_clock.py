"""A predictor whose seconds are a stated function of what it processes, for tests of costs."""

import torch

from modicum.pvf.testing import PromptedOracle, ledger


class ClockedPredictor:
    """Another predictor with a clock of its own, which only its calls move.

    ``seconds`` is a function of the columns of a call and of the number of calls before it. Answers
    are remembered in ``answers``, which predictors of the same model may share.
    """

    def __init__(self, predictor, seconds, answers):
        self.predictor, self.seconds = predictor, seconds
        self.mask_id, self.eos_id = predictor.mask_id, predictor.eos_id
        self.vocab_size, self.device = predictor.vocab_size, predictor.device
        self.canvas = predictor.canvas
        self.now, self.calls = 0.0, 0
        self._answers = answers

    def clock(self):
        return self.now

    def forward(self, ids_RL, attention_mask_RL, positions_RH):
        assert attention_mask_RL is None
        self.now += self.seconds(ids_RL.numel(), self.calls)
        self.calls += 1
        keys = [
            (ids.numpy().tobytes(), columns.numpy().tobytes())
            for ids, columns in zip(ids_RL, positions_RH, strict=True)
        ]
        new = [row for row, key in enumerate(keys) if key not in self._answers]
        if new:
            found = self.predictor.forward(ids_RL[new], None, positions_RH[new])
            self._answers.update(zip([keys[row] for row in new], found, strict=True))
        return torch.stack([self._answers[key] for key in keys])


def roofline(ridge, floor=1.0):
    """Give ``floor`` seconds up to ``ridge`` columns, and more in proportion beyond."""
    return lambda columns, call: floor * max(1.0, columns / ridge)


class LedgerTasks:
    """Ledgers as prompts of one clocked predictor; the first columns tell them apart."""

    length, prompt = 48, 4

    def __init__(self, count):
        tasks = [ledger(seed) for seed in range(count)]
        self.prompts = [list(task.prompt[: self.prompt]) for task in tasks]
        oracles = {tuple(p): task.oracle for p, task in zip(self.prompts, tasks, strict=True)}
        assert len(oracles) == count
        self.oracle = PromptedOracle(oracles)
        self.settings = {"plan_vocab": tasks[0].style_ids, "unlock_threshold": 0}
        self.columns = self.prompt + self.length
        self.answers = {}

    def predictor(self, seconds):
        return ClockedPredictor(self.oracle, seconds, self.answers)


def in_rows(columns):
    """Give laws of what a call takes, by the columns of a row; one row takes about a second."""
    return {
        "flat": lambda size, call: 1.0,
        "linear": lambda size, call: size / columns,
        "ridge at 1.5 rows": roofline(1.5 * columns),
        "ridge at 2 rows": roofline(2 * columns),
        "ridge at 2.5 rows": roofline(2.5 * columns),
        "ridge at 3 rows": roofline(3 * columns),
        "affine": lambda size, call: 1 + 0.3 * size / columns,
    }
