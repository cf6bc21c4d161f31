"""What a node knows of the other balancers of its fleet, and what follows from it. Values in, decisions with reasons out."""
