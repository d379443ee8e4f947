"""How is video watched elsewhere? One encoder for all watchers: RTSP, WHIP, HLS and WebRTC.

`broadcast` is a stream: frames from a feed (`feeds`), made pictures of one size (`pictures`) and encoded once (`encoding`), for
all who watch. `pushing` keeps one sent: by `rtsp`, by `whip`, or as `hls`. `webrtc` has the packets for aiortc. `routines` has
the destinations.
"""

from pipert_shm.streaming.routines import HlsWriter, RtspPush, StreamRoutine, WhipPush

__all__ = ["HlsWriter", "RtspPush", "StreamRoutine", "WhipPush"]
