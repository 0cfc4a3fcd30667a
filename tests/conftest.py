"""What every test shares: no display, one torch thread, and hypothesis examples that are the same in every run."""

import os
import sys

import absl.logging

# Set before anything draws: pygame and matplotlib read them when they are imported, worker processes inherit them.
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

from hypothesis import settings

# Hydra closes every logging handler. That of absl, which rliable and dm_control load, would close with it the stream
# that pytest captures, had it taken hold of it.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__

# A slow machine is no failure, and the same commit gives the same answer twice.
settings.register_profile("suite", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("suite")
