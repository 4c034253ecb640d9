"""Sentences around a word: while it is learned, and over which a class is averaged."""

from tadp_d2.errors import UserError

SLOT = "{}"

# Around a token while it is learned (textual inversion, section 4.1).
TEMPLATES = {
    "style": (
        "a {} style painting",
        "a {} style picture",
        "a picture that looks {}",
        "a scene done in {} style",
        "something shown in the {} style",
        "an image with a {} look",
        "a {} view of the world",
        "a whole page of {} art",
        "a {} rendering of a scene",
        "one of many {} pictures",
        "a detail of a {} picture",
        "a large {} image",
        "a small {} image",
        "a good example of {} style",
        "a fresh {} picture",
    ),
    "object": (
        "a photo of one {}",
        "a picture with a {} in it",
        "a {} seen from near",
        "a {} seen from afar",
        "there is a {} here",
        "a sharp photo of my {}",
        "a blurred photo of my {}",
        "a {} in bright light",
        "a {} in the shade",
        "a part of the {}",
        "a clean {}",
        "an image that shows the {}",
        "a small {}",
        "a big {}",
        "just a {}",
    ),
}

# What a learned token is tried on.
SAMPLES = {
    "style": (
        "a {} style painting of a dog",
        "a {} style painting of a person",
        "a {} style painting of a car",
        "a {} style painting of a bird",
    ),
    "object": (
        "a photo of a {}",
        "a painting of a {}",
        "a {} on a street",
        "a {} in a park",
    ),
}

# Around a class name: VPD's paper (section 3.2), CLIP's 80, as VPD's script takes, and ours.
CLASS_TEMPLATES = ("single", "clip80", "own")


def class_templates(kind: str) -> tuple[str, ...]:
    """The sentences over which the embedding of a class is averaged, with `SLOT` for its name.

    Args:
        kind: one of `CLASS_TEMPLATES`.

    Raises:
        UserError: they come from a package that is not installed.
    """
    if kind == "single":
        return (f"a photo of a {SLOT}.",)
    if kind == "own":
        return TEMPLATES["object"]
    try:
        from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES
    except ImportError:
        raise UserError(
            "MODEL.CONDITIONER.TEMPLATES is 'clip80', whose sentences come with the package of "
            "OpenCLIP: pip install open_clip_torch==3.3.0, or take 'single', VPD's one sentence"
        ) from None
    return tuple(sentence(SLOT) for sentence in OPENAI_IMAGENET_TEMPLATES)
