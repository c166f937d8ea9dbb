"""The same trainings in one process or as one of several: `run_processes` starts these and keeps what they found."""

import os
import socket
from itertools import product
from pathlib import Path

import torch
from distillation_tester import STUDENTS, batches_of, gradients, rows, student, trainer
from image_tester import image_rows, image_trainer
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel
from transformers.utils import logging


PROCESSES = 2
STEPS = 2
# in batches of two for each process, the last one has one row: the first is repeated to fill up all of them
EVALUATED_ROWS = 5
SAMPLED = {"on_policy_fraction": 0.4, "teacher_samples_fraction": 0.3}
# batches of a step, and other arguments
KINDS = {
    "gold": (1, {}),
    "sampled and accumulated": (2, SAMPLED),
    "universal": (2, {**SAMPLED, "divergence": "universal"}),
}
# a student and a teacher that read images, of which some rows have none
IMAGES = "images"
CASES = [
    ("ours", "universal"),
    (IMAGES, "sampled and accumulated"),
    *product(STUDENTS, ("gold", "sampled and accumulated")),
]


def found(folder, family, kind, processes):
    """The gradients of a training, its losses and those of an evaluation; steps have four rows in any case.

    Args:
        folder: For outputs.
        family: Of the student.
        kind: One of `KINDS`.
        processes: Among how many the batches of a step are divided.
    """
    batches_of_step, options = KINDS[kind]
    tested = _trainer(
        folder,
        family,
        per_device_train_batch_size=4 // batches_of_step // processes,
        per_device_eval_batch_size=2,
        gradient_accumulation_steps=batches_of_step,
        logging_steps=1,
        learning_rate=0.0,
        # one process that is told a backend takes itself for one of several
        ddp_backend="gloo" if processes > 1 else None,
        **options,
    )
    kept = batches_of(tested)
    by_step = gradients(tested, steps=STEPS)
    logged = [
        {name: entry[name] for name in ("loss", "ce_loss", "kd_loss", "grad_norm")}
        for entry in tested.state.log_history
        if "loss" in entry
    ]
    evaluated = tested.evaluate()
    return {
        "gradients": by_step,
        "logged": logged,
        "evaluated": {name: evaluated[name] for name in ("eval_loss", "eval_ce_loss", "eval_kd_loss")},
        "labels": [int(inputs["labels"].ne(-100).sum()) for inputs in kept],
        "is_wrapped": isinstance(tested.model_wrapped, DistributedDataParallel),
        "teacher": type(tested.teacher.model).__name__,
    }


def _trainer(folder, family, **options):
    if family == IMAGES:
        return image_trainer(folder, eval_dataset=image_rows(EVALUATED_ROWS), **options)
    return trainer(folder, student(family), eval_dataset=rows(EVALUATED_ROWS, seed=1), **options)


def run_processes(folder, cases):
    """What two processes have found, each in a list, for some of `CASES`."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    # both are forked from a process that has imported all of it, once
    multiprocessing.get_context("forkserver").set_forkserver_preload(["encdec_slm.distillation"])
    multiprocessing.start_processes(_run, (str(folder), port, cases), nprocs=PROCESSES, start_method="forkserver")
    return [torch.load(_file(folder, rank)) for rank in range(PROCESSES)]


def _run(rank, folder, port, cases):
    os.environ |= {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(PROCESSES),
        "LOCAL_WORLD_SIZE": str(PROCESSES),
    }
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    results = {
        (family, kind): found(Path(folder) / f"{family} {kind}", family, kind, PROCESSES) for family, kind in cases
    }
    torch.save(results, _file(folder, rank))
    torch.distributed.destroy_process_group()


def _file(folder, rank):
    return Path(folder) / f"{rank}.pt"
