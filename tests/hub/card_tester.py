"""A model folder as others would publish it, and what the Hub reads of its card."""

import re

import yaml
from model_tester import ModelTester


REPO_ID = "user/a-model.v1"


def saved_model(parent, tokenizer):
    """Saves a model and its tokenizer in a folder that its repository is named after."""
    folder = parent / REPO_ID
    ModelTester().model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def front_matter(text):
    """What the Hub reads: the text between the first line and the next one of three dashes."""
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1])
