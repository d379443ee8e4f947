"""Shows what a routine of a running pipe sends: in a window, in the terminal, or on a page (`pipert-shm view`)."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import numpy as np

from pipert_shm.api.preview import picture_of
from pipert_shm.attached import Attached, attach
from pipert_shm.cli.far import far
from pipert_shm.cli.terminal import PICTURES, picture_protocol
from pipert_shm.display.pictures import encoded
from pipert_shm.errors import PipeStateError
from pipert_shm.system.streams import say
from pipert_shm.tap import Tap

Way = Literal["window", "terminal", "page"]
Show = Callable[[np.ndarray], bool]

LOOK_S = 0.5  # how long a picture is waited for before the window is looked after
QUALITY = 80  # of JPEG
WIDEST_WINDOW = 1280  # pixels, at first
ANSWER_S = 3.0  # that a screen elsewhere may take to answer
AGAIN_S = 0.2  # between two tries to tap a routine whose flow is being restarted
KEYS_TO_END = (ord("q"), 27)  # and Esc


def view(target: str, way: Way | None, port: int) -> None:
    """Shows it until the pipe or the routine has ended, the window is closed, or Ctrl-C.

    :param target: `PIPE` or `PIPE/ROUTINE`; `PIPE@HOST` for one of another host.
    :param way: where; None: a window where there is a screen, else the terminal where it can, else a page.
    :param port: of the page; 0: a free one.
    :raises PipertError, OSError: when there is nothing to show, or no such way here.
    """
    pipe, _, routine = target.partition("/")
    if (elsewhere := far(pipe)) is not None:
        with _opened(way, target, port) as show:
            _view_far(*elsewhere, routine, show)
        return
    with attach(pipe) as attached, _opened(way, target, port) as show:
        name = routine or _chosen(attached)
        say(f"{attached.name}/{name}")
        while (tap := _tapped(attached, name)) is not None:
            with tap:
                if not _shown(tap, show):
                    return


def _view_far(pipe: str, host: str, routine: str, show: Show) -> None:
    """Shows what a pipe of another host sends. A picture is asked for when the one before is shown, so none pile up.

    :raises HostsError, RemoteRefusal: when it can't be reached, or refuses.
    """
    import cv2

    from pipert_shm.agents.asking import Asker
    from pipert_shm.agents.reaching import hub_from

    picture: np.ndarray | None = None
    with Asker(hub_from()) as asker:
        while True:
            answer = asker.ask(host, "picture", pipe=pipe, routine=routine)
            if picture is None:
                say(f"{pipe}@{host}/{answer.value['name']}")
            if answer.value["ended"]:
                return
            if answer.body:
                picture = cv2.imdecode(np.frombuffer(answer.body, np.uint8), cv2.IMREAD_COLOR)
            if picture is not None and not show(picture):
                return


class Pictures:
    """The newest pictures of a routine, as JPEG, for somebody on another host.

    :param routine: its name; empty: the last one that sends anything.
    :raises PipertError: when it can't be tapped.

    Attributes:
        name: the routine's.
    """

    def __init__(self, pipe: str, routine: str) -> None:
        self._attached = attach(pipe)
        self._tap: Tap | None = None
        try:
            self.name = routine or _chosen(self._attached)
            self._tap = _tapped(self._attached, self.name)
        except BaseException:
            self._attached.close()
            raise

    def next_encoded(self) -> bytes:
        """The next one; empty where none comes for half a second.

        :raises StopIteration: when the routine has ended.
        :raises PipertError: when it sends no pictures.
        """
        while self._tap is not None:
            try:
                return encoded(picture_of(self._tap.read(LOOK_S), self._tap.meta), QUALITY)
            except TimeoutError:
                return b""
            except StopIteration:
                self._tap.close()
                self._tap = _tapped(self._attached, self.name)
            except ValueError as error:
                raise PipeStateError(f"it can't be shown: {error}") from None
        raise StopIteration

    def close(self) -> None:
        """Looks no more."""
        if self._tap is not None:
            self._tap.close()
        self._attached.close()


def _chosen(attached: Attached) -> str:
    """The routine to look at where none is named: the last one that sends anything.

    :raises PipeStateError: when there is none.
    """
    names: list[str] = [routine["routine_name"] for routine in attached.structure()["Routines"]]
    wires = attached.statistics().wires
    for name in reversed(names):
        if any(sender == name for sender, _ in wires):
            return name
    raise PipeStateError(f"no routine of pipe {attached.name!r} sends anything")


def _tapped(attached: Attached, name: str) -> Tap | None:
    """A tap of the routine, as soon as its flow is up; None when it has ended.

    :raises UnknownTarget, PipeStateError: when it can't be tapped.
    """
    while not attached.has_ended:
        routines = attached.statistics().routines
        if name in routines and routines[name].state in ("ended", "failed"):
            return None
        try:
            return attached.tap(name)
        except PipeStateError as error:
            if "does not run" not in str(error) and "died just now" not in str(error):
                raise
        time.sleep(AGAIN_S)
    return None


def _shown(tap: Tap, show: Show) -> bool:
    """Shows what comes; False when somebody has closed the window, True when the tap has ended."""
    picture: np.ndarray | None = None
    while True:
        try:
            payload = tap.read(LOOK_S)
            picture = picture_of(payload, tap.meta)
            del payload
        except TimeoutError:
            pass  # nothing new: the last picture is shown again, so that the window answers
        except StopIteration:
            return True
        except ValueError as error:
            raise PipeStateError(f"it can't be shown: {error}") from None
        if picture is not None and not show(picture):
            return False


# ---- where ---------------------------------------------------------------------------------------


@contextmanager
def _opened(way: Way | None, title: str, port: int) -> Iterator[Show]:
    trouble = _screen_trouble() if way in (None, "window") else ""
    if way == "window" and trouble:
        raise PipeStateError(f"there is no screen to show a window on ({trouble}); try --in terminal or --in page")
    if way == "window" or (way is None and not trouble):
        with _window(title) as show:
            yield show
        return
    protocol = picture_protocol() if way != "page" else None
    if way == "terminal" and protocol is None:
        raise PipeStateError("this terminal shows no pictures (it knows neither kitty's protocol nor sixel); try --in page")
    if protocol is not None:
        draw = PICTURES[protocol]
        yield lambda picture: draw(picture, sys.stdout)
        return
    with _page(port) as show:
        yield show


def _screen_trouble() -> str:
    """Why no window can be shown, in a few words; empty where one can. OpenCV's windows would end the process to say so."""
    display = os.environ.get("DISPLAY", "")
    host, colon, number = display.rpartition(":")
    number = number.partition(".")[0]
    if not colon or not number.isdigit():
        return f"DISPLAY is {display!r}" if display else "DISPLAY is not set"
    local = host.removeprefix("unix") == ""
    try:
        if local:
            with socket.socket(socket.AF_UNIX) as screen:
                screen.connect(f"/tmp/.X11-unix/X{number}")
        else:
            socket.create_connection((host, 6000 + int(number)), ANSWER_S).close()
    except (OSError, OverflowError) as error:
        return f"nothing answers at DISPLAY {display!r}: {error}"
    return ""


@contextmanager
def _window(title: str) -> Iterator[Show]:
    """A window of OpenCV's, as large as the picture, but no wider than a screen. It may be made larger or smaller.

    :raises PipeStateError: when this OpenCV has no windows.
    """
    import cv2

    opened = False

    def show(picture: np.ndarray) -> bool:
        nonlocal opened
        if not opened:
            cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
            height, width = picture.shape[:2]
            shrink = min(1.0, WIDEST_WINDOW / width)
            cv2.resizeWindow(title, round(width * shrink), round(height * shrink))
            opened = True
        elif not _is_open(title):
            return False
        cv2.imshow(title, picture)
        return cv2.waitKey(1) & 0xFF not in KEYS_TO_END

    try:
        yield show
    except cv2.error as error:
        if "not implemented" not in str(error):
            raise
        raise PipeStateError("this OpenCV (opencv-python-headless) has no windows; try --in terminal or --in page") from None
    finally:
        if opened:
            cv2.destroyAllWindows()


def _is_open(title: str) -> bool:
    """Whether nobody has closed the window."""
    import cv2

    try:
        return cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) >= 1
    except cv2.error:  # with its last window Qt is gone, too
        return False


@contextmanager
def _page(port: int) -> Iterator[Show]:
    """A page with a stream of JPEG pictures, for this machine only.

    :raises OSError: when the port is taken.
    """
    from pipert_shm.video.mjpeg import Viewers
    from pipert_shm.web.guard import Guard
    from pipert_shm.web.server import Server

    with ExitStack() as leaving:
        listener = leaving.enter_context(socket.create_server(("127.0.0.1", port)))
        viewers = Viewers()
        server = Server(
            Guard(viewers, token=None, hosts=(), origins=()),
            viewers.end,
            slow_client_s=1.0,
            lifespan="off",
            log_level="warning",
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="view-http", daemon=True)
        thread.start()
        say(f"look at http://127.0.0.1:{listener.getsockname()[1]}/ (Ctrl-C ends it)")

        def show(picture: np.ndarray) -> bool:
            if viewers.count:
                viewers.show(encoded(picture, QUALITY))
            return True

        try:
            yield show
        finally:
            server.should_exit = True
            thread.join()
