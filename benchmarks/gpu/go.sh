#!/usr/bin/env bash
# go.sh NAME=VALUE...: on the GPU machine, from the packed folder: unpack once, then `make bench-gpu NAME=VALUE...`.
# Results go to $OUT, if that is set. BASE= is where it unpacks.
set -u
packed=$(cd "$(dirname "$0")" && pwd); base=${BASE:-$(dirname "$(mktemp -u)")/bench-gpu}; began=$SECONDS
export PIPELINE_HOME=$base/home PYTHONUNBUFFERED=1 MPLBACKEND=Agg PYTHONPATH=$base/site
if [ ! -d "$base/project" ]; then
  mkdir -p "$base/site" "$base/home" "$base/unpacked"
  python3 -m pip install -q --disable-pip-version-check --no-index --no-deps --no-compile --no-cache-dir \
    --target "$base/site" "$packed"/whl/*.whl 2>&1 | grep -v WARNING
  tar -C "$base/site" -xJf "$packed/extra.txz"
  if [ -f "$packed/ray.txz" ]; then
    tar -C "$base/site" -xJf "$packed/ray.txz"
    chmod +x "$base"/site/ray/core/src/ray/*/* "$base"/site/ray/core/src/ray/raylet/* 2>/dev/null
  fi
  python3 -c "import polars" 2>/dev/null || cp "$packed/polars.py" "$base/site/"
  xz -dc "$packed/project.txz" | tar -C "$base/unpacked" -x; mv "$base/unpacked" "$base/project"
fi
cd "$base/project"; echo "ready after $((SECONDS - began)) s"
for pair in "$@"; do export "PIPE_$pair"; done
export PIPE_FILE=${PIPE_FILE:-${OUT:-$PIPELINE_HOME}/bench-gpu.jsonl}
python3 -m benchmarks.gpu --from-make
