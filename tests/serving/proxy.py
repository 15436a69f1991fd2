"""A TCP proxy on loopback that does harm to what goes through it, by a seed."""

import asyncio
import random
import socket
import struct
import threading
from collections import Counter

CHUNK = 1 << 16
# What a connection that does not hold does.
FAULTS = ("delay", "drop", "truncate", "reset")


class FaultyProxy:
    """Use it in a `with` block; `address` is where it listens, `faults` counts what it did.

    Beside FAULTS there are `flip`, which changes a bit, and `dribble`, which sends byte by byte.
    """

    def __init__(self, port, seed, bytes_per_fault, faults=FAULTS):
        self.faults = Counter()
        self._kinds = faults
        self._port = port
        self._random = random.Random(seed)
        self._bytes_per_fault = bytes_per_fault
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self):
        self._thread.start()
        listening = asyncio.start_server(self._connected, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result(10)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _stop(self):
        self._server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connected(self, reader, writer):
        upstream = await asyncio.open_connection("127.0.0.1", self._port)
        ways = {
            asyncio.ensure_future(self._pump(reader, upstream[1], writer)),
            asyncio.ensure_future(self._pump(upstream[0], writer, writer)),
        }
        try:
            # Where one way ends the connection ends, and with it what was on its way.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass  # The proxy stops; asyncio would log it as a fault of its own.
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            writer.transport.abort()
            upstream[1].transport.abort()

    async def _pump(self, reader, writer, client):
        while chunk := await reader.read(CHUNK):
            fault = None
            if self._random.random() < len(chunk) / self._bytes_per_fault:
                fault = self._random.choice(self._kinds)
                self.faults[fault] += 1
            if fault == "delay":
                await asyncio.sleep(self._random.uniform(0.01, 0.2))
            elif fault == "flip":
                at = self._random.randrange(len(chunk))
                flipped = chunk[at] ^ 1 << self._random.randrange(8)
                chunk = chunk[:at] + bytes([flipped]) + chunk[at + 1 :]
            elif fault == "dribble":
                for byte in chunk:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0.02)
                continue
            elif fault == "drop":
                await asyncio.sleep(0.2)
                return
            elif fault == "truncate":
                writer.write(chunk[: len(chunk) // 2])
                await writer.drain()
                writer.close()
                await writer.wait_closed()
                return
            elif fault == "reset":
                # Closing with linger 0 sends RST.
                client.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                return
            writer.write(chunk)
            await writer.drain()
