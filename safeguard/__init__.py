"""safeguard: a safety-monitored runtime with formal fallbacks for learned robot policies."""
