"""The Faust application and its data plane, wired."""
