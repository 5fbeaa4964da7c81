"""The rewards of verify.py in the forms that TRL and verl call. Neither is imported.

TRL:   GRPOTrainer(model=..., reward_funcs=trl_reward("correct"), train_dataset=...), where the rows
       of the data set have a prompt and an answer
verl:  reward.custom_reward_function.path=infra/rewards.py, with the function compute_score

docs/scaling.md says how to continue a run in TRL or verl. Options of both functions:

    reward   a name in verify.REWARDS
    form     "tags": the answer stands in <answer> tags, as in train.py
             "any": it stands in any usual form, such as a box
             "bare": as "any"; without such a form, all text after the thinking is the answer, as
             in <think>…</think>42
    opened   the prompt ends with <think>, so the response does not begin with it

Left out on purpose: the rewards "process" and "preference", which need a model.
"""

import random
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

sys.path.append(str(Path(__file__).parents[1]))  # verl loads this file alone, by its path
import verify  # noqa: E402


def correct_in_any_form(problem, text: str, bare: bool = False) -> bool:
    """Whether the last answer of the text certainly equals `problem.answer`. Raises ValueError for
    an unreadable gold answer."""
    gold = verify.final_answer(problem.answer)
    return verify.verdict(gold, verify.extract_any(text, bare=bare)) is True


FORMS = {"tags": verify.written_correct, "any": correct_in_any_form,
         "bare": partial(correct_in_any_form, bare=True)}


def score(problem, text: str, reward: str, form: str, opened: bool, **more) -> verify.Reward:
    """The Reward of a response. `more` is passed to verify.reward. Raises ValueError for an unknown
    reward or form."""
    if reward not in verify.REWARDS or form not in FORMS:
        raise ValueError(f"reward={reward!r}, form={form!r}: the rewards are "
                         f"{', '.join(verify.REWARDS)}, the forms {', '.join(FORMS)}")
    text = "<think>" + text if opened else text
    return verify.reward(FORMS[form], problem, text, reward, uniform=random.random(), **more)


def text_of(messages) -> str:
    """The text of a completion: of a string, or of the last message of a conversation."""
    if isinstance(messages, str) or not messages:
        return messages or ""
    content = messages[-1].get("content") or ""
    return content if isinstance(content, str) else "".join(
        part.get("text", "") for part in content)


def trl_reward(reward: str = "correct", form: str = "tags", opened: bool = False):
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
            totals.append(score(problem, text, reward, form, opened, tokens=ids,
                                group=groups[str(prompt)]).total)
        return totals
    give.__name__ = f"reward_{reward}"  # its name in TRL's logs
    return give


def compute_score(data_source, solution_str: str, ground_truth, extra_info=None,
                  reward: str = "correct", form: str = "tags", opened: bool = False, **_) -> dict:
    """verl's reward function. `score` is the reward; verl logs the other numbers. Reward functions
    get no group here, because verl passes one response at a time."""
    problem = SimpleNamespace(question=str((extra_info or {}).get("question", "")),
                              answer=str(ground_truth), data_source=data_source)
    given = score(problem, solution_str, reward, form, opened)
    return {"score": given.total, "acc": given.parts["correct"], "format": given.parts["format"]}
