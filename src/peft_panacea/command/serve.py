"""`serve`: transformers' own server, with a preference for every request."""

from __future__ import annotations

import argparse

from .adapter import config_of

HELP = "serve it as `transformers serve` does, with a preference for every request"
EXAMPLES = ["peft-panacea serve runs/chat/dpo --port 8000"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="adapter, a folder or a name on the Hub")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="(default: %(default)s)")
    parser.add_argument("--dtype", default="auto", help="of the weights, such as bfloat16 (default: as saved)")
    parser.add_argument("--device", default="auto", help="such as cuda:0 (default: %(default)s)")
    parser.add_argument(
        "--continuous_batching",
        action="store_true",
        help="compute requests together, all sampled as the first is",
    )
    parser.add_argument(
        "--cache_tokens",
        type=int,
        default=16384,
        help="with it: tokens of all running requests (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    config_of(args.path)
    from ..extras import needs

    with needs("serve"):
        import uvicorn

    from ..serving.transformers_server import pages, steered_server

    batching = pages(args.cache_tokens) if args.continuous_batching else False
    app = steered_server(args.path, dtype=args.dtype, device=args.device, continuous_batching=batching)
    uvicorn.run(app, host=args.host, port=args.port, log_level="warning")
