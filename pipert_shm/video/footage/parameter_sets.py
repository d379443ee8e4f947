"""The parameter sets of H.264 and H.265 that a camera sends before a key frame: without them nothing can be decoded."""

from __future__ import annotations

import re

LONGEST = 4096
"""Bytes of a packet in which they are looked for: they stand before the first slice."""

_START = re.compile(b"\0\0\0?\1")
_H264 = {7: "SPS", 8: "PPS"}
_H265 = {32: "VPS", 33: "SPS", 34: "PPS"}


def sets_in(codec: str, packet: bytes) -> bytes:
    """The parameter sets of a packet with start codes, each behind one; empty if not each kind is there.

    :param codec: `h264` or `hevc`; other codecs have none.
    """
    kinds = {"h264": _H264, "hevc": _H265}.get(codec)
    if kinds is None:
        return b""
    head = packet[:LONGEST]
    marks = list(_START.finditer(head))
    found: dict[tuple[int, bytes], None] = {}
    for place, mark in enumerate(marks):
        if mark.end() >= len(head):
            break
        kind = head[mark.end()] & 31 if codec == "h264" else head[mark.end()] >> 1 & 63
        if kind not in kinds:
            continue
        is_last = place + 1 == len(marks)
        if is_last and len(packet) > LONGEST:
            return b""  # it may be longer than what was looked at
        unit = head[mark.end() : len(head) if is_last else marks[place + 1].start()].rstrip(b"\0")
        found[kind, unit] = None
    if {kind for kind, _ in found} != set(kinds):
        return b""
    return b"".join(b"\0\0\0\1" + unit for _, unit in sorted(found, key=lambda each: each[0]))
