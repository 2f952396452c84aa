"""Which children of a vLLM server are noticed when they end."""

from __future__ import annotations

import subprocess
import sys
import time

from verl_ext.run.watchdog import children


def test_only_processes_of_the_engine_count_and_each_once() -> None:
    living: dict[int, tuple[str, str]] = {1: ("VLLM::EngineCore", "sleeping"), 2: ("python resource_tracker", "idle")}
    watched = children.Children("VLLM::", lambda: dict(living))
    assert watched.gone() == {}
    living[3] = ("VLLM::Worker_TP0", "running")
    del living[2]
    assert watched.gone() == {}
    del living[1]
    living[3] = ("", "zombie")  # killed, and its parent has not looked yet
    assert watched.gone() == {1: "VLLM::EngineCore", 3: "VLLM::Worker_TP0"}
    assert watched.gone() == {}


def test_a_real_child_that_is_killed() -> None:
    program = "import setproctitle, time; setproctitle.setproctitle('VLLM::Worker'); print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    watched = children.Children("VLLM::", children.descendants)
    process.stdout.readline()
    assert watched.gone() == {}
    process.kill()
    time.sleep(0.3)
    gone = watched.gone()
    process.wait()
    process.stdout.close()
    assert list(gone) == [process.pid]
    assert gone[process.pid].startswith("VLLM::Worker")
