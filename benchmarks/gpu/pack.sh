#!/usr/bin/env bash
# pack.sh FOLDER: what a GPU machine without a package index lacks to run this project, for Python 3.12.
# Such a machine has torch, torchvision, numpy, numba, scipy, scikit-learn, opencv, pyarrow and the like; other
# names: HAS="torch numpy ..." pack.sh FOLDER. Run from the project's folder, with its .venv in place.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); out=$(mkdir -p "$1" && cd "$1" && pwd); site=$(ls -d .venv/lib/python3*/site-packages)
has=${HAS:-torch torchvision triton numpy numba llvmlite scipy scikit-learn scikit-image matplotlib opencv-python \
opencv-python-headless opencv-contrib-python pillow pyarrow pytest msgpack transformers timm lightgbm sympy networkx mpmath setuptools}
for_tests="polars-runtime-32 mypy ruff hypothesis pandas-stubs hotcoco ultrafast-pycocotools polars onedl-mmdetection onedl-mmcv ray"
platforms=(); for n in 17 24 27 28 31 34; do platforms+=(--platform "manylinux_2_${n}_x86_64"); done
platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64 --platform any)
get() { python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
  --implementation cp "${platforms[@]}" -d "$1" "$2"; }
pinned() { grep -vE "^ *#|^ *--|< *'3.12'" requirements.txt | sed -E 's/ *[;\\].*//' | grep -E '^[A-Za-z0-9._-]+=='; }
mkdir -p "$out/whl"
pinned | while IFS== read -r name _ version; do
  case " $has $for_tests " in *" ${name,,} "*) continue;; esac
  case "$name" in nvidia-*|cuda-*|types-*) continue;; esac
  get "$out/whl" "$name==$version" || echo "no wheel of $name==$version for Python 3.12; left out" >&2
done
scratch=$(mktemp -d); trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/extra"; cp -r "$site"/mmdet "$site"/mmcv "$site"/onedl_mm{cv,detection}-*.dist-info "$scratch/extra/"
find "$scratch/extra" -name __pycache__ -type d -prune -exec rm -rf {} +
tar -C "$scratch/extra" -cJf "$out/extra.txz" .
if [ -n "${RAY:-}" ]; then # for train-all; 40 MB
  get "$scratch/ray" "$(pinned | grep '^ray==')"; mkdir "$scratch/r"; (cd "$scratch/r" && python3 -m zipfile -e ../ray/*.whl .)
  tar -C "$scratch/r" --exclude=ray/jars --exclude=ray/rllib --exclude=ray/dashboard/client --exclude=ray/llm \
    --exclude=ray/serve --exclude=ray/cpp -cJf "$out/ray.txz" .
fi
git archive HEAD | xz > "$out/project.txz"
cp "$here/go.sh" "$here/polars.py" "$out/"
du -sh "$out"
