"""What an adaptation is told besides `Seq2SeqTrainingArguments`, in the words of the library's example scripts."""

from dataclasses import dataclass, field

from encdec_slm.adaptation.denoising import UL2_X, Denoiser, PrefixLM, SpanCorruption


# of .txt files, as `datasets` names them
DOCUMENTS = ("line", "paragraph", "document")


@dataclass
class AdaptationArguments:
    """Model, texts, denoisers, and what of the model learns how fast."""

    model_name_or_path: str = field(metadata={"help": "Folder or name of any AutoModelForSeq2SeqLM."})
    tokenizer_name: str | None = field(default=None, metadata={"help": "Folder or name, if it is not the model's."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of model and tokenizer."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloaded and prepared files are kept."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run the code that comes with the model."})
    dtype: str = field(
        default="float32",
        metadata={"help": "Of the weights while they learn; for mixed precision leave it and pass --bf16."},
    )

    dataset_name: str | None = field(default=None, metadata={"help": "A dataset of the `datasets` library."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    train_file: list[str] | None = field(
        default=None, metadata={"help": "Files instead: .txt, .json, .jsonl, .csv or .parquet."}
    )
    validation_file: list[str] | None = field(default=None, metadata={"help": "Files that are held out."})
    text_column: str = field(default="text", metadata={"help": "Column of the text; a .txt file has `text`."})
    sample_by: str = field(
        default="line", metadata={"help": "What a document is in .txt files: line, paragraph or document."}
    )
    streaming: bool = field(default=False, metadata={"help": "Read while training; needs --max_steps."})
    shuffle_buffer_size: int = field(default=10_000, metadata={"help": "Chunks that a stream is shuffled among."})
    validation_split_percentage: int = field(
        default=5, metadata={"help": "Part of the documents, the first, that is held out if none are given."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on the first so many documents."})
    max_eval_samples: int | None = field(
        default=None,
        metadata={
            "help": "Evaluate on the first so many documents; they are held out of a stream without validation."
        },
    )
    preprocessing_num_workers: int | None = field(default=None, metadata={"help": "Processes that tokenize."})

    chunk_length: int = field(default=512, metadata={"help": "Most tokens of a text, before it is corrupted."})
    min_chunk_length: int = field(default=8, metadata={"help": "Shorter rests of documents are left out."})
    pack: bool = field(default=True, metadata={"help": "Fill chunks with several documents, ended by the EOS token."})
    max_source_length: int | None = field(default=None, metadata={"help": "Most tokens that the encoder reads."})
    max_target_length: int | None = field(default=None, metadata={"help": "Most tokens that the decoder writes."})
    pad_to_multiple_of: int | None = field(default=None, metadata={"help": "8 suits tensor cores."})

    prefix_lm_ratio: float = field(default=0.5, metadata={"help": "Share of texts whose end is to be written."})
    span_corruption_ratio: float = field(default=0.5, metadata={"help": "Share of texts with hidden spans."})
    extreme_denoising_ratio: float = field(
        default=0.0, metadata={"help": "Share of texts with long or many hidden spans, as UL2's X-denoisers."}
    )
    noise_density: float = field(default=0.15, metadata={"help": "Hidden share of a text in span corruption."})
    mean_span_length: float = field(default=3.0, metadata={"help": "Mean tokens of a hidden span."})
    num_sentinels: int = field(
        default=100, metadata={"help": "Sentinels that model and tokenizer are to have, if spans are hidden."}
    )

    freeze: list[str] | None = field(
        default=None, metadata={"help": "Regular expressions for names of parameters that do not learn."}
    )
    learning_rate_multipliers: list[str] | None = field(
        default=None,
        metadata={"help": "REGEX=FACTOR, such as encoder_attn=10; of several that match the first counts."},
    )

    def __post_init__(self) -> None:
        if (self.dataset_name is None) == (self.train_file is None):
            raise ValueError("name the texts: either a dataset_name or files as train_file, one of the two")
        if self.validation_file is not None and self.train_file is None:
            raise ValueError("validation_file goes with train_file; a dataset_name has a validation split of its own")
        if not 0 < self.validation_split_percentage < 100:
            raise ValueError(
                f"validation_split_percentage is {self.validation_split_percentage}, but both sides need texts"
            )
        if self.sample_by not in DOCUMENTS:
            raise ValueError(f"sample_by is {self.sample_by!r}, use one of {', '.join(DOCUMENTS)}")
        for name in ("max_train_samples", "max_eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, but at least 1 document is needed: leave it out for all")

    def denoisers(self) -> dict[Denoiser, float]:
        """Returns the denoisers with a share.

        Raises:
            ValueError: If a share is negative or all are 0, or a denoiser refuses its numbers.
        """
        families = (
            (self.prefix_lm_ratio, (PrefixLM(),)),
            (
                self.span_corruption_ratio,
                (SpanCorruption(noise_density=self.noise_density, mean_span_length=self.mean_span_length),),
            ),
            (self.extreme_denoising_ratio, UL2_X),
        )
        ratios = [ratio for ratio, _ in families]
        if min(ratios) < 0 or not any(ratios):
            raise ValueError(
                f"prefix_lm_ratio, span_corruption_ratio and extreme_denoising_ratio are {ratios}: none may be "
                "negative, nor all of them 0"
            )
        return {denoiser: ratio / len(family) for ratio, family in families for denoiser in family if ratio}
