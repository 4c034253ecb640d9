"""Teaching a diffusion model a domain: a word (textual inversion) or its UNet (DreamBooth).

It works without Detectron2. The way of a run, by file: `settings`, `images`, `model`, `latents`,
`objective`, then `textual_inversion` or `dreambooth`, `training`, `samples`, `output`, and
`personalize`, which puts them together.
"""
