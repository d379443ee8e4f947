"""Draws what is known of zones and lines: how it stands in a payload's `additional_data`, and how it looks in a picture."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipert_shm.video.opencv import cv2

ZONES = "zones"  # the key in `additional_data`
ZONE_COLOUR, LINE_COLOUR = (80, 180, 255), (255, 160, 60)
_FONT, _SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.5
_HEAT_SHARE = 0.45  # of the hottest place's colour


def draw_zones(scene: np.ndarray, additional_data: dict[Any, Any], scale: float = 1.0) -> None:
    """Draws zones with how many are inside, lines with how many have crossed them, and the heat map, if they are told of.

    :param scene: a writable picture in BGR.
    :param scale: by which it was scaled down.
    """
    told = additional_data.get(ZONES)
    if not isinstance(told, dict) or scene.ndim != 3:
        return
    if isinstance(heat := told.get("heat_map"), np.ndarray):
        _draw_heat(scene, heat)
    for name, zone in told.get("zones", {}).items():
        points = (np.array(zone["polygon"]) * scale).round().astype(np.int32)
        cv2.polylines(scene, [points], True, ZONE_COLOUR, 2)
        _write(scene, f"{name}: {len(zone['rows'])}", points[points[:, 1].argmin()], ZONE_COLOUR)
    for name, line in told.get("lines", {}).items():
        points = (np.array(line["points"]) * scale).round().astype(np.int32)
        cv2.line(scene, points[0].tolist(), points[1].tolist(), LINE_COLOUR, 2)
        counts = f"in {sum(line['in'].values())}, out {sum(line['out'].values())}"
        _write(scene, f"{name}: {counts}", points.mean(axis=0).astype(np.int32), LINE_COLOUR)


def _draw_heat(scene: np.ndarray, heat: np.ndarray) -> None:
    large = cv2.resize(heat, scene.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    share = (large.astype(np.float32) * (_HEAT_SHARE / 255))[..., None]
    scene[...] = scene[..., :3] * (1 - share) + cv2.applyColorMap(large, cv2.COLORMAP_JET) * share


def _write(scene: np.ndarray, text: str, at: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Writes a text where it can be read: within the picture, on a dark edge."""
    (width, height), _ = cv2.getTextSize(text, _FONT, _SIZE, 1)
    x = int(np.clip(at[0] + 4, 0, max(0, scene.shape[1] - width)))
    y = int(np.clip(at[1] + height + 6, height, max(height, scene.shape[0] - 2)))
    for thickness, ink in ((3, (0, 0, 0)), (1, colour)):
        cv2.putText(scene, text, (x, y), _FONT, _SIZE, ink, thickness, cv2.LINE_AA)
