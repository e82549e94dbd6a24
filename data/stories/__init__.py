"""The story world: a simulated world, and the program that tells stories about it."""

from data.stories.telling import FAR, NEAR, Probe, Story, combination, story

__all__ = ["FAR", "NEAR", "Probe", "Story", "combination", "story"]
