"""What a user's process does with the Hub of `HF_ENDPOINT`; prints what came of each step as JSON."""

import json
import sys
import warnings

import torch

import peft_panacea

warnings.simplefilter("ignore")
torch.set_num_threads(1)
IDS = torch.arange(12).view(1, 12) + 3
PREFERENCE = [0.3, 0.7]


def logits(model: torch.nn.Module) -> list:
    with torch.no_grad():
        return model.eval()(input_ids=IDS, preference=PREFERENCE).logits.double().tolist()


def said(call, *args: object, **options: object) -> str:
    try:
        return f"nothing: {call(*args, **options)}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def main(step: str, *words: str) -> object:
    if step == "push model":  # from a folder, by PEFT's own method
        model = peft_panacea.load(words[0])
        model.push_to_hub(words[1])
        return logits(model)
    if step == "push folder":
        return peft_panacea.push(*words)
    if step == "load":
        model = peft_panacea.load(words[0])
        return {"logits": logits(model), "preference": model.get_preference().tolist()}
    if step == "mistakes":
        call = {"load": peft_panacea.load, "push": peft_panacea.push}
        return [said(call[kind], *rest) for kind, *rest in json.loads(words[0])]
    raise SystemExit(step)


if __name__ == "__main__":
    steps = json.loads(sys.argv[1])
    print("\n" + json.dumps([main(*step) for step in steps]))
