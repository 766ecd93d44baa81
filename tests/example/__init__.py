"""Tests of the example project, which brings settings and services of its own."""
