#!/usr/bin/env bash
# Everything that must hold: style, types, tests and doctests. Arguments go to pytest: bash scripts/test.sh -k replay
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
# One thread for each worker: more only makes them wait for each other.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# Environments draw without a display.
export SDL_VIDEODRIVER=dummy MPLBACKEND=Agg

echo "test: ruff check"
ruff check .
echo "test: ruff format"
ruff format --check .
echo "test: pyright"
pyright
echo "test: pytest"
python -m pytest -n "${PYTEST_WORKERS:-2}" --dist loadgroup "$@"
