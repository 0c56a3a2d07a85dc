"""The ports on which browsers and Prometheus ask, and how long a client may take."""
