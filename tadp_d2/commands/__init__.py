"""One module per command of `tadp-d2`: its arguments, and a thin call into the package.

A module imports what it runs only when it runs: no command, and no --help, waits for torch.
"""
