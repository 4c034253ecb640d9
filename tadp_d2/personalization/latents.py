"""Latents of the images to learn from; those of a crop are computed once."""

from collections import OrderedDict

import torch
from torch import Tensor

from tadp_d2.personalization.model import TrainableDiffusion
from tadp_d2.personalization.training_images import Crop, Crops


class LatentSource:
    """Latents of random crops."""

    def __init__(self, model: TrainableDiffusion, crops: Crops, cache_size: int = 2048):
        """
        Args:
            cache_size: crops whose latents are kept, 64 KiB each at 512 pixels; square images,
                and images whose middle is taken, have two crops each.
        """
        self.crops = crops
        self.model = model
        self.cache_size = cache_size
        self.last: list[Crop] = []
        self._cache: OrderedDict[Crop, Tensor] = OrderedDict()

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Latents of the next images, count x 4 x h x w.

        Args:
            generator: on the CPU, whatever the model's device, so that the order of images does
                not depend on it.
        """
        self.last = [self.crops.draw(generator) for _ in range(count)]
        return torch.stack([self._encode(crop) for crop in self.last]).to(self.model.device)

    def names(self) -> str:
        """The images that were drawn last."""
        return ", ".join(str(self.crops.pictures[crop.index].path) for crop in self.last)

    def _encode(self, crop: Crop) -> Tensor:
        if crop not in self._cache:
            self._cache[crop] = self.model.encode(self.crops.pixels(crop)[None])[0].cpu()
            if len(self._cache) > self.cache_size:
                self._cache.popitem(last=False)
        self._cache.move_to_end(crop)
        return self._cache[crop]
