"""The same as `wm train`, for those who start scripts: python scripts/train.py ARGUMENTS."""

import sys

from agents.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
