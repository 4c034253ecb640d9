"""Pictures on one sheet. Nothing here knows what they show."""

from PIL import Image, ImageDraw, ImageFont

CELL = (360, 270)
MARGIN = 6
LINE = 26


def contact_sheet(
    pictures: list[Image.Image],
    columns: int = 4,
    titles: tuple[str, ...] = (),
    legend: tuple[tuple[str, tuple[int, int, int]], ...] = (),
) -> Image.Image:
    """Pictures in rows on white, each fitted into 360 x 270 pixels.

    Args:
        titles: above the columns.
        legend: names and colours (RGB), below the pictures.
    """
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    scales = [min(CELL[0] / p.width, CELL[1] / p.height) for p in pictures]
    cells = [
        p.resize((round(p.width * scale), round(p.height * scale)))
        for p, scale in zip(pictures, scales, strict=True)
    ]
    width, height = CELL[0] + MARGIN, max(cell.height for cell in cells) + MARGIN
    per_line = max(1, columns * width // 180)
    top, lines = LINE if titles else 0, -(-len(legend) // per_line)
    size = (columns * width + MARGIN, top + rows * height + MARGIN + lines * LINE)
    sheet = Image.new("RGB", size, "white")
    for index, cell in enumerate(cells):
        left = MARGIN + index % columns * width + (CELL[0] - cell.width) // 2
        upper = top + MARGIN + index // columns * height + (height - MARGIN - cell.height) // 2
        sheet.paste(cell, (left, upper))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for column, title in enumerate(titles[:columns]):
        draw.text((MARGIN + column * width, MARGIN), title, fill="black", font=font)
    for index, (name, color) in enumerate(legend):
        x = MARGIN + index % per_line * 180
        y = size[1] - (lines - index // per_line) * LINE
        draw.rectangle((x, y, x + 24, y + 18), fill=tuple(color))
        draw.text((x + 32, y), name, fill="black", font=font)
    return sheet
