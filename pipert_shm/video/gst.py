"""The system's GStreamer, called by cffi: its functions, its start, and what its messages say.

PyPI has no GStreamer for Linux. Its binding `gi` would be a second way to do the same, for the system's own Python only. This
works with every version, and releases the GIL in each call. None of our code runs in GStreamer's threads.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import cffi

from pipert_shm.display.masking import masked
from pipert_shm.video.opencv import VideoError

BASE, GOOD, BAD, LIBAV = (f"gstreamer1.0-{name}" for name in ("plugins-base", "plugins-good", "plugins-bad", "libav"))
INSTALL = "apt-get install --no-install-recommends "

NULL, PAUSED, PLAYING = 1, 3, 4  # states
FAILED, NO_PREROLL = 0, 3  # of a change of states; a live pipeline has no preroll
TIME = 3  # a format
EOS, ERROR, WARNING, TAG, ELEMENT, LATENCY, ASYNC_DONE, QOS, STREAM_START = (1 << n for n in (0, 1, 2, 4, 15, 19, 21, 24, 28))
NEVER = (1 << 64) - 1
READ = 1
CORRUPTED = 1 << 8
NTP_TO_UNIX = 2_208_988_800

ffi = cffi.FFI()
ffi.cdef("""
    typedef struct { uint32_t domain; int code; char *message; } GError;
    typedef struct { size_t type; uint64_t data[2]; } GValue;
    typedef struct {
        size_t type; int refcount; int lockstate; unsigned flags; void *copy, *dispose, *free; unsigned bits; void *pointer;
    } GstMiniObject;
    typedef struct { GstMiniObject object; void *pool; uint64_t pts, dts, duration, offset, offset_end; } GstBuffer;
    typedef struct { GstMiniObject object; unsigned type; uint64_t timestamp; void *src; } GstMessage;
    typedef struct { void *memory; int flags; uint8_t *data; size_t size, maxsize; void *more[8]; } GstMapInfo;
    typedef struct { int format; const char *name; } GstVideoFormatInfo;
    typedef struct {
        const GstVideoFormatInfo *format;
        int interlace_mode, flags, width, height; size_t size;
        int views, chroma_site, range, matrix, transfer, primaries, par_n, par_d, fps_n, fps_d;
        size_t offset[4]; int stride[4]; void *more[4];
    } GstVideoInfo;
    typedef struct {
        unsigned meta_flags; const void *meta_info; void *buffer;
        int flags, format, id; unsigned width, height, n_planes; size_t offset[4]; int stride[4];
    } GstVideoMeta;
    typedef struct {
        unsigned meta_flags; const void *meta_info; void *reference; uint64_t timestamp, duration;
    } GstTimestampMeta;

    void g_free(void *);
    void g_error_free(GError *);
    void g_strfreev(char **);
    const char *g_quark_to_string(uint32_t);

    void g_object_set(void *, const char *, ...);
    void g_object_get(void *, const char *, ...);
    void *g_object_class_find_property(void *, const char *);
    void *g_value_get_object(GValue *);
    void g_value_unset(GValue *);

    int gst_init_check(int *, char ***, GError **);
    int gst_is_initialized(void);
    void *gst_parse_context_new(void);
    char **gst_parse_context_get_missing_elements(void *);
    void gst_parse_context_free(void *);
    void *gst_parse_launch_full(const char *, void *, int, GError **);
    void *gst_element_factory_find(const char *);
    void *gst_pipeline_new(const char *);
    size_t gst_pipeline_get_type(void);
    int g_type_check_instance_is_a(void *, size_t);
    int gst_bin_add(void *, void *);
    void *gst_bin_get_by_name(void *, const char *);
    void *gst_bin_iterate_all_by_element_factory_name(void *, const char *);
    int gst_bin_recalculate_latency(void *);
    int gst_iterator_next(void *, GValue *);
    void gst_iterator_free(void *);
    void *gst_object_ref(void *);
    void *gst_object_ref_sink(void *);
    void gst_object_unref(void *);
    char *gst_object_get_name(void *);
    int gst_element_set_state(void *, int);
    void *gst_element_get_bus(void *);
    int gst_element_query_duration(void *, int, int64_t *);
    void gst_util_set_object_arg(void *, const char *, const char *);
    GstMessage *gst_bus_timed_pop_filtered(void *, uint64_t, unsigned);
    void gst_mini_object_unref(void *);
    void *gst_mini_object_ref(void *);
    void gst_message_parse_error(GstMessage *, GError **, char **);
    void gst_message_parse_warning(GstMessage *, GError **, char **);
    void gst_message_parse_tag(GstMessage *, void **);
    int gst_tag_list_get_string(void *, const char *, char **);
    const void *gst_message_get_structure(GstMessage *);
    const char *gst_structure_get_name(const void *);
    int gst_structure_get_uint64(const void *, const char *, uint64_t *);
    void gst_structure_free(void *);
    const char *gst_structure_get_string(const void *, const char *);
    void *gst_caps_from_string(const char *);
    const void *gst_caps_get_structure(void *, unsigned);
    GstBuffer *gst_sample_get_buffer(void *);
    void *gst_sample_get_caps(void *);
    void *gst_sample_get_segment(void *);
    uint64_t gst_segment_to_stream_time(void *, int, uint64_t);
    int gst_buffer_map(GstBuffer *, GstMapInfo *, int);
    void gst_buffer_unmap(GstBuffer *, GstMapInfo *);
    GstTimestampMeta *gst_buffer_get_reference_timestamp_meta(GstBuffer *, void *);

    void *gst_app_sink_try_pull_sample(void *, uint64_t);
    int gst_app_sink_is_eos(void *);

    int gst_video_info_from_caps(GstVideoInfo *, void *);
    GstVideoMeta *gst_buffer_get_video_meta(GstBuffer *);
""")

try:
    glib, gobject, gst, app, video = (
        ffi.dlopen(f"lib{name}.so.0") for name in ("glib-2.0", "gobject-2.0", "gstreamer-1.0", "gstapp-1.0", "gstvideo-1.0")
    )
except OSError as error:
    raise ImportError(f"GStreamer does not load ({error}): {INSTALL}{BASE} {GOOD} {BAD} {LIBAV}") from error

_inherited = False


def _note_fork() -> None:
    global _inherited
    _inherited = bool(gst.gst_is_initialized())


os.register_at_fork(after_in_child=_note_fork)


def start(name: str) -> None:
    """Starts GStreamer in this process, if that has not been done. The first start on a machine takes some seconds.

    :param name: of the video, for the error.
    :raises VideoError: when it can't be started, or the process was forked from one that had started it, where it would hang.
    """
    if _inherited:
        raise VideoError(
            name,
            f"can't open {name!r}: the process from which this one was forked had started GStreamer, which would hang here; "
            f"use GStreamer in the flows' processes only, in setup() or later",
        )
    failure = ffi.new("GError **")
    if not gst.gst_init_check(ffi.NULL, ffi.NULL, failure):
        raise VideoError(name, f"GStreamer does not start: {taken_error(failure)}; {INSTALL}{BASE} {GOOD} {BAD} {LIBAV}")


def text(pointer: Any) -> str:
    """What a C string says."""
    return "" if pointer == ffi.NULL else ffi.string(pointer).decode(errors="replace")


def taken(pointer: Any) -> str:
    """What a C string says, which is freed."""
    said = text(pointer)
    glib.g_free(pointer)
    return said


def taken_error(failure: Any) -> str:
    """What a GError says, which is freed."""
    if failure[0] == ffi.NULL:
        return ""
    said = masked(text(failure[0].message))
    glib.g_error_free(failure[0])
    return said


def set_text(element: Any, name: str, value: str | bytes) -> None:
    """Sets a property that is a text: no character of it means anything to GStreamer."""
    gobject.g_object_set(
        element, name.encode(), ffi.new("char[]", value.encode() if isinstance(value, str) else value), ffi.NULL
    )


def set_value(element: Any, name: str, value: object) -> bool:
    """Sets a property of another type; False where this GStreamer does not have it."""
    if gobject.g_object_class_find_property(ffi.cast("void **", element)[0], name.encode()) == ffi.NULL:
        return False
    gst.gst_util_set_object_arg(
        element, name.encode(), (str(value).lower() if isinstance(value, bool) else str(value)).encode()
    )
    return True


_PACKAGES = {
    r"avdec_.*": LIBAV,
    r"appsink|appsrc|(uri)?decodebin3?|video(convert|scale|rate|testsrc|convertscale)": BASE,
    r"rtspsrc|v4l2.*|souphttpsrc|udpsrc|jpeg(dec|enc)|.*demux|rtp.*|video(crop|flip|box)|vp[89](dec|enc)": GOOD,
    r"(h26[45]|mpegvideo|jpeg|av1)parse|tsdemux|nv.*|va.*|srt.*|whep.*": BAD,
    r"libcamera.*": "gstreamer1.0-libcamera",
    r"x26[45]enc": "gstreamer1.0-plugins-ugly",
    r"filesrc|capsfilter|queue|tee|identity|fakesink": "libgstreamer1.0-0",
}


def to_install(element: str) -> str:
    """What to do about an element that is missing."""
    package = next((package for names, package in _PACKAGES.items() if re.fullmatch(names, element)), "")
    return (
        INSTALL + package
        if package
        else f"check its name, and find its package with gst-inspect-1.0 or apt-file search {element}"
    )


class Message(NamedTuple):
    """What GStreamer says.

    Attributes:
        type: `ERROR`, `EOS` and so on.
        text: of an error or a warning; the name of a missing decoder; for a tag, how the picture is turned.
        domain: of an error: `core`, `resource`, `stream`, or `library`.
        code: of an error, in its domain.
        detail: what its author added.
        element: who says it.
    """

    type: int
    text: str = ""
    domain: str = ""
    code: int = 0
    detail: str = ""
    element: str = ""


def messages(bus: Any, types: int, timeout_ns: int = 0) -> Iterator[Message]:
    """Takes messages off a bus; all others that lie there are dropped. Waits for the first one, if it must."""
    while (message := gst.gst_bus_timed_pop_filtered(bus, timeout_ns, types)) != ffi.NULL:
        try:
            yield _read(message)
        finally:
            gst.gst_mini_object_unref(message)
        timeout_ns = 0


def _read(message: Any) -> Message:
    if message.type in (ERROR, WARNING):
        failure, debug = ffi.new("GError **"), ffi.new("char **")
        parse = gst.gst_message_parse_error if message.type == ERROR else gst.gst_message_parse_warning
        parse(message, failure, debug)
        domain, code = text(glib.g_quark_to_string(failure[0].domain)), failure[0].code
        detail = taken(debug[0]).partition("\n")[2]  # before that stand the file and the line
        domain = re.sub(r"gst-|-error|-quark", "", domain)
        return Message(
            message.type, taken_error(failure), domain, code, masked(detail), taken(gst.gst_object_get_name(message.src))
        )
    if message.type == ELEMENT:
        structure = gst.gst_message_get_structure(message)
        name = text(gst.gst_structure_get_name(structure)) if structure != ffi.NULL else ""
        return Message(ELEMENT, text(gst.gst_structure_get_string(structure, b"name")) if name == "missing-plugin" else "")
    if message.type == TAG:
        tags, value = ffi.new("void **"), ffi.new("char **")
        gst.gst_message_parse_tag(message, tags)
        found = gst.gst_tag_list_get_string(tags[0], b"image-orientation", value)
        gst.gst_mini_object_unref(tags[0])
        return Message(TAG, taken(value[0]) if found else "")
    return Message(message.type)
