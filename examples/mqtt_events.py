"""Tells an MQTT broker, and Home Assistant, while something moves in a video. Events wait on the disk while the broker is away.

python examples/mqtt_events.py --broker mqtt://127.0.0.1:1883
python examples/mqtt_events.py --broker mqtt://me@10.0.0.2 --password-file secret --video rtsp://10.0.0.5/live
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipert_shm import EventSource, MotionDetector, MqttSink, Pipe, PipertError, VideoSource, Wire
from pipert_shm.video import default_clip

RULES = [{"name": "moving", "kind": "count", "at_least": 1, "for": 0.2, "clear": 0.4}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", help="a file, or a stream's URL (default: a clip of the demo extra)")
    parser.add_argument("--broker", default="mqtt://127.0.0.1:1883", help="its address (default: %(default)s)")
    parser.add_argument("--password-file", help="the password of the user in the broker's address")
    parser.add_argument("--spool", default=Path("spool"), type=Path, help="where events wait (default: %(default)s)")
    chosen = parser.parse_args()
    source = chosen.video or default_clip()

    camera = VideoSource(source, "camera")
    detector = MotionDetector("detector")
    rules = EventSource("rules", rules=RULES, clock="capture" if "://" in str(source) else "video")
    mqtt = MqttSink(
        chosen.broker,
        "mqtt",
        password={"file": chosen.password_file} if chosen.password_file else None,
        home_assistant="homeassistant",
        spool=chosen.spool / "mqtt",
    )

    with Pipe() as pipe:
        pipe.create_flow("camera", False, camera)
        pipe.create_flow("detect", False, detector, rules)
        pipe.create_flow("output", False, mqtt)
        pipe.link(Wire(camera, detector, policy="block"), Wire(detector, rules, policy="block"), Wire(rules, mqtt))
        pipe.build()
        pipe.notify_event("start")  # leaving the block waits for the end

    counted = pipe.statistics().routines["mqtt"].counters
    print(f"{counted['sent']} events sent, {counted['waiting']} wait for the broker in {chosen.spool / 'mqtt'}")


if __name__ == "__main__":
    try:
        main()
    except (ImportError, PipertError) as error:
        sys.exit(str(error))
