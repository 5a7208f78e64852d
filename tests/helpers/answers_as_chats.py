"""A question and its answer as a chat"""

from toy_training import one_thread  # noqa: F401  (a fixture)


def chat(prompt, answer):
    return [
        {"role": "user", "content": prompt, "extra": None},
        {"role": "assistant", "content": answer, "extra": None},
    ]
