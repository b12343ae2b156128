"""Pictures to pixels, for trainer and scorer, and the model card, which is their contract."""

ImageShape = tuple[int, int, int]  # height, width, channels
