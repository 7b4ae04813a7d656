"""Writes the prompts that the chat experiments train on as a file for the recipes, and unpacks the model.

python benchmarks/paper/chat_prompts.py --shared ../shared --output runs/chat/prompts.jsonl
"""

import argparse
import json
from pathlib import Path

from chat import Chat
from public_data import OF_CHATS, public_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with models/ and data/")
    parser.add_argument("--output", type=Path, default=Path("runs/chat/prompts.jsonl"))
    parser.add_argument("--number", type=int, default=400)
    args = parser.parse_args()
    prompts = Chat(public_data(args.shared, OF_CHATS)).train[: args.number]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(
        "".join(json.dumps({"prompt": conversation[0]["content"]}) + "\n" for conversation in prompts)
    )
    print(f"Wrote {len(prompts)} prompts to {args.output}")


if __name__ == "__main__":
    main()
