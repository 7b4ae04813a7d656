"""What of a completion is judged."""

from peft_panacea.rewards import length


def test_only_the_assistant_is_judged():
    completion = [
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "one two three"},
        {"role": "assistant", "content": "four"},
        {"role": "assistant", "content": "five"},
    ]
    assert length([completion, []]) == [2.0, 0.0]
