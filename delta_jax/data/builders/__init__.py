"""The paper's data sets as TensorFlow Datasets that need no tensorflow.

Importing this package registers them, so that `tfds.builder("caltech256/l2sp-30")` finds them: all but stanford_dogs
and food101, names under which tfds has builders of its own, and keeps them. `BUILDERS` has all six.
"""

from delta_jax.data.builders.base import ImageSet
from delta_jax.data.builders.caltech256 import Caltech256
from delta_jax.data.builders.cub200_2011 import Cub2002011
from delta_jax.data.builders.elpv import Elpv
from delta_jax.data.builders.food101 import Food101
from delta_jax.data.builders.mit_indoor67 import MitIndoor67
from delta_jax.data.builders.stanford_dogs import StanfordDogs

BUILDERS: dict[str, type[ImageSet]] = {
    builder.name: builder for builder in (Caltech256, Cub2002011, Elpv, Food101, MitIndoor67, StanfordDogs)
}

__all__ = ["BUILDERS", "Caltech256", "Cub2002011", "Elpv", "Food101", "ImageSet", "MitIndoor67", "StanfordDogs"]
