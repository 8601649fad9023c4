"""Other people's loaders, each as its documents say is fastest: programs of their own that import nothing of ours."""
