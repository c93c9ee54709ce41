#!/usr/bin/env bash
# orbax-checkpoint 0.12.8 (jax 0.10.2): a None that was added to a tree makes its earlier checkpoints unreadable.
#
# For JAX None is a subtree without leaves: jax.tree.leaves({"w": x, "extra": None}) is [x], and a new field of a state
# that is None by default adds no array. Orbax stores and compares None as an entry of its own.
# Expected: the checkpoint of {"w": x} is restored into {"w": x, "extra": None}, which has the same leaves at the same
# paths.
# Seen:
#     leaves of both trees: 1 1
#     ValueError: User-provided restore item and on-disk value metadata tree structures do not match: ...
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
"${PYTHON:-python3}" -m venv "$here/venv"
"$here/venv/bin/pip" install -q orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 tensorstore==0.1.86
cd "$here"
JAX_PLATFORMS=cpu "$here/venv/bin/python" - <<'P'
import pathlib, sys
import jax
import numpy as np
import orbax.checkpoint as ocp

before = {"w": np.arange(3.0)}
after = {**before, "extra": None}
print("leaves of both trees:", len(jax.tree.leaves(before)), len(jax.tree.leaves(after)))
path = pathlib.Path("checkpoint").absolute()
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, before)
    checkpointer.wait_until_finished()
    try:
        found = checkpointer.restore(path, after)
    except ValueError as error:
        print("ValueError:", str(error).splitlines()[0])
        sys.exit(0 if "structures do not match" in str(error) else 1)
print("restored", found, "the behaviour has changed")
sys.exit(1)
P
