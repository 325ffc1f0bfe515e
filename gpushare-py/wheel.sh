#!/bin/sh
# Builds the wheel and tries it as a user has it: installed into a new venv, with its quick start and its
# command. Where the tools cannot be installed that is skipped aloud. Prints where the wheel is. PROFILE=dev
# builds one in a fifth of the time that is slower and larger.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
profile=${PROFILE:-release}

target=$(cargo metadata --manifest-path "$here/Cargo.toml" --no-deps --format-version 1 |
    "$python" -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
tools=$target/wheel-tools
if [ ! -e "$tools/complete" ]; then
    rm -rf "$tools"
    "$python" -m venv "$tools"
    if ! "$tools/bin/pip" install --quiet --disable-pip-version-check abi3audit "maturin>=1.8,<2"; then
        echo "SKIPPED: the wheel: maturin could not be installed"
        exit 0
    fi
    touch "$tools/complete"
fi

rm -rf "$target/wheels"
"$tools/bin/maturin" build --profile "$profile" --quiet --manifest-path "$here/Cargo.toml" \
    --target-dir "$target" --out "$target/wheels" --interpreter "$python"
wheel=$(echo "$target"/wheels/*.whl)
# The README says so.
glibc=2.34
case $wheel in
*-cp311-abi3-manylinux_2_*) ;;
*) echo "not a wheel for every Python from 3.11 on: $wheel" && exit 1 ;;
esac
needs=$(echo "$wheel" | sed 's/.*-manylinux_\([0-9]*\)_\([0-9]*\)_.*/\1.\2/')
[ "$(printf '%s\n' "$needs" "$glibc" | sort -V | tail -n 1)" = "$glibc" ] ||
    { echo "$wheel needs glibc $needs, and is to run with $glibc" && exit 1; }
grep -q "glibc $glibc or newer" "$here/README.md" || { echo "README.md does not say glibc $glibc" && exit 1; }
size=$(wc -c <"$wheel")
[ "$profile" != release ] || [ "$size" -le 5000000 ] || { echo "$wheel has $size bytes; at most 5 MB" && exit 1; }
"$tools/bin/abi3audit" --strict "$wheel"
"$python" - "$wheel" "$here/../LICENSE-APACHE" "$here/../LICENSE-MIT" <<'EOF'
import pathlib, sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
for path in map(pathlib.Path, sys.argv[2:]):
    there = [name for name in wheel.namelist() if name.endswith(f".dist-info/licenses/{path.name}")]
    if [wheel.read(name) for name in there] != [path.read_bytes()]:
        sys.exit(f"the wheel has no {path.name}, or another")
EOF

venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT
"$python" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-index --no-deps "$wheel"
"$venv/bin/pip" check
"$venv/bin/gpushare" --sim 2xH100-80GB --state-dir "$venv/state" status >/dev/null
cd "$venv"
# As a container runtime starts it: by its path, and with no environment.
command=$("$venv/bin/python" -W error -c 'import gpushare; print(gpushare.command_path())')
[ "$command" -ef "$venv/bin/gpushare" ] || { echo "command_path() is $command" && exit 1; }
env -i "$command" --version
"$venv/bin/python" -W error "$here/examples/quick_start.py"
echo "$wheel, $size bytes"
