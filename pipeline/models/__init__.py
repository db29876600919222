"""Detectors of our own. A config names the modules it needs: `custom_imports` of MMDetection's configs."""
