"""Competition profiles, annotation readers, photos, splits and the prediction table."""
