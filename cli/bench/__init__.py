"""Benchmarks: named workloads against this engine, or any OpenAI-compatible server."""
