"""Sheets show what the model draws: by prompts, with learned words, and from an image."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image
from safetensors.torch import save_file

from tadp_d2.cli import main
from tadp_d2.errors import UserError
from tadp_d2.personalization.learned import load_learned
from tadp_d2.personalization.model import TrainableDiffusion
from tadp_d2.personalization.samples import draw_sample
from tadp_d2.personalization.variations import draw_variations, fit

SIDE = 64


def pixels_of(image):
    return np.asarray(image, np.int64)


@torch.no_grad()
def one_step(model, image, prompt, strength, steps, seed):
    """The guided DDIM step at the noise level of a strength of which it is the last."""
    schedule = DDIMScheduler.from_config(model.scheduler.config, clip_sample=False)
    schedule.set_timesteps(steps)
    time = schedule.timesteps[steps - int(steps * strength)]
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    latents = model.encode(pixels)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    kept = schedule.alphas_cumprod[time]
    noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
    told, untold = (model.unet(noisy, time, model.context([text])).sample for text in (prompt, ""))
    guided = untold + 7.5 * (told - untold)
    drawn = model.decode(schedule.step(guided, time, noisy).prev_sample)
    return ((drawn[0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1) * 255).round().numpy()


def test_a_variation_is_the_image_with_noise_that_is_removed_under_the_prompt(untouched, pictures):
    path = pictures / "1.png"
    image = fit(Image.open(path).convert("RGB"), SIDE, untouched.divisor)
    assert min(image.size) == SIDE and all(side % untouched.divisor == 0 for side in image.size)
    prompts = ("a dog", "a comic style painting of two cars")
    rows = draw_variations(untouched, image, prompts, (0.25, 0.75), 4, "fp32", seed=3)
    for prompt, (weak, strong) in zip(prompts, rows, strict=True):
        expected = one_step(untouched, image, prompt, 0.25, 4, seed=3)
        assert np.abs(pixels_of(weak) - expected).max() <= 1
        near, far = (np.abs(pixels_of(v) - pixels_of(image)).mean() for v in (weak, strong))
        assert near < far
    # A row does not depend on the others.
    (alone,) = draw_variations(untouched, image, prompts[1:], (0.75,), 4, "fp32", seed=3)
    assert np.array_equal(alone[0], rows[1][1])
    for strength in (0, 1.1, 0.2):
        with pytest.raises(UserError, match=f"strength {strength}: expected more than 0"):
            draw_variations(untouched, image, prompts, (strength,), 4, "fp32", seed=3)


def test_the_commands_draw_rows_of_prompts_with_a_learned_token(
    model_folder, untouched, pictures, tmp_path, capsys
):
    word = untouched.tokenizer("dog", add_special_tokens=False).input_ids
    vectors = untouched.text_encoder.get_input_embeddings().weight[word].detach()
    save_file({"<new>": vectors.clone()}, tmp_path / "new.safetensors")
    model = load_learned(
        str(model_folder), [tmp_path / "new.safetensors"], None, torch.device("cpu")
    )
    # The token is the word that it copies.
    drawn = [draw_sample(model, f"a {word}", SIDE, 2, "fp32", 1) for word in ("<new>", "dog")]
    assert np.array_equal(*drawn)
    shared = ("--weights", model_folder, "--size", SIDE, "--steps", 2)
    shared += ("--prompt", "a <new>", "a cat", "--tokens", tmp_path / "new.safetensors")

    def run(name, *arguments):
        """The sheet, or the message of the error."""
        sheet = tmp_path / f"{name}.png"
        try:
            main([name, *map(str, (*arguments, *shared, "--output", sheet))])
        except SystemExit as stop:
            assert stop.code == 2
            return capsys.readouterr().err
        return Image.open(sheet)

    def cell(sheet, row, column):
        """The middle of a cell of 360 x 270 in which an image of 64 x 64 was enlarged."""
        left, top = 106 + 366 * column + 45, 26 + 6 + 276 * row
        return sheet.crop((left, top, left + 270, top + 270))

    sheet = run("samples", "--seeds", "1", "0")
    assert sheet.size == (106 + 2 * 366, 26 + 2 * 276 + 6)
    assert np.array_equal(cell(sheet, 0, 0), drawn[0].resize((270, 270)))
    other = draw_sample(model, "a cat", SIDE, 2, "fp32", 0)
    assert np.array_equal(cell(sheet, 1, 1), other.resize((270, 270)))
    assert "samples.png exists already" in run("samples")
    image = tmp_path / "image.png"
    drawn[1].save(image)
    sheet = run("variations", image, "--strengths", "0.5", "1")
    assert sheet.size == (106 + 3 * 366, 26 + 2 * 276 + 6)
    for row in range(2):
        assert np.array_equal(cell(sheet, row, 0), drawn[1].resize((270, 270)))
    (tmp_path / "variations.png").unlink()
    assert "strength 0.2: expected more" in run("variations", image, "--strengths", "0.2")
    shared += ("--steps", 1001)
    assert "--steps 1001: this model knows 1000 steps" in run("variations", image)
    with pytest.raises(UserError, match="no diffusion model 'absent'"):
        load_learned("absent", [], None, torch.device("cpu"))


def test_a_learned_unet_draws_and_another_models_token_is_an_error(model_folder, model, tmp_path):
    with torch.no_grad():
        for weights in model.unet.parameters():
            weights.mul_(1.01)
    model.unet.save_pretrained(tmp_path / "unet")
    base = TrainableDiffusion.load(str(model_folder))
    loaded = load_learned(str(model_folder), [], tmp_path / "unet", torch.device("cpu"))
    own, same, other = (
        pixels_of(draw_sample(m, "a dog", SIDE, 2, "fp32", 0)) for m in (model, loaded, base)
    )
    # Where weights lie in memory changes the last digit.
    assert np.abs(own - same).max() <= 2 < np.abs(own - other).max()
    save_file({"<new>": torch.zeros(1, 7)}, tmp_path / "new.safetensors")
    with pytest.raises(UserError, match="learned for another base model"):
        load_learned(str(model_folder), [tmp_path / "new.safetensors"], None, torch.device("cpu"))
