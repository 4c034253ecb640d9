"""Drawn rooms: their depth is exact, their captions true, their bytes the seed's."""

import numpy as np
import pytest
from PIL import Image

from tadp_d2.data.datasets.nyu_categories import ROOMS
from tadp_d2.data.readers.depth_maps import read_depth
from tadp_d2.errors import UserError
from tadp_d2.synthetic.drawing.room_furniture import quad
from tadp_d2.synthetic.drawing.room_views import STYLES, render_room
from tadp_d2.synthetic.drawing.rooms import KINDS, Furniture, Room, describe, sample_room
from tadp_d2.synthetic.room_data_sets import RoomSizes, write_room_data_sets

FOCAL = 50.0


def room(faces, eye=(0.0, 1.0, 0.0), turn=0.0, tilt=0.0):
    things = tuple(Furniture("thing", i, i + 1) for i in range(1, len(faces)))
    light = (0.0, 2.0, 1.0)
    return Room("office", 40, 30, tuple(faces), things, eye, turn, tilt, FOCAL, light)


def wall(z, size=50.0, **options):
    corners = [(-size, -size, z), (size, -size, z), (size, size, z), (-size, size, z)]
    return quad(corners, (200, 100, 50), **options)


def see(*arguments, style="day", **options):
    return render_room(room(*arguments, **options), style, np.random.default_rng(0))


def test_a_wall_across_has_one_depth():
    np.testing.assert_allclose(see([wall(4.0)]).depth, 4.0, rtol=1e-6)


def test_the_floor_is_as_deep_as_the_camera_is_high():
    floor = [(-99, 0, 0.2), (99, 0, 0.2), (99, 0, 999), (-99, 0, 999)]
    depth = see([wall(500.0, 9999.0), quad(floor, (90, 90, 90))]).depth
    rows = np.arange(30) + 0.5
    expected = 1.0 * FOCAL / (rows - 15)
    np.testing.assert_allclose(depth[20:], expected[20:, None].repeat(40, 1), rtol=1e-5)


@pytest.mark.parametrize("turn, tilt", [(0.3, 0.0), (-0.4, 0.2), (0.0, 0.25)])
def test_the_depth_of_a_turned_camera_agrees_with_a_ray_through_each_pixel(turn, tilt):
    depth = see([wall(4.0)], turn=turn, tilt=tilt).depth
    y, x = np.mgrid[:30, :40] + 0.5
    right, down = (x - 20) / FOCAL, (y - 15) / FOCAL
    # First down by the tilt, then to the right by the turn; z of a ray of length 1 along the axis.
    ahead = np.cos(tilt) - down * np.sin(tilt)
    z = ahead * np.cos(turn) - right * np.sin(turn)
    np.testing.assert_allclose(depth, 4.0 / z, rtol=1e-5)


def test_the_nearer_face_is_seen_whatever_the_order():
    near = quad([(-0.5, 0.5, 2), (0.5, 0.5, 2), (0.5, 1.5, 2), (-0.5, 1.5, 2)], (0, 0, 255))
    for faces in ([wall(4.0), near], [near, wall(4.0)]):
        seen = see(faces)
        assert seen.depth[15, 20] == pytest.approx(2) and seen.depth[0, 0] == pytest.approx(4)
        blue = np.asarray(seen.image)[15, 20]
        assert blue[2] > 2 * blue[0]


def test_holes_have_no_depth_and_all_styles_the_same_depth():
    window = quad(
        [(-0.5, 0.5, 3), (0.5, 0.5, 3), (0.5, 1.5, 3), (-0.5, 1.5, 3)], (9, 9, 9), hole=True
    )
    seen = {style: see([wall(4.0), window], style=style) for style in STYLES}
    assert seen["day"].depth[15, 20] == 0
    for other in seen.values():
        assert np.array_equal(seen["day"].depth, other.depth)
    day, night, watercolor = (np.asarray(seen[s].image, float) for s in STYLES)
    assert night.mean() < 0.7 * day.mean() < day.mean() < watercolor.mean()
    # The paper is left white at the rim.
    assert watercolor[:4].min() > 200 > watercolor[12:18, 12:18].min()


def test_what_is_hidden_is_not_mentioned():
    behind = quad([(-0.5, 0.5, 5), (0.5, 0.5, 5), (0.5, 1.5, 5), (-0.5, 1.5, 5)], (9, 9, 9))
    before = quad([(-0.5, 0.5, 3), (0.5, 0.5, 3), (0.5, 1.5, 3), (-0.5, 1.5, 3)], (9, 9, 9))
    for face, sentence in ((behind, "an office"), (before, "an office with a thing")):
        drawn = room([wall(4.0), face])
        seen = render_room(drawn, "day", np.random.default_rng(0))
        assert describe(drawn, seen.shares) == sentence


def test_there_are_enough_kinds():
    assert len(KINDS) == 12 and set(KINDS) < set(ROOMS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_room_of_nyu_without_gaps(kind):
    for seed in range(3):
        drawn = sample_room(np.random.default_rng(seed), kind, (64, 48))
        seen = render_room(drawn, "day", np.random.default_rng(0))
        known = seen.depth[seen.depth > 0]
        assert known.size > 0.5 * seen.depth.size
        assert 0.1 < known.min() and known.max() < 13
        assert seen.image.size == (64, 48)


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_more_rooms_begin_alike(tmp_path):
    for name, seed, sizes in (
        *(("first", 3, RoomSizes(3, 2, 2)), ("again", 3, RoomSizes(3, 2, 2))),
        *(("more", 3, RoomSizes(4, 2, 2)), ("other", 4, RoomSizes(3, 2, 2))),
    ):
        (tmp_path / name).mkdir()
        write_room_data_sets(tmp_path / name, seed, sizes)
    first, again, more, other = (
        contents(tmp_path / name) for name in ("first", "again", "more", "other")
    )
    assert first == again
    images = {path for path in first if path.suffix in (".jpg", ".png")}
    assert all(first[path] == more[path] for path in images)
    assert all(first[path] != other[path] for path in images)
    depth = next(path for path in sorted(images) if path.suffix == ".png")
    image = Image.open(
        tmp_path / "first" / str(depth).replace("sync_depth", "rgb").replace("png", "jpg")
    )
    assert read_depth(tmp_path / "first" / depth, 0.001).shape == image.size[::-1]


def test_sizes_and_seeds_out_of_range(tmp_path):
    with pytest.raises(UserError, match="rooms_test.*1"):
        RoomSizes(rooms_test=1)
    with pytest.raises(UserError, match="seed.*-1"):
        write_room_data_sets(tmp_path, seed=-1)
