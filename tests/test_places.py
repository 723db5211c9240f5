"""Where a user's files are, with a home folder and without."""

import os
import pwd
import tempfile
from pathlib import Path

import pytest

from scratchpatch import places
from scratchpatch.errors import UserError


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    """A user without HOME and without an entry in the password file; the folder of temporary files."""

    def unknown(_):
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("SCRATCHPATCH_CACHE", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    places._temporary.cache_clear()
    yield tmp_path
    places._temporary.cache_clear()


def test_the_cache_folder_is_configured_or_in_the_environment_or_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SCRATCHPATCH_CACHE", "~/e")
    assert places.cache_folder("~/c") == Path("/home/me/c") and places.cache_folder() == Path("/home/me/e")
    monkeypatch.delenv("SCRATCHPATCH_CACHE")
    assert places.cache_folder() == Path("/home/me/.cache/scratchpatch")


def test_a_tilde_means_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me/")
    assert places.expanded("~") == "/home/me" and places.expanded("~/a") == "/home/me/a"
    for path in ("a~", "a/~/b", "gs://b/~", ""):
        assert places.expanded(path) == path
    monkeypatch.setenv("HOME", "/")
    assert places.expanded("~/a") == "/a" and places.expanded("~") == "/"
    # An empty HOME is none: the password file knows.
    monkeypatch.setenv("HOME", "")
    assert places.expanded("~/a") == os.path.join(pwd.getpwuid(os.getuid()).pw_dir, "a")
    assert places.expanded("~no-such-user/a") == "~no-such-user/a"


def test_without_a_home_a_tilde_is_one_line_and_the_cache_a_folder_of_this_user_alone(homeless, caplog):
    with pytest.raises(UserError, match=r"~/a: this user has no home folder \(HOME is not set\): write the whole path"):
        places.expanded("~/a")
    with caplog.at_level("INFO"):
        folder = places.cache_folder()
        assert folder == places.cache_folder() == homeless / f"scratchpatch-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(caplog.messages) == 1 and "SCRATCHPATCH_CACHE" in caplog.text
    places._temporary.cache_clear()
    assert places.cache_folder() == folder
    assert places.cache_folder("/c") == Path("/c")


@pytest.mark.parametrize("what", ["open to others", "a link", "a file", "of another"])
def test_a_temporary_folder_that_others_may_write_is_refused(homeless, monkeypatch, what):
    path = homeless / f"scratchpatch-{os.getuid()}"
    if what == "open to others":
        path.mkdir()
        path.chmod(0o777)
    elif what == "a link":
        (homeless / "theirs").mkdir(mode=0o700)
        path.symlink_to(homeless / "theirs")
    elif what == "a file":
        path.write_text("")
    else:
        path.mkdir(mode=0o700)
        own = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: own + 1)
        path.rename(homeless / f"scratchpatch-{own + 1}")
    with pytest.raises(UserError, match="set SCRATCHPATCH_CACHE"):
        places.cache_folder()
