"""How frames become a network's input: beside what the libraries make of them, which trained the networks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipert_shm.data import Format
from pipert_shm.video.formats import from_bgr
from pipert_shm.video.models.letterbox import Letterbox
from pipert_shm.video.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from record_letterbox import FRAMES, RECORDED, SIZE, picture


@pytest.mark.parametrize("frame", FRAMES)
def test_the_input_is_that_of_ultralytics(frame: tuple[int, int]) -> None:
    with np.load(RECORDED) as recorded:
        theirs = recorded[f"{frame[0]}x{frame[1]}"]
    blob, _ = Letterbox(Preprocessing(), SIZE).blob([picture(*frame)], ["bgr"])
    assert np.abs(blob[0] - theirs[..., ::-1].transpose(2, 0, 1) / 255).max() < 1e-6


def test_each_frame_of_a_batch_is_padded_by_itself() -> None:
    """The canvas is used again: nothing of a frame may be left beside the next one."""
    letterbox = Letterbox(Preprocessing(), SIZE)
    frames = [picture(*frame) for frame in FRAMES]
    together, _ = letterbox.blob(frames, ["bgr"] * len(frames))
    for number, frame in enumerate(frames):
        alone, _ = Letterbox(Preprocessing(), SIZE).blob([frame], ["bgr"])
        assert (together[number] == alone[0]).all()


@pytest.mark.parametrize("colours", ["rgb", "bgr"])
@pytest.mark.parametrize("format", ["bgr", "rgb", "gray", "i420", "nv12"])
def test_all_formats_come_to_the_same_picture(format: Format, colours: str) -> None:
    wanted = Preprocessing(colours=colours, fit="stretch")  # type: ignore[arg-type]
    seen = cv2.GaussianBlur(picture(64, 48), (0, 0), 3)
    if format == "gray":
        seen = cv2.cvtColor(cv2.cvtColor(seen, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    frame = seen[..., ::-1] if format == "rgb" else seen[..., 0] if format == "gray" else from_bgr(seen, format)
    ours, _ = Letterbox(wanted, SIZE).blob([np.ascontiguousarray(frame)], [format])
    of_bgr, _ = Letterbox(wanted, SIZE).blob([seen], ["bgr"])
    difference = np.abs(ours - of_bgr).mean()
    assert difference < (0.04 if format in ("i420", "nv12") else 0.002)  # colours of half the size differ


def test_numbers_are_normalised_as_torchvision_does_it() -> None:
    wanted = Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD, fit="stretch")
    frame = picture(*SIZE)
    blob, _ = Letterbox(wanted, SIZE).blob([frame], ["bgr"])
    theirs = (frame[..., ::-1] / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    assert np.abs(blob[0] - theirs.transpose(2, 0, 1)).max() < 1e-5


def test_the_middle_of_a_frame_is_cut_out() -> None:
    wanted = Preprocessing(fit="crop", colours="bgr")
    frame = picture(90, 24)
    blob, (placement,) = Letterbox(wanted, (24, 24)).blob([frame], ["bgr"])
    assert placement.region == (-33, 0, 57, 24)
    assert np.allclose(blob[0], frame[:, 33:57].transpose(2, 0, 1) / 255)


def test_sixteen_bits_lose_their_lower_eight() -> None:
    frame = picture(*SIZE)
    blob, _ = Letterbox(Preprocessing(), SIZE).blob([frame.astype(np.uint16) << 8 | 0x7F], ["bgr"])
    of_eight, _ = Letterbox(Preprocessing(), SIZE).blob([frame], ["bgr"])
    assert (blob == of_eight).all()
