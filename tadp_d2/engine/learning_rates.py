"""Logs the learning rate of each part of a model, beside Detectron2's, which is of the head."""

from detectron2.engine import HookBase


class LearningRates(HookBase):
    """Writes "lr_unet", "lr_conditioner" and "lr_head" in every iteration.

    Where a part has several, because biases have their own, the largest.
    """

    def after_step(self) -> None:
        rates: dict[str, float] = {}
        for group in self.trainer.optimizer.param_groups:
            rates[group["part"]] = max(group["lr"], rates.get(group["part"], 0.0))
        for part, rate in rates.items():
            self.trainer.storage.put_scalar(f"lr_{part}", rate, smoothing_hint=False)
