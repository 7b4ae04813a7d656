"""A tokenizer of 64 words, made in code."""

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = {"[PAD]": 0, "[BOS]": 1, "[EOS]": 2, **{f"w{i}": i for i in range(3, 64)}}
PLAIN_CHAT = "{% for m in messages %}[BOS] {{ m['content'] }} {% endfor %}"
"""A conversation is what its messages say, one after the other."""

CHAT = """{% for m in messages %}[BOS] {{ "w60" if m['role'] == "user" else "w61" }} {{ m['content'] }} [EOS] w62 \
{% endfor %}{% if add_generation_prompt %}[BOS] w61 {% endif %}"""
"""As ChatML: roles are named, messages end, and something stands between them."""


def word_tokenizer(chat_template: str = PLAIN_CHAT, **special: str) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel(WORDS, unk_token="[EOS]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="[BOS] $A", special_tokens=[("[BOS]", 1)])
    special = special or {"pad_token": "[PAD]", "bos_token": "[BOS]", "eos_token": "[EOS]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, chat_template=chat_template, **special)
