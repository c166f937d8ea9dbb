import pytest

from encdec_slm.benchmarks.loss_memory import main


def test_it_prints_both_peaks_and_their_ratio(capsys):
    sizes = {"--batch-size": 4, "--target-length": 64, "--vocab-size": 1024, "--hidden-size": 16, "--chunk-size": 32}
    main([str(part) for option in sizes.items() for part in option] + ["--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    chunked, naive, ratio = (float(line.split()[1].replace(",", "")) for line in lines[1:])
    assert ratio < 1 / 3
    assert chunked / naive == pytest.approx(ratio, abs=0.1)
    # the logits alone
    assert naive > 4 * 4 * 64 * 1024 / 2**20
