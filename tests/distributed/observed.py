"""train_net.py, whose processes leave their losses and weights in OUTPUT_DIR when training ends.

Beside a run's files: `losses.json`, the total loss of every iteration; `gradients.json`, the norm
of all gradients of every iteration; `weights_<process>.pth`.
"""

import json
import sys
from pathlib import Path

import torch
from detectron2.utils import comm

from tadp_d2.cli import main
from tadp_d2.engine import run


class Observed(run.Trainer):
    def run_step(self):
        super().run_step()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norms = self.__dict__.setdefault("norms", [])
        norms.append(torch.nn.utils.get_total_norm(gradients).item())

    def train(self):
        result = super().train()
        folder = Path(self.cfg.OUTPUT_DIR)
        weights = self.checkpointer.model.state_dict()
        torch.save(weights, folder / f"weights_{comm.get_rank()}.pth")
        if comm.is_main_process():
            losses = [value for value, _ in self.storage.history("total_loss").values()]
            (folder / "losses.json").write_text(json.dumps(losses))
            (folder / "gradients.json").write_text(json.dumps(self.norms))
        return result


if __name__ == "__main__":
    run.Trainer = Observed
    main(["train", *sys.argv[1:]])
