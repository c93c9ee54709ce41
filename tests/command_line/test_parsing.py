"""Flags of a config as users write them, in process: what is refused, in one line, and what is understood."""

import runpy
import shlex
import sys

import pytest
from absl import flags
from absl.testing import flagsaver
from ml_collections import ConfigDict

from delta_jax import command_line, train
from delta_jax.command_line import config_names
from tests.small_run import ROOT

# How ml_collections loads a config file.
pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method:DeprecationWarning")

RUN = "--config=configs/default.py --workdir=x"
SWEEP = "--config=configs/study.py --workdir=x"


@pytest.fixture
def parse(monkeypatch):
    """Reads a line as a shell would hand it over."""

    def run(line, **options):
        argv = ["train", *shlex.split(line)]
        monkeypatch.setattr(sys, "argv", argv)  # where ml_collections looks for fields
        return command_line.parse(argv, **options)

    monkeypatch.chdir(ROOT)
    with flagsaver.flagsaver():
        yield run
    flags.FLAGS.unparse_flags()


REFUSED = [
    (
        f"{RUN} --config.taps=a,b",
        """--config.taps=a,b: expected a tuple of words, such as --config.taps="('a','b')\"""",
    ),
    (f"{RUN} --config.taps=1", """--config.taps=1: expected a tuple of words, such as --config.taps="('1',)\""""),
    (f"{RUN} '--config.taps=(a, b)'", """such as --config.taps="('a','b')\""""),
    (f"{RUN} \"--config.taps={{'a','b'}}\"", "expected a tuple of words"),  # a set has no order
    (f"{RUN} --config.taps=None", "expected a tuple of words"),
    (f"{RUN} --config.taps=", "expected a tuple of words, such as"),
    (f"{RUN} --config.taps=a --config.taps=b", """given 2 times; expected once, .* --config.taps="('a','b')\""""),
    (f"{RUN} --config.taps=a b", "'b': this is no flag"),
    (f"{RUN} config.steps=5", "'config.steps=5': this is no flag"),
    (f"{RUN} --config.head_l2=a", '--config.head_l2=a: expected a tuple of numbers, such as --config.head_l2="(0.1,'),
    (f"{RUN} --config.data.mean=0.5,a,0.5", "expected a tuple of numbers, such as --config.data.mean="),  # not set
    (f"{RUN} --config.data.std=", "--config.data.std=: expected a tuple of numbers"),
    (f"{RUN} --config.data.color_jitter=True", "expected a tuple of numbers"),
    (f"{RUN} --config.data.mean=a,b", "expected a tuple of numbers, such as --config.data.mean"),  # a placeholder
    (f"{RUN} --config.data.mean=1 --config.data.mean=2", 'all its values, such as --config.data.mean="(1,2)"'),
    (f"{RUN} --config.steps=1e5", "--config.steps=1e5: expected a whole number, such as --config.steps=100000"),
    (f"{RUN} --config.steps=nan", "expected a whole number, such as --config.steps=9000"),
    (f"{RUN} --config.data.resize=abc", "--config.data.resize=abc: expected a whole number"),
    (f"{RUN} --config.alpha=x", "--config.alpha=x: expected a number"),
    (f"{RUN} --config.remat=maybe", "--config.remat=maybe: expected True or False, such as --config.remat=True"),
    (f"{RUN} --config.rectify=maybe", "expected True or False"),
    (f"{RUN} --noconfig.steps", "--noconfig.steps is for switches"),
    (f"{RUN} --noconfig.remat=1", "--noconfig.remat is for switches"),
    (f"{RUN} --config.steps", "--config.steps has no value"),
    (f"{RUN} --config.data=x", "expected one of the fields of this group, such as --config.data."),
    (f"{RUN} \"--config.data={{'root':'x'}}\"", "expected one of the fields of this group"),  # all others would be gone
    (f"{RUN} --config.data.roott=x", "no such field; did you mean data.root"),
    (f"{RUN} --config.data.batch=4", "no such field; did you mean batch_norm or batch_size"),
    (f"{RUN} --config=configs/elpv.py", "--config is given 2 times, configs/default.py and configs/elpv.py"),
    (f"--config.steps=5 {RUN}", "--config.steps comes before the config; expected --config=NAME in front"),
    ("--config.steps=5 --workdir=x", "--config.steps comes before the config"),
    ("--workdir=x", "--config is not given: name of a config, .*; its fields are flags, such as --config=folder"),
    ("--config=configs/default.py", "--workdir is not given: folder for .*, such as --workdir=runs/mine"),
    ("--config=configs/default.py --workdir=", "--workdir is empty; expected a folder"),  # --workdir=$UNSET
    ("--config=configs/defalt.py --workdir=x", "no such file; did you mean configs/default.py"),
    ("--config=configs --workdir=x", "--config=configs: no such file"),
    ("--config=foldr --workdir=x", "--config=foldr: no such file; did you mean folder? the names .*, paper/table1, "),
    ("--config=Folder --workdir=x", "did you mean folder?"),
    ("--config=table1 --workdir=x", "did you mean paper/table1?"),
    ("--config=folder.py --workdir=x", "did you mean folder?"),
    ("--config=else/configs/folder.py --workdir=x", "did you mean folder?"),  # as a checkout has it, elsewhere
    ("--config= --workdir=x", "--config=: no such file; the names .* elpv, "),
    ("--config=__init__ --workdir=x", "no such file"),
    ("--config=folder:small --workdir=x", "folder.py: TypeError: get_config() takes 0 positional arguments"),
    ("--config=folder --workdir=x --config.data.rot=y", "no such field; did you mean data.root"),
    ("--config=README.md --workdir=x", "--config=README.md: SyntaxError"),
    ("--config=delta_jax/methods/delta.py --workdir=x", "it has no function get_config()"),
    (f"{RUN} --workdirr=x", "Did you mean: workdir ?"),
    (f"{SWEEP} --config.seeds=a", 'expected a tuple of whole numbers, such as --config.seeds="(0,1,2)"'),
    (f"{SWEEP} --config.seeds=0.5", "expected a tuple of whole numbers"),
    (f"{SWEEP} --config.methods=delta,l2", """such as --config.methods="('delta','l2')\""""),
    (f"{SWEEP} --config.run.taps=a,b", """such as --config.run.taps="('a','b')\""""),
    (
        "--config=configs/map/recipes.py --workdir=x --config.variants.batch-random-1e-02.learning_rate=1",
        "'batch-random-1e-02' cannot be set by a flag, .* or rename it there",
    ),
    (f"{SWEEP} --config.data_sets=x", "such as --config.data_sets.caltech101.FIELD=VALUE"),
]


@pytest.mark.parametrize(("line", "message"), REFUSED)
def test_a_mistake_is_one_line_with_what_is_expected(parse, line, message):
    with pytest.raises(SystemExit) as caught:
        parse(line)
    found = str(caught.value)
    assert found.startswith("error: ")
    assert "\n" not in found
    before, _, after = message.partition(".*")
    assert before in found
    assert after in found


@pytest.mark.parametrize("line", ["--config=paper/table1", "--config paper/table1", "-config=paper/table1"])
def test_a_name_stands_for_a_config_that_comes_with_delta_jax(parse, monkeypatch, tmp_path, line):
    """In any folder, even where a folder or a file without .py is called alike."""
    (tmp_path / "paper" / "table1").mkdir(parents=True)
    (tmp_path / "folder").write_text("no config")
    monkeypatch.chdir(tmp_path)
    parse(f"{line} --workdir=x --config.small=True")
    assert train._CONFIG.value.name == "table1"
    assert train._CONFIG.value.small
    assert config_names.locate("folder") == str(ROOT / "configs" / "folder.py")


def test_a_name_in_a_flag_file_and_an_argument_behind_a_file(parse, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "from delta_jax.configs.folder import get_config as get_folder\n\n\n"
        "def get_config(root):\n    config = get_folder()\n    config.data.root = root\n    return config\n"
    )
    (tmp_path / "flags").write_text("--config=folder\n")
    parse(f"--flagfile={tmp_path / 'flags'} --workdir=x")
    assert train._CONFIG.value.data.name == "folder"
    parse(f"--config={own}:somewhere:else --workdir=x")
    assert train._CONFIG.value.data.root == "somewhere:else"


def test_every_name_is_a_config():
    found = config_names.names()
    assert {"default", "elpv", "folder", "paper/table1", "quickstart", "study"} < set(found)
    for name in found:
        assert isinstance(runpy.run_path(config_names.locate(name))["get_config"](), ConfigDict)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def get_config(:", "SyntaxError"),
        ("def get_config():\n    return missing", "line 2: NameError: name 'missing' is not defined"),
        ("def get_config():\n    return {'a': 1}", "returns a dict; expected an ml_collections.ConfigDict"),
        (
            "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'a': [1]})",
            "a list; make it",
        ),
        (
            "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'a': None})",
            "a placeholder",
        ),
    ],
)
def test_a_file_that_is_no_config_is_told_what_one_is(parse, tmp_path, content, message):
    file = tmp_path / "own.py"
    file.write_text(content)
    with pytest.raises(SystemExit) as caught:
        parse(f"--config={file} --workdir=x --config.a=1")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("--config.taps=block_1/conv", "taps", ("block_1/conv",)),
        ("--config.taps=a.b", "taps", ("a.b",)),
        ("\"--config.taps=('a','b')\"", "taps", ("a", "b")),
        ("\"--config.taps=['a','b']\"", "taps", ("a", "b")),
        ("\"--config.taps='a','b'\"", "taps", ("a", "b")),
        ("\"--config.taps=('a')\"", "taps", ("a",)),
        ("\"--config.taps=('a,b',)\"", "taps", ("a,b",)),
        ("--config.head_l2=0.1", "head_l2", (0.1,)),
        ("--config.head_l2=1,2", "head_l2", (1, 2)),
        ("--config.steps 7", "steps", 7),
        ("--config.steps=7 --config.steps=8", "steps", 8),
        ("--config.learning_rate=1e-3", "learning_rate", 1e-3),
        ("--config.data.resize=96", "data.resize", 96),
        ("--config.remat", "remat", True),
        ("--noconfig.data.mirror", "data.mirror", False),
        ("--config.rectify=false", "rectify", False),
        ("--config.data.root=", "data.root", ""),
    ],
)
def test_what_is_meant_is_understood(parse, line, field, value):
    assert parse(f"{RUN} {line}") == ["train"]
    config = train._CONFIG.value
    node = config
    for name in field.split("."):
        node = node[name]
    assert node == value
    assert command_line.given(config) == (field,)
    assert command_line.given(None) == ()


def test_a_field_with_a_name_of_the_language_is_refused_in_one_line(parse, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict({'lambda': {'x': 1}})\n"
    )
    with pytest.raises(SystemExit, match=r"^error: --config\.lambda\.x: 'lambda' cannot be set by a flag"):
        parse(f"--config={own} --workdir=x --config.lambda.x=2")


def test_arguments_that_are_no_flags_may_stand_anywhere(parse):
    assert parse(f"photos {RUN} more", positional=True) == ["train", "photos", "more"]
