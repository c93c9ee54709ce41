"""The code cells of a notebook, run one after the other in this process. To write what they print into it:

python -m tests.docs.notebook docs/tutorial.ipynb
"""

import ast
import base64
import contextlib
import io
import json
import sys
from pathlib import Path


def run(notebook: dict) -> tuple[dict, list[list[dict]]]:
    """The names that the cells leave behind, and for each code cell its outputs in nbformat 4."""
    names: dict = {"__name__": "__main__"}
    outputs = [_outputs(cell, names) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return names, outputs


def _outputs(cell: dict, names: dict) -> list[dict]:
    tree = ast.parse("".join(cell["source"]))
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    found = []
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, cell["id"], "exec"), names)
        value = None if last is None else eval(compile(ast.Expression(last.value), cell["id"], "eval"), names)
    if printed.getvalue():
        found.append({"name": "stdout", "output_type": "stream", "text": printed.getvalue().splitlines(keepends=True)})
    if value is not None:
        shown = {"text/plain": repr(value).splitlines(keepends=True)}
        found.append({"data": shown, "execution_count": None, "metadata": {}, "output_type": "execute_result"})
    if "matplotlib.pyplot" in sys.modules:
        found += _drawn()
    return found


def _drawn() -> list[dict]:
    import matplotlib.pyplot as plt

    pictures = []
    for number in plt.get_fignums():
        png = io.BytesIO()
        plt.figure(number).savefig(png, format="png", dpi=80, metadata={"Software": None})
        picture = {"image/png": base64.b64encode(png.getvalue()).decode()}
        pictures.append({"data": picture, "metadata": {}, "output_type": "display_data"})
    plt.close("all")
    return pictures


if __name__ == "__main__":
    path = Path(sys.argv[1])
    content = json.loads(path.read_text())
    _, found = run(content)
    for cell, outputs in zip((c for c in content["cells"] if c["cell_type"] == "code"), found, strict=True):
        cell["outputs"] = outputs
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
