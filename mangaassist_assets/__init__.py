"""One Dagster asset graph that keeps a manga store assistant's models honest."""
