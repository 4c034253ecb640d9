"""What the released VPD/TADP wrapper does for its features, plainly written: the slow side.

Explicit softmax in every attention layer; the maps of every cross- and self-attention layer up to
half the latents' resolution are kept, heads apart, and averaged when the pass is over; transformer
blocks are recomputed in the backward pass. The result equals `UNetFeatures` without gradients
through the maps, which the released code cuts.
"""

import functools
from collections import defaultdict

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class MapStore:
    """The attention maps of a pass: (path, level, kind) -> a map per layer, B x heads x HW x N."""

    def __init__(self):
        self.maps: dict[tuple[str, int, str], list[Tensor]] = defaultdict(list)
        self.open = False
        self.largest = 0


class StoringAttention:
    """diffusers attention processor: explicit softmax; keeps the map."""

    def __init__(self, store: MapStore, path: str, level: int, kind: str):
        self._store = store
        self._key = (path, level, kind)

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(source))
        value = attn.head_to_batch_dim(attn.to_v(source))
        probabilities = attn.get_attention_scores(query, key)
        # Recomputed layers come again in the backward pass.
        if self._store.open and probabilities.shape[1] <= self._store.largest:
            maps = probabilities.detach().unflatten(0, (len(hidden_states), attn.heads))
            self._store.maps[self._key].append(maps)
        out = attn.batch_to_head_dim(torch.bmm(probabilities, value))
        projection, dropout = attn.to_out
        return dropout(projection(out))


class ReferenceFeatures(nn.Module):
    """Feature maps of a denoising UNet with averaged cross-attention maps at the two middle levels.

    The first level of the UNet is "s3", as for latents of stride 8.
    """

    MAP_LEVELS = (1, 2)

    def __init__(self, unet: UNet2DConditionModel):
        super().__init__()
        self.unet = unet
        self.store = MapStore()
        self._taps: dict[int, Tensor] = {}
        depth = len(unet.up_blocks)
        processors = {}
        for name in unet.attn_processors:
            path, index = name.split(".")[0].removesuffix("_blocks"), name.split(".")[1]
            level = {"down": lambda i: int(i), "up": lambda i: depth - 1 - int(i)}.get(
                path, lambda _: depth - 1
            )(index)
            kind = "cross" if ".attn2." in name else "self"
            processors[name] = StoringAttention(self.store, path, level, kind)
        unet.set_attn_processor(processors)
        for index, block in enumerate(unet.up_blocks):
            layers = getattr(block, "attentions", None) or block.resnets
            tapped = layers[-2] if block.upsamplers else layers[-1]
            tapped.register_forward_hook(functools.partial(self._tap, depth - 1 - index))
        for module in unet.modules():
            for block in getattr(module, "transformer_blocks", []):
                block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)

    def _tap(self, level: int, _module: nn.Module, _inputs: tuple, output: object) -> None:
        if self.store.open:
            self._taps[level] = output[0] if isinstance(output, tuple) else output

    def forward(self, latents: Tensor, context: Tensor, timestep: float) -> dict[str, Tensor]:
        """
        Args:
            latents: B x 4 x h x w.
            context: B x N x D.

        Returns:
            level -> B x C x h/2^i x w/2^i.
        """
        self.store.largest = latents.shape[-1] * latents.shape[-2] // 4
        self.store.open = True
        steps = torch.full((len(latents),), timestep, dtype=torch.float32, device=latents.device)
        self.unet(latents, steps, encoder_hidden_states=context)
        self.store.open = False
        features = dict(self._taps)
        for level in self.MAP_LEVELS:
            layers = self.store.maps["down", level, "cross"] + self.store.maps["up", level, "cross"]
            mean = torch.stack([maps.mean(1) for maps in layers]).mean(0)
            spatial = mean.transpose(1, 2).unflatten(-1, features[level].shape[-2:])
            features[level] = torch.cat([features[level], spatial.to(features[level])], dim=1)
        self.store.maps.clear()
        self._taps.clear()
        return {f"s{3 + level}": features[level] for level in sorted(features)}
