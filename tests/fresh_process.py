"""New Python processes in which only PyTorch is imported already, which takes most of the time that Transformers does.

One process imports it and forks for each program. What reads its environment when it is imported (Transformers, the
client of the Hub) and this package are imported anew, by the program and with its environment.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory


# PyTorch, and what else the import of Transformers costs that has nothing to do with the Hub
SERVER = """
import importlib, json, os, runpy, sys

for name in ("torch._dynamo", "torch._inductor.compile_fx", "torchvision.transforms.v2", "scipy.optimize"):
    importlib.import_module(name)
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if not child:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    raise SystemExit
os.chdir(asked["cwd"])
os.environ.clear()
os.environ.update(asked["env"])
for descriptor, (path, mode) in enumerate(asked["files"]):
    os.dup2(os.open(path, mode), descriptor)
program, *sys.argv[1:] = asked["program"]
if program == "-c":
    sys.argv[:2] = ["-c"]
    exec(compile(asked["program"][1], "<string>", "exec"), {"__name__": "__main__"})
else:
    sys.argv[0] = program
    runpy.run_path(program, run_name="__main__")
"""


@functools.cache
def _server():
    # it ends with this process, when its input does
    return subprocess.Popen(
        [sys.executable, "-P", "-c", SERVER],
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run_python(*program, cwd, env=None):
    """Does `subprocess.run([sys.executable, "-P", *program], cwd=cwd, env=env)`, and returns all that it printed.

    Args:
        program: `-c` and a script, or the path of one; then its arguments.
        cwd: The folder in which it runs.
        env: Its environment; if not given, offline and with an empty cache in `cwd`. That of PyTorch is always of one
            thread.

    Returns:
        The `subprocess.CompletedProcess`.
    """
    if env is None:
        env = {"HF_HOME": str(Path(cwd) / "home"), "HF_HUB_OFFLINE": "1", "PATH": os.environ["PATH"]}
    program = [str(argument) for argument in program]
    with TemporaryDirectory() as folder:
        printed = [Path(folder) / name for name in ("stdout", "stderr")]
        files = [(os.devnull, os.O_RDONLY), *((str(path), os.O_WRONLY | os.O_CREAT) for path in printed)]
        asked = {"program": program, "cwd": str(cwd), "env": env, "files": files}
        server = _server()
        print(json.dumps(asked), file=server.stdin, flush=True)
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(
            program, code, *(path.read_text(encoding="utf-8", errors="replace") for path in printed)
        )
