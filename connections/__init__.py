"""What is open right now: sockets, people, rooms, and how much each may do. Imports the wire's vocabulary only."""
