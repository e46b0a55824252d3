"""Metric tables: SQL files, the DuckDB file people query, and the report they read."""
