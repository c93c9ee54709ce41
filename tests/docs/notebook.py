"""The code cells of a notebook, run one after the other in this process. To write into it what they print and draw:

MPLBACKEND=agg python -m tests.docs.notebook docs/tutorial.ipynb
"""

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
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    lines = printed.getvalue().splitlines(keepends=True)
    texts = [{"name": "stdout", "output_type": "stream", "text": lines}] if lines else []
    return texts + (_drawn() if "matplotlib.pyplot" in sys.modules else [])


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
