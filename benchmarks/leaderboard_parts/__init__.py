"""Parts of the leaderboard `leaderboard.py`."""
