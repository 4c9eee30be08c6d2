"""Tools of the user's MCP servers (modelcontextprotocol.io): which, how they are held, what is let in."""

from ml_intern_cli.brains.tools.mcp.servers import McpServers
from ml_intern_cli.brains.tools.mcp.settings import McpServer

__all__ = ["McpServer", "McpServers"]
