"""Gaps by linear logits, in numpy."""

import numpy as np
import scipy.special


def gaps_by_linear_logits(logits, changes, label, classes):
    """One image's gaps by numpy: logits [K] that change by [K, C]; beyond `classes` the unlikely ones as one."""
    order = [label, *(k for k in np.argsort(-logits) if k != label)]
    z, dz = logits[order], changes[order]
    if len(z) > classes:
        rest = np.exp(z[classes - 1 :])
        z = np.append(z[: classes - 1], np.log(rest.sum()))
        dz = np.vstack([dz[: classes - 1], rest / rest.sum() @ dz[classes - 1 :]])
    after = [scipy.special.logsumexp(z + one) - (z + one)[0] for one in dz.T]
    return np.array(after) - (scipy.special.logsumexp(z) - z[0])
