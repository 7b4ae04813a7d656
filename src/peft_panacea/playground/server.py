"""Showing the page on this machine, to browsers that are told to ask nobody else for anything."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import gradio as gr

POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; form-action 'self'"
"""For browsers: what the page loads, and whom it speaks to, is this server."""
FONTS = ["system-ui", "sans-serif"]


class SameOrigin:
    """Middleware that gives the policy to every answer."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Callable[..., Awaitable[None]]) -> None:
        async def with_policy(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                header = (b"content-security-policy", POLICY.encode())
                message = {**message, "headers": [*message["headers"], header]}
            await send(message)

        await self.app(scope, receive, with_policy)


def check_port(host: str, port: int) -> None:
    """Whether a server can be had there.

    Raises:
        ValueError: the port is taken, or is none of this host.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise ValueError(f"`--port` must be free on {host}, but {port} is not: {error}.") from None


def serve(blocks: gr.Blocks, host: str, port: int, *, wait: bool = True) -> str:
    """Show the page until the process is interrupted.

    Args:
        blocks: What `page` made.
        host: The address to listen at.
        port: The port there.
        wait: Whether to return only when it has ended; else `blocks.close()` ends it.

    Returns:
        The page's address.
    """
    _, url, _ = blocks.launch(
        server_name=host, server_port=port, share=False, prevent_thread_lock=True, quiet=True, footer_links=["api"],
        ssr_mode=False, pwa=False, mcp_server=False, enable_monitoring=False,
        theme=gr.themes.Default(font=FONTS, font_mono="monospace"),
        app_kwargs={"middleware": [(SameOrigin, (), {})]},
    )  # fmt: skip
    if wait:
        print(f"The playground is at {url}; Ctrl-C ends it.", flush=True)
        blocks.block_thread()
    return url
