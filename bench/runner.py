"""Runs one contestant's scenarios: the server and, for each scenario, a load process of its own."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg2

from bench import processes, world
from bench.contestants import OURS, Contestant, options
from bench.paths import ROOT
from storage.embedded import EmbeddedPostgres
from tests.basics import free_port

_JOB_TIMEOUT_S = 90
# What may go wrong with one contestant and is no reason to end the run.
FAILURES = (processes.NotStarted, subprocess.SubprocessError, psycopg2.Error, OSError, ValueError)
# Figures by run: {"chat ws 64": {"messages_per_s": …}}.
Figures = dict[str, dict[str, float]]


class Runner:
    """Starts contestants and measures them.

    :param only: scenarios to run; empty means all.
    """

    def __init__(self, postgres: EmbeddedPostgres, people: Path, *, quick: bool, only: set[str]) -> None:
        self._postgres = postgres
        self._people = people
        self._quick = quick
        self._only = only

    def prepare(self, contestant: Contestant) -> bool:
        """Fill the contestant's database; return whether that went well."""
        if contestant.has_database:
            fill = world.fill_ours if contestant.command == OURS.command else world.fill_peer
            try:
                fill(self._postgres, database(contestant))
            except FAILURES as error:
                print(f"  {contestant.label}: no database: {reason(error)}", flush=True)
                return False
        return True

    def turn(self, contestant: Contestant, *, first: bool) -> Figures:
        """Measure all of a contestant's scenarios once; one that fails has no figures, and the reason is printed.

        :param first: whether this is the first round; memory, which hardly varies, is measured in that one only.
        """
        wanted = [name for name in contestant.scenarios if not self._only or name in self._only]
        memory, rest = [name for name in wanted if name == "memory" and first], [n for n in wanted if n != "memory"]
        figures: Figures = {}
        # Memory is that of a process that has done nothing else yet. A short run saves the second start.
        for group in [memory + rest] if self._quick else [memory, rest]:
            jobs = [(name, each) for name in group for each in options(name, contestant, quick=self._quick)]
            if jobs:
                figures.update(self.run(contestant, jobs))
        return figures

    def persisting_limit(self) -> Figures:
        """Measure the bare group-commit statement."""
        seconds = "0.5" if self._quick else "1"
        try:
            dsn = self._postgres.dsn("limit_of_persisting")
            world.fill_ours(self._postgres, "limit_of_persisting")
            result = json.loads(self._python("bench.peers.group_commit", dsn, seconds))
        except FAILURES as error:
            print(f"  The bare group-commit statement failed: {reason(error)}", flush=True)
            return {}
        return {f"chat ws {size}": {"messages_per_s": rate} for size, rate in result.items()}

    def run(self, contestant: Contestant, jobs: list[tuple[str, dict[str, Any]]]) -> Figures:
        """Run (scenario, options) after (scenario, options) against one start of a contestant's server."""
        figures: Figures = {}
        try:
            self._run(contestant, jobs, figures)
        except FAILURES as error:  # the server did not start, or is gone; what was measured before stays
            print(f"  {contestant.label}: the server failed: {reason(error)}", flush=True)
        return figures

    def _run(self, contestant: Contestant, jobs: list[tuple[str, dict[str, Any]]], figures: Figures) -> None:
        port = free_port()
        world.run(self._postgres.dsn(), "CHECKPOINT")
        environment = {"PORT": str(port), **self.environment(contestant)}
        with processes.server(contestant.name, contestant.command, environment, port) as pid:
            for scenario, each in jobs:
                name = f"{scenario} {each['name']}"
                try:
                    figures[name] = self.job(contestant, scenario, each, port, pid)
                except FAILURES as error:
                    print(f"  {contestant.label}: {name} failed: {reason(error)}", flush=True)
                processes.wait_until_idle(pid)

    def job(
        self, contestant: Contestant, scenario: str, options: dict[str, Any], port: int, pid: int
    ) -> dict[str, float]:
        """Run one scenario against a server that runs; return its figures."""
        job = {
            "scenario": scenario,
            "port": port,
            "server_pid": pid,
            "postgres_pid": self._postgres.pid,
            "dialect": contestant.dialect,
            "publishes_over_rest": contestant.publishes_over_rest,
            "world": str(self._people),
            "options": options,
        }
        return _numbers(json.loads(self._python("bench.load", stdin=json.dumps(job))))

    def environment(self, contestant: Contestant) -> dict[str, str]:
        """Return the environment: our server takes an address, libpq's variables serve all the others."""
        dsn = self._postgres.dsn(database(contestant))
        host = parse_qs(urlsplit(dsn).query)["host"][0]
        return {
            "HOST": "127.0.0.1",
            "DATABASE_URL": dsn,
            "PGHOST": host,
            "PGUSER": "postgres",
            "PGDATABASE": database(contestant),
            "SUPABASE_JWT_SECRET": world.SECRET,
            **contestant.environment,
        }

    def _python(self, module: str, *arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_JOB_TIMEOUT_S,
            check=True,
        )
        return done.stdout


def database(contestant: Contestant) -> str:
    """Return the name of a contestant's database."""
    return f"bench_{contestant.name}"


def _numbers(figures: dict[str, float]) -> dict[str, float]:
    """Leave out what is no number: a quantile of nothing."""
    return {name: value for name, value in figures.items() if not math.isnan(value)}


def reason(error: Exception) -> str:
    """Return the last line of what there is to say about a failure."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"nothing within {error.timeout:.0f} s"
    lines = str(getattr(error, "stderr", None) or error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
