"""The command line: each mistake in a flag ends in one line that shows what is expected, with status 1.

absl and ml_collections read the flags. What they take without a word, or answer with a traceback, is looked at before.
"""

import keyword
import re
import runpy
import sys
import traceback
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from delta_jax.command_line import config_names, config_values
from delta_jax.training.config import ConfigError, check_field

_EXAMPLES = {"config": "folder", "workdir": "runs/mine", "format": "timm"}
_HELP = re.compile(r"--?(help|helpshort|helpfull|helpxml|\?)(=.*)?")
_CONFIG = re.compile(r"(--?config)(?:=(.*))?", re.DOTALL)
_OF_CONFIG = re.compile(r"--?(no)?config(?:\.([^=]*))?(?:=(.*))?", re.DOTALL)
_UNSET = re.compile(r"flag --(\w+)=None: Flag --\w+ must have a value other than None\.")


def parse(argv: Sequence[str], *, positional: bool = False) -> list[str]:
    """Reads the flags.

    Args:
      argv: the command and its arguments.
      positional: whether arguments that are no flags have a meaning.

    Returns:
      The command and the arguments that are no flags.
    """
    known = flags.FLAGS
    known.set_gnu_getopt(True)  # flags count behind other arguments, too
    try:
        argv = list(argv)
        if "config" in known and not any(map(_HELP.fullmatch, argv[1:])):
            arguments = known.read_flags_from_files(argv[1:], force_gnu=True)
            _check_config(arguments)
            argv[1:] = _located(arguments)
        left = known(argv)
        if "workdir" in known and not str(known["workdir"].value).strip():
            raise ConfigError(f"--workdir is empty; expected a folder, such as --workdir={_EXAMPLES['workdir']}")
        if left[1:] and not positional:
            raise ConfigError(
                f"{left[1]!r}: this is no flag; expected --NAME=VALUE, and quotes around a value with blanks, such as "
                + config_values.as_flag("taps", ("a", "b"))
            )
    except (ConfigError, flags.Error) as error:
        sys.exit(f"error: {_one_line(error)}")
    return left


def given(config: ConfigDict | None) -> tuple[str, ...]:
    """The fields of a config that are set on the command line; () of one that does not come from there."""
    flag: Any = flags.FLAGS["config"]
    return () if config is None or flag.value is not config else tuple(flag.override_values)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if not (unset := _UNSET.fullmatch(text)):
        return text
    name = unset[1]
    expected = re.sub(r"(?<!\.)\.$", "", str(flags.FLAGS[name].help))
    example = f", such as --{name}={_EXAMPLES[name]}" if name in _EXAMPLES else ""
    return f"--{name} is not given: {expected[:1].lower()}{expected[1:]}{example}"


def _check_config(arguments: Sequence[str]) -> None:
    """Raises ConfigError unless there is one config, its fields exist and their values can be read."""
    arguments = arguments[: arguments.index("--")] if "--" in arguments else arguments
    # (whether it is --no..., field, value, the argument behind it)
    found = [
        (*match.groups(), following)
        for argument, following in zip(arguments, [*arguments[1:], None], strict=True)
        if (match := _OF_CONFIG.fullmatch(argument))
    ]
    files = [following if text is None else text for _, name, text, following in found if name is None]
    if not found:
        return
    if found[0][1] is not None:
        raise ConfigError(
            f"--config.{found[0][1]} comes before the config; expected --config=NAME in front of its fields, such as "
            f"--config={_EXAMPLES['config']}"
        )
    if len(files) > 1:
        raise ConfigError(f"--config is given {len(files)} times, {' and '.join(map(str, files))}; expected one")
    config = _load(files[0] or "")
    texts: dict[str, list[str | None]] = defaultdict(list)
    for off, name, text, following in found:
        if name is None:
            continue
        check_field(config, name)
        _check_name(name)
        switch = config_values.is_switch(config, name)
        if off and (text is not None or not switch):
            raise ConfigError(f"--noconfig.{name} is for switches, without a value; expected --config.{name}=VALUE")
        texts[name].append(following if text is None and not switch else text)
    for name, values in texts.items():
        config_values.check(config, name, values)


def _check_name(name: str) -> None:
    # ml_collections reads the names of fields as Python does, and ends in a traceback where Python would not.
    for part in name.split("."):
        if not part.isidentifier() or keyword.iskeyword(part):
            raise ConfigError(
                f"--config.{name}: {part!r} cannot be set by a flag, whose names are made of letters, digits and _; "
                "change it in the config's file, or rename it there"
            )


def _located(arguments: Sequence[str]) -> list[str]:
    """The same arguments, the name of a config replaced by its file, which is what ml_collections takes."""
    found = list(arguments)
    for place, argument in enumerate(arguments[: arguments.index("--")] if "--" in arguments else arguments):
        if match := _CONFIG.fullmatch(argument):
            if match[2] is None:
                found[place + 1] = config_names.locate(arguments[place + 1])
            else:
                found[place] = f"{match[1]}={config_names.locate(match[2])}"
    return found


def _load(given: str) -> ConfigDict:
    file, *argument = config_names.locate(given).split(":", 1)
    try:
        config = runpy.run_path(file)["get_config"](*argument)
    except Exception as error:  # whatever a user's file does
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        missing = isinstance(error, KeyError) and not lines
        what = "it has no function get_config()" if missing else f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"--config={file}{f', line {lines[-1]}' if lines else ''}: {what}; expected Python with a function "
            f"get_config() that returns the config, as {config_names.locate(_EXAMPLES['config'])} has"
        ) from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"--config={file}: get_config() returns a {type(config).__name__}; expected an ml_collections.ConfigDict"
        )
    return config
