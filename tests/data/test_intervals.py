"""Intervals of videos: which frames are sought, and what is refused."""

import sys

import pytest
from helpers import videos

from qoq_jax.base.errors import DataError
from qoq_jax.data import media, paths, readers
from qoq_jax.data.readers import files


@pytest.fixture
def video(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", videos.fake_cv2())
    (tmp_path / "a.mp4").write_bytes(b"RIFF")
    return tmp_path / "a.mp4"


@pytest.mark.parametrize(
    "interval, wanted",
    [
        ("start=0,end=4", [0, 33, 66, 99]),
        ("start=1,end=2", [25, 33, 41, 49]),
        ("start=3.96,end=4", [99, 99, 99, 99]),
        ("start=0.5,end=0.62", [12, 13, 14, 15]),
    ],
)
def test_frames_are_evenly_spaced_from_the_start_to_before_the_end(video, interval, wanted):
    frames = readers.read_frames(f"{video}#{interval}", 4)
    assert frames.shape == (4, 4, 5, 3)
    assert [frame[0, 0].tolist() for frame in frames] == [[n, 2, 1] for n in wanted]


@pytest.mark.parametrize(
    "interval, said",
    [
        ("start=1", "names no interval"),
        ("start=2,end=1", "names no interval"),
        ("start=-1,end=1", "names no interval"),
        ("end=2,start=1", "names no interval"),
        ("start=1,end=4.1", "has 4.00 s of 25.00 frames per second"),
        ("start=1.001,end=1.002", "has 4.00 s of 25.00 frames per second"),
    ],
)
def test_an_interval_that_is_none_is_refused_by_name(video, interval, said):
    with pytest.raises(DataError, match=said) as raised:
        readers.read_frames(f"{video}#{interval}")
    assert raised.value.where == f"{video}#{interval}" and raised.value.hint


def test_a_video_that_cannot_be_sought_is_refused(video, monkeypatch):
    monkeypatch.setattr(videos.Capture, "off", 3)
    with pytest.raises(DataError, match="frame 25 cannot be sought"):
        readers.read_frames(f"{video}#start=1,end=2")


def test_a_video_without_a_rate_is_refused(video, monkeypatch):
    monkeypatch.setattr(videos.Capture, "rate", 0.0)
    with pytest.raises(DataError, match=r"a\.mp4"):
        readers.read_frames(f"{video}#start=1,end=2")


def test_a_part_of_a_video_may_be_of_a_file_that_is_too_large_to_be_read_whole(video, monkeypatch):
    monkeypatch.setattr(media, "MAX_FILE_BYTES", 2)
    assert readers.read_frames(f"{video}#start=1,end=2").shape == (4, 4, 5, 3)
    with pytest.raises(DataError, match="over 2 GiB"):
        files.check_file(video)


def test_what_is_listed_under_the_wrong_field_is_told(video, tmp_path):
    with pytest.raises(DataError, match="is no picture"):
        readers.read_image(f"{video}#start=1,end=2")
    with pytest.raises(DataError, match="is no video"):
        readers.read_frames(f"{tmp_path}/a.svs#x=0,y=0,width=8,height=8")


def test_only_videos_have_intervals():
    assert paths.split_member("v/a.MP4#start=1,end=2") == ("v/a.MP4", "#start=1,end=2")
    assert paths.is_part("a.mkv#start=1,end=2") and not paths.is_part("a.h5#3")
    for plain in ("a.nii.gz#start=1", "a.mp4", "a.mp4#1"):
        assert paths.split_member(plain) == (plain, "")
