"""The table of published archives: data set -> its archives, what is taken of them, what follows.

Sizes and digests are those that public code and logs give for the published files; where there is
none, a file is not compared.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tadp_d2.data.archives import Archive, Part, check_archive, finish, unpack
from tadp_d2.data.root import data_set_guide
from tadp_d2.errors import UserError

Files = Mapping[Archive, Path]


def _unpack(folder: "Folder", files: Files, target: Path) -> list[str]:
    unfinished, notes = unpack(folder.parts, files, target)
    finish(unfinished, target)
    return notes


class Folder(NamedTuple):
    """A folder that appears when all of it is there.

    Attributes:
        path: below `$DETECTRON2_DATASETS`.
        parts: what it is made of.
        registered: the data sets that are there with it.
        make: makes it of the files; returns notes.
    """

    path: str
    parts: tuple[Part, ...]
    registered: tuple[str, ...] = ()
    make: Callable[["Folder", Files, Path], list[str]] = _unpack

    @property
    def archives(self) -> list[Archive]:
        return list(dict.fromkeys(part.archive for part in self.parts))


class Release(NamedTuple):
    """A data set as it is published.

    Attributes:
        folders: what is made of its archives, in this order.
        complete: what is done with the folders then; returns notes. It may be run again.
    """

    folders: tuple[Folder, ...]
    complete: Callable[[Path], list[str]] | None = None

    @property
    def archives(self) -> list[Archive]:
        return list(dict.fromkeys(a for folder in self.folders for a in folder.archives))


def _note(found: int, published: int) -> str:
    return "" if found == published else f"; as published, there are {published}"


def _make_trainaug(folder: Folder, files: Files, target: Path) -> list[str]:
    from tadp_d2.data.readers.sbd_release import prepare_trainaug
    from tadp_d2.doctor.dataset_check import PUBLISHED

    masks, _ = unpack(folder.parts, files, target)
    number = prepare_trainaug(masks, target.parent)
    shutil.rmtree(masks)
    return [f"pascal_trainaug: {number} images{_note(number, PUBLISHED['pascal_trainaug'])}"]


def _make_rooms(folder: Folder, files: Files, target: Path) -> list[str]:
    from tadp_d2.data.readers.nyu_release import prepare_rooms
    from tadp_d2.doctor.dataset_check import PUBLISHED
    from tadp_d2.progress import progress_line

    given = [files[archive] for archive in folder.archives]
    numbers = prepare_rooms(target.parent, progress_line("images"), given)
    names = {"train": "nyu_depth_v2_labeled_train", "test": "nyu_depth_v2_test"}
    return [
        f"{target / split}: {number} images{_note(number, PUBLISHED[names[split]])}"
        for split, number in numbers.items()
    ]


def _map_ade20k(root: Path) -> list[str]:
    from tadp_d2.data.readers.label_map_release import prepare_ade20k

    return _label_maps(prepare_ade20k(root / "ADEChallengeData2016"))


def _map_coco_stuff(root: Path) -> list[str]:
    from tadp_d2.data.readers.label_map_release import prepare_coco_stuff

    return _label_maps(prepare_coco_stuff(root / "coco"))


def _label_maps(written: Mapping[Path, int]) -> list[str]:
    if not written:
        return ["nothing to do: the label maps are there"]
    return [f"{folder}: {number} label maps" for folder, number in written.items()]


def _read_references(dataset: str) -> Callable[[Path], list[str]]:
    def complete(root: Path) -> list[str]:
        from tadp_d2.data.datasets.refcoco import EXPRESSIONS
        from tadp_d2.data.readers.refer_release import prepare_references

        notes = []
        for file, references in prepare_references(root / dataset).items():
            found = sum(len(reference.expressions) for reference in references)
            images = len({reference.image_id for reference in references})
            published = EXPRESSIONS.get(f"{dataset}_{file.removesuffix('.json')}", found)
            notes.append(
                f"{root / dataset / file}: {len(references)} references, {found} expressions, "
                f"{images} images{_note(found, published)}"
            )
        return notes

    return complete


_FILE = r"\w[\w.-]*"
_VOC = (
    rf"Annotations/{_FILE}\.xml|ImageSets/\w+/{_FILE}\.txt|JPEGImages/{_FILE}\.jpg|"
    rf"Segmentation(Class|Object)/{_FILE}\.png"
)
_VOC_2007 = (
    Archive("VOCtrainval_06-Nov-2007.tar", 460032000, "md5:c52e279531787c972589f7e41ab4ae64"),
    Archive("VOCtest_06-Nov-2007.tar", 451020800, "md5:b6e924de25625d8de591ea690078ad9f"),
)
_VOC_2012 = Archive(
    "VOCtrainval_11-May-2012.tar", 1999639040, "sha1:4e443f8a2eca6b1dac8a6c57641b67dd40621a49"
)
_SBD = Archive("benchmark.tgz", 1419539633, "sha1:7129e0a480c2d6afb02b517bb18ac54283bfaa35")
_ADE20K = Archive("ADEChallengeData2016.zip", None, "sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7")
_COCO_TRAIN = Archive("train2017.zip", 19336861798, "sha1:10ad623668ab00c62c096f0ed636d6aff41faca5")
_COCO_VAL = Archive("val2017.zip", 815585330, "sha1:4950dc9d00dbe1c933ee0170f5797584351d2a41")
_COCO_ANNOTATIONS = Archive(
    "annotations_trainval2017.zip", 252907541, "sha1:8551ee4bb5860311e79dace7e79cb91e432e78b3"
)
_COCO_2014 = Archive("train2014.zip", None, "md5:0da8c0bd3d6becc4dcb32757491aca88")
_STUFF = Archive("stuffthingmaps_trainval2017.zip")
_NYU = (
    Archive("nyu_depth_v2_labeled.mat", 2972037809, "md5:520609c519fba3ba5ac58c8fefcc3530"),
    Archive("splits.mat", None, "md5:08e3c3aea27130ac7c01ffd739a4535f"),
)
_NIGHT = Archive("NighttimeDrivingTest.zip")
_DARK = {
    "train": Archive("Dark_Zurich_train_anon.zip"),
    "val": Archive("Dark_Zurich_val_anon.zip"),
    "test": Archive("Dark_Zurich_test_anon_withoutGt.zip"),
}


def _voc(year: str, registered: tuple[str, ...], *archives: Archive) -> Folder:
    parts = tuple(Part(archive, f"VOC{year}", _VOC) for archive in archives)
    return Folder(f"VOC{year}", parts, registered)


def _art(name: str) -> Release:
    parts = (Part(Archive(f"{name}.zip"), name, _VOC),)
    return Release((Folder(name, parts, (f"{name}_train", f"{name}_test")),))


def _images(archive: Archive, year: str) -> Folder:
    return Folder(f"coco/{year}", (Part(archive, year, rf"{_FILE}\.jpg"),))


def _night(split: str, kind: str, archive: Archive) -> Folder:
    part = Part(archive, f"{kind}/{split}", rf"night/\w+/{_FILE}\.png")
    # Its labels are the last part of val.
    last = split != "val" or kind == "gt"
    return Folder(f"dark_zurich/{part.inside}", (part,), (f"dark_zurich_{split}",) * last)


def _references(name: str, split_by: str, *splits: str) -> Release:
    part = Part(Archive(f"{name}.zip"), name, r"instances\.json|refs\(\w+\)\.p")
    registered = tuple(f"{name}_{split_by}_{split}" for split in splits)
    return Release(
        (Folder(name, (part,)), _images(_COCO_2014, "train2014")._replace(registered=registered)),
        _read_references(name),
    )


_COCO_IMAGES = (_images(_COCO_TRAIN, "train2017"), _images(_COCO_VAL, "val2017"))
_PASCAL = Part(_SBD, "dataset/cls", rf"{_FILE}\.mat")
_SCENES = Part(
    _ADE20K,
    "ADEChallengeData2016",
    rf"images/(training|validation)/{_FILE}\.jpg|annotations/(training|validation)/{_FILE}\.png",
)
_BOXES = Part(_COCO_ANNOTATIONS, "annotations", r"\w+_(train|val)2017\.json")
_DRIVING = Part(
    _NIGHT,
    "NighttimeDrivingTest",
    rf"(leftImg8bit|gtCoarse_daytime_trainvaltest)/test/night/{_FILE}\.(png|json)",
)
_SYNC = Part(Archive("sync.zip"), "sync", rf"\w+/{_FILE}\.(jpg|png)")

RELEASES = {
    "voc_2007": Release((_voc("2007", ("voc_2007_trainval", "voc_2007_test"), *_VOC_2007),)),
    "voc_2012": Release((_voc("2012", ("voc_2012_trainval",), _VOC_2012),)),
    "pascal": Release(
        (
            _voc("2012", ("pascal_val",), _VOC_2012),
            Folder(
                "VOC2012/SegmentationClassAug", (_PASCAL,), ("pascal_trainaug",), _make_trainaug
            ),
        )
    ),
    "watercolor": _art("watercolor"),
    "comic": _art("comic"),
    "ade20k": Release(
        (Folder("ADEChallengeData2016", (_SCENES,), ("ade20k_train", "ade20k_val")),),
        _map_ade20k,
    ),
    "coco_2017": Release(
        (
            *_COCO_IMAGES,
            Folder("coco/annotations", (_BOXES,), ("coco_2017_train", "coco_2017_val")),
        )
    ),
    "coco_stuff": Release(
        (
            *_COCO_IMAGES,
            *(
                Folder(
                    f"coco/stuffthingmaps/{split}2017",
                    (Part(_STUFF, f"{split}2017", rf"{_FILE}\.png"),),
                    (f"coco_stuff_{split}",),
                )
                for split in ("train", "val")
            ),
        ),
        _map_coco_stuff,
    ),
    "dark_zurich": Release(
        (
            *(_night(split, "rgb_anon", archive) for split, archive in _DARK.items()),
            _night("val", "gt", _DARK["val"]),
        )
    ),
    "nighttime_driving": Release(
        (Folder("NighttimeDrivingTest", (_DRIVING,), ("nighttime_driving_test",)),)
    ),
    "nyu": Release(
        (
            Folder("nyu_depth_v2/sync", (_SYNC,), ("nyu_depth_v2_train",)),
            Folder(
                "nyu_depth_v2/official_splits",
                tuple(Part(archive, "", "") for archive in _NYU),
                ("nyu_depth_v2_test", "nyu_depth_v2_labeled_train"),
                _make_rooms,
            ),
        )
    ),
    "refcoco": _references("refcoco", "unc", "train", "val", "testA", "testB"),
    "refcoco+": _references("refcoco+", "unc", "train", "val", "testA", "testB"),
    "refcocog": _references("refcocog", "umd", "train", "val", "test"),
}


def prepare(
    dataset: str, given: Sequence[Path], root: Path, unverified: bool = False
) -> Iterator[str]:
    """Makes the folders of a data set of its archives, and yields what was done, line by line.

    A folder that is there is left as it is. One whose archives are not given is left out.

    Args:
        dataset: of `RELEASES`.
        given: archives, under their published names, or folders that hold them. Without, what is
            there unpacked is completed; of "nyu", its two files of Matlab's.
        root: `$DETECTRON2_DATASETS`.
        unverified: whether archives that are not the published ones are taken, too.

    Raises:
        UserError: an archive is another one, damaged or dangerous, or one of those of a folder is
            absent.
    """
    release = RELEASES[dataset]
    if dataset == "nyu" and not given:
        given = [root / "nyu_depth_v2"]
    files = _find(release, given)
    checked = set()
    for folder in release.folders:
        target = root / folder.path
        here = {archive: files[archive] for archive in folder.archives if archive in files}
        if target.exists():
            if here:
                yield f"{target}: is there already and stays as it is"
            continue
        absent = [archive.name for archive in folder.archives if archive not in files]
        if absent and here:
            raise UserError(f"{target}: needs {' and '.join(absent)}, too: add it to --from")
        if absent:
            if given:
                yield f"{target}: not made; it needs {' and '.join(absent)}"
            continue
        for archive, file in here.items():
            if archive not in checked:
                yield check_archive(file, archive, unverified)
            checked.add(archive)
        yield from folder.make(folder, here, target)
        yield f"{target}: made"
    if release.complete:
        yield from release.complete(root)


def _find(release: Release, given: Sequence[Path]) -> dict[Archive, Path]:
    """Where the archives of a data set lie."""
    names = {archive.name: archive for archive in release.archives}
    expected = f"expected {', '.join(names)}; {data_set_guide()} lists the sources"
    found: dict[Archive, Path] = {}
    for path in given:
        files = [path / name for name in names] if path.is_dir() else [path]
        files = [file for file in files if file.is_file()]
        if not files:
            raise UserError(f"{path}: there is no such file, or none of them in it; {expected}")
        for file in files:
            if file.name not in names:
                raise UserError(f"{file}: is no archive of this data set; {expected}")
            if found.setdefault(names[file.name], file) != file:
                raise UserError(f"{file}: is given twice, also as {found[names[file.name]]}")
    return found
