"""Plain Python: no dagster, no bentoml. One package per area of the graph."""
