"""Watches a run on the Python package websockets: from the first place that is given, then, when that is gone, from the second."""
import asyncio
import json
import os
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


async def main():
    headers = {"Authorization": "Bearer " + os.environ["TOKEN"]}
    cursor = ""
    for place in sys.argv[1:]:
        try:
            async with connect(f"{place}?after={cursor}", additional_headers=headers, proxy=None) as socket:
                async for text in socket:
                    message = json.loads(text)
                    cursor = message.get("cursor", cursor)
                    print(json.dumps(message), flush=True)
                if socket.close_code == 1000:
                    return
        except ConnectionClosed:
            pass


asyncio.run(main())
