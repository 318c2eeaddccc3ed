"""Statistics: a fold of events, and with a snapshot of the node the document that every form of them is made from."""
