"""NYU Depth V2 from its two published files: what is written, what is refused, going on."""

import sys

import numpy as np
import pytest
from PIL import Image

from tadp_d2.cli import main
from tadp_d2.data.readers import nyu_release
from tadp_d2.data.readers.depth_maps import SceneFolders, load_scenes, read_depth_map
from tadp_d2.data.readers.nyu_release import prepare_rooms
from tadp_d2.errors import UserError

h5py = pytest.importorskip("h5py")
scipy_io = pytest.importorskip("scipy.io")

ROOMS = ("study_room", "kitchen", "study_room", "office")
SIZE = (640, 480)
FOLDER = "official_splits"


def write_labeled(path, number=4, rooms=ROOMS, **changed):
    """As Matlab 7.3 writes it: the axes in reverse, texts behind references."""
    rng = np.random.default_rng(0)
    arrays = {
        "images": np.repeat(np.arange(number, dtype=np.uint8)[:, None] + 100, 3, axis=1)[
            ..., None, None
        ]
        .repeat(SIZE[0], 2)
        .repeat(SIZE[1], 3),
        "rawDepths": rng.uniform(0.5, 9.5, (number, *SIZE)).astype(np.float32),
        **changed,
    }
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            if array is not None:
                file[name] = array
        cells = [
            file.create_dataset(f"#refs#/{i}", data=np.array([[ord(c)] for c in room], np.uint16))
            for i, room in enumerate(rooms[:number])
        ]
        references = np.array([[cell.ref for cell in cells]], h5py.ref_dtype)
        file["sceneTypes"] = references if rooms else np.zeros((1, number))
    return arrays


def write_splits(path, train=(1, 3), test=(2, 4)):
    columns = {"trainNdxs": np.array(train)[:, None], "testNdxs": np.array(test)[:, None]}
    scipy_io.savemat(path, {name: column.astype(np.uint16) for name, column in columns.items()})


@pytest.fixture
def folder(tmp_path):
    write_splits(tmp_path / "splits.mat")
    return tmp_path


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*.*") if p.is_file()}


def test_the_official_split_is_written_as_the_reader_expects_it(folder):
    arrays = write_labeled(folder / "nyu_depth_v2_labeled.mat")
    arrays["rawDepths"][1, 3, 5] = 0
    write_labeled(folder / "nyu_depth_v2_labeled.mat", rawDepths=arrays["rawDepths"])
    told = []
    assert prepare_rooms(folder, lambda *now: told.append(now)) == {"train": 2, "test": 2}
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    train, test = (
        load_scenes(SceneFolders(folder / FOLDER / split), split, 0.001)
        for split in ("train", "test")
    )
    assert [entry["image_id"] for entry in train] == [
        *("study_room/rgb_00000.jpg", "study_room/rgb_00002.jpg")
    ]
    assert [entry["room"] for entry in test] == ["kitchen", "office"]
    for index, entry in ((0, train[0]), (1, test[0]), (2, train[1]), (3, test[1])):
        depth = read_depth_map(entry["depth_file_name"])
        expected = np.floor(arrays["rawDepths"][index].T * np.float32(1000))
        assert depth.shape == SIZE[::-1] and np.array_equal(depth, expected)
        pixels = np.asarray(Image.open(entry["file_name"])).astype(int)
        assert abs(pixels[10:470, 10:628] - (100 + index)).max() <= 2
        assert max(pixels[:5].max(), pixels[:, :4].max(), pixels[476:].max()) <= 16
    assert read_depth_map(test[0]["depth_file_name"])[5, 3] == 0
    with pytest.raises(UserError, match="official_splits exists already"):
        prepare_rooms(folder)


def test_what_was_stopped_goes_on(folder, monkeypatch):
    write_labeled(folder / "nyu_depth_v2_labeled.mat")
    write, written = nyu_release._write_image, []

    def stop_at_the_third(turned, path):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        write(turned, path)

    monkeypatch.setattr(nyu_release, "_write_image", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        prepare_rooms(folder)
    # Nothing looks like a split that is complete.
    assert not (folder / FOLDER).exists()
    written.clear()
    prepare_rooms(folder)
    assert written == ["rgb_00002.jpg", "rgb_00003.jpg"]
    assert len(files(folder / FOLDER)) == 2 * len(ROOMS) + 1
    assert not (folder / ".official_splits.unfinished").exists()


def test_going_on_with_other_files_is_refused(folder, monkeypatch):
    write_labeled(folder / "nyu_depth_v2_labeled.mat")
    monkeypatch.setattr(nyu_release, "_write_image", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare_rooms(folder)
    write_splits(folder / "splits.mat", train=(1, 2), test=(3, 4))
    with pytest.raises(UserError, match="unfinished: was begun with other files"):
        prepare_rooms(folder)


FLAT = np.zeros((4, 3, 4, 4), np.uint8)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"images": None}, "holds no images; expected the labeled part"),
        ({"rawDepths": None}, "holds no rawDepths"),
        ({"images": FLAT}, r"rawDepths \(4, 640, 480\); expected N x 3 x width"),
        ({"images": FLAT.astype(float), "rawDepths": np.ones((4, 4, 4))}, "float64"),
        ({"rooms": ()}, "sceneTypes holds no texts"),
        ({"rooms": ("..", *ROOMS[1:])}, "a kind of room is '..'; expected such as living_room"),
        ({"number": 3}, r"3 images, 3 kinds of rooms, and splits.mat names 4; expected each"),
        ({"images": FLAT, "rawDepths": np.full((4, 4, 4), np.nan)}, "sync_depth_00000 is not with"),
        ({"images": FLAT, "rawDepths": np.full((4, 4, 4), 66.0)}, "sync_depth_00000 is not within"),
    ],
)
def test_a_wrong_file_is_refused(folder, changed, message):
    file = folder / "nyu_depth_v2_labeled.mat"
    write_labeled(file, **changed)
    with pytest.raises(UserError, match=f"{file}: .*{message}"):
        prepare_rooms(folder)
    assert not (folder / FOLDER).exists()


def test_a_file_that_is_none(folder):
    file = folder / "nyu_depth_v2_labeled.mat"
    with pytest.raises(UserError, match=f"{file}: there is no such file; datasets/README.md"):
        prepare_rooms(folder)
    write_labeled(file)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(UserError, match=f"{file}: .*not downloaded completely"):
        prepare_rooms(folder)
    (folder / "splits.mat").write_bytes(b"nothing")
    with pytest.raises(UserError, match="splits.mat: holds no trainNdxs and testNdxs"):
        prepare_rooms(folder)


def test_without_the_packages_that_read_the_files(folder, monkeypatch):
    write_labeled(folder / "nyu_depth_v2_labeled.mat")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(UserError, match="not installed, scipy.io: pip install h5py scipy"):
        prepare_rooms(folder)


def test_the_command(folder, monkeypatch, capsys):
    nyu = folder / "nyu_depth_v2"
    nyu.mkdir()
    write_labeled(nyu / "nyu_depth_v2_labeled.mat")
    write_splits(nyu / "splits.mat")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder))
    monkeypatch.setattr("tadp_d2.data.root.datasets_root", lambda: folder)
    with pytest.raises(SystemExit):
        main(["prepare", "nyu"])
    assert "expected 2972037809 bytes, found" in capsys.readouterr().err
    main(["prepare", "nyu", "--unverified"])
    out = capsys.readouterr()
    assert "test: 2 images; as published, there are 654" in out.out
    assert "4/4 images, 0 s left" in out.err
