"""A page in the browser where an adapter is steered, with nothing from outside of this machine."""

from ..extras import needs

with needs("play"):
    from .layout import page
    from .on_front import OnFront
    from .server import check_port, serve

__all__ = ["OnFront", "check_port", "page", "serve"]
