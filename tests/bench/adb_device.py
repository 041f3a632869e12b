"""A small ADB device over TCP: enough of adbd for the real `adb connect`, `shell`, `push` and `pull`.

Message format and services as in AOSP's adb/protocol.txt, SERVICES.TXT, SYNC.TXT and file_sync_protocol.h. Shell
commands run in /bin/sh of this machine; /data/local/tmp is a folder of the test's. A lost connection hangs up
(SIGHUP) what it ran, as adbd does.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HEADER = struct.Struct("<6I")
PACKET = struct.Struct("<BI")
SYNC = struct.Struct("<4sI")
STAT_V1 = struct.Struct("<4s3I")
STAT_V2 = struct.Struct("<4sI2Q4IQ3q")
CNXN, OPEN, OKAY, CLSE, WRTE = (
    int.from_bytes(word, "little") for word in (b"CNXN", b"OPEN", b"OKAY", b"CLSE", b"WRTE")
)
VERSION, MAX_DATA, CHUNK = 0x01000001, 256 * 1024, 64 * 1024
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
DEVICE_TMP = "/data/local/tmp"
MODERN = ("shell_v2", "cmd", "stat_v2", "ls_v2", "fixed_push_mkdir")


class Gone(Exception):
    """The other side closed the stream."""


@dataclass
class Stream:
    """One service in use: bytes from the host wait in a pipe, bytes to the host wait for its OKAY."""

    send: Callable[[int, int, int, bytes], None]
    local: int
    remote: int
    closed: bool = False
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(1))
    waiting: bytearray = field(default_factory=bytearray)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), CHUNK):
            self.turn.acquire()
            if self.closed:
                raise Gone
            self.send(WRTE, self.local, self.remote, data[start : start + CHUNK])

    def take(self, data: bytes) -> None:
        with self.arrived:
            self.waiting += data
            self.arrived.notify_all()

    def read(self, size: int) -> bytes:
        with self.arrived:
            self.arrived.wait_for(lambda: len(self.waiting) >= size or self.closed)
            if len(self.waiting) < size:
                raise Gone
            data = bytes(self.waiting[:size])
            del self.waiting[:size]
            return data

    def close(self) -> None:
        if not self.closed:
            with contextlib.suppress(OSError):
                self.send(CLSE, self.local, self.remote, b"")
        self.end()

    def end(self) -> None:
        with self.arrived:
            self.closed = True
            self.arrived.notify_all()
        self.turn.release()


class Device:
    """A device that listens on `port`; files under `root`, at most `free_bytes` of them in one push."""

    def __init__(
        self,
        root: Path,
        *,
        features: tuple[str, ...] = MODERN,
        environment: dict[str, str] | None = None,
        free_bytes: int | None = None,
    ) -> None:
        self.root, self.features, self.free_bytes = root, features, free_bytes
        self.environment = environment or dict(os.environ)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.commands: list[str] = []
        self.tmp.mkdir(parents=True, exist_ok=True)
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def tmp(self) -> Path:
        return self.root / DEVICE_TMP.lstrip("/")

    def vanish(self) -> None:
        """The cable is pulled: connections break, nothing listens any more."""
        self._listener.close()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def local(self, text: str) -> str:
        """Device paths in a path or command as paths of this machine."""
        return re.sub(rf"(?<!{re.escape(str(self.root))}){DEVICE_TMP}", str(self.tmp), text)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._sockets.append(connection)
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        streams: dict[int, Stream] = {}
        numbers, lock = itertools.count(1), threading.Lock()

        def send(command: int, first: int, second: int, data: bytes) -> None:
            check = sum(data) & 0xFFFFFFFF
            with lock:
                connection.sendall(
                    HEADER.pack(command, first, second, len(data), check, command ^ 0xFFFFFFFF) + data
                )

        try:
            while True:
                command, first, second, size, _, _ = HEADER.unpack(receive(connection, HEADER.size))
                data = receive(connection, size)
                if command == CNXN:
                    features = ",".join(self.features)
                    banner = f"device::ro.product.name=small;ro.product.model=Small;features={features}"
                    send(CNXN, VERSION, MAX_DATA, banner.encode())
                elif command == OPEN:
                    stream = Stream(send, next(numbers), first)
                    streams[stream.local] = stream
                    service = data.rstrip(b"\0").decode()
                    threading.Thread(target=self._serve, args=(stream, service), daemon=True).start()
                elif second in streams:
                    dispatch(command, streams, second, data, first)
        except (OSError, Gone):
            pass
        finally:
            for stream in streams.values():
                stream.end()

    def _serve(self, stream: Stream, service: str) -> None:
        name, _, argument = service.partition(":")
        kind, *options = name.split(",")
        if kind not in {"shell", "exec", "sync"}:
            stream.send(CLSE, 0, stream.remote, b"")
            return
        stream.send(OKAY, stream.local, stream.remote, b"")
        with contextlib.suppress(Gone, OSError):
            if kind == "sync":
                Sync(self, stream).serve()
            elif "v2" in options:
                self._shell(stream, argument)
            else:
                self._old_shell(stream, argument)
        stream.close()

    def start(self, command: str, **pipes: int) -> subprocess.Popen[bytes]:
        """Run a shell line as adbd would, in a session of its own."""
        process = subprocess.Popen(
            ["/bin/sh", "-c", self.local(command)],
            cwd=self.root,
            env=self.environment,
            start_new_session=True,
            **pipes,
        )
        self.processes.append(process)
        self.commands.append(command)  # whoever waits for the command finds its process
        return process

    def _shell(self, stream: Stream, command: str) -> None:
        pipe = subprocess.PIPE
        process = self.start(command, stdin=pipe, stdout=pipe, stderr=pipe)
        lock = threading.Lock()

        def packet(kind: int, data: bytes) -> None:
            with lock:
                stream.write(PACKET.pack(kind, len(data)) + data)

        def copy(kind: int, descriptor: int) -> None:
            with contextlib.suppress(Gone, OSError):
                while data := os.read(descriptor, CHUNK - PACKET.size):
                    packet(kind, data)

        def feed() -> None:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                while True:
                    try:
                        kind, size = PACKET.unpack(stream.read(PACKET.size))
                        data = stream.read(size)
                    except Gone:
                        if process.poll() is None:
                            process.send_signal(signal.SIGHUP)
                        break
                    if kind == STDIN:
                        process.stdin.write(data)
                        process.stdin.flush()
                    elif kind == CLOSE_STDIN:
                        process.stdin.close()

        assert process.stdout is not None and process.stderr is not None
        copies = [
            threading.Thread(target=copy, args=(STDOUT, process.stdout.fileno()), daemon=True),
            threading.Thread(target=copy, args=(STDERR, process.stderr.fileno()), daemon=True),
        ]
        for thread in (*copies, threading.Thread(target=feed, daemon=True)):
            thread.start()
        code = process.wait()
        for thread in copies:
            thread.join()
        packet(EXIT, bytes([code if code >= 0 else 128 - code]))

    def _old_shell(self, stream: Stream, command: str) -> None:
        """As before Android 7: a terminal, errors and output together, no exit code."""
        master, slave = pty.openpty()
        process = self.start(command, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)

        def hang_up() -> None:
            with contextlib.suppress(Gone):
                stream.read(1 << 40)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGHUP)

        threading.Thread(target=hang_up, daemon=True).start()
        with contextlib.suppress(OSError):  # EIO: the other end of the terminal is closed
            while data := os.read(master, CHUNK):
                stream.write(data)
        process.wait()
        os.close(master)


def dispatch(command: int, streams: dict[int, Stream], local: int, data: bytes, remote: int) -> None:
    """Hand a message to its stream."""
    stream = streams[local]
    if command == OKAY:
        stream.turn.release()
    elif command == WRTE:
        stream.take(data)
        stream.send(OKAY, local, remote, b"")
    elif command == CLSE:
        del streams[local]
        stream.end()


def receive(connection: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes."""
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise Gone
        data += part
    return data


class Sync:
    """The file service: STAT, STA2/LST2, SEND, RECV, QUIT."""

    def __init__(self, device: Device, stream: Stream) -> None:
        self.device, self.stream = device, stream

    def serve(self) -> None:
        while True:
            kind, size = SYNC.unpack(self.stream.read(SYNC.size))
            path = self.stream.read(size).decode()
            if kind == b"QUIT":
                return
            {
                b"STAT": self.stat_v1,
                b"STA2": self.stat_v2,
                b"LST2": self.stat_v2,
                b"SEND": self.receive_file,
                b"RECV": self.send_file,
            }[kind](path)

    def stat_v1(self, path: str) -> None:
        try:
            found = Path(self.device.local(path)).stat()
        except OSError:
            self.stream.write(STAT_V1.pack(b"STAT", 0, 0, 0))
            return
        self.stream.write(STAT_V1.pack(b"STAT", found.st_mode, found.st_size, int(found.st_mtime)))

    def stat_v2(self, path: str) -> None:
        try:
            found = Path(self.device.local(path)).stat()
        except OSError as error:
            self.stream.write(STAT_V2.pack(b"STA2", error.errno or errno.EIO, *[0] * 10))
            return
        times = (int(found.st_atime), int(found.st_mtime), int(found.st_ctime))
        owner = (found.st_mode, found.st_nlink, found.st_uid, found.st_gid)
        self.stream.write(STAT_V2.pack(b"STA2", 0, found.st_dev, found.st_ino, *owner, found.st_size, *times))

    def receive_file(self, path_and_mode: str) -> None:
        path, _, mode = path_and_mode.rpartition(",")
        data = b""
        while True:
            kind, size = SYNC.unpack(self.stream.read(SYNC.size))
            if kind == b"DONE":
                break
            data += self.stream.read(size)
        try:
            if self.device.free_bytes is not None and len(data) > self.device.free_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            target = Path(self.device.local(path))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            target.chmod(int(mode) & 0o777)
        except OSError as error:
            self.fail(f"couldn't create file: {error.strerror}")
            return
        self.stream.write(SYNC.pack(b"OKAY", 0))

    def send_file(self, path: str) -> None:
        try:
            data = Path(self.device.local(path)).read_bytes()
        except OSError as error:
            self.fail(f"open failed: {error.strerror}")
            return
        for start in range(0, len(data), CHUNK):
            part = data[start : start + CHUNK]
            self.stream.write(SYNC.pack(b"DATA", len(part)) + part)
        self.stream.write(SYNC.pack(b"DONE", 0))

    def fail(self, why: str) -> None:
        self.stream.write(SYNC.pack(b"FAIL", len(why)) + why.encode())
