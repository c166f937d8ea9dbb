"""A look at a data set: what it is, its licence, the size of its splits and five of its rows.

The scripts of this folder import it by its bare name: Python puts the folder of the script it runs on the path.
"""

import random
from textwrap import fill, shorten

from datasets import DatasetBuilder


WIDTH = 119


def preview(builder: DatasetBuilder, rows: int = 5) -> None:
    """Build the data set, unless it is in the cache already, and print what there is to know before using it.

    Args:
        builder: A builder whose data set has a `train` split.
        rows: How many rows of the `train` split to print; always the same ones.
    """
    builder.download_and_prepare()
    splits = builder.as_dataset()
    print(fill(builder.info.description, WIDTH))
    print(fill(f"licence: {builder.info.license}", WIDTH))
    for name, split in splits.items():
        print(f"{name:<12}{len(split):>9,} rows")
    train = splits["train"]
    for index in random.Random(0).sample(range(len(train)), min(rows, len(train))):
        print()
        for column, value in train[index].items():
            text = " | ".join(value) if isinstance(value, list) else str(value)
            print(f"{column + ':':<16}{shorten(text, WIDTH - 16, placeholder=' ...')}")
