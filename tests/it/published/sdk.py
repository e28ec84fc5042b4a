"""Tools on the Python SDK 2.x: over stdio, or over HTTP on the port that is given."""
import asyncio
import sys

from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("sdk")


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
    server.run(transport="streamable-http", port=int(sys.argv[1]))
else:
    server.run()
