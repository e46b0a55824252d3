"""From what the service answered to what has changed: interactions, their daily counts, drift, and its causes."""
