"""Many processes that share an optimizer's state make the steps of one that has all of it."""

import multiprocessing
import traceback

import pytest
import torch
from torch import distributed, nn

from tadp_d2.engine.optimizer import build_optimizer
from tadp_d2.engine.sharded_optimizer import divide

CLIP = (
    *("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"),
    *("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1.0, "SOLVER.WEIGHT_DECAY_NORM", 0.0),
)


def train(cfg, first, last, before=None):
    """The weights and the optimizer's state dict after those steps, and parameters with state."""
    torch.manual_seed(0)
    # One has more than 4096 weights, from where 8 bits are used.
    model = nn.Sequential(nn.Linear(60, 70), nn.LayerNorm(70), nn.Linear(70, 3), nn.Linear(3, 3))
    optimizer = build_optimizer(cfg, model)
    if before:
        weights, state, _ = before
        model.load_state_dict(weights)
        optimizer.load_state_dict(state)
    for step in range(first, last):
        torch.manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        gradients = [parameter.grad for parameter in model.parameters()]
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (1 + step)
        optimizer.step()
        assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))
    return model.state_dict(), optimizer.state_dict(), len(optimizer.state)


def _one_of_many(rank, processes, folder, *arguments):
    try:
        # Threads of a library do not survive a fork.
        torch.set_num_threads(1)
        distributed.init_process_group(
            "gloo", f"file://{folder}/meeting", rank=rank, world_size=processes
        )
        torch.save(train(*arguments), folder / f"{rank}.pth")
        distributed.barrier()
        distributed.destroy_process_group()
    except BaseException:
        traceback.print_exc()
        raise


def train_together(processes, folder, *arguments):
    """What `train` returns in each of so many processes."""
    folder.mkdir()
    fork = multiprocessing.get_context("fork")
    running = [
        fork.Process(target=_one_of_many, args=(rank, processes, folder, *arguments))
        for rank in range(processes)
    ]
    for process in running:
        process.start()
    for process in running:
        process.join(60)
        assert process.exitcode == 0
    return [torch.load(folder / f"{rank}.pth", weights_only=True) for rank in range(processes)]


@pytest.mark.parametrize("adam_8bit", [False, True])
def test_a_training_moves_between_numbers_of_processes(make_config, tmp_path, adam_8bit):
    if adam_8bit:
        pytest.importorskip("bitsandbytes")
    plain, shared = (
        make_config(*CLIP, "SOLVER.ADAM_8BIT", adam_8bit, "SOLVER.SHARD_OPTIMIZER", on)
        for on in (False, True)
    )
    expected = train(plain, 0, 5)

    two = train_together(2, tmp_path / "two", shared, 0, 2)
    three = train_together(3, tmp_path / "three", shared, 2, 3, two[0])
    alone = train(plain, 3, 4, three[0])
    found = train_together(2, tmp_path / "again", shared, 4, 5, alone)
    for weights, _, _ in found:
        assert all(torch.equal(weights[name], expected[0][name]) for name in expected[0])
    assert_equal(found[0][1], expected[1])
    # One without the others, too, and none has all.
    assert_equal(train(shared, 4, 5, alone)[1], expected[1])
    for processes in (two, three):
        counts = [count for _, _, count in processes]
        assert sum(counts) == expected[2] and min(counts) > 0


def assert_equal(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        found, expected = ([part[key] for key in expected] for part in (found, expected))
    if isinstance(expected, list | tuple):
        for pair in zip(found, expected, strict=True):
            assert_equal(*pair)
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    else:
        assert found == expected


def test_shares_are_of_nearly_equal_size():
    assert divide([1, 5, 4, 3, 2], 2) == [[1, 4, 0], [2, 3]]
    assert divide([7], 3) == [[0], [], []]
