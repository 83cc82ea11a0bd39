"""What a message to the user asks for: shared by the embedded user and the audit of any user."""
