"""Destinations to look at while the pipe runs: in a browser, or in a window."""

from __future__ import annotations

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from pipert_shm.data import FrameData
from pipert_shm.events import KILL_EVENT_NAME
from pipert_shm.pictures import Mosaic
from pipert_shm.routine import DestinationRoutine
from pipert_shm.video.image import frame_of
from pipert_shm.video.opencv import VideoError, cv2

BOUNDARY = "frame"
PATIENCE = 10.0  # seconds in which a viewer must take a picture
KEYS_TO_END = (ord("q"), 27)  # and Esc


class MjpegServer(DestinationRoutine):
    """Shows the frames that it gets to any number of browsers, as Motion JPEG: `<img src="http://127.0.0.1:8090/">`.

    A viewer gets the newest frame as soon as it has taken the one before, so a slow one skips frames, and nobody waits for it.
    While nobody looks, nothing is encoded. There is no password: beyond this machine, put it behind a server that asks for one.

    Frames of several cameras are shown in one picture, at most 1280 pixels wide, 30 times a second: a tile each, with its name.

    :param port: to listen on.
    :param host: address to listen on; by default this machine only.
    :param quality: of the JPEG pictures, 1 to 100.
    :param mosaic: False shows each frame as it comes: for pictures of several cameras that a routine of yours has made.
    :raises ValueError: when the quality is out of range.
    """

    def __init__(
        self, port: int = 8090, host: str = "127.0.0.1", name: str | None = None, *, quality: int = 80, mosaic: bool = True
    ) -> None:
        if not 1 <= quality <= 100:
            raise ValueError(f"quality must be from 1 to 100, not {quality}")
        super().__init__(name)
        self._address = (host, port)
        self._quality = quality
        self._has_mosaic = mosaic

    def setup(self) -> None:
        """Begins to listen.

        :raises OSError: when it can't, on a port that is in use, say.
        """
        self._mosaic = Mosaic() if self._has_mosaic else None
        self._server = _Server(self._address)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name=f"{self.name}-http", daemon=True)
        self._thread.start()

    def main_logic(self, data: np.ndarray | FrameData) -> None:
        """Shows one frame to those who look.

        :raises VideoError: when OpenCV can't make a JPEG picture of it.
        :raises ValueError: when there are several cameras, and it is no picture: (h, w[, 1|3|4]) uint8.
        """
        if not self._server.viewers:
            if self._mosaic is not None:
                self._mosaic.note(self.meta.origin)
            return
        picture = frame_of(data) if self._mosaic is None else self._mosaic.add(self.meta.origin, frame_of(data))
        if picture is None:
            return
        encoded, jpeg = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, self._quality))
        if not encoded:
            raise VideoError(self.name, "OpenCV can't make a JPEG picture of this frame")
        self._server.show(jpeg.tobytes())

    def cleanup(self) -> None:
        """Sends the viewers away, and listens no more."""
        self._server.end()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    """Holds the newest picture, for a thread per viewer."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int]) -> None:
        try:
            super().__init__(address, _Viewer)
        except OSError as error:
            raise OSError(
                error.errno, f"can't listen on {address[0]}:{address[1]}: {error.strerror}; choose another port"
            ) from error
        self.viewers = 0
        self._news = threading.Condition()
        self._picture = b""
        self._number = 0
        self._over = False

    def show(self, picture: bytes) -> None:
        with self._news:
            self._picture = picture
            self._number += 1
            self._news.notify_all()

    def come(self, by: int) -> None:
        with self._news:
            self.viewers += by

    def newer(self, than: int) -> tuple[int, bytes] | None:
        """The next picture that is newer, and its number; None when there will be none."""
        with self._news:
            self._news.wait_for(lambda: self._over or self._number > than)
            return None if self._over else (self._number, self._picture)

    @property
    def newest(self) -> int:
        return self._number

    def end(self) -> None:
        with self._news:
            self._over = True
            self._news.notify_all()
        self.shutdown()
        self.server_close()


class _Viewer(BaseHTTPRequestHandler):
    """One browser."""

    timeout = PATIENCE
    server: _Server

    def do_GET(self) -> None:
        number = self.server.newest  # of before it counts as a viewer, so that it gets all that is encoded for it
        self.server.come(1)
        try:
            self.send_response(200)
            self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            while (news := self.server.newer(number)) is not None:
                number, picture = news
                head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                self.wfile.write(head.encode() + picture + b"\r\n")
            self.wfile.write(f"--{BOUNDARY}--\r\n".encode())
        except OSError:
            self.close_connection = True  # it has gone, or takes nothing more
        finally:
            self.server.come(-1)

    def log_message(self, *arguments: object) -> None:
        """Nothing: each request would be a line on stderr."""


class Display(DestinationRoutine):
    """Shows the frames that it gets in a window, as OpenCV does. Key `q` or Esc kills the pipe.

    Frames of several cameras are shown in one picture, at most 1280 pixels wide: a tile each, with its name.

    :param title: of the window; the routine's name by default.
    :param mosaic: False shows each frame as it comes: for pictures of several cameras that a routine of yours has made.
    """

    def __init__(self, title: str | None = None, name: str | None = None, *, mosaic: bool = True) -> None:
        super().__init__(name)
        self._title = title or self.name
        self._has_mosaic = mosaic

    def setup(self) -> None:
        """Looks for a screen.

        :raises VideoError: when there is none.
        """
        # Without one the window system's library would end the process.
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise VideoError(
                self._title,
                "there is no screen to show a window on (DISPLAY is not set); use MjpegServer to look by a browser, or ssh -X",
            )
        self._mosaic = Mosaic() if self._has_mosaic else None

    def main_logic(self, data: np.ndarray | FrameData) -> None:
        """Shows one frame.

        :raises ValueError: when there are several cameras, and it is no picture: (h, w[, 1|3|4]) uint8.
        """
        picture = frame_of(data) if self._mosaic is None else self._mosaic.add(self.meta.origin, frame_of(data))
        if picture is not None:
            cv2.imshow(self._title, picture)
        if cv2.waitKey(1) & 0xFF in KEYS_TO_END:
            self.notify_event(KILL_EVENT_NAME)

    def cleanup(self) -> None:
        """Closes the window."""
        cv2.destroyAllWindows()
