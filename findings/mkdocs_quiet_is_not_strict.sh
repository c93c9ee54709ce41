#!/usr/bin/env bash
# mkdocs 1.6.1: `mkdocs build --strict --quiet` builds a site with dead links and exits with 0.
#
# Expected: --quiet prints less, and --strict still stops at a warning: "Enable strict mode. This will cause MkDocs to
# abort the build on any warnings."
# Seen: with --strict alone the dead link is told and the exit status is 1; with --quiet beside it nothing is told and the
# exit status is 0. Warnings are counted by a handler of the logger whose level --quiet raises to ERROR.
#
# Exits with 1 when that has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet mkdocs==1.6.1 click==8.1.8
mkdir "$work/docs"
echo "site_name: example" > "$work/mkdocs.yml"
echo "See [the other page](other.md)." > "$work/docs/index.md"
cd "$work"
strict=0
quiet=0
venv/bin/mkdocs build --strict > strict.txt 2>&1 || strict=$?
venv/bin/mkdocs build --strict --quiet > quiet.txt 2>&1 || quiet=$?
echo "--strict: exit status $strict, $(grep -c "other.md" strict.txt) line about the dead link"
echo "--strict --quiet: exit status $quiet, $(wc -l < quiet.txt) lines"
[[ $strict == 1 && $quiet == 0 ]]
