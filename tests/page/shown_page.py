"""Pages of small runs, and a page taken apart."""

from html.parser import HTMLParser

from delta_jax import page
from tests.synthetic_sweep import write_json


class Parsed(HTMLParser):
    """Elements with their attributes, text outside of style and script, and content of scripts."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text, self.scripts, self.open, self.cells = [], "", [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img", "input", "br") and not tag.startswith("path"):
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif not self.open or self.open[-1] != "style":
            self.text += data
            if {"td", "th"} & set(self.open):
                self.cells[-1][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def shown(folder):
    return Parsed(page.write(folder).read_text(encoding="utf-8"))


def one_run(folder, method="delta", **summary):
    """A workdir of an older version: no gallery, drift, metrics or versions."""
    write_json(
        folder / "config.json",
        {"arch": "resnet18", "method": method, "seed": 3, "data": {"name": "folder", "root": "/my/birds"}},
    )
    measured = {"top1": 0.75, "balanced_accuracy": 0.7, "cross_entropy": 0.5, "n": 4}
    content = {
        "classes": ["a", "b"],
        "test": measured,
        "validation": {},
        "l2_fe": {"test": {**measured, "top1": 0.5}, "validation": {}},
        "confusion_matrix": [[2, 0], [1, 1]],
        "alpha": 0.1,
        "seconds": {"head": 2.0, "fine_tune": 60.0},
    }
    write_json(folder / "summary.json", content | summary)
