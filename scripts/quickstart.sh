#!/usr/bin/env bash
# Train an agent on CartPole, measure it, and say where the pictures are.
# Usage: bash scripts/quickstart.sh [KEY=VALUE ...]     e.g. bash scripts/quickstart.sh steps=2000 seed=1
# RUN names the run folder (default: runs/quickstart, or the next free number after it).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export SDL_VIDEODRIVER="${SDL_VIDEODRIVER:-dummy}"

run="${RUN:-}"
if [ -z "$run" ]; then
    run=runs/quickstart
    number=2
    while [ -e "$run" ]; do
        run="runs/quickstart-$number"
        number=$((number + 1))
    done
fi
if [ -e "$run" ]; then
    set -- resume=true "$@"
    echo "quickstart: $run exists; going on with it"
elif [[ " $* " != *" steps="* ]]; then
    set -- steps=3000 "$@" # enough for CartPole
fi

echo "quickstart: training, into $run"
wm train env=cartpole run="$run" "$@"
echo "quickstart: evaluating"
wm evaluate "$run"
films=("$run"/videos/*)
if [ ! -e "${films[0]}" ]; then
    echo "quickstart: filming the dream beside reality"
    mkdir -p "$run/videos"
    wm imagine "$run" --out "$run/videos/dream.mp4"
fi

echo
echo "quickstart: what is in $run"
show() { if [ -e "$2" ]; then printf '  %-15s %s\n' "$1" "$2"; fi; }
show "evaluation" "$run/evaluation.json"
show "learning curve" "$run/learning_curve.png"
for film in "$run"/videos/*; do show "film" "$film"; done
show "TensorBoard" "$run/tensorboard"
echo "  to look at it:  .venv/bin/tensorboard --logdir $run/tensorboard"
