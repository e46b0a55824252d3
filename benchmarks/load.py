"""A load generator in a process of its own: bare HTTP/1.1 over kept-alive loopback sockets, a few microseconds a request.

    python benchmarks/load.py PORT closed BODIES.json --connections 8 --seconds 4
    python benchmarks/load.py PORT open   BODIES.json --rate 200      --seconds 4

BODIES.json is a list of lists of texts, asked in turn. Closed: each connection asks again when it has its answer. Open: requests
fall due on a schedule, whatever the service does, and are timed from when they were due. Prints one JSON object.
"""

import argparse
import asyncio
import collections
import json
import time
from pathlib import Path

import numpy as np
import uvloop

MOST_CONNECTIONS = 256


class Connection(asyncio.Protocol):
    def __init__(self, answered):
        self.answered, self.buffer, self.transport = answered, bytearray(), None

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, error):
        self.answered(self, 0)

    def data_received(self, data):
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self.buffer[:end]).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r")[0])
        if len(self.buffer) >= end + 4 + length:
            self.buffer.clear()
            self.answered(self, int(head[9:12]))


class Load:
    def __init__(self, port, requests):
        self.port, self.requests, self.next = port, requests, 0
        self.milliseconds, self.codes, self.ending = [], collections.Counter(), False
        self.asked = {}

    def ask(self, connection, due):
        self.asked[connection] = due
        connection.transport.write(self.requests[self.next % len(self.requests)])
        self.next += 1

    def note(self, connection, code):
        due = self.asked.pop(connection, None)
        if due is not None:
            self.codes[code] += 1
            if code == 200:
                self.milliseconds.append((time.perf_counter() - due) * 1e3)

    async def connect(self, answered):
        return (await asyncio.get_running_loop().create_connection(lambda: Connection(answered), "127.0.0.1", self.port))[1]

    async def closed(self, connections, seconds):
        end = time.perf_counter() + seconds

        def answered(connection, code):
            self.note(connection, code)
            now = time.perf_counter()
            if code and now < end:
                self.ask(connection, now)

        for connection in [await self.connect(answered) for _ in range(connections)]:
            self.ask(connection, time.perf_counter())
        await asyncio.sleep(seconds)
        await self.drain()

    async def open(self, rate, seconds):
        idle, overdue = [], collections.deque()
        loop = asyncio.get_running_loop()

        def answered(connection, code):
            self.note(connection, code)
            if code and overdue:
                self.ask(connection, overdue.popleft())
            elif code:
                idle.append(connection)

        idle += [await self.connect(answered) for _ in range(min(MOST_CONNECTIONS, max(16, int(rate / 4))))]
        start = time.perf_counter() + 0.1

        def fire(due):
            if idle:
                self.ask(idle.pop(), due)
            else:
                overdue.append(due)

        base = loop.time() - time.perf_counter()
        for i in range(int(rate * seconds)):
            due = start + i / rate
            loop.call_at(base + due, fire, due)
        await asyncio.sleep(0.1 + seconds)
        await self.drain()
        self.codes[0] += len(overdue)

    async def drain(self, seconds=10.0):
        end = time.perf_counter() + seconds
        while self.asked and time.perf_counter() < end:
            await asyncio.sleep(0.01)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("kind", choices=["closed", "open"])
    parser.add_argument("bodies", type=Path)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--seconds", type=float, default=4)
    a = parser.parse_args()
    requests = []
    for texts in json.loads(a.bodies.read_text()):
        body = json.dumps({"texts": texts}, ensure_ascii=False).encode()
        head = f"POST /v1/classify HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        requests.append(head.encode() + body)
    load = Load(a.port, requests)
    began = time.perf_counter()
    uvloop.run(load.closed(a.connections, a.seconds) if a.kind == "closed" else load.open(a.rate, a.seconds))
    took = min(time.perf_counter() - began, a.seconds) if a.kind == "open" else time.perf_counter() - began
    p50, p99 = np.quantile(load.milliseconds or [float("nan")], (0.5, 0.99))
    print(
        json.dumps(
            {
                "answers": len(load.milliseconds),
                "errors": sum(n for code, n in load.codes.items() if code != 200),
                "per_s": len(load.milliseconds) / took,
                "p50_ms": p50,
                "p99_ms": p99,
                "max_ms": max(load.milliseconds, default=float("nan")),
            }
        )
    )


if __name__ == "__main__":
    main()
