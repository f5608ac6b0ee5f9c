"""What the decoder asks of a model: logits at some positions of some canvases.

`MaskPredictor` is the protocol that adapters follow; `CallablePredictor` makes one of any function
from token ids to logits. Nothing here knows how tokens are chosen.

Shapes: R rows of one call, L columns of a canvas, H columns asked for, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

import torch

__all__ = ["CallablePredictor", "MaskPredictor", "as_predictor"]


@runtime_checkable
class MaskPredictor(Protocol):
    """A model that predicts masked tokens from both sides.

    Attributes
    ----------
    mask_id
        Id of the mask token.
    eos_id
        Id of the token that ends an answer; None where there is none.
    vocab_size
        V.
    device
        Where ids go and logits come from.
    canvas
        ``"full"``: a call sees the whole canvas. ``"prefix"``: a call sees the columns up to the
        end of the window and no further, as models with attention by blocks were trained.
    """

    mask_id: int
    eos_id: int | None
    vocab_size: int
    canvas: Literal["full", "prefix"]

    @property
    def device(self) -> torch.device: ...  # noqa: D102

    def forward(
        self,
        ids_RL: torch.Tensor,
        attention_mask_RL: torch.Tensor | None,
        positions_RH: torch.Tensor,
    ) -> torch.Tensor:
        """Give logits, (R, H, V), of any floating type.

        Parameters
        ----------
        ids_RL
            Token ids, int64.
        attention_mask_RL
            bool, False for columns that are padding; None where there is no padding. Columns are
            numbered without those that are False.
        positions_RH
            Columns whose tokens are asked for, int64, in [0, L).
        """


class CallablePredictor:
    """A predictor made of a function from ids to logits of every column.

    Parameters
    ----------
    function
        Takes int64 ids, (R, L), and gives logits, (R, L, V). With padding it is called with the
        attention mask, (R, L) bool, as a second argument.
    mask_id, eos_id, vocab_size, device, canvas
        As in `MaskPredictor`.

    Raises
    ------
    ValueError
        If the mask id or the end id is not in the vocabulary.
    """

    def __init__(
        self,
        function: Callable[..., torch.Tensor],
        mask_id: int,
        vocab_size: int,
        *,
        eos_id: int | None = None,
        device: str | torch.device = "cpu",
        canvas: Literal["full", "prefix"] = "full",
    ) -> None:
        check_special_ids(mask_id, eos_id, vocab_size)
        if canvas not in ("full", "prefix"):
            raise ValueError(f"canvas must be 'full' or 'prefix', not {canvas!r}")
        self.function = function
        self.mask_id = mask_id
        self.eos_id = eos_id
        self.vocab_size = vocab_size
        self.device = torch.device(device)
        self.canvas: Literal["full", "prefix"] = canvas

    def forward(
        self,
        ids_RL: torch.Tensor,
        attention_mask_RL: torch.Tensor | None,
        positions_RH: torch.Tensor,
    ) -> torch.Tensor:
        """Give logits, (R, H, V): those of all columns are computed, those asked for are kept."""
        padding = () if attention_mask_RL is None else (attention_mask_RL,)
        logits_RLV = self.function(ids_RL, *padding)
        expected = (*ids_RL.shape, self.vocab_size)
        if tuple(logits_RLV.shape) != expected:
            raise ValueError(
                f"the function must give logits of shape {expected}, not {tuple(logits_RLV.shape)}"
            )
        rows_R1 = torch.arange(len(ids_RL), device=ids_RL.device)[:, None]
        return logits_RLV[rows_R1, positions_RH]


def check_special_ids(mask_id: int | None, eos_id: int | None, vocab_size: int) -> None:
    """Refuse special ids that are not tokens."""
    if mask_id is None:
        raise ValueError("mask_id is None: the method needs a model with a mask token")
    for name, token in (("mask_id", mask_id), ("eos_id", eos_id)):
        if token is not None and not 0 <= token < vocab_size:
            raise ValueError(f"{name} must be in [0, {vocab_size}), not {token}")
    if eos_id == mask_id:
        raise ValueError(f"eos_id and mask_id must differ, and both are {mask_id}")


def as_predictor(model: Any) -> MaskPredictor:
    """Take a predictor as it is, and say what to do with anything else.

    Raises
    ------
    TypeError
        If it is none.
    ValueError
        If its mask id or end id is not in its vocabulary.
    """
    if isinstance(model, MaskPredictor) and not isinstance(model, type):
        check_special_ids(model.mask_id, model.eos_id, model.vocab_size)
        return model
    advice = "wrap a function in CallablePredictor, load a checkpoint with load_mask_predictor"
    raise TypeError(f"a {type(model).__name__} is not a MaskPredictor: {advice}")
