"""Archives in the layouts in which they are published: what becomes of them, what is refused."""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

import tadp_d2.config.registration  # noqa: F401
from tadp_d2.cli import main
from tadp_d2.commands.prepare import DATASETS
from tadp_d2.data import archives
from tadp_d2.data.archives import Archive, Part, check_archive
from tadp_d2.data.datasets.pascal_segmentation import load_pascal
from tadp_d2.data.published_archives import RELEASES, Folder, Release, prepare
from tadp_d2.data.readers.sbd_release import prepare_trainaug
from tadp_d2.errors import UserError

VOC = ("Annotations", "ImageSets", "JPEGImages", "SegmentationClass", "SegmentationObject")
STREETS = "gtCoarse_daytime_trainvaltest"
# Data set -> archive -> folder below the data sets -> where it lies in the published archive.
PUBLISHED = {
    "voc_2007": {
        "VOCtrainval_06-Nov-2007.tar": {f"VOC2007/{f}": f"VOCdevkit/VOC2007/{f}" for f in VOC},
        "VOCtest_06-Nov-2007.tar": {},
    },
    "voc_2012": {
        "VOCtrainval_11-May-2012.tar": {f"VOC2012/{f}": f"VOCdevkit/VOC2012/{f}" for f in VOC}
    },
    "watercolor": {"watercolor.zip": {f"watercolor/{f}": f"watercolor/{f}" for f in VOC}},
    "comic": {"comic.zip": {f"comic/{f}": f"comic/{f}" for f in VOC}},
    "ade20k": {
        "ADEChallengeData2016.zip": {
            f"ADEChallengeData2016/{f}": f"ADEChallengeData2016/{f}"
            for f in ("images", "annotations")
        }
    },
    "coco_stuff": {
        "train2017.zip": {"coco/train2017": "train2017"},
        "val2017.zip": {"coco/val2017": "val2017"},
        "stuffthingmaps_trainval2017.zip": {
            f"coco/stuffthingmaps/{f}": f for f in ("train2017", "val2017")
        },
    },
    "dark_zurich": {
        f"Dark_Zurich_{name}.zip": {f"dark_zurich/{f}": f for f in folders}
        for name, folders in (
            ("train_anon", ("rgb_anon/train",)),
            ("val_anon", ("rgb_anon/val", "gt/val")),
            ("test_anon_withoutGt", ("rgb_anon/test",)),
        )
    },
    "nighttime_driving": {
        "NighttimeDrivingTest.zip": {
            f"NighttimeDrivingTest/{f}": f"NighttimeDrivingTest/{f}"
            for f in ("leftImg8bit", STREETS)
        }
    },
    "refcoco": {
        "refcoco.zip": {"refcoco": "refcoco"},
        "train2014.zip": {"coco/train2014": "train2014"},
    },
}
# What lies in an archive besides.
BESIDES = {
    "VOCtest_06-Nov-2007.tar": {"VOCdevkit/VOC2007/ImageSets/Main/cat_test.txt": b"1 -1"},
    "VOCtrainval_11-May-2012.tar": {"VOCdevkit/VOC2012/ImageSets/Layout/train.txt": b"1"},
    "ADEChallengeData2016.zip": {"ADEChallengeData2016/objectInfo150.txt": b"1"},
    "Dark_Zurich_train_anon.zip": {"rgb_anon/train/day/GOPR0345/1_rgb_anon.png": b"1"},
    "watercolor.zip": {"__MACOSX/watercolor/JPEGImages/._1.jpg": b"1"},
    "train2017.zip": {"train2017/.DS_Store": b"1"},
}
# What of it is unpacked all the same.
TAKEN = {
    "voc_2007": {"VOC2007/ImageSets/Main/cat_test.txt"},
    "voc_2012": {"VOC2012/ImageSets/Layout/train.txt"},
}
# What `prepare` makes of the files of an archive.
MADE = {
    "ade20k": "ADEChallengeData2016/annotations_detectron2/",
    "coco_stuff": "coco/stuffthingmaps_detectron2/",
    "refcoco": "refcoco/unc_",
}


def pack(path, contents):
    """Writes an archive of names, or headers of its kind, and bytes."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in contents:
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for name, content in contents:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def files_of(world, folders):
    """Names in the archive and bytes of the files below folders."""
    for source, inside in folders.items():
        for file in sorted((world / source).rglob("*")):
            # Made by `prepare`, or of VOC's list that no archive has.
            made = file.name.startswith("unc_") or file.name == "trainaug.txt"
            if file.is_file() and not made:
                yield f"{inside}/{file.relative_to(world / source)}", file.read_bytes()


def tree(folder):
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name != "made_of.json"
    }


@pytest.mark.parametrize("dataset", sorted(PUBLISHED))
def test_the_folders_of_a_data_set_are_made_of_its_archives(dataset, world, tmp_path):
    downloads, root = tmp_path / "downloads", tmp_path / "data"
    downloads.mkdir()
    expected = {}
    for name, folders in PUBLISHED[dataset].items():
        pack(downloads / name, [*files_of(world, folders), *BESIDES.get(name, {}).items()])
        places = {inside: source for source, inside in folders.items()}
        for path, content in files_of(world, folders):
            inside = next(p for p in places if path.startswith(f"{p}/"))
            expected[places[inside] + path.removeprefix(inside)] = content
    lines = list(prepare(dataset, [downloads], root, unverified=True))
    found = tree(root)
    assert expected.items() <= found.items()
    # What is made of them is what the synthetic data sets have.
    made = {k: v for k, v in tree(world).items() if k.startswith(MADE.get(dataset, "-"))}
    assert found.keys() - expected.keys() == made.keys() | TAKEN.get(dataset, set())
    for name, content in made.items():
        if name.endswith(".png"):
            ours, theirs = (Image.open(io.BytesIO(x)) for x in (found[name], content))
            np.testing.assert_array_equal(ours, theirs)
    # Nothing is begun twice, and what is there stays.
    again = list(prepare(dataset, [downloads], root, unverified=True))
    number = len(RELEASES[dataset].folders)
    assert sum(line.endswith(": made") for line in lines) == number
    assert sum(line.endswith("is there already and stays as it is") for line in again) == number
    assert tree(root) == found


@pytest.mark.exhaustive
def test_the_doctor_accepts_what_is_made(world, tmp_path):
    names = ("voc_2007", "watercolor", "ade20k", "coco_stuff", "nighttime_driving", "refcoco")
    commands = []
    for dataset in names:
        for name, folders in PUBLISHED[dataset].items():
            pack(tmp_path / name, [*files_of(world, folders), *BESIDES.get(name, {}).items()])
        commands.append(["prepare", dataset, "--unverified", "--from", str(tmp_path)])
    commands.append(["doctor"] + ["watercolor_test", "ade20k_val", "coco_stuff_val"])
    commands[-1] += ["voc_2007_trainval", "nighttime_driving_test", "refcoco_unc_val"]
    program = f"from tadp_d2.cli import main\nfor arguments in {commands}: main(arguments)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "DETECTRON2_DATASETS": str(tmp_path / "data")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "To check all of it: tadp-d2 doctor watercolor_train watercolor_test" in done.stdout
    assert done.stdout.endswith("all is well\n")


def test_the_command_knows_the_table():
    assert set(DATASETS) == set(RELEASES)


def test_every_name_that_a_release_lists_is_registered():
    folders = [folder for release in RELEASES.values() for folder in release.folders]
    names = {name for folder in folders for name in folder.registered}
    assert len(names) > 20 and names <= set(DatasetCatalog.list())


scipy_io = pytest.importorskip("scipy.io")


def test_trainaug_is_vocs_train_and_what_sbd_adds(world, tmp_path):
    ids = sorted(p.stem for p in (world / "VOC2012" / "SegmentationClass").glob("*.png"))
    train, val, added = ids[:1], ids[1:2], ids[2:]
    lists = {"train": train, "val": val}
    contents = [
        (name, "".join(f"{i}\n" for i in lists[stem]).encode() if in_lists else content)
        for name, content in files_of(world, PUBLISHED["voc_2012"]["VOCtrainval_11-May-2012.tar"])
        for stem in [name.rpartition("/")[2].removesuffix(".txt")]
        for in_lists in ["ImageSets/Segmentation" in name and stem in lists]
    ]
    voc = pack(tmp_path / "VOCtrainval_11-May-2012.tar", contents)
    masks = {
        i: np.asarray(Image.open(world / "VOC2012" / "SegmentationClass" / f"{i}.png")) for i in ids
    }
    masks = {i: (m[:, ::-1] if i in added else np.zeros_like(m)) for i, m in masks.items()}

    def sbd(image_ids):
        for image_id in image_ids:
            file = io.BytesIO()
            scipy_io.savemat(file, {"GTcls": {"Segmentation": masks[image_id], "Boundaries": []}})
            yield f"benchmark_RELEASE/dataset/cls/{image_id}.mat", file.getvalue()
        yield "benchmark_RELEASE/benchmark_code/demo.m", b"code"

    benchmark = pack(tmp_path / "benchmark.tgz", sbd(ids))
    root = tmp_path / "data"
    lines = list(prepare("pascal", [voc, benchmark], root, unverified=True))
    assert f"pascal_trainaug: {len(ids) - 1} images; as published, there are 10582" in lines
    for split, expected in (("trainaug", [*train, *added]), ("val", val)):
        entries = load_pascal(root / "VOC2012", split, f"pascal_{split}")
        assert [e["image_id"] for e in entries] == expected
        for entry in entries:
            found = np.asarray(Image.open(entry["sem_seg_file_name"]))
            own = world / "VOC2012" / "SegmentationClass" / f"{entry['image_id']}.png"
            theirs = masks[entry["image_id"]] if entry["image_id"] in added else Image.open(own)
            np.testing.assert_array_equal(found, np.asarray(theirs))
    assert not list(root.rglob(".*unfinished"))

    # A mask that is none is named, and nothing looks complete.
    aug, folder = root / "VOC2012" / "SegmentationClassAug", tmp_path / "cls"
    shutil.rmtree(aug)
    folder.mkdir()
    for bad, message in (
        ({"GTcls": {"Segmentation": masks[added[0]][:5]}}, "pixels, but its image has"),
        ({"GTcls": {"Segmentation": masks[added[0]] * 0 + 21}}, "up to 21; expected"),
        ({"GTinst": 1}, "holds no GTcls"),
    ):
        scipy_io.savemat(folder / f"{added[0]}.mat", bad)
        with pytest.raises(UserError, match=rf"{added[0]}.mat: .*{message}"):
            prepare_trainaug(folder, root / "VOC2012")
        assert not aug.exists()


IMAGES = Part(Archive("own.zip"), "images", r"\w+\.jpg")


@pytest.fixture
def own(monkeypatch):
    """A release of one folder, `own`, of one archive, `own.zip`, or as a tar `own.tar`."""

    def release(name="own.zip", **known):
        part = IMAGES._replace(archive=Archive(name, **known))
        monkeypatch.setitem(RELEASES, "own", Release((Folder("own", (part,)),)))

    release()
    return release


def link(kind, name="images/link.jpg"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def zip_link():
    info = zipfile.ZipInfo("images/link.jpg")
    info.external_attr = 0o120777 << 16
    return info


GOOD = ("images/a.jpg", b"a")


@pytest.mark.parametrize(
    "name, contents, message",
    [
        ("own.zip", [GOOD, ("images/../../out.jpg", b"x")], "may lead out of its folder"),
        ("own.zip", [GOOD, ("/images/out.jpg", b"x")], "may lead out of its folder"),
        ("own.zip", [GOOD, ("C:/images/out.jpg", b"x")], "may lead out of its folder"),
        ("own.zip", [GOOD, ("images\\..\\out.jpg", b"x")], "may lead out of its folder"),
        ("own.zip", [GOOD, (zip_link(), b"/etc/passwd")], "a link or a device"),
        ("own.zip", [GOOD, ("images/run.sh", b"x")], r"'images/run.sh', which does not belong"),
        ("own.zip", [("pictures/a.jpg", b"a")], "holds no images/ with what is expected"),
        ("own.zip", [GOOD, ("other/images/a.jpg", b"b")], "holds images/ twice"),
        ("own.tar", [GOOD, ("../images/out.jpg", b"x")], "may lead out of its folder"),
        ("own.tar", [GOOD, (link(tarfile.SYMTYPE), b"")], "a link or a device"),
        ("own.tar", [GOOD, (link(tarfile.LNKTYPE), b"")], "a link or a device"),
        ("own.tar", [GOOD, (link(tarfile.CHRTYPE), b"")], "a link or a device"),
        ("own.tar", [GOOD, GOOD], "holds images/a.jpg twice"),
    ],
)
def test_what_no_published_archive_has_is_refused_before_anything_is_written(
    name, contents, message, own, tmp_path
):
    own(name)
    archive = pack(tmp_path / name, contents)
    with pytest.raises(UserError, match=f"{archive}: .*{message}"):
        list(prepare("own", [archive], tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_a_damaged_archive_is_named_and_nothing_looks_complete(own, tmp_path):
    contents = [(f"images/{n}.jpg", bytes(range(256)) * 20) for n in range(9)]
    for name in ("own.zip", "own.tar", "own.tgz"):
        own(name)
        archive = pack(tmp_path / name, contents)
        whole = archive.read_bytes()
        archive.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match=f"{archive}: is damaged, or was not downloaded comp"):
            list(prepare("own", [archive], tmp_path / "data"))
    # The list of files is whole, and a file is not.
    own()
    archive = pack(tmp_path / "own.zip", contents)
    whole = archive.read_bytes()
    archive.write_bytes(whole.replace(bytes(range(256)), bytes(256), 1))
    with pytest.raises(UserError, match=f"{archive}: images/0.jpg: is damaged"):
        list(prepare("own", [archive], tmp_path / "data"))
    assert not (tmp_path / "data" / "own").exists()


def test_what_was_stopped_goes_on(own, tmp_path, monkeypatch, capsys):
    archive = pack(tmp_path / "own.zip", [(f"images/{n}.jpg", b"12") for n in range(5)])
    read, seen = archives._read, []

    def stop_at_the_third(open_member, info, size):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(info.filename)
        return read(open_member, info, size)

    monkeypatch.setattr(archives, "_read", stop_at_the_third)
    root = tmp_path / "data"
    with pytest.raises(KeyboardInterrupt):
        list(prepare("own", [archive], root))
    assert not (root / "own").exists()
    # As a killed process leaves it.
    (root / ".own.unfinished" / ".2.jpg.0123.partial").write_bytes(b"1")
    monkeypatch.setattr(archives, "_read", lambda *a: seen.append(a[1].filename) or read(*a))
    list(prepare("own", [archive], root))
    assert seen == [f"images/{n}.jpg" for n in range(5)]
    assert tree(root) == {f"own/{n}.jpg": b"12" for n in range(5)}
    assert "5/5 files of own unpacked" in capsys.readouterr().err

    shutil.rmtree(root / "own")
    seen[:] = [1, 2]
    monkeypatch.setattr(archives, "_read", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        list(prepare("own", [archive], root))
    pack(archive, [("images/0.jpg", b"12")])
    with pytest.raises(UserError, match="unfinished: was begun with other files; remove it"):
        list(prepare("own", [archive], root))


def test_an_archive_is_compared_with_the_published_one(tmp_path):
    file = tmp_path / "own.zip"
    file.write_bytes(b"content")
    digests = {kind: hashlib.new(kind, b"content").hexdigest() for kind in ("sha1", "sha256")}
    published = Archive("own.zip", 7, f"sha1:{digests['sha1']}")
    assert check_archive(file, published, False).endswith(f"sha1 {digests['sha1']}, as published")
    unknown = check_archive(file, Archive("own.zip"), False)
    assert f"sha256 {digests['sha256']}; the published one is not known" in unknown
    for other, message in (
        (published._replace(size=8), "expected 8 bytes, found 7"),
        (published._replace(digest="sha1:00"), f"expected sha1 00, found {digests['sha1']}"),
    ):
        with pytest.raises(UserError, match=f"{file}: is not the published file: {message}"):
            check_archive(file, other, False)
        assert "not the published file" in check_archive(file, other, True)


def test_no_more_is_unpacked_than_the_disk_takes(own, tmp_path, monkeypatch):
    archive = pack(tmp_path / "own.zip", [GOOD])
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 0))
    with pytest.raises(UserError, match="GB are to be unpacked, .*make room, then run the same"):
        list(prepare("own", [archive], tmp_path / "data"))


def test_archives_are_told_by_their_names(tmp_path, capsys):
    with pytest.raises(UserError, match="no such file, or none of them in it; expected VOCtrain"):
        list(prepare("voc_2007", [tmp_path], tmp_path))
    other = tmp_path / "voc.tar"
    other.touch()
    with pytest.raises(UserError, match=f"{other}: is no archive of this data set; expected VOC"):
        list(prepare("voc_2007", [other], tmp_path))
    one = tmp_path / "VOCtest_06-Nov-2007.tar"
    one.touch()
    with pytest.raises(UserError, match="VOC2007: needs VOCtrainval_06-Nov-2007.tar, too: add it"):
        list(prepare("voc_2007", [one], tmp_path))
    with pytest.raises(UserError, match=f"{one.name}: is given twice, also as {one}"):
        list(prepare("voc_2007", [one, tmp_path / "." / ".." / tmp_path.name], tmp_path))
    with pytest.raises(SystemExit):
        main(["prepare", "comic"])
    assert "prepare comic needs its archives: --from comic.zip" in capsys.readouterr().err
