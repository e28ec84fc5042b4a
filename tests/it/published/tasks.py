"""A tool that runs as a task, on FastMCP's extension for them, over HTTP on the port that is given. Each call of it is a line in a file."""
import asyncio
import sys

from fastmcp import FastMCP
from fastmcp_tasks import TasksExtension

server = FastMCP("tasks")
server.add_extension(TasksExtension())


@server.tool(task=True)
async def long(seconds: float, calls: str) -> dict:
    with open(calls, "a") as file:
        file.write("called\n")
    await asyncio.sleep(seconds)
    return {"worked": seconds}


server.run(transport="http", port=int(sys.argv[1]))
