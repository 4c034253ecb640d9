"""Attention maps as files: a sheet, and the numbers that it shows."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from tadp_d2.files import check_new_sheet, replacing
from tadp_d2.inference.word_maps import MEAN, Prompt
from tadp_d2.visualization.attention_sheet import Block, SheetRow, attention_sheet

FORMAT = "tadp_d2 attention"
VERSION = 1
# Suffix of the file of the maps, beside the sheet.
NUMBERS = ".safetensors"


def write_attention(
    path: Path,
    image: Image.Image,
    prompts: Mapping[str, Prompt],
    maps: Mapping[str, Mapping[str, Mapping[str, Tensor]]],
    origin: Mapping[str, Any],
) -> Path:
    """Writes the sheet of `compare`'s maps, and beside it the maps.

    Those are tensors `<prompt>/<state>/<level>`, W x h x w; the file's metadata hold the prompts
    with their W words.

    Args:
        origin: what the metadata record of the image and the model.

    Returns:
        The file of the maps.

    Raises:
        UserError: as `check_new_sheet`.
    """
    check_new_sheet(path, NUMBERS)
    numbers = path.with_suffix(NUMBERS)
    record = {
        "format": FORMAT,
        "version": VERSION,
        **origin,
        "prompts": {
            name: {"prompt": prompt.text, "words": [word.text for word in prompt.words]}
            for name, prompt in prompts.items()
        },
    }
    tensors = {
        f"{name}/{state}/{level}": level_maps.contiguous()
        for name, states in maps.items()
        for state, levels in states.items()
        for level, level_maps in levels.items()
    }
    with replacing(numbers) as temporary:
        save_file(tensors, temporary, {"tadp_d2": json.dumps(record)})
    blocks = [_block(name, prompts[name], states) for name, states in maps.items()]
    with replacing(path) as temporary:
        sheet = attention_sheet(image, blocks, Path(origin["file"]).name)
        sheet.save(temporary, format="PNG")
    return numbers


def _block(name: str, prompt: Prompt, states: Mapping[str, Mapping[str, Tensor]]) -> Block:
    rows = [
        SheetRow(f"{_label(level)}\n{state}", levels[level].numpy())
        for level in next(iter(states.values()))
        for state, levels in states.items()
    ]
    return Block(f"{name}: {prompt.text}", [word.text for word in prompt.words], rows)


def _label(level: str) -> str:
    return level if level == MEAN else f"stride {2 ** int(level[1:])}"
