"""Messages: read, cleaned, labelled, split, checked, augmented."""
