"""Starts the servers that are compared, each with what it needs, on free ports of loopback; stops them by their own ids."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import machine, talking

START_SECS = 30
STOP_SECS = 15
# What signs the cookies of the peers: sessions are to be good after a restart.
SECRET = "only-for-measuring-" * 4
# As sessiond writes what it has noted once a second, it is given that long to do so before the next server's turn.
SETTLE_SECS = 1.1
QUIET_SECS = 0.1


@dataclass
class Programs:
    """Where the programs are. A peer that is not there is skipped; why is among the notes."""

    sessiond: Path
    peers: Path
    node: Path
    python: Path
    missing: dict[str, str]


@dataclass
class Server:
    """A server that runs, with its helpers (Redis)."""

    port: int
    core: int
    processes: list[subprocess.Popen]
    is_writing_later: bool = False
    helpers: list["Server"] = field(default_factory=list)

    def everyone(self) -> list[subprocess.Popen]:
        return self.processes + [process for helper in self.helpers for process in helper.everyone()]

    def cpu_ticks(self) -> int:
        return sum(machine.cpu_ticks(process.pid) for process in self.everyone())

    def settle(self) -> None:
        """Lets it finish what it does after its answers; that is its work, too."""
        time.sleep(SETTLE_SECS if self.is_writing_later else QUIET_SECS)

    def stop(self) -> None:
        for process in self.processes:
            stop_process(process)
        for helper in self.helpers:
            helper.stop()


def stop_process(process: subprocess.Popen) -> None:
    """Ends a process of ours, by its id."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_SECS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_SECS)


class Servers:
    """Whatever was started here, so that nothing is left running."""

    def __init__(self, programs: Programs, folder: Path, core: int) -> None:
        self.programs = programs
        self.folder = folder
        self.core = core
        self.is_pinning = False
        self.running: list[subprocess.Popen] = []

    def stop_all(self) -> None:
        for process in reversed(self.running):
            stop_process(process)
        self.running.clear()

    def pin(self) -> None:
        """From now on all have the one core, also those that run already."""
        self.is_pinning = True
        for process in self.running:
            for thread in Path(f"/proc/{process.pid}/task").glob("*"):
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread.name), {self.core})

    def run(self, name: str, command: list[str], environment: dict[str, str]) -> tuple[subprocess.Popen, Path]:
        """A process that ends with this one, whatever becomes of this one; its output goes to a file."""
        log = self.folder / f"{name}.log"
        begin = ["setpriv", "--pdeathsig", "TERM"]
        begin += ["taskset", "-c", str(self.core)] if self.is_pinning else []
        with log.open("wb") as output:
            process = subprocess.Popen(
                begin + command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self.running.append(process)
        return process, log

    def listening(self, name: str, port: int, command: list[str], environment: dict[str, str]) -> Server:
        """A server that is told its port."""
        process, log = self.run(name, command, environment)
        wait_for(lambda: is_listening(port), process, log)
        return Server(port, self.core, [process])

    def telling(self, name: str, command: list[str], environment: dict[str, str]) -> Server:
        """A server that chooses its port and tells it."""
        process, log = self.run(name, command, environment)
        wait_for(lambda: told_port(log) and is_listening(told_port(log)), process, log)
        return Server(told_port(log), self.core, [process])

    def sessiond(self, name: str, database: Path, **settings: object) -> Server:
        """sessiond with one worker; everything else as it is, but what `settings` say."""
        port = free_port()
        environment = {f"SESSIOND_{key.upper()}": str(value) for key, value in settings.items()}
        environment |= {"SESSIOND_SERVER__WORKERS": "1", "RUST_LOG": "warn"}
        command = [str(self.programs.sessiond), "serve", "--listen", f"127.0.0.1:{port}", "--database", str(database)]
        server = self.listening(name, port, command, environment)
        server.is_writing_later = True
        return server

    def redis(self, name: str, snapshot: Path | None = None, is_durable: bool = False) -> Server:
        """Redis without persistence, or with `appendfsync always`, which alone loses nothing that was answered
        (https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/)."""
        folder = self.folder / f"{name}-redis"
        folder.mkdir()
        if snapshot:
            shutil.copy(snapshot, folder / "dump.rdb")
        port = free_port()
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
        server = self.listening(f"{name}-redis", port, command, {})
        wait_until(lambda: is_loaded(port))
        if is_durable:
            # The way from a snapshot to an append-only file that the same page describes.
            talking.redis(port, ("CONFIG", "SET", "appendfsync", "always"), ("CONFIG", "SET", "appendonly", "yes"))
            wait_until(lambda: is_appending(port))
        return server

    def with_redis(self, server: Server, redis: Server) -> Server:
        server.helpers.append(redis)
        return server

    def ceiling(self) -> Server:
        return self.telling("ceiling", [str(self.programs.peers / "ceiling")], {})

    def actix_session(self, name: str, redis: Server) -> Server:
        command = [str(self.programs.peers / "actix_session_redis")]
        return self.with_redis(self.telling(name, command, {"SECRET": SECRET, "REDIS_URL": url_of(redis)}), redis)

    def tower_sessions(self, name: str, database: Path, synchronous: str) -> Server:
        command = [str(self.programs.peers / "tower_sessions_sqlite")]
        return self.telling(name, command, {"DATABASE": str(database), "SYNCHRONOUS": synchronous})

    def express_redis(self, name: str, redis: Server) -> Server:
        command = ["node", str(self.programs.node / "express_session.js"), "redis"]
        environment = {"NODE_ENV": "production", "SECRET": SECRET, "REDIS_URL": url_of(redis)}
        return self.with_redis(self.telling(name, command, environment), redis)

    def express_sqlite(self, name: str, database: Path, synchronous: str) -> Server:
        command = ["node", str(self.programs.node / "express_session.js"), "sqlite"]
        environment = {"NODE_ENV": "production", "SECRET": SECRET, "DATABASE": str(database), "SYNCHRONOUS": synchronous}
        return self.telling(name, command, environment)

    def starlette(self, name: str, database: Path, synchronous: str, redis: Server) -> Server:
        script = Path(__file__).parent.parent / "peers/python/starlette_redis.py"
        environment = {"DATABASE": str(database), "SYNCHRONOUS": synchronous, "REDIS_URL": url_of(redis)}
        return self.with_redis(self.telling(name, [str(self.programs.python), str(script)], environment), redis)

    def webdis(self, redis: Server) -> Server:
        """webdis with the settings of its own file but for addresses and its log; one thread, as all is on one core."""
        port = free_port()
        settings = {
            "redis_host": "127.0.0.1",
            "redis_port": redis.port,
            "redis_auth": None,
            "http_host": "127.0.0.1",
            "http_port": port,
            "threads": 1,
            "pool_size": 20,
            "daemonize": False,
            "database": 0,
            "verbosity": 1,
            "logfile": str(self.folder / "webdis-own.log"),
        }
        file = self.folder / "webdis.json"
        file.write_text(json.dumps(settings))
        return self.with_redis(self.listening("webdis", port, ["webdis", str(file)], {}), redis)


def url_of(redis: Server) -> str:
    return f"redis://127.0.0.1:{redis.port}"


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def is_listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def is_loaded(port: int) -> bool:
    """Whether Redis has read its snapshot."""
    try:
        return talking.redis(port, ("PING",)) == [b"+PONG"]
    except ConnectionError:
        return False


def is_appending(port: int) -> bool:
    """Whether Redis has written its first append-only file, and appends to it."""
    connection = talking.Connection(port)
    try:
        connection.send(talking.redis_command(("INFO", "persistence")))
        length = int(connection.read_until(b"\r\n")[1:])
        info = connection.read_bytes(length).decode().split()
    finally:
        connection.close()
    wanted = ("aof_enabled:1", "aof_rewrite_in_progress:0", "aof_rewrite_scheduled:0", "aof_last_bgrewrite_status:ok")
    return all(line in info for line in wanted)


def told_port(log: Path) -> int:
    """The port that a server told in its output; 0 before that."""
    found = re.search(r"^listening on (\d+)$", log.read_text(errors="replace"), re.MULTILINE)
    return int(found[1]) if found else 0


def wait_for(is_ready, process: subprocess.Popen, log: Path) -> None:
    """Waits for a server to be ready; says what it said if it ends before."""

    def ready_or_gone() -> bool:
        if process.poll() is not None:
            raise ChildProcessError(f"{log.stem} ended: {log.read_text(errors='replace')[-2000:]}")
        return is_ready()

    wait_until(ready_or_gone)


def wait_until(is_so) -> None:
    deadline = time.monotonic() + START_SECS
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError("a server is not ready in time")
        time.sleep(0.02)
