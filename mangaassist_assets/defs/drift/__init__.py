"""Traffic as it comes in, what changes in it, and what that means."""
