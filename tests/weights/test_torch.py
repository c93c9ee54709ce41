"""Files that torch itself wrote, read without it: skipped where it is not installed (pip install torch)."""

import warnings

import numpy as np
import pytest

from delta_jax.weights import read

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore")  # its own


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_of_every_kind(tmp_path, zipped):
    whole = torch.arange(24.0).reshape(2, 3, 4)
    tensors = {
        "whole": whole,
        "not contiguous": whole.permute(2, 0, 1),
        "slice": whole[1, ::2],
        "expanded": whole[0, 0, :1].expand(5),
        "half": whole.half(),
        "bfloat16": whole.bfloat16(),
        "double": whole.double(),
        "counter": torch.tensor(3),
        "parameter": torch.nn.Parameter(whole * 2),
        "empty": torch.zeros(0, 3),
    }
    torch.save({"epoch": 3, "state_dict": tensors}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    found = read(tmp_path / "w.pth")
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        wide = tensor.float() if tensor.dtype in (torch.half, torch.bfloat16) else tensor
        np.testing.assert_array_equal(found[name], wide.detach().numpy(), err_msg=name)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [torch.compile, torch.nn.DataParallel])
def test_a_wrapped_models_file_is_read_under_its_own_names(tmp_path, zipped, wrap):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    torch.save(wrap(model).state_dict(), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    found = read(tmp_path / "w.pth")
    expected = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
