"""Other people's frameworks: each is imported only by the module of its name, and that only when it is asked for."""
