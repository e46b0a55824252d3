"""More training messages from the ones there are: a generator that needs no model, and one that asks Claude on Bedrock."""
