"""Records how Ultralytics puts pictures into a network's input, for test_letterbox.py. It takes the package `ultralytics`.

python tests/record_letterbox.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

SIZE = (32, 24)  # width and height of the input
FRAMES = ((53, 37), (20, 40), (31, 8), (32, 24), (7, 9))  # widths and heights of pictures
RECORDED = Path(__file__).parent / "letterboxed.npz"


def picture(width: int, height: int) -> np.ndarray:
    """Waves of three colours, BGR."""
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    waves = [np.sin(across / (3 + number) + number) * np.cos(down / (4 + number)) for number in range(3)]
    return (np.dstack(waves) * 127 + 128).astype(np.uint8)


def main() -> None:
    from ultralytics.data.augment import LetterBox

    letterbox = LetterBox(SIZE[::-1], auto=False)
    np.savez_compressed(RECORDED, **{f"{width}x{height}": letterbox(image=picture(width, height)) for width, height in FRAMES})


if __name__ == "__main__":
    main()
