"""Submissions: CSVs written, read and checked, sent to their site, and remembered in the ledger."""
