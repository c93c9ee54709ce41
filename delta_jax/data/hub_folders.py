"""Where a data set of the Hugging Face Hub lies on this machine: in a folder of one's own, or in a cache.

Caches: https://huggingface.co/docs/datasets/cache, https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
"""

import os
from pathlib import Path

from delta_jax.data import arrow_files
from delta_jax.data.errors import DataError
from delta_jax.data.splits import listed


def locate(name: str, root: str) -> tuple[Path, str]:
    """The folder, and which of the data sets in it; "" where that is not said or settled by the folder.

    Args:
      name: "NAME", "ORGANISATION/NAME", or with ":CONFIG".
      root: the folder of the data set, or one that holds it under its name, or a cache; "" for the caches' own places.

    Raises:
      DataError: it is in none of these, or there are several versions of it.
    """
    name, _, config = name.partition(":")
    if not name or any(part in ("", ".", "..") for part in name.split("/")) or name.count("/") > 1:
        raise DataError(f"data.name is hf/{name}; expected hf/NAME or hf/ORGANISATION/NAME, as the Hub has it")
    bases = [Path(root).expanduser()] if root else [*_caches()]
    for base in bases:
        for inside in (name, name.replace("/", "___"), f"datasets--{name.replace('/', '--')}"):
            if (folder := base / inside).is_dir() and (inside != name or root):
                return _inside(folder, name, config)
    # A cache without it holds other data sets.
    others = [*bases[0].glob("datasets--*"), *bases[0].glob("*/*/*/*/dataset_info.json")]
    if root and not others and bases[0].exists() and arrow_files.is_set(bases[0]):
        return bases[0], config
    looked = f"in {root}" if root else f"in {listed([str(base) for base in bases])}"
    raise DataError(
        f"the data set {name} is not {looked}; fetch it once, as by: hf download --repo-type=dataset {name} "
        f"--local-dir=FOLDER, or load_dataset({name!r}).save_to_disk('FOLDER') of the package datasets, then "
        "--config.data.root=FOLDER"
    )


def _caches() -> tuple[Path, ...]:
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface").expanduser()
    return (
        Path(os.environ.get("HF_DATASETS_CACHE") or home / "datasets").expanduser(),
        Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser(),
    )


def _inside(folder: Path, name: str, config: str) -> tuple[Path, str]:
    if (folder / "snapshots").is_dir():  # huggingface_hub keeps a folder for each commit
        found = [path for path in sorted((folder / "snapshots").iterdir()) if path.is_dir()]
        main = folder / "refs" / "main"
        newest = [path for path in found if main.is_file() and path.name == main.read_text().strip()]
        return _only(newest or found, folder, name), config
    # datasets has CONFIG/VERSION/HASH in its cache.
    built = [path.parent for path in sorted(folder.glob("*/*/*/dataset_info.json"))]
    if not built:
        return folder, config
    configs = sorted({path.parents[1].name for path in built})
    wanted = config or ("default" if "default" in configs else configs[0])
    if wanted not in configs or (not config and wanted != "default" and len(configs) > 1):
        raise DataError(f"{folder} holds {listed(configs)}; say which as --config.data.name=hf/{name}:{configs[0]}")
    return _only([path for path in built if path.parents[1].name == wanted], folder, name), ""


def _only(found: list[Path], folder: Path, name: str) -> Path:
    if len(found) != 1:
        versions = [str(path.relative_to(folder)) for path in found]
        raise DataError(
            f"{folder} holds {len(found)} versions of {name}: {listed(versions) or 'none'}; give the folder of one by "
            "--config.data.root"
        )
    return found[0]
