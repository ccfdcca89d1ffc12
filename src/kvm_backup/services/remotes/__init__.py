"""Adding repositories on other servers, and reading anew what they hold."""
