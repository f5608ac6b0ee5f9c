"""Small deterministic mask predictors for tests: every column depends on all others."""

import torch

from modicum.pvf.predictor import CallablePredictor

VOCABULARY = 40
MASK = VOCABULARY - 1
EOS = 0


def random_logits(seed, scale=3.0, vocabulary=VOCABULARY):
    """Give a function from ids, (R, L), to logits, (R, L, V) float32, row by row."""
    generator = torch.Generator().manual_seed(seed)
    embedding_VD = torch.randn(vocabulary, 24, generator=generator, dtype=torch.float64)
    place_LD = torch.randn(256, 24, generator=generator, dtype=torch.float64)
    mixing_DD = torch.randn(24, 24, generator=generator, dtype=torch.float64) / 24**0.5
    head_DV = torch.randn(24, vocabulary, generator=generator, dtype=torch.float64)

    def logits(ids):
        x = embedding_VD[ids] + place_LD[: ids.shape[1]]
        near = torch.tanh(x @ mixing_DD + torch.roll(x, 1, 1) + torch.roll(x, -1, 1))
        far = torch.tanh(near.cumsum(1) / 4 + near.flip(1).cumsum(1).flip(1) / 4)
        sharpness = 0.3 + torch.sigmoid(far[..., :1] * 2)
        return (scale * sharpness * ((near + far) @ head_DV) / 24**0.5).float()

    return logits


def random_predictor(seed, scale=3.0, eos=EOS):
    return CallablePredictor(random_logits(seed, scale), MASK, VOCABULARY, eos_id=eos)


def canvases(seed, count, prompt, length):
    """Give canvases of random prompts and masks, with start and length of each."""
    generator = torch.Generator().manual_seed(seed)
    canvas = torch.full((count, prompt + length), MASK)
    canvas[:, :prompt] = torch.randint(1, MASK, (count, prompt), generator=generator)
    return canvas, torch.full((count,), prompt), torch.full((count,), length)
