"""Sliding windows around any dense model: a large image is predicted in overlapping windows."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling.postprocessing import sem_seg_postprocess
from torch import Tensor

Window = tuple[slice, slice]


def windows(height: int, width: int, size: int, stride: int) -> list[Window]:
    """Rows and columns of windows that cover an image.

    The last window of a row or column is moved back inside; an image smaller than a window is one
    window. All windows of an image are of one size.

    Args:
        size: side of a window, pixels.
        stride: distance of two windows, pixels, at most `size`.
    """
    return list(itertools.product(_spans(height, size, stride), _spans(width, size, stride)))


def _spans(length: int, size: int, stride: int) -> list[slice]:
    last = max(length - size, 0)
    starts = [*range(0, last, stride), last]
    return [slice(start, min(start + size, length)) for start in starts]


class InWindows:
    """Mixed into a meta-architecture that predicts maps: it can test in windows.

    In testing, an image is cut into windows that are predicted as images of their own, with all
    that the input has besides. Each map, h x w or K x h x w, is the mean of the windows where they
    overlap. Of scores of the whole image, such as those of tags, each is the largest of the
    windows: what a window shows, the image shows.
    """

    def __init__(
        self,
        *args: Any,
        window_size: int = 0,
        window_stride: int = 1,
        window_batch: int = 1,
        **kwargs: Any,
    ):
        """
        Args:
            args, kwargs: of the architecture: a config, of which TEST.WINDOW_* count, or its parts.
            window_size: side of the windows, pixels; 0 for the whole image at once.
            window_stride: distance of two windows, pixels.
            window_batch: windows that are predicted together.
        """
        super().__init__(*args, **kwargs)
        cfg = args[0] if args else kwargs.get("cfg")
        if isinstance(cfg, CfgNode):
            window_size = cfg.TEST.WINDOW_SIZE
            window_stride = cfg.TEST.WINDOW_STRIDE
            window_batch = cfg.TEST.WINDOW_BATCH
        self.window_size = window_size
        self.window_stride = window_stride
        self.window_batch = window_batch

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict]:
        """As the architecture's."""
        if self.training or not self.window_size:
            return super().forward(batched_inputs)
        return [*self._predict_windows(batched_inputs)]

    def predict_each(self, batched_inputs: Sequence[dict[str, Any]]) -> Iterator[dict[str, Tensor]]:
        """The outputs of images of any sizes, in their order, each as soon as it is known.

        What fits shares a batch: windows of one size, and whole images of one size in a row.
        """
        if self.window_size:
            yield from self._predict_windows(batched_inputs)
            return
        for _, alike in itertools.groupby(batched_inputs, key=lambda own: own["image"].shape):
            yield from super().forward([*alike])

    def _predict_windows(self, batched_inputs: Sequence[dict[str, Any]]) -> Iterator[dict]:
        # A window is an image of its own, to be predicted at its own size.
        shared = [
            {key: value for key, value in inputs.items() if key not in ("image", "sem_seg")}
            for inputs in batched_inputs
        ]
        scores: list[list[dict[str, Tensor]]] = [[] for _ in batched_inputs]

        def predict(crops: list[tuple[int, Tensor]]) -> list[Mapping[str, Tensor]]:
            outputs = super(InWindows, self).forward(
                [
                    shared[of] | {"image": crop, "height": crop.shape[1], "width": crop.shape[2]}
                    for of, crop in crops
                ]
            )
            for (of, _), output in zip(crops, outputs, strict=True):
                scores[of].append(find_scores(output))
            return [
                {name: value for name, value in output.items() if value.ndim > 1}
                for output in outputs
            ]

        found = predict_in_windows(
            predict,
            [inputs["image"] for inputs in batched_inputs],
            self.window_size,
            self.window_stride,
            self.window_batch,
        )
        for inputs, own in zip(batched_inputs, scores, strict=True):
            # No name for the maps: they would be kept while those of the next image are computed.
            yield {**_resize_to_output(next(found), inputs), **join_scores(own)}


def find_scores(output: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the whole image in a model's output: vectors, where the rest are maps."""
    return {name: value for name, value in output.items() if value.ndim == 1}


def join_scores(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The largest score of several looks at an image, such as windows or views."""
    return {name: torch.stack([part[name] for part in parts]).amax(dim=0) for name in parts[0]}


def _resize_to_output(maps: Mapping[str, Tensor], inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Maps of an input's image, at the size that its output has."""
    size = tuple(inputs["image"].shape[1:])
    output = (inputs.get("height", size[0]), inputs.get("width", size[1]))
    return {
        name: sem_seg_postprocess(values.reshape(-1, *size), size, *output).reshape(
            *values.shape[:-2], *output
        )
        for name, values in maps.items()
    }


def predict_in_windows(
    predict: Callable[[list[tuple[int, Tensor]]], list[Mapping[str, Tensor]]],
    images: Sequence[Tensor],
    size: int,
    stride: int,
    batch: int,
) -> Iterator[dict[str, Tensor]]:
    """The mean of the windows' maps at each pixel, of each image in order, as soon as it is known.

    Of an image one map is kept, not one per window, and only of images that share a batch.

    Args:
        predict: windows of one size (the number of the image from 0, and C x h x w each; at most
            `batch`) -> maps by name, each h x w or K x h x w.
        images: C x H x W each.
        size, stride: as `windows`.
        batch: windows that are predicted together, of whichever image.

    Yields:
        name -> H x W or K x H x W, float32.
    """
    covering = [windows(*image.shape[-2:], size, stride) for image in images]
    pieces = [(of, window) for of, own in enumerate(covering) for window in own]
    left = [len(own) for own in covering]
    totals: dict[int, dict[str, Tensor]] = defaultdict(dict)

    def add(chunk: Sequence[tuple[int, Window]]) -> None:
        outputs = predict([(of, images[of][:, *window]) for of, window in chunk])
        for (of, window), found in zip(chunk, outputs, strict=True):
            left[of] -= 1
            for name, maps in found.items():
                if name not in totals[of]:
                    shape = (*maps.shape[:-2], *images[of].shape[-2:])
                    totals[of][name] = maps.new_zeros(shape, dtype=torch.float32)
                totals[of][name][..., *window] += maps

    for _, group in itertools.groupby(pieces, key=lambda own: images[own[0]][:, *own[1]].shape):
        alike = [*group]
        for start in range(0, len(alike), batch):
            chunk = alike[start : start + batch]
            add(chunk)
            for of in dict.fromkeys(of for of, _ in chunk):
                if not left[of]:
                    yield _mean(totals.pop(of), covering[of])


def _mean(totals: Mapping[str, Tensor], covering: Sequence[Window]) -> dict[str, Tensor]:
    """Sums of windows, divided in place by the number of windows at each pixel."""
    height, width = next(iter(totals.values())).shape[-2:]
    count = torch.zeros(height, width)
    for window in covering:
        count[window] += 1
    return {name: total.div_(count.to(total.device)) for name, total in totals.items()}
