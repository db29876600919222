"""Looks at a folder of data and says what a profile of it would be; see `choose.discover`."""
