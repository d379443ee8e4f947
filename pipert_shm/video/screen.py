"""Destinations that show frames while the pipe runs: in browsers, or in a window."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Collection

import numpy as np

from pipert_shm.data import FrameData, Meta
from pipert_shm.display.pictures import Mosaic, viewable
from pipert_shm.errors import shown
from pipert_shm.events import KILL_EVENT_NAME
from pipert_shm.limits import check_port, is_count
from pipert_shm.routine import DestinationRoutine
from pipert_shm.video.formats import format_of
from pipert_shm.video.image import frame_of
from pipert_shm.video.opencv import VideoError, cv2
from pipert_shm.web.addresses import check_address

KEYS_TO_END = (ord("q"), 27)  # and Esc


class MjpegServer(DestinationRoutine):
    """Serves frames to any number of browsers, as Motion JPEG: open `http://127.0.0.1:8090/`.

    A viewer gets the newest frame when it has taken the one before, so a slow viewer skips frames and delays nobody. While
    nobody looks, nothing is encoded.

    It is guarded like the HTTP control. A page of another site can't show it (`<img src="http://127.0.0.1:8090/">`) unless the
    site is one of `origins`. Beyond this machine it needs a token.

    Frames of several cameras are shown in one picture, a tile each with its name, at most 1280 pixels wide, 30 times a second.
    Frames of every format are shown; of 16 bits a channel, the upper 8.

    :param port: to listen on.
    :param host: address to listen on; without a token, a loopback address.
    :param quality: of the JPEG pictures, 1 to 100.
    :param mosaic: False shows each frame as it comes, for frames that a routine of yours has put together.
    :param token: a secret that viewers must show. A browser opens `/?token=…`, in an `<img>`, too; a program sends
        `Authorization: Bearer …`.
    :param hosts: further host names of this server, besides localhost and IP addresses.
    :param origins: sites whose pages may show it, such as `http://localhost:3000`.
    :raises TypeError: when the token is not a str.
    :raises ValueError: when the quality is out of range, the token has characters that HTTP can't carry, or a token is missing.
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

        :raises OSError: when that fails, for example because the port is in use.
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
        """Shows one frame to the viewers.

        :raises VideoError: when OpenCV can't make a JPEG picture of it.
        :raises ValueError: when there are several cameras and the frame is no picture.
        """
        if not self._viewers.count:
            if self._mosaic is not None:
                self._mosaic.note(self.meta.origin)
            return
        picture = _picture(data, self.meta, self._mosaic)
        if picture is None:
            return
        encoded, jpeg = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, self._quality))
        if not encoded:
            raise VideoError(self.name, "OpenCV can't make a JPEG picture of this frame")
        self._viewers.show(jpeg.tobytes())

    def cleanup(self) -> None:
        """Disconnects the viewers, and stops listening."""
        self._server.should_exit = True
        self._thread.join()


def _picture(data: np.ndarray | FrameData, meta: Meta, mosaic: Mosaic | None) -> np.ndarray | None:
    """What to show after a frame; None if it is soon enough to show it with the next one."""
    frame = frame_of(data)
    format = format_of(frame, meta)
    return viewable(frame, format) if mosaic is None else mosaic.add(meta.origin, frame, format)


def _listener(address: tuple[str, int]) -> socket.socket:
    try:
        return socket.create_server(address, family=socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    except OSError as error:
        number = error.errno or 0
        why = os.strerror(number) if number > 0 else error.strerror  # for an unknown host name it is not an errno
        raise OSError(number, f"can't listen on {address[0]}:{address[1]}: {why}; choose another port") from error


class Display(DestinationRoutine):
    """Shows frames in a window of OpenCV's. The key `q` or Esc kills the pipe.

    Frames of several cameras are shown in one picture, a tile each with its name, at most 1280 pixels wide. Frames of every
    format are shown; of 16 bits a channel, the upper 8.

    :param title: of the window; the routine's name by default.
    :param mosaic: False shows each frame as it comes, for frames that a routine of yours has put together.
    """

    def __init__(self, title: str | None = None, name: str | None = None, *, mosaic: bool = True) -> None:
        super().__init__(name)
        self._title = title or self.name
        self._has_mosaic = mosaic

    def setup(self) -> None:
        """Checks that there is a screen.

        :raises VideoError: when there is none.
        """
        # Without a screen the window system's library would end the process.
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise VideoError(
                self._title,
                "there is no screen to show a window on (DISPLAY is not set); use MjpegServer to look by a browser, or ssh -X",
            )
        self._mosaic = Mosaic() if self._has_mosaic else None

    def main_logic(self, data: np.ndarray | FrameData) -> None:
        """Shows one frame.

        :raises ValueError: when there are several cameras and the frame is no picture.
        """
        picture = _picture(data, self.meta, self._mosaic)
        if picture is not None:
            cv2.imshow(self._title, picture)
        if cv2.waitKey(1) & 0xFF in KEYS_TO_END:
            self.notify_event(KILL_EVENT_NAME)

    def cleanup(self) -> None:
        """Closes the window."""
        cv2.destroyAllWindows()
