"""Tools on the Python SDK 1.x: over stdio, or over HTTP on the port that is given."""
import asyncio
import sys

from mcp.server.fastmcp import Context, FastMCP

server = FastMCP("older", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000)


@server.tool()
def add(a: int, b: int = 0) -> dict:
    return {"total": a + b}


@server.tool()
def words(text: str) -> list[str]:
    return text.split()


@server.tool()
def nothing() -> None:
    return None


@server.tool()
async def slow(seconds: int, ctx: Context) -> str:
    for n in range(seconds * 4):
        await asyncio.sleep(0.25)
        await ctx.report_progress(n, seconds * 4)
    return "done"


@server.tool()
def boom() -> str:
    raise ValueError("broken")


if len(sys.argv) > 1:
    server.run(transport="streamable-http")
else:
    server.run()
