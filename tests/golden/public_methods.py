"""Inputs for the penalties of other methods and, as a program, what their public code makes of them in float64.

    python tests/golden/public_methods.py FOLDER    # torch 2.14.1, numpy 2.4.6: writes public_methods.npz

FOLDER holds, of github.com/thuml/Transfer-Learning-Library at commit c4aa59eb, tllib/regularization and
tllib/modules/classifier.py; of github.com/szagoruyko/attention-transfer at 893df548, utils.py; of
github.com/henrygouk/mars-finetuning at 3e7cd2c3, lipschitz.py. The last one is written for TensorFlow, of whose
backend it uses five functions: they are numpy's here.
"""

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_suffix(".npz")


def array(name: str, *shape: int) -> np.ndarray:
    """Normal noise that belongs to a name, float64."""
    return np.random.default_rng(sum(map(ord, name))).standard_normal(shape)


FEATURES = {"wide": array("wide", 6, 10), "tall": array("tall", 7, 4)}
MAPS, SOURCE_MAPS = (array(name, 3, 4, 5, 6) for name in ("maps", "source maps"))  # [B, H, W, C]
KERNELS = {"conv": array("conv", 3, 3, 4, 5), "dense": array("dense", 8, 5)}
CENTRES = {name: array(f"{name} of the source", *kernel.shape) for name, kernel in KERNELS.items()}
RADIUS = {"conv": 35.0, "dense": 9.0}  # about half of the rows are further away
GAIN, CENTRE_GAIN = array("gain", 7), array("gain of the source", 7)
VARIANCE, CENTRE_VARIANCE = (np.exp(array(name, 7)) for name in ("variance", "variance of the source"))
GAIN_RADIUS = 1.5
LOGITS, SOURCE_LOGITS = (array(name, 5, 8) for name in ("logits", "source logits"))
LABELS = np.array([2, 0, 1, 2, 0])
# Bi-Tuning on a linear backbone 7 -> 10: two steps of six images, of which one has more of a class than a queue of 4.
VIEWS = [[array(f"{step} view {view}", 6, 7) for view in (0, 1)] for step in (0, 1)]
VIEW_LABELS = [np.array([0, 2, 1, 0, 2, 0]), np.array([1, 1, 0, 1, 1, 1])]
BACKBONE, BI_HEAD, BI_BIAS = array("backbone", 7, 10), array("bi head", 10, 3), array("bi bias", 3)
PROJECTOR, PROJECTOR_BIAS = array("projector", 10, 5), array("projector bias", 5)
KEY_FACTOR = 0.9  # of the network of keys at first, times that in training
QUEUE, MOMENTUM, TEMPERATURE = 4, 0.8, 0.5


def module(path: Path, name: str) -> Any:
    """The public module, imported from its file."""
    found = importlib.util.spec_from_file_location(name, path)
    assert found
    assert found.loader
    loaded = importlib.util.module_from_spec(found)
    sys.modules[name] = loaded
    found.loader.exec_module(loaded)
    return loaded


def with_gradient(run: Any, *inputs: np.ndarray) -> tuple[float, np.ndarray]:
    """Value, and gradient with respect to the first input."""
    import torch

    first, *others = (torch.tensor(one) for one in inputs)
    first.requires_grad_(True)
    value = run(first, *others)
    value.backward()
    return float(value.detach()), first.grad.numpy()


def keras_backend() -> None:
    """A stand-in for tensorflow.keras with numpy's functions."""

    def summed(x: np.ndarray, axis: Any = None, keepdims: bool = False) -> np.ndarray:
        return np.sum(x, axis=tuple(axis) if isinstance(axis, list) else axis, keepdims=keepdims)

    backend = types.ModuleType("tensorflow.keras.backend")
    functions = {"sum": summed, "abs": np.abs, "maximum": np.maximum, "sqrt": np.sqrt, "max": np.max}
    vars(backend).update(functions)
    kinds = {"constraints": ("Constraint",), "models": ("Model",)}
    kinds["layers"] = ("Conv2D", "Dense", "BatchNormalization", "Layer")
    keras = types.ModuleType("tensorflow.keras")
    keras.backend = backend  # type: ignore[attr-defined]
    sys.modules |= {"tensorflow": types.ModuleType("tensorflow"), "tensorflow.keras": keras}
    sys.modules["tensorflow.keras.backend"] = backend
    for name, classes in kinds.items():
        part = types.ModuleType(f"tensorflow.keras.{name}")
        vars(part).update({one: type(one, (), {}) for one in classes})
        sys.modules[part.__name__] = part


def bi_tuning(folder: Path) -> dict[str, Any]:
    """Losses, gradients and queues of two steps without an update of the network in training."""
    import torch

    sys.modules |= {name: types.ModuleType(name) for name in ("tllib", "tllib.modules")}
    module(folder / "tllib/modules/classifier.py", "tllib.modules.classifier")
    public = module(folder / "tllib/regularization/bi_tuning.py", "bi_tuning")

    class Backbone(torch.nn.Linear):
        def __init__(self) -> None:
            super().__init__(7, 10, bias=False)

    def encoder() -> Any:
        made = public.Classifier(Backbone(), 3, projection_dim=5, pool_layer=torch.nn.Identity()).double()
        layers = {"backbone.weight": BACKBONE.T, "head.weight": BI_HEAD.T, "head.bias": BI_BIAS}
        layers |= {"projector.weight": PROJECTOR.T, "projector.bias": PROJECTOR_BIAS}
        made.load_state_dict({name: torch.tensor(value) for name, value in layers.items()}, strict=False)
        return made

    torch.manual_seed(0)
    both = public.BiTuning(encoder(), encoder(), 3, K=QUEUE, m=MOMENTUM, T=TEMPERATURE).double()
    with torch.no_grad():
        for parameter in both.encoder_k.parameters():
            parameter *= KEY_FACTOR
    # The module makes its labels in float32 whatever the rest is.
    torch.set_default_dtype(torch.float64)
    found = {"queue_h": both.queue_h.numpy().copy(), "queue_z": both.queue_z.numpy().copy()}
    contrast = torch.nn.KLDivLoss(reduction="batchmean")
    for step, ((query, key), labels) in enumerate(zip(VIEWS, VIEW_LABELS, strict=True)):
        both.zero_grad()
        _, logits_z, logits_y, wanted = both(torch.tensor(query), torch.tensor(key), torch.tensor(labels))
        loss = contrast(logits_z, wanted) + contrast(logits_y, wanted)
        loss.backward()
        found[f"{step}/loss"] = float(loss.detach())
        found[f"{step}/backbone"] = both.encoder_q.backbone.weight.grad.numpy().T.copy()
        found[f"{step}/projector"] = both.encoder_q.projector.weight.grad.numpy().T.copy()
    found |= {"after/queue_h": both.queue_h.numpy(), "after/queue_z": both.queue_z.numpy()}
    found |= {"after/pointer": both.queue_ptr.numpy(), "after/keys": both.encoder_k.backbone.weight.numpy().T}
    return {f"bi_tuning/{name}": value for name, value in found.items()}


def main(folder: Path) -> None:
    """Writes the file."""
    found: dict[str, Any] = {}
    bss = module(folder / "tllib/regularization/bss.py", "bss")
    for name, features in FEATURES.items():
        for k in (1, 3):
            found[f"bss/{name}/{k}"], found[f"bss/{name}/{k}/gradient"] = with_gradient(
                bss.BatchSpectralShrinkage(k), features
            )

    sys.modules["nested_dict"] = types.ModuleType("nested_dict")
    sys.modules["nested_dict"].nested_dict = dict  # type: ignore[attr-defined]
    utils = module(folder / "utils.py", "attention_transfer_utils")
    first, second = (np.moveaxis(one, -1, 1).copy() for one in (MAPS, SOURCE_MAPS))
    found["at"], gradient = with_gradient(utils.at_loss, first, second)
    found["at/gradient"] = np.moveaxis(gradient, 1, -1)

    keras_backend()
    lipschitz = module(folder / "lipschitz.py", "lipschitz")
    for name, kernel in KERNELS.items():
        constraint = lipschitz.LInfLipschitzConstraint(RADIUS[name], zero=CENTRES[name])
        found[f"mars/{name}"] = constraint(kernel)
    gain = lipschitz.BatchNormLipschitzConstraint(GAIN_RADIUS, VARIANCE, CENTRE_GAIN, CENTRE_VARIANCE)
    found["mars/gain"] = gain(GAIN)

    distillation = module(folder / "tllib/regularization/knowledge_distillation.py", "distillation")
    kd = distillation.KnowledgeDistillationLoss(2.0)
    found["kd"], found["kd/gradient"] = with_gradient(kd, LOGITS, SOURCE_LOGITS)

    sys.modules["tllib"] = types.ModuleType("tllib")
    module(folder / "tllib/regularization/lwf.py", "regularization.lwf")
    sys.modules["regularization"] = types.ModuleType("regularization")
    co_tuning = module(folder / "tllib/regularization/co_tuning.py", "regularization.co_tuning")
    probabilities = np.exp(SOURCE_LOGITS) / np.exp(SOURCE_LOGITS).sum(1, keepdims=True)
    relationship = co_tuning.Relationship.get_category_relationship(None, probabilities, LABELS)
    found["co_tuning/relationship"] = relationship
    value = with_gradient(co_tuning.CoTuningLoss(), LOGITS, relationship[LABELS])
    found["co_tuning"], found["co_tuning/gradient"] = value
    found |= bi_tuning(folder)
    np.savez_compressed(FILE, **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
