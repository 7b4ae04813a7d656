"""An adapter from a folder or the Hub with its base model, and a folder to the Hub."""

from .beside import folder_of, load_tokenizer
from .loading import base_of, load, load_config
from .pushing import push

__all__ = ["base_of", "folder_of", "load", "load_config", "load_tokenizer", "push"]
