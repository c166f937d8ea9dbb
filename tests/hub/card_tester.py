"""A model folder as others would publish it, and what the Hub reads of its card."""

import re

import yaml
from model_tester import ModelTester
from vision_tester import WITH_IMAGE_TOKEN, VisionTester, processor_of, with_image_token


REPO_ID = "user/a-model.v1"


def saved_model(parent, tokenizer):
    """Saves a model and its tokenizer in a folder that its repository is named after."""
    folder = parent / REPO_ID
    ModelTester().model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def saved_vision_model(parent, tokenizer):
    """The same for a model that reads images, with its processor."""
    folder = parent / REPO_ID
    tester = VisionTester(**WITH_IMAGE_TOKEN)
    tester.model().save_pretrained(folder)
    processor_of(tester, with_image_token(tokenizer)).save_pretrained(folder)
    return folder


def front_matter(text):
    """What the Hub reads: the text between the first line and the next one of three dashes."""
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1])
