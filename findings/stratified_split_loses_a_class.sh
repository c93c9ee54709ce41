#!/usr/bin/env bash
# scikit-learn 1.9.1, numpy 2.3.5: train_test_split(..., stratify=y) can put every example of a class into the test part.
#
# Expected: that a class of three, which stratification accepts without a warning, keeps one example in either part; the
# error "The least populated class in y has only 1 member" suggests that two are enough for that.
# Seen: of 15 classes of 52 down to 3 examples, with test_size=132 of 165 (0.8), two classes of 3 have no training
# example, for every seed that was tried, without a word. Seats of the training part go to the largest remainders, of
# which there are more than seats.
#
# Exits with 1 when that has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet scikit-learn==1.9.1 numpy==2.3.5
"$work/venv/bin/python" -W error - <<'P'
import sys

import numpy as np
from sklearn.model_selection import train_test_split

sizes = (52, 21, 20, 18, 10, 10, 8, 5, 3, 3, 3, 3, 3, 3, 3)
y = np.repeat(np.arange(len(sizes)), sizes)
lost = []
for seed in range(10):
    train, test = train_test_split(np.arange(len(y)), test_size=132, stratify=y, random_state=seed)
    counts = np.bincount(y[train], minlength=len(sizes))
    lost.append(int((counts == 0).sum()))
print(f"{len(y)} examples, 132 for testing; classes without a training example, by seed: {lost}")
sys.exit(0 if all(lost) else 1)
P
