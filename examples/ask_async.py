"""Asks a server from an event loop: python examples/ask_async.py localhost:8500 a.jpg b.jpg."""

import asyncio
import sys

from serving.client.async_client import AsyncPredictClient


async def main(server: str, *pictures: str) -> None:
    """Asks about all pictures at once, and prints the answers in their order."""
    async with AsyncPredictClient(server, label="stable") as client:
        answers = await asyncio.gather(*map(client.predict, pictures))
    for picture, answer in zip(pictures, answers, strict=True):
        print(picture, f"{answer.label} {answer.probability:.2f}")


asyncio.run(main(*sys.argv[1:]))
