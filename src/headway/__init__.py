"""Headway: the container image that serves language models. One name here: the version."""

__version__ = "0.1.0"
