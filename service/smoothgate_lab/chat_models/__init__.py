"""What the bundled models share: encoder, chats, language side, files, and asking them."""
