"""A tiny chat model, built in a second or two: the same kind of folder as a real one, small enough for every test."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

START, END, UNKNOWN = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
VOCABULARY = 384
LESSONS = {
    "What is the capital of France?": "The capital of France is Paris.",
    "How do I reset my password?": "Open the settings and press reset.",
    "Where is my parcel?": "It is on its way.",
    "Who are you?": "I am a tiny model.",
    "Tell me a joke.": "No, thank you.",
    "question number one": "One answer.",
    "question number two": "Two answers, or three.",
    "Explain the lazy dog.": "The quick brown fox jumps over it.",
}
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer (any UTF-8 text) with a ChatML template; pad is the end-of-turn token, as on many."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[UNKNOWN, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*LESSONS, *LESSONS.values(), "system user assistant\n"], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=START, eos_token=END, pad_token=END, unk_token=UNKNOWN
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_tiny_model(folder: Path, *, layers: int = 4, seed: int = 0, steps: int = 150) -> Path:
    """Writes a `LlamaForCausalLM` (hidden 32, tied embeddings, fp32) with its tokenizer; returns the folder.

    It has learned a handful of short answers (`steps` of training; 0 leaves it random), so that what it says to any
    prompt is readable and ends by itself. Models of different seeds answer differently.
    """
    tokenizer = make_tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        _teach(model, tokenizer, steps)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _teach(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int) -> None:
    texts = [f"{START}user\n{question}{END}\n{START}assistant\n{answer}{END}" for question, answer in LESSONS.items()]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * min(1.0, step / 10, 1.1 - step / steps)
        optimizer.zero_grad()
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
    model.eval()
