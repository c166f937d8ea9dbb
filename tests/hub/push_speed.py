"""How fast `push` is beside `upload_folder` of the client: `python tests/hub/push_speed.py`, a script and no test.

Both send the same folder to fresh Hubs on 127.0.0.1, in turns; a speed over 1 means that `push` is faster. Then the
check of the tiny model, in seconds on the clock and of the processors, which other work on the machine disturbs less.
"""

import argparse
import os
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from huggingface_hub import HfApi
from huggingface_hub.utils import disable_progress_bars
from local_hub import LocalHub
from safetensors.torch import save_file

from encdec_slm import EncDecSLMConfig, EncDecSLMForConditionalGeneration
from encdec_slm.hub import push
from encdec_slm.hub.clean_process import check_in_clean_process


REPO = "tester/model"


def save_large(folder: Path, megabytes: int) -> Path:
    """Saves a model folder whose weights have this size; nobody reads them."""
    EncDecSLMForConditionalGeneration(EncDecSLMConfig.from_preset("tiny")).save_pretrained(folder)
    weights = torch.randint(256, (megabytes * 1_000_000,), dtype=torch.uint8)
    save_file({"weights": weights}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def upload(folder: Path) -> None:
    """Sends a folder as the client does."""
    HfApi().create_repo(REPO)
    HfApi().upload_folder(repo_id=REPO, folder_path=folder)


def seconds_of(send, folder: Path, *, use_xet: bool) -> float:
    """Returns how long it takes to send a folder to a new Hub."""
    with TemporaryDirectory() as home, LocalHub(use_xet=use_xet) as hub, hub.connected(home):
        start = time.perf_counter()
        send(folder)
        seconds = time.perf_counter() - start
        same = (folder / "model.safetensors").read_bytes() == hub.files(REPO)["model.safetensors"]
    if not same:
        raise SystemExit("what arrived is not what was sent")
    return seconds


def processor_seconds() -> float:
    """Returns what this process and those that it has waited for have taken."""
    return sum(os.times()[:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size-mb", type=int, default=664, help="of the weights (default: those of 330M in bfloat16)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--use-xet", action="store_true", help="as the client does on the real Hub, not by Git LFS")
    arguments = parser.parse_args()
    disable_progress_bars()
    senders = {"upload_folder": upload, "push": lambda folder: push(folder, REPO, check=False)}
    seconds: dict[str, list[float]] = {name: [] for name in senders}
    with TemporaryDirectory() as room:
        folder = save_large(Path(room, "large"), arguments.size_mb)
        for _ in range(arguments.rounds):
            for name, send in senders.items():
                seconds[name].append(seconds_of(send, folder, use_xet=arguments.use_xet))
        for name, all_seconds in seconds.items():
            print(f"{name:<14} {median(all_seconds):6.2f} s  ({', '.join(f'{s:.2f}' for s in all_seconds)})")
        ratios = [there / here for there, here in zip(seconds["upload_folder"], seconds["push"], strict=True)]
        print(f"speed of push: {median(ratios):.2f} x upload_folder  ({', '.join(f'{r:.2f}' for r in ratios)})")
        tiny = Path(room, "tiny")
        EncDecSLMForConditionalGeneration(EncDecSLMConfig.from_preset("tiny")).save_pretrained(tiny)
        start, processor = time.perf_counter(), processor_seconds()
        check_in_clean_process(tiny, source=tiny)
        clock, processor = time.perf_counter() - start, processor_seconds() - processor
        print(f"check of the tiny model: {clock:.1f} s, of the processors {processor:.1f} s")


if __name__ == "__main__":
    main()
