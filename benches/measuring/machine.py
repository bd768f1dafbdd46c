"""This machine: which cores to use, what CPU time processes took, what a table has to say about it."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

TICKS_PER_SEC = os.sysconf("SC_CLK_TCK")


def two_cores() -> tuple[int, int]:
    """One for the servers and one for the load; not the two threads of one core, if that can be had."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("Two cores are needed: one for the server, one for the load generator.")
    siblings = cores_in(Path(f"/sys/devices/system/cpu/cpu{cores[0]}/topology/thread_siblings_list"))
    others = [core for core in cores[1:] if core not in siblings]
    return cores[0], (others or cores[1:])[0]


def cores_in(list_file: Path) -> set[int]:
    """What a list as "0,4-5" in a file of the kernel names."""
    found: set[int] = set()
    text = list_file.read_text().strip() if list_file.exists() else ""
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def cpu_ticks(pid: int) -> int:
    """CPU time of a process so far: all its threads, the children that it waited for, and those that run."""
    try:
        # The name, in parentheses, may have spaces. After it: state is the first, utime to cstime the 12th to 15th.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = [child for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]
    except FileNotFoundError:
        return 0
    return sum(int(field) for field in fields[11:15]) + sum(cpu_ticks(int(child)) for child in children)


def busy_ticks(core: int) -> int:
    """How long a core was not idle so far, for whomever, also for other machines on the same hardware."""
    user, nice, system, _idle, _waiting, irq, softirq, steal = core_ticks(core)
    return user + nice + system + irq + softirq + steal


def stolen_ticks(core: int) -> int:
    """How long a core had work so far, and the hardware was given to other machines."""
    return core_ticks(core)[7]


def core_ticks(core: int) -> list[int]:
    """The first eight of the kernel's counters of a core: user, nice, system, idle, iowait, irq, softirq, steal."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            return [int(field) for field in fields[:8]]
    return [0] * 8


def memory(pid: int) -> dict[str, int]:
    """Bytes of a process that are in memory: all of them, and those that no file stands for."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {"resident": 1024 * int(fields["VmRSS"].split()[0]), "anonymous": 1024 * int(fields["RssAnon"].split()[0])}


def described() -> str:
    """One line about the machine."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {model}, {memory:.0f} GiB, {platform.system()} {platform.release()}"


def first_line_of(*command: str) -> str:
    """What a program says about its version; empty if it is not there."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return (done.stdout + done.stderr).strip().partition("\n")[0]


def read_through(file: Path) -> None:
    """Reads a file to its end, so that the system has it in memory as far as that goes."""
    with file.open("rb", buffering=0) as opened:
        while opened.read(2**20):
            pass
