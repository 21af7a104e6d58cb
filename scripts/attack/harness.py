"""What a case works with: a new folder, the command run in it, and the bar that it is held to."""

import json
import os
import pathlib
import resource
import shutil
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PROGRAM = pathlib.Path(os.environ.get("METAL_MARLIN", ROOT / "build" / "release" / "bin" / "metal-marlin"))
MODELS = ROOT / "tests" / "data" / "models"
SECONDS = 10  # of the processor, since the machine may be busy; alone every case takes less than 5 seconds
WALL = 6 * SECONDS
MEMORY = 512 << 20  # beyond the size of the input
QUANTIZE = (
    "--method rtn --format native --group-size 8 -q --evaluate none --calibration builtin --samples 4 "
    "--sequence-length 32"
).split()

CASES = []


def case(function):
    CASES.append(function)
    return function


class Outcome:
    def __init__(self, code, out, err, seconds, peak):
        self.code, self.out, self.err, self.seconds, self.peak = code, out, err, seconds, peak


class Folder:
    """A new folder to work in; `bytes` is the size of what the case has put there."""

    def __init__(self, path):
        self.path = path

    def __truediv__(self, name):
        return self.path / name

    def model(self, name="llama", replace=False):
        if replace:
            shutil.rmtree(self / "m", ignore_errors=True)
        shutil.copytree(MODELS / name, self / "m")
        return self / "m"

    def edit(self, name, change):
        path = self / "m" / name
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    def template(self, text):
        self.model()
        self.edit("tokenizer_config.json", lambda c: c.update(chat_template=text))

    def quantized(self, name="q"):
        self.model()
        done = self.run("quantize", "m", "-o", name, *QUANTIZE)
        assert done.code == 0, done.err
        return self / name

    def size(self):
        return sum(p.stat().st_size for p in self.path.rglob("*") if p.is_file() and not p.is_symlink())

    def run(self, *arguments, stdin="", limit=None, beside=None):
        """`beside`: called in a thread of its own with the number of the process."""
        limit = MEMORY + self.size() if limit is None else limit
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            start = time.monotonic()
            child = subprocess.Popen(
                [str(PROGRAM), *map(str, arguments)], cwd=self.path, stdin=subprocess.PIPE, stdout=out, stderr=err
            )
            if beside is not None:
                watcher = threading.Thread(target=beside, args=(child.pid,))
                watcher.start()
            try:
                child.stdin.write(stdin.encode())
                child.stdin.close()
            except BrokenPipeError:
                pass
            peak = 0
            while True:
                done, status, usage = os.wait4(child.pid, os.WNOHANG)
                if done:
                    peak = max(peak, usage.ru_maxrss << 10)
                    break
                late = time.monotonic() - start > WALL or self.processor_seconds(child.pid) > SECONDS
                if late or self.resident(child.pid) > 2 * limit + (1 << 30):
                    child.kill()
                time.sleep(0.01)
            child.returncode = os.waitstatus_to_exitcode(status)
            if beside is not None:
                watcher.join()
            out.seek(0)
            err.seek(0)
            return Outcome(
                child.returncode,
                out.read().decode(errors="replace"),
                err.read().decode(errors="replace"),
                usage.ru_utime + usage.ru_stime if time.monotonic() - start < WALL else WALL,
                peak,
            )

    @staticmethod
    def processor_seconds(pid):
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, IndexError, ValueError):
            return 0

    @staticmethod
    def resident(pid):
        try:
            return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
        except (OSError, IndexError, ValueError):
            return 0

    def refused(self, names, *arguments, **options):
        """Exit code 1, a message that names each of `names`, within the limits."""
        outcome = self.run(*arguments, **options)
        assert outcome.code == 1, f"exit code {outcome.code}: {outcome.err[-300:]}"
        for name in [names] if isinstance(names, str) else names:
            assert name in outcome.err, f"the message does not name {name}: {outcome.err[-300:]}"
        self.within(outcome, **options)
        return outcome

    def within(self, outcome, limit=None, **_):
        limit = MEMORY + self.size() if limit is None else limit
        assert outcome.peak <= limit, f"peak memory {outcome.peak >> 20} MiB, limit {limit >> 20}"
        assert outcome.seconds <= SECONDS, f"{outcome.seconds:.1f} s"
