"""What only draws: figures, backdrops, scenes, streets and the styles that render them.

Nothing here knows of data sets, files or models. Shapes become figures and backdrops, those become
a `Scene` or a `Street`, and a style makes pixels and labels of it.
"""
