"""The figure of several galleries: which picture stands where, and galleries that do not go together."""

import json

import numpy as np
import pytest
from PIL import Image

from delta_jax.analysis.case_study import main, read


def make_run(workdir, method, value, *, seed=0, names=("a.jpg", "b.jpg"), taps=("early", "late")):
    """A gallery whose pictures are of one grey each: 10 or 11 for the source, `value` and on for the trained maps."""
    (workdir / "gallery").mkdir(parents=True)
    (workdir / "summary.json").write_text(json.dumps({"method": method, "seed": seed}))
    photos = []
    for number, name in enumerate(names):
        maps = [{"tap": tap, **{kind: f"{number}-{tap}-{kind}.jpg" for kind in ("source", "trained")}} for tap in taps]
        photos.append({"name": name, "true": f"class {number}", "photo": f"photo-{number}.jpg", "maps": maps})
        greys = {photos[-1]["photo"]: 200 + number}
        for place, one in enumerate(maps):
            greys |= {one["source"]: 10 + place, one["trained"]: value + 2 * number + place}
        for file, grey in greys.items():
            Image.new("RGB", (16, 16), (grey,) * 3).save(workdir / "gallery" / file, quality=95)
    (workdir / "gallery" / "gallery.json").write_text(json.dumps({"photos": photos, "mistakes": []}))
    return workdir


def greys(pictures):
    return [int(np.unique(picture).item()) for picture in pictures]


def test_the_source_and_each_run_have_a_column(tmp_path):
    runs = [make_run(tmp_path / "a", "l2_sp", 50), make_run(tmp_path / "b", "delta", 80)]
    runs += [make_run(tmp_path / "c", "delta", 120, seed=1)]
    found = read(runs)
    assert found.tap == "late"
    assert found.titles == ["class 0", "class 1"]
    assert greys(found.photos) == [200, 201]
    assert {name: greys(pictures) for name, pictures in found.columns.items()} == {
        "source": [11, 11],
        "l2_sp": [51, 53],
        "delta": [81, 83],
        "delta, seed 1": [121, 123],
    }
    assert greys(read(runs[:1], "early").columns["l2_sp"]) == [50, 52]


def test_the_command_draws_it(tmp_path, capsys):
    run = make_run(tmp_path / "a", "delta", 50)
    main([f"--out={tmp_path / 'a.png'}", str(run)])
    assert "filters of late" in capsys.readouterr().out
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (550, 418)  # 3 columns and 2 rows of 1.5 inches, 0.5 and 0.8 more, at 110 dots


def test_galleries_that_do_not_go_together(tmp_path):
    run = make_run(tmp_path / "a", "delta", 50)
    with pytest.raises(ValueError, match=r"gallery.json is not there"):
        read([run, tmp_path / "none"])
    with pytest.raises(
        ValueError, match=r"shows a.jpg, c.jpg, that of .* a.jpg, b.jpg; expected runs on the same data"
    ):
        read([run, make_run(tmp_path / "b", "l2", 50, names=("a.jpg", "c.jpg"))])
    with pytest.raises(ValueError, match="has the taps early, late, not middle"):
        read([run], "middle")
    with pytest.raises(SystemExit, match="is not there"):
        main([str(tmp_path / "none")])
