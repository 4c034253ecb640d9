"""What only draws: figures, backdrops, scenes, streets and the styles that render them.

Nothing here knows of files or models, and of data sets it knows the classes only. Shapes become
figures and backdrops, those become a `Scene` or a `Street`, and a style makes pixels and labels of
it.
"""
