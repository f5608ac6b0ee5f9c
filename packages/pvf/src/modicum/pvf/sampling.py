"""Tokens drawn from logits, by numbers that belong to a place and not to a batch.

Shapes: T rows of a call, H columns asked for, V vocabulary.
"""

import torch

from modicum.core.prf import philox4x32
from modicum.pvf.decoder import Rows

__all__ = ["GumbelSampler"]

_MOST_NUMBERS = 1 << 24
_WORD = 0xFFFFFFFF


class GumbelSampler:
    """Draw from the softmax of logits divided by a temperature.

    The largest of logits / temperature + Gumbel noise, in float64: in float32 the noise has a
    largest value that the vocabulary reaches, which makes likely tokens too likely (arXiv
    2409.02908). The noise is Philox's by seed, sequence, column, call and token, so that the same
    prompt draws the same tokens in any batch and on any device.

    Parameters
    ----------
    temperature
        Positive.
    seed
        Any integer.
    first_sequence
        Number of the batch's first sequence.
    suppress
        Ids that are never drawn.
    """

    def __init__(
        self, temperature: float, seed: int, first_sequence: int, suppress: tuple[int, ...]
    ) -> None:
        self.temperature = temperature
        self.key = (seed & _WORD, (seed >> 32) & _WORD)
        self.first_sequence = first_sequence
        self.suppress = suppress

    def __call__(self, logits: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Give tokens, (T, H) int64."""
        count, width, vocabulary = logits.shape
        drawn_TH = torch.empty((count, width), dtype=torch.int64, device=logits.device)
        at_once = max(1, _MOST_NUMBERS // vocabulary)
        flat_KV = logits.reshape(count * width, vocabulary)
        places = (
            rows.positions.reshape(-1),
            rows.call[:, None].expand(-1, width).reshape(-1),
            (rows.sequence + self.first_sequence)[:, None].expand(-1, width).reshape(-1),
        )
        for begin in range(0, count * width, at_once):
            part = slice(begin, begin + at_once)
            noisy_KV = flat_KV[part].double() / self.temperature
            noisy_KV += self._gumbel(vocabulary, *(place[part] for place in places))
            noisy_KV[:, list(self.suppress)] = -torch.inf
            drawn_TH.view(-1)[part] = noisy_KV.argmax(-1)
        return drawn_TH

    def _gumbel(
        self, vocabulary: int, column_K: torch.Tensor, call_K: torch.Tensor, number_K: torch.Tensor
    ) -> torch.Tensor:
        """Give standard Gumbel noise, (K, V) float64."""
        pairs = (vocabulary + 1) // 2
        pair_P = torch.arange(pairs, device=column_K.device)
        words = philox4x32(
            (
                column_K[:, None],
                call_K[:, None],
                # The decoder's own numbers have the top bit clear.
                (number_K | 1 << 31)[:, None],
                pair_P[None],
            ),
            self.key,
        )
        uniforms = [
            (((high >> 5) << 26) + (low >> 6)).double().add_(0.5).div_(1 << 53)
            for high, low in (words[:2], words[2:])
        ]
        uniform_KV = torch.stack(uniforms, -1).reshape(len(column_K), 2 * pairs)[:, :vocabulary]
        return -torch.log(-torch.log(uniform_KV))
