#!/usr/bin/env bash
# Make the locks from the short lists: every package pinned, with markers for Linux, macOS and ARM,
# Python 3.11 and 3.12. Needs uv (pip install uv).
set -euo pipefail
cd "$(dirname "$0")/.."
export UV_CUSTOM_COMPILE_COMMAND="make lock"
compile() {
  uv pip compile --universal --python-version 3.11 --no-emit-index-url --no-annotate --quiet "$@"
}
compile requirements.in --output-file requirements.txt
compile requirements-ensemble.in --constraint requirements.txt --output-file requirements-ensemble.txt
