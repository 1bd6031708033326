"""What launching and following a local TrainJob costs: ``python -m benchmarks.trainjob``.

Measured on jobs that report as the trainer does, each against what the same work takes without client and messages:

first step   from the call of the client, SDK not yet loaded, to the first line that a torchrun process of the job runs
             after importing torch
overhead     of a job of two nodes that reports an epoch each second and prints a hundred lines: how much longer than
             its first node the call takes, SDK loaded; and the CPU time of client and supervisor, as shares of the
             node's life
messages     how many of those that a job sends as fast as it can arrive, and how many per second
adoption     from the call of the client in a new process, SDK not yet loaded, to the adopted job's first message
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

import psutil

_JOB = """
import json, os, pathlib, sys, time
from dagster_pipes import open_dagster_pipes
spec = json.loads(pathlib.Path(sys.argv[1]).read_text())
if spec["torch"]:
    import torch
now = time.time()
if os.environ["PET_NODE_RANK"] == "0" and os.environ.get("RANK", "0") == "0":
    with open_dagster_pipes() as pipes:
        pipes.report_custom_message({"first_step": now})
        for number in range(spec["messages"]):
            pipes.report_custom_message({"number": number, "sent": time.time()})
        for second in range(spec["seconds"]):
            time.sleep(1)
            pipes.report_custom_message({"type": "epoch", "epoch": second})
            print("\\n".join(["a line of the log"] * 100), flush=True)
        pipes.report_asset_materialization(metadata={"sent": spec["messages"]}, data_version="v1")
else:
    time.sleep(spec["seconds"])
"""
_ADOPTED_SECONDS = 120


def main() -> int:
    """Measure, print a table and, as the last line, a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="length of the job that overhead is measured on")
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--call", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.call:
        print(json.dumps(_call(json.loads(arguments.call))))
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-trainjob-") as folder:
        figures = {
            **_first_step(Path(folder)),
            **_overhead(Path(folder), arguments.seconds),
            **_messages(Path(folder), arguments.messages),
            **_adoption(Path(folder)),
        }
    for name, value in figures.items():
        print(f"{name:32}{value:12,.2f}")
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))
    return 0


def _first_step(folder: Path) -> dict[str, float]:
    told = _in_process(folder, "first", torch=True)
    return {"first_step_seconds": told["first_step"] - told["called"], "sdk_load_seconds": told["sdk_seconds"]}


def _overhead(folder: Path, seconds: int) -> dict[str, float]:
    told = _in_process(folder, "overhead", seconds=seconds, num_nodes=2)
    return {
        "overhead_percent": 100 * (told["call_seconds"] / told["node_seconds"] - 1),
        "overhead_cpu_percent": 100 * (told["client_cpu"] + told["supervisor_cpu"]) / told["node_seconds"],
        "overhead_job_seconds": told["node_seconds"],
    }


def _messages(folder: Path, messages: int) -> dict[str, float]:
    told = _in_process(folder, "messages", messages=messages)
    return {
        "messages_sent": messages,
        "messages_received": told["received"],
        "messages_per_second": told["received"] / told["seconds"],
        "message_delay_seconds": told["largest_delay"],
    }


def _adoption(folder: Path) -> dict[str, float]:
    first = _start(folder, "adopted", seconds=_ADOPTED_SECONDS, identity="adopted")
    while not list((folder / "adopted").glob("jobs/*/state.json")):
        time.sleep(0.05)
    time.sleep(2)
    first.kill()
    first.wait()
    told = _in_process(folder, "adopted", seconds=_ADOPTED_SECONDS, identity="adopted", leave_at_first_message=True)
    return {"adoption_seconds": told["first_message"] - told["called"]}


def _in_process(folder: Path, name: str, **wanted: Any) -> dict[str, Any]:
    process = _start(folder, name, **wanted)
    output, errors = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"{name} failed:\n{errors[-3000:]}")
    told: dict[str, Any] = json.loads(output.splitlines()[-1])
    return told


def _start(folder: Path, name: str, **wanted: Any) -> "subprocess.Popen[str]":
    place = folder / name
    place.mkdir(exist_ok=True)
    (place / "job.py").write_text(textwrap.dedent(_JOB))
    call = json.dumps({"folder": str(place), **wanted})
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.trainjob", "--call", call],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class _Enough(Exception):  # noqa: N818 - not an error
    """The first message of an adopted job has come."""


def _call(wanted: dict[str, Any]) -> dict[str, float]:
    import dagster as dg

    from forecast_assets.trainjob import LocalPlatform, PipesTrainJobClient

    folder = Path(wanted["folder"])
    platform = LocalPlatform(folder / "jobs")
    client = PipesTrainJobClient(platform, folder / "records", echo=lambda _: None)
    received: list[tuple[float, Any]] = []
    told: dict[str, float] = {}
    supervisors: dict[int, float] = {}

    def receive(message: Any) -> None:
        received.append((time.time(), message))
        if message.get("type") == "epoch":
            for process in psutil.process_iter(["cmdline"]):
                if "local_supervisor.py" in " ".join(process.info["cmdline"] or ()) and str(folder) in " ".join(
                    process.info["cmdline"] or ()
                ):
                    supervisors[process.pid] = sum(process.cpu_times()[:2])
        if wanted.get("leave_at_first_message"):
            raise _Enough

    @dg.asset
    def a_model(context: dg.AssetExecutionContext) -> Any:
        told["called"] = time.time()
        from kubeflow.trainer import CustomTrainerContainer

        told["sdk_seconds"] = time.time() - told["called"]
        started, started_cpu = time.time(), time.process_time()
        spec = {name: wanted.get(name, 0) for name in ("torch", "messages", "seconds")}
        launched = ["torchrun"] if wanted.get("torch") else ["python"]
        try:
            job = client.run(
                context=context,
                trainer=CustomTrainerContainer(image=""),
                command=launched,
                args=[str(folder / "job.py"), "{spec}"],
                spec=spec,
                num_nodes=wanted.get("num_nodes", 1),
                identity=wanted.get("identity"),
                on_message=receive,
            )
        finally:
            told["client_cpu"] = time.process_time() - started_cpu
            told["call_seconds"] = time.time() - started
        seen = platform.observe(job.name)
        ended_at = seen.nodes[0].ended_at
        assert ended_at is not None  # noqa: S101 - the job has ended
        told["node_seconds"] = (ended_at - seen.events[0].time).total_seconds()
        yield from job.get_results()

    os.environ["DAGSTER_HOME"] = ""
    dg.materialize([a_model], raise_on_error=not wanted.get("leave_at_first_message"))
    told["supervisor_cpu"] = sum(supervisors.values())
    told["first_message"], first = received[0]
    told["first_step"] = first["first_step"]
    numbered = [(at, message) for at, message in received if "number" in message]
    if numbered:
        if [message["number"] for _, message in numbered] != list(range(wanted["messages"])):
            raise SystemExit("messages were lost or came in another order")
        told["received"] = len(numbered)
        told["seconds"] = numbered[-1][0] - numbered[0][1]["sent"]
        told["largest_delay"] = max(at - message["sent"] for at, message in numbered)
    return told


if __name__ == "__main__":
    raise SystemExit(main())
