"""The same as `wm evaluate`, for those who start scripts: python scripts/evaluate.py ARGUMENTS."""

import sys

from agents.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
