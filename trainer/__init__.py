"""Training: from a folder of pictures to a published SavedModel; `trainer.pipeline` is the
recipe.
"""
