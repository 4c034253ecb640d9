"""What tests know of the tiny diffusion model, read from its own files."""

import json

from tadp_d2.synthetic.tiny_diffusion import SHIPPED

# Of its text encoder, and so of contexts and learned tokens.
TEXT_WIDTH = json.loads((SHIPPED / "text_encoder" / "config.json").read_text())["hidden_size"]
