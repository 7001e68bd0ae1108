"""From a folder of rows and media to ArrayRecord shards, on one machine or many."""
