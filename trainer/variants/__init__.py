"""The four model variants, with the only preprocessing, augmentation, head and backbone there
are.
"""
