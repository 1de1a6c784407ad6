"""Where blocks can go: to Snakemake, to jobs of a Slurm that the test starts itself, to several GPUs.

The GPUs are counted but not there."""
import multiprocessing
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import papermill
import psutil
import pytest
import torch

from noisy_course.lab import batch as lab_batch
from noisy_course.lab.batch import profile_folder, run_blocks
from noisy_course.lab.job import execute_block, parameters
from noisy_course.lab.locks import lock, place
from noisy_course.lab.results import provenance, read_file
from test_experiments import Process, same_numbers, tiny, trained

fork = multiprocessing.get_context("fork")


# --- Snakemake, where its profile has no cluster ---

LONG = tiny(epochs=500)
STOPPED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from noisy_course.lab.batch import run_blocks
from test_cluster import LONG
run_blocks([LONG], sys.argv[1], profile=sys.argv[2])
"""

@contextmanager
def stopped(results, profile):
    "A long block is trained; afterwards Ctrl-C ends the batch, which leaves its folder free."
    command = [sys.executable, "-c", STOPPED, str(results), str(profile)]
    process = subprocess.Popen(command, cwd=Path(__file__).parent, stderr=subprocess.PIPE, text=True)
    try:
        yield
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert "the same command goes on from the last checkpoints" in process.communicate(timeout=600)[1]
        assert started and psutil.wait_procs(started, timeout=60)[1] == []
        for name in ("batch", LONG.name):
            with lock(results / "locks" / name, wait=False): pass
    finally: process.kill()

@pytest.fixture
def plain(tmp_path):
    "A profile that trains one block at a time on this machine."
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile/config.yaml").write_text("cores: 1\n")
    return tmp_path / "profile"

def test_snakemake_trains_the_same_block(tmp_path, plain):
    path, = run_blocks([tiny()], tmp_path / "results", profile=plain)
    same_numbers(read_file(path), trained(tiny()))
    assert "1 of 2 steps (50%) done" in (tmp_path / "results/snakemake.log").read_text()

def test_a_stopped_snakemake_stops_its_blocks(tmp_path, plain):
    note = tmp_path / "results/progress" / f"{LONG.name}.json"
    with stopped(tmp_path / "results", plain): wait_until(note.exists, "the block", 300)

def test_without_snakemake_a_profile_is_refused(tmp_path, plain, monkeypatch):
    monkeypatch.setattr(lab_batch, "find_spec", lambda name: None)
    why = "^profile: expected Snakemake: pip install 'noisy_course.slurm.', got none"
    with pytest.raises(ValueError, match=why): run_blocks([tiny()], tmp_path / "results", profile=plain)


# --- Slurm, on one node ---

SLURM = """
ClusterName=course
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=32000
PartitionName=all Nodes={host} Default=YES State=UP
"""

def free_ports(n):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(n)]
        return [one.getsockname()[1] for one in sockets]

def said(*command): return subprocess.run(command, capture_output=True, text=True).stdout

def happens(true, seconds=60):
    "Whether something becomes true in time; each look may take long."
    ends = time.monotonic() + seconds
    while not (now := true()) and time.monotonic() < ends: time.sleep(.1)
    return bool(now)

def wait_until(true, what, seconds=60): assert happens(true, seconds), f"waited in vain for {what}"

@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    "A cluster of one node, of Debian's daemons, with a configuration and a key of its own: its folder."
    absent = [name for name in ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue")
              if not shutil.which(name)]
    if absent: pytest.skip(f"no {', '.join(absent)}: install slurm-wlm and munge")
    if not find_spec("snakemake_executor_plugin_slurm"):
        pytest.skip("no snakemake-executor-plugin-slurm: install noisy_course[slurm]")
    folder, bin = tmp_path_factory.mktemp("slurm"), tmp_path_factory.mktemp("bin")
    (folder / "key").write_bytes(secrets.token_bytes(128))
    (folder / "key").chmod(0o600)
    (folder / "slurm.conf").write_text(SLURM.format(host=socket.gethostname().split(".")[0],
                                                    ports=free_ports(2), user=os.getuid(), folder=folder))
    # inside a job the plugin takes SLURM_CONF away, and srun would look in /etc
    (bin / "srun").write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
    (bin / "srun").chmod(0o755)
    munge = [f"--{name}-file={folder}/{name}" for name in ("key", "pid", "log", "seed")]
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("PATH", f"{bin}:{os.environ['PATH']}")
        for command in (["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge],
                        ["slurmctld", "-D"], ["slurmd", "-D"]):
            log = stack.enter_context(open(folder / f"{command[0]}.log", "w"))
            stack.callback(stop, subprocess.Popen(command, stdout=log, stderr=log))
            if command[0] == "munged": wait_until((folder / "munge.socket").exists, "munged")
        if not happens(lambda: said("sinfo", "--noheader", "--format=%T").strip() == "idle"):
            pytest.skip(f"Slurm's daemons do not find each other on this machine: {folder}/slurmctld.log")
        yield folder
        said("scancel", "--user", str(os.getuid()))
        wait_until(lambda: not said("squeue", "--noheader"), "an empty queue")

def stop(process):
    process.terminate()
    try: process.wait(20)
    except subprocess.TimeoutExpired: process.kill()

@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    "Ours, with no second try, which looks at its jobs more often and keeps what they say."
    folder = tmp_path_factory.mktemp("profile")
    ours = (profile_folder("slurm") / "config.yaml").read_text()
    assert "retries: 1\n" in ours
    more = "slurm-init-seconds-before-status-checks: 5\nslurm-keep-successful-logs: true\n"
    (folder / "config.yaml").write_text(ours.replace("retries: 1\n", "retries: 0\n") + more)
    return folder

GOOD = [tiny(samples=1000, epochs=1), tiny(samples=1000, epochs=1, noise="symmetric", rate=.2)]
BAD = tiny(samples=10**6)  # digits there are not

@pytest.fixture(scope="module")
def batch(slurm, profile, tmp_path_factory):
    "Two blocks and one that fails, as jobs: the results folder, and how the batch ended."
    results = tmp_path_factory.mktemp("results")
    with pytest.raises(SystemExit) as end: run_blocks([*GOOD, BAD], results, profile=profile)
    return results, str(end.value)

def test_jobs_give_the_numbers_of_this_machine(batch):
    for block in GOOD: same_numbers(read_file(batch[0] / f"{block.name}.parquet"), trained(block))

def test_each_block_was_one_job(batch):
    "Also the one that failed: neither Snakemake tries it again, nor the Snakemake inside of the job."
    jobs = [line.split("|")
            for line in said("squeue", "--states=all", "--noheader", "--format=%k|%T").splitlines()]
    states = {block.name: [state for comment, state in jobs if block.name in comment]
              for block in (*GOOD, BAD)}
    assert states == {**{block.name: ["COMPLETED"] for block in GOOD}, BAD.name: ["FAILED"]}
    for block in (*GOOD, BAD):
        log, = (batch[0] / ".snakemake" / "slurm_logs").glob(f"*/{block.name}/*.log")
        assert [log.read_text().splitlines().count(f"{where} block:")
                for where in ("rule", "localrule")] == [1, 1]

def test_a_job_asks_for_what_the_profile_says(batch):
    jobs = said("scontrol", "show", "job", "--oneliner").splitlines()
    assert len(jobs) == 3
    assert all(wanted in job for job in jobs for wanted in ("mem=8000M", "TimeLimit=12:00:00", "NumCPUs=1"))

def test_a_failed_job_is_named_in_one_line(batch):
    results, message = batch
    log = results / "logs" / f"{BAD.name}.log"
    assert message.startswith(f"1 of 3 blocks failed, first {BAD.name}; it said: ")
    assert message.endswith(f"\nAll of it is in {log}")
    assert f"logs/{BAD.name}.log" in (results / "snakemake.log").read_text()
    assert "ValueError: n: expected 1 to 60000 samples, got 1000000" in log.read_text()
    assert not (results / f"{BAD.name}.parquet").exists()

def test_a_cluster_runs_as_many_jobs_as_its_profile_says(batch):
    "And not as many as this machine has workers."
    log = (batch[0] / "snakemake.log").read_text()
    assert "--cores" not in log and "Provided remote nodes: 20\n" in log

def test_a_stopped_batch_takes_its_jobs_back(slurm, profile, tmp_path):
    "Snakemake is interrupted and cancels what it has submitted; nothing is left in the queue."
    running = lambda: said("squeue", "--noheader", "--format=%T").split()
    with stopped(tmp_path, profile): wait_until(lambda: running() == ["RUNNING"], "the job", 300)
    wait_until(lambda: not running(), "an empty queue")


# --- several GPUs of one machine ---

@pytest.fixture
def gpus(monkeypatch):
    "A machine that says it has so many GPUs, and a batch with so many workers."
    def have(n, workers):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n)
        monkeypatch.setenv("NOISY_COURSE_WORKERS", str(workers))
    return have

def take(stack, folder): return stack.enter_context(place("cuda", folder))

@pytest.mark.parametrize("device, n", [("cpu", 4), ("cuda:1", 4), ("cuda", 1), ("cuda", 0)])
def test_nothing_changes_without_a_choice(tmp_path, gpus, device, n):
    gpus(n, 2)
    with place(device, tmp_path) as one, place(device, tmp_path) as two, place(device, tmp_path) as three:
        assert one == two == three == device
    assert not list(tmp_path.iterdir())

def test_the_least_loaded_gpu_is_taken(tmp_path, gpus):
    gpus(3, 9)
    blocks = [ExitStack() for _ in range(9)]
    assert [take(block, tmp_path) for block in blocks] == 3 * ["cuda:0", "cuda:1", "cuda:2"]
    for ended in (1, 4, 3, 0, 5): blocks[ended].close()
    with ExitStack() as more:
        assert [take(more, tmp_path) for _ in range(5)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:2"]
    for block in blocks: block.close()

@pytest.mark.parametrize("workers", [1, 2])
def test_few_workers_leave_each_block_a_gpu_of_its_own(tmp_path, gpus, workers):
    gpus(2, workers)
    with place("cuda", tmp_path) as one, place("cuda", tmp_path) as two:
        assert {one, two} == {"cuda:0", "cuda:1"}

def block_on_a_gpu(folder, log, end):
    with place("cuda", folder) as device:
        log.put((device, 1))
        end.wait()
        log.put((device, -1))

@pytest.fixture
def start(tmp_path):
    "Start so many blocks in processes of their own; what they say, and the event that they wait for."
    processes, log, end = [], fork.SimpleQueue(), fork.Event()
    def start(n):
        processes.extend(fork.Process(target=block_on_a_gpu, args=(tmp_path, log, end)) for _ in range(n))
        for process in processes: process.start()
        return processes, log, end
    yield start
    for process in processes: process.kill()
    for process in processes: process.join()

def test_no_gpu_has_more_than_its_share(tmp_path, gpus, start):
    "Twelve blocks at once, five workers, two GPUs: three places each, which are all used; never a fourth."
    gpus(2, 5)
    _, log, end = start(12)
    said = [log.get() for _ in range(6)]
    assert sorted(said) == 3 * [("cuda:0", 1)] + 3 * [("cuda:1", 1)]
    time.sleep(2)
    assert log.empty()
    end.set()
    load = pd.DataFrame(said + [log.get() for _ in range(18)], columns=["gpu", "change"])
    assert (load.groupby("gpu").change.apply(lambda change: change.cumsum().max()) == 3).all()

def test_a_killed_block_gives_its_place_back(tmp_path, gpus, start):
    gpus(2, 2)
    processes, log, _ = start(2)
    assert sorted(log.get()[0] for _ in processes) == ["cuda:0", "cuda:1"]
    os.kill(processes[0].pid, signal.SIGKILL)
    with place("cuda", tmp_path) as freed, ExitStack() as stack:
        os.kill(processes[1].pid, signal.SIGKILL)
        assert {freed, take(stack, tmp_path)} == {"cuda:0", "cuda:1"}

def test_an_error_gives_the_place_back(tmp_path, gpus):
    gpus(2, 2)
    for _ in range(3):
        with pytest.raises(KeyError), place("cuda", tmp_path) as device: raise KeyError
        assert device == "cuda:0"

def test_the_notebook_knows_its_gpu(tmp_path, gpus, monkeypatch):
    "The device is a setting: the same block, the same file. While a block trains, another gets another GPU."
    notebooks = []
    def notebook(source, executed, given, **_):
        notebooks.append(given)
        if len(notebooks) == 1: execute_block(tiny(rate=.2), tmp_path, "cuda")
    monkeypatch.setattr(papermill, "execute_notebook", notebook)
    gpus(2, 2)
    assert execute_block(tiny(), tmp_path, "cuda") == tmp_path / f"{tiny().name}.parquet"
    one, two = parameters(tiny(), "cuda:0", tmp_path), parameters(tiny(rate=.2), "cuda:1", tmp_path)
    assert notebooks == [one, two] and one["block_name"] == tiny().name

def test_provenance_names_the_model_of_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", {"cuda:0": "NVIDIA A", "cuda:1": "NVIDIA B"}.get)
    found = [(p["device"], p["machine"]) for p in map(provenance, ("cuda:0", "cuda:1"))]
    assert found == [("cuda:0", "NVIDIA A"), ("cuda:1", "NVIDIA B")]

def test_blocks_hear_of_the_workers_and_the_data(tmp_path, monkeypatch):
    "A block starts in the results folder, where no settings.ini and no relative folder is found."
    processes = []
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: processes.append(Process()) or processes[0])
    (tmp_path / "some" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOISY_COURSE_DATA", "some/data")
    monkeypatch.delenv("NOISY_COURSE_WORKERS", raising=False)
    with pytest.raises(SystemExit): run_blocks([tiny()], tmp_path, workers=7)
    heard = processes[0].environment
    assert heard["NOISY_COURSE_WORKERS"] == "7"
    assert heard["NOISY_COURSE_DATA"] == str(Path.cwd() / "some" / "data")
    assert os.environ["NOISY_COURSE_DATA"] == "some/data" and "NOISY_COURSE_WORKERS" not in os.environ
