"""An adapter from a folder or the Hub with its base model, and a folder to the Hub."""

from .loading import load, load_config
from .pushing import push

__all__ = ["load", "load_config", "push"]
