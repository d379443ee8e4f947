"""Builds pipelines of GStreamer for sources of video, runs them, and says why one fails."""

from __future__ import annotations

import os
import re
from typing import Any

from pipert_shm.video import gst as g
from pipert_shm.video.capture import Source, address_of, cannot_open, is_device, is_pipeline, shown
from pipert_shm.video.fit import Wanted
from pipert_shm.video.opencv import VideoError

FORMATS = "I420, NV12, Y42B, Y444, GRAY8, BGR, RGB, GRAY16_LE, BGRx, RGBx, YUY2, UYVY"
"""What is taken as it comes. For each other format one of these is as good without a conversion of colours, for which GStreamer
would ask the video's matrix, and the other backends would not."""

FURTHER = ", BGRA, RGBA"
"""What is taken from a user's pipeline too: it need not convert."""

MOST_QUEUED = 4
"""Frames that wait in an appsink: of a live stream the newest ones, of a file the next ones."""

_CONVERT = "videoconvert n-threads=1 dither=none ! appsink name=sink"
# Constants: what a user gives is set as a property, in which nothing has a meaning.
_PIPELINES = {
    "rtsp": f"rtspsrc name=source latency=0 ! application/x-rtp,media=video ! decodebin ! {_CONVERT}",
    "file": f"filesrc name=source ! decodebin ! {_CONVERT}",
    "url": f"uridecodebin name=source ! {_CONVERT}",
    "device": f"v4l2src name=source ! capsfilter name=wish ! decodebin ! {_CONVERT}",
}
_GENERAL = "Internal data stream error", "Could not ", "Resource not found", "Unhandled error"
_NO_SUCH_ELEMENT = 1


class Pipeline:
    """A pipeline that runs. One thread at a time.

    :param live: whether old frames give way to new ones.
    :raises VideoError: when it can't be built.
    """

    def __init__(self, source: Source, wanted: Wanted, *, timeout: float, live: bool, transport: str) -> None:
        self._source = source
        self._name = shown(source)
        self._live = live
        self._own = is_pipeline(source)
        self._set_by_user = set(re.findall(r"\b([a-z-]+)\s*=", str(source).rpartition("appsink")[2])) if self._own else set()
        self._missing = ""
        g.start(self._name)
        kind = "" if self._own else _kind_of(source)
        self._pipeline = self._parse(str(source) if self._own else _PIPELINES[kind])
        self.bus = g.gst.gst_element_get_bus(self._pipeline)
        self.sink = g.ffi.NULL
        try:
            self.sink = self._only_sink() if self._own else g.gst.gst_bin_get_by_name(self._pipeline, b"sink")
            self._set_sink()
            if not self._own:
                self._set_source(kind, wanted, timeout, transport)
        except BaseException:
            self.close()
            raise

    def _parse(self, description: str) -> Any:
        context, failure = g.gst.gst_parse_context_new(), g.ffi.new("GError **")
        try:
            pipeline = g.gst.gst_parse_launch_full(description.encode(), context, 1, failure)
            missing = g.gst.gst_parse_context_get_missing_elements(context)
            element = g.text(missing[0]) if missing != g.ffi.NULL else ""
            g.glib.g_strfreev(missing)
        finally:
            g.gst.gst_parse_context_free(context)
        if pipeline == g.ffi.NULL:
            lacks = failure[0].code == _NO_SUCH_ELEMENT
            said = g.taken_error(failure)
            if lacks:
                raise cannot_open(self._source, f"GStreamer has no element {element!r}", g.to_install(element))
            raise cannot_open(self._source, said)
        pipeline = g.gst.gst_object_ref_sink(pipeline)
        if g.gobject.g_type_check_instance_is_a(pipeline, g.gst.gst_pipeline_get_type()):
            return pipeline
        whole = g.gst.gst_object_ref_sink(g.gst.gst_pipeline_new(g.ffi.NULL))
        g.gst.gst_bin_add(whole, pipeline)
        g.gst.gst_object_unref(pipeline)
        return whole

    def _only_sink(self) -> Any:
        iterator, value = g.gst.gst_bin_iterate_all_by_element_factory_name(self._pipeline, b"appsink"), g.ffi.new("GValue *")
        found = []
        while g.gst.gst_iterator_next(iterator, value) == 1:
            found.append(g.gst.gst_object_ref(g.gobject.g_value_get_object(value)))
            g.gobject.g_value_unset(value)
        g.gst.gst_iterator_free(iterator)
        if len(found) != 1:
            for each in found:
                g.gst.gst_object_unref(each)
            raise cannot_open(self._source, f"it has {len(found)} appsinks", "one appsink must stand at its end")
        return found[0]

    def _set_sink(self) -> None:
        """Sets what the user's pipeline does not set itself."""
        formats = FORMATS + (FURTHER if self._own else "")
        options = {
            "max-buffers": MOST_QUEUED,
            "drop": self._live,
            "enable-last-sample": False,
            "qos": False,
            "caps": f"video/x-raw, format=(string){{ {formats} }}",
        }
        for name, value in options.items():
            if name not in self._set_by_user:
                g.set_value(self.sink, name, value)
        if not self._own:
            g.set_value(self.sink, "sync", False)

    def _set_source(self, kind: str, wanted: Wanted, timeout: float, transport: str) -> None:
        source = g.gst.gst_bin_get_by_name(self._pipeline, b"source")
        try:
            if kind == "rtsp":
                g.set_text(source, "location", os.fspath(self._source))  # type: ignore[arg-type]
                g.set_value(source, "protocols", transport)
                g.set_value(source, "buffer-mode", "none")  # so stamps are the camera's, whenever its packets come
                g.set_value(source, "tcp-timeout", int(timeout * 1e6))
                g.set_value(source, "timeout", int(timeout * 1e6))
                g.set_value(source, "add-reference-timestamp-meta", True)
            elif kind == "file":
                g.set_text(source, "location", os.fsencode(address_of(self._source)))  # type: ignore[arg-type]
            elif kind == "url":
                g.set_text(source, "uri", os.fspath(self._source))  # type: ignore[arg-type]
            else:
                device = f"/dev/video{self._source}" if isinstance(self._source, int) else self._source
                g.set_text(source, "device", os.fsencode(device))
                if wanted.size is not None:
                    self._wish(wanted.size)
        finally:
            g.gst.gst_object_unref(source)

    def _wish(self, size: tuple[int, int]) -> None:
        """Asks a camera for a size, if it has it."""
        kinds = [f"{kind}, width=(int){size[0]}, height=(int){size[1]}" for kind in ("video/x-raw", "image/jpeg")]
        wish = g.gst.gst_bin_get_by_name(self._pipeline, b"wish")
        g.set_value(wish, "caps", "; ".join([*kinds, "video/x-raw", "image/jpeg"]))
        g.gst.gst_object_unref(wish)

    def start(self) -> None:
        """Starts it."""
        change = g.gst.gst_element_set_state(self._pipeline, g.PAUSED)
        # A user's pipeline without a camera, such as videotestsrc, plays at its own speed, unless it is read like a file.
        if (change == g.NO_PREROLL or not self._live) and "sync" not in self._set_by_user:
            g.set_value(self.sink, "sync", False)
        g.gst.gst_element_set_state(self._pipeline, g.PLAYING)  # why it fails, a message tells

    def heed(self, message: g.Message) -> None:
        """Does what a message asks for."""
        if message.type == g.LATENCY:
            g.gst.gst_bin_recalculate_latency(self._pipeline)
        elif message.type == g.ELEMENT:
            self._missing = self._missing or message.text

    def explained(self, message: g.Message, *, opening: bool) -> VideoError:
        """The error that a message tells of, with its cause, and what to do."""
        cause, advice = self._explain(message)
        if opening:
            return cannot_open(self._source, cause, advice)
        return VideoError(self._name, f"can't read on in {self._name!r}: {cause}{f'; {advice}' if advice else ''}")

    def _explain(self, message: g.Message) -> tuple[str, str]:
        """Cause and advice."""
        said = message.text.rstrip(".")
        detail = message.detail.partition("\n")[0][:200].rstrip(".")
        if self._missing:
            return f"GStreamer has no {self._missing}", f"{g.INSTALL}{g.LIBAV} {g.GOOD} {g.BAD}"
        if (message.domain, message.code) == ("core", 12):
            return said, f"{g.INSTALL}{g.BASE} {g.LIBAV} {g.GOOD} {g.BAD}"
        if "not-negotiated" in detail and self._own:
            takes = f"video/x-raw in {FORMATS}{FURTHER}"
            advice = f"put videoconvert before the appsink, which takes {takes}; gst-launch-1.0 -v shows the formats"
            return f"{message.element} finds no format that the others take", advice
        if "not-linked" in detail and not self._own:
            return "there is no video in it, only sound perhaps", ""
        if "reason error" in detail:
            return f"{message.element} gets no data", ""
        says_more = said.startswith(_GENERAL) or said.lower() in detail.lower()
        cause = said if not detail else detail if says_more else f"{said} ({detail})"
        return cause, "" if self._own else _answer(message)

    def rendered(self) -> int:
        """How many frames have come to the appsink."""
        told, count = g.ffi.new("void **"), g.ffi.new("uint64_t *")
        g.gobject.g_object_get(self.sink, b"stats", told, g.ffi.NULL)
        g.gst.gst_structure_get_uint64(told[0], b"rendered", count)
        g.gst.gst_structure_free(told[0])
        return int(count[0])

    def seconds(self) -> float:
        """How long the video is; 0 where nobody knows."""
        length = g.ffi.new("int64_t *")
        return max(0, length[0]) / 1e9 if g.gst.gst_element_query_duration(self._pipeline, g.TIME, length) else 0.0

    def close(self) -> None:
        """Stops it, and frees it."""
        if self._pipeline == g.ffi.NULL:
            return
        g.gst.gst_element_set_state(self._pipeline, g.NULL)
        for each in self.sink, self.bus, self._pipeline:
            if each != g.ffi.NULL:
                g.gst.gst_object_unref(each)
        self.sink = self.bus = self._pipeline = g.ffi.NULL


def _answer(message: g.Message) -> str:
    """What to do about the answer of a server; empty where there was none."""
    answer = re.search(r"\b[45]\d\d\b", message.detail)
    if (message.domain, message.code) == ("resource", 15) or (answer and answer[0] in ("401", "403")):
        return "the server answers, but lets nobody in without the right user name and password; check them"
    if answer is None:
        return ""
    if answer[0] == "404":
        return "the server answers, but has nothing there; check the address from the host's name on"
    return "the server answers, but sends no video; check the address, and the server's log"


def _kind_of(source: Source) -> str:
    if is_device(source):
        return "device"
    text = os.fspath(source)  # type: ignore[arg-type]
    if text.startswith(("rtsp://", "rtsps://")):
        return "rtsp"
    return "url" if "://" in text else "file"
