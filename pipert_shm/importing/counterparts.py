"""What Frigate can be told that has no counterpart here, and what to do instead."""

from __future__ import annotations

from pipert_shm.importing.section import Path

_ENRICHMENT = "a second network looks at the crops of a detector's boxes: see docs/how-to/runtimes.md"

WHY: dict[Path, str] = {
    ("audio",): "sound is not listened to",
    ("audio_transcription",): "sound is not listened to",
    ("auth",): "the API has one token: see docs/security.md",
    ("birdseye",): "there is no mosaic of all cameras; the dashboard shows each one",
    ("camera_groups",): "the dashboard shows all cameras of a pipe",
    ("classification",): _ENRICHMENT,
    ("database",): "JsonLinesWriter, SqliteWriter and PostgresSink keep events",
    ("environment_vars",): "set them where the pipe is started",
    ("face_recognition",): _ENRICHMENT,
    ("genai",): "no language model describes pictures; a webhook can ask one",
    ("live",): "the dashboard shows each routine's frames: see docs/how-to/streaming.md",
    ("lpr",): _ENRICHMENT,
    ("detect", "max_disappeared"): "a rule's `lost` says after how many seconds something is gone",
    ("detect", "min_initialized"): "a rule's `seconds` says how long something has to be seen",
    ("ffmpeg", "apple_compatibility"): "packets are kept as the camera sends them",
    ("ffmpeg", "gpu"): "the first device is used",
    ("ffmpeg", "path"): "PyAV decodes, not the program ffmpeg",
    ("ffmpeg", "retry_interval"): "a lost stream is opened again after 0.25 s at first, and then up to 10 s",
    ("logger", "logs"): "one level holds for all: see `logging:` in docs/pipelines.md",
    ("model", "input_dtype"): "the network says it itself",
    ("model", "input_pixel_format"): "it is found out, or a parameter of DnnDetector",
    ("model", "input_tensor"): "the network says it itself",
    ("model", "height"): "the network says it itself",
    ("model", "labelmap"): "names come from the network: see docs/how-to/onnx_and_yolo_models.md",
    ("model", "labelmap_path"): "names come from the network: see docs/how-to/onnx_and_yolo_models.md",
    ("model", "model_type"): "it is found out by the network's outputs: `pipert-shm model FILE`",
    ("model", "width"): "the network says it itself",
    ("motion",): "the detector looks at each frame that `fps` lets through, whether something moves or not",
    ("mqtt", "client_id"): "it is made of the host's name and the sink's",
    ("mqtt", "qos"): "it is 1",
    ("mqtt", "tls_insecure"): "certificates are always looked at",
    ("mqtt", "topic_prefix"): "topics are other ones than Frigate's, below `base`",
    ("networking",): "see `api:` in docs/pipelines.md",
    ("notifications",): "WebhookSink and MqttSink tell other systems",
    ("onvif",): "cameras are not steered",
    ("proxy",): "see docs/security.md",
    ("record", "motion"): "nothing is kept by motion: clips are kept of what rules tell, or all is",
    ("record", "preview"): "each clip has a picture beside it",
    ("review",): "each rule's events are sent; they are not sorted into alerts and detections",
    ("safe_mode",): "`pipert-shm run FILE --check` checks a file and starts nothing",
    ("semantic_search",): "pictures are not searched by text",
    ("snapshots",): "each clip has a picture beside it; SnapshotWriter writes frames",
    ("telemetry",): "GET /metrics has the figures of routines and wires",
    ("timestamp_style",): "nothing is printed into frames",
    ("tls",): "see docs/security.md",
    ("ui",): "the dashboard has no settings in the file",
}
_ANYWHERE: dict[str, str] = {
    "mask": "no parts of the picture are masked",
    "min_area": "objects are not filtered by size",
    "max_area": "objects are not filtered by size",
    "min_ratio": "objects are not filtered by shape",
    "max_ratio": "objects are not filtered by shape",
    "stationary": "objects that stand still are looked at like others",
    "output_args": "packets are kept as the camera sends them",
    "hwaccel_args": "of a stream that is only kept nothing but key frames is decoded",
    "global_args": "PyAV decodes, not the program ffmpeg",
    "input_args": "PyAV decodes, not the program ffmpeg; see `transport`, `timeout` and `low_delay` of VideoSource",
    "annotation_offset": "boxes belong to the frame that they were found in",
    "required_zones": "clips are made of all rules; take `clips` off, or rules out, by hand",
    "mode": "what is kept is kept whole, whether something moves or not",
    "distances": "give Zones a `ground`, four points and their metres, for speeds",
    "speed_threshold": "events don't depend on speeds",
    "friendly_name": "a zone is called by its name",
}
UNKNOWN = "this has no counterpart"


def why(path: Path) -> str:
    """Returns why a setting is left out, and what there is in its place; empty if there is nothing to say.

    >>> why(("cameras", "gate", "onvif"))
    'cameras are not steered'
    >>> why(("cameras", "gate", "zones", "yard", "filters", "person", "min_area"))
    'objects are not filtered by size'
    """
    own = path[2:] if path[0] == "cameras" else path
    for length in range(len(own), 0, -1):
        if own[:length] in WHY:
            return WHY[own[:length]]
    return next((_ANYWHERE[part] for part in reversed(path) if part in _ANYWHERE), UNKNOWN)
