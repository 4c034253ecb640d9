"""The images of a page, as HTML: each image with its truth, captions, prompts and predictions."""

from collections.abc import Sequence
from pathlib import Path

from tadp_d2.conditioning.domains import SLOT
from tadp_d2.reports.comparison import Comparison, modifier_title
from tadp_d2.reports.drawn import Drawn, Prediction, Shown, data_uri, find_shown
from tadp_d2.reports.markup import escape, filtered

# Longer side of a sheet of attention maps, pixels: its words must stay readable.
MAX_SHEET_SIDE = 2400


def gallery(comparisons: Sequence[Comparison]) -> str:
    """The images of all data sets that models drew; empty if there are none."""
    pictures = "".join(map(_pictures, comparisons))
    note = "<p>Below a prediction stands its prompt, before it is cut to what CLIP reads.</p>"
    return note + pictures if pictures else ""


def _pictures(comparison: Comparison) -> str:
    """Images with truth, caption, and each modifier's prompt and prediction."""
    shown = find_shown(comparison)
    if not shown:
        return ""
    images = "".join(_image(comparison, image) for image in shown)
    title = escape(comparison.title)
    return f"<div{filtered(dataset=comparison.dataset)}><h3>{title}</h3>{images}</div>"


def _image(comparison: Comparison, shown: Shown) -> str:
    figures = [_figure(drawn, drawn.title, "") for drawn in shown.shared]
    for prediction in shown.predictions:
        title, name = comparison.label(prediction.group), modifier_title(prediction.group.modifier)
        figures += [
            _figure(drawn, _picture_title(title, drawn), _prompt(prediction), name)
            for drawn in prediction.pictures
        ]
    captions = dict.fromkeys(map(_caption, shown.predictions))
    return (
        f"<article><h4>{escape(shown.image_id)}</h4>{''.join(captions)}"
        f'<div class="figures">{"".join(figures)}</div></article>'
    )


def _caption(prediction: Prediction) -> str:
    caption = prediction.caption
    if not caption:
        return ""
    cleaned = "" if caption.clean is None else f"<dt>cleaned</dt><dd>{escape(caption.clean)}</dd>"
    return f"<dl><dt>caption</dt><dd>{escape(caption.raw)}</dd>{cleaned}</dl>"


def _prompt(prediction: Prediction) -> str:
    """The caption that was read, in the modifier's words; empty where it is not known."""
    if not prediction.caption:
        return ""
    run = next(iter(prediction.group.runs.values()))
    text = prediction.caption.text(run.record["config"]["TEXT"].get("CAPTION_TEXT", "clean"))
    return prediction.group.modifier.template.replace(SLOT, text)


def _picture_title(title: str, drawn: Drawn) -> str:
    return title if drawn.title == "prediction" else f"{title}: {drawn.title}"


def _figure(drawn: Drawn, title: str, prompt: str, modifier: str = "") -> str:
    told = f'<span class="prompt">{escape(prompt)}</span>' if prompt else ""
    return (
        f'<figure{filtered(modifier=modifier)}><button type="button" data-zoom>'
        f'<img src="{data_uri(drawn.file)}" alt="{escape(title)}"></button>'
        f"<figcaption><b>{escape(title)}</b>{told}</figcaption></figure>"
    )


def attention_sheet(sheet: Path) -> str:
    """An image at a size at which its words can be read."""
    uri = data_uri(sheet, MAX_SHEET_SIDE)
    name = escape(sheet.name)
    return (
        f'<figure><figcaption>{name}</figcaption><div class="sheet" role="region" tabindex="0" '
        f'aria-label="{name}"><img src="{uri}" alt="attention maps"></div></figure>'
    )
