"""What is gained where a decode server reads a prompt's KV while it is computed: `python benchmarks/kv_overlap.py --help`.

A prefill and a decode server on this machine, with a thread each where they compute on a CPU. Each prompt is new; in turn one goes to the
decode server when the prefill server has answered, and one as soon as it was announced (docs/disaggregation.md). Medians.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

import httpx

from headway.server.bench.server_process import ServerProcess, free_port

_TEXT = "The quick brown fox jumps over the lazy dog, again and again. "


class Pair:
    def __init__(self, stack: ExitStack, model: str) -> None:
        self._prefill = self._start(stack, model, "kv_producer")
        self._decode = self._start(stack, model, "kv_consumer")
        self._client = stack.enter_context(httpx.Client(timeout=300))

    def seconds(self, prompt: str, *, announces: bool) -> tuple[float, float]:
        """(until the prompt is computed, until the first token)."""
        body, started = {"prompt": prompt, "max_tokens": 1, "temperature": 0}, time.perf_counter()
        asked = body | {"kv_transfer_params": {"do_remote_decode": True, "announce": announces}}
        if not announces:
            params = self._client.post(f"{self._prefill}/v1/completions", json=asked).raise_for_status().json()["kv_transfer_params"]
            computed = time.perf_counter() - started
            return computed, self._first_token(body, params, started)
        with self._client.stream("POST", f"{self._prefill}/v1/completions", json=asked) as response:
            events, ended = _events(response), []
            params = next(events)["kv_transfer_params"]
            rest = threading.Thread(target=lambda: (list(events), ended.append(time.perf_counter() - started)))
            rest.start()
            first = self._first_token(body, params, started)
            rest.join()
        return ended[0], first

    def _first_token(self, body: dict[str, Any], params: Any, started: float) -> float:
        asked = body | {"max_tokens": 4, "stream": True, "kv_transfer_params": params}
        with self._client.stream("POST", f"{self._decode}/v1/completions", json=asked) as response:
            events = _events(response.raise_for_status())
            next(events)
            first = time.perf_counter() - started
            if failed := [event for event in events if "error" in event]:
                raise SystemExit(f"the decode server failed: {failed[0]}")
        return first

    def _start(self, stack: ExitStack, model: str, role: str) -> str:
        url, port = "http://127.0.0.1:{}", free_port()
        transfer = json.dumps({"kv_connector": "NixlConnector", "kv_role": role, "kv_load_failure_policy": "fail"})
        command = [sys.executable, "-m", "headway.server.cli", "serve", model, "--host", "127.0.0.1", "--port", str(port)]
        env = os.environ | {"VLLM_NIXL_SIDE_CHANNEL_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
        server = stack.enter_context(ServerProcess([*command, "--kv-transfer-config", transfer], env, url.format(port)))
        server.wait_ready(300)
        return server.url


def _events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    return (json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {"))


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--repeats", type=int, default=7, help="prompts of each kind")
    parser.add_argument("--sentences", type=int, default=125, help="of 15 tokens or so, in a prompt")
    options = parser.parse_args(argv)
    with ExitStack() as stack:
        found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        pair = Pair(stack, options.model)
        for repeat in range(options.repeats + 1):  # the first is not counted
            for announces, times in found.items():
                seconds = pair.seconds(f"{repeat} {announces} {_TEXT * options.sentences}", announces=announces)
                if repeat:
                    times.append(seconds)
    print("| the decode server is asked | prompt computed, ms | first token, ms | between, ms |\n|---|---:|---:|---:|")
    for announces, times in found.items():
        computed, first, between = (
            median(1e3 * value for value in values) for values in zip(*((c, f, f - c) for c, f in times), strict=True)
        )
        print(f"| {'when it is announced' if announces else 'when it is computed'} | {computed:.0f} | {first:.0f} | {between:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
