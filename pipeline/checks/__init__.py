"""Checks of the data before anything is trained on them: photos, boxes, and whether test is like train."""
