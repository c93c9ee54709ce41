"""The test files that a change touches, nearest first, as many as fit into a time: what `make check` runs.

    python -m tests.touched [--since=HEAD] [--seconds=40]      # prints their paths; what is left out stands on stderr

A test file is touched by what it imports, straight or through other modules, and by being changed itself. How long
each takes is remembered from the last time that it ran (`remember`, called by conftest.py).
"""

import argparse
import ast
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECONDS = ROOT / ".cache" / "test_seconds.json"
UNKNOWN_S = 5.0  # of a file that never ran here
_PACKAGES = ("delta_jax", "tests", "configs", "examples", "benchmarks")


def module_of(path: Path) -> str:
    """The dotted name of a Python file below ROOT."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(module: str, source: str, modules: Iterable[str], *, package: bool) -> set[str]:
    """Which of `modules` a module's source imports, anywhere in it."""
    known, found = set(modules), set()
    parent = module if package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = parent.split(".")[: parent.count(".") + 2 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        found |= known.intersection(names)
    return found - {module}


def distances(arrows: Mapping[str, set[str]], changed: Iterable[str]) -> dict[str, int]:
    """Of every module that reaches a changed one along the arrows of imports: how many of them it takes, at least."""
    users: dict[str, set[str]] = {}
    for module, targets in arrows.items():
        for target in targets:
            users.setdefault(target, set()).add(module)
    found, edge = dict.fromkeys(changed, 0), set(changed)
    while edge:
        edge = {user for module in edge for user in users.get(module, ())} - found.keys()
        found |= dict.fromkeys(edge, max(found.values()) + 1)
    return found


def fitting(near: Mapping[str, int], seconds: Mapping[str, float], limit: float) -> tuple[list[str], list[str]]:
    """Test files that fit into `limit` seconds, nearest first and the quick ones of those, and the ones that do not.

    A file that was changed itself, at distance 0, is always run.
    """
    chosen, left, spent = [], [], 0.0
    for path in sorted(near, key=lambda path: (near[path], seconds.get(path, UNKNOWN_S), path)):
        needed = seconds.get(path, UNKNOWN_S)
        if near[path] == 0 or spent + needed <= limit:
            chosen.append(path)
            spent += needed
        else:
            left.append(path)
    return chosen, left


def remember(seconds: Mapping[str, float]) -> None:
    """Notes how long test files took, beside what is known of others."""
    SECONDS.parent.mkdir(exist_ok=True)
    known = json.loads(SECONDS.read_text()) if SECONDS.exists() else {}
    unfinished = SECONDS.with_suffix(".tmp")
    unfinished.write_text(json.dumps({**known, **{path: round(value, 2) for path, value in seconds.items()}}, indent=0))
    unfinished.replace(SECONDS)


def _changed(since: str) -> list[Path]:
    def git(*arguments: str) -> list[str]:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"error: git {' '.join(arguments)}: {done.stderr.strip()}; make test runs everything")
        return done.stdout.splitlines()

    paths = git("diff", "--name-only", since, "--") + git("ls-files", "--others", "--exclude-standard")
    return [ROOT / path for path in sorted(set(paths))]


def main() -> None:
    """Prints the test files, one per line."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--since", default="HEAD", help="a commit; what changed after it, and what is not committed")
    parser.add_argument("--seconds", type=float, default=40.0, help="that the tests may take, as they did last time")
    given = parser.parse_args()
    files = {module_of(file): file for package in _PACKAGES for file in (ROOT / package).rglob("*.py")}
    arrows = {
        module: imported(module, file.read_text(), files, package=file.name == "__init__.py")
        for module, file in files.items()
    }
    for module, file in files.items():
        if file.name.startswith("test_"):
            arrows[module].add("tests.conftest")  # pytest imports it for them
    changed = _changed(given.since)
    others = [path.relative_to(ROOT).as_posix() for path in changed if path.suffix != ".py" and path.exists()]
    reached = distances(
        arrows, [module_of(path) for path in changed if path.suffix == ".py" and path in files.values()]
    )
    near = {
        files[module].relative_to(ROOT).as_posix(): distance
        for module, distance in reached.items()
        if files[module].name.startswith("test_")
    }
    if others:  # read by tests of the repository: documents, scripts, pyproject
        for file in (ROOT / "tests" / "repository").glob("test_*.py"):
            near.setdefault(file.relative_to(ROOT).as_posix(), 1)
    seconds = json.loads(SECONDS.read_text()) if SECONDS.exists() else {}
    chosen, left = fitting(near, seconds, given.seconds)
    print("\n".join(chosen))
    if left:
        names = ", ".join(left[:10]) + (f" and {len(left) - 10} more" if len(left) > 10 else "")
        print(
            f"{len(chosen)} of {len(near)} test files that the change touches; left to make test: {names}",
            file=sys.stderr,
        )
    elif not near:
        print("no test touches what changed", file=sys.stderr)


if __name__ == "__main__":
    main()
