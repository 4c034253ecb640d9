"""The sentences around a token while it is learned (textual inversion, section 4.1)."""

SLOT = "{}"

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
