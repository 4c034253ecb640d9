"""Images on one sheet. Nothing here knows what they show."""

from PIL import Image, ImageDraw, ImageFont

CELL = (360, 270)
MARGIN = 6
LINE = 26
# Width of the column of the rows' labels.
LABEL = 100


def contact_sheet(
    images: list[Image.Image],
    columns: int = 4,
    titles: tuple[str, ...] = (),
    legend: tuple[tuple[str, tuple[int, int, int]], ...] = (),
    rows: tuple[str, ...] = (),
) -> Image.Image:
    """Images in rows on white, each fitted into 360 x 270 pixels, at least 1 each way.

    Args:
        titles: above the columns.
        legend: names and colors (RGB), below the images.
        rows: labels, left of the rows.
    """
    columns = min(columns, len(images))
    lines_of_pictures = -(-len(images) // columns)
    indent = MARGIN + LABEL if rows else MARGIN
    scales = [min(CELL[0] / p.width, CELL[1] / p.height) for p in images]
    cells = [
        p.resize((max(1, round(p.width * scale)), max(1, round(p.height * scale))))
        for p, scale in zip(images, scales, strict=True)
    ]
    width, height = CELL[0] + MARGIN, max(cell.height for cell in cells) + MARGIN
    per_line = max(1, columns * width // 180)
    top, lines = LINE if titles else 0, -(-len(legend) // per_line)
    size = (
        indent + columns * width,
        top + lines_of_pictures * height + MARGIN + lines * LINE,
    )
    sheet = Image.new("RGB", size, "white")
    for index, cell in enumerate(cells):
        left = indent + index % columns * width + (CELL[0] - cell.width) // 2
        upper = top + MARGIN + index // columns * height + (height - MARGIN - cell.height) // 2
        sheet.paste(cell, (left, upper))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for column, title in enumerate(titles[:columns]):
        draw.text((indent + column * width, MARGIN), title, fill="black", font=font)
    for row, label in enumerate(rows):
        draw.text((MARGIN, top + MARGIN + row * height), label, fill="black", font=font)
    for index, (name, color) in enumerate(legend):
        x = MARGIN + index % per_line * 180
        y = size[1] - (lines - index // per_line) * LINE
        draw.rectangle((x, y, x + 24, y + 18), fill=tuple(color))
        draw.text((x + 32, y), name, fill="black", font=font)
    return sheet
