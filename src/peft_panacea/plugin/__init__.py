"""Every change to a class of PEFT or transformers, and nothing else; importing it makes PEFT know the method."""

from .registration import register

register()
