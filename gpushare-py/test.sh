#!/bin/sh
# Tests the Python package without installing it: builds the extension with cargo and puts it beside the
# Python files in a directory of its own. PYTHON names another interpreter (3.11 or newer); the others that
# are at hand run the tests too, and as root an ordinary user does. What cannot be done here is skipped aloud.
# With --fetch it only fetches what the tests need.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}

skipped() { echo "SKIPPED: $1: $2"; }

target=$(cargo metadata --manifest-path "$here/Cargo.toml" --no-deps --format-version 1 |
    "$python" -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

# Who comes while another fetches waits.
mkdir -p "$target"
exec 9>"$target/python-fetch.lock"
! command -v flock >/dev/null || flock 9
"$here/tests/fetch-browser" "$target/browser" >"$root/browser" 2>"$root/no-browser" &
fetching=$!
tools=$target/python-tools
wanted="abi3audit basedpyright hypothesis maturin>=1.8,<2 mypy numpy prometheus-client rich ruff tqdm"
if [ "$(cat "$tools/complete" 2>/dev/null)" != "$wanted" ]; then
    rm -rf "$tools"
    "$python" -m venv "$tools"
    # Each is a word.
    # shellcheck disable=SC2086
    if "$tools/bin/pip" install --quiet --disable-pip-version-check $wanted; then
        echo "$wanted" >"$tools/complete"
    fi
fi

# Ray and Dask, for the scripts that use them (350 MB). The extension is good for any CPython from 3.11 on.
clusters=$target/python-clusters
if [ ! -e "$clusters/complete" ]; then
    rm -rf "$clusters"
    "$python" -m venv "$clusters"
    if "$clusters/bin/pip" install --quiet --disable-pip-version-check distributed ray; then
        touch "$clusters/complete"
    fi
fi

browser=
! wait "$fetching" || browser=$(cat "$root/browser")
exec 9>&-
[ "${1:-}" != --fetch ] || exit 0

cargo build --manifest-path "$here/Cargo.toml"
# As it lies in the repository.
site=$root/gpushare-py
mkdir "$site"
cp "$here/../Cargo.toml" "$root"
cp -R "$here/python/gpushare" "$site/gpushare"
cp "$target/debug/lib_gpushare.so" "$site/gpushare/_gpushare.abi3.so"
# An ordinary user reads them here, and not in somebody's home.
cp -R "$here/tests" "$here/examples" "$here/README.md" "$here/TUTORIAL.md" "$here/pyproject.toml" "$site"
mkdir "$site/python" && ln -s ../gpushare "$site/python/gpushare"
chmod -R a+rX "$site"
export PYTHONDONTWRITEBYTECODE=1

# Starts the tests with one interpreter, behind the words that come after its name.
runs=0
tests() {
    runs=$((runs + 1))
    name=$1
    shift
    (
        echo "== $name"
        if "$@" -W error "$site/tests/run.py" >"$root/log$runs" 2>&1; then
            tail -n 3 "$root/log$runs"
            grep "^SKIPPED: " "$root/log$runs" || true
        else
            cat "$root/log$runs"
            exit 1
        fi
    ) >"$root/run$runs" &
    eval "pid$runs=\$!"
}

# What reads the files needs no test to wait for it.
read_by_tools() {
    echo "== tools"
    "$tools/bin/ruff" check --no-cache --quiet "$here"
    "$tools/bin/ruff" format --no-cache --quiet --check "$here"
    cd "$site"
    export MYPYPATH="$site"
    PYTHONPATH=$site "$python" -m mypy.stubtest gpushare
    "$tools/bin/mypy" --strict --cache-dir "$target/mypy" gpushare
    PYTHONPATH=$site "$tools/bin/basedpyright" --verifytypes gpushare --ignoreexternal >"$root/types" ||
        { cat "$root/types"; exit 1; }
    grep "completeness score" "$root/types"
    "$tools/bin/abi3audit" --strict --assume-minimum-abi3 3.11 gpushare/_gpushare.abi3.so
}
reading=
if [ -e "$tools/complete" ]; then
    python=$tools/bin/python
    (read_by_tools) >"$root/tools" 2>&1 &
    reading=$!
else
    skipped "stubtest, mypy, basedpyright, ruff, abi3audit, hypothesis, tqdm, rich, numpy, prometheus-client" "they could not be installed"
fi

echo "== browser"
if [ -n "$browser" ]; then
    "$browser" --version
else
    skipped "drawings in a browser" "$(tail -n 1 "$root/no-browser")"
fi

# One interpreter looks at the drawings, and drives the clusters: they are the same with all of them. Where
# there are none its tests skip aloud.
tests "$("$python" --version)" env PYTHONPATH="$site" GPUSHARE_BROWSER="$browser" \
    GPUSHARE_CLUSTER_PYTHON="$clusters/bin/python" "$python"
export GPUSHARE_CLUSTER_PYTHON=

version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo 0.0; }
done=$(version "$python")
for other in "$HOME"/.pyenv/versions/3.*/bin/python3 /usr/bin/python3.[1-9][0-9] /usr/local/bin/python3.[1-9][0-9]; do
    [ -x "$other" ] || continue
    number=$(version "$other")
    case " $done " in *" $number "*) continue ;; esac
    case $number in 3.1[1-9] | 3.[2-9][0-9]) ;; *) continue ;; esac
    done="$done $number"
    tests "$("$other" --version)" env PYTHONPATH="$site" "$other"
done

if [ "$(id -u)" = 0 ]; then
    # One that such a user may run.
    for everybodys in /usr/bin/python3.[1-9][0-9] /usr/local/bin/python3.[1-9][0-9] none; do
        case $(version "$everybodys") in 3.1[1-9] | 3.[2-9][0-9]) break ;; esac
    done
    if [ "$everybodys" = none ] || ! command -v setpriv >/dev/null; then
        skipped "the Python tests as an ordinary user" "no Python from 3.11 on, or no setpriv, that all users may run"
    else
        tests "$("$everybodys" --version), an ordinary user" env HOME=/nonexistent PYTHONPATH="$site" \
            setpriv --reuid 65534 --regid 65534 --clear-groups "$everybodys"
    fi
fi

failed=0
if [ -n "$reading" ]; then
    wait "$reading" || failed=1
    cat "$root/tools"
fi
number=0
while [ "$number" -lt "$runs" ]; do
    number=$((number + 1))
    eval "wait \$pid$number" || failed=1
    cat "$root/run$number"
done
exit "$failed"
