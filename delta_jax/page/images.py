"""Pictures for the page, as data URIs: what the networks look at in a few test photos, and where they are wrong."""

import base64
import mimetypes
from pathlib import Path
from typing import Any

from delta_jax.page.reading import Experiment, objects, read_json

GALLERY = Path("gallery") / "gallery.json"
MOST_MISTAKES = 12  # of a method


def gallery(experiment: Experiment) -> list[dict[str, Any]]:
    """Test photos with maps per tap, from the first run of each method that has them.

    Returns:
      Per photo: name, true class, its picture, {method: (predicted class, probability)} and, per tap, the source's map
      and {method: map}. Pictures are data URIs, or None where the file is missing.
    """
    photos: dict[str, dict[str, Any]] = {}
    for method, (folder, content) in _galleries(experiment).items():
        for photo in objects(content, "photos"):
            name = str(photo.get("name"))
            if name not in photos:
                picture = data_uri(folder / str(photo.get("photo")))
                photos[name] = {"name": name, "true": photo.get("true"), "photo": picture, "predicted": {}, "taps": {}}
            found = photos[name]
            found["predicted"][method] = (photo.get("predicted"), photo.get("probability"))
            for maps in objects(photo, "maps"):
                tap = found["taps"].setdefault(str(maps.get("tap")), {"source": None, "trained": {}})
                # The source is the same network for every method: its map is carried once.
                tap["source"] = tap["source"] or data_uri(folder / str(maps.get("source")))
                tap["trained"][method] = data_uri(folder / str(maps.get("trained")))
    return list(photos.values())


def mistakes(experiment: Experiment) -> dict[str, list[dict[str, Any]]]:
    """{method: mistakes}, the most confident first, from the first run of each method that has a gallery."""
    found = {}
    for method, (folder, content) in _galleries(experiment).items():
        listed = objects(content, "mistakes")[:MOST_MISTAKES]
        found[method] = [{**one, "photo": data_uri(folder / str(one.get("photo")))} for one in listed]
    return found


def data_uri(path: Path) -> str | None:
    """A picture as part of the page; None where there is no such file."""
    if not path.is_file():
        return None
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _galleries(experiment: Experiment) -> dict[str, tuple[Path, dict[str, Any]]]:
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for method, runs in experiment.runs.items():
        for run in runs:
            if method not in found and (content := read_json(run.folder / GALLERY)):
                found[method] = (run.folder / GALLERY.parent, content)
    return found
