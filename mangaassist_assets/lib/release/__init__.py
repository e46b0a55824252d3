"""From a measured model to the one that serves: gates, and the log of who became champion when."""
