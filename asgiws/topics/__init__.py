"""Publish and subscribe: topics of one worker, and of all workers of a machine."""
