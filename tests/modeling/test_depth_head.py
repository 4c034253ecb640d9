"""The depth head and the estimator: the golden file from the latent and the image on, any size."""

import json
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY
from diffusers import UNet2DConditionModel
from safetensors import safe_open

from tadp_d2.conditioning.conditioner import Condition, Conditioner
from tadp_d2.diffusion.diffusion_model import Context, MapOptions
from tadp_d2.diffusion.unet_features import UNetFeatures
from tadp_d2.modeling.backbone import DiffusionBackbone
from tadp_d2.modeling.heads.depth_head import DepthHead, scale_invariant_loss

FOLDER = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parents[1] / "golden")
# Released name -> ours, of the parts of the head.
NAMES = {
    "layer1": "halve.s3",
    "layer2": "halve.s4",
    "out_layer": "merge",
    "decoder.deconv_layers": "decode",
    "last_layer_depth": "predict",
}


def read(name):
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, file.metadata()


@pytest.fixture(scope="module")
def golden():
    """Tensors and metadata of the file: what VPD's depth model returned."""
    return read("vpd_depth")


def part(tensors, prefix):
    return {
        key.removeprefix(prefix): value.float() if value.is_floating_point() else value
        for key, value in tensors.items()
        if key.startswith(prefix)
    }


class SceneContext(Conditioner):
    """One token of an image's class, as the file defines it."""

    def __init__(self, tensors):
        super().__init__()
        self.embeddings = tensors["class_embeddings"]
        self.adapter = part(tensors, "adapter.fc.")
        self.gamma = tensors["gamma"]

    def contexts(self, classes):
        chosen = self.embeddings[classes]
        hidden = F.gelu(F.linear(chosen, self.adapter["0.weight"], self.adapter["0.bias"]))
        added = F.linear(hidden, self.adapter["2.weight"], self.adapter["2.bias"])
        return Context((chosen + self.gamma * added)[:, None])

    def forward(self, inputs, images, latents):
        return Condition(self.contexts(torch.tensor([each["class"] for each in inputs])))

    from_config = count_tokens = provenance = None


SceneContext.__abstractmethods__ = frozenset()


@pytest.fixture(scope="module")
def model(golden):
    """The whole model of the file, with the stand-in for the VAE."""
    tensors, metadata = golden
    unet = UNet2DConditionModel(**json.loads(metadata["unet_config"]))
    unet.load_state_dict(part(tensors, "unet."))
    encoder = torch.nn.Conv2d(3, 4, 8, stride=8)
    encoder.load_state_dict(part(tensors, "vae.patch."))
    features = UNetFeatures(unet, maps=MapOptions(levels=()))
    backbone = DiffusionBackbone(encoder, features, float(metadata["timestep"]))
    filters = json.loads(metadata["num_filters"])
    head = DepthHead(
        backbone.output_shape(),
        in_features=["s3", "s4", "s5", "s6"],
        channels=tensors["last_layer_depth.0.weight"].shape[0],
        deconv_channels=filters,
        max_depth=float(metadata["max_depth"]),
    )
    head.load_state_dict(head_weights(tensors, len(filters)))
    return META_ARCH_REGISTRY.get("ConditionedDepthEstimator")(
        backbone=backbone,
        depth_head=head,
        pixel_mean=[127.5] * 3,
        pixel_std=[127.5] * 3,
        mirror=True,
        conditioner=SceneContext(tensors),
    ).eval()


def head_weights(tensors, deconvolutions):
    weights = {
        f"{ours}.{name}": value
        for released, ours in NAMES.items()
        for name, value in part(tensors, f"{released}.").items()
    }
    for name, value in part(tensors, "decoder.conv_layers.").items():
        index, kind = name.split(".")
        # Behind the transposed convolutions, each with its norm and activation.
        weights[f"decode.{int(index) + 3 * deconvolutions}.{kind}"] = value
    return weights


def close(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def cases(tensors):
    return sorted({key.split(".")[0] for key in tensors if key.endswith(".latents")})


@torch.no_grad()
def test_agrees_with_the_released_model_from_the_latent_on(golden, model):
    tensors, metadata = golden
    assert "case1" in cases(tensors)
    for case in cases(tensors):
        context = model.conditioner.contexts(tensors[f"{case}.class_ids"])
        if f"{case}.context" in tensors:
            close(context.embeddings, tensors[f"{case}.context"])
        latents = tensors[f"{case}.latents"]
        features = model.backbone.unet(latents, context, float(metadata["timestep"]))
        for stride in (32, 64):
            if f"{case}.features.stride{stride}" in tensors:
                level = f"s{stride.bit_length() - 1}"
                close(features[level], tensors[f"{case}.features.stride{stride}"])
        side = int(metadata.get(f"{case}_size", 8 * latents.shape[-1]))
        if f"{case}.encoder_out_first" in tensors:
            expected = tensors[f"{case}.encoder_out_first"]
            found = model.depth_head.encode(features, (side, side))[:1]
            rows, columns = found.shape[-2:]
            close(found, expected[..., :rows, :columns])
            shape = tensors[f"{case}.decoder_in_shape"].tolist()
            assert [len(latents), *found.shape[1:]] == shape
        depth = model.depth_head(features, (side, side))
        close(depth[:, json.loads(metadata[f"{case}_rows"])], tensors[f"{case}.depth_rows"][:, 0])


@torch.no_grad()
def test_agrees_with_the_released_evaluation_of_an_image(golden, model, monkeypatch):
    tensors, metadata = golden
    image = tensors["case3.image"][0]
    height, width = image.shape[1:]
    monkeypatch.setattr(model, "window_size", height)
    count = int(metadata["case3_shift_size"])
    monkeypatch.setattr(model, "window_stride", (width - height) // (count - 1))
    (output,) = model([{"image": image, "class": tensors["case3.class_id"].item()}])
    close(output["depth"], tensors["case3.depth"])


SHAPES = {"s3": (320, 8), "s4": (640, 16), "s5": (1280, 32), "s6": (1280, 64)}


def head(shapes=SHAPES, **options):
    shapes = {level: ShapeSpec(channels=c, stride=s) for level, (c, s) in shapes.items()}
    return DepthHead(shapes, in_features=list(shapes), **options)


def test_the_head_of_stable_diffusion_has_the_released_sizes():
    with torch.device("meta"):
        built = head()
    shapes = {name: tuple(value.shape) for name, value in built.named_parameters()}
    assert shapes["halve.s3.0.weight"] == shapes["halve.s3.3.weight"] == (320, 320, 3, 3)
    assert shapes["halve.s4.0.weight"] == (640, 640, 3, 3)
    assert shapes["merge.0.weight"] == (1536, 3520, 1, 1)
    assert shapes["decode.0.weight"] == (1536, 32, 2, 2)
    assert shapes["decode.9.weight"] == (192, 32, 3, 3)
    assert shapes["predict.2.weight"] == (1, 192, 3, 3)


# With attention maps of 77 tokens at the finest level, and of a UNet of three levels.
@pytest.mark.parametrize(
    "shapes",
    [SHAPES | {"s3": (48 + 77, 8)}, {"s3": (32, 8), "s4": (64, 16), "s5": (64, 32)}],
)
@pytest.mark.parametrize("size", [(64, 128), (50, 70), (33, 1)])
def test_any_channels_levels_and_sizes(shapes, size):
    shapes = {level: (min(channels, 130), stride) for level, (channels, stride) in shapes.items()}
    built = head(shapes, channels=4, deconv_channels=(8,), max_depth=80.0).eval()
    rows, columns = (-(-side // 64) * 64 for side in size)
    features = {
        level: torch.randn(2, channels, rows // stride, columns // stride)
        for level, (channels, stride) in shapes.items()
    }
    depth = built(features, size)
    assert depth.shape == (2, *size)
    assert 0 < depth.min() and depth.max() < 80


@pytest.fixture(scope="module")
def evaluation():
    return read("depth_evaluation")


def silog_shares(tensors):
    prefix = "silog.loss.lambda="
    return [key.removeprefix(prefix) for key in tensors if key.startswith(prefix)]


def test_the_loss_and_its_gradient_agree_with_the_released_ones(evaluation):
    tensors, _ = evaluation
    assert silog_shares(tensors)
    for share in silog_shares(tensors):
        depth = tensors["silog.pred"].clone().requires_grad_()
        loss = scale_invariant_loss(depth, tensors["silog.target"], float(share))
        loss.backward()
        expected = tensors[f"silog.loss.lambda={share}"].squeeze()
        torch.testing.assert_close(loss.detach(), expected, rtol=2e-6, atol=0)
        gradient = tensors[f"silog.grad_pred.lambda={share}"]
        torch.testing.assert_close(depth.grad, gradient, rtol=1e-4, atol=1e-9)
        assert not depth.grad[tensors["silog.target"] <= 0].any()


@pytest.mark.parametrize("truth", [torch.zeros(4, 5), torch.full((4, 5), 2.0)])
def test_no_truth_and_equal_maps_cost_nothing_and_have_no_slope(truth):
    depth = torch.full((4, 5), 2.0, requires_grad=True)
    loss = scale_invariant_loss(depth, truth)
    loss.backward()
    assert loss == 0 and not depth.grad.any()


def test_the_loss_of_a_factor():
    truth = torch.rand(100) + 1
    # All logarithms differ by log 2: what is left of their square is its half.
    expected = torch.tensor(2.0).log() * 0.5**0.5
    torch.testing.assert_close(scale_invariant_loss(2 * truth, truth), expected)
