"""The reward margin of a pair"""

from preference_toy import frame, rewards

from gristmill.selectors.preference.reward_margin import RewardMargin


def test_reward_margin():
    scores = RewardMargin().score(frame("ab", rewards([2.0, None], [0.5, 1.0])))
    assert scores["score"].to_list() == [1.5, None]
