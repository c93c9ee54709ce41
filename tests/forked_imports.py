"""What the commands import; `forked.py` has one process that has done so."""

import os

from tests.forked import JAX

os.environ |= JAX

from sklearn import model_selection as model_selection

from delta_jax import reports as reports
from delta_jax.exports import formats as formats
from delta_jax.exports import instructions as instructions
from delta_jax.sweeps import runner as runner
from delta_jax.sweeps import tables as tables
from delta_jax.training import measured_images as measured_images
