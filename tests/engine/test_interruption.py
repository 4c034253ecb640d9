"""What stops a run says how it goes on."""

import errno
from types import SimpleNamespace

import pytest
from detectron2.utils.events import EventWriter

from tadp_d2.engine.interruption import ResumableWriter
from tadp_d2.errors import UserError


class _FullDisk(EventWriter):
    def write(self):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("moment", ["after_step", "after_train"])
def test_a_full_disk_under_the_metrics_is_a_message(moment):
    hook = ResumableWriter([_FullDisk()], period=1)
    config = SimpleNamespace(OUTPUT_DIR="out")
    hook.trainer = SimpleNamespace(iter=0, max_iter=5, cfg=config)
    with pytest.raises(UserError, match="out: cannot be written .*No space left.*--resume"):
        getattr(hook, moment)()
