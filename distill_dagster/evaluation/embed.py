"""The worker's half of embedding similarity: cosines of mean-pooled last hidden states."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import polars as pl
import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation.similarity import SIMILARITIES_FILE
from distill_dagster.jobs import EmbedJob, ModelRef
from distill_dagster.progress_file import ProgressWriter
from distill_dagster.storage import write_file

BATCH_TOKENS = 8192
DECIMALS = 6  # below it what the rest of a batch does to the rounding of float32 would show
_UNUSED = "pooler."  # a head on the first token, which many checkpoints do not have
_UNBOUNDED = 10**6  # tokenizers that know no longest text say a much larger number


@dataclass(frozen=True)
class Embedder:
    """A model that makes a vector of a text, in float32.

    Attributes:
        longest: most tokens of a text; what is behind them is cut off.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    longest: int

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text, special ones included; none of a text that is blank."""
        if not text.strip():
            return []
        return cast(list[int], self.tokenizer(text, truncation=True, max_length=self.longest)["input_ids"])

    @torch.inference_mode()
    def vectors(self, batch: Sequence[list[int]]) -> Tensor:
        """Unit vectors of tokenised texts, [texts, hidden] float32 on the CPU: the mean over each text's own tokens."""
        longest = max(map(len, batch))
        padding = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[*one, *[padding] * (longest - len(one))] for one in batch])
        mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in batch])
        device = self.model.device
        output = cast(Any, self.model)(input_ids=ids.to(device), attention_mask=mask.to(device))
        weights = mask.unsqueeze(-1).to(device, torch.float32)
        mean = (output.last_hidden_state * weights).sum(1) / weights.sum(1)
        return torch.nn.functional.normalize(mean, dim=1).cpu()


def run_embed(job: EmbedJob, progress: ProgressWriter) -> dict[str, Any]:
    """Writes how alike the texts of each pair are.

    Raises:
        EvaluationError: the model cannot be used.
    """
    pairs = pl.read_parquet(job.pairs)
    texts = pl.concat([pairs["left"], pairs["right"].alias("left")]).unique().sort()
    vectors = embed(load_embedder(job.model), texts.to_list(), progress)
    places = pl.DataFrame({"text": texts, "place": range(len(texts))})
    left, right = (
        torch.tensor(pairs.join(places, left_on=side, right_on="text", maintain_order="left")["place"].to_list())
        for side in ("left", "right")
    )
    scored = pairs.with_columns(similarity=pl.Series(similarities(vectors, left, right), dtype=pl.Float64))
    write_file(job.out / SIMILARITIES_FILE, lambda aside: scored.write_parquet(aside))
    return {"texts": len(texts), "pairs": len(pairs)}


def load_embedder(ref: ModelRef) -> Embedder:
    """Loads a model and its tokenizer: from safetensors only, and no code of its repository runs.

    Raises:
        EvaluationError: it cannot be loaded, lacks weights, or is an encoder with a decoder.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(ref.source, trust_remote_code=False)
        model, info = AutoModel.from_pretrained(
            ref.source, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError) as problem:
        reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise EvaluationError(
            f"embedding_similarity: {ref.source} cannot be loaded as an embedding model ({reason}); name a folder or a "
            "hub id with config.json, a tokenizer and weights as safetensors"
        ) from None
    if model.config.is_encoder_decoder:
        raise EvaluationError(
            f"embedding_similarity: {ref.source} is an encoder with a decoder, which has no single state of a text; "
            "name an encoder, such as a BERT, or a decoder"
        )
    if lacking := sorted(name for name in info["missing_keys"] if not name.startswith(_UNUSED)):
        raise EvaluationError(
            f"embedding_similarity: {ref.source} lacks weights of its {type(model).__name__}, the first "
            f"{lacking[0]!r}; name a folder or a revision that has them all"
        )
    model.train(False)
    cast(Any, model).to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    known = (getattr(model.config, "max_position_embeddings", None), tokenizer.model_max_length, _UNBOUNDED)
    return Embedder(model, tokenizer, min(limit for limit in known if limit))


def embed(embedder: Embedder, texts: Sequence[str], progress: ProgressWriter) -> Tensor:
    """Unit vectors of texts, [texts, hidden] float32; of a blank text zeros."""
    tokenised = [embedder.tokens(text) for text in texts]
    vectors = torch.zeros(len(texts), embedder.model.config.get_text_config().hidden_size)
    done = 0
    for batch in _batches(tokenised):
        vectors[batch] = embedder.vectors([tokenised[place] for place in batch])
        done += len(batch)
        progress.report("embeddings", done, len(texts), "texts")
    return vectors


def similarities(vectors: Tensor, left: Tensor, right: Tensor) -> list[float]:
    """Cosines of pairs of unit vectors ([texts, hidden]; left, right: [pairs] rows of it), 0 where negative.

    Two blank texts are alike, a blank one and another are not.
    """
    cosines = (vectors[left].double() * vectors[right].double()).sum(1).clamp(0, 1)
    empty = vectors.abs().sum(1) == 0
    alike = torch.where(empty[left] & empty[right], torch.ones_like(cosines), cosines)
    return [round(value, DECIMALS) for value in alike.tolist()]


def _batches(tokenised: Sequence[list[int]]) -> Iterator[list[int]]:
    """Places of texts that have a token, longest first, in batches of at most BATCH_TOKENS padded tokens."""
    present = (place for place, ids in enumerate(tokenised) if ids)
    order = sorted(present, key=lambda place: (-len(tokenised[place]), place))
    batch: list[int] = []
    for place in order:
        if batch and len(tokenised[batch[0]]) * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
