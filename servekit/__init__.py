"""TensorFlow Serving, deployed: export, render, serve, canary."""

__version__ = "0.1.0"
