"""Which processes are told to reload: the other workers of this service, and no one else's."""

import subprocess
import sys

import psutil

from serving.processes import find_siblings

PARENT = """
import subprocess, sys
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
started = [subprocess.Popen([*sleep, *arguments.split()]) for arguments in sys.argv[1:]]
print(*[process.pid for process in started], flush=True)
sys.stdin.read()
for process in started:
    process.kill()
"""
WORKER = "--fd {} --service-name {} --worker-id {} --args {{}}"


def start_parent(*workers):
    command = [sys.executable, "-c", PARENT, *(WORKER.format(*worker) for worker in workers)]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return parent, [int(pid) for pid in parent.stdout.readline().split()]


def test_workers_of_other_services_and_of_other_servers_are_not_siblings():
    parent, (own, sibling, _) = start_parent((7, "dhvt", 1), (7, "dhvt", 2), (8, "other", 1))
    other, _ = start_parent((7, "dhvt", 1), (7, "dhvt", 2))
    try:
        assert [process.pid for process in find_siblings(psutil.Process(own))] == [sibling]
    finally:
        for process in (parent, other):
            process.communicate("", timeout=20)
