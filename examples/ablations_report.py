"""Writes the table of `ablations.py` into the README, between its markers `ablations`.

make results
python examples/ablations_report.py
"""

import json
from functools import partial
from pathlib import Path

from ablations import table
from readme_blocks import write_report


BLOCK = "ablations"


def report(results: Path) -> str:
    """The part of the README: a table for each size that was run.

    Raises:
        ValueError: If nothing was run yet.
    """
    parts = []
    for size in ("tiny", "small"):
        path = results / f"ablations_{size}.json"
        if not path.exists():
            continue
        records = json.loads(path.read_text(encoding="utf-8"))
        settings, machines = records[0]["settings"], sorted({record["machine"] for record in records})
        parts.append(
            f"`python examples/ablations.py --config examples/configs/ablations_{size}.yaml`: {settings['words']:,} "
            f"words, {settings['max_steps']:,} steps of {settings['per_device_train_batch_size']} words, "
            f"{settings['test_words']:,} words scored ({'; '.join(machines)}):"
        )
        parts += [table(records), f"![Phonemes wrong, by split](examples/results/ablations_{size}.png)"]
    if not parts:
        raise ValueError(f"there is no ablations_tiny.json in {results}: run `make results` first")
    return "\n\n".join(parts)


main = partial(write_report, BLOCK, report)


if __name__ == "__main__":
    main()
