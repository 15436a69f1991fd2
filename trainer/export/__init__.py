"""Export: the SavedModel that takes picture bytes and answers labels."""
