"""How much memory the loss of a distillation takes: computed a few positions at a time, and all at once.

    python -m encdec_slm.benchmarks.loss_memory --batch-size 8 --target-length 256 --vocab-size 32000

Counted are the bytes that are allocated while loss and gradient are computed, at their peak (`memory.py`).
"""

import argparse
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from encdec_slm.benchmarks.memory import peak_bytes
from encdec_slm.distillation import LazyLogits, Objective, distillation_loss


def naive_loss(student: LazyLogits, teacher: LazyLogits, labels: torch.Tensor, *, alpha: float) -> torch.Tensor:
    """Returns the same loss as a textbook writes it: all logits of both, in float32."""
    logits = student.logits()
    with torch.no_grad():
        expected = teacher.logits().log_softmax(dim=-1)
    divergence = F.kl_div(logits.log_softmax(dim=-1), expected, reduction="none", log_target=True).sum(dim=-1).mean()
    return alpha * divergence + (1 - alpha) * F.cross_entropy(logits.flatten(end_dim=1), labels.flatten())


def compare(
    *, batch_size: int, target_length: int, vocab_size: int, hidden_size: int, chunk_size: int, device: torch.device
) -> dict[str, int]:
    """Returns the peak of both ways in bytes, `chunked` and `naive`, after checking that they agree.

    Raises:
        ValueError: If the losses differ.
    """
    torch.manual_seed(0)

    def lazy(*, trained: bool) -> LazyLogits:
        states = torch.randn(batch_size, target_length, hidden_size, device=device, requires_grad=trained)
        weight = 0.05 * torch.randn(vocab_size, hidden_size, device=device)
        return LazyLogits(states, weight.requires_grad_(trained))

    student, teacher = lazy(trained=True), lazy(trained=False)
    labels = torch.randint(vocab_size, (batch_size, target_length), device=device)
    losses, peaks = {}, {}

    def chunked() -> None:
        loss = distillation_loss(student, teacher, labels, objective=Objective(alpha=0.5), chunk_size=chunk_size).loss
        loss.backward()
        losses["chunked"] = loss.item()

    def naive() -> None:
        loss = naive_loss(student, teacher, labels, alpha=0.5)
        loss.backward()
        losses["naive"] = loss.item()

    for name, run in (("chunked", chunked), ("naive", naive)):
        student.hidden_states.grad = student.weight.grad = None
        peaks[name] = peak_bytes(run, device)
    if abs(losses["chunked"] - losses["naive"]) > 1e-4 * abs(losses["naive"]):
        raise ValueError(f"the losses differ, {losses['chunked']} and {losses['naive']}: one of them is wrong")
    return peaks


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints.

    Args:
        argv: Command line arguments; those of the process by default.
    """
    parser = argparse.ArgumentParser(prog="python -m encdec_slm.benchmarks.loss_memory", description=__doc__)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--target-length", type=int, default=256)
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--hidden-size", type=int, default=1024)
    parser.add_argument("--chunk-size", type=int, default=256, help="positions whose logits exist at a time")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(argv)
    peaks = compare(**{**vars(options), "device": torch.device(options.device)})
    sizes = f"batch {options.batch_size}, {options.target_length} target tokens, vocabulary {options.vocab_size:,}"
    print(f"Peak memory of loss and gradient, {sizes}, hidden size {options.hidden_size:,}, float32, {options.device}")
    for name, peak in peaks.items():
        print(f"{name:<10}{peak / 2**20:>10,.0f} MiB")
    print(f"ratio     {peaks['chunked'] / peaks['naive']:>10.2f}")


if __name__ == "__main__":
    main()
