"""What a request may say at all, checked before anything is done. Pure."""
