#!/usr/bin/env bash
# Make .venv in the checkout what requirements.lock says, with the project installed in place.
# Does nothing when it already is. PYTHON names the interpreter that creates it (3.11 or newer).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="${PYTHON:-python3}"
stamp=.venv/setup-stamp

if [ ! -x .venv/bin/python ]; then
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "setup: $python is not Python 3.11 or newer; name one with PYTHON=..., e.g. PYTHON=python3.11" >&2
        exit 2
    fi
    echo "setup: creating .venv with $("$python" --version)"
    "$python" -m venv .venv
fi

# What was installed depends on the lock, on the project's own metadata and on where the checkout lies.
wanted="$(.venv/bin/python - requirements.lock pyproject.toml <<'PY'
import hashlib, os, sys
digest = hashlib.sha256(f"{os.getcwd()} {sys.version}".encode())
for name in sys.argv[1:]:
    with open(name, "rb") as file:
        digest.update(hashlib.sha256(file.read()).digest())
print(digest.hexdigest())
PY
)"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    echo "setup: .venv is up to date"
    exit 0
fi

pip=(.venv/bin/python -m pip --disable-pip-version-check -qq)
torch="$(grep -m 1 '^torch==' requirements.lock)"

echo "setup: installing $torch"
"${pip[@]}" install "$torch"
echo "setup: installing the $(grep -c '==' requirements.lock) packages of requirements.lock"
"${pip[@]}" install --requirement requirements.lock
echo "setup: installing worldmodels in place"
"${pip[@]}" install --no-deps --no-build-isolation --editable .

echo "$wanted" > "$stamp"
echo "setup: .venv is ready"
