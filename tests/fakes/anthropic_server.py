"""A strict stand-in for Anthropic's API on 127.0.0.1, driven by the real SDK, in a thread or as a process of its own.

It answers as the documentation says, refuses what the API refuses, breaks where a test wants it to, and logs every
accepted (billable) request. `python -m tests.fakes.anthropic_server` runs it as a process.
"""

import argparse
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from tests.fakes.anthropic_batches import FakeBatch
from tests.fakes.anthropic_faults import (
    Body,
    FaultMix,
    Reply,
    default_script,
    prompt_of,
    rate_limited,
    refusal,
    spend_limit,
    thinking,
    truncated,
    user_spend_limit,
)
from tests.fakes.anthropic_state import AnthropicServer
from tests.fakes.anthropic_wire import API_VERSION, KEY

__all__ = [
    "API_VERSION",
    "KEY",
    "AnthropicServer",
    "FakeBatch",
    "FaultMix",
    "Reply",
    "anthropic_server",
    "default_script",
    "prompt_of",
    "rate_limited",
    "refusal",
    "serve_process",
    "spend_limit",
    "thinking",
    "truncated",
    "user_spend_limit",
]
REPOSITORY = Path(__file__).parents[2]
START_S = 10.0


class _Uvicorn(uvicorn.Server):
    def __init__(self, state: AnthropicServer) -> None:
        # Idle connections stay: a client that reuses one just as it closes would see a fault that no test asked for.
        options: dict[str, Any] = {
            "access_log": False,
            "proxy_headers": False,
            "timeout_keep_alive": 3600,
            "ws": "none",
        }
        super().__init__(uvicorn.Config(state, log_level="error", lifespan="off", interface="asgi3", **options))
        self._state = state

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._state.stopping = True
        self._state.stalls.end()
        await super().shutdown(sockets)


@contextmanager
def anthropic_server() -> Iterator[AnthropicServer]:
    """A server on a free port of 127.0.0.1 for the duration of the block."""
    state = AnthropicServer()
    listening = _listen(state, 0)
    server = _Uvicorn(state)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + START_S
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    try:
        yield state
    finally:
        server.should_exit = True
        thread.join(START_S)


@contextmanager
def serve_process(
    delay_ms: float = 0.0,
    log: Path | None = None,
    fault_rate: float = 0.0,
    requests_per_minute: int | None = None,
    batch_ends_after_s: float = 0.0,
    seed: int = 0,
) -> Iterator[str]:
    """The URL of a server in a process of its own, which ends with the block, or with this process."""
    command = [sys.executable, "-m", "tests.fakes.anthropic_server", "--until-stdin-ends"]
    command += ["--delay-ms", str(delay_ms), "--fault-rate", str(fault_rate), "--seed", str(seed)]
    command += ["--batch-ends-after-s", str(batch_ends_after_s)]
    if log is not None:
        command += ["--log", str(log.absolute())]
    if requests_per_minute is not None:
        command += ["--requests-per-minute", str(requests_per_minute)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, "the server did not start"
        try:
            yield url
        finally:
            process.stdin.close()
            try:
                process.wait(START_S)
            except subprocess.TimeoutExpired:
                process.kill()


def main() -> None:
    """Runs a server until it is interrupted, and prints its URL first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay-ms", type=float, default=0.0)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--fault-rate", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--requests-per-minute", type=int)
    parser.add_argument("--batch-ends-after-s", type=float, default=0.0)
    parser.add_argument("--until-stdin-ends", action="store_true")
    asked = parser.parse_args()
    mix = FaultMix(asked.fault_rate, asked.seed)

    def script(body: Body, seen: int) -> Reply:
        reply = mix(body, seen) if asked.fault_rate else default_script(body, seen)
        reply.delay_s += asked.delay_ms / 1000
        return reply

    state = AnthropicServer(
        script=script,
        batch_script=mix.batch_script if asked.fault_rate else None,
        log=asked.log,
        seed=asked.seed,
        requests_per_minute=asked.requests_per_minute,
        batch_ends_after_s=asked.batch_ends_after_s,
    )
    listening = _listen(state, asked.port)
    server = _Uvicorn(state)
    if asked.until_stdin_ends:
        threading.Thread(target=_stop_with_stdin, args=(server,), daemon=True).start()
    print(state.url, flush=True)  # noqa: T201
    server.run(sockets=[listening])


def _listen(state: AnthropicServer, port: int) -> socket.socket:
    listening = socket.create_server(("127.0.0.1", port))
    state.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    return listening


def _stop_with_stdin(server: uvicorn.Server) -> None:
    sys.stdin.read()
    server.should_exit = True


if __name__ == "__main__":
    main()
