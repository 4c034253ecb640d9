"""A local page to play with words."""
