r"""Print what a trained Panacea adapter answers to a few prompts under preferences from one objective to another.

    python examples/answer.py examples/storyteller/adapter --prompts examples/storyteller/held_out.json

All answers to a prompt are one batch, every row under a preference of its own.
"""

import argparse
from pathlib import Path


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Print answers of a Panacea adapter under several preferences.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("adapter", help="Hub name or folder; its configuration says what the base model is")
    parser.add_argument("--prompts", type=Path, required=True, help="JSON file of prompts or of rows with `prompt`")
    parser.add_argument("--first", type=int, default=3, help="how many of them")
    parser.add_argument("--steps", type=int, default=4, help="steps of the grid from one objective to another")
    parser.add_argument("--system_prompt", metavar="TEXT", help="in front of every conversation that has none")
    parser.add_argument("--plain", action="store_true", help="continue texts as they are, despite a chat template")
    parser.add_argument("--max_new_tokens", type=int, default=64, help="of an answer, at most")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the sampling")
    parser.add_argument("--greedy", action="store_true", help="the likeliest token in place of a sampled one")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16", "auto"], default="float32")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    # Imported here, so that what is wrong with the flags and `--help` need not wait for it.
    import torch
    from peft import AutoPeftModelForCausalLM, PeftConfig
    from transformers import AutoTokenizer

    from peft_panacea import get_objectives, simplex_grid
    from peft_panacea.completions import sample
    from peft_panacea.data import chat_prompt, is_chat, json_prompts

    try:
        prompts = json_prompts(args.prompts)[: args.first]
        tokenizer = AutoTokenizer.from_pretrained(PeftConfig.from_pretrained(args.adapter).base_model_name_or_path)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        if is_chat(prompts[0], tokenizer, plain=args.plain, system_prompt=args.system_prompt):
            prompts = [chat_prompt(prompt, args.system_prompt) for prompt in prompts]
    except (OSError, ValueError) as error:
        raise SystemExit(f"{error}") from None
    model = AutoPeftModelForCausalLM.from_pretrained(args.adapter, dtype=args.dtype)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    objectives = get_objectives(model)
    grid = simplex_grid(len(objectives), args.steps).flip(0)
    decoding = {"do_sample": False} if args.greedy else {"temperature": args.temperature}
    torch.manual_seed(args.seed)
    for prompt in prompts:
        print(f"\n{prompt if isinstance(prompt, str) else prompt[-1]['content']}")
        answers = sample(model, tokenizer, [prompt] * len(grid), grid, max_new_tokens=args.max_new_tokens, **decoding)
        for preference, text, ids in zip(grid.tolist(), answers.texts, answers.token_ids, strict=True):
            weights = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(objectives, preference, strict=True))
            cut = " …" if len(ids) == args.max_new_tokens else ""
            print(f"\n  {weights}: {text.strip() or '(nothing)'}{cut}")


if __name__ == "__main__":
    main()
