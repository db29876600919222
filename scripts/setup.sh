#!/usr/bin/env bash
# Make .venv fit a requirements file: setup.sh [full|ensemble|any]
#   full      everything (requirements.txt)
#   ensemble  without torch (requirements-ensemble.txt)
#   any       whichever of the two is there already, else everything
# Does nothing when the stamp in .venv carries the file's digest.
set -euo pipefail
cd "$(dirname "$0")/.."
want=${1:-full}

digest() { "$1" -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$2"; }
fits() { [ -x .venv/bin/python ] && [ "$(cat .venv/.stamp 2>/dev/null)" = "$1 $(digest .venv/bin/python "$1")" ]; }

fits requirements.txt && exit 0
if [ "$want" != full ] && fits requirements-ensemble.txt; then exit 0; fi
file=requirements.txt about="2 to 10 minutes and 6 GB of disk"
[ "$want" = ensemble ] && file=requirements-ensemble.txt about="a minute and 0.7 GB of disk"

python=
for name in "${PIPE_PYTHON:-}" python3.11 python3.12 python3 python; do
  if "$name" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then
    python=$name
    break
  fi
done
if [ -z "$python" ]; then
  echo "error: no Python 3.11 or 3.12 found; install one, or name it: make setup PYTHON=/path/to/python3.11" >&2
  exit 1
fi

echo "Setting up .venv from $file with $("$python" --version): about $about, once; messages go to setup.log"
rm -f .venv/.stamp
with_pip() { .venv/bin/python -m pip install --disable-pip-version-check "$@"; }
with_uv() { .venv/bin/python -m uv pip install --python .venv "$@"; }
# uv is faster than pip, but does not read pip's settings: where it finds no packages, pip looks.
install() {
  "$python" -m venv .venv --clear && with_pip "$(grep '^uv==' "$file")" || return
  with_uv -r "$file" || with_pip -r "$file" || return
  [ "$file" = requirements.txt ] || return 0
  # The cv2 wheel that needs no libGL goes on top of the others, which are of the same version.
  headless=$(grep '^opencv-python-headless==' "$file")
  with_uv --reinstall --no-deps "$headless" || with_pip --force-reinstall --no-deps "$headless"
}
if ! install >setup.log 2>&1; then
  tail -n 15 setup.log >&2
  echo "error: setting up .venv failed (see setup.log); mend that and run the same command again" >&2
  exit 1
fi
echo "$file $(digest .venv/bin/python "$file")" >.venv/.stamp
echo "Set up .venv in $SECONDS s"
