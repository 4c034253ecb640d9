"""The asymmetric loss of multi-label classification: many classes, few of them present."""

import torch
from torch import Tensor

# Of a probability inside the logarithm.
_LEAST = 1e-8


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    gamma_negative: float = 4.0,
    gamma_positive: float = 1.0,
    clip: float = 0.05,
    detach_focus: bool = False,
) -> Tensor:
    """Cross-entropy whose easy terms weigh less, those of absent classes most (Ridnik et al. 2021).

    With p = sigmoid(logit) and n = min(1 - p + clip, 1): -(1 - p)^gamma_positive log p for a class
    that is present, -(1 - n)^gamma_negative log n for one that is not. Gammas and clip 0 give
    binary cross-entropy. In fp32 whatever the logits are.

    Args:
        logits: B x K.
        targets: B x K, 0 or 1.
        detach_focus: take the weights (...)^gamma as constants for the gradient.

    Returns:
        B x K, the terms of the loss; the caller reduces them.
    """
    present = targets.bool()
    probabilities = logits.float().sigmoid()
    absence = (1 - probabilities + clip).clamp(max=1)
    of_truth = torch.where(present, probabilities, absence)
    gammas = torch.where(present, gamma_positive, gamma_negative).to(of_truth)
    focus = (1 - of_truth).pow(gammas)
    if detach_focus:
        focus = focus.detach()
    return -focus * of_truth.clamp(min=_LEAST).log()
