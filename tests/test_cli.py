"""`tadp-d2` as a user runs it."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tadp_d2 import cli
from tadp_d2.start_up import importing


def test_synth_writes_a_world_and_says_how_to_use_it(tmp_path, capsys, monkeypatch):
    from tadp_d2.synthetic import data_folder
    from tadp_d2.synthetic.refer_data_sets import ReferSizes
    from tadp_d2.synthetic.room_data_sets import RoomSizes
    from tadp_d2.synthetic.street_data_sets import StreetSizes
    from tadp_d2.synthetic.voc_data_sets import VocSizes

    monkeypatch.setattr(data_folder, "VocSizes", lambda: VocSizes(2, 2, 2, 2, 2, 2, 2))
    monkeypatch.setattr(data_folder, "StreetSizes", lambda: StreetSizes(2, 2, 2, 2, 2, 2))
    monkeypatch.setattr(data_folder, "ReferSizes", lambda: ReferSizes(2, 2, 2, 2, 2, 2))
    monkeypatch.setattr(data_folder, "RoomSizes", lambda: RoomSizes(2, 2, 2))
    cli.main(["synth", str(tmp_path / "world"), "--seed", "3"])
    assert f"export DETECTRON2_DATASETS={tmp_path / 'world'}" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "world").iterdir()}
    assert names == {
        *("VOC2007", "VOC2012", "watercolor", "comic"),
        *("cityscapes", "dark_zurich", "NighttimeDrivingTest", "ADEChallengeData2016"),
        *("refcoco", "refcoco_watercolor", "refcoco_comic", "coco"),
        *("nyu_depth_v2", "rooms_night", "rooms_watercolor"),
        *("captions", "stable-diffusion-tiny", "blip2-tiny", "clip-tiny", "synthetic"),
    }


def test_synth_does_not_touch_a_folder_in_use(tmp_path, capsys):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(SystemExit) as stop:
        cli.main(["synth", str(tmp_path)])
    assert stop.value.code == 2
    assert "exists already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_without_detectron2_what_needs_it_ends_in_a_message_and_the_rest_works(tmp_path):
    commands = (
        ("doctor",),
        ("caption", "watercolor_test"),
        ("predict", str(tmp_path), "--caption", "a dog", "--weights", "model.pth"),
        ("attention", str(tmp_path / "a.jpg"), "--caption", "a dog"),
        ("benchmark", str(tmp_path)),
        ("study", "words"),
    )
    code = (
        "import sys; sys.modules['detectron2'] = None\n"
        "import tadp_d2.diffusion.clip_text, tadp_d2.data.texts, tadp_d2.synthetic.data_folder\n"
        "import tadp_d2.diffusion.stable_diffusion\n"
        "from tadp_d2.cli import main\n"
        "import runpy\n"
        "calls = [lambda: runpy.run_path('train_net.py', run_name='__main__')]\n"
        f"calls += [lambda command=command: main(command) for command in {commands!r}]\n"
        "for call in calls:\n"
        "    try: call()\n"
        "    except SystemExit as stop: print(stop.code)\n"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.split() == ["2"] * (1 + len(commands)), done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 + len(commands) and "Traceback" not in done.stderr
    for line in told:
        assert "Detectron2 is not installed" in line
        assert "python -m tadp_d2.install_detectron2" in line


@pytest.mark.parametrize(
    "command, where, continues",
    [
        ("caption", "tadp_d2.captioning.sets.find_images", True),
        ("synth", "tadp_d2.synthetic.data_folder.write_data_folder", False),
    ],
)
def test_an_interruption_promises_only_what_holds(command, where, continues, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupted)
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "folder"])
    assert stop.value.code == 130
    kept = ": finished work is kept, the same command goes on" * continues
    assert capsys.readouterr().err == f"interrupted{kept}\n"


def test_a_reader_that_has_seen_enough_ends_a_command_quietly(tmp_path):
    """As head does."""
    (tmp_path / "1.png").touch()
    command = ("caption", tmp_path, "--source", "text", "--text", "a dog")
    command += ("--caption-dir", tmp_path)
    code = "import sys; from tadp_d2.cli import main; main(sys.argv[1:])"
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, command)], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert process.returncode == 1 and b"Error" not in process.stderr


def test_no_garbage_is_collected_while_a_command_imports():
    with pytest.raises(ImportError), importing():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()  # whoever switched it off
    finally:
        gc.enable()
