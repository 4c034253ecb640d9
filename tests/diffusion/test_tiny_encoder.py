"""A small encoder in the VAE's place: whose latents these are, and what does not fit."""

import pytest
import torch
from diffusers import AutoencoderTiny

from tadp_d2.conditioning.conditioner import open_model_of
from tadp_d2.diffusion.latent_cache import LatentCache
from tadp_d2.diffusion.tiny_encoder import TinyLatentEncoder
from tadp_d2.engine.trainer import Trainer
from tadp_d2.errors import UserError
from tadp_d2.records.provenance import Provenance

KEY = "MODEL.DIFFUSION.TINY_ENCODER"


@pytest.fixture
def write(make_config, tmp_path):
    """write(...) returns the folder of a small autoencoder of random weights for the tiny model."""
    latents = open_model_of(make_config()).latents

    depth = latents.stride.bit_length()

    def write(channels=latents.channels, **options):
        folder = tmp_path / "tiny"
        torch.manual_seed(0)
        AutoencoderTiny(
            latent_channels=channels,
            encoder_block_out_channels=(8,) * depth,
            decoder_block_out_channels=(8,) * depth,
            num_encoder_blocks=(1,) * depth,
            num_decoder_blocks=(1,) * depth,
            **options,
        ).save_pretrained(folder)
        return folder

    return write


def test_its_latents_are_scaled_as_the_unet_reads_them(make_config, write):
    folder = write(scaling_factor=1.5)
    images = torch.rand(2, 3, 64, 128) * 2 - 1
    with torch.no_grad():
        expected = AutoencoderTiny.from_pretrained(folder).encode(images).latents * 1.5
    factor = open_model_of(make_config())._vae["scaling_factor"]
    for scaled, divisor in ((True, 1.0), (False, factor)):
        model = open_model_of(make_config(KEY, str(folder)))
        encoder = model.load_latent_encoder(scaled)
        with torch.no_grad():
            found = encoder(images)
        torch.testing.assert_close(found, expected / divisor, rtol=1e-6, atol=1e-6)
        assert images.shape[-1] // found.shape[-1] == encoder.stride


def test_a_model_with_it_is_another_than_without(make_config, write, tmp_path):
    folder = write()
    cached = ("MODEL.DIFFUSION.LATENT_CACHE.FOLDER", str(tmp_path / "cache"))
    plain, tiny = make_config(*cached), make_config(*cached, KEY, str(folder))
    model = Trainer.build_model(tiny)
    # Frozen, and in no checkpoint.
    assert isinstance(model.backbone.bottom_up.latent_encoder.module, TinyLatentEncoder)
    state = Trainer.build_model(plain).state_dict()
    assert model.state_dict().keys() == state.keys()
    record = Provenance(plain, Trainer.build_model(plain)).record
    with pytest.raises(UserError, match="x.pth was trained with another VAE.*TINY_ENCODER"):
        Provenance(tiny, model).check(record, "x.pth")
    made_of = [LatentCache.from_config(cfg).made_of for cfg in (plain, tiny)]
    write(act_fn="silu")  # another one in the same place
    assert len({*made_of, LatentCache.from_config(tiny).made_of}) == 3


def test_what_does_not_fit_is_named(make_config, write, model_folder, sd3_folder, tmp_path):
    def opened(folder, *others):
        return open_model_of(make_config(KEY, str(folder), *others))

    channels = open_model_of(make_config()).latents.channels
    with pytest.raises(UserError, match=f"{channels + 1} channels .* the VAE {channels} at"):
        opened(write(channels=channels + 1))
    with pytest.raises(UserError, match="is of a AutoencoderKL; expected the small autoencoder"):
        opened(model_folder / "vae")
    with pytest.raises(UserError, match="lacks config.json.*TINY_ENCODER must name the folder"):
        opened(tmp_path / "nowhere")
    with pytest.raises(UserError, match="TINY_ENCODER is .* takes no small encoder"):
        opened(write(), "MODEL.DIFFUSION.WEIGHTS", str(sd3_folder))
