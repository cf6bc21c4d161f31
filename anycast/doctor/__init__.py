"""`anycast doctor`: what is wrong with this node, and what to do about it.

`gather` reads the node, `findings` judges, `fix` writes what is safe to write. It never changes what the agent
owns, and it never loads a module: looking at a node leaves it as it was.
"""
