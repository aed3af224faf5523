"""A pytest plugin, loaded before a graded submission: reports which tests ran and how they ended.

The first line on stdin says {"report": file, "secret": text}, and the secret is the last line of the report. It is in
no argument and no environment variable, so that a submission that ends the process early, with whatever exit status,
has not reported. But it runs in this very process, and whoever digs for the secret finds it, or makes torch.equal say
True: look at the code of whoever has full points.
"""

import json
import os
import re
import sys
from pathlib import Path


class Report:
    def __init__(self, file, secret):
        self.file, self.secret, self.process = file, secret, os.getpid()
        self.outcomes = {}    # {test: "passed" or the reason why not}

    def pytest_collectreport(self, report):
        if report.failed:
            self.failed(report)

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed(report)
        elif report.skipped:
            self.outcomes[report.nodeid] = "skipped: look for pytest.skip, importorskip or xfail in the submission"
        elif report.when == "call":
            self.outcomes[report.nodeid] = "passed"

    def failed(self, report):
        from conftest import reason_of    # importable only once pytest has loaded it

        self.outcomes[report.nodeid] = reason_of(report)[:1000]

    def pytest_sessionfinish(self):
        if os.getpid() == self.process:    # not in a child that the submission forked
            with open(self.file, "w", encoding="utf-8") as file:
                json.dump({"outcomes": self.outcomes, "space": space()}, file)
                file.write(f"\n{self.secret}")


def space():
    """The most bytes of addresses that this process has used, or None where the system does not tell."""
    try:
        return int(re.search(r"VmPeak:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    except (OSError, TypeError):    # there is no such file, or no such line in it
        return None


ORDER = json.loads(sys.stdin.readline())


def pytest_configure(config):
    config.pluginmanager.register(Report(ORDER.pop("report"), ORDER.pop("secret")))
