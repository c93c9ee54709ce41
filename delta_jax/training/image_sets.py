"""The images of a run: whole on the device when they fit, else a batch at a time; the same batches either way."""

import math
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from delta_jax import data
from delta_jax.processes import sharding

# Share of the memory that decoded images may take; the rest is for the activations of two networks.
SHARE_OF_MEMORY = 0.3


def stay_on_device(size: int, on_device: str, memory: float) -> bool:
    """Whether images of `size` bytes stay on every device, which has `memory`; on_device is "auto", "yes" or "no"."""
    return on_device == "yes" or (on_device == "auto" and size <= SHARE_OF_MEMORY * memory)


class ImageSet:
    """The examples of one split.

    Attributes:
      labels: int32 [M].
      files: names, M of them.
      contents: SHA-256 of the encoded images, M of them.
      rows: int64 [M], where they lie in the decoded array.
    """

    def __init__(self, images: data.Images, split: str, mesh: sharding.Mesh, *, on_device: str):
        """Takes a split ("train", "validation", "test") of the decoded images; on_device is "auto", "yes" or "no"."""
        self.rows = images.catalogue.rows(split)
        self.labels = images.catalogue.labels[self.rows].astype(np.int32)
        self.files = tuple(images.catalogue.files[row] for row in self.rows)
        self.contents = tuple(images.catalogue.contents[row] for row in self.rows)
        self._images, self._mesh = images, mesh
        size = images.nbytes(np.arange(len(images.catalogue)))  # the other splits want room, too
        if on_device == "yes" and size > (memory := _memory()):
            raise data.DataError(
                f"--config.data.on_device=yes: the decoded images take {size:,} bytes, and a device has {memory:,}; "
                "set auto or no"
            )
        self.resident = stay_on_device(size, on_device, _memory() if on_device == "auto" else math.inf)
        self._held: jax.Array | data.Strip | None = None
        self._held_labels: jax.Array | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, picked: np.ndarray) -> dict[str, Any]:
        """The examples `picked` [B], split over the devices: image, label int32 [B] and index int32 [B].

        The image is uint8 [B, S, S, 3], or a Canvas where images keep their aspect.
        """
        index = sharding.split(np.asarray(picked, np.int32), self._mesh)
        if not self.resident:
            pixels = self._images.take(self.rows[picked])
            return sharding.split({"image": pixels, "label": self.labels[picked]}, self._mesh) | {"index": index}
        if self._held is None:
            squares = self._images.lengths is None
            whole = self._images.take(self.rows) if squares else self._images.strip(self.rows)
            self._held, self._held_labels = sharding.replicate((whole, self.labels), self._mesh)
        return _gather(self._held, self._held_labels, index, length=self._images.shape[0])

    def stream(self, table: np.ndarray) -> Iterator[dict[str, Any]]:
        """`batch` of each row of `table` [T, B]. What is not on the device is read ahead, by each process its part."""
        if self.resident or not len(table):
            yield from map(self.batch, table)
            return
        mine = sharding.local_part(table.shape[1], self._mesh)
        for picked, pixels in zip(table, data.stream(self._images, self.rows, table[:, mine]), strict=True):
            part = {"image": pixels, "label": self.labels[picked[mine]], "index": picked[mine].astype(np.int32)}
            yield sharding.split_of_parts(part, self._mesh)

    def batches(self, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray, dict[str, Any]]]:
        """Every example once, in order: (rows [B], mask [B], batch), the last one padded."""
        covering = list(data.padded_batches(len(self), batch_size))
        table = np.array([picked for picked, _ in covering], np.int32).reshape(len(covering), batch_size)
        for (picked, mask), batch in zip(covering, self.stream(table), strict=True):
            yield picked, mask, batch


@partial(jax.jit, static_argnames="length")
def _gather(images: jax.Array | data.Strip, labels: jax.Array, index: jax.Array, *, length: int) -> dict[str, Any]:
    whole = isinstance(images, data.Strip)
    image = data.from_strip(images, index, length=length) if whole else images[index]
    return {"image": image, "label": labels[index], "index": index}


def _memory() -> int:
    return sharding.least_memory_bytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
