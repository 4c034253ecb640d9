"""What all parts of a page share: escaping, and the attributes by which its filters find them."""

import html

escape = html.escape


def filtered(**values: str) -> str:
    """Attributes of an element that a reader may hide, by `dataset` or `modifier`."""
    return "".join(f' data-{key}="{escape(value)}"' for key, value in values.items() if value)
