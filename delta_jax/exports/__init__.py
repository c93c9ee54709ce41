"""What a finished run hands to other programs: its network in their formats, and the lines that load it."""
