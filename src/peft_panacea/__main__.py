"""`python -m peft_panacea`, the same as the command `peft-panacea`."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
