"""`tadp-d2 doctor`: everything that is wrong, all at once and before training.

What is right is not decided here: the checks are those of the parts that read the files.
"""
