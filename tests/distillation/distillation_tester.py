"""Tiny students, a tiny teacher, rows and a trainer of them, for the laws of the trainer."""

import copy
from string import ascii_lowercase

import torch
import torch.nn.functional as F
from datasets import Dataset
from model_tester import ModelTester
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    T5GemmaConfig,
    T5GemmaForConditionalGeneration,
    T5GemmaModuleConfig,
    set_seed,
)

from encdec_slm.distillation import DistillationArguments, DistillationTrainer
from encdec_slm.distillation.cache_writer import write_teacher_cache


WORDS = ["<pad>", "<s>", "</s>", "<unk>", *ascii_lowercase, *(f"w{i}" for i in range(30, 60))]
VOCAB_SIZE = len(WORDS)
PAD, BOS, EOS = 0, 1, 2
# `ours` is the one whose config has no dropout
STUDENTS = ("t5", "bart", "ours")


def word_tokenizer(words=tuple(WORDS), end="</s>", **roles):
    """A tokenizer of words that ends a text; ids are the places of the words."""
    words = list(words)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if end is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {end}", special_tokens=[(end, words.index(end))]
        )
    roles = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **roles}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def student(family, *, dropout=0.0, vocab_size=VOCAB_SIZE):
    """A random encoder-decoder whose answers vary with what it reads."""
    set_seed(0)
    if family == "t5":
        config = T5Config(
            vocab_size=vocab_size, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, eos_token_id=EOS,
            dropout_rate=dropout, decoder_start_token_id=PAD,
        )  # fmt: skip
        return T5ForConditionalGeneration(config)
    if family == "bart":
        config = BartConfig(
            vocab_size=vocab_size, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64,
            pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, decoder_start_token_id=EOS, dropout=dropout,
            init_std=0.3,
        )  # fmt: skip
        return BartForConditionalGeneration(config)
    if family == "t5gemma":
        module = T5GemmaModuleConfig(
            vocab_size=vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
            dropout_rate=dropout, query_pre_attn_scalar=8,
        )  # fmt: skip
        config = T5GemmaConfig(
            encoder=module, decoder=copy.deepcopy(module), vocab_size=vocab_size, dropout_rate=dropout
        )
        return T5GemmaForConditionalGeneration(config)
    tester = ModelTester(both={"vocab_size": vocab_size, "dropout": dropout, "attention_dropout": dropout})
    return tester.model(
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, decoder_start_token_id=BOS, initializer_range=0.1
    )


def teacher(vocab_size=VOCAB_SIZE, seed=1, hidden_size=32):
    """A random decoder-only model, sure enough of itself to be worth listening to."""
    set_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=hidden_size, intermediate_size=2 * hidden_size, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3,
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def rows(number=8, seed=0):
    """Rows of unequal lengths, of words that are tokens."""
    generator = torch.Generator().manual_seed(seed)

    def text(longest):
        length = int(torch.randint(2, longest, (1,), generator=generator))
        return " ".join(WORDS[i] for i in torch.randint(4, VOCAB_SIZE, (length,), generator=generator).tolist())

    return Dataset.from_dict({"source": [text(9) for _ in range(number)], "target": [text(7) for _ in range(number)]})


def arguments(folder, **options):
    """Arguments of a training on the CPU that says nothing."""
    quiet = {
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "dataloader_pin_memory": False,
        "max_target_length": 12,
        "lr_scheduler_type": "constant",
        "learning_rate": 1e-2,
        "max_grad_norm": 0.0,
        "max_steps": 1,
    }
    return DistillationArguments(output_dir=str(folder), **{**quiet, **options})


def trainer(
    folder,
    model=None,
    *,
    teacher_model=None,
    tokenizer=None,
    teacher_tokenizer=None,
    data=None,
    alone=False,
    **options,
):
    """A trainer; options are those of the arguments, but for those that `DistillationTrainer` takes itself.

    Args:
        alone: Whether there is no teacher.
    """
    others = {
        name: options.pop(name)
        for name in ("eval_dataset", "compute_metrics", "peft_config", "callbacks")
        if name in options
    }
    if teacher_model is None and not alone and options.get("alpha") != 0 and "teacher_cache" not in options:
        teacher_model = teacher()
    if teacher_tokenizer is None and not alone:
        teacher_tokenizer = word_tokenizer(end=None)
    return DistillationTrainer(
        model=student("ours") if model is None else model,
        teacher=teacher_model,
        args=arguments(folder, **options),
        train_dataset=rows() if data is None else data,
        processing_class=word_tokenizer() if tokenizer is None else tokenizer,
        teacher_processing_class=teacher_tokenizer,
        **others,
    )


def gradients(trainer, steps=1):
    """The gradients of the first steps, each in a row, by training; a learning rate of 0 leaves the weights alone."""
    found = []

    def keep(optimizer, *_):
        found.append(torch.cat([p.grad.flatten().double() for p in trainer.model.parameters() if p.grad is not None]))

    trainer.args.max_steps = steps
    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(keep)
    trainer.train()
    return torch.stack(found)


def difference(first, second):
    """How far gradients are from others, relative to these: that of the step where it is largest."""
    return float(((first - second).norm(dim=-1) / second.norm(dim=-1)).max())


def batches_of(trainer):
    """The batches of a training, with what was sampled for them; filled when it is run."""
    kept, original = [], trainer.training_step

    def step(model, inputs, num_items=None):
        kept.append(inputs)
        return original(model, inputs, num_items)

    trainer.training_step = step
    return kept


def batch(trainer, places=None):
    """Rows of the training dataset, collated."""
    dataset = trainer.train_dataset
    return trainer.data_collator([dataset[i] for i in (range(len(dataset)) if places is None else places)])


@torch.no_grad()
def parts(trainer, inputs):
    """The loss of a batch and its parts."""
    return trainer._parts(trainer.model.eval(), inputs)


@torch.no_grad()
def logits_alone(trainer, row, shift=0):
    """The logits of student and teacher for a row's labels: no padding, one call of each model, and plain slices.

    Args:
        trainer: Has the models.
        row: Encoded.
        shift: By how many positions the teacher is asked too late.
    """
    learner, model = trainer.model.eval(), trainer.teacher.model
    prompt, labels = row["teacher_prompt_ids"], row["labels"]
    read = [learner.generation_config.decoder_start_token_id, *labels[:-1]]
    own = learner(input_ids=torch.tensor([row["input_ids"]]), decoder_input_ids=torch.tensor([read])).logits[0]
    theirs = row.get("teacher_labels", labels)
    said = model(input_ids=torch.tensor([[*prompt, *theirs]])).logits[0]
    first = len(prompt) - 1 + shift
    return own.double(), said[first : first + len(theirs)].double()


def by_hand(trainer, shift=0, temperature=1.0):
    """The cross-entropy and the forward KL of each label, of all rows alone, in float64."""
    cross_entropies, divergences = [], []
    for row in trainer.train_dataset:
        own, said = logits_alone(trainer, row, shift)
        cross_entropies.append(F.cross_entropy(own, torch.tensor(row["labels"]), reduction="none"))
        p, q = (logits.div(temperature).log_softmax(dim=-1) for logits in (said, own))
        divergences.append((p.exp() * (p - q)).sum(dim=-1))
    return torch.cat(cross_entropies), torch.cat(divergences)


def cached(folder, trainer, top_k=8, **options):
    """Writes what the trainer's teacher says about its dataset to a folder, and returns the folder."""
    write_teacher_cache(
        folder,
        trainer.teacher,
        trainer.train_dataset,
        collator=trainer.data_collator,
        student_tokenizer=trainer.processing_class,
        top_k=top_k,
        shared_ids=VOCAB_SIZE,
        **options,
    )
    return str(folder)
