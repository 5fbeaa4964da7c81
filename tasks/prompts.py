"""Prompts for a pretrained model: R1-Zero's conversation, or the turns of a chat.

A base model continues a text. So the prompt describes a conversation and stops where the answer
begins; solved examples show the form better than a description. A template contains {question}
once. Chat templates are programs and are not executed: ChatML, which SmolLM2 and Qwen use, is
written out here.

Paper: DeepSeek-R1 2501.12948, table 1. Left out on purpose: other chat formats, tools, a model's
default system message.
"""

import random
from pathlib import Path

from infra import files
from tasks.corpus import equation, tagged

INSTRUCTION = ("The Assistant first thinks about it between <think> and </think>, then gives the "
               "answer alone between <answer> and </answer>.")
END = "</answer>"  # a response stops here


def template(form: str, prompt_template: str, examples: list[tuple[str, str]]) -> str:
    """The template of a form: "plain", "r1" or "chat".

    prompt_template: the task's wording of a question, such as "Compute {question}".
    examples: questions with their whole responses, which come before the question.
    """
    # 1. one turn of question and response, and the instruction before the first turn
    if form == "plain":
        turn, instruction = "{question}\n{response}", ""
    elif form == "r1":
        turn, instruction = "User: {question}\nAssistant: {response}", (
            f"The User asks a question, and the Assistant answers it. {INSTRUCTION}\n\n")
    else:
        turn = ("<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{response}")
        instruction = f"<|im_start|>system\n{INSTRUCTION}<|im_end|>\n"
    after = "<|im_end|>\n" if form == "chat" else "\n\n"

    def fill(question, response):  # not str.format: a question may hold braces
        before, _, rest = turn.partition("{question}")
        return before + question + rest.replace("{response}", response)
    # 2. the examples, then the open turn
    solved = [fill(prompt_template.replace("{question}", q), r) + after for q, r in examples]
    return instruction + "".join(solved) + fill(prompt_template, "").rstrip(" ")


def examples(task, n: int) -> list[tuple[str, str]]:
    """n training problems with their responses, always the same ones. A problem with steps is
    solved in one line per step; one with a tool by its right calls."""
    rng, pairs = random.Random("few shot"), []
    for problem in task.sample(rng, n):
        response = task.document(rng, problem, drill=True)
        if problem.steps and not problem.tool:
            response = tagged("\n".join(equation(*step) for step in problem.steps), problem.answer)
        pairs.append((problem.question, response))
    return pairs


def end_token_ids(folder) -> list[int]:
    """The ids of the tokens that end a text, from a model folder's generation_config.json and
    config.json. Raises ValueError where the folder names none."""
    if not Path(folder).is_dir():
        raise ValueError("there is no such folder; name a folder with a model and its config.json")
    ids = []
    for path in (Path(folder, name) for name in ("generation_config.json", "config.json")):
        found = files.read_json(path).get("eos_token_id") if path.exists() else None
        found = found if isinstance(found, list) else [found] if found is not None else []
        if any(type(i) is not int for i in found):
            raise ValueError(f"{path}: eos_token_id is {found}, not the number of a token")
        ids += found
    if not ids:
        raise ValueError(f"{folder} names no end of text (eos_token_id in config.json)")
    return list(dict.fromkeys(ids))
