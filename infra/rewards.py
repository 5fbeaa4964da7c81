"""The rewards of verify.py in the forms that TRL and verl call. Neither is imported.

TRL:   GRPOTrainer(model=..., reward_funcs=trl_reward("correct"), train_dataset=...), where the rows
       of the data set have a prompt and an answer
verl:  reward.custom_reward_function.path=infra/rewards.py, with the function compute_score

docs/scaling.md says how a run goes on in either. Common options:

    reward   a name in verify.REWARDS
    tags     True: the answer stands in <answer> tags and is read as strictly as in train.py. False:
             it stands in any usual form, such as a box, and mathematics is compared
    opened   the prompt ends with <think>, so the response does not begin with it

Left out on purpose: the reward "process", which needs a model.
"""

import random
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.append(str(Path(__file__).parents[1]))  # verl loads this file alone, by its path
import verify  # noqa: E402


def correct_in_any_form(problem, text: str) -> bool:
    """Whether the last answer of the text certainly equals `problem.answer`. Raises ValueError for
    an unreadable gold answer."""
    gold = problem.answer.rpartition("####")[2].strip()
    return verify.verdict(gold, verify.extract_any(text)) is True


def score(problem, text: str, reward: str, tags: bool, opened: bool, **more) -> verify.Reward:
    """The Reward of a response; `more` goes to verify.reward."""
    correct = verify.written_correct if tags else correct_in_any_form
    text = "<think>" + text if opened else text
    return verify.reward(correct, problem, text, reward, uniform=random.random(), **more)


def text_of(messages) -> str:
    """The text of a completion: of a string, or of the last message of a conversation."""
    if isinstance(messages, str):
        return messages
    content = messages[-1].get("content") or ""
    return content if isinstance(content, str) else "".join(
        part.get("text", "") for part in content)


def trl_reward(reward: str = "correct", tags: bool = True, opened: bool = False):
    """A function for TRL's `reward_funcs`. The data set's column `answer` holds the gold answers;
    a reward function sees the other columns as fields of sample.problem. The group of a response
    is the responses to the same prompt in this process."""
    def give(prompts, completions, answer, completion_ids=None, **columns) -> list[float]:
        texts = [text_of(completion) for completion in completions]
        tokens = completion_ids or [()] * len(texts)
        groups = {}
        for prompt, text, ids in zip(prompts, texts, tokens, strict=True):
            groups.setdefault(str(prompt), []).append((text, ids))
        columns = {name: column for name, column in columns.items() if isinstance(column, list)}
        totals = []
        for i, (prompt, text, ids) in enumerate(zip(prompts, texts, tokens, strict=True)):
            fields = {name: column[i] for name, column in columns.items()}
            problem = SimpleNamespace(**{"question": text_of(prompt)} | fields,
                                      answer=str(answer[i]))
            totals.append(score(problem, text, reward, tags, opened, tokens=ids,
                                group=groups[str(prompt)]).total)
        return totals
    give.__name__ = f"reward_{reward}"  # its name in TRL's logs
    return give


def compute_score(data_source, solution_str: str, ground_truth, extra_info=None,
                  reward: str = "correct", tags: bool = True, opened: bool = False, **_) -> dict:
    """verl's reward function. `score` is the reward; verl logs the other numbers. The group of a
    response is not known here."""
    problem = SimpleNamespace(question=str((extra_info or {}).get("question", "")),
                              answer=str(ground_truth), data_source=data_source)
    given = score(problem, solution_str, reward, tags, opened)
    return {"score": given.total, "acc": given.parts["correct"], "format": given.parts["format"]}
