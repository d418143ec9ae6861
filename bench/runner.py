"""Runs one process to be measured: looks at the machine first, then reports time, memory and output as one JSON object.

    runner.py COMMAND...

A process of its own, so that `table.py --prefix` can put it behind taskset, nice or a lock without their time being counted.
"""

import json
import os
import subprocess
import sys
import time

# How long to look whether others use the machine.
LOOK_S = 0.3


def cpu_times():
    """Jiffies since boot, all cores: in all, idle, taken by other guests of the host. None where there is no /proc."""
    try:
        with open("/proc/stat") as stat:
            fields = [int(field) for field in stat.readline().split()[1:]]
    except OSError:
        return None
    user, nice, system, idle, iowait, irq, softirq, steal = fields[:8]
    return {"all": user + nice + system + idle + iowait + irq + softirq + steal, "idle": idle + iowait, "steal": steal}


def share(before, after, of):
    """Which part of the time between two looks `of` took."""
    if before is None or after is None or after["all"] == before["all"]:
        return None
    return (after[of] - before[of]) / (after["all"] - before["all"])


def main():
    command = sys.argv[1:]
    first = cpu_times()
    time.sleep(LOOK_S)
    second = cpu_times()
    idle = share(first, second, "idle")
    report = {"load1": os.getloadavg()[0], "busy": None if idle is None else 1 - idle}
    start = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        output = process.stdout.read(1)
        first_output_s = time.perf_counter() - start
        output += process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    result = {"before": report, "wall_s": wall_s, "first_output_s": first_output_s, "stolen": share(second, cpu_times(), "steal"), "output": output}
    # Kilobytes on Linux, bytes on macOS.
    result["resident_bytes"] = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps(result))
    return process.returncode


sys.exit(main())
