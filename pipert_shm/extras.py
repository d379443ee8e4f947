"""How to install what a message says is missing: an extra, in the way in which this package was installed itself, or OpenCV."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

OPENCV = "'opencv-python>=4.14,<6'"


def to_install(*extras: str) -> str:
    """The command that adds extras, which an error message names: for a clone it says the clone, for a wheel the wheel."""
    names = ",".join(extras)
    url, info = _origin()
    if "vcs_info" in info:
        vcs = info["vcs_info"]
        return f"pip install 'pipert_shm[{names}] @ {vcs['vcs']}+{url}@{vcs['commit_id']}'"
    if "dir_info" in info:
        editable = "-e " if info["dir_info"].get("editable") else ""
        return f"pip install {editable}'{unquote(urlsplit(url).path)}[{names}]'"
    return f"pip install 'pipert_shm[{names}]{' @ ' + url if url else ''}'"


def _origin() -> tuple[str, dict[str, dict[str, str]]]:
    """Where the package came from, as the installer noted it (PEP 610); nothing if from an index, or not installed."""
    import json
    from importlib.metadata import distributions  # its 13 ms are for those alone who lack something

    for found in distributions(name="pipert_shm"):  # a build leaves a second one in the clone, which notes nothing
        if noted := found.read_text("direct_url.json"):
            info = json.loads(noted)
            return info.pop("url"), info
    return "", {}
