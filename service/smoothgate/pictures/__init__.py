"""From the files of clients to pixels. Nothing here imports torch, so that a decoder starts quickly."""
