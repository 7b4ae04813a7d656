"""stories260K and TinyStories: a model so small that every method can be trained for many seeds."""

import json
import random
import re
from pathlib import Path

from experiment import Experiment
from public_data import MODEL, STORIES


class Stories(Experiment):
    """The prompts are first sentences, their order is fixed.

    Args:
        shared: Folder with `models/` and `data/`.
    """

    TEST, DEVELOPMENT = 128, 64

    def __init__(self, shared: Path) -> None:
        texts = json.loads((shared / STORIES).read_text(encoding="utf-8"))
        self.shared, self.stories = shared, dict[str, str]()
        for text in texts:
            first, _, rest = re.sub(r"\s+", " ", text.strip()).partition(". ")
            if rest and len(first) < 160:
                self.stories.setdefault(first + ".", " " + rest)
        prompts = list(self.stories)
        random.Random(0).shuffle(prompts)
        known = self.TEST + self.DEVELOPMENT
        super().__init__(shared / MODEL, prompts[: self.TEST], prompts[self.TEST : known], prompts[known:])
