#!/usr/bin/env bash
# orbax-checkpoint 0.12.8 (jax 0.10.2): two arrays of one tree share a file where their keys, joined by dots, are alike.
#
# A tree {"a.b": {"kernel": x}, "a": {"b": {"kernel": y}}} is saved without an error or a warning, and comes back, from
# a tree of the same structure, with one array in both places. Any pytree of dicts is valid input, and module names with
# dots are usual in networks that were ported from PyTorch.
# Expected: two arrays, or an error at the time of saving, as where they have different shapes.
# Seen:
#     saved     a.b/kernel [0. 1. 2.]   a/b/kernel [10. 11. 12.]
#     restored  a.b/kernel [10. 11. 12.]   a/b/kernel [10. 11. 12.]
#     an array was lost without a word
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
"${PYTHON:-python3}" -m venv "$here/venv"
"$here/venv/bin/pip" install -q orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 tensorstore==0.1.86
cd "$here"
JAX_PLATFORMS=cpu "$here/venv/bin/python" - <<'P'
import pathlib, sys
import numpy as np
import orbax.checkpoint as ocp

tree = {"a.b": {"kernel": np.arange(3.0)}, "a": {"b": {"kernel": np.arange(3.0) + 10}}}
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(pathlib.Path("checkpoint").absolute(), tree)
    checkpointer.wait_until_finished()
    found = checkpointer.restore(pathlib.Path("checkpoint").absolute(), tree)
for what, one in (("saved", tree), ("restored", found)):
    print(f"{what:9} a.b/kernel {one['a.b']['kernel']}   a/b/kernel {one['a']['b']['kernel']}")
lost = np.array_equal(found["a.b"]["kernel"], found["a"]["b"]["kernel"])
print("an array was lost without a word" if lost else "both arrays are there: the behaviour has changed")
sys.exit(0 if lost else 1)
P
