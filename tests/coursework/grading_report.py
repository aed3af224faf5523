"""A pytest plugin, loaded before a graded submission: sets limits, and reports which tests ran and how they ended.

The first line on stdin says {"report": file, "secret": text, "bytes": of memory, "seconds": of computing}. The secret
is in no argument and no environment variable, so that a submission that ends the process early, with whatever exit
status, has not reported. But it runs in this very process, and whoever digs for the secret finds it, or makes
torch.equal say True: look at the code of whoever has full points.
"""

import json
import os
import sys


def limit(memory, seconds):
    """No more memory, computing time and file size than this, where the system has such limits."""
    try:
        import resource
    except ImportError:    # Windows
        return
    for name, most in (("RLIMIT_DATA", memory), ("RLIMIT_CPU", seconds), ("RLIMIT_FSIZE", 2 ** 28), ("RLIMIT_CORE", 0)):
        try:
            resource.setrlimit(getattr(resource, name), (int(most), int(most)))
        except (AttributeError, ValueError, OSError):    # unknown there, or a lower limit is set already
            pass


class Report:
    def __init__(self, file, secret):
        self.file, self.secret, self.process = file, secret, os.getpid()
        self.outcomes = {}    # {test: "passed" or the reason why not}

    def pytest_collectreport(self, report):
        if report.failed:
            lines = str(report.longrepr).strip().splitlines()
            self.outcomes[report.nodeid] = lines[-1].removeprefix("E").strip() if lines else "cannot be imported"

    def pytest_runtest_logreport(self, report):
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.outcomes[report.nodeid] = crash.message.split("\n")[0] if crash else f"error in {report.when}"
        elif report.skipped:
            self.outcomes[report.nodeid] = "skipped"
        elif report.when == "call":
            self.outcomes[report.nodeid] = "passed"

    def pytest_sessionfinish(self):
        if os.getpid() == self.process:    # not in a child that the submission forked
            with open(self.file, "w", encoding="utf-8", errors="replace") as file:
                json.dump({"secret": self.secret, "outcomes": self.outcomes}, file)


ORDER = json.loads(sys.stdin.readline())


def pytest_configure(config):
    limit(ORDER.pop("bytes"), ORDER.pop("seconds"))
    config.pluginmanager.register(Report(ORDER.pop("report"), ORDER.pop("secret")))
