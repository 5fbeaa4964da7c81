"""What a pretrained model is asked with: R1-Zero's prompt, or the turns of a chat.

A base model goes on with a text, so the prompt describes a conversation and stops where the answer
begins; examples that are already answered show the form better than any description. The template
holds {question} once. Chat templates are programs and are not run: ChatML, which SmolLM2 and Qwen
speak, is written out.

Paper: DeepSeek-R1 2501.12948, table 1. Left out on purpose: other chat forms, tools, a system's
default words.
"""

import json
import random
from pathlib import Path

import sft

FORM = ("The Assistant first thinks about it between <think> and </think>, then gives the answer "
        "alone between <answer> and </answer>.")
END = "</answer>"  # what comes after it is not read


def template(form: str, asks: str, examples: list[tuple[str, str]]) -> str:
    """The template of a form: "plain", "r1" or "chat". asks: how a question is put, such as
    "Compute {question}"; examples: questions with their whole responses."""
    if form == "plain":
        turn, instruction = "{question}\n{response}", ""
    elif form == "r1":
        turn, instruction = "User: {question}\nAssistant: {response}", (
            f"The User asks a question, and the Assistant answers it. {FORM}\n\n")
    else:
        turn = ("<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{response}")
        instruction = f"<|im_start|>system\n{FORM}<|im_end|>\n"
    after = "<|im_end|>\n" if form == "chat" else "\n\n"

    def said(question, response):  # not str.format: a question may hold braces
        before, _, rest = turn.partition("{question}")
        return before + question + rest.replace("{response}", response)
    shown = [said(asks.replace("{question}", q), r) + after for q, r in examples]
    return instruction + "".join(shown) + said(asks, "").rstrip(" ")


def examples(task, n: int) -> list[tuple[str, str]]:
    """n training problems, worked in a line a step where that is known, and answered: always the
    same ones."""
    rng, found = random.Random("few shot"), []
    for problem in task.draw(rng, n):
        response = sft.document(rng, problem, drill=True)
        if problem.steps:
            lines = "\n".join(sft.one_line(*step) for step in problem.steps)
            response = f"<think>{lines}</think><answer>{problem.answer}</answer>"
        found.append((problem.question, response))
    return found


def ends_of(folder) -> list[int]:
    """The tokens that end a text, by config.json and generation_config.json of a model's folder.
    Raises ValueError where none is named."""
    if not Path(folder).is_dir():
        raise ValueError("there is no such folder, of a model with a config.json")
    ends = []
    for name in ("generation_config.json", "config.json"):
        path = Path(folder) / name
        try:
            said = json.loads(path.read_text()).get("eos_token_id") if path.exists() else None
        except (ValueError, AttributeError, OSError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from None
        ends += said if isinstance(said, list) else [said] if said is not None else []
    if not ends:
        raise ValueError(f"{folder} names no end of text (eos_token_id in config.json)")
    return list(dict.fromkeys(ends))
