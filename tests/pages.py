"""Runs the code blocks of a page of the documentation, in order, as a reader would: `python tests/pages.py docs/index.md`.

A page has a directory of its own, and a network of its own where `unshare` may make one, so that every page may use port
8080. What runs is told by a block's language:

- `python`: a program of its own, warnings being errors, that must end with status 0. A block whose first line is a comment
  with a file's name (`# camera.py`) is written to that file instead, and runs when a later block says so. This holds for
  every language but `console`; a `yaml` block always begins so, `# pipeline.yaml`.
- `console`: lines that begin with `$ ` are commands, and the lines after one are what it prints, on a terminal. In them
  `...` stands for any text, and alone on its line for any lines. A command that nothing follows may print anything.
  A command must end with status 0; the last one of a block with `<!-- fails -->` above it must not. `\\` at the end of a
  line goes on in the next one. `$ command &` runs until the page ends, and then gets a Ctrl-C; the page goes on once the
  output below it has come. A line `^C` is a Ctrl-C to the command above, as soon as the output before it has come.
- `sh`, `bash`: a script that must end with status 0.
- `diff`: with a file's name in its first line it changes that file: lines that begin with `-` become those that begin with
  `+`, and lines that begin with a space are the context.
- `text`, `json` and blocks without a language don't run. With `<!-- output -->` above, such a block is all that the program
  in the block before it prints.

These comments stand in the line above a block. `<!-- not run: reason -->` there keeps any block from running. Anywhere on a
page, `<!-- with: clip, model -->` asks for things that `PROVIDED` has, and `<!-- decimals vary -->` says that in what its
programs print numbers with a point are others each time, and the gaps between columns, too. Each command is a `bash` of its
own, in the page's directory; `python` and `pipert-shm` are this project's.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from blocks import Block, blocks_of, changed, commands_of, pattern_of
from processes import adopt_orphans, kill_all_but, reap_orphans
from terminals import Command, PageError
from waiting import eventually

ROOT = Path(__file__).parent.parent
RUN = ("python", "yaml", "console", "sh", "bash")
PROGRAMS = ("python", "sh", "bash")
SHOWN = ("", "text", "json", "diff", "ini", "toml", "dockerfile", "html")
PORTS = r"\b80[89]0\b"  # that pages name; they are replaced where a page has no network of its own
BROKER = r"mqtt://broker\.example:1883"
CACHE = r"redis://cache\.example:6379"
DATABASE = r"postgresql://pipert@db\.example:5432/postgres"
CAMERA = r"rtsp://camera\.example:8554/(\w+)"
SHORT = 60  # frames
SIOCSIFFLAGS, IFF_UP = 0x8914, 1


# ---- what pages can ask for ----------------------------------------------------------------------
# `media` and `streams` load OpenCV and PyAV, which most pages do without.


def _clip(page: Page) -> None:
    import media

    shutil.copy(media.bikes(), page.directory / "clip.mp4")


def _short_clip(page: Page) -> None:
    import cv2

    import media

    writer = cv2.VideoWriter(str(page.directory / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (640, 272))
    for frame in media.frames_of(media.bikes(), SHORT):
        writer.write(frame)
    writer.release()


def _face(page: Page) -> None:
    import media

    shutil.copy(media.carphone(), page.directory / "face.mp4")


def _model(page: Page) -> None:
    import media

    shutil.copy(media.centerface(), page.directory / "centerface.onnx")


def _rtsp(page: Page) -> None:
    """The addresses of its cameras stand for those of a server here."""
    import media
    import streams

    videos, port = page.tools / "videos", free_port()
    videos.mkdir()
    for name in ("gate", "yard"):
        shutil.copy(media.bikes(), videos / f"{name}.mp4")
    streams.scale(media.bikes(), videos / "gate_small.mp4", 320, 136)
    server = streams.serve_rtsp(videos, port, "")
    page.on_end.append(server.kill)
    eventually(lambda: streams.listens(port), "an RTSP server that listens")
    page.replaced[CAMERA] = server.url + r"\1.mp4"


def _broker(page: Page) -> None:
    """The address of its broker stands for that of one here."""
    import sink_servers

    directory = page.tools / "broker"
    directory.mkdir()
    broker, port = sink_servers.mosquitto(directory)
    page.on_end.append(broker.kill)
    page.replaced[BROKER] = f"mqtt://127.0.0.1:{port}"


def _cache(page: Page) -> None:
    import sink_servers

    directory = page.tools / "cache"
    directory.mkdir()
    server, port = sink_servers.redis_server(directory)
    page.on_end.append(server.kill)
    page.replaced[CACHE] = f"redis://127.0.0.1:{port}"


def _database(page: Page) -> None:
    import sink_servers

    directory = page.tools / "database"
    directory.mkdir()
    server, page.replaced[DATABASE] = sink_servers.postgres(directory)
    page.on_end.append(server.kill)


PROVIDED: dict[str, Callable[[Page], None]] = {
    "clip": _clip, "short clip": _short_clip, "face": _face, "model": _model, "rtsp": _rtsp, "broker": _broker,
    "cache": _cache, "database": _database,
}  # fmt: skip
"""`clip.mp4`: people on bicycles, 640x272, 250 frames, or its beginning, where a page shows no number of frames; `face.mp4`: a
man's face; `centerface.onnx`; the cameras rtsp://camera.example:8554/gate and /yard,
and a small stream of the first, /gate_small; the MQTT broker mqtt://broker.example:1883, the Redis server
redis://cache.example:6379, and the PostgreSQL server postgresql://pipert@db.example:5432/postgres."""


# ---- a page --------------------------------------------------------------------------------------


class Page:
    """A page that is being run, and its directory."""

    def __init__(self, path: Path, workplace: Path, has_own_network: bool) -> None:
        self.path = path
        self.directory = workplace / "page"
        self.tools = workplace / "tools"
        self.on_end: list[Callable[[], None]] = []
        self.replaced = {} if has_own_network else {PORTS: str(free_port())}
        self._background: list[Command] = []
        self._text = path.read_text()
        self._last_output = ""
        for directory in (self.directory, self.tools):
            directory.mkdir()
        for name, arguments in (("python", "-W error"), ("pipert-shm", "-m pipert_shm.cli")):
            tool = self.tools / name
            tool.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
            tool.chmod(0o755)
        searched = f"{self.tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": searched, "PYTHONPATH": str(ROOT), "TERM": "dumb", "NO_COLOR": "1"}
        self._environment.pop("PYTHONUNBUFFERED", None)  # with it a line is written in pieces

    def run(self) -> None:
        """Runs all of its blocks. :raises PageError: when one does not do what the page says."""
        try:
            for names in re.findall(r"<!-- with: *(.*?) *-->", self._text):
                for name in names.split(","):
                    PROVIDED[name.strip()](self)
            for block in blocks_of(self._text):
                began = time.monotonic()
                try:
                    self._run(block)
                except PageError as error:
                    raise PageError(f"{self.path}:{block.line}: {error}") from None
                print(f"{self.path}:{block.line}: {block.language or 'text'}, {time.monotonic() - began:.1f} s", flush=True)
            self._end_background()
        finally:
            for command in self._background:
                command.end()
            for end in self.on_end:
                end()

    def _run(self, block: Block) -> None:
        if block.reason is not None:
            return
        text = block.text
        for pattern, value in self.replaced.items():
            text = re.sub(pattern, value, text)
        if block.comment == "<!-- output -->":
            self._compare(text.split("\n"))
        elif block.file is not None:
            path = self.directory / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(path, block.language, text + "\n")
        elif block.language == "console":
            self._run_console(text, fails=block.comment == "<!-- fails -->")
        elif block.language in PROGRAMS:
            script = self.directory / f".line_{block.line}"
            script.write_text(text + "\n")
            self._run_command(f"{'python' if block.language == 'python' else 'bash -eu'} {script.name}", [], False)

    @staticmethod
    def _write(path: Path, language: str, text: str) -> None:
        if language != "diff":
            path.write_text(text)
            return
        try:
            path.write_text(changed(path.read_text(), text.split("\n", 1)[1].removesuffix("\n")))
        except (FileNotFoundError, ValueError) as error:
            raise PageError(str(error)) from None

    def _run_console(self, text: str, fails: bool) -> None:
        commands = commands_of(text)
        for number, (command, output) in enumerate(commands, 1):
            if not command.endswith("&"):
                self._run_command(command, output, fails and number == len(commands))
                continue
            self._background.append(self._start(command.removesuffix("&")))
            self._background[-1].expect(self._pattern_of(output))

    def _run_command(self, command: str, output: list[str], fails: bool) -> None:
        running = self._start(command)
        try:
            if "^C" in output:
                running.expect(self._pattern_of(output[: output.index("^C")]))
                running.interrupt()
            status = running.finish()
        finally:
            running.end()
        self._last_output = running.output
        if "^C" not in output and (status != 0) != fails:
            raise PageError(f"$ {command}\nended with status {status}:\n{running.output}")
        if output:
            self._compare([line for line in output if line != "^C"])

    def _pattern_of(self, lines: list[str]) -> str:
        return pattern_of(lines, "<!-- decimals vary -->" in self._text)

    def _start(self, command: str) -> Command:
        return Command(command, self.directory, self._environment)

    def _compare(self, expected: list[str]) -> None:
        if not re.fullmatch(self._pattern_of(expected), self._last_output.rstrip() + "\n"):
            raise PageError("\n".join(("the page says", *expected, "and the program", self._last_output)))

    def _end_background(self) -> None:
        for command in self._background:
            ended = command.process.poll()
            command.interrupt()
            command.finish()
            if ended:
                raise PageError(f"$ {command.command} &\nended with status {ended}:\n{command.output}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def own_network() -> list[str]:
    """A command that runs another one in a network of its own; empty where that may not be made."""
    unshare = ["unshare", "--net"] if os.getuid() == 0 else ["unshare", "--map-root-user", "--net"]
    may = shutil.which("unshare") and subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode == 0
    return unshare if may else []


def main(page: str, has_own_network: bool) -> int:
    if has_own_network:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    adopt_orphans()  # a page may kill the parent of some
    with tempfile.TemporaryDirectory(prefix="page-") as workplace:
        try:
            Page(Path(page), Path(workplace), has_own_network).run()
            reap_orphans(set(), timeout=5.0)
        except AssertionError as error:
            print(error, file=sys.stderr)
            kill_all_but(set())
            return 1
    return 0


if __name__ == "__main__":
    if sys.argv[1] not in ("--shared", "--own"):
        network = own_network()
        os.execvp(
            (network or [sys.executable])[0],
            [*network, sys.executable, __file__, "--own" if network else "--shared", sys.argv[1]],
        )
    sys.exit(main(sys.argv[2], sys.argv[1] == "--own"))
