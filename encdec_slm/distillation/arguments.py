"""What a distillation is told besides the arguments of `Seq2SeqTrainer`."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

from transformers import Seq2SeqTrainingArguments

from encdec_slm.distillation.chunked_divergence import Objective
from encdec_slm.distillation.divergences import Divergence, DivergenceName
from encdec_slm.distillation.policies import Sampling
from encdec_slm.parameter_groups import parse_rates


UNIVERSAL = "universal"


@dataclass
class DistillationArguments(Seq2SeqTrainingArguments):
    """Arguments of `DistillationTrainer`, beside all those of `Seq2SeqTrainingArguments`.

    The loss is alpha T² D(teacher, student) + (1 - alpha) CE(labels). `label_smoothing_factor` applies to CE.

    Differs from its parent in one default: `remove_unused_columns` is False, since the model's `forward` takes none of
    the columns that the teacher reads.

    Raises:
        ValueError: If arguments do not fit together.
    """

    # a dictionary, or JSON on the command line
    _VALID_DICT_FIELDS: ClassVar[list[str]] = [  # type: ignore[misc]
        *Seq2SeqTrainingArguments._VALID_DICT_FIELDS,
        "model_init_kwargs",
        "teacher_model_init_kwargs",
        "teacher_adapters",
    ]

    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must be False: the teacher's columns are not the model's."}
    )

    # the loss
    alpha: float = field(default=0.5, metadata={"help": "Weight of the divergence; the rest is cross-entropy."})
    divergence: str = field(
        default="forward_kl",
        metadata={
            "help": "How far the student is from the teacher; `universal` compares different tokenizers.",
            "choices": [*get_args(DivergenceName), UNIVERSAL],
        },
    )
    temperature: float = field(default=1.0, metadata={"help": "Of both distributions in the divergence."})
    beta: float = field(default=0.5, metadata={"help": "Weight of the teacher in `jsd`."})
    skew: float = field(default=0.1, metadata={"help": "Share of the mixture in the skewed divergences."})
    top_k: int | None = field(
        default=None,
        metadata={"help": "Tell apart only the teacher's most likely tokens, and take all others as one."},
    )
    chunk_size: int = field(default=256, metadata={"help": "Positions whose logits exist at a time."})
    reproduce_original: bool = field(
        default=False,
        metadata={
            "help": "Compute the divergence as the published training code did: vocabularies cut before the softmax, "
            "padding counted, no temperature. For comparison with its numbers; not recommended."
        },
    )

    # whose answers are learned from
    on_policy_fraction: float = field(
        default=0.0,
        metadata={"help": "Share of rows whose divergence is taken on an answer that the student samples."},
    )
    teacher_samples_fraction: float = field(
        default=0.0,
        metadata={"help": "Share of rows whose target is replaced by an answer that the teacher samples."},
    )
    sampling_temperature: float = field(default=1.0, metadata={"help": "Of sampled answers."})
    sampling_top_k: int = field(default=0, metadata={"help": "Sample among so many tokens; 0 for all."})
    sampling_top_p: float = field(default=1.0, metadata={"help": "Sample among the likeliest of this much mass."})

    # rows of text
    max_source_length: int = field(default=1024, metadata={"help": "Most tokens of a source, by the student."})
    max_target_length: int = field(default=256, metadata={"help": "Most tokens of a target or a sample."})
    source_truncation: str = field(
        default="end",
        metadata={"help": "What is cut off a source that is too long.", "choices": ["end", "start", "middle"]},
    )
    source_template: str | None = field(
        default=None, metadata={"help": "What the student reads: a text with {source} in it, which is never cut."}
    )
    teacher_template: str | None = field(
        default=None,
        metadata={
            "help": "What the teacher reads, unless rows have `teacher_prompt` or `messages`: a text with {source} in "
            "it. By default the teacher's chat template, or, if it has none, the source and a line break."
        },
    )
    pad_to_multiple_of: int | None = field(default=None, metadata={"help": "8 suits tensor cores."})

    # what learns, and how fast
    freeze: list[str] | None = field(
        default=None, metadata={"help": "Regular expressions for names of the student's parameters that do not learn."}
    )
    learning_rate_multipliers: list[str] | None = field(
        default=None,
        metadata={"help": "REGEX=FACTOR, such as encoder_attn=10; of several that match the first counts."},
    )

    # models
    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Arguments of `from_pretrained` for a student that is given by name."}
    )
    teacher_model_init_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "The same for a teacher that is given by name: dtype, quantization_config, revision, ..."},
    )
    teacher_adapters: dict[str, str] | str | None = field(
        default=None,
        metadata={"help": "LoRA adapter of the teacher, or several by name; a row's column `teacher` names one."},
    )
    merge_teacher_adapter: bool = field(default=False, metadata={"help": "Merge the adapter into the teacher."})
    teacher_cache: str | None = field(
        default=None, metadata={"help": "Folder that `encdec-slm teacher-cache` wrote, in place of a teacher."}
    )
    check_teacher: bool = field(
        default=True, metadata={"help": "Refuse a teacher whose logits change when its prompt is padded."}
    )

    # what is told about the training
    log_samples: int = field(
        default=0, metadata={"help": "Number of answers that are added to samples.jsonl whenever losses are logged."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns must be False: it would take the teacher's columns away")
        for name in ("on_policy_fraction", "teacher_samples_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but a share of the rows is between 0 and 1")
        if self.on_policy_fraction + self.teacher_samples_fraction > 1:
            raise ValueError(
                f"on_policy_fraction is {self.on_policy_fraction} and teacher_samples_fraction "
                f"{self.teacher_samples_fraction}, but a row is answered by one of them: together they are at most 1"
            )
        self._check_cache()
        self._check_universal()
        self._check_original()
        # these say for themselves what is wrong
        parse_rates(self.learning_rate_multipliers or [])
        self.objective()
        self.sampling()

    @property
    def is_universal(self) -> bool:
        """Whether teacher and student have different tokenizers."""
        return self.divergence == UNIVERSAL

    @property
    def has_samples(self) -> bool:
        """Whether rows are answered during the training."""
        return self.on_policy_fraction > 0 or self.teacher_samples_fraction > 0

    def objective(self) -> Objective:
        """Returns what is minimised; without a divergence if that is the universal one."""
        if self.is_universal:
            return Objective(alpha=0.0, label_smoothing=self.label_smoothing_factor)
        divergence = Divergence(
            name=self.divergence,  # type: ignore[arg-type]
            beta=self.beta,
            skew=self.skew,
            temperature=self.temperature,
        )
        return Objective(alpha=self.alpha, divergence=divergence, label_smoothing=self.label_smoothing_factor)

    def sampling(self) -> Sampling:
        """Returns how answers are sampled."""
        return Sampling(
            temperature=self.sampling_temperature,
            top_k=self.sampling_top_k,
            top_p=self.sampling_top_p,
            max_new_tokens=self.max_target_length,
        )

    def student_options(self) -> dict[str, Any]:
        """Returns arguments of `from_pretrained` for the student."""
        return _options(self.model_init_kwargs, "model_init_kwargs")

    def teacher_options(self) -> dict[str, Any]:
        """Returns arguments of `from_pretrained` for the teacher."""
        return _options(self.teacher_model_init_kwargs, "teacher_model_init_kwargs")

    def _check_cache(self) -> None:
        if self.teacher_cache is None:
            return
        if self.has_samples:
            raise ValueError(
                "a teacher_cache knows the targets of the dataset only, but on_policy_fraction is "
                f"{self.on_policy_fraction} and teacher_samples_fraction {self.teacher_samples_fraction}: give the "
                "teacher itself, or set both to 0"
            )
        if self.is_universal or self.reproduce_original:
            raise ValueError(
                "a teacher_cache has the most likely tokens only, but divergence='universal' and reproduce_original "
                "need all of them: give the teacher itself"
            )

    def _check_universal(self) -> None:
        if not self.is_universal:
            return
        if self.top_k is not None:
            raise ValueError("divergence='universal' compares all probabilities in order: leave top_k out")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}, but the share of the divergence is between 0 and 1")

    def _check_original(self) -> None:
        if self.reproduce_original and (self.divergence != "forward_kl" or self.temperature != 1 or self.top_k):
            raise ValueError(
                "reproduce_original is the forward KL at temperature 1 over all tokens, but divergence is "
                f"{self.divergence!r}, temperature {self.temperature} and top_k {self.top_k}: leave these at their "
                "defaults"
            )
        if self.reproduce_original and 0 < self.on_policy_fraction < 1:
            raise ValueError(
                f"on_policy_fraction is {self.on_policy_fraction}, but reproduce_original averages over the positions "
                "of whole batches, which are all of labels (0) or all of answers (1)"
            )


def _options(value: dict[str, Any] | str | None, name: str) -> dict[str, Any]:
    # JSON was read by the parent class
    if isinstance(value, str):
        raise ValueError(f"{name} is {value!r}, but it is a dictionary, or one in JSON")
    return dict(value or {})
