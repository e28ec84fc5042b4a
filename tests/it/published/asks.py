"""A tool that asks who is there, on the Python SDK 2.x: over stdio, or over HTTP on the port that is given."""
import sys
from typing import Annotated

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.resolve import Elicit, Resolve
from pydantic import BaseModel

server = MCPServer("asks")


class Who(BaseModel):
    name: str
    age: int


def who() -> Elicit[Who]:
    return Elicit("Who is there?", Who)


@server.tool()
def greet(who: Annotated[Who, Resolve(who)]) -> str:
    return f"Hello {who.name}, {who.age}"


if len(sys.argv) > 1:
    server.run(transport="streamable-http", port=int(sys.argv[1]))
else:
    server.run()
