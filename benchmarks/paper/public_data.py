"""The folder of public models and data that the experiments read; it is not part of this repository."""

from pathlib import Path

MODEL, STORIES, LEXICON = "models/stories260K", "data/tinystories/stories.json", "data/vader/vader_lexicon.txt"
CHAT_MODEL, CHAT_PROMPTS = "models/smollm2-135m-instruct", "data/instruct/prompts.jsonl.gz"
CHAT_PAIRS = "data/instruct/pairs.jsonl.gz"
OF_STORIES = {
    MODEL: "stories260K of Andrej Karpathy's tinyllamas in Hugging Face format",
    STORIES: "TinyStories, CDLA-Sharing-1.0, as a JSON list of texts",
    LEXICON: "the lexicon of VADER",
}
OF_CHATS = {
    CHAT_MODEL: "SmolLM2-135M-Instruct as a GGUF file with its `unpack.py`",
    CHAT_PROMPTS: "instructions with source, licence and split, JSON lines",
    CHAT_PAIRS: "pairs of answers with labels by objective, JSON lines",
    LEXICON: OF_STORIES[LEXICON],
}


def public_data(folder: Path, wanted: dict[str, str] = OF_STORIES) -> Path:
    """The absolute path of the folder, which must have everything that the experiments read."""
    missing = [f"{path} ({source})" for path, source in wanted.items() if not (folder / path).exists()]
    if missing:
        raise SystemExit(f"`--shared` must be a folder with public data, but {folder} lacks {', '.join(missing)}.")
    return folder.resolve()
