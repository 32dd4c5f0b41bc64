"""The shield in other people's stacks: Gymnasium, LeRobot, and proxies for openpi and GR00T servers.

Nothing is imported before it is used, so that a stack's packages are needed only by those who have it.
"""
