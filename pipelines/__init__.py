"""The default pipeline: its configuration, its DAG, its data and its local run."""
