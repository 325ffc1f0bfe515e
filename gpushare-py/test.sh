#!/bin/sh
# Tests the Python package without installing it: builds the extension with cargo and puts it
# beside the Python files in a directory of its own. PYTHON names another interpreter (3.11 or newer).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}

cargo build --manifest-path "$here/Cargo.toml"
target=$(cargo metadata --manifest-path "$here/Cargo.toml" --no-deps --format-version 1 |
    "$python" -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
cp -R "$here/python/gpushare" "$site/gpushare"
cp "$target/debug/lib_gpushare.so" "$site/gpushare/_gpushare.abi3.so"
PYTHONPATH="$site" PYTHONDONTWRITEBYTECODE=1 "$python" -W error -m unittest discover -s "$here/tests"
