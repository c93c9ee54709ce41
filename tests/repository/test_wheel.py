"""What is built and installed: wheel and sdist hold the named configs, and a wheel trains in an empty folder."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import delta_jax
from tests.small_run import ROOT, config_flags, environment, make_photos

pytest.importorskip("setuptools", minversion="77", reason="setuptools of the extra `test` builds the wheel")

VERSION = delta_jax.__version__
# What git tracks and the sdist leaves out: this repository's own set-up and studies.
LEFT_OUT = (".ci", "findings")
BUILT = ("build", "dist", "*.egg-info", "__pycache__", "*.pyc", ".*", "runs")


def build(kind: str, tree: Path, into: Path) -> Path:
    """What pip does without isolation, in a process of its own, as it changes the folder."""
    code = "import sys; from setuptools import build_meta; getattr(build_meta, 'build_' + sys.argv[1])(sys.argv[2])"
    into.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", code, kind, str(into)]
    finished = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    (file,) = into.iterdir()
    return file


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The checkout without what was built in it, as building leaves files behind."""
    tree = tmp_path_factory.mktemp("tree") / "checkout"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*BUILT))
    for file in (".gitignore", ".pre-commit-config.yaml"):
        shutil.copy(ROOT / file, tree)
    return tree


@pytest.fixture(scope="module")
def wheel(tree):
    return build("wheel", tree, tree.parent / "wheel")


@pytest.fixture(scope="module")
def sdist(tree):
    return build("sdist", tree, tree.parent / "sdist")


@pytest.fixture(scope="module")
def installed(wheel):
    """A folder that holds the wheel's content and nothing else."""
    target = wheel.parents[1] / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*command, "--target", target, wheel], check=True, capture_output=True, timeout=120)
    return target


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def in_checkout(folder: str, *patterns: str) -> set[str]:
    """Files below a folder of the repository, relative to it."""
    found = (file.relative_to(ROOT / folder) for pattern in patterns for file in (ROOT / folder).rglob(pattern))
    return {file.as_posix() for file in found}


def test_the_wheel_holds_the_package_with_the_configs_inside_and_nothing_beside_it(wheel):
    files = set(contents(wheel))
    assert wheel.name == f"delta_jax-{VERSION}-py3-none-any.whl"
    assert {name.split("/")[0] for name in files} == {"delta_jax", f"delta_jax-{VERSION}.dist-info"}
    modules = in_checkout("delta_jax", "*.py", "*.html", "*.css", "*.js")
    configs = {f"configs/{name}" for name in in_checkout("configs", "*.py")}
    assert {name.removeprefix("delta_jax/") for name in files if name.startswith("delta_jax/")} == modules | configs
    assert {"page/page.html", "page/style.css", "page/script.js", "configs/folder.py"} < modules | configs
    assert contents(wheel)["delta_jax/configs/__init__.py"] == (ROOT / "configs" / "__init__.py").read_bytes()


def test_the_wheel_says_what_pip_needs_to_know(wheel):
    files = contents(wheel)
    said = files[f"delta_jax-{VERSION}.dist-info/METADATA"].decode()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"\nVersion: {VERSION}\n" in said
    assert f"\nRequires-Python: {project['requires-python']}\n" in said
    needed = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert re.findall(r"^Requires-Dist: ([^;\n]+)$", said, re.MULTILINE) == needed
    assert f"delta_jax-{VERSION}.dist-info/licenses/LICENSE" in files
    assert f"delta_jax-{VERSION}.dist-info/entry_points.txt" not in files  # the commands are python -m delta_jax.NAME


def test_the_sdist_builds_the_same_wheel(sdist, wheel, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    again = build("wheel", tmp_path / f"delta_jax-{VERSION}", tmp_path / "wheel")
    assert contents(again) == contents(wheel)


@pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"), reason="git says what belongs to it")
def test_the_sdist_holds_what_the_tests_need(sdist):
    """Everything that is tracked, so that who packages it can run them on the versions there."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    with tarfile.open(sdist) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {name for name in listed if name.split("/")[0] not in LEFT_OUT and (ROOT / name).exists()}
    assert sorted(wanted - files) == []


def test_a_named_config_of_the_wheel_trains_in_an_empty_folder(installed, tmp_path):
    """--config=folder far from the repository, on small photos and the tests' network as a module of the user's."""
    photos = make_photos(tmp_path / "photos", per_class=8)
    shutil.copy(ROOT / "tests" / "small_network.py", tmp_path / "own_network.py")
    _, *fields = config_flags(photos, arch="own_network:spec", method="l2_fe", warmup_steps=0, data__root="photos")
    finished = subprocess.run(
        [sys.executable, "-m", "delta_jax.train", "--config=folder", "--workdir=run", *fields],
        cwd=tmp_path,
        env=environment() | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    assert "folder/photos: 24 images, 3 classes" in finished.stdout
    assert (tmp_path / "run" / "report.html").stat().st_size > 100_000  # with style and script, which are no Python
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_what_is_installed_here_is_what_the_checkout_says():
    try:
        assert importlib.metadata.version("delta_jax") == VERSION
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("delta_jax is on the path and not installed")
