"""Command lines from typed functions and dataclasses, with errors of one line."""

from __future__ import annotations

import difflib
import re
import sys
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser

from lfm_policy.flow.errors import LFMError

WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "NoneType": "null",
    "tuple": "a list",
}


class OneLineParser(ArgumentParser):
    """A jsonargparse parser whose errors are LFMErrors of one line, with the nearest known name."""

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse; LFMError for a config file that is no text, such as a dataset."""
        try:
            return super().parse_args(*args, **kwargs)
        except UnicodeDecodeError as error:
            raise LFMError("config: is no text; give the path of a YAML file") from error

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the error as one line."""
        text = re.sub(r"\s+", " ", str(message)).strip().removesuffix(".")
        names = [option.removeprefix("--") for action in self._actions for option in action.option_strings]
        told = _wrong_value(text) or _wrong_name(text, names) or _missing(text, names, self.prog)
        raise LFMError(told or _other(text, self.prog))


def make_parser(prog: str, description: str, with_config: bool = False) -> OneLineParser:
    """A parser; `with_config` adds --config FILE (YAML)."""
    parser = OneLineParser(prog=prog, description=description, allow_abbrev=False)
    if with_config:
        parser.add_argument("--config", action=ActionConfigFile, help="YAML file of the run")
    return parser


def call(function: Any, arguments: list[str], prog: str, as_positional: bool = True) -> int:
    """Call a function with the arguments that its signature asks for; its return value or 0."""
    parser = make_parser(prog, (function.__doc__ or "").splitlines()[0])
    parser.add_function_arguments(function, as_positional=as_positional)
    values = parser.parse_args(arguments)
    return function(**parser.instantiate(values).as_dict()) or 0


def quiet_exit(error: LFMError) -> int:
    """Print an error's one line to stderr; 2."""
    print(f"error: {error}", file=sys.stderr)
    return 2


def _wrong_value(text: str) -> str | None:
    """`training.steps: 'abc' is not a whole number or null`."""
    found = re.search(r'Parser key "([\w.]+)": .*(?:Got value|Given value): (.*)$', text)
    if found is None:
        return None
    types = re.findall(r"<class '(\w+)'>|Literal\[([^\]]*)\]", text.split("Errors:")[-1].split("Given value type")[0])
    wanted = [WORDS.get(kind, f"a {kind}") if kind else f"one of {choices}" for kind, choices in types]
    return f"{found[1]}: '{found[2]}' is not {' or '.join(dict.fromkeys(wanted))}"


def _wrong_name(text: str, names: list[str]) -> str | None:
    """`unknown field 'policy.horizn'; did you mean 'policy.horizon'?`."""
    found = re.search(r"unrecognized arguments: (?:--)?([\w.]+)", text, re.IGNORECASE)
    grouped = re.search(r"Group '([\w.]*)' does not accept option '([\w.]+)'", text)
    option = re.search(r"Option '([\w.]+)' is not accepted", text)
    if grouped:
        name = f"{grouped[1]}.{grouped[2]}".lstrip(".")
    elif found or option:
        name = (found or option)[1]  # type: ignore[index]
    else:
        return None
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"unknown field '{name}'" + (f"; did you mean '{nearest[0]}'?" if nearest else "")


def _missing(text: str, names: list[str], prog: str) -> str | None:
    """`--output_dir is missing (see `lfm train --help`)`."""
    found = re.search(r"arguments are required: (.*)$", text)
    if found is None:
        return None
    missing = [f"--{name}" if name in names else name.upper() for name in found[1].split(", ")]
    return f"{', '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing (see `{prog} --help`)"


def _other(text: str, prog: str) -> str:
    missing = re.search(r"File does not exist: '([^']*)'", text)
    if missing:
        return f"config: {missing[1]} does not exist; give the path of a YAML file"
    text = re.sub(r'^Parser key "([^"]+)": ?', r"\1: ", text)
    return f"{text} (see `{prog} --help`)"
