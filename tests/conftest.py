"""Postgres once a session, a database of its own for each test, servers on free ports."""

import inspect
import itertools
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from tornado.ioloop import IOLoop

import logs
from storage.embedded import EmbeddedPostgres
from storage.migrate import migrate
from tests.browser import chromium, live  # noqa: F401  # fixtures
from tests.client_scripts import node, script, serve  # noqa: F401  # fixtures
from tests.expo import ExpoStandIn
from tests.harness import Server

_TEST_TIMEOUT_S = 50
# Starting or stopping the test's servers; no more, so that what hangs is said before the test's time is over.
_STEP_S = 30
# On a machine with two processors a run with two workers leaves both idle for half of its time.
_WORKERS_MORE = 2
_names = (f"t{number}" for number in itertools.count())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """For ``-n auto``: more than there are processors, since tests wait for more time than they compute."""
    return (os.cpu_count() or 1) + _WORKERS_MORE


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Give each worker of ``-n`` a share of its own, so that what a module shares is made once or twice, not by all."""
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "worksteal"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run every coroutine test on a Tornado loop, and let every worker begin with what takes longest."""
    for item in items:
        if inspect.iscoroutinefunction(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.gen_test(timeout=_TEST_TIMEOUT_S))
    workers = getattr(config, "workerinput", {"workercount": 1})["workercount"]
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = [item for item in items if not item.get_closest_marker("slow")]
    ordered: list[pytest.Item] = []
    for number in range(workers):
        share = (len(items) - len(ordered)) // (workers - number)  # as xdist deals them out
        first = slow[number::workers]
        rest = max(0, share - len(first))
        ordered += [*first, *others[:rest]]
        del others[:rest]
    items[:] = ordered


@pytest.fixture(scope="session", autouse=True)
def _logs() -> None:
    logs.configure("console", "info")


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A real PostgreSQL with a migrated template database."""
    # In memory where there is room: a database a test is mostly writing files.
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4 * 2**30
    directory = Path(tempfile.mkdtemp(prefix="bountyexpo-test-", dir=memory if roomy else None))
    server = EmbeddedPostgres(directory / "postgres")
    _admin(server, "CREATE DATABASE template")
    migrate(server.dsn("template"))
    yield server
    server.stop()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def dsn(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The address of an empty, migrated database."""
    name = next(_names)
    _admin(postgres, f"CREATE DATABASE {name} TEMPLATE template")
    yield postgres.dsn(name)
    _admin(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def io_loop() -> Iterator[IOLoop]:
    """The loop that a test and its servers share."""
    loop = IOLoop(make_current=True)
    yield loop
    loop.close()


@pytest.fixture
def expo(io_loop: IOLoop) -> Iterator[ExpoStandIn]:
    """A stand-in for Expo; at the end, nothing that it was sent may have been wrong."""

    async def make() -> ExpoStandIn:
        return ExpoStandIn()

    stand_in = io_loop.run_sync(make)
    yield stand_in
    io_loop.run_sync(stand_in.close)
    assert stand_in.faults == []


@pytest.fixture
def start(io_loop: IOLoop, dsn: str) -> Iterator[Callable[..., Awaitable[Server]]]:
    """Start servers on the test's database; settings as keywords."""
    servers: list[Server] = []

    async def start_one(**settings: Any) -> Server:
        server = Server(dsn, **settings)
        servers.append(server)
        return await server.start()

    yield start_one

    async def stop_all() -> None:
        for server in servers:
            await server.stop()

    io_loop.run_sync(stop_all, timeout=_STEP_S)


@pytest.fixture
def server(io_loop: IOLoop, start: Callable[..., Awaitable[Server]]) -> Server:
    """A server with the usual settings of the tests."""
    return io_loop.run_sync(start, timeout=_STEP_S)


def _admin(postgres: EmbeddedPostgres, statement: str) -> None:
    with closing(psycopg2.connect(postgres.dsn())) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
