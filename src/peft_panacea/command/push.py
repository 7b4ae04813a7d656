"""`push`: an adapter with its card and its front to the Hub."""

from __future__ import annotations

import argparse
import json

HELP = "upload it to the Hub, with its card and its front"
EXAMPLES = ["peft-panacea push runs/chat/dpo user/name", "peft-panacea push runs/chat/dpo user/name --private"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="adapter, a folder, perhaps with front.json in it")
    parser.add_argument("repo_id", metavar="REPOSITORY", help="user/name; made if it does not exist")
    parser.add_argument("--private", action="store_true", default=None, help="make it private, if it is made")
    parser.add_argument("--revision", help="a branch that exists (main)")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> None:
    from ..hub import push

    url = push(args.path, args.repo_id, private=args.private, revision=args.revision)
    print(json.dumps({"url": url}) if args.json else f"pushed {args.path} to {url}")
