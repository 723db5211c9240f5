"""Config files and overrides: what they give, and the one line that names a mistake."""

import os
import sys

import pytest

from scratchpatch import config, config_flags
from scratchpatch.errors import UserError

HEAD = "from scratchpatch import config\n\n\ndef get_config():\n    c = config.default()\n"


def write(folder, body, name="experiment.py"):
    path = folder / name
    path.write_text(body, encoding="utf-8")
    return str(path)


def test_load_returns_a_locked_config(tmp_path):
    c = config_flags.load(write(tmp_path, HEAD + "    c.training.steps = 7\n    return c\n"))
    assert c.is_locked
    assert config.difference(config.default(), c, free=True) == ["training.steps: 1000 -> 7"]


def test_load_sees_an_edit_at_once(tmp_path):
    for steps in (11, 12, 13):
        path = write(tmp_path, HEAD + f"    c.training.steps = {steps}\n    return c\n")
        assert config_flags.load(path).training.steps == steps


def test_load_may_import_a_parent_from_its_folder_or_its_project(tmp_path):
    (tmp_path / "pyproject.toml").touch()
    folder = tmp_path / "deep" / "studies_of_this_test"
    folder.mkdir(parents=True)
    write(folder, HEAD + "    c.seed = 5\n    return c\n", "parent_of_this_test.py")
    child = "from {} import get_config as parent\n\n\ndef get_config():\n    c = parent()\n"
    child += "    c.training.steps = 3\n    return c\n"
    before = list(sys.path)
    for name in ("parent_of_this_test", "deep.studies_of_this_test.parent_of_this_test"):
        c = config_flags.load(write(folder, child.format(name)))
        assert (c.seed, c.training.steps) == (5, 3)
    assert sys.path == before


def test_load_passes_the_argument_after_a_colon(tmp_path):
    body = HEAD.replace("get_config()", "get_config(kind='fixed')") + "    c.patching.kind = kind\n    return c\n"
    path = write(tmp_path, body)
    assert config_flags.load(path).patching.kind == "fixed"
    assert config_flags.load(path + ":entropy").patching.kind == "entropy"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("def get_config(:\n", ":1: invalid syntax"),
        ("x = 1\n", " has no function get_config()"),
        (
            HEAD + "    c.training.stepz = 3\n    return c\n",
            ":6: config has no field 'training.stepz'; the nearest is 'training.steps'",
        ),
        (
            HEAD + "    c.trainig.steps = 3\n    return c\n",
            ":6: config has no field 'trainig.steps'; the nearest is 'training.steps'",
        ),
        (
            HEAD + "    c['trainig']['steps'] = 3\n    return c\n",
            ":6: config has no field 'trainig'; the nearest is 'training.",
        ),
        (HEAD + "    c.training.steps = 'many'\n    return c\n", ":6: TypeError: Could not override field 'steps'"),
        (HEAD + "    c.training.steps = None\n    return c\n", "config field training.steps takes a value of type int"),
        (HEAD + "    c.seed = True\n    return c\n", "config field seed takes a value of type int"),
        (
            HEAD + "    c.unlock()\n    c.training.stepz = 3\n    return c\n",
            "no field 'training.stepz'; the nearest is 'training.steps'",
        ),
        (HEAD + "    return undefined\n", ":6: NameError: name 'undefined' is not defined"),
        (HEAD, "get_config() must return a ConfigDict, not a NoneType"),
        ("import no_such_module\n", ":1: ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_load_names_what_is_wrong_and_where_in_one_line(tmp_path, body, words):
    path = write(tmp_path, body)
    with pytest.raises(UserError) as caught:
        config_flags.load(path)
    assert words in str(caught.value)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_load_names_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="nowhere.py does not exist"):
        config_flags.load(str(tmp_path / "nowhere.py"))


PLACEHOLDER = """from ml_collections import ConfigDict, config_dict


def get_config():
    return ConfigDict({'seed': config_dict.required_placeholder(int)})
"""
STRANGE = "class Strange(BaseException):\n    def __str__(self):\n        raise ValueError\n\n\n"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"x = 1\0\n", "null byte"),
        (b"x = 'caf\xe9'\n", "utf-8"),
        (b"import sys\n\nsys.exit('done')\n", ":3: SystemExit: done"),
        (b"import sys\n\nsys.exit()\n", ":3: SystemExit"),
        (b"def get_config():\n    return get_config()\n", ":2: RecursionError"),
        (b"x = " + b"(" * 5000 + b")" * 5000, ":1: too many nested parentheses"),
        (b"x = " + b"-" * 20000 + b"1", ""),
        (b"x = " + b"9" * 5000 + b"\n", ":1: Exceeds the limit"),
        (STRANGE.encode() + b"raise Strange(Strange())\n", ":6: Strange"),
        (b"raise KeyError\n", ":1: KeyError"),
        (b"raise GeneratorExit\n", ":1: GeneratorExit"),
        (PLACEHOLDER.encode(), "RequiredValueError"),
    ],
    ids=lambda value: None,
)
def test_a_file_that_fails_oddly_is_one_line(tmp_path, body, words):
    path = tmp_path / "experiment.py"
    path.write_bytes(body)
    with pytest.raises(UserError) as caught:
        config_flags.load(str(path))
    said = str(caught.value)
    assert words in said and said.startswith(str(path)) and "\n" not in said and len(said) < 1000


def test_a_file_that_is_a_pipe_or_a_folder_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.py")
    os.mkfifo(tmp_path / "pipe.json")
    for name, words in (("pipe.py", "a named pipe"), ("pipe.json", "a named pipe"), (".", "a folder")):
        with pytest.raises(UserError, match=f"{words}, and only regular files are read"):
            config_flags.load(str(tmp_path / name))


def test_what_a_file_prints_is_no_result(tmp_path, capsys):
    config_flags.load(write(tmp_path, "print('chatter')\n" + HEAD + "    print('more')\n    return c\n"))
    assert capsys.readouterr() == ("", "chatter\nmore\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trigger.threshold=1.0", ("trigger.threshold", 1.0)),
        ("trigger.threshold=1", ("trigger.threshold", 1.0)),
        ("trigger.kind=none", ("trigger.kind", "none")),
        ("trigger.kind='none'", ("trigger.kind", "none")),
        ("data.cache_dir=123", ("data.cache_dir", "123")),
        ("data.cache_dir=a=b", ("data.cache_dir", "a=b")),
        ("model.pooling.last_state=false", ("model.pooling.last_state", False)),
        ("data.sources=[('stdlib:code', 1)]", ("data.sources", (("stdlib:code", 1),))),
    ],
)
def test_override_takes_the_type_of_its_field(text, expected):
    assert config_flags.parse_override(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trigger.treshold=1", "nearest is 'trigger.threshold'"),
        ("trigger.threshold=high", "takes a value of type float"),
        ("trigger.threshold", "wanted FIELD=VALUE"),
    ],
)
def test_override_names_the_mistake(text, words):
    with pytest.raises(UserError, match=words):
        config_flags.parse_override(text)
