"""tadp-d2 as where Detectron2 is not installed, with OMP_NUM_THREADS threads."""

import os
import sys

import torch

# A fork has imported it, and what is imported from it.
for name in list(sys.modules):
    if name.split(".")[0] in ("detectron2", "tadp_d2"):
        del sys.modules[name]
sys.modules["detectron2"] = None

from tadp_d2.cli import main  # noqa: E402

if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    main(sys.argv[1:])
