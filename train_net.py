#!/usr/bin/env python
"""Trains and evaluates a config of this project, in the shape of Detectron2's own script.

python train_net.py --config-file configs/voc2watercolor_simple.yaml
python train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/.../model_final.pth
torchrun --nproc-per-node 4 train_net.py --config-file ...    # or: train_net.py --num-gpus 4 ...

It is `tadp-d2 train`, for a checkout.
"""

import sys

from tadp_d2.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
