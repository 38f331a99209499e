"""Job records and files, kept in memory or in a folder."""
