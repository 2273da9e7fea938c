"""The page at `GET /`: asks, shows a certificate as a picture, and lets people attack the demo model."""
