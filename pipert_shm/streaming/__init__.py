"""How is video watched elsewhere? One encoder for all watchers: RTSP, WHIP, HLS and WebRTC."""
