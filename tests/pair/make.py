"""Makes the byte-level pair that the tests and a first try use: a target of a million parameters and a drafter of every family for it.

Run: python -m tests.pair.make. Some ten minutes of one core: the target learns the little language of grammar.py, says texts to prompts of it, and
the drafters learn from those (`dsim train-draft` does the same for any target). Everything is seeded; the folders beside this file are replaced.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import torch

from tests.pair.grammar import DOMAINS

HERE = Path(__file__).parent
USER, ASSISTANT, END = 256, 257, 258
VOCABULARY, LENGTH, STEPS, ROWS = 260, 256, 1500, 12
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer() -> Any:
    """Bytes, and three tokens that part the turns."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = _byte_letters()
    made = Tokenizer(models.BPE(vocab={letter: byte for byte, letter in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), decoders.ByteLevel()
    made.add_special_tokens([AddedToken(word, special=True) for word in ("<|user|>", "<|assistant|>", "<|end|>")])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", chat_template=TEMPLATE)


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in byte-level vocabularies: printable bytes for themselves, the others from 256 on."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def config() -> Any:
    """A Llama of 0.9 M parameters."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        head_dim=32, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=None, eos_token_id=END, rope_theta=10000.0,
    )  # fmt: skip


def train_target(folder: Path) -> None:
    """Next-byte prediction on an endless stream of dialogues."""
    from transformers import GenerationConfig, LlamaForCausalLM

    torch.manual_seed(0)
    luck, words = Random(0), tokenizer()
    model = LlamaForCausalLM(config())
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, STEPS, pct_start=0.05)
    stream: list[int] = []
    for step in range(STEPS):
        while len(stream) < ROWS * LENGTH:
            stream += dialogue(words, *DOMAINS[luck.choice(sorted(DOMAINS))](luck))
        ids = torch.tensor(stream[: ROWS * LENGTH]).view(ROWS, LENGTH)
        stream = stream[ROWS * LENGTH :]
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        if step % 100 == 99:
            print(f"target: step {step + 1} of {STEPS}, loss {loss:.3f} a byte", flush=True)
    model.generation_config = GenerationConfig(eos_token_id=END, pad_token_id=END)
    model.to(torch.bfloat16).save_pretrained(folder)
    words.save_pretrained(folder)


def dialogue(words: Any, asked: str, said: str) -> list[int]:
    """One exchange as token ids, through the chat template."""
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    return list(words.apply_chat_template(turns, return_dict=True)["input_ids"])


def write_prompts(folder: Path, seed: int, count: int) -> list[Path]:
    """`count` questions of each domain."""
    files = []
    for domain, ask in DOMAINS.items():
        luck = Random(f"{domain} {seed}")
        file = folder / f"{domain}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps({"turns": [ask(luck)[0]]}) + "\n" for _ in range(count)))
        files.append(file)
    return files


def main() -> None:
    """Target, prompts to measure with, drafters."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(1)
    if not (HERE / "target").exists() or "--drafters" not in sys.argv:
        shutil.rmtree(HERE / "target", ignore_errors=True)
        train_target(HERE / "target")
    write_prompts(HERE / "prompts", seed=1, count=12)
    with tempfile.TemporaryDirectory() as kept:
        train_drafters(Path(kept))


def train_drafters(work: Path) -> None:
    """With `dsim train-draft`'s own functions."""
    from real_runner.prompts import read_prompt_set
    from real_runner.target import load_target
    from real_runner.train import DraftPlan, TextPlan, make_texts, train_draft
    from real_runner.training.loop import Schedule
    from simulator.progress import Progress

    target = load_target(str(HERE / "target"))
    sets = [read_prompt_set(file) for file in write_prompts(work / "prompts", seed=2, count=400)]
    text_plan = TextPlan(temperature=1.0, max_tokens=200, at_once=64)
    texts = make_texts(target, sets, None, text_plan, 0, work, Progress())
    report = {}
    for families, steps in ((("dflash", "eagle3", "mtp"), 600), (("dspark",), 1500)):  # laws and confidences take longer to learn
        plan = DraftPlan(families=families, gamma=5, layers=2, markov_rank=32)
        schedule = Schedule(steps=steps, texts=8, anchors=64, rate=2e-3, look_every=200)
        report = train_draft(target, work, texts, plan, schedule, progress=Progress())
    for family in report["drafters"]:
        shutil.rmtree(HERE / family, ignore_errors=True)
        shutil.move(work / family, HERE / family)
    report["target"] = "tests/pair/target"
    (HERE / "training.json").write_text(json.dumps(report, indent=1) + "\n")
    for family, one in report["drafters"].items():
        print(family, {t: round(found["accepted_length"], 2) for t, found in one["held_out"].items()})


if __name__ == "__main__":
    main()
