"""Where `python -m delta_jax.models` went."""

import sys

if __name__ == "__main__":
    sys.exit("error: python -m delta_jax.models is python -m delta_jax.describe now, with the same arguments")
