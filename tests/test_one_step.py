"""From the decoder into the array in one step: each format, size and part, beside what OpenCV makes of the same video."""

from __future__ import annotations

import itertools
import logging
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np
import pytest

from media import bikes, frames_of
from pipert_shm.data import FORMATS, Format
from pipert_shm.video import VideoError, VideoSource
from pipert_shm.video.capture import OpenCVCapture
from pipert_shm.video.fit import Wanted
from pipert_shm.video.formats import cropped, from_bgr, resized, shape_of, to_bgr
from pipert_shm.video.pyav import PyAVCapture
from test_video_files import play

GUARD = 4096
MARK = 0xA5


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio, dB; 100 where they are equal."""
    error = np.mean((one.astype(float) - other) ** 2)
    return 10 * np.log10(255**2 / error) if error else 100.0


def first(path: Path, wanted: Wanted) -> np.ndarray:
    """The first picture, by PyAV, in an array with marks around it, which stay."""
    capture = PyAVCapture(path, wanted)
    assert capture.grab()
    around = np.full(GUARD + int(np.prod(capture.shape)) * wanted.dtype.itemsize + GUARD, MARK, np.uint8)
    out = around[GUARD:-GUARD].view(wanted.dtype).reshape(capture.shape)
    assert capture.retrieve(out) is out
    capture.close()
    assert (around[:GUARD] == MARK).all()
    assert (around[-GUARD:] == MARK).all(), "libswscale wrote past the end of the slot"
    return out


def lossless(path: Path, picture: np.ndarray, kind: str, **settings: object) -> Path:
    """A video of one picture, without loss, in this pixel format."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = picture.shape[:2] if kind != "yuv420p" else (picture.shape[0] * 2 // 3, picture.shape[1])
        stream.pix_fmt = kind
        for name, value in settings.items():
            setattr(stream, name, value)
        frame = av.VideoFrame.from_ndarray(picture, kind)
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return next(frames_of(bikes(), 1))


SIZES = [None, (320, 180), (322, 182), (1000, 700)]
PARTS = [None, (100, 50, 202, 98), (64, 32, 320, 160)]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("size", "roi"), list(itertools.product(SIZES, PARTS)))
def test_the_picture_is_that_of_opencv(
    picture: np.ndarray, format: Format, size: tuple[int, int] | None, roi: tuple[int, int, int, int] | None
) -> None:
    """At least 36 dB: libswscale and OpenCV scale by other filters, and round otherwise."""
    part = picture if roi is None else cropped(picture, "bgr", roi)
    plain = from_bgr(part if size is None else resized(part, "bgr", size), format)
    assert psnr(first(bikes(), Wanted(format, 8, roi, size)), plain) > 36


@pytest.mark.parametrize("roi", [None, (100, 50, 201, 99), (101, 51, 201, 99), (0, 0, 640, 271)])
def test_in_bgr_without_scaling_it_is_the_same_to_the_bit(picture: np.ndarray, roi: tuple[int, int, int, int] | None) -> None:
    part = picture if roi is None else cropped(picture, "bgr", roi)
    np.testing.assert_array_equal(first(bikes(), Wanted(roi=roi)), part)
    np.testing.assert_array_equal(first(bikes(), Wanted("rgb", roi=roi)), part[..., ::-1])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("width", [2, 6, 14, 30, 34, 62, 66, 178, 854])
def test_nothing_is_written_beside_the_array_at_any_width(picture: np.ndarray, format: Format, width: int) -> None:
    """`first` looks at what lies around it."""
    for height in (2, 10, 101 if format in ("bgr", "rgb", "gray") else 102):
        out = first(bikes(), Wanted(format, size=(width, height)))
        assert out.shape == shape_of(format, width, height)
        expected = resized(picture, "bgr", (width, height))
        assert psnr(to_bgr(out, format), expected if format != "gray" else to_bgr(from_bgr(expected, "gray"), "gray")) > 24


def test_both_backends_give_what_is_wanted() -> None:
    for format in FORMATS:
        wanted = Wanted(format, size=(160, 90), roi=(0, 0, 320, 180))
        ours, theirs = PyAVCapture(bikes(), wanted), OpenCVCapture(bikes(), wanted)
        for _ in range(5):
            assert ours.grab()
            assert theirs.grab()
            assert ours.shape == theirs.shape == shape_of(format, 160, 90)
            other = theirs.retrieve(np.empty(theirs.shape, np.uint8))
            assert other is not None
            assert psnr(ours.retrieve(None), other) > 36
        ours.close()
        theirs.close()


def test_an_odd_height_loses_its_last_row_in_a_planar_format(tmp_path: Path) -> None:
    wide = np.full((61, 65, 3), 90, np.uint8)
    video = lossless(tmp_path / "odd.mkv", np.dstack([wide, np.full_like(wide[..., :1], 255)]), "bgra")
    assert first(video, Wanted("i420")).shape == (90, 64)
    np.testing.assert_allclose(to_bgr(first(video, Wanted("i420"))), 90, atol=2)
    np.testing.assert_array_equal(first(video, Wanted()), wide)


# ---- ranges, matrices, depths ----------------------------------------------------------------------


def ramp(width: int = 256, height: int = 64) -> np.ndarray:
    """A planar picture with every brightness in it."""
    picture = np.full((height * 3 // 2, width), 128, np.uint8)
    picture[:height] = np.arange(width) % 256
    return picture


def test_the_range_of_a_video_is_heeded(tmp_path: Path) -> None:
    limited = first(lossless(tmp_path / "a.mkv", ramp(), "yuv420p"), Wanted("gray"))
    assert (limited[0, 16], limited[0, 235]) == (0, 255), "16 is black, and 235 is white"
    full = first(lossless(tmp_path / "b.mkv", ramp(), "yuv420p", color_range=2), Wanted("gray"))
    np.testing.assert_allclose(full[0].astype(int), np.arange(256), atol=1)
    planar = first(tmp_path / "b.mkv", Wanted("i420"))
    assert (planar[0, 0], planar[0, 255]) == (16, 235), "planar frames have the range from 16 to 235, so that OpenCV reads them"


@pytest.mark.parametrize("matrix", [1, 2, 5, 6, 7, 9])  # BT.709, not told, BT.470, SMPTE 170M and 240M, BT.2020
def test_colours_are_opencv_s_by_the_matrix_that_the_video_tells_of(tmp_path: Path, matrix: int) -> None:
    planar = ramp().clip(16, 235)
    planar[64:80], planar[80:] = 90, 200
    video = lossless(tmp_path / "a.mkv", planar, "yuv420p", colorspace=matrix)
    np.testing.assert_allclose(first(video, Wanted()).astype(int), next(frames_of(video, 1)), atol=2)
    np.testing.assert_array_equal(first(video, Wanted("i420")), planar, "planes stay what they are")


def test_sixteen_bits_keep_their_values(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    depth = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 21
    video = lossless(tmp_path / "depth.mkv", depth, "gray16le")
    np.testing.assert_array_equal(first(video, Wanted("gray", 16)), depth)
    np.testing.assert_array_equal(first(video, Wanted("bgr", 16))[..., 1], depth)
    capture = PyAVCapture(video, Wanted("gray"), logger=logging.getLogger("depth"))
    assert capture.grab()
    np.testing.assert_allclose(capture.retrieve(None).astype(int), depth // 256, atol=1)
    assert "has 16 bits a pixel, of which the upper 8 are kept: bits=16 keeps all" in caplog.text
    capture.close()


def test_sixteen_bits_where_there_are_eight() -> None:
    with pytest.raises(VideoError, match=r"bikes\.mp4' has 8 bits a channel \(yuv420p\): leave bits=16 away"):
        VideoSource(bikes(), format="gray", bits=16).setup()


def test_a_folder_of_pictures_with_sixteen_bits(tmp_path: Path) -> None:
    depth = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 21
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), depth + number)
    frames = [frame for frame, _ in play(VideoSource(tmp_path, format="gray", bits=16))]
    for number, frame in enumerate(frames):
        np.testing.assert_array_equal(frame, depth + number)
    (tmp_path / "1.png").unlink()
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((48, 64), np.uint8))
    with pytest.raises(VideoError, match=r"1\.png' has no 16 bits a channel, but uint8: leave bits=16 away"):
        play(VideoSource(tmp_path, format="gray", bits=16))


def test_a_gif_has_a_palette(tmp_path: Path) -> None:
    colours = np.zeros((40, 60, 3), np.uint8)
    colours[:20, :, 2], colours[20:, :, 0] = 255, 255
    with av.open(str(tmp_path / "a.gif"), "w") as container:
        stream = container.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = 60, 40, "bgr8"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(colours, "bgr24").reformat(format="bgr8")))
        container.mux(stream.encode())
    np.testing.assert_allclose(first(tmp_path / "a.gif", Wanted()).astype(int), colours, atol=40)
    np.testing.assert_allclose(
        first(tmp_path / "a.gif", Wanted(roi=(10, 10, 20, 20))).astype(int), colours[10:30, 10:30], atol=40
    )


# ---- turned videos -----------------------------------------------------------------------------------


@pytest.fixture(params=[90, 180, 270])
def turned(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A video as telephones write them: a picture lies on its side, and a matrix says how to turn it."""
    path = tmp_path / "turned.mp4"
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:32, :48] = 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "bgr24")))
        container.mux(stream.encode())
    data = bytearray(path.read_bytes())
    angle: Literal[90, 180, 270] = request.param
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[angle]
    at = data.index(b"tkhd") + 4 + 40
    for place, value in ((0, cosine), (1, sine), (3, -sine), (4, cosine)):
        data[at + 4 * place : at + 4 * place + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path, np.rot90(picture, -angle // 90)


def test_a_turned_video_stands_upright(turned: tuple[Path, np.ndarray]) -> None:
    path, upright = turned
    np.testing.assert_allclose(first(path, Wanted()).astype(int), upright, atol=6)
    height, width = upright.shape[:2]
    part = first(path, Wanted("i420", roi=(0, 0, width // 2, height), size=(16, 16)))
    assert psnr(to_bgr(part), resized(np.ascontiguousarray(upright[:, : width // 2]), "bgr", (16, 16))) > 30
