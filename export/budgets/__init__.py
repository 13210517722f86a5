"""The smallest, fastest or best form of a trained model that keeps a budget."""
