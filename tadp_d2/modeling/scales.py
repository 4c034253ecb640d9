"""Several scales, and mirrored images, around any dense model; probabilities are averaged."""

from typing import Any

from detectron2.config import CfgNode
from torch import Tensor

from tadp_d2.modeling.windows import InWindows, find_scores, join_scores


class InViews(InWindows):
    """Mixed into a meta-architecture that predicts class maps: it can test on several views.

    In testing, an input with "views", images of several scales, is predicted at each of them, in
    windows where there are some, and the mean of their probabilities at the size of the output is
    returned as "sem_seg" (VPD, section 4.1, as released). A view and its mirror image are one
    batch, and windows of whichever view share batches. One map of probabilities is kept, however
    many views there are.
    """

    def __init__(self, *args: Any, mirrored_views: bool = False, **kwargs: Any):
        """
        Args:
            args, kwargs: of the architecture: a config, of which TEST.VIEWS counts, or its parts.
            mirrored_views: each view also mirrored.
        """
        super().__init__(*args, **kwargs)
        cfg = args[0] if args else kwargs.get("cfg")
        self.mirrored_views = cfg.TEST.VIEWS.FLIP if isinstance(cfg, CfgNode) else mirrored_views

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict]:
        """As the architecture's."""
        if self.training or "views" not in batched_inputs[0]:
            return super().forward(batched_inputs)
        return [self._forward_in_views(inputs) for inputs in batched_inputs]

    def _forward_in_views(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """Probabilities K x H x W, of the input's "height" and "width"; scores as of windows."""
        shared = {key: value for key, value in inputs.items() if key != "views"}
        sides = (False, True) if self.mirrored_views else (False,)
        views = [(image, mirrored) for image in inputs["views"] for mirrored in sides]
        outputs = self.predict_each(
            [
                {**shared, "image": image.flip(-1) if mirrored else image}
                for image, mirrored in views
            ]
        )
        total, scores = None, []
        for _, mirrored in views:
            output = next(outputs)
            scores.append(find_scores(output))
            probabilities = output["sem_seg"].float().softmax(dim=0)
            probabilities = probabilities.flip(-1) if mirrored else probabilities
            total = probabilities if total is None else total.add_(probabilities)
            # While the next view is computed, the sum alone is kept.
            del output, probabilities
        return {"sem_seg": total.div_(len(views)), **join_scores(scores)}
