"""Engine: where units of work are done: in this process, in several, or on the nodes of Ray."""
