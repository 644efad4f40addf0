"""What flows through a run, and the interfaces that plugins implement."""
