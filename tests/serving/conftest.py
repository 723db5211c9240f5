"""Servers of one file's tests, and of one test."""

import contextlib

import pytest

from tests.serving import fake
from tests.serving.running import Running


@pytest.fixture(scope="module")
def running():
    """One server for the tests of a file that leave it as it was."""
    with Running(fake.Engine(rows=8)) as one:
        yield one


@pytest.fixture
def client(running):
    with running.client() as one:
        yield one


@pytest.fixture
def start():
    """start(engine, **options) -> a server of the test's own."""
    with contextlib.ExitStack() as stack:
        yield lambda engine, **options: stack.enter_context(Running(engine, **options))
