"""Destinations to look at while the pipe runs: in a browser, or in a window."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Collection

import numpy as np

from pipert_shm.data import FrameData
from pipert_shm.errors import shown
from pipert_shm.events import KILL_EVENT_NAME
from pipert_shm.limits import check_port, is_count
from pipert_shm.pictures import Mosaic
from pipert_shm.routine import DestinationRoutine
from pipert_shm.video.image import frame_of
from pipert_shm.video.opencv import VideoError, cv2
from pipert_shm.web.addresses import check_address

KEYS_TO_END = (ord("q"), 27)  # and Esc


class MjpegServer(DestinationRoutine):
    """Shows the frames that it gets to any number of browsers, as Motion JPEG: open `http://127.0.0.1:8090/`.

    A viewer gets the newest frame as soon as it has taken the one before, so a slow one skips frames, and nobody waits for it.
    While nobody looks, nothing is encoded.

    It is guarded as the HTTP control is. A page of another site can't show it, as `<img src="http://127.0.0.1:8090/">`, unless
    the site is one of `origins`; and beyond this machine it takes a token.

    Frames of several cameras are shown in one picture, at most 1280 pixels wide, 30 times a second: a tile each, with its name.

    :param port: to listen on.
    :param host: address to listen on; without a token, a loopback address.
    :param quality: of the JPEG pictures, 1 to 100.
    :param mosaic: False shows each frame as it comes: for pictures of several cameras that a routine of yours has made.
    :param token: what viewers have to show: a browser opens `/?token=…`, which may also stand in an `<img>`; a program sends
        `Authorization: Bearer …`.
    :param hosts: names by which it is reached, besides localhost and addresses.
    :param origins: sites whose pages may show it, such as `http://localhost:3000`.
    :raises TypeError: when the token is no str.
    :raises ValueError: when the quality is out of range, the token can't be shown, or there must be one.
    """

    def __init__(
        self,
        port: int = 8090,
        host: str = "127.0.0.1",
        name: str | None = None,
        *,
        quality: int = 80,
        mosaic: bool = True,
        token: str | None = None,
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
    ) -> None:
        check_port(port)
        if not (is_count(quality) and quality <= 100):
            raise ValueError(f"quality must be from 1 to 100, not {shown(quality)}")
        check_address(host, token, "watch")
        super().__init__(name)
        self._address = (host, port)
        self._quality = quality
        self._has_mosaic = mosaic
        self._token = token
        self._hosts = hosts
        self._origins = origins

    def setup(self) -> None:
        """Begins to listen.

        :raises OSError: when it can't, on a port that is in use, say.
        """
        from pipert_shm.video.mjpeg import Viewers  # heavy
        from pipert_shm.web.guard import Guard
        from pipert_shm.web.server import Server

        self._mosaic = Mosaic() if self._has_mosaic else None
        listener = _listener(self._address)
        self._viewers = Viewers()
        guarded = Guard(self._viewers, token=self._token, hosts=self._hosts, origins=self._origins)
        self._server = Server(guarded, self._viewers.end, slow_client_s=1.0, lifespan="off", log_level="warning")
        self._thread = threading.Thread(target=self._serve, args=(listener,), name=f"{self.name}-http", daemon=True)
        self._thread.start()

    def _serve(self, listener: socket.socket) -> None:
        with listener:
            self._server.run(sockets=[listener])

    def main_logic(self, data: np.ndarray | FrameData) -> None:
        """Shows one frame to those who look.

        :raises VideoError: when OpenCV can't make a JPEG picture of it.
        :raises ValueError: when there are several cameras, and it is no picture: (h, w[, 1|3|4]) uint8.
        """
        if not self._viewers.count:
            if self._mosaic is not None:
                self._mosaic.note(self.meta.origin)
            return
        picture = frame_of(data) if self._mosaic is None else self._mosaic.add(self.meta.origin, frame_of(data))
        if picture is None:
            return
        encoded, jpeg = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, self._quality))
        if not encoded:
            raise VideoError(self.name, "OpenCV can't make a JPEG picture of this frame")
        self._viewers.show(jpeg.tobytes())

    def cleanup(self) -> None:
        """Sends the viewers away, and listens no more."""
        self._server.should_exit = True
        self._thread.join()


def _listener(address: tuple[str, int]) -> socket.socket:
    try:
        return socket.create_server(address, family=socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    except OSError as error:
        number = error.errno or 0
        why = os.strerror(number) if number > 0 else error.strerror  # of a name that nobody knows, it is no errno
        raise OSError(number, f"can't listen on {address[0]}:{address[1]}: {why}; choose another port") from error


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
