"""Everything that needs a GPU, in one command of at most eight minutes: tests, attacks, captions of a 7B model.

    python benchmarks/gpu.py --out benchmarks/gpu.json [--only tests,throughput,captioning] [--minutes 7.5]
        [--device cuda:0] [--commit NAME] [--dry-run]

Every part runs in a process of its own, and what goes wrong in one (an error, a crash, time that runs out) is in the
file and stops no other. The file is written after every row, so that a run that is killed keeps what it had. The exit
status is 1 where anything failed. `--dry-run` runs the same code on a CPU in a minute, with sizes of a few pixels; its
figures mean nothing. The peers are those of `_peers.py`, as far as they are installed. The file holds:

    environment            versions, card, driver, commit
    parts.NAME.rows        one object for each measurement; `took` are its seconds, warm-up included
    parts.NAME.error       what ended the part before its time

Rows of **tests** (the tests marked `gpu`): one of counts, with the end of the output, and one per test with its
outcome, seconds, message, and what it noted of itself.

Rows of **throughput**, on CLIPs of random weights with 100 classes, one text per class, no vocabulary:

    kind rate              TFLOP/s of a matrix product of 8,192 squared on this card, by type (float32 without TF32)
    kind model             work of a pass per image, in GFLOP: forward, and with the gradient of the pixels
    kind equal             whether two runs of APGD are equal bit for bit; if not, under which of torch's switches they
                           are (`where_runs_differ`), and what these cost
    kind host              the seconds in which the device had work in a run of APGD, and the share of its wall clock in
                           which it waited for the host (`host_share_percent`); the kernels that take longest, and
                           those of attention
    kind attack            an attack by `library`. `stands`: radius 1e-6 and a margin that it cannot change, so that
                           nothing falls and whole searches are measured; else 4/255 on classes at random, where images
                           fall at once. `growth` (ours): null for whole searches, 0.35 for those of `fast`.
                           `custom` is APGD-CE and APGD-T with nine targets.
        seconds, runs          wall clock, the median of so many runs
        ratio                  (peers) seconds / seconds of our whole search
        forwards, backwards    images that went through the model
        inside_percent         share of the time between the beginnings and the ends of passes, on the device's clock
        rate_in_passes_percent, rate_over_all_percent
                               work done in this time, or in all of it, as a share of the card's measured rate
        robust_accuracy, outside_the_ball, peak_gib
    kind passes            a forward pass with its gradient as it is run (eager), as a CUDA graph, and with compiled
                           blocks; `first_seconds` is what the first pass takes, compilation included

Rows of **captioning**, on a LLaVA of 7B random weights in bfloat16: `seconds_per_step` of APGD on the log-likelihood of
a caption, `peak_gib`, and `estimated_gib`, what `radapt models` says, by batch size and checkpointing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PARTS = {"tests": 3.5, "throughput": 5.0, "captioning": 1.5}
"""The parts, in order, and how the time is shared out among those that are left."""
GRACE = 10
PACKAGES = (
    *("torch", "transformers", "tokenizers", "numpy", "safetensors", "triton", "accelerate", "peft", "pydantic"),
    *("pytest", "pyautoattack", "torchattacks", "torchvision", "nvidia-cudnn-cu13", "nvidia-cublas"),
)
ROOT = Path(__file__).parents[1]
FOLDERS = re.compile(r"(?<![\w./])/(?:[\w.+\-\[\]]+/)+")
"""The folders of an absolute path, but not the slash of a fraction, of a model's name or of an address."""


class Report:
    """The file: written anew after every row."""

    def __init__(self, out: Path | None, environment: dict[str, Any]) -> None:
        self.out, self.content = out, {"environment": environment, "parts": dict[str, Any]()}
        self.write()

    def write(self) -> None:
        """Replace the file."""
        if self.out is None:
            return
        self.out.parent.mkdir(parents=True, exist_ok=True)
        partial = self.out.with_name(f"{self.out.name}.partial")
        partial.write_text(json.dumps(without_paths(self.content), indent=1) + "\n")
        partial.replace(self.out)


def without_paths(value: Any) -> Any:
    """What is to be kept, with files in its texts by their names alone: folders are those of the machine."""
    if isinstance(value, dict):
        return {name: without_paths(each) for name, each in value.items()}
    if isinstance(value, list):
        return [without_paths(each) for each in value]
    return FOLDERS.sub("", value) if isinstance(value, str) else value


def environment(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    sys.path.insert(0, str(ROOT / "src"))
    import radapt

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    fields = ("name", "driver_version", "memory.total", "clocks.max.sm", "power.limit", "compute_cap")
    card = _output("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader")
    commit = options.commit or _output("git", "-C", str(ROOT), "rev-parse", "HEAD") or "unknown"
    return {
        "card": dict(zip(fields, map(str.strip, card.splitlines()[0].split(",")), strict=False)) if card else None,
        "device": options.device,
        "dry_run": options.dry_run,
        "commit": commit + ("-dirty" if _output("git", "-C", str(ROOT), "status", "--porcelain", "-uno") else ""),
        "radapt": radapt.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "versions": versions,
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def run_part(name: str, limit: float, options: argparse.Namespace, report: Report, until: float) -> bool:
    """One part in a process of its own; whether all went well."""
    part: dict[str, Any] = {"limit_seconds": round(limit), "rows": []}
    report.content["parts"][name] = part
    words = [sys.executable, __file__, "--part", name, "--seconds", f"{limit:.1f}", "--device", options.device]
    words += ["--dry-run"] * options.dry_run
    start, late = time.monotonic(), threading.Event()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True, cwd=ROOT
        )

        def stop() -> None:
            late.set()
            os.killpg(process.pid, signal.SIGKILL)

        guard = threading.Timer(limit + GRACE, stop)
        guard.start()
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("{"):
                    part["rows"].append(json.loads(line))
                    report.write()
                    say(f"{name}: {short(part['rows'][-1])}", until)
            process.wait()
        finally:
            guard.cancel()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        errors.seek(0)
        text = errors.read()
    part["seconds"] = round(time.monotonic() - start, 1)
    broken = [row for row in part["rows"] if "error" in row or row.get("outcome") == "failed"]
    if late.is_set():
        part["error"] = f"stopped after {limit + GRACE:.0f} s"
    elif process.returncode not in (0, 1) or (process.returncode and not broken):
        part["error"] = f"ended with status {process.returncode}"
    if process.returncode:
        part["stderr"] = text[-4000:]
    report.write()
    say(
        f"{name}: {part['seconds']} s, {len(broken)} of {len(part['rows'])} rows failed, {part.get('error', '')}", until
    )
    return process.returncode == 0


def short(row: dict[str, Any]) -> str:
    """The row in one line."""
    long = ("traceback", "output", "longest", "attention", "text", "noted", "message", "where_runs_differ")
    return ", ".join(f"{key} {str(value)[:160]}" for key, value in row.items() if key not in long)


def say(text: str, until: float) -> None:
    """A line of progress with the time that is left."""
    print(f"[{max(0.0, until - time.monotonic()):4.0f} s left] {text}", flush=True)


def child(options: argparse.Namespace) -> int:
    """What the process of one part does."""
    sys.path.insert(0, str(ROOT / "src"))
    import torch
    from _gpu_measure import Bench

    torch.set_num_threads(1 if options.dry_run else min(8, os.cpu_count() or 1))
    device = torch.device(options.device)
    if device.type == "cuda" and options.part != "tests":
        torch.cuda.init()
    bench = Bench(device, options.dry_run, time.monotonic() + options.seconds)
    importlib.import_module(f"_gpu_{options.part}").run(bench)
    return int(bench.failed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--minutes", type=float, default=7.5)
    parser.add_argument("--device")
    parser.add_argument("--commit")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.device = options.device or ("cpu" if options.dry_run else "cuda:0")
    if options.part:
        return child(options)
    wanted = options.only.split(",")
    if unknown := [name for name in wanted if name not in PARTS]:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # which ends the process of the part, too
    until = time.monotonic() + 60 * options.minutes
    report, good = Report(options.out, environment(options)), True
    for name in wanted:
        rest = sum(PARTS[each] for each in wanted[wanted.index(name) :])
        limit = max(1.0, (until - time.monotonic() - GRACE) * PARTS[name] / rest)
        good &= run_part(name, limit, options, report, until)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
