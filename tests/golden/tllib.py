"""Records tllib.npz: steps of TLLib's DELTA and L2-SP, by its own classes, on the weights and images of recipe.py.

python -m tests.golden.tllib CHECKOUT, CHECKOUT being https://github.com/thuml/Transfer-Learning-Library at
c4aa59eb565650a552b809411601d0589efbbfe4 (0.4, March 2024); recorded with torch 2.14.1 and torchvision 0.29.1, CPU.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch
from torchvision.models import resnet

from tests.golden import recipe

STEPS, BATCH, CLASSES, SIZE = 3, 8, 5, 64
TAPS = {f"backbone.layer{stage}.1.conv2": f"layer{stage}_1/conv2" for stage in range(1, 5)}


def module(checkout: Path, file: str):
    """One file of TLLib: the package as a whole cannot be imported beside a current torchvision."""
    spec = importlib.util.spec_from_file_location(file.replace("/", "_"), checkout / "tllib" / f"{file}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def classifier(checkout: Path):
    """TLLib's classifier on its ResNet-18, with a tenth of the rate for the backbone, in float64."""
    resnet.model_urls = {}  # torchvision has no such table any more, and TLLib asks for it
    network = module(checkout, "modules/classifier").Classifier(
        module(checkout, "vision/models/resnet").resnet18(), CLASSES, finetune=True
    )
    tensors = {
        name: torch.from_numpy(np.asarray(recipe.fill("delta", "resnet18", name.split(".", 1)[1], tuple(value.shape))))
        for name, value in network.state_dict().items()
        if name.startswith("backbone.")
    }
    for leaf, value in network.head.state_dict().items():
        tensors[f"head.{leaf}"] = torch.from_numpy(recipe.fill("delta", "resnet18", f"fc.{leaf}", tuple(value.shape)))
    network.load_state_dict(tensors)
    return network.double()


def trajectory(checkout: Path, method: str) -> np.ndarray:
    """[STEPS, 4]: loss, cross-entropy, penalty and head penalty, each before its step."""
    delta = module(checkout, "regularization/delta")
    network, source = classifier(checkout), classifier(checkout).eval()
    getters = [delta.IntermediateLayerGetter(one, return_layers=list(TAPS)) for one in (source, network)]
    attention = [
        torch.from_numpy(
            recipe.softmax_attention("delta", "resnet18", tap.removeprefix("backbone."), 64 * 2**i)
        ).double()
        for i, tap in enumerate(TAPS)
    ]
    penalty_of_maps = {
        "delta": delta.AttentionBehavioralRegularization(attention),
        "delta_without_attention": delta.BehavioralRegularization(),
    }
    starting_point = delta.SPRegularization(source.backbone, network.backbone)
    head = delta.L2Regularization(torch.nn.ModuleList([network.head, network.bottleneck]))
    optimizer = torch.optim.SGD(network.get_parameters(0.01), momentum=0.9, weight_decay=0.0, nesterov=True)
    network.train()
    rows = []
    for i in range(STEPS):
        images = recipe.images("delta", "resnet18", f"traj{i}", BATCH, SIZE, SIZE).transpose(0, 3, 1, 2)
        labels = recipe.labels("delta", "resnet18", f"traj{i}-labels", BATCH, CLASSES)
        (before, _), (after, (logits, _)) = (get(torch.from_numpy(images.copy()).double()) for get in getters)
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
        penalty = starting_point() if method == "l2_sp" else penalty_of_maps[method](before, after)
        of_head = head()
        total = loss + 0.01 * penalty + 0.01 * of_head
        rows.append([x.item() for x in (total, loss, penalty, of_head)])
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return np.array(rows)


if __name__ == "__main__":
    found = {name: trajectory(Path(sys.argv[1]), name) for name in ("delta", "delta_without_attention", "l2_sp")}
    for name, rows in found.items():
        print(name, rows, sep="\n")
    np.savez(Path(__file__).with_suffix(".npz"), **found)
